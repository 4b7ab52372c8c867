"""PPO: its loss from scratch, its step, when it leaves a rollout; the path of a run; what it learns."""

import copy
import os
import signal

import pytest
import torch
from policy.rollout_tools import check_learning, collect_blocks, learn, minibatches, rollout_policy
from torch import nn

from nervex.entry import serial_pipeline
from nervex.rl_utils.distribution import entropy, log_prob
from nervex.torch_utils.checkpoint import CheckpointManager
from nervex.utils.errors import ConfigError
from nervex.worker.monitor.jsonl_sink import read_metrics
from nervex.worker.monitor.sink import without_time


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def moved(policy, amount=0.1):
    """Moves the weights, so that ratios differ from 1."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(amount * torch.randn_like(parameter))


def by_hand(model, batch, clip_ratio=0.2, value_clip=False, dual_clip=None, entropy_weight=0.0, adv_norm=True, c_v=1.0):
    """Loss and gradients, one valid row at a time."""
    rows = batch["valid"].nonzero().flatten().tolist()
    adv = batch["adv"][rows]
    if adv_norm:
        adv = (adv - adv.mean()) / (adv.std() + 1e-8)
    total = 0.0
    for a, i in zip(adv, rows, strict=True):
        output = model({"obs": batch["obs"][i : i + 1]})
        ratio = (log_prob(output["logit"], batch["action"][i : i + 1])[0] - batch["logp"][i]).exp()
        gain = min(ratio * a, min(max(ratio, 1 - clip_ratio), 1 + clip_ratio) * a)
        if dual_clip is not None and a < 0:
            gain = max(gain, dual_clip * a)
        value, old, goal = output["value"][0], batch["value"][i], batch["return_"][i]
        error = (value - goal) ** 2
        if value_clip:
            near = old + min(max(value - old, torch.tensor(-clip_ratio)), torch.tensor(clip_ratio))
            error = max(error, (near - goal) ** 2)
        total = total - gain + c_v * 0.5 * error - entropy_weight * entropy(output["logit"])[0]
    loss = total / len(rows)
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


OPTIONS = (
    {},
    {"clip_ratio": 0.05, "entropy_weight": 0.1},
    {"value_clip": True, "clip_ratio": 0.1},
    {"dual_clip": 1.2, "adv_norm": False, "value_weight": 0.3},
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("action", ["discrete", "multi_discrete", "continuous"])
def test_against_a_computation_from_scratch(action, options):
    policy = rollout_policy("ppo", action, algo=options, grad_clip_norm=1e9)
    blocks, _ = collect_blocks(policy, action)
    (batch,) = minibatches(policy, blocks, 48)
    assert batch["weight"] is not None and not batch["valid"].all()
    moved(policy)
    model, options = copy.deepcopy(policy.model), dict(options)
    loss, gradient = by_hand(model, batch, c_v=options.pop("value_weight", 1.0), **options)
    output = learn(policy, batch)
    assert output["total_loss"].item() == pytest.approx(loss, rel=1e-4, abs=1e-5)
    for parameter, expected in zip(policy.model.parameters(), gradient, strict=True):
        assert torch.allclose(parameter.grad, expected, rtol=1e-3, atol=1e-5)
    assert output["approx_kl"] > 0 and output["clipfrac"] > 0


def test_the_step_is_adams_with_clipped_gradients():
    policy = rollout_policy("ppo", algo={"entropy_weight": 0.01}, learning_rate=0.01)
    blocks, _ = collect_blocks(policy)
    batches = minibatches(policy, blocks, 16)
    model = copy.deepcopy(policy.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-5)
    norms = []
    for batch in batches:
        _, gradient = by_hand(model, batch, entropy_weight=0.01)
        for parameter, g in zip(model.parameters(), gradient, strict=True):
            parameter.grad = g
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        optimizer.step()
        learn(policy, batch)
    assert max(norms) > 0.5
    for a, b in zip(policy.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_rows_that_are_no_transitions_count_for_nothing():
    policies = [rollout_policy("ppo") for _ in range(2)]
    policies[1].model.load_state_dict(policies[0].model.state_dict())
    blocks, _ = collect_blocks(policies[0])
    (batch,) = minibatches(policies[0], blocks, 48)
    poisoned = {k: v.clone() for k, v in batch.items()}
    for key in ("obs", "logp", "value", "adv", "return_"):
        poisoned[key][~batch["valid"]] = 7.0
    outputs = [learn(policy, data) for policy, data in zip(policies, (batch, poisoned), strict=True)]
    assert all(torch.equal(torch.as_tensor(outputs[0][k]), torch.as_tensor(outputs[1][k])) for k in outputs[0])
    for a, b in zip(*(p.model.parameters() for p in policies), strict=True):
        assert torch.equal(a, b)


def test_a_rollout_is_left_when_the_policy_has_moved_far():
    policy = rollout_policy("ppo", algo={"target_kl": 0.01})
    blocks, _ = collect_blocks(policy)
    (batch,) = minibatches(policy, blocks, 48)
    assert "stop_epochs" not in learn(policy, batch)
    moved(policy)
    before = copy.deepcopy(policy.model.state_dict())
    output = learn(policy, batch)
    assert output["stop_epochs"] is True and output["approx_kl"] > 0.015
    assert all(torch.equal(v, before[k]) for k, v in policy.model.state_dict().items())


def config(**policy):
    """A small run on CartPole; ``policy`` are further keys of its section."""
    learn_cfg = {"batch_size": 16, "epoch_per_collect": 3, "lr_schedule": {"type": "linear"}, **policy.pop("learn", {})}
    return {
        "env": {"env_type": "gymnasium", "env_id": "CartPole-v1", "actor_env_num": 2, "evaluator_env_num": 1},
        "policy": {"policy_type": "ppo", "model": {"embedding_dim": 8, "hidden_dim_list": [8]}, "learn": learn_cfg,
                   "collect": {"traj_len": 16}, **policy},
        "evaluator": {"n_episode": 1, "eval_freq": 4},
        "learner": {"log_freq": 10},
        "max_env_step": 300,
    }  # fmt: skip


def train(run_dir, cfg, **kwargs):
    return serial_pipeline(cfg, seed=1, run_dir=run_dir, show=False, **kwargs)


RUNS = {
    "plain": {},
    "normalized": {"normalize": {"obs": True, "reward": True}},
    "recurrent": {"model": {"embedding_dim": 8, "rnn_type": "lstm"}, "collect": {"traj_len": 16, "unroll_len": 8}},
    "leaving": {"learn": {"algo": {"target_kl": 1e-4}}},
}


@pytest.mark.parametrize("name", RUNS)
def test_resume_equals_an_uninterrupted_run(tmp_path, name):
    cfg = config(**RUNS[name])
    train(tmp_path / "whole", cfg)

    def interrupt(learner):
        if learner.last_iter.val == (8 if name == "leaving" else 26):
            os.kill(os.getpid(), signal.SIGINT)

    part = train(tmp_path / "part", cfg, hooks=[interrupt])
    assert part.result["stop_reason"] == "interrupted" and part.result["env_step"] < 300
    whole = train(tmp_path / "part", cfg, resume=True)
    assert whole.result["stop_reason"] == "max_env_step"
    rows = [without_time(read_metrics(tmp_path / run / "metrics.jsonl")) for run in ("whole", "part")]
    assert rows[0] == rows[1] and len(rows[0]) > 3
    weights = [CheckpointManager(tmp_path / run / "checkpoints").load_latest().weights for run in ("whole", "part")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


class Own(nn.Module):
    """A network of a user, found by its class."""

    def __init__(self, obs_dim, action_dim, width=4):
        super().__init__()
        self.body = nn.Linear(obs_dim, width)
        self.heads = nn.Linear(width, action_dim), nn.Linear(width, 1)
        self.policy, self.value = self.heads

    def forward(self, x):
        hidden = self.body(x["obs"]).tanh()
        return {"logit": self.policy(hidden), "value": self.value(hidden).squeeze(-1)}


def test_an_own_network_in_a_run(tmp_path):
    outcome = train(tmp_path / "run", config(model={"width": 6}), model_type=Own)
    assert isinstance(outcome.policy.model, Own) and outcome.policy.model.body.out_features == 6
    assert outcome.result["env_step"] >= 300


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"collect": {"traj_len": 1}}, "policy.collect.traj_len is 1, but advantages are estimated"),
        ({"model": {"rnn_type": "lstm"}}, "unroll_len is 1, but the network is recurrent"),
        ({"learn": {"algo": {"clip_ratoi": 0.1}}}, "did you mean 'clip_ratio'"),
        ({"learn": {"algo": {"dual_clip": 0.5}}}, "policy.learn.algo.dual_clip"),
        ({"on_policy": False}, "on-policy"),
        (
            {"learn": {"ignore_done": True}},
            r"policy\.learn\.ignore_done is true, but this policy's returns tell terminations .*expected false: ",
        ),
    ],
)
def test_bad_values_leave_nothing_behind(tmp_path, policy, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path / "run", config(**policy))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.learning
@pytest.mark.parametrize("task", ["corridor", "bandit_heads", "bandit_mask", "endless", "target", "memory_cue"])
def test_it_learns_what_is_known(task):
    check_learning("ppo", task)
