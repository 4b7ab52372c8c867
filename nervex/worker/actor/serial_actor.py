"""Collects data: policy and envs in step, rows into blocks, blocks to whoever consumes them."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nervex.config.schema import IntOrInf, complete, option
from nervex.data.lanes import LaneBlock
from nervex.envs.base_env import BaseEnvTimestep
from nervex.utils.errors import ConfigError, SpecError
from nervex.utils.tree import tree_map
from nervex.worker.actor.rollout import Block, Rollout
from nervex.worker.actor.samples import as_actions, as_tensors, copied, finished, random_action


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
        cfg: section ``actor``, an ``ActorConfig`` as mapping (missing keys take their defaults).
        env: a launched env manager; may be set later.
        policy: a policy's ``collect_mode``; may be set later.
    """

    def __init__(self, cfg: Any, env: Any = None, policy: Any = None) -> None:
        cfg = complete(ActorConfig, cfg)
        if (cfg["n_sample"] is None) == (cfg["n_episode"] is None):
            raise ConfigError("actor: give exactly one of n_sample and n_episode")
        self._cfg = cfg
        self.policy_version = 0
        self.env_step = self.episode_count = self.sample_count = 0
        self.broken_episode = 0  # episodes that a fault of their env cut off
        self.recent_return: deque[float] = deque(maxlen=cfg["return_window"])
        self.dropped_window = 0
        self._owed = 0  # transitions asked for and not collected yet; negative: collected ahead
        self._by_row = False  # what is owed are rows
        self._owed_episode = 0  # episodes that a call was asked for and was stopped before
        self._fruit_step = 0  # env step of the newest training sample
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
        self._episode_id = np.full(env.lane_num, -1, dtype=np.int64)
        self._forget()

    @property
    def block_len(self) -> float:
        """Rows after which a lane's block is handed on; ``inf``: at the ends of episodes."""
        return self._rollout.traj_len

    def reset(self) -> None:
        """Begins new episodes; unfinished rows and the policy's state are forgotten."""
        self._env.reset()
        self._forget()
        self.policy.reset()

    def _forget(self) -> None:
        lanes = self._env.lane_num
        self._rollout = Rollout(lanes, float(self._cfg["traj_len"]))
        self._episode_id += 1
        self._episode_step = np.zeros(lanes, dtype=np.int64)
        self._version = np.zeros(lanes, dtype=np.int64)  # of the weights that chose each lane's action
        self._gap = np.ones(lanes, dtype=bool)  # the lane's next rows do not follow those handed on before
        self._cut = np.zeros(lanes, dtype=bool)  # a fault cut the lane's episode off at the row handed on last
        self._ended = np.zeros(lanes, dtype=bool)  # the lane's last row ended its episode
        self._pending: dict[int, tuple[Any, Any]] = {}  # lane -> its last observation and output, while it steps

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
        stop: Callable[[], bool] = lambda: False,
        n_row: int | None = None,
    ) -> tuple[list[Block], dict[str, Any]]:
        """Collects ``n_sample`` transitions or ``n_episode`` episodes (the config's numbers unless given).

        Blocks come whole, so that a call may give more than it was asked for; the next call gives so much less. Rows of
        a block that is not full stay for the next call.

        Args:
            n_episode, n_sample: how much.
            consume: receives each block as soon as it is full; the block's memory is reused afterwards. None: blocks
                are copied and returned.
            random: draw actions uniformly from the action space instead of taking the policy's.
            stop: asked before each step; True ends the call early, and the next call makes up for it.
            n_row: collect so many rows of samples, of which those between episodes are no transitions, instead of
                ``n_sample``: rollouts of a fixed size. An actor counts rows or transitions, not both in turn.

        Returns:
            ``(blocks, info)``; info counts this call's ``total_step``, ``total_sample``, ``total_episode`` and
            ``total_duration`` (seconds), and says whether ``stop`` ended it (``stopped``).

        Raises:
            SpecError: the policy makes no training sample of all that is collected.
        """
        self._by_row = n_row is not None
        if n_row is not None:
            n_sample = n_row
        elif n_episode is None and n_sample is None:
            n_episode, n_sample = self._cfg["n_episode"], self._cfg["n_sample"]
        blocks: list[Block] = []
        sink = consume or (lambda block: blocks.append(copied(block)))
        start = time.perf_counter()
        before = self.env_step, self.sample_count, self.episode_count
        if n_sample is not None:
            self._owed += n_sample
        until = before[2] + (self._owed_episode or n_episode or 0)
        while (self._owed > 0 if n_sample is not None else self.episode_count < until) and not stop():
            self._step(sink, random)
            self._check_fruit(n_sample)
        stopped = self._owed > 0 if n_sample is not None else self.episode_count < until
        self._owed_episode = until - self.episode_count if stopped and n_sample is None else 0
        if n_sample is None:  # whole episodes are no part of the account
            self._owed += self.sample_count - before[1]
        elif stopped:  # stopped: the next call asks for its own part again
            self._owed -= n_sample
        info = {
            "total_step": self.env_step - before[0],
            "total_sample": self.sample_count - before[1],
            "total_episode": self.episode_count - before[2],
            "total_duration": time.perf_counter() - start,
            "total_collect_step": self.env_step,
            "stopped": stopped,
        }
        return blocks, info

    def _check_fruit(self, n_sample: int | None) -> None:
        barren = self.env_step - self._fruit_step
        cut = self._rollout.traj_len * self._rollout.lane_num
        if n_sample is not None and cut != np.inf and barren > 1000 + 10 * max(n_sample, cut):
            raise SpecError(
                f"the policy's _get_train_sample gave no sample of the last {barren} env steps; it must return the "
                "trajectory, or items made of it"
            )

    def metrics(self) -> dict[str, float]:
        """Returns what a run shows of its collection."""
        values: dict[str, float] = {"episode_count": self.episode_count}
        if self.recent_return:
            values["episode_return"] = float(np.mean(self.recent_return))
        if self.dropped_window:
            values["dropped_window"] = self.dropped_window
        if self._env is not None and self._env.fault_count:
            values["env_fault"] = self._env.fault_count
            values["broken_episode"] = self.broken_episode
        return values

    def state_dict(self, envs: bool = True) -> dict[str, Any]:
        """Returns counters, unfinished rows and the envs' state, as plain data; without ``envs`` the unfinished rows
        are left out too, because nothing will follow them."""
        return {
            "counter": [self.env_step, self.episode_count, self.sample_count, self.policy_version, self.dropped_window],
            "owed": self._owed,
            "owed_episode": self._owed_episode,
            "fruit_step": self._fruit_step,
            "version": self._version.copy(),
            "gap": self._gap.copy(),
            "cut": self._cut.copy(),
            "ended": self._ended.copy(),
            "fault": [self._env.fault_count, self.broken_episode],
            "recent_return": list(self.recent_return),
            "episode_id": self._episode_id.copy(),
            "episode_step": self._episode_step.copy(),
            "rollout": self._rollout.state_dict() if envs else None,
            "env": self._env.state_dict() if envs else None,
            "pending": {lane: list(pair) for lane, pair in self._pending.items()} if envs else {},
        }

    def load_state_dict(self, state: dict[str, Any], fresh_seed: int = 0) -> None:
        """Restores what :meth:`state_dict` gave.

        Args:
            state: without the envs' state, new episodes begin, and the next rows do not follow those handed on before.
            fresh_seed: of these new episodes.
        """
        self.env_step, self.episode_count, self.sample_count, self.policy_version, self.dropped_window = state[
            "counter"
        ]
        self.recent_return.clear()
        self.recent_return.extend(state["recent_return"])
        self._episode_id[:] = state["episode_id"]
        self._owed, self._owed_episode = int(state["owed"]), int(state["owed_episode"])
        self._fruit_step = int(state["fruit_step"])
        self._env.fault_count, self.broken_episode = state.get("fault", (0, 0))  # absent before envs healed
        if state["env"] is None:
            self._forget()
            self.policy.reset()
            seeds = np.random.SeedSequence((fresh_seed, self.env_step)).generate_state(self._env.lane_num)
            self._env.seed(seeds.tolist())
            self._env.launch()
            return
        self._episode_step[:] = state["episode_step"]
        self._version[:], self._gap[:] = state["version"], state["gap"]
        awaits = [lane["awaits_reset"] for lane in state["env"]["lanes"]]
        self._cut[:], self._ended[:] = state.get("cut", False), state.get("ended", awaits)
        self._rollout.load_state_dict(state["rollout"])
        self._pending = {lane: (pair[0], pair[1]) for lane, pair in state["pending"].items()}
        self._env.load_state_dict(state["env"])

    def _step(self, sink: Callable[[Block], None], random: bool) -> None:
        lane_id, obs, output = self._act(random)
        step = self._env.step_block(as_actions(output["action"]), lane_id)
        if step.lane_id is not lane_id:  # an asynchronous manager: other lanes may have finished
            obs, output = self._pair(lane_id, obs, output, step.lane_id)
        ended = step.terminated | step.truncated
        valid_num = int(np.count_nonzero(step.valid))
        if valid_num < len(step.valid):
            self._close_broken(obs, step, sink)
        self._record(obs, output, step, ended)
        self._count(step, ended, valid_num)
        full = self._rollout.full(step.lane_id, ended)
        if len(full):
            self._hand_on(full, step.lane_id, step.obs, sink)

    def _act(self, random: bool) -> tuple[np.ndarray, Any, dict[str, Any]]:
        ready = self._env.ready_block()
        obs = as_tensors(ready.obs)
        with torch.inference_mode():
            lane_id, data = self.policy.data_preprocess(LaneBlock(ready.lane_id, obs))
            output = self.policy.forward(lane_id, data)
            if not isinstance(output, dict) or "action" not in output:
                raise SpecError(f"_forward_collect returned {type(output).__name__}; expected a dict with 'action'")
            if random:
                mask = obs.get("action_mask") if isinstance(obs, dict) else None
                action = random_action(self._env.action_spec, len(ready.lane_id), mask)
                output = {**output, "action": action}
        self._version[ready.lane_id] = self.policy_version
        return ready.lane_id, obs, output

    def _pair(self, lane_id: np.ndarray, obs: Any, output: Any, back: np.ndarray) -> tuple[Any, Any]:
        """Remembers what each lane saw and did, and returns it for the lanes that came back."""
        for row, lane in enumerate(lane_id.tolist()):
            self._pending[lane] = tree_map(lambda x, row=row: x[row].clone(), (obs, output))  # type: ignore[misc]
        rows = [self._pending.pop(lane) for lane in back.tolist()]
        paired: Any = tree_map(lambda *leaves: torch.stack(leaves), *rows)
        return paired[0], paired[1]

    def _close_broken(self, obs: Any, step: Any, sink: Callable[[Block], None]) -> None:
        """Ends the episodes that a fault cut off at their last rows, before dummy rows follow them.

        Args:
            obs: what the lanes saw before the step, tensors [b, ...]: the observations after those last rows.
            step: the step, in which a lane that was reset without an end had a fault.
            sink: receives whole episodes, where those are handed on.
        """
        lanes = step.lane_id[~step.valid]
        lanes = lanes[~self._ended[lanes]]
        self.broken_episode += len(lanes)
        lanes = lanes[self._episode_step[lanes] > 0]
        if len(lanes) == 0:
            return
        self._cut[self._rollout.cut_off(lanes)] = True
        if self._rollout.traj_len == np.inf:
            self._hand_on(lanes, step.lane_id, tree_map(lambda x: x.numpy(), obs), sink)

    def _record(self, obs: Any, output: dict[str, Any], step: Any, ended: np.ndarray) -> None:
        ends = {"terminated": torch.from_numpy(step.terminated), "truncated": torch.from_numpy(step.truncated)}
        done = torch.from_numpy(ended)
        timestep = BaseEnvTimestep(as_tensors(step.obs), torch.from_numpy(step.reward), done, ends)
        row = self.policy.process_transition(obs, output, timestep)
        lane = step.lane_id
        whole = self._rollout.is_everyone(lane)
        reserved = {
            "valid": step.valid,
            "terminated": step.terminated,
            "truncated": step.truncated,
            "policy_version": self._version if whole else self._version[lane],
            "lane_id": lane,
            "episode_id": self._episode_id if whole else self._episode_id[lane],
            "episode_step": self._episode_step if whole else self._episode_step[lane],
        }
        self._rollout.write(row, reserved, lane)

    def _count(self, step: Any, ended: np.ndarray, valid_num: int) -> None:
        self.env_step += valid_num
        self._episode_step[step.lane_id] += step.valid
        if valid_num < len(step.valid):  # the other rows were resets: a new episode begins
            begun = step.lane_id[~step.valid]
            self._episode_id[begun] += 1
            self._episode_step[begun] = 0
            self._ended[begun] = False
            self.policy.reset(torch.from_numpy(begun))
        ended_num = int(np.count_nonzero(ended))
        if ended_num:
            self.episode_count += ended_num
            self._ended[step.lane_id[ended]] = True
            self.recent_return.extend(step.episode_return[ended].tolist())

    def _hand_on(self, full: np.ndarray, lane_id: np.ndarray, obs: Any, sink: Callable[[Block], None]) -> None:
        """Hands on the rows of the lanes ``full``, after which the lanes ``lane_id`` [b] saw ``obs`` [b, ...]."""
        last_obs = obs
        if full is not lane_id:
            row = np.zeros(self._rollout.lane_num, dtype=np.int64)
            row[lane_id] = np.arange(len(lane_id))
            last_obs = tree_map(lambda x: x[row[full]], obs)
        for block in self._rollout.blocks(full, last_obs):
            asked = block.traj
            sample = self.policy.get_train_sample(asked)
            done = finished(sample, asked)
            self.dropped_window += done.dropped
            if len(done):
                count = int(torch.count_nonzero(done["valid"]))
                self.sample_count += count
                self._owed -= done["valid"].numel() if self._by_row else count
                self._fruit_step = self.env_step if count else self._fruit_step
                lanes = block.lane_id
                gap, cut = (mask[lanes].copy() if np.count_nonzero(mask) else None for mask in (self._gap, self._cut))
                sink(Block(done, lanes, block.length, gap, cut))
                self._gap[lanes] = self._cut[lanes] = False
            elif asked.return_num < len(asked):  # the policy let rows go
                self._gap[block.lane_id] = True
            self._rollout.keep_last(block.lane_id, asked.return_num)
