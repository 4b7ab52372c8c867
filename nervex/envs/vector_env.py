"""The contract of an engine that steps many envs itself: block calls on arrays, no object per env."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nervex.utils.errors import ConfigError

ACT = -1  # in place of a seed: the lane takes its action


class VectorStep(NamedTuple):
    """What one step of ``b`` lanes gave, beside the observations. Rows of lanes that began an episode are all zero.

    Attributes:
        reward: float or int ``[b]``.
        terminated: bool ``[b]``, the task ended.
        truncated: bool ``[b]``, a limit outside the task ended the episode; never together with ``terminated``.
        score: float64 ``[b]``, the return to report where an episode ended; None: the sum of its rewards.
        continued: bool ``[b]``, the lane's new episode goes on in the engine's state and not from its seed; None: none.
        info: row -> scalars (bool, int, float, str), one entry for each row that ended an episode.
    """

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    score: np.ndarray | None
    continued: np.ndarray | None
    info: dict[int, dict[str, Any]]


class VectorEnv(ABC):
    """``B`` envs of one kind in one engine; a lane is one env. An env class offers its engine by a class method
    ``create_vector(cfgs)`` (one config per env), which the env manager ``vector`` calls. A class method
    ``exact_vector(cfgs)`` that returns True says that the lanes give the rows of single envs of these configs, bit for
    bit; then ``env.env_manager_type: auto`` takes the engine.

    Episodes follow each other by next-step autoreset: the step after an episode's end begins the next one. Lanes are
    independent of each other, and any of them may step without the others.

    Attributes:
        seeded: every episode is a function of the seed given for it and of the actions since, so that a saved episode
            can be played again. False for engines that take seeds when they are made and never again.
    """

    seeded: bool = True

    @abstractmethod
    def reset(self, seed: np.ndarray, out: Any) -> None:
        """Begins a new episode in every lane, wherever it was.

        Args:
            seed: int64 ``[B]``, 0 to 2³² - 1.
            out: array or nested dict of arrays ``[B, ...]`` that takes the first observations.
        """

    @abstractmethod
    def step(self, action: Any, lane_id: np.ndarray, seed: np.ndarray, out: Any) -> VectorStep:
        """Steps lanes, and begins the next episode of those whose last step ended one.

        Args:
            action: array or nested dict of arrays ``[b, ...]``, as the env's ``info()`` declares them.
            lane_id: int64 ``[b]``, each once.
            seed: int64 ``[b]``: ``ACT`` where the lane acts; else the seed of the episode that begins, and the action
                is ignored.
            out: array or nested dict of arrays ``[B, ...]``; the rows of ``lane_id`` take the observations.
        """

    def announce(self, lane_id: np.ndarray, seed: np.ndarray) -> None:  # noqa: B027 (few engines prepare anything)
        """Tells which seeds the next episodes of lanes that have just begun one will have, should an engine want to
        prepare them. Not called after ``reset``, since an evaluation may end with these episodes."""

    def set_reset_param(self, param: Mapping[int, Mapping[str, Any]]) -> None:
        """Sets keyword arguments of later resets, lane by lane.

        Raises:
            ConfigError: the engine has none.
        """
        if any(param.values()):
            raise ConfigError(
                f"{type(self).__name__} takes no reset_param, got {dict(param)}; use env.env_manager_type: base"
            )

    def attribute(self, name: str) -> list[Any]:
        """Returns an attribute of every env.

        Raises:
            AttributeError: the engine has no such attribute per env.
        """
        raise AttributeError(f"the envs of {type(self).__name__} have no attribute '{name}'")

    @abstractmethod
    def close(self) -> None:
        """Frees the engine; may be called twice."""
