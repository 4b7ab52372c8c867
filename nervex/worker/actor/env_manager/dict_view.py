"""The tutorial's dict calls (``reset``, ``step``, ``next_obs``), on top of the block calls, with torch tensors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nervex.envs.base_env import BaseEnvTimestep
from nervex.utils.errors import SpecError
from nervex.worker.actor.env_manager.blocks import StepBlock, map_tree

if TYPE_CHECKING:
    from nervex.worker.actor.env_manager.env_manager import EnvManager


class DictView:
    """Counts episodes and hides the dummy rows: an ended env is reset at once, or drops out when it has played enough.

    Attributes:
        played: number of finished episodes per env since the last ``restart``.
    """

    def __init__(self, manager: "EnvManager") -> None:
        self._manager = manager
        self.restart()

    def restart(self) -> None:
        """Begins to count anew, with no env at an episode's end."""
        self.restore([0] * self._manager.env_num, ())

    def restore(self, played: Sequence[int], resting: Sequence[int]) -> None:
        """Takes over counts, and the envs whose episode has ended and which are not reset."""
        self.played = [int(n) for n in played]
        self._resting = set(resting)

    def done(self) -> bool:
        """Returns whether all envs have played their episodes."""
        return all(n >= self._manager.episode_num for n in self.played)

    def next_obs(self) -> dict[int, Any]:
        """Returns ``{env_id: obs}`` of the envs that can act."""
        lane_id, obs = self._manager.ready_block()
        return {i: _row(obs, j) for j, i in enumerate(lane_id.tolist()) if i not in self._resting}

    def step(self, action: Mapping[int, Any]) -> dict[int, BaseEnvTimestep]:
        """Steps the envs of ``action`` and returns the timesteps that came back, at least one while any is under way.

        Raises:
            SpecError: an env that has played its episodes, or is under way, was asked to act.
        """
        resting = sorted(self._resting & set(action))
        if resting:
            raise SpecError(
                f"the envs {resting} cannot act: each has played its {self._manager.episode_num:g} episodes"
            )
        lanes = np.fromiter(action, np.int64, len(action))
        rows = _action_rows(self._manager.action_spec, [_plain(a) for a in action.values()], "action")
        timesteps: dict[int, BaseEnvTimestep] = {}
        while True:
            block = self._manager.step_block(rows, lanes)
            ended = self._collect(block, timesteps)
            lanes = np.asarray([i for i in ended if self.played[i] < self._manager.episode_num], np.int64)
            rows = _ignored_actions(self._manager.action_spec, len(lanes))
            if not len(lanes):
                ready = set(self._manager.ready_block().lane_id.tolist())
                all_back = len(ready) == self._manager.env_num
                if all_back or (timesteps and ready - self._resting):
                    return timesteps

    def _collect(self, block: StepBlock, timesteps: dict[int, BaseEnvTimestep]) -> list[int]:
        """Adds the real rows to ``timesteps`` and returns the envs that ended."""
        ended = []
        for j, i in enumerate(block.lane_id.tolist()):
            if not block.valid[j]:
                self._resting.discard(i)
                continue
            terminated, truncated = bool(block.terminated[j]), bool(block.truncated[j])
            done = terminated or truncated
            info: dict[str, Any] = {**(block.info[j] if block.info else {})}
            info.update(terminated=terminated, truncated=truncated)
            if done:
                info["final_eval_reward"] = float(block.episode_return[j])
                self.played[i] += 1
                self._resting.add(i)
                ended.append(i)
            reward = torch.tensor(float(block.reward[j]), dtype=torch.float32)
            timesteps[i] = BaseEnvTimestep(_row(block.obs, j), reward, done, info)
        return ended


def _row(tree: Any, index: int) -> Any:
    return map_tree(lambda rows: torch.from_numpy(np.array(rows[index])), tree)


def _ignored_actions(spec: Any, num: int) -> Any:
    return map_tree(lambda leaf: np.zeros((num, *leaf.shape), leaf.dtype), spec)


def _plain(action: Any) -> Any:
    if isinstance(action, Mapping):
        return {key: _plain(value) for key, value in action.items()}
    return action.detach().cpu().numpy() if isinstance(action, torch.Tensor) else np.asarray(action)


def _action_rows(spec: Any, actions: list[Any], name: str) -> Any:
    """Stacks one action per env; a discrete action may come as ``[1]``."""
    if isinstance(spec, dict):
        if any(not isinstance(a, Mapping) or a.keys() != spec.keys() for a in actions):
            raise SpecError(f"got {name} without the keys of the env's info, a dict of {sorted(spec)}")
        return {key: _action_rows(child, [a[key] for a in actions], f"{name}.{key}") for key, child in spec.items()}
    size = int(np.prod(spec.shape, dtype=np.int64))
    for a in actions:
        if isinstance(a, Mapping) or a.size != size or not np.can_cast(a.dtype, spec.dtype, "same_kind"):
            got = "a dict" if isinstance(a, Mapping) else f"{a.dtype} {list(a.shape)}"
            raise SpecError(f"got {name} {got}, the env's info says {spec.dtype} {list(spec.shape)}")
    rows = np.zeros((len(actions), *spec.shape), spec.dtype)
    for j, a in enumerate(actions):
        rows[j] = a.reshape(spec.shape)
    return rows
