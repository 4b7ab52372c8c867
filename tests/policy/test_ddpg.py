"""DDPG: whole updates against the oracle, its acting, what it learns, and a run that is resumed."""

import logging
import os
import signal

import numpy as np
import pytest
import torch
from policy import continuous_tools as tools

from nervex.config.source import ConfigSource
from nervex.data.window import NStepWindow
from nervex.entry import serial_pipeline
from nervex.entry.compile_config import compile_config
from nervex.policy import POLICY_REGISTRY, create_policy
from nervex.policy.ddpg import DDPGPolicy
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.errors import ConfigError, SpecError
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.sink import without_time


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
class TestUpdate:
    @pytest.mark.parametrize(("nstep", "weight_decay"), [(1, 0.0), (3, 0.0), (1, 0.1)])
    def test_whole_updates_equal_those_of_the_paper(self, nstep, weight_decay):
        policy = create_policy(tools.config("ddpg", nstep, weight_decay=weight_decay))
        reference = tools.deterministic_reference(policy, decay=weight_decay)
        for s in range(5):
            data = tools.batch(s, nstep)
            errors = reference.update(data)
            output = tools.learn(policy, data)
            assert output["priority"].tolist() == pytest.approx(tools.mean_priority(errors), abs=1e-10)
            assert tools.largest_difference(policy, reference) < 1e-10
        assert output["total_loss"] == output["critic_loss"] + output["actor_loss"]

    def test_the_actor_waits_for_its_turn(self):
        policy = create_policy(tools.config("ddpg", algo={"actor_update_freq": 3}))
        reference = tools.deterministic_reference(policy, delay=3)
        reported = []
        for s in range(7):
            reference.update(tools.batch(s))
            reported.append("actor_loss" in tools.learn(policy, tools.batch(s)))
            assert tools.largest_difference(policy, reference) < 1e-10
        assert reported == [False, False, True] * 2 + [False]

    def test_the_delay_goes_on_after_a_restart(self):
        policy, other = (create_policy(tools.config("ddpg", algo={"actor_update_freq": 2})) for _ in range(2))
        tools.learn(policy, tools.batch(0))
        other.model.load_state_dict(policy.model.state_dict())
        other.load_state_dict(policy.state_dict())
        for each in (policy, other):
            assert "actor_loss" in tools.learn(each, tools.batch(1))
        weights = zip(policy.model.parameters(), other.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)

    def test_the_actors_gradient_leaves_the_critic_alone(self):
        policy = create_policy(tools.config("ddpg"))
        gradients = []
        policy._optimizer_critic.register_step_post_hook(
            lambda *_: gradients.extend(p.grad.clone() for p in policy.model.critic.parameters())
        )
        tools.learn(policy, tools.batch())
        assert all(torch.equal(p.grad, g) for p, g in zip(policy.model.critic.parameters(), gradients, strict=True))
        assert all((p.grad != 0).any() for p in policy.model.actor.parameters())

    def test_rewards_are_taken_as_they_are(self):
        errors = []
        for reward in (100.0, 110.0):  # the same for all: standardized, they would be zero
            torch.manual_seed(0)
            data = {"done": torch.ones(6, dtype=torch.bool), "reward": torch.full((6, 1), reward)}
            errors.append(tools.learn(create_policy(tools.config("ddpg")), tools.batch() | data)["priority"])
        assert torch.allclose(errors[1] - errors[0], torch.full((6,), 10.0))

    def test_long_gradients_are_clipped_network_by_network(self):
        policy = create_policy(tools.config("ddpg", grad_clip_norm=1e-3))
        tools.learn(policy, tools.batch())
        for part in (policy.model.actor, policy.model.critic):
            norm = torch.sqrt(sum((p.grad**2).sum() for p in part.parameters()))
            assert norm.item() == pytest.approx(1e-3, rel=1e-3)


class TestActing:
    def test_each_lane_has_its_own_noise(self):
        policy, obs = create_policy(tools.config("ddpg", collect={"noise_sigma": 0.3})), torch.zeros(4000, tools.OBS)
        clean = tools.act(policy.eval_mode, obs)
        noise = tools.act(policy.collect_mode, obs) - clean  # [4000, 2]
        assert noise.std(dim=0).tolist() == pytest.approx([0.3, 0.3], rel=0.06)
        assert noise.mean(dim=0).abs().max() < 0.03 and abs(np.corrcoef(noise.T)[0, 1]) < 0.06

    def test_ornstein_uhlenbeck_noise_belongs_to_lanes(self):
        cfg = tools.config("ddpg", collect={"noise_type": "ou", "noise_sigma": 0.5})
        policy, obs = create_policy(cfg), torch.zeros(2, tools.OBS)
        clean = tools.act(policy.eval_mode, obs)
        held = torch.tensor([[0.5, 0.5], [-0.5, -0.5]])
        policy._collect_agent.load_full_state({"main": {"plugin": {"action_noise": {"state": held}}}})
        noise = tools.act(policy.collect_mode, obs, [1, 0]) - clean
        step = 0.5 * 0.1  # σ·√dt
        assert 0 < (noise - held.flip(0)).abs().max() < 5 * step  # each goes on where its lane was
        policy.collect_mode.reset([1])
        state = policy._collect_agent.full_state(policy.model)["main"]["plugin"]["action_noise"]["state"]
        assert (state[0] != 0).all() and (state[1] == 0).all()

    def test_actions_stay_in_range(self):
        policy = create_policy(tools.config("ddpg", collect={"noise_sigma": 3.0}))
        action = tools.act(policy.collect_mode, torch.randn(200, tools.OBS) * 10)
        assert action.abs().max() == 1.0 and action.dtype == torch.float32
        assert tools.act(policy.eval_mode, torch.randn(200, tools.OBS) * 100).abs().max() <= 1

    def test_evaluation_may_explore(self):
        policy = create_policy({**tools.config("ddpg"), "eval": {"deterministic": False}})
        obs = torch.zeros(2, tools.OBS)
        assert not torch.equal(tools.act(policy.eval_mode, obs), tools.act(policy.eval_mode, obs))

    def test_its_window_and_its_place_in_the_registry(self):
        policy = create_policy(tools.config("ddpg", nstep=3), enable_field=["collect"])
        assert isinstance(policy.window, NStepWindow)
        assert (policy.window.nstep, policy.window.discount_factor) == (3, tools.GAMMA)
        assert POLICY_REGISTRY.get("ddpg") is DDPGPolicy
        assert create_policy(tools.config("ddpg"))._state_dict_handle().keys() == {
            "model", "optimizer_actor", "optimizer_critic"
        }  # fmt: skip


