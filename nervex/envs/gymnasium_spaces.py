"""Gymnasium spaces as columns: what the policy sees of each space, and how its action returns to the env.

Every space is read once, when the env is made, into its declaration (``EnvElementInfo``, nested as the space is) and
one function that converts a value at each step.
"""

import operator
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from nervex.envs.base_env import EnvElementInfo
from nervex.utils.errors import ConfigError, SpecError

Space = gymnasium.spaces.Space[Any]
Converter = Callable[[Any], Any]

_LISTED = 1024  # actions of a discrete space that are kept as numbers
_SUPPORTED = "Box, Discrete, MultiDiscrete, MultiBinary, Dict, Tuple"


def observation_codec(space: Space, where: str) -> tuple[Any, Converter]:
    """Returns ``(declaration, encode)`` of an observation space; ``encode(obs)`` is the obs as columns.

    A Box keeps its shape, and its dtype but for float64, which becomes float32. Discrete and MultiDiscrete become
    float32 one-hots (concatenated, ``[sum(nvec)]``), MultiBinary becomes float32. Dict and Tuple become nested dicts;
    the keys of a Tuple are ``'0'``, ``'1'``, ... An array of the env is passed on without a copy where its dtype is
    right.

    Args:
        space: the space.
        where: what is being read, for messages (``"observation space of 'Acrobot-v1'"``).

    Raises:
        ConfigError: the space, or one inside it, is of an unsupported kind.
    """
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Box):
        return _box_observation(space)
    if isinstance(space, spaces.Discrete):
        return _discrete_observation(int(space.n), int(space.start), where)
    if isinstance(space, spaces.MultiDiscrete):
        return _multi_discrete_observation(space, where)
    if isinstance(space, spaces.MultiBinary):
        return _box_element(_shape(space), 0, 1, np.float32), lambda obs: np.asarray(obs, np.float32)
    if isinstance(space, spaces.Dict):
        codecs = {key: observation_codec(sub, f"'{key}' of the {where}") for key, sub in space.spaces.items()}
        encoders = {key: encode for key, (_, encode) in codecs.items()}
        return _declared(codecs), lambda obs: {key: encode(obs[key]) for key, encode in encoders.items()}
    if isinstance(space, spaces.Tuple):
        codecs = {str(i): observation_codec(sub, f"'{i}' of the {where}") for i, sub in enumerate(space.spaces)}
        items = [(key, int(key), encode) for key, (_, encode) in codecs.items()]
        return _declared(codecs), lambda obs: {key: encode(obs[i]) for key, i, encode in items}
    raise _unsupported(space, where, "Observation")


