"""SAC: whole updates against the oracle, its temperature, its acting, discrete actions, and what it learns."""

import math

import numpy as np
import pytest
import tiny_tasks as tiny
import torch
from oracles import continuous_update as oracle
from policy import continuous_tools as tools
from torch import nn

from nervex.config.source import ConfigSource
from nervex.entry import serial_pipeline
from nervex.entry.compile_config import compile_config
from nervex.model.qac import DiscreteSACNet, SACNet
from nervex.policy import create_policy
from nervex.rl_utils.distribution import squashed_mode
from nervex.utils.errors import ConfigError

DISCRETE = {"action_dim": 4, "action_type": "discrete"}


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
    @pytest.mark.parametrize(("nstep", "twin", "alpha"), [(1, True, 1.0), (3, True, 0.2), (1, False, 1.0)])
    def test_whole_updates_equal_those_of_the_paper(self, nstep, twin, alpha):
        cfg = tools.config("sac", nstep, model={"use_twin_critic": twin}, algo={"alpha": alpha})
        policy = create_policy(cfg)
        reference = tools.soft_reference(policy, -tools.ACTION, alpha=alpha)
        assert len(reference.critics) == 1 + twin
        for s in range(5):
            data, shape = tools.batch(s, nstep), (6, tools.ACTION)
            next_noise, noise = tools.seeded_noise(s, shape, shape)
            errors = reference.update(data, next_noise, noise)
            torch.manual_seed(s)
            output = tools.learn(policy, data)
            assert output["priority"].tolist() == pytest.approx(tools.mean_priority(errors), abs=1e-9)
            assert tools.largest_difference(policy, reference) < 1e-9

    @pytest.mark.parametrize("nstep", [1, 3])
    def test_discrete_updates_equal_those_of_the_paper(self, nstep):
        policy = create_policy(tools.config("sac", nstep, model=DISCRETE))
        reference = tools.soft_reference(policy, 0.98 * math.log(4), oracle.DiscreteSoftActorCritic)
        for s in range(5):
            data = tools.batch(s, nstep, action_num=4)
            errors = reference.update(data)
            output = tools.learn(policy, data)
            assert output["priority"].tolist() == pytest.approx(tools.mean_priority(errors), abs=1e-9)
            assert tools.largest_difference(policy, reference) < 1e-9

    def test_the_actors_gradient_leaves_the_critics_alone(self):
        policy = create_policy(tools.config("sac"))
        gradients = []
        policy._optimizer_critic.register_step_post_hook(
            lambda *_: gradients.extend(p.grad.clone() for p in policy.model.critic.parameters())
        )
        tools.learn(policy, tools.batch())
        assert all(torch.equal(p.grad, g) for p, g in zip(policy.model.critic.parameters(), gradients, strict=True))


class TestTemperature:
    @pytest.mark.parametrize(("target", "rises"), [(50.0, True), (-50.0, False)])
    def test_it_follows_the_entropy(self, target, rises):
        policy = create_policy(tools.config("sac", algo={"target_entropy": target}))
        alphas = [tools.learn(policy, tools.batch(s))["alpha"].item() for s in range(4)]
        assert alphas[0] == 1.0 and (np.diff(alphas) > 0).all() == rises and (np.diff(alphas) < 0).all() != rises

    def test_it_may_be_fixed(self):
        policy = create_policy(tools.config("sac", algo={"auto_alpha": False, "alpha": 0.3}))
        alphas = [tools.learn(policy, tools.batch(s))["alpha"].item() for s in range(3)]
        assert alphas == pytest.approx([0.3] * 3)
        assert "optimizer_alpha" not in policy._state_dict_handle()

    def test_it_is_part_of_the_state(self):
        policy, other = (create_policy(tools.config("sac")) for _ in range(2))
        for s in range(3):
            tools.learn(policy, tools.batch(s))
        other.model.load_state_dict(policy.model.state_dict())
        other.load_state_dict(policy.state_dict())
        alphas = []
        for each in (policy, other):
            for s in (4, 5):
                torch.manual_seed(s)
                output = tools.learn(each, tools.batch(s))
            alphas.append(output["alpha"].item())
        assert alphas[0] == alphas[1] != 1.0
        assert policy._state_dict_handle().keys() == {
            "model", "optimizer_actor", "optimizer_critic", "optimizer_alpha"
        }  # fmt: skip


