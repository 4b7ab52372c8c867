"""A policy that learns from rollouts beside envs with short episodes, and what it should find there, row by row."""

import copy

import numpy as np
import pytest
import tiny_tasks as tiny
import torch

from nervex.config.source import ConfigSource
from nervex.data.rollout_buffer import RolloutBuffer
from nervex.entry.compile_config import compile_config
from nervex.entry.learning import RolloutLearning
from nervex.entry.serial_parts import build_parts
from nervex.envs import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.policy import create_policy
from nervex.rl_utils.distribution import log_prob
from nervex.utils.tree import tree_leaves, tree_map
from nervex.worker import BaseEnvManager, BaseSerialActor

ACTIONS = {
    "discrete": (EnvElementInfo(3, {"dtype": np.int64}), 3),
    "masked": (EnvElementInfo(3, {"dtype": np.int64}), 3),
    "multi_discrete": (EnvElementInfo((2, 3), {"dtype": np.int64, "kind": "multi_discrete"}), [2, 3]),
    "continuous": (EnvElementInfo((2,), {"dtype": np.float32, "min": -1.0, "max": 1.0}), 2),
}


class ShortEnv(BaseEnv):
    """Episodes of the lengths ``cfg['lengths']`` in turn, terminated and truncated in turn; observations say where one
    is, and rewards are no two the same. With ``masked``, the action of the step's number modulo 3 is forbidden."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.episode = -1

    def reset(self):
        self.episode += 1
        self.count = 0
        return self.obs()

    def step(self, action):
        if self.cfg["action"] == "masked":
            assert action != self.count % 3, "a forbidden action"
        self.count += 1
        done = self.count == self.cfg["lengths"][self.episode % len(self.cfg["lengths"])]
        reward = np.sin(1.7 * self.count + self.episode + self.cfg["place"])
        return BaseEnvTimestep(self.obs(), float(reward), done, {"truncated": done and self.episode % 2 == 1})

    def obs(self):
        x = np.array([np.cos(self.episode), self.count / 3, self.cfg["place"]], np.float32)
        return {"x": x, "action_mask": np.arange(3) != self.count % 3} if self.cfg["action"] == "masked" else x

    def info(self):
        x = EnvElementInfo(3, {"dtype": np.float32})
        mask = EnvElementInfo(3, {"dtype": np.bool_, "kind": "multi_binary"})
        obs = {"x": x, "action_mask": mask} if self.cfg["action"] == "masked" else x
        return BaseEnvInfo(1, obs, ACTIONS[self.cfg["action"]][0], EnvElementInfo(1, {"dtype": np.float32}))

    def seed(self, seed):
        pass

    def close(self):
        pass

    def __repr__(self):
        return "ShortEnv()"


LENGTHS = ([3, 2, 4], [1, 5], [7, 2])  # of the three lanes: ends fall everywhere, also at the ends of blocks


def rollout_policy(policy_type, action="discrete", rnn_type=None, traj_len=8, unroll_len=1, algo=None, **learn):
    """Returns a small policy for :class:`ShortEnv`; it is not indifferent between actions."""
    dims = {"obs_dim": {"x": 3} if action == "masked" else 3, "action_dim": ACTIONS[action][1]}
    kind = "discrete" if action == "masked" else action
    memory = {} if rnn_type is None else {"rnn_type": rnn_type}
    model = {**dims, "action_type": kind, "embedding_dim": 8, "hidden_dim_list": [8], "head_hidden_dim": 8, **memory}
    learn = {"batch_size": 24, "algo": algo or {}, **learn}
    collect = {"traj_len": traj_len, "unroll_len": unroll_len}
    policy = create_policy({"policy_type": policy_type, "model": model, "learn": learn, "collect": collect})
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def collect_blocks(policy, action="discrete", num=2):
    """Returns ``(blocks, actor)``: ``num`` blocks of all three lanes (copies), one after the other."""
    traj_len = policy._cfg.collect.traj_len
    cfgs = [{"action": action, "lengths": LENGTHS[i], "place": i} for i in range(3)]
    amount = {"n_episode": 6} if traj_len == float("inf") else {"n_sample": 3 * traj_len}
    actor_cfg = {**amount, "traj_len": traj_len}
    actor = BaseSerialActor(actor_cfg, BaseEnvManager(ShortEnv, cfgs, env_num=3), policy.collect_mode)
    blocks = []
    for _ in range(num):
        asked = {"n_row": 3 * traj_len} if traj_len != float("inf") else {}
        blocks += actor.generate_data(**asked)[0]
    actor.close()
    return blocks, actor


def minibatches(policy, blocks, batch_size):
    """Returns the minibatches of one pass over ``blocks``."""
    buffer = RolloutBuffer(policy._cfg.collect.unroll_len, seed=3)
    for block in blocks:
        buffer.push_data(block.traj.columns, block.traj.last_obs)
    return list(buffer.batches(batch_size, 1))


def learn(policy, batch):
    mode = policy.learn_mode
    return mode.forward(mode.data_preprocess(tree_map(torch.clone, {k: v for k, v in batch.items() if v is not None})))


class Walker:
    """Goes along each lane with the network, one row at a time and one lane at a time."""

    def __init__(self, model):
        self.model = copy.deepcopy(model).eval()
        self.state = {}

    def step(self, lane, obs, keep=True):
        """Returns the network's output [1] for the lane's observation (no leading dimension)."""
        data = {"obs": tree_map(lambda x: x[None], obs), "prev_state": self.state.get(lane)}
        with torch.no_grad():
            output = self.model(data)
        if keep:
            self.state[lane] = output.get("next_state")
        return output

    def walk(self, block):
        """Returns values [T+1, b] and log-probabilities [T, b] of the actions of a block's rows."""
        traj = block.traj
        size, lanes = traj["valid"].shape
        value, logp = torch.zeros(size + 1, lanes), torch.zeros(size, lanes)
        for b, lane in enumerate(block.lane_id.tolist()):
            length = size if block.length is None else int(block.length[b])
            for t in range(length):
                output = self.step(lane, tree_map(lambda x, t=t, b=b: x[t, b], traj["obs"]))
                value[t, b] = output["value"][0]
                logp[t, b] = log_prob(output["logit"], traj["action"][t, b][None])[0]
                if not traj["valid"][t, b]:  # the row was a reset: an episode begins after it
                    self.state[lane] = None
            last = tree_map(lambda x, b=b: x[b], traj.last_obs)
            value[length, b] = self.step(lane, last, keep=False)["value"][0]
        return value, logp


