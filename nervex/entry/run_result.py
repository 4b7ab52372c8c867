"""What a run leaves to the program that called it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nervex.policy.base_policy import Policy


@dataclass(frozen=True)
class RunResult:
    """Outcome of ``serial_pipeline``.

    Attributes:
        policy: the policy with the weights of the last iteration.
        result: what ``result.json`` holds.
        run_dir: the run folder.
    """

    policy: Policy
    result: dict[str, Any]
    run_dir: Path
