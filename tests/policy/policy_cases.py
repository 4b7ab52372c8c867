"""One small configuration per policy and variant, and batches that its own actor collected."""

import copy

from nervex.config.source import ConfigSource
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
    "impala recurrent": _rollout("impala", _LSTM, unroll_len=6),
}


def compiled_case(name, **policy):
    """Returns the compiled configuration of a case; ``policy`` are further keys of section ``policy``."""
    config = copy.deepcopy(CASES[name])
    config["policy"].update(policy)
    return compile_config(ConfigSource.from_dict(config, name=name))


def collected(compiled, num):
    """Returns ``(parts, batches)``: the parts of a run, closed, and ``num`` batches that it would learn from."""
    parts = build_parts(compiled)
    learn = compiled.cfg.policy.learn
    parts.command.step()
    if parts.rollout is not None:
        RolloutLearning(compiled.cfg, parts).collect()
        batches = list(parts.rollout.batches(learn.batch_size, 1, num))
    else:
        push = ReplayLearning(compiled.cfg, parts).push
        while parts.replay.sample(learn.batch_size) is None or parts.replay.count < 60:
            parts.actor.generate_data(consume=push)
        batches = [parts.replay.sample(learn.batch_size) for _ in range(num)]
    parts.close()
    return parts, batches
