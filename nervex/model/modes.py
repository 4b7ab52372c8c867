"""Networks with several forwards, chosen by ``mode``, and what the actor-critics of each family answer."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import nn

from nervex.model.inputs import check_mode


class ModeNet(nn.Module, ABC):
    """A network whose ``forward`` hands on to the method that ``mode`` names.

    Attributes:
        modes: names of these methods; the first one is the default.
    """

    modes: ClassVar[tuple[str, ...]]

    def forward(self, x: Any, info: Any = None, mode: str | None = None, **options: Any) -> dict[str, Any]:
        """Returns what the method ``mode`` returns.

        Args:
            x: ``{'obs': [B, ...]}`` and what else the mode needs, or the observation itself.
            info: not used.
            mode: one of ``modes``; None: the first.
            options: further arguments of the method.

        Raises:
            ConfigError: there is no such mode.
        """
        if mode is None:
            mode = self.modes[0]
        check_mode(mode, self.modes, type(self).__name__)
        output: dict[str, Any] = getattr(self, mode)(x, **options)
        return output


class ValueActorCriticBase(ModeNet):
    """Policy and state value; what A2C, PPO and IMPALA call."""

    modes = ("compute_action_value", "compute_action")

    @abstractmethod
    def compute_action_value(self, x: Any) -> dict[str, Any]:
        """Returns ``logit`` (of a discrete policy [B, N]) and ``value`` [B]."""

    @abstractmethod
    def compute_action(self, x: Any) -> dict[str, Any]:
        """Returns ``logit`` alone."""


class QActorCriticBase(ModeNet):
    """Deterministic policy and action values; what DDPG and TD3 call. ``actor`` and ``critic`` are submodules of it."""

    modes = ("compute_action", "compute_q")

    @abstractmethod
    def compute_action(self, x: Any) -> dict[str, Any]:
        """Returns ``action`` float [B, A] in [-1, 1]."""

    @abstractmethod
    def compute_q(self, x: Any) -> dict[str, Any]:
        """Returns ``q_value`` [B] of ``obs`` and ``action``; [2, B] of twin critics."""


class SoftActorCriticBase(ModeNet):
    """Stochastic policy and action values; what SAC and CQL call. ``actor`` and ``critic`` are submodules of it."""

    modes = ("compute_action", "compute_q")

    @abstractmethod
    def compute_action(self, x: Any) -> dict[str, Any]:
        """Returns ``logit``: ``{'mu', 'sigma'}`` float [B, A] before tanh, or [B, N] of a discrete policy."""

    @abstractmethod
    def compute_q(self, x: Any) -> dict[str, Any]:
        """Returns ``q_value`` of all K critics: [K, B], or [K, B, N] of a discrete policy."""
