"""TD3: whole updates against the oracle, its noise, its twin critics. Learning, resuming and bad input: test_ddpg."""

import pytest
import torch
from policy import continuous_tools as tools

from nervex.policy import POLICY_REGISTRY, create_policy
from nervex.policy.td3 import TD3Policy


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("nstep", "delay", "sigma", "clip"), [(1, 2, 0.2, 0.5), (3, 1, 0.2, 0.5), (1, 3, 1.0, 0.3), (1, 1, 0.0, 0.5)]
)
def test_whole_updates_equal_those_of_the_paper(nstep, delay, sigma, clip):
    algo = {"actor_update_freq": delay, "target_noise_sigma": sigma, "target_noise_clip": clip}
    policy = create_policy(tools.config("td3", nstep, algo=algo))
    reference = tools.deterministic_reference(policy, delay=delay, sigma=sigma, clip=clip)
    assert len(reference.critics) == 2
    for s in range(6):
        data = tools.batch(s, nstep)
        (noise,) = tools.seeded_noise(s, (6, tools.ACTION))
        errors = reference.update(data, noise)
        torch.manual_seed(s)
        output = tools.learn(policy, data)
        assert output["priority"].tolist() == pytest.approx(tools.mean_priority(errors), abs=1e-10)
        assert tools.largest_difference(policy, reference) < 1e-10


def test_defaults_are_those_of_the_paper():
    algo = create_policy({**tools.config("td3"), "learn": {}})._cfg.learn.algo
    assert (algo.actor_update_freq, algo.target_noise_sigma, algo.target_noise_clip) == (2, 0.2, 0.5)
    assert (algo.target_theta, algo.nstep, algo.discount_factor) == (0.005, 1, 0.99)


def test_the_smaller_target_counts():
    policy = create_policy(tools.config("td3", algo={"target_noise_sigma": 0.0}))
    data = tools.batch() | {"done": torch.zeros(6, dtype=torch.bool)}
    with torch.no_grad():
        for critic, shift in ((0, 5.0), (1, -5.0)):
            policy._agent.target_model.critic.main.bias[-1][critic] += shift
        action = policy._agent.target_model({"obs": data["next_obs"]})["action"]
        both = policy._agent.target_model({"obs": data["next_obs"], "action": action}, mode="compute_q")["q_value"]
        own = policy.model({"obs": data["obs"], "action": data["action"]}, mode="compute_q")["q_value"]
    goal = data["reward"][:, 0] + tools.GAMMA * both[1]
    assert torch.allclose(tools.learn(policy, data)["priority"], (goal - own).abs().mean(dim=0))


def test_one_critic_by_configuration():
    policy = create_policy(tools.config("td3", model={"use_twin_critic": False}, algo={"actor_update_freq": 1}))
    reference = tools.deterministic_reference(policy, sigma=0.2, clip=0.5)
    (noise,) = tools.seeded_noise(3, (6, tools.ACTION))
    reference.update(tools.batch(), noise)
    torch.manual_seed(3)
    assert tools.learn(policy, tools.batch())["priority"].shape == (6,)
    assert tools.largest_difference(policy, reference) < 1e-10


def test_it_is_a_policy_of_the_registry():
    assert POLICY_REGISTRY.get("td3") is TD3Policy and TD3Policy.action_kinds == ("box",)