def slow_gae(block, value, gamma, gae_lambda):
    """Returns advantages [T, b] as sums of one-step errors up to the episode's or the block's end."""
    traj, adv = block.traj, torch.zeros_like(value[:-1])
    size, lanes = adv.shape
    for b in range(lanes):
        for t in range(size):
            k, factor = t, 1.0
            while k < size and traj["valid"][k, b]:
                bootstrap = 0.0 if traj["terminated"][k, b] else gamma * value[k + 1, b]
                adv[t, b] += factor * (traj["reward"][k, b] + bootstrap - value[k, b])
                if traj["terminated"][k, b] or traj["truncated"][k, b]:
                    break
                k, factor = k + 1, factor * gamma * gae_lambda
    return adv


SIZES = {
    "ppo": {"policy__learn__batch_size": 64, "policy__learn__epoch_per_collect": 4, "policy__collect__traj_len": 16},
    "a2c": {"policy__collect__traj_len": 8, "policy__learn__batch_size": 64},
    "impala": {
        "policy__learn__batch_size": 64, "policy__learn__epoch_per_collect": 2, "policy__collect__traj_len": 16,
        "policy__collect__unroll_len": 8,
    },
}  # fmt: skip


def check_learning(policy_type, task, seed=0):
    """Trains for a few thousand steps and looks whether the policy does what is known to be best."""
    recurrent = task == "memory_cue"
    model = {"embedding_dim": 16, "hidden_dim_list": [], "head_hidden_dim": 32}
    changes = {
        **SIZES[policy_type], "max_env_step": 5000 if recurrent or policy_type == "a2c" else 2500,
        "policy__learn__learning_rate": 0.004 if policy_type == "a2c" else 0.01,
        "policy__learn__lr_schedule": {"type": "linear"},
        "policy__learn__algo__discount_factor": 0.5 if task == "endless" else 0.9,
        "policy__model": {**model, **({"rnn_type": "lstm", "head_layer_num": 0} if recurrent else {})},
        **({"policy__collect__unroll_len": 8} if recurrent else {}),
    }  # fmt: skip
    source = ConfigSource.from_dict(tiny.tiny_config(task, policy_type, envs=8, seed=seed, **changes))
    compiled = compile_config(source)
    parts = build_parts(compiled)
    learning = RolloutLearning(compiled.cfg, parts)
    while parts.actor.env_step < compiled.cfg.max_env_step:
        learning.loop(lambda: False)

    def output(obs):
        lanes = len(tree_leaves(obs)[0])
        return parts.policy.eval_mode.forward(np.arange(lanes), {"obs": tree_map(torch.as_tensor, obs)})

    if recurrent:
        assert parts.evaluator.evaluate(40).mean == tiny.OPTIMUM[task]
    elif task == "corridor":
        assert output(tiny.corridor_obs())["action"].tolist() == [1] * tiny.CORRIDOR_STATES
    elif task == "endless":
        found = output(np.ones((1, 1), np.float32))
        assert found["action"].tolist() == [1] and found["value"].item() == pytest.approx(1 / (1 - 0.5), abs=0.1)
    elif task == "target":
        x = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
        assert np.abs(output(x)["action"].numpy() - tiny.target_action(x)).max() < 0.25
    else:
        kind = {"bandit": "arms", "bandit_heads": "heads", "bandit_mask": "mask"}[task]
        obs = np.eye(3, dtype=np.float32)
        obs = {"context": obs, "action_mask": tiny.BANDIT_ALLOWED} if kind == "mask" else obs
        assert output(obs)["action"].tolist() == tiny.bandit_best(kind).tolist()
    parts.close()
