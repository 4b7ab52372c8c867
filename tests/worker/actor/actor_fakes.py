"""Fake policies for actor and evaluator."""

from types import SimpleNamespace

import numpy as np
import torch
from actor_envs import SeededEnv, action_of, expected_rows

from nervex.data.replay import Replay
from nervex.worker.actor.env_manager.base_env_manager import BaseEnvManager
from nervex.worker.actor.env_manager.registry import create_env_manager
from nervex.worker.actor.serial_actor import BaseSerialActor

ACTOR_CFG = {"n_sample": 8, "n_episode": None, "traj_len": 1, "return_window": 20}
# env 0 of the real asynchronous one is slow, so that lanes come back in changing company
MANAGERS = {
    "base": {"kind": "base"},
    "out_of_step": {"kind": "out_of_step"},
    "sync_subprocess": {"kind": "sync_subprocess"},
    "subprocess": {"kind": "subprocess", "wait_num": 1, "cfgs": [{"sleep_s": 0.002}, {}, {}]},
}


class OutOfStepManager(BaseEnvManager):
    """Asynchronous like ``SubprocessEnvManager``, but which lanes come back is decided by a seed and not by time."""

    def _start(self, blocks_of, seeds):
        self._rng = np.random.default_rng(0)
        self._finished = {}
        return super()._start(blocks_of, seeds)

    def _exchange(self, lane_id, slot):
        _, infos = super()._exchange(lane_id, slot)
        self._finished |= {lane: infos.get(lane) for lane in lane_id.tolist()}
        count = self._rng.integers(1, len(self._finished) + 1)
        back = np.sort(self._rng.choice(list(self._finished), count, replace=False))
        infos = {lane: self._finished.pop(lane) for lane in back.tolist()}
        same = set(infos) == set(lane_id.tolist())
        return lane_id if same else back, {k: v for k, v in infos.items() if v is not None}

    def _keep_undelivered(self, infos):
        self._finished = dict(infos)


class FakePolicy:
    """Its action is a function of the observation, and it counts the steps of each lane since the lane's reset."""

    def __init__(self, lane_num, get_train_sample=None, process_transition=None):
        self.since = torch.zeros(lane_num, dtype=torch.long)
        self.resets = []
        self.settings = []
        self.mode = SimpleNamespace(
            data_preprocess=lambda block: (block.lane_id, {"obs": block.obs}),
            forward=self.forward,
            process_transition=process_transition or self.process_transition,
            get_train_sample=get_train_sample or (lambda traj: traj),
            reset=self.reset,
            set_setting=self.settings.append,
        )

    def forward(self, lane_id, data):
        assert torch.is_inference_mode_enabled()
        lanes = torch.as_tensor(lane_id)
        since = self.since[lanes].clone()
        self.since[lanes] += 1
        return {"action": action_of(data["obs"]).long(), "since": since}

    def reset(self, data_id=None):
        self.resets.append(None if data_id is None else data_id.tolist())
        self.since[slice(None) if data_id is None else data_id] = 0

    def process_transition(self, obs, output, timestep):
        row = {"obs": obs, "action": output["action"], "reward": timestep.reward}
        row |= {"done": timestep.done, "next_obs": timestep.obs}
        return row | ({"since": output["since"]} if "since" in output else {})


def make_manager(kind="base", num=3, seed=0, cfgs=None, **options):
    cfgs = cfgs or [{} for _ in range(num)]
    cfgs = [{"env": i, **cfg} for i, cfg in enumerate(cfgs)]
    if kind == "out_of_step":
        manager = OutOfStepManager(SeededEnv, cfgs, len(cfgs))
    else:
        manager = create_env_manager(kind, SeededEnv, cfgs, **options)
    manager.seed(seeds_of(len(cfgs), seed))
    return manager


def seeds_of(num, seed=0):
    return [seed * 1000 + 17 * i for i in range(num)]


def make_actor(manager=None, policy=None, **cfg):
    manager = manager or make_manager()
    policy = policy or FakePolicy(manager.lane_num)
    return BaseSerialActor({**ACTOR_CFG, **cfg}, manager, policy.mode), policy


def make_replay(lane_num, window):
    cfg = {"meta_maxlen": 400, "max_reuse": float("inf"), "min_sample_ratio": 1.0, "unroll_len": 1}
    cfg |= {"sampler": "uniform", "alpha": 0.6, "beta": 0.4, "anneal_step": 100}
    return Replay(cfg, lane_num, window)


class RowSink:
    """Takes blocks apart into the rows of each lane."""

    def __init__(self, lane_num):
        self.rows = [[] for _ in range(lane_num)]
        self.shapes = []

    def __call__(self, block):
        columns = block.traj.columns
        row_num, width = columns["valid"].shape
        self.shapes.append((row_num, width))
        assert len(block.lane_id) == width
        for b, lane in enumerate(np.asarray(block.lane_id).tolist()):
            length = row_num if block.length is None else int(block.length[b])
            for t in range(length):
                self.rows[lane].append({k: v[t, b].tolist() for k, v in columns.items()})
            for key in ("valid", "terminated", "truncated"):
                assert not columns[key][length:, b].any()
            if block.traj.last_obs is not None:
                assert block.traj.last_obs[b].tolist() == columns["next_obs"][length - 1, b].tolist()


def check_rows(sink, seeds, version=0):
    """Every lane's rows are those of its env, consecutive and each once."""
    for lane, rows in enumerate(sink.rows):
        for got, expected in zip(rows, expected_rows(lane, seeds[lane]), strict=False):
            assert got == {**expected, "policy_version": version}


def valid_count(sink):
    return sum(row["valid"] for rows in sink.rows for row in rows)
