"""Makes the slow reference implementations importable as ``oracles.*``, and keeps torch to one thread."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))
torch.set_num_threads(1)