class TestActing:
    def test_collecting_draws_from_the_squashed_normal(self):
        policy, obs = create_policy(tools.config("sac")), torch.ones(5000, tools.OBS)
        logit = policy.model({"obs": obs[:1]})["logit"]
        u = tools.act(policy.collect_mode, obs).atanh()
        assert u.mean(dim=0).tolist() == pytest.approx(logit["mu"][0].tolist(), abs=0.06)
        assert u.std(dim=0).tolist() == pytest.approx(logit["sigma"][0].tolist(), rel=0.06)

    def test_evaluation_takes_the_middle(self):
        policy, obs = create_policy(tools.config("sac")), torch.randn(9, tools.OBS)
        expected = squashed_mode(policy.model({"obs": obs})["logit"])
        assert torch.equal(tools.act(policy.eval_mode, obs), expected) and expected.abs().max() < 1

    def test_discrete_actions(self):
        policy, obs = create_policy(tools.config("sac", model=DISCRETE)), torch.ones(4000, tools.OBS)
        logit = policy.model({"obs": obs[:1]})["logit"][0]
        assert (tools.act(policy.eval_mode, obs) == logit.argmax()).all()
        drawn = tools.act(policy.collect_mode, obs)
        frequency = torch.bincount(drawn, minlength=4) / 4000
        assert drawn.dtype == torch.int64 and torch.allclose(frequency, logit.softmax(0), atol=0.04)

    @pytest.mark.parametrize("model", [{}, DISCRETE])
    def test_evaluation_may_explore(self, model):
        policy = create_policy({**tools.config("sac", model=model), "eval": {"deterministic": False}})
        assert len(tools.act(policy.eval_mode, torch.ones(50, tools.OBS)).unique()) > 1


def compiled(env_id):
    cfg = {"env": {"env_type": "gymnasium", "env_id": env_id}, "policy": {"policy_type": "sac"}, "max_env_step": 100}
    return compile_config(ConfigSource.from_dict(cfg, name="test"))


@pytest.mark.parametrize(("env_id", "net"), [("Pendulum-v1", SACNet), ("CartPole-v1", DiscreteSACNet)])
def test_the_env_says_which_network(env_id, net):
    policy = create_policy(compiled(env_id).cfg.policy)
    assert isinstance(policy.model, net)


def test_other_kinds_of_action_are_refused():
    with pytest.raises(ConfigError, match="action_type is 'multi_discrete'; sac takes continuous and discrete actions"):
        create_policy(tools.config("sac", model={"action_type": "multi_discrete"}))


class OwnNet(nn.Module):
    """A user's network: what the policy asks of it is ``actor``, ``critic`` and the two modes."""

    def __init__(self, obs_dim, action_dim):
        super().__init__()
        self.actor = nn.Linear(obs_dim, action_dim)
        self.critic = nn.Linear(obs_dim, 2 * action_dim)
        self.action_dim = action_dim

    def forward(self, x, mode="compute_action"):
        if mode == "compute_action":
            return {"logit": self.actor(x["obs"])}
        return {"q_value": self.critic(x["obs"]).view(len(x["obs"]), 2, self.action_dim).transpose(0, 1)}


def test_a_network_of_ones_own():
    cfg = {**tools.config("sac"), "model": {"obs_dim": tools.OBS, "action_dim": 4}}
    policy = create_policy(cfg, model_type=OwnNet)
    before = [p.detach().clone() for p in policy.model.parameters()]
    tools.learn(policy, tools.batch(action_num=4))
    assert all(not torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True))
    assert tools.act(policy.collect_mode, torch.randn(5, tools.OBS)).shape == (5,)


def run(task, steps, tmp_path, **changes):
    fixed = {"policy__learn__algo__auto_alpha": False, **changes}
    return serial_pipeline(tools.small_run("sac", task, steps, **fixed), run_dir=tmp_path / "run", show=False)


@pytest.mark.learning
class TestLearning:
    def test_the_best_action_of_a_single_step(self, tmp_path):
        q_value, error = tools.learned(run("target", 1000, tmp_path, policy__learn__algo__alpha=0.01).policy)
        assert error < 0.1 and q_value.abs().max() < 0.1

    def test_a_time_limit_ends_no_task(self, tmp_path):
        algo = {"policy__learn__algo__discount_factor": 0.7, "policy__learn__algo__alpha": 0.001}
        q_value, error = tools.learned(run("endless_target", 1500, tmp_path, **algo).policy)
        assert error < 0.1
        assert q_value.numpy() == pytest.approx(1 / (1 - 0.7), abs=0.5)  # 1 + γ + γ² = 2.19 if it ended one

    @pytest.mark.parametrize("task", ["bandit", "bandit_mask"])
    def test_the_best_arms(self, task, tmp_path):
        # actions drawn at random before learning begins know no masks
        policy = run(task, 1500, tmp_path, policy__learn__algo__alpha=0.05, actor__random_collect_size=0).policy
        context = torch.eye(3)
        allowed = torch.from_numpy(tiny.BANDIT_ALLOWED)
        obs = {"context": context, "action_mask": allowed} if task == "bandit_mask" else context
        kind = "mask" if task == "bandit_mask" else "arms"
        best = policy.model({"obs": obs})["logit"].argmax(dim=1)
        assert best.tolist() == tiny.bandit_best(kind).tolist()

    def test_the_learned_temperature_holds_the_entropy(self, tmp_path):
        outcome = run("bandit", 1500, tmp_path, policy__learn__algo__auto_alpha=True, policy__learn__algo__alpha=0.1,
                      policy__learn__algo__target_entropy=0.5)  # fmt: skip
        prob = outcome.policy.model({"obs": torch.eye(3)})["logit"].softmax(dim=1)
        entropy = -(prob * prob.log()).sum(dim=1).mean().item()
        assert entropy == pytest.approx(0.5, abs=0.15)
