"""``python -m nervex``."""

import sys

from nervex.cli import main

sys.exit(main())
