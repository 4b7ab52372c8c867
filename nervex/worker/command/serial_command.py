"""Carries what the learner knows to the actor's policy."""

from typing import Any


class BaseSerialCommand:
    """Asks the policy's command mode for settings and puts them into its collect mode.

    Args:
        cfg: section ``command``.
        learner, actor, evaluator, replay_buffer: the parts of a serial run.
        policy: a policy's ``command_mode``; may be set later.
    """

    def __init__(
        self, cfg: Any, learner: Any, actor: Any, evaluator: Any = None, replay_buffer: Any = None, policy: Any = None
    ) -> None:
        self._cfg = cfg
        self._learner = learner
        self._actor = actor
        self._evaluator = evaluator
        self._replay_buffer = replay_buffer
        self.policy = policy
        self.setting: dict[str, Any] = {}

    def step(self) -> None:
        """Updates the collect settings from the learner's and the actor's progress."""
        info = {**self._learner.get_current_info(), "env_step": self._actor.env_step}
        self.setting = self.policy.get_setting_collect(info)
        self._actor.policy.set_setting(self.setting)
        self._actor.policy_version = info["learner_step"]

    def metrics(self) -> dict[str, float]:
        """Returns the settings that are numbers."""
        return {k: float(v) for k, v in self.setting.items() if isinstance(v, int | float)}
