"""IMPALA: its loss from scratch with weights that have moved on since collecting, its memory, what it learns."""

import copy

import pytest
import torch
from policy.rollout_tools import check_learning, collect_blocks, learn, minibatches, rollout_policy

from nervex.rl_utils.distribution import entropy, log_prob
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def moved(policy):
    """Moves the weights, so that the policy differs from the one that collected."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def walk(model, batch, j):
    """Returns log-probability, entropy and value of the rows of unroll j, and the value of what follows, one by one."""
    prev = batch.get("prev_state")
    state = None if prev is None else {k: v[j : j + 1] for k, v in prev.items()}
    logp, entropies, value = [], [], []
    for t in range(len(batch["valid"])):
        state = None if batch["begin"][t, j] else state
        output = model({"obs": tree_map(lambda x, t=t: x[t, j : j + 1], batch["obs"]), "prev_state": state})
        state = output.get("next_state")
        logp.append(log_prob(output["logit"], batch["action"][t, j : j + 1])[0])
        entropies.append(entropy(output["logit"])[0])
        value.append(output["value"][0])
    last = tree_map(lambda x: x[j : j + 1], batch["last_obs"])
    value.append(model({"obs": last, "prev_state": state})["value"][0])
    return logp, entropies, value


def by_hand(model, batch, upgo=False, rho_bar=1.0, c_bar=1.0, gamma=0.99, c_v=0.5, c_e=0.01):
    """Loss and gradients, row by row, V-trace by its definition as a sum (Espeholt et al. 2018, eq. 1)."""
    size, total, count = len(batch["valid"]), 0.0, 0
    for j in range(batch["valid"].shape[1]):
        logp, entropies, value = walk(model, batch, j)
        v = [x.item() for x in value]
        rho = [(logp[t].item() - batch["logp"][t, j].item()) for t in range(size)]
        rho = [torch.tensor(x).exp().item() for x in rho]
        valid, terminated, truncated = (batch[k][:, j].tolist() for k in ("valid", "terminated", "truncated"))
        reward = batch["reward"][:, j].tolist()
        error = [reward[t] + (0 if terminated[t] else gamma * v[t + 1]) - v[t] for t in range(size)]

        def goes_on(t, valid=valid, terminated=terminated, truncated=truncated):
            return t + 1 < size and valid[t + 1] and not terminated[t] and not truncated[t]

        def target(t, v=v, rho=rho, error=error, goes_on=goes_on):
            found, factor, k = v[t], 1.0, t
            while True:
                found += factor * min(rho_bar, rho[k]) * error[k]
                if not goes_on(k):
                    return found
                factor *= gamma * min(c_bar, rho[k])
                k += 1

        def upgoing(t, v=v, error=error, reward=reward, terminated=terminated, goes_on=goes_on):
            if goes_on(t) and error[t + 1] >= 0:
                return reward[t] + gamma * upgoing(t + 1)
            return reward[t] + (0 if terminated[t] else gamma * v[t + 1])

        for t in range(size):
            if not valid[t]:
                continue
            count += 1
            ahead = gamma * target(t + 1) if goes_on(t) else 0 if terminated[t] else gamma * v[t + 1]
            adv = min(1.0, rho[t]) * (reward[t] + ahead - v[t])
            total = total - adv * logp[t] + c_v * 0.5 * (value[t] - target(t)) ** 2 - c_e * entropies[t]
            if upgo:
                total = total - min(1.0, rho[t]) * (upgoing(t) - v[t]) * logp[t]
    loss = total / count
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize(
    "options", [{}, {"upgo": True}, {"rho_clip_ratio": 2.0, "c_clip_ratio": 0.7}], ids=["plain", "upgo", "clips"]
)
@pytest.mark.parametrize("rnn_type", [None, "lstm", "gru"])
@pytest.mark.parametrize("action", ["discrete", "masked", "multi_discrete", "continuous"])
def test_against_a_computation_from_scratch(action, rnn_type, options):
    policy = rollout_policy("impala", action, rnn_type, unroll_len=8, algo=options, grad_clip_norm=1e9)
    blocks, _ = collect_blocks(policy, action)
    (batch,) = minibatches(policy, blocks, 48)
    assert not batch["valid"].all() and batch["truncated"].any()
    moved(policy)
    kwargs = {
        "upgo": "upgo" in options,
        "rho_bar": options.get("rho_clip_ratio", 1),
        "c_bar": options.get("c_clip_ratio", 1),
    }
    loss, gradient = by_hand(copy.deepcopy(policy.model), batch, **kwargs)
    output = learn(policy, batch)
    assert output["total_loss"].item() == pytest.approx(loss, rel=1e-4, abs=1e-4)
    assert output["rho"].item() != pytest.approx(1, abs=1e-3) and ("upgo_loss" in output) is ("upgo" in options)
    for parameter, expected in zip(policy.model.parameters(), gradient, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-4)


def test_unrolls_of_one_row_are_refused():
    with pytest.raises(ConfigError, match=r"policy\.collect\.unroll_len is 1, but V-trace needs rows that follow"):
        rollout_policy("impala", unroll_len=1)


@pytest.mark.learning
@pytest.mark.parametrize("task", ["corridor", "bandit_mask", "endless", "memory_cue"])
def test_it_learns_what_is_known(task):
    check_learning("impala", task)
