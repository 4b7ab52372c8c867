"""Stands in for an actor where there is nothing to collect."""

from typing import Any

from nervex.worker.actor.serial_actor import BaseSerialActor


class IdleActor(BaseSerialActor):
    """The actor of a run that learns from recorded data: it has no envs, makes no step and has no state.

    Args:
        policy: a policy's ``collect_mode``, which takes settings from the command.
    """

    def __init__(self, policy: Any = None) -> None:
        super().__init__({"n_sample": 1}, policy=policy)

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self, envs: bool = True) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], fresh_seed: int = 0) -> None:
        """Takes nothing back."""
