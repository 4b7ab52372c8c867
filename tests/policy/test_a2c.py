"""A2C: its loss from scratch, its step, what it learns."""

import copy

import pytest
import torch
from policy.rollout_tools import check_learning, collect_blocks, learn, minibatches, rollout_policy

from nervex.rl_utils.distribution import entropy, log_prob
from nervex.torch_utils.optimizer import RMSprop


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def by_hand(model, batch, value_weight=1.0, entropy_weight=0.01, adv_norm=False):
    """Loss and gradients, one valid row at a time."""
    rows = batch["valid"].nonzero().flatten().tolist()
    adv = batch["adv"][rows]
    if adv_norm:
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    total = 0.0
    for a, i in zip(adv, rows, strict=True):
        output = model({"obs": batch["obs"][i : i + 1]})
        total = total - a * log_prob(output["logit"], batch["action"][i : i + 1])[0]
        total = total + value_weight * 0.5 * (output["value"][0] - batch["return_"][i]) ** 2
        total = total - entropy_weight * entropy(output["logit"])[0]
    loss = total / len(rows)
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("options", [{}, {"value_weight": 0.3, "entropy_weight": 0.2}, {"adv_norm": True}])
@pytest.mark.parametrize("action", ["discrete", "multi_discrete", "continuous"])
def test_against_a_computation_from_scratch(action, options):
    policy = rollout_policy("a2c", action, algo=options, grad_clip_norm=1e9)
    blocks, _ = collect_blocks(policy, action)
    (batch,) = minibatches(policy, blocks, 48)
    assert not batch["valid"].all()
    loss, gradient = by_hand(copy.deepcopy(policy.model), batch, **options)
    output = learn(policy, batch)
    assert output["total_loss"].item() == pytest.approx(loss, rel=1e-4, abs=1e-5)
    for parameter, expected in zip(policy.model.parameters(), gradient, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_the_step_is_that_of_the_optimizer(optimizer):
    policy = rollout_policy("a2c", optimizer=optimizer, optimizer_eps=1e-3, learning_rate=0.01)
    blocks, _ = collect_blocks(policy)
    model = copy.deepcopy(policy.model)
    twin = {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}[optimizer](model.parameters(), lr=0.01, eps=1e-3)
    for batch in minibatches(policy, blocks, 16):
        _, gradient = by_hand(model, batch)
        for parameter, g in zip(model.parameters(), gradient, strict=True):
            parameter.grad = g
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        twin.step()
        learn(policy, batch)
    for a, b in zip(policy.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_by_default_one_step_of_rmsprop_from_short_rollouts():
    policy = rollout_policy("a2c")
    assert isinstance(policy._optimizer, RMSprop)
    default = type(policy).complete_config({"policy_type": "a2c"})
    assert default.collect.traj_len == 8 and default.learn.epoch_per_collect == 1 and default.learn.batch_size == 64
    assert default.learn.algo.gae_lambda == 1.0


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_a_memory_is_learned_through(rnn_type):
    policy = rollout_policy("a2c", rnn_type=rnn_type, unroll_len=4, grad_clip_norm=1e9)
    blocks, _ = collect_blocks(policy)
    (batch,) = minibatches(policy, blocks, 48)
    model, total = copy.deepcopy(policy.model), 0.0
    for j in range(batch["valid"].shape[1]):
        state = {k: v[j : j + 1] for k, v in batch["prev_state"].items()}
        for t in range(4):
            state = None if batch["begin"][t, j] else state
            output = model({"obs": batch["obs"][t, j : j + 1], "prev_state": state})
            state = output["next_state"]
            if batch["valid"][t, j]:
                total = total - batch["adv"][t, j] * log_prob(output["logit"], batch["action"][t, j : j + 1])[0]
                total = total + 0.5 * (output["value"][0] - batch["return_"][t, j]) ** 2
                total = total - 0.01 * entropy(output["logit"])[0]
    loss = total / batch["valid"].sum()
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    assert learn(policy, batch)["total_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    for parameter, expected in zip(policy.model.parameters(), gradient, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.learning
@pytest.mark.parametrize("task", ["corridor", "bandit_heads", "endless", "memory_cue"])
def test_it_learns_what_is_known(task):
    check_learning("a2c", task)
