"""R2D2: its loss and priorities from scratch, with and without a burn-in."""

import copy

import numpy as np
import pytest
import torch
from oracles import values

from nervex.policy import R2D2Policy

L, B, GAMMA, NSTEP, ETA = 9, 5, 0.8, 2, 0.7


def make(burnin_step, rescale):
    torch.manual_seed(0)
    algo = {"nstep": NSTEP, "discount_factor": GAMMA, "burnin_step": burnin_step, "value_rescale": rescale,
            "priority_eta": ETA}  # fmt: skip
    policy = R2D2Policy(
        {
            "policy_type": "r2d2",
            "model": {"obs_dim": 1, "action_dim": 3, "embedding_dim": 8, "hidden_dim_list": [8]},
            "learn": {"batch_size": B, "algo": algo},
            "collect": {"unroll_len": L},
        }
    )
    with torch.no_grad():
        for parameter in policy._agent.target_model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # the two networks prefer different actions now
    return policy


def sequences():
    """Rows of random episodes; a state is reset at the row after a dummy."""
    lanes = values.random_lanes(np.random.default_rng(3), L, B)
    rng = torch.Generator().manual_seed(1)
    valid = torch.from_numpy(lanes["valid"])
    begin = torch.zeros(L, B, dtype=torch.bool)
    begin[1:] = ~valid[:-1]
    return {
        "obs": torch.randn(L, B, 1, generator=rng),
        "action": torch.randint(3, (L, B), generator=rng),
        "reward": torch.from_numpy(lanes["reward"] / 100).float(),
        **{key: torch.from_numpy(lanes[key]) for key in ("terminated", "truncated", "valid")},
        "begin": begin,
        "weight": torch.rand(B, generator=rng),
    }


@pytest.mark.parametrize("burnin_step, rescale", [(0, False), (3, False), (3, True)])
def test_loss_and_priorities_against_a_computation_from_scratch(burnin_step, rescale):
    policy, data = make(burnin_step, rescale), sequences()
    assert not data["valid"].all() and data["terminated"].any() and data["truncated"].any()
    model, target = copy.deepcopy(policy.model), copy.deepcopy(policy._agent.target_model)
    with torch.no_grad():
        state = model(data["obs"][0])["next_state"]
    data["prev_state"] = {k: torch.randn_like(v) for k, v in state.items()}

    def q_values(net):
        """Row by row, from the stored state on."""
        rows, state = [], data["prev_state"]
        for obs, begin in zip(data["obs"], data["begin"], strict=True):
            with torch.no_grad():
                output = net({"obs": obs, "prev_state": state, "begin": begin})
            rows.append(output["logit"])
            state = output["next_state"]
        return torch.stack(rows).double().numpy()[burnin_step:]  # [L', B, N]

    own, other = q_values(model.train()), q_values(target.train())
    at = np.indices(own.shape[:2])
    value = other[(*at, own.argmax(axis=-1))]
    if rescale:
        value = np.vectorize(lambda x: values.inverse_rescale(x, 0.01))(value)
    rows = {k: v[burnin_step:].numpy() for k, v in data.items() if isinstance(v, torch.Tensor) and k != "weight"}
    masks = (rows["terminated"], rows["truncated"], rows["valid"])
    goal, trained = values.sequence_targets(value, rows["reward"].astype(float), masks, GAMMA, NSTEP)
    if rescale:
        goal = np.vectorize(lambda x: values.rescale(x, 0.01))(goal)
    error = np.where(trained, goal - own[(*at, rows["action"])], 0.0)

    output = policy.learn_mode.forward(policy.learn_mode.data_preprocess(data))
    loss = float((data["weight"].numpy() * error**2).sum() / trained.sum())
    assert output["total_loss"].item() == pytest.approx(loss, rel=1e-4)
    assert output["priority"].tolist() == pytest.approx(
        values.sequence_priority(error, trained, ETA).tolist(), rel=1e-4
    )
    assert output["q_value"].item() == pytest.approx(float(own[(*at, rows["action"])].mean()), abs=1e-5)
