"""One small configuration per policy and variant, and batches that its own actor collected."""

import copy
import functools
import tempfile
from pathlib import Path

import gymnasium
import numpy as np

from nervex.config.source import ConfigSource
from nervex.data.offline import dataset_writer
from nervex.entry.compile_config import compile_config
from nervex.entry.learning import ReplayLearning, RolloutLearning
from nervex.entry.serial_parts import build_parts

_REPLAY = {"actor": {"n_sample": 16}, "replay_buffer": {"meta_maxlen": 2000}}
_SMALL = {"embedding_dim": 8, "hidden_dim_list": [8]}
_LSTM = {"rnn_type": "lstm"}


def _replay(policy_type, model, algo=None, env_id="CartPole-v1", collect=None, **learn):
    return {
        **copy.deepcopy(_REPLAY),
        "env": {"env_type": "gymnasium", "env_id": env_id, "actor_env_num": 2, "evaluator_env_num": 2},
        "policy": {
            "policy_type": policy_type, "model": dict(model), "collect": collect or {},
            "learn": {"batch_size": 6, "algo": algo or {}, **learn},
        },
        "max_train_iter": 4,
    }  # fmt: skip


def _rollout(policy_type, model=None, env_id="CartPole-v1", unroll_len=1, traj_len=12, **learn):
    return {
        "env": {"env_type": "gymnasium", "env_id": env_id, "actor_env_num": 2, "evaluator_env_num": 2},
        "policy": {
            "policy_type": policy_type, "model": dict(model or {}),
            "collect": {"traj_len": traj_len, "unroll_len": unroll_len}, "learn": {"batch_size": 12, **learn},
        },
        "max_train_iter": 4,
    }  # fmt: skip


def _offline(policy_type, model, algo=None, env_id="CartPole-v1", **learn):
    return {
        "env": {"env_type": "gymnasium", "env_id": env_id, "evaluator_env_num": 2},
        "policy": {
            "policy_type": policy_type, "model": dict(model), "learn": {"batch_size": 6, "algo": algo or {}, **learn}
        },
        "dataset": {"path": ""},
        "max_train_iter": 4,
    }  # fmt: skip


@functools.cache
def recorded(env_id):
    """Returns the path of three episodes of random actions, of at most 40 steps each."""
    env = gymnasium.make(env_id, max_episode_steps=40)
    env.action_space.seed(0)
    path = Path(tempfile.mkdtemp(prefix="nervex-cases-")) / env_id
    with dataset_writer(path) as writer:
        for seed in range(3):
            obs, action, reward, done = [env.reset(seed=seed)[0]], [], [], False
            while not done:
                action.append(env.action_space.sample())
                after, gained, terminated, truncated, _ = env.step(action[-1])
                obs.append(after)
                reward.append(gained)
                done = terminated or truncated
            scale = 1 if env_id.startswith("CartPole") else 0.5
            columns = {"obs": np.array(obs, np.float32), "reward": np.array(reward)}
            writer.add(
                {**columns, "action": np.array(action) if scale == 1 else np.array(action, np.float32) * scale},
                terminated,
            )
    return str(path)


CASES = {
    "dqn": _replay("dqn", _SMALL),
    "rainbow_dqn": _replay("rainbow_dqn", _SMALL),
    "r2d2": _replay("r2d2", _SMALL, {"burnin_step": 2, "nstep": 2}, collect={"unroll_len": 6}),
    "ddpg": _replay("ddpg", {"hidden_dim_list": [8]}, env_id="Pendulum-v1"),
    "td3": _replay("td3", {"hidden_dim_list": [8]}, {"actor_update_freq": 1}, env_id="Pendulum-v1"),
    "sac": _replay("sac", {"hidden_dim_list": [8]}, env_id="Pendulum-v1"),
    "sac discrete": _replay("sac", {"hidden_dim_list": [8]}),
    "a2c": _rollout("a2c"),
    "a2c continuous": _rollout("a2c", env_id="Pendulum-v1"),
    "ppo": _rollout("ppo"),
    "ppo continuous": _rollout("ppo", env_id="Pendulum-v1"),
    "ppo recurrent": _rollout("ppo", _LSTM, unroll_len=6),
    "ppo whole episodes": _rollout("ppo", traj_len="inf"),
    "impala": _rollout("impala", unroll_len=6),
    "bc": _offline("bc", {"hidden_dim_list": [8]}),
    "bc continuous": _offline("bc", {"hidden_dim_list": [8]}, env_id="Pendulum-v1"),
    "bc squared": _offline("bc", {"hidden_dim_list": [8]}, {"loss": "mse"}, env_id="Pendulum-v1"),
    "cql": _offline("cql", {"hidden_dim_list": [8]}, {"sample_num": 2}, env_id="Pendulum-v1"),
    "cql lagrange": _offline("cql", {"hidden_dim_list": [8]}, {"lagrange_gap": 1.0}, env_id="Pendulum-v1"),
    "iql": _offline("iql", {"hidden_dim_list": [8]}, env_id="Pendulum-v1"),
    "impala recurrent": _rollout("impala", _LSTM, unroll_len=6),
}


def compiled_case(name, **policy):
    """Returns the compiled configuration of a case; ``policy`` are further keys of section ``policy``."""
    config = copy.deepcopy(CASES[name])
    config["policy"].update(policy)
    if "dataset" in config:
        config["dataset"]["path"] = recorded(config["env"]["env_id"])
    return compile_config(ConfigSource.from_dict(config, name=name))


def collected(compiled, num):
    """Returns ``(parts, batches)``: the parts of a run, closed, and ``num`` batches that it would learn from."""
    parts = build_parts(compiled)
    learn = compiled.cfg.policy.learn
    parts.command.step()
    if parts.rollout is not None:
        RolloutLearning(compiled.cfg, parts).collect()
        batches = list(parts.rollout.batches(learn.batch_size, 1, num))
    elif parts.offline is not None:
        batches = list(parts.offline.batches(num))
    else:
        push = ReplayLearning(compiled.cfg, parts).push
        while parts.replay.sample(learn.batch_size) is None or parts.replay.count < 60:
            parts.actor.generate_data(consume=push)
        batches = [parts.replay.sample(learn.batch_size) for _ in range(num)]
    parts.close()
    return parts, batches