def action_codec(space: Space, where: str, scale_action: bool = True) -> tuple[Any, Converter]:
    """Returns ``(declaration, decode)`` of an action space; ``decode(action)`` is what the env's ``step`` takes.

    The agent counts discrete actions from 0 (the space's ``start`` is added) and acts in [-1, 1] where a Box is
    bounded and ``scale_action`` is on:

        a_env = clip((high + low) / 2 + (high − low) / 2 · a_agent, low, high)

    Actions of other Boxes are passed on as they are; integer Boxes are rounded and clipped. Dict and Tuple actions
    arrive as nested dicts, as observations leave.

    Args:
        space: the space.
        where: what is being read, for messages (``"action space of 'Acrobot-v1'"``).
        scale_action: whether the agent acts in [-1, 1] where a Box is bounded.

    Raises:
        ConfigError: the space, or one inside it, is of an unsupported kind.
    """
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Box):
        return _box_action(space, scale_action)
    if isinstance(space, spaces.Discrete):
        return _discrete_action(int(space.n), int(space.start), where)
    if isinstance(space, spaces.MultiDiscrete):
        return _multi_discrete_action(space.nvec, space.start, space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return _multi_discrete_action(np.full(space.shape, 2), np.zeros(space.shape, int), space.dtype)
    if isinstance(space, spaces.Dict):
        codecs = {key: action_codec(sub, f"'{key}' of the {where}", scale_action) for key, sub in space.spaces.items()}
        decoders = {key: decode for key, (_, decode) in codecs.items()}
        return _declared(codecs), lambda action: {key: decode(action[key]) for key, decode in decoders.items()}
    if isinstance(space, spaces.Tuple):
        codecs = {str(i): action_codec(s, f"'{i}' of the {where}", scale_action) for i, s in enumerate(space.spaces)}
        items = [(key, decode) for key, (_, decode) in codecs.items()]
        return _declared(codecs), lambda action: tuple(decode(action[key]) for key, decode in items)
    raise _unsupported(space, where, "Action")


def _declared(codecs: dict[str, tuple[Any, Converter]]) -> dict[str, Any]:
    return {key: element for key, (element, _) in codecs.items()}


def _shape(space: Space) -> int | tuple[int, ...]:
    """An int for one dimension, a tuple otherwise, as ``EnvElementInfo`` has it."""
    shape = tuple(int(n) for n in space.shape or ())
    return shape[0] if len(shape) == 1 else shape


def _box_element(shape: int | tuple[int, ...], low: Any, high: Any, dtype: Any) -> EnvElementInfo:
    value = {"min": _bound(low, dtype), "max": _bound(high, dtype), "dtype": dtype, "kind": "box"}
    return EnvElementInfo(shape, value)


def _bound(bound: Any, dtype: Any) -> Any:
    """One Python number where all elements share it, else an array of its own."""
    with np.errstate(over="ignore"):  # the largest float64 is infinity in float32
        array = np.array(bound, dtype)
    return array.flat[0].item() if array.size and (array == array.flat[0]).all() else array


def _box_observation(space: gymnasium.spaces.Box) -> tuple[EnvElementInfo, Converter]:
    dtype = np.float32 if space.dtype == np.float64 else space.dtype.type
    element = _box_element(_shape(space), space.low, space.high, dtype)
    if np.issubdtype(dtype, np.floating):
        return element, lambda obs: np.asarray(obs, dtype)
    return element, np.asarray  # a float where the space says int stays one, and the manager's check reports it


def _discrete_observation(n: int, start: int, where: str) -> tuple[EnvElementInfo, Converter]:
    def encode(obs: Any) -> np.ndarray:
        index = operator.index(obs) - start
        if not 0 <= index < n:
            raise SpecError(f"the env sent {obs} for the {where}, which holds {start} to {start + n - 1}")
        row = np.zeros(n, np.float32)
        row[index] = 1.0
        return row  # [n]

    return _box_element(n, 0, 1, np.float32), encode


def _multi_discrete_observation(space: gymnasium.spaces.MultiDiscrete, where: str) -> tuple[EnvElementInfo, Converter]:
    nvec, start = space.nvec.ravel().astype(np.int64), space.start.ravel().astype(np.int64)
    total = int(nvec.sum())
    offset = np.cumsum(nvec) - nvec - start

    def encode(obs: Any) -> np.ndarray:
        values = np.asarray(obs).ravel()
        if ((values < start) | (values >= start + nvec)).any():
            raise SpecError(
                f"the env sent {values.tolist()} for the {where}, which holds {start.tolist()} to "
                f"{(start + nvec - 1).tolist()}"
            )
        row = np.zeros(total, np.float32)
        row[values + offset] = 1.0
        return row  # [sum(nvec)]

    return _box_element(total, 0, 1, np.float32), encode


def _discrete_action(n: int, start: int, where: str) -> tuple[EnvElementInfo, Converter]:
    # as Gymnasium's own spaces sample them, whose check of a Python int takes longer than one of these
    numbers = [np.int64(start + index) for index in range(min(n, _LISTED))]

    def decode(action: Any) -> np.int64:
        index = operator.index(action)
        if not 0 <= index < n:
            raise SpecError(f"action {index} for the {where} is not among its {n} actions, 0 to {n - 1}")
        return numbers[index] if index < _LISTED else np.int64(start + index)

    return EnvElementInfo(n, {"min": 0, "max": n - 1, "dtype": np.int64, "kind": "discrete"}), decode


def _multi_discrete_action(nvec: np.ndarray, start: np.ndarray, dtype: Any) -> tuple[EnvElementInfo, Converter]:
    numbers = tuple(int(n) for n in nvec.ravel())
    highest = np.asarray(numbers) - 1
    shape = nvec.shape

    def decode(action: Any) -> np.ndarray:
        indices = np.asarray(action).reshape(shape)
        if ((indices < 0) | (indices >= nvec)).any():
            raise SpecError(f"multi-discrete action {np.ravel(indices).tolist()} is outside 0 to {highest.tolist()}")
        shifted: np.ndarray = (indices + start).astype(dtype)
        return shifted

    value = {"min": 0, "max": highest, "dtype": np.int64, "kind": "multi_discrete"}
    return EnvElementInfo(numbers, value), decode


def _box_action(space: gymnasium.spaces.Box, scale_action: bool) -> tuple[EnvElementInfo, Converter]:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    shape, dtype = space.shape, space.dtype
    is_float = np.issubdtype(dtype, np.floating)

    def convert(array: np.ndarray) -> np.ndarray:
        return (array if is_float else np.rint(array)).astype(dtype)

    if scale_action and np.isfinite(low).all() and np.isfinite(high).all():
        center, half = high / 2 + low / 2, high / 2 - low / 2

        def scale(action: Any) -> np.ndarray:
            scaled = center + half * np.asarray(action, np.float64).reshape(shape)
            return convert(np.minimum(np.maximum(scaled, low), high))

        return _box_element(_shape(space), -1, 1, np.float32), scale

    def cast(action: Any) -> np.ndarray:
        array = np.asarray(action).reshape(shape)
        return convert(array if is_float else np.minimum(np.maximum(array, low), high))

    return _box_element(_shape(space), low, high, np.float32), cast


def _unsupported(space: Space, where: str, side: str) -> ConfigError:
    return ConfigError(
        f"the {where} is {type(space).__name__}, which is not an array of numbers; supported are {_SUPPORTED}: convert "
        f"it with a wrapper (a gymnasium.{side}Wrapper of your own, named in env.wrappers)"
    )
