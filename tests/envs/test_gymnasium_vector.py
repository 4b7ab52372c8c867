"""Gymnasium's own vector envs under the contract of the native vectors."""

import copy

import numpy as np
import pytest

from nervex.envs.gymnasium_env import GymnasiumEnv
from nervex.envs.gymnasium_vector import gymnasium_vector
from nervex.utils.errors import ConfigError
from nervex.worker.actor.env_manager.registry import create_env_manager


class CartPole(GymnasiumEnv):
    """The single env, which offers Gymnasium's array code as its native vector."""

    @classmethod
    def create_vector(cls, cfgs):
        return gymnasium_vector(cfgs[0]["env_id"], len(cfgs), cfgs[0]["make_kwargs"], [])


CFG = {"env_id": "CartPole-v1", "make_kwargs": {"max_episode_steps": 30}}


def rows(manager, steps, seed):
    rng = np.random.default_rng(seed)
    result = []
    for t in range(steps):
        lanes = np.array([3, 0]) if t % 3 == 2 else np.arange(4)
        obs = manager.ready_block().obs[lanes]
        action = (obs[:, 2] + 0.3 * obs[:, 3] + rng.normal(0, 0.8, len(lanes)) > 0).astype(np.int64)
        result.append(copy.deepcopy(tuple(manager.step_block(action, lanes))[:7]))
    return result


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        for left, right in zip(x, y, strict=True):
            np.testing.assert_array_equal(left, right)


def test_it_gives_the_rows_of_single_envs_and_is_restored():
    streams = []
    for kind in ("base", "vector"):
        with create_env_manager(kind, CartPole, [CFG] * 4) as manager:
            manager.seed(3)
            manager.launch()
            streams.append(rows(manager, 200, 0))
            saved = copy.deepcopy(manager.state_dict())
            after = rows(manager, 60, 1)
            manager.load_state_dict(saved)
            assert_same(rows(manager, 60, 1), after)
    assert_same(*streams)
    assert any(row[3].any() for row in streams[1]) and any(row[4].any() for row in streams[1])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("Acrobot-v1", 2, {}, []), "'Acrobot-v1' has no native vector of its own.*use 'base' or 'sync_subprocess'"),
        (("CartPole-v1", 2, {}, ["FlattenObservation"]), "env.wrappers wrap single envs"),
        (("CartPole-v1", 2, {"gravity": 3}, []), "'CartPole-v1' cannot be made with {'gravity': 3}: TypeError"),
    ],
)
def test_what_it_cannot_do(args, message):
    with pytest.raises(ConfigError, match=message):
        gymnasium_vector(*args)
