"""The arrays that a manager's envs write their rows into, and the two records that it hands out."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nervex.utils.errors import SpecError

_ALIGNMENT_BYTES = 64
_SLOT_BYTES = 16  # at multiples of which rows begin
_SCALARS = ("reward", "terminated", "truncated", "valid", "episode_return")


class ReadyBlock(NamedTuple):
    """The lanes that can act now.

    Attributes:
        lane_id: int64 ``[b]``.
        obs: their observations, an array or a nested dict of arrays ``[b, ...]``.
    """

    lane_id: np.ndarray
    obs: Any


class StepBlock(NamedTuple):
    """The rows that one step produced. A dummy row (the reset after an episode's end) has ``valid`` False, reward 0.

    A dummy row of a lane whose row before did not end its episode tells that a fault cut the episode off: its last
    observation is the one before the dummy row, and nothing follows it.

    Attributes:
        lane_id: int64 ``[b]``.
        obs: observation after the step, ``[b, ...]``; at an episode's end its true final one.
        reward: float32 ``[b]``.
        terminated: bool ``[b]``, the task ended.
        truncated: bool ``[b]``, a limit outside the task ended the episode.
        valid: bool ``[b]``, False for a dummy row.
        episode_return: float64 ``[b]``, NaN unless the episode ended in this step.
        info: None when no episode ended in this block; else one dict per row, with the scalars (bool, int, float, str)
            of the env's info where the episode ended, empty elsewhere.
    """

    lane_id: np.ndarray
    obs: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    episode_return: np.ndarray
    info: tuple[dict[str, Any], ...] | None


def map_tree(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Returns ``tree`` (a leaf or a nested dict of leaves) with ``function`` applied to every leaf."""
    if isinstance(tree, dict):
        return {key: map_tree(function, value, *(other[key] for other in rest)) for key, value in tree.items()}
    return function(tree, *rest)


def tree_leaves(tree: Any) -> list[Any]:
    """Returns the leaves of a nested dict in its own order."""
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in tree_leaves(value)]
    return [tree]


def same_tree(a: Any, b: Any) -> bool:
    """Returns whether two nested dicts of arrays are the same."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_tree(a[k], b[k]) for k in a)
    return np.array_equal(a, b)


class _Carver:
    """Cuts aligned arrays out of one buffer, or only counts the bytes when there is none."""

    def __init__(self, memory: Any = None) -> None:
        self.offset = 0
        self._memory = memory

    def take(self, shape: tuple[int, ...], dtype: Any) -> Any:
        dtype = np.dtype(dtype)
        if dtype.hasobject:
            raise SpecError(f"an env's info() declares the dtype {dtype}, which no column can have; use a numeric one")
        start = self.offset
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self.offset = -(-(start + size) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        return None if self._memory is None else np.ndarray(shape, dtype, self._memory, start)


class Blocks:
    """All arrays of a manager, on memory of its own or on memory that worker processes share.

    What a step produces has two slots, so that the rows handed out stay valid while the next ones arrive.

    Args:
        obs_spec, action_spec: ``LeafSpec`` or nested dict of them.
        env_num: number of envs ``B``.
        memory: writable buffer of ``block_bytes(...)`` zero bytes; None allocates one.

    Attributes:
        obs: tree of ``[2, B, ...]``; ``reward`` float32, ``terminated``, ``truncated``, ``valid`` bool and
            ``episode_return`` float64, all ``[2, B]``. Kernels round by the address of what they read, so that both
            slots of an observation are aligned.
        lane_stride: rows from a lane in one slot to the same in the other, at least ``B``.
        flat_obs, flat_scalars: the same rows one after the other, ``[2 * lane_stride, ...]``: tree of the observations,
            and a tuple of the others.
        action: tree of ``[B, ...]``, written by the manager.
        progress: int64 ``[B, 2]``, episode and step that each env is at, written by the env's process.
        next_episode: int64 ``[B]``, number of the episode that the next reset begins; outlives the env's process.
        began: float64 ``[B]``, ``time.monotonic()`` when a worker process took up what it does for the env.
        step_p99: float64 ``[B]``, 99th percentile of the seconds of a step, of the env's process; 0: not known yet.
    """

    obs: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    episode_return: np.ndarray
    flat_obs: Any
    flat_scalars: tuple[np.ndarray, ...]
    action: Any
    progress: np.ndarray
    next_episode: np.ndarray
    began: np.ndarray
    step_p99: np.ndarray

    def __init__(self, obs_spec: Any, action_spec: Any, env_num: int, memory: Any = None) -> None:
        if memory is None:
            memory = np.zeros(block_bytes(obs_spec, action_spec, env_num), np.uint8)
        self.lane_stride = _lane_stride(obs_spec, env_num)
        whole = _carve(_Carver(memory), obs_spec, action_spec, env_num)
        self.flat_obs = map_tree(lambda a: a.reshape(-1, *a.shape[2:]), whole["obs"])
        self.flat_scalars = tuple(whole[name].reshape(-1) for name in _SCALARS)
        for name in ("obs", *_SCALARS):
            whole[name] = map_tree(lambda a: a[:, :env_num], whole[name])
        self.__dict__.update(whole)
        self.env_num = env_num
        flags = ((self.terminated, False), (self.truncated, False), (self.valid, True), (self.episode_return, np.nan))
        self._flags = [tuple((array[slot], value) for array, value in flags) for slot in (0, 1)]

    def clear(self, slot: int, lanes: np.ndarray | None) -> None:
        """Sets the flags of rows that are about to be written to those of a step that ends nothing; None: all rows."""
        if lanes is None:
            for array, value in self._flags[slot]:
                array.fill(value)
            return
        self.terminated[slot, lanes] = False
        self.truncated[slot, lanes] = False
        self.valid[slot, lanes] = True
        self.episode_return[slot, lanes] = np.nan


def _lane_stride(obs_spec: Any, env_num: int) -> int:
    """Returns the least number of lanes, at least ``env_num``, whose rows of each leaf end where others may begin."""
    sizes = [int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize for spec in tree_leaves(obs_spec)]
    multiple = max((_SLOT_BYTES // math.gcd(_SLOT_BYTES, size) for size in sizes), default=1)  # all powers of 2
    return -(-env_num // multiple) * multiple


def _carve(carver: _Carver, obs_spec: Any, action_spec: Any, env_num: int) -> dict[str, Any]:
    both = (2, _lane_stride(obs_spec, env_num))
    return {
        "obs": map_tree(lambda spec: carver.take((*both, *spec.shape), spec.dtype), obs_spec),
        "reward": carver.take(both, np.float32),
        "terminated": carver.take(both, np.bool_),
        "truncated": carver.take(both, np.bool_),
        "valid": carver.take(both, np.bool_),
        "episode_return": carver.take(both, np.float64),
        "action": map_tree(lambda spec: carver.take((env_num, *spec.shape), spec.dtype), action_spec),
        "progress": carver.take((env_num, 2), np.int64),
        "next_episode": carver.take((env_num,), np.int64),
        "began": carver.take((env_num,), np.float64),
        "step_p99": carver.take((env_num,), np.float64),
    }


def block_bytes(obs_spec: Any, action_spec: Any, env_num: int) -> int:
    """Returns the bytes that ``Blocks`` of these specs need.

    Raises:
        SpecError: a leaf has a dtype that holds Python objects.
    """
    carver = _Carver()
    _carve(carver, obs_spec, action_spec, env_num)
    return carver.offset
