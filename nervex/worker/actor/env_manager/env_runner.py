"""One env with its seed, episode and checks, writing its rows into the blocks; imported by env worker processes."""

import copy
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from nervex.envs.base_env import BaseEnvTimestep
from nervex.utils.errors import EnvFault, SpecError
from nervex.worker.actor.env_manager.blocks import Blocks, tree_leaves
from nervex.worker.actor.env_manager.rows import action_reader, action_recorder, obs_writer, stacked_actions

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def episode_seed(seed: int, episode: int) -> int:
    """Returns the seed (32 bits) of episode ``episode`` (from 0) of an env whose own seed is ``seed``."""
    return int(np.random.SeedSequence((seed, episode)).generate_state(1)[0])


class EnvRunner:
    """Runs one env: an episode is a function of ``(seed, episode)`` and of the actions, whatever the manager.

    After a fault the env is not used again: the next ``step`` or ``reset`` builds another one, which begins the next
    episode. So does the first ``step`` of a new runner.

    Args:
        env_id: index of the env, which is also its row in ``blocks``.
        env_fn: called with ``cfg``.
        cfg: the env's own config; every env that is built gets a copy.
        blocks: where observations, rewards and flags go and where actions come from.
        obs_spec, action_spec: array form of what the env declares.
        seed: base seed, not negative.
        next_episode: number of the first episode.

    Raises:
        EnvFault: here and in every call: the env raised, or sent what its ``info()`` does not declare.
    """

    def __init__(
        self,
        env_id: int,
        env_fn: Callable[[Any], Any],
        cfg: Any,
        blocks: Blocks,
        *,
        obs_spec: Any,
        action_spec: Any,
        seed: int,
        next_episode: int = 0,
    ) -> None:
        self.env_id = env_id
        self.awaits_reset = True
        self._begun = self._spoiled = False
        self._env_fn, self._cfg = env_fn, cfg
        self._blocks = blocks
        # Single numbers go through memoryviews, which take half the time of NumPy's own assignment.
        self._progress: Any = blocks.progress[env_id].data
        self._reward: Any = blocks.reward[:, env_id].data
        self._write_obs = obs_writer(obs_spec, blocks.obs, env_id).write
        self._read_action = action_reader(action_spec, blocks.action, env_id)
        self._action_spec = action_spec
        # A Python int is immutable: the same one serves the env and the record.
        discrete = not isinstance(action_spec, dict) and action_spec.kind == "discrete"
        self._record_action = None if discrete else action_recorder(action_spec, blocks.action, env_id)
        self._actions: list[Any] = []
        self._reset_param: dict[str, Any] = {}
        self._episode_return = 0.0
        self._episode_seed = 0
        self._episode = self._step = 0
        self._seed = seed
        self._next_episode: Any = blocks.next_episode[env_id, ...]
        self._next_episode[...] = next_episode
        self.env = self._built()

    def set_seed(self, seed: int) -> None:
        """Makes the next reset begin episode 0 of ``seed``."""
        self._seed = seed
        self._next_episode[...] = 0

    def set_reset_param(self, param: Mapping[str, Any]) -> None:
        """Sets the keyword arguments of every later ``reset`` of the env."""
        self._reset_param = dict(param)

    def reset(self, slot: int) -> None:
        """Begins the next episode and writes its first observation into ``slot``."""
        self._episode, self._step = int(self._next_episode), 0
        self._next_episode += 1
        if self._spoiled:
            with suppress(Exception):  # it is broken, and may fail here too
                self.env.close()
            self.env = self._built()
            self._spoiled = False
        self._episode_seed = episode_seed(self._seed, self._episode)
        self._begin(slot)

    def step(self, slot: int) -> dict[str, Any] | None:
        """Applies the action of the block and writes the row into ``slot``; after an episode's end it resets instead.

        Returns:
            None, or the scalars of the env's info when the episode ended.
        """
        if self.awaits_reset:
            self.reset(slot)
            self._blocks.valid[slot, self.env_id] = False
            return None
        self._step = self._progress[1] = self._step + 1
        action = self._read_action()
        self._actions.append(action if self._record_action is None else self._record_action())
        try:
            timestep = self.env.step(action)
        except Exception as e:
            raise self._raised("step()", e) from e
        if not isinstance(timestep, tuple) or len(timestep) != 4 or not isinstance(timestep[3], dict):
            raise self._bad_timestep(timestep)
        obs, reward, done, info = timestep
        try:
            self._write_obs(obs, slot)
        except SpecError as e:
            raise self._fault(str(e)) from None
        if type(reward) is not float or not -_FLOAT32_MAX <= reward <= _FLOAT32_MAX:
            reward = self._number(reward, "reward")
        self._reward[slot] = reward
        self._episode_return += reward
        if type(done) is not bool:
            done = self._flag(done, "done")
        truncated = info.get("truncated", False)
        if type(truncated) is not bool:
            truncated = self._flag(truncated, "info['truncated']")
        terminated = info.get("terminated", done and not truncated)
        if type(terminated) is not bool:
            terminated = self._flag(terminated, "info['terminated']")
        if done != (terminated or truncated):
            raise self._fault(
                f"sent done={done} with terminated={terminated} and truncated={truncated} in its info; done must be "
                "their union"
            )
        return self._end(slot, terminated, truncated, info) if done else None

    def spoil(self) -> None:
        """Makes the next step or reset build the env anew."""
        self._spoiled = self.awaits_reset = True

    def close(self) -> None:
        """Closes the env."""
        self._guarded("close()", self.env.close)

    def get_attribute(self, name: str) -> Any:
        """Returns an attribute of the env.

        Raises:
            AttributeError: no such attribute, or it is a method: those are called through the manager only.
        """
        try:
            value = getattr(self.env, name)
        except AttributeError:
            raise
        except Exception as e:
            raise self._raised(f"attribute '{name}'", e) from e
        if callable(value):
            raise AttributeError(f"'{name}' is a method of the env; a manager forwards reads of data only")
        return value

    def state_dict(self) -> dict[str, Any]:
        """Returns seed, episode and the actions of the episode so far: what it takes to come back here by replay."""
        return {
            "seed": self._seed,
            "next_episode": int(self._next_episode),
            "episode": self._episode,
            "episode_seed": self._episode_seed,
            "reset_param": dict(self._reset_param),
            "actions": stacked_actions(self._actions, self._action_spec),
            "awaits_reset": self.awaits_reset,
            "begun": self._begun,
            "episode_return": self._episode_return,
        }

    def load_state_dict(self, state: Mapping[str, Any], slot: int) -> tuple[bool, dict[str, Any] | None]:
        """Seeds, resets and replays the recorded actions, writing into ``slot``.

        A runner that had not begun an episode when it was saved (its process had just been replaced) begins the next
        one at its next step; at once where its last row was not delivered yet, as nothing can bring that row back.

        Returns:
            ``(exact, info)``: whether the replay gave the recorded return and end, and what the last ``step`` returned.
        """
        self._seed, self._next_episode[...] = int(state["seed"]), int(state["next_episode"])
        self._episode, self._episode_seed = int(state["episode"]), int(state["episode_seed"])
        self._reset_param = dict(state["reset_param"])
        if not state.get("begun", True):
            self.awaits_reset, self._begun = True, False
            if not state["delivered"]:
                self.reset(slot)
            return True, None
        self._begin(slot)
        info = None
        count = len(tree_leaves(state["actions"])[0])
        for t in range(count):
            if self.awaits_reset:
                return False, info
            self._set_action(self._blocks.action, state["actions"], t)
            info = self.step(slot)
        same_return = self._episode_return == float(state["episode_return"])
        return same_return and self.awaits_reset == bool(state["awaits_reset"]), info

    def _set_action(self, block: Any, recorded: Any, t: int) -> None:
        if isinstance(block, dict):
            for key, child in block.items():
                self._set_action(child, recorded[key], t)
        else:
            block[self.env_id] = recorded[t]

    def _begin(self, slot: int) -> None:
        self._step = 0
        self._progress[0], self._progress[1] = self._episode, 0
        self._guarded("seed()", self.env.seed, self._episode_seed)
        obs = self._guarded("reset()", self.env.reset, **self._reset_param)
        if isinstance(obs, tuple) and obs and isinstance(obs[-1], dict):
            habit = "a timestep" if isinstance(obs, BaseEnvTimestep) or len(obs) > 2 else "a tuple (obs, info)"
            raise self._fault(f"returned {habit} from reset(); return the observation alone")
        try:
            self._write_obs(obs, slot)
        except SpecError as e:
            raise self._fault(str(e)) from None
        self._reward[slot] = 0.0
        self._actions = []
        self._episode_return = 0.0
        self._begun = True
        self.awaits_reset = False

    def _end(self, slot: int, terminated: bool, truncated: bool, info: Mapping[str, Any]) -> dict[str, Any]:
        blocks, row = self._blocks, self.env_id
        blocks.terminated[slot, row] = terminated
        blocks.truncated[slot, row] = truncated
        final = info.get("final_eval_reward")
        blocks.episode_return[slot, row] = (
            self._episode_return if final is None else self._number(final, "info['final_eval_reward']")
        )
        self.awaits_reset = True
        return _scalars(info)

    def _bad_timestep(self, timestep: Any) -> EnvFault:
        if isinstance(timestep, tuple):
            got = f"{len(timestep)} values of types ({', '.join(type(v).__name__ for v in timestep)})"
        else:
            got = f"a {type(timestep).__name__}"
        return self._fault(
            f"returned {got} from step(); return BaseEnvTimestep(obs, reward, done, info), info being a dict in which "
            "'truncated' marks a time limit"
        )

    def _number(self, value: Any, name: str) -> float:
        number = value
        if not isinstance(value, (float, int, np.floating, np.integer)):
            number = self._one(value, name, "fiub", "a finite float32 number")
        # False for NaN too; a number beyond float32 would become infinite in its column.
        if not -_FLOAT32_MAX <= number <= _FLOAT32_MAX:
            raise self._fault(f"sent {name} {number}, expected a finite float32 number")
        return float(number)

    def _flag(self, value: Any, name: str) -> bool:
        return bool(self._one(value, name, "biu", "True or False"))

    def _one(self, value: Any, name: str, kinds: str, expected: str) -> Any:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            array = np.asarray(None)
        if array.size != 1 or array.dtype.kind not in kinds:
            got = f"{array.dtype} {list(array.shape)}" if array.size > 1 else repr(value)
            raise self._fault(f"sent {name} {got}, expected {expected}")
        return array.item()

    def _built(self) -> Any:
        return self._guarded("its constructor", self._env_fn, copy.deepcopy(self._cfg))

    def _guarded(self, where: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as e:
            raise self._raised(where, e) from e

    def _raised(self, where: str, error: Exception) -> EnvFault:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return self._fault(f"raised {type(error).__name__} in {where}: {error} [{frame.filename}:{frame.lineno}]")

    def _fault(self, text: str) -> EnvFault:
        self.spoil()
        message = f"env {self.env_id} {text} (episode {self._episode}, step {self._step})"
        return EnvFault(message, self.env_id, self._step)


def _scalars(info: Mapping[str, Any]) -> dict[str, Any]:
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in info.items()}
    return {k: v for k, v in plain.items() if isinstance(v, (bool, int, float, str))}
