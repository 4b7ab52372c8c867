"""Collects data: policy and envs in step, rows into blocks, blocks to whoever consumes them."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nervex.config.schema import IntOrInf, option
from nervex.data.columns import to_plain
from nervex.data.lanes import LaneBlock
from nervex.envs.base_env import BaseEnvTimestep
from nervex.rl_utils.trajectory import Trajectory
from nervex.utils.errors import ConfigError, NumericalError
from nervex.utils.tree import tree_leaves, tree_map
from nervex.worker.actor.rollout import Block, Rollout


@dataclass
class ActorConfig:
    """Section ``actor`` of a configuration."""

    n_sample: int | None = option(None, ge=1, unit="transitions", doc="collected at a time (or n_episode)")
    n_episode: int | None = option(None, ge=1, unit="episodes", doc="collected at a time (or n_sample)")
    traj_len: IntOrInf = option(1, unit="env steps", doc="the same value as policy.collect.traj_len")
    traj_print_freq: int = option(100, ge=1, doc="kept for the tutorial's files; progress is shown by time")
    collect_print_freq: int = option(100, ge=1, doc="kept for the tutorial's files; progress is shown by time")
    random_collect_size: int = option(0, ge=0, unit="transitions", doc="random actions before learning starts")
    return_window: int = option(20, ge=1, unit="episodes", doc="over which the shown episode return is averaged")


class BaseSerialActor:
    """Runs a policy's collect mode in an env manager.

    Args:
        cfg: section ``actor``, an ``ActorConfig`` as mapping (all keys present).
        env: a launched env manager; may be set later.
        policy: a policy's ``collect_mode``; may be set later.
    """

    def __init__(self, cfg: Any, env: Any = None, policy: Any = None) -> None:
        if (cfg["n_sample"] is None) == (cfg["n_episode"] is None):
            raise ConfigError("actor: give exactly one of n_sample and n_episode")
        self._cfg = cfg
        self.policy_version = 0
        self.env_step = self.episode_count = self.sample_count = 0
        self.recent_return: deque[float] = deque(maxlen=cfg["return_window"])
        self.dropped_window = 0
        self.policy = policy
        self._env: Any = None
        if env is not None:
            self.env = env

    @property
    def env(self) -> Any:
        """The env manager; setting it launches it."""
        return self._env

    @env.setter
    def env(self, env: Any) -> None:
        self.attach(env)

    def attach(self, env: Any, launch: bool = True) -> None:
        """Takes an env manager; ``launch`` False leaves it to be started by ``load_state_dict``."""
        self._env = env
        if launch:
            env.launch()
        lanes = env.lane_num
        self._rollout = Rollout(lanes, float(self._cfg["traj_len"]))
        self._episode_id = np.zeros(lanes, dtype=np.int64)
        self._episode_step = np.zeros(lanes, dtype=np.int64)
        self._pending: dict[int, tuple[Any, Any]] = {}  # lane -> its last observation and output, while it steps

    def reset(self) -> None:
        """Forgets unfinished rows and the policy's state."""
        self._rollout = Rollout(self._env.lane_num, float(self._cfg["traj_len"]))
        self.policy.reset()

    def close(self) -> None:
        """Closes the envs."""
        if self._env is not None:
            self._env.close()

    def generate_data(
        self,
        n_episode: int | None = None,
        n_sample: int | None = None,
        consume: Callable[[Block], None] | None = None,
        random: bool = False,
    ) -> tuple[list[Block], dict[str, Any]]:
        """Collects ``n_sample`` transitions or ``n_episode`` episodes (the config's numbers unless given).

        Args:
            n_episode, n_sample: how much; rows of a block that is not full stay for the next call.
            consume: receives each block as soon as it is full; the block's memory is reused afterwards. None: blocks
                are copied and returned.
            random: draw actions uniformly from the action space instead of asking the policy.

        Returns:
            ``(blocks, info)``; info counts this call's ``total_step``, ``total_sample``, ``total_episode`` and
            ``total_duration`` (seconds).
        """
        if n_episode is None and n_sample is None:
            n_episode, n_sample = self._cfg["n_episode"], self._cfg["n_sample"]
        blocks: list[Block] = []
        sink = consume or (lambda block: blocks.append(_copied(block)))
        start = time.perf_counter()
        before = self.env_step, self.sample_count, self.episode_count
        while (n_sample is not None and self.sample_count - before[1] < n_sample) or (
            n_episode is not None and self.episode_count - before[2] < n_episode
        ):
            self._step(sink, random)
        info = {
            "total_step": self.env_step - before[0],
            "total_sample": self.sample_count - before[1],
            "total_episode": self.episode_count - before[2],
            "total_duration": time.perf_counter() - start,
            "total_collect_step": self.env_step,
        }
        return blocks, info

    def metrics(self) -> dict[str, float]:
        """Returns what a run shows of its collection."""
        values: dict[str, float] = {"episode_count": self.episode_count}
        if self.recent_return:
            values["episode_return"] = float(np.mean(self.recent_return))
        if self.dropped_window:
            values["dropped_window"] = self.dropped_window
        return values

    def state_dict(self, envs: bool = True) -> dict[str, Any]:
        """Returns counters, unfinished rows and the envs' state, as plain data; without ``envs`` the unfinished rows
        are left out too, because nothing will follow them."""
        return {
            "counter": [self.env_step, self.episode_count, self.sample_count, self.policy_version, self.dropped_window],
            "recent_return": list(self.recent_return),
            "episode_id": self._episode_id.copy(),
            "episode_step": self._episode_step.copy(),
            "rollout": self._rollout.state_dict() if envs else None,
            "env": self._env.state_dict() if envs else None,
            "pending": {lane: list(pair) for lane, pair in self._pending.items()} if envs else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restores what :meth:`state_dict` gave.

        Returns:
            Whether the envs go on where they were; if not, new episodes begin, and the next rows do not follow those
            that were handed on before.
        """
        self.env_step, self.episode_count, self.sample_count, self.policy_version, self.dropped_window = state[
            "counter"
        ]
        self.recent_return.clear()
        self.recent_return.extend(state["recent_return"])
        self._episode_id[:] = state["episode_id"]
        self._episode_step[:] = state["episode_step"]
        if state["env"] is None:
            self._episode_id += 1
            self._episode_step[:] = 0
            self.policy.reset()
            self._env.launch()
            return False
        self._rollout.load_state_dict(state["rollout"])
        self._pending = {lane: (pair[0], pair[1]) for lane, pair in state["pending"].items()}
        self._env.load_state_dict(state["env"])
        return True

    def _step(self, sink: Callable[[Block], None], random: bool) -> None:
        lane_id, obs, output = self._act(random)
        step = self._env.step_block(_actions(output["action"]), lane_id)
        if step.lane_id is not lane_id:  # an asynchronous manager: other lanes may have finished
            obs, output = self._pair(lane_id, obs, output, step.lane_id)
        self._record(obs, output, step)
        ended = step.terminated | step.truncated
        self._count(step, ended)
        full = self._rollout.full(step.lane_id, ended)
        if len(full):
            self._hand_on(full, step, sink)

    def _act(self, random: bool) -> tuple[np.ndarray, Any, dict[str, Any]]:
        ready = self._env.ready_block()
        obs = tree_map(torch.from_numpy, ready.obs)
        with torch.inference_mode():
            if random:
                output = {"action": random_action(self._env.action_spec, len(ready.lane_id))}
            else:
                lane_id, data = self.policy.data_preprocess(LaneBlock(ready.lane_id, obs))
                output = self.policy.forward(lane_id, data)
        return ready.lane_id, obs, output

    def _pair(self, lane_id: np.ndarray, obs: Any, output: Any, back: np.ndarray) -> tuple[Any, Any]:
        """Remembers what each lane saw and did, and returns it for the lanes that came back."""
        for row, lane in enumerate(lane_id.tolist()):
            self._pending[lane] = tree_map(lambda x, row=row: x[row].clone(), (obs, output))  # type: ignore[misc]
        rows = [self._pending.pop(lane) for lane in back.tolist()]
        if any(row[1].keys() != rows[0][1].keys() for row in rows):  # random actions come with nothing else
            shared = set.intersection(*(set(row[1]) for row in rows))
            rows = [(obs, {k: v for k, v in output.items() if k in shared}) for obs, output in rows]
        paired: Any = tree_map(lambda *leaves: torch.stack(leaves), *rows)
        return paired[0], paired[1]

    def _record(self, obs: Any, output: dict[str, Any], step: Any) -> None:
        ends = {"terminated": torch.from_numpy(step.terminated), "truncated": torch.from_numpy(step.truncated)}
        timestep = BaseEnvTimestep(
            tree_map(torch.from_numpy, step.obs), torch.from_numpy(step.reward),
            ends["terminated"] | ends["truncated"], ends,
        )  # fmt: skip
        row = to_plain(self.policy.process_transition(obs, output, timestep))
        lane = step.lane_id
        reserved = {
            "valid": step.valid,
            "terminated": step.terminated,
            "truncated": step.truncated,
            "policy_version": self.policy_version,
            "lane_id": lane,
            "episode_id": self._episode_id[lane],
            "episode_step": self._episode_step[lane],
        }
        self._rollout.write({k: v for k, v in row.items() if k not in reserved}, reserved, lane)

    def _count(self, step: Any, ended: np.ndarray) -> None:
        self.env_step += int(step.valid.sum())
        self._episode_step[step.lane_id] += step.valid
        if not step.valid.all():  # these rows were resets: a new episode begins
            begun = step.lane_id[~step.valid]
            self._episode_id[begun] += 1
            self._episode_step[begun] = 0
            self.policy.reset(torch.from_numpy(begun))
        if ended.any():
            self.episode_count += int(ended.sum())
            self.recent_return.extend(step.episode_return[ended].tolist())

    def _hand_on(self, full: np.ndarray, step: Any, sink: Callable[[Block], None]) -> None:
        row = np.zeros(self._rollout.lane_num, dtype=np.int64)
        row[step.lane_id] = np.arange(len(step.lane_id))
        order = row[full]
        for block in self._rollout.blocks(full, tree_map(lambda x: x[order], step.obs)):
            asked = block.traj
            sample = self.policy.get_train_sample(asked)
            done = _finished(sample, asked)
            self.dropped_window += done.dropped
            if len(done):
                self.sample_count += int(done["valid"].sum())
                sink(Block(done, block.lane_id, block.length))
            self._rollout.keep_last(block.lane_id, asked.return_num)


def random_action(spec: Any, lane_num: int) -> Any:
    """Returns actions drawn uniformly from the action space (normal where it is unbounded), tensors [b, ...]."""
    if isinstance(spec, dict):
        return {k: random_action(v, lane_num) for k, v in spec.items()}
    if spec.kind == "discrete":
        return torch.randint(spec.n, (lane_num,))
    if spec.kind == "multi_discrete":
        return torch.stack([torch.randint(n, (lane_num,)) for n in spec.n], dim=1)
    if spec.kind == "multi_binary":
        return torch.randint(2, (lane_num, *spec.shape)).to(torch.from_numpy(np.zeros(0, spec.dtype)).dtype)
    low = torch.tensor(np.broadcast_to(spec.low, spec.shape), dtype=torch.float32)
    high = torch.tensor(np.broadcast_to(spec.high, spec.shape), dtype=torch.float32)
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        return torch.randn(lane_num, *spec.shape)
    return low + (high - low) * torch.rand(lane_num, *spec.shape)


def _finished(sample: Any, asked: Trajectory) -> Trajectory:
    """Returns training samples as a trajectory whose ``done`` means terminated."""
    if sample is None or (not isinstance(sample, Trajectory) and len(sample) == 0):
        return Trajectory({"valid": torch.zeros(0, asked.lane_num, dtype=torch.bool)})
    if not isinstance(sample, Trajectory):
        rows = [to_plain(row) for row in sample]
        stacked: Any = tree_map(lambda *leaves: torch.stack([torch.as_tensor(x) for x in leaves]), *rows)
        if stacked["reward"].dim() < 2:
            stacked = tree_map(lambda x: x.unsqueeze(1), stacked)
        stacked.setdefault("valid", torch.ones(stacked["reward"].shape[:2], dtype=torch.bool))
        sample = Trajectory(stacked, dropped=asked.dropped)
    if "done" in sample.columns and "terminated" in sample.columns:
        sample.columns["done"] = sample.columns["terminated"]
    return sample


def _copied(block: Block) -> Block:
    traj = block.traj
    columns: Any = tree_map(torch.clone, traj.columns)
    return block._replace(traj=Trajectory(columns, traj.last_obs, traj.return_num, traj.unroll_len, traj.dropped))


def _actions(action: Any) -> Any:
    """Returns actions as arrays for the envs.

    Raises:
        NumericalError: an action is not finite, as when the network's weights are not.
    """
    arrays = tree_map(lambda x: x.cpu().numpy(), action)
    for leaf in tree_leaves(arrays):
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            raise NumericalError("the policy's action is not finite; its network returned NaN or infinity")
    return arrays
