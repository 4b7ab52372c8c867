"""Rainbow: its loss and priorities from scratch, its noise."""

import copy

import numpy as np
import pytest
import torch
from oracles import distributional

from nervex.policy import RainbowDQNPolicy

V_MIN, V_MAX, N_ATOM, GAMMA, NSTEP, BATCH = -2.0, 3.0, 6, 0.9, 3, 24


def make(double=True):
    torch.manual_seed(0)
    policy = RainbowDQNPolicy(
        {
            "policy_type": "rainbow_dqn",
            "model": {"obs_dim": 4, "action_dim": 3, "embedding_dim": 8, "hidden_dim_list": [8], "v_min": V_MIN,
                      "v_max": V_MAX, "n_atom": N_ATOM},
            "learn": {"batch_size": BATCH, "algo": {"nstep": NSTEP, "discount_factor": GAMMA, "double": double}},
        }
    )  # fmt: skip
    with torch.no_grad():
        for parameter in policy._agent.target_model.parameters():
            parameter.add_(torch.randn_like(parameter))  # the two networks prefer different actions now
    return policy


def batch():
    rng = torch.Generator().manual_seed(1)
    return {
        "obs": torch.randn(BATCH, 4, generator=rng),
        "next_obs": torch.randn(BATCH, 4, generator=rng),
        "action": torch.randint(3, (BATCH,), generator=rng),
        "reward": torch.randn(BATCH, NSTEP, generator=rng),
        "done": torch.rand(BATCH, generator=rng) < 0.3,
        "value_gamma": torch.tensor([GAMMA, GAMMA**NSTEP]).repeat(BATCH // 2),
        "weight": torch.rand(BATCH, generator=rng),
    }


@pytest.mark.parametrize("double", [True, False])
def test_loss_and_priorities_against_a_computation_from_scratch(double):
    policy, data = make(double), batch()
    model, target = copy.deepcopy(policy.model), copy.deepcopy(policy._agent.target_model)
    torch.manual_seed(2)  # the same noise for both
    output = policy.learn_mode.forward(policy.learn_mode.data_preprocess(dict(data)))
    torch.manual_seed(2)
    model.reset_noise()
    target.reset_noise()
    with torch.no_grad():
        dist, next_own, next_dist = (
            net.train()({"obs": data[key]})["distribution"].double().numpy()
            for net, key in ((model, "obs"), (model, "next_obs"), (target, "next_obs"))
        )
    best = distributional.greedy(next_own if double else next_dist, V_MIN, V_MAX)
    goal = distributional.targets(
        next_dist[np.arange(BATCH), best], data["reward"].T.numpy(), data["done"].numpy(), GAMMA, V_MIN, V_MAX,
        data["value_gamma"].numpy(),
    )  # fmt: skip
    taken = dist[np.arange(BATCH), data["action"]]
    entropy = [distributional.cross_entropy(*pair) for pair in zip(goal, taken, strict=True)]
    assert output["total_loss"].item() == pytest.approx(float(np.mean(data["weight"].numpy() * entropy)), rel=1e-4)
    priority = [distributional.kl_divergence(*pair) for pair in zip(goal, taken, strict=True)]
    assert output["priority"].tolist() == pytest.approx(priority, rel=1e-3, abs=1e-5)
    atoms = np.linspace(V_MIN, V_MAX, N_ATOM)
    assert output["q_value"].item() == pytest.approx(float((dist @ atoms).mean()), abs=1e-5)


def test_new_noise_for_every_update_and_every_step():
    policy, data = make(), batch()
    drawn = []
    for _ in range(3):
        policy.learn_mode.forward(policy.learn_mode.data_preprocess(dict(data)))
        drawn += [net({"obs": data["obs"]})["logit"].detach() for net in (policy.model, policy._agent.target_model)]
    for i in range(4):
        assert not torch.equal(drawn[i], drawn[i + 2])