def compiled(policy_type, env_id="Pendulum-v1", **policy):
    cfg = {"env": {"env_type": "gymnasium", "env_id": env_id}, "policy": {"policy_type": policy_type, **policy}}
    return compile_config(ConfigSource.from_dict({**cfg, "max_env_step": 100}, name="test"))


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_discrete_actions_are_refused_before_anything_starts(name):
    with pytest.raises(ConfigError, match=f"is '{name}', which serves box actions; env 'CartPole-v1' takes discrete"):
        compiled(name, "CartPole-v1")


def test_two_critics_are_those_of_td3():
    with pytest.raises(ConfigError, match=r"use_twin_critic is true, but ddpg has one critic; leave it out, or .* td3"):
        create_policy(tools.config("ddpg", model={"use_twin_critic": True}))


def test_misspelled_keys_are_named():
    with pytest.raises(ConfigError, match=r"noise_sigm'.*did you mean 'noise_sigma'"):
        compiled("ddpg", collect={"noise_sigm": 0.1})
    with pytest.raises(ConfigError, match=r"nstep.*is 3, but .* is 1; they are one value"):
        compiled("ddpg", collect={"algo": {"nstep": 3}}, learn={"algo": {"nstep": 1}})


def test_values_of_nstep_are_one():
    cfg = compiled("ddpg", learn={"algo": {"nstep": 3}}).cfg.policy
    assert cfg.collect.algo.nstep == 3 and compiled("ddpg").cfg.policy.collect.algo.nstep == 1


@pytest.mark.learning
@pytest.mark.parametrize("name", ["ddpg", "td3"])
class TestLearning:
    def test_the_best_action_of_a_single_step(self, name, tmp_path):
        policy = serial_pipeline(tools.small_run(name, "target", 1000), run_dir=tmp_path / "run", show=False).policy
        q_value, error = tools.learned(policy)
        assert error < 0.1 and q_value.abs().max() < 0.1

    def test_a_time_limit_ends_no_task(self, name, tmp_path):
        cfg = tools.small_run(name, "endless_target", 1500, policy__learn__algo__discount_factor=0.7)
        policy = serial_pipeline(cfg, run_dir=tmp_path / "run", show=False).policy
        q_value, error = tools.learned(policy)
        assert error < 0.1
        assert q_value.numpy() == pytest.approx(1 / (1 - 0.7), abs=0.5)  # 1 + γ + γ² = 2.19 if it ended one


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, name, **further):
    noise = {} if name == "sac" else {"policy__collect__noise_type": "ou"}
    cfg = tools.small_run(name, "endless_target", 320, **{"learner__log_freq": 20, **noise, **further})

    def interrupt(learner):
        if learner.last_iter.val == 33:
            os.kill(os.getpid(), signal.SIGINT)

    serial_pipeline(cfg, run_dir=tmp_path / "whole", show=False)
    part = serial_pipeline(cfg, run_dir=tmp_path / "part", show=False, hooks=[interrupt])
    assert part.result["stop_reason"] == "interrupted"
    serial_pipeline(cfg, run_dir=tmp_path / "part", show=False, resume=True)
    found = [without_time(read_metrics(tmp_path / n / "metrics.jsonl")) for n in ("whole", "part")]
    assert found[0] == found[1]
    states = [CheckpointManager(tmp_path / n / "checkpoints").load_latest().weights for n in ("whole", "part")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("name", ["td3", "sac"])
def test_so_it_does_with_compiled_updates(tmp_path, name, caplog):
    with caplog.at_level(logging.INFO, "nervex"):
        test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, name, policy__learn__compile=True)
    assert caplog.text.count("compiled in") == {"td3": 6, "sac": 3}[name]


def test_a_batch_of_the_wrong_shape_is_named():
    policy = create_policy(tools.config("ddpg"))
    with pytest.raises(SpecError, match=r"'reward' has shape \[2, 6\], expected \[1, 'any'\]"):
        tools.learn(policy, tools.batch(nstep=2))
