"""The tutorial's dict calls, on every kind of manager."""

import numpy as np
import pytest
import torch
from manager_envs import CounterEnv, NestedEnv

from nervex.utils.errors import SpecError
from nervex.worker.actor.env_manager import BaseEnvManager, SubprocessEnvManager, SyncSubprocessEnvManager

MANAGERS = [BaseEnvManager, SyncSubprocessEnvManager, SubprocessEnvManager]


@pytest.mark.parametrize("manager_class", MANAGERS)
def test_every_env_plays_its_episodes_and_drops_out(manager_class):
    lengths = [1, 2, 4]
    configs = [{"env": i, "length": n, "end": "truncated"} for i, n in enumerate(lengths)]
    seen = {i: [] for i in range(3)}
    with manager_class(env_fn=CounterEnv, env_cfg=configs, env_num=3, episode_num=2) as manager:
        manager.launch()
        while not manager.done:
            obs = manager.next_obs
            assert obs, "nobody can act and yet not all are done"
            assert {i: o.tolist() for i, o in obs.items()} == {i: o.tolist() for i, o in manager.ready_obs.items()}
            for i, o in obs.items():
                assert isinstance(o, torch.Tensor) and o.dtype == torch.float32
                assert o[0] == i and o[2] < lengths[i]  # never the observation of an ended episode
            for i, timestep in manager.step({i: torch.tensor(i % 2) for i in obs}).items():
                assert timestep.obs.shape == (3,) and timestep.obs[0] == i
                assert timestep.reward.dtype == torch.float32 and timestep.reward.shape == ()
                assert type(timestep.done) is bool
                assert timestep.info["truncated"] is timestep.done and timestep.info["terminated"] is False
                assert ("final_eval_reward" in timestep.info) == timestep.done
                if timestep.done:
                    assert timestep.info["final_eval_reward"] == sum(range(lengths[i] + 1))
                seen[i].append((int(timestep.obs[1]), int(timestep.obs[2]), float(timestep.reward)))
        assert manager.next_obs == {}
        with pytest.raises(SpecError, match=r"the envs \[1\] cannot act: each has played its 2 episodes"):
            manager.step({1: 0})
        manager.reset()
        assert not manager.done and sorted(manager.next_obs) == [0, 1, 2]
    for i, n in enumerate(lengths):
        assert seen[i] == [(episode, step, step) for episode in range(2) for step in range(1, n + 1)]


@pytest.mark.parametrize("manager_class", MANAGERS)
def test_few_envs_may_step_and_the_count_is_saved(manager_class):
    configs = [{"env": i, "length": 2} for i in range(2)]
    with manager_class(CounterEnv, configs, 2, "inf") as manager:
        manager.seed(0)
        manager.launch()
        for _ in range(2):
            assert list(manager.step({1: np.array([1])})) == [1]
        assert {i: o.tolist() for i, o in manager.next_obs.items()} == {0: [0, 0, 0], 1: [1, 1, 0]}
        assert manager.state_dict()["played"] == [0, 1]


def test_nested_actions_and_obs():
    with BaseEnvManager(NestedEnv, [{"env": 0, "length": 3}], 1) as manager:
        manager.launch()
        out = manager.step({0: {"move": torch.tensor([0.25, 2.0]), "key": 3}})
        assert out[0].obs["unit"]["position"].tolist() == [[0, 1], [0.25, 2]]
        assert out[0].obs["unit"]["kind"].dtype == torch.int64
        with pytest.raises(SpecError, match=r"got action.key float64 \[\], the env's info says int64 \[\]"):
            manager.step({0: {"move": torch.zeros(2), "key": 0.5}})
        with pytest.raises(SpecError, match="got action without the keys"):
            manager.step({0: 1})
