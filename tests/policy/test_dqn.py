"""DQN: its loss from scratch, its target network, what it learns."""

import copy

import numpy as np
import pytest
import torch
from oracles import returns
from policy.policy_cases import collected, compiled_case
from torch import nn

from nervex.data.lanes import LaneBlock
from nervex.data.replay import Replay
from nervex.data.window import NStepWindow
from nervex.envs import BaseEnvTimestep
from nervex.policy import POLICY_REGISTRY, DQNPolicy, Policy, create_policy, register_policy


class Tabular(nn.Module):
    """Q(s, a) as a table, for one-hot observations."""

    def __init__(self, obs_dim, action_dim):
        super().__init__()
        self.table = nn.Linear(obs_dim, action_dim, bias=False)

    def forward(self, x):
        return {"logit": self.table(x["obs"])}


def dqn_config(**learn):
    algo = {"nstep": 1, "discount_factor": 0.9, "target_update_freq": 3}
    algo |= {k: learn.pop(k) for k in list(learn) if k in (*algo, "double")}
    return {
        "policy_type": "dqn",
        "model": {"obs_dim": 4, "action_dim": 3, "embedding_dim": 8, "hidden_dim_list": [8]},
        "learn": {"batch_size": 6, "learning_rate": 0.01, "algo": algo, **learn},
    }


def dqn_batch(seed=0, nstep=1, size=6):
    rng = torch.Generator().manual_seed(seed)
    return {
        "obs": torch.randn(size, 4, generator=rng),
        "next_obs": torch.randn(size, 4, generator=rng),
        "action": torch.randint(3, (size,), generator=rng),
        "reward": torch.randn(size, nstep, generator=rng),
        "done": torch.rand(size, generator=rng) < 0.3,
        "value_gamma": torch.tensor([0.9, 0.9**nstep]).repeat(size // 2),
        "weight": torch.rand(size, generator=rng),
    }


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def weights_of(policy):
    return {k: v.clone() for k, v in policy.model.state_dict().items()}


def learn(policy, batch):
    mode = policy.learn_mode
    return mode.forward(mode.data_preprocess(batch))


def act(mode, obs):
    lane_id, data = mode.data_preprocess(LaneBlock(np.arange(len(obs)), obs))
    return mode.forward(lane_id, data)


def by_hand(model, target, batch, double, gamma, nstep):
    """Loss, gradients and errors, one sample at a time, with nothing of nerveX but the two networks."""
    losses, errors = [], []
    for b in range(len(batch["action"])):
        q = model(batch["obs"][b : b + 1])["logit"][0, batch["action"][b]]
        with torch.no_grad():
            next_q = target(batch["next_obs"][b : b + 1])["logit"][0]
            chooser = model(batch["next_obs"][b : b + 1])["logit"][0] if double else next_q
            goal = sum(gamma**i * batch["reward"][b, i] for i in range(nstep))
            if not batch["done"][b]:
                goal = goal + batch["value_gamma"][b] * next_q[chooser.argmax()]
        losses.append(batch["weight"][b] * (q - goal) ** 2)
        errors.append((goal - q).item())
    loss = sum(losses) / len(losses)
    return loss.item(), torch.autograd.grad(loss, list(model.parameters())), errors


class TestLoss:
    @pytest.mark.parametrize("double", [True, False])
    @pytest.mark.parametrize("nstep", [1, 3])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_against_a_computation_from_scratch(self, double, nstep, weighted):
        policy = DQNPolicy(dqn_config(nstep=nstep, double=double, target_update_freq=100, weight_decay=0.01))
        learn(policy, dqn_batch(0, nstep))
        with torch.no_grad():
            for parameter in policy._agent.target_model.parameters():
                parameter.add_(torch.randn_like(parameter))  # the two networks prefer different actions now
        target = copy.deepcopy(policy._agent.target_model)
        model, batch = copy.deepcopy(policy.model), dqn_batch(9, nstep, size=32)
        loss, gradient, errors = by_hand(
            model, target, batch | ({} if weighted else {"weight": torch.ones(32)}), double, 0.9, nstep
        )
        if not weighted:
            del batch["weight"]
        output = learn(policy, batch)
        assert output["total_loss"].item() == pytest.approx(loss, rel=1e-5)
        assert output["priority"].tolist() == pytest.approx([abs(e) for e in errors], rel=1e-4, abs=1e-5)
        for parameter, expected in zip(policy.model.parameters(), gradient, strict=True):
            assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-6)

    def test_the_step_is_adams(self):
        policy = DQNPolicy(dqn_config(weight_decay=0.1))
        model = copy.deepcopy(policy.model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
        target = copy.deepcopy(model)
        for s in range(3):
            _, gradient, _ = by_hand(model, target, dqn_batch(s), True, 0.9, 1)
            for parameter, g in zip(model.parameters(), gradient, strict=True):
                parameter.grad = g
            optimizer.step()
            learn(policy, dqn_batch(s))
        for a, b in zip(policy.model.parameters(), model.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)

    def test_long_gradients_are_clipped(self):
        policy = DQNPolicy(dqn_config(grad_clip_norm=0.01))
        learn(policy, dqn_batch())
        norm = torch.sqrt(sum((p.grad**2).sum() for p in policy.model.parameters()))
        assert norm.item() == pytest.approx(0.01, rel=1e-3)

    def test_ignore_done_bootstraps_at_terminations(self):
        batch = dqn_batch() | {"done": torch.ones(6, dtype=torch.bool)}
        free = dqn_batch() | {"done": torch.zeros(6, dtype=torch.bool)}
        policies = [DQNPolicy(dqn_config(ignore_done=ignore)) for ignore in (True, False, False)]
        for p in policies[1:]:
            p.model.load_state_dict(policies[0].model.state_dict())
            p.load_state_dict(policies[0].state_dict())
        ignored, stopped = (learn(p, dict(batch))["total_loss"].item() for p in policies[:2])
        assert ignored != stopped and ignored == learn(policies[2], free)["total_loss"].item()
        assert batch["done"].all()  # the caller's batch is left alone

    def test_a_list_of_samples_is_stacked(self):
        batch, policy = dqn_batch(), DQNPolicy(dqn_config())
        stacked = policy.learn_mode.data_preprocess([{k: v[i] for k, v in batch.items()} for i in range(6)])
        assert all(torch.equal(stacked[k], batch[k]) for k in batch)


@pytest.mark.parametrize("freq", [1, 3])
def test_the_target_network_is_copied_at_every_freq_th_iteration(freq):
    policy = DQNPolicy(dqn_config(target_update_freq=freq))
    expected = weights_of(policy)
    for iteration in range(1, 8):
        learn(policy, dqn_batch(iteration))
        if iteration % freq == 0:
            expected = weights_of(policy)
        held = policy._agent.target_model.state_dict()
        assert all(torch.equal(held[k], expected[k]) for k in expected)
        assert (iteration % freq == 0) is all(torch.equal(held[k], v) for k, v in weights_of(policy).items())


def test_a_policy_of_ones_own_has_a_name():
    class Own(DQNPolicy):
        pass

    register_policy("test_dqn_own", Own)
    policy = create_policy({**dqn_config(), "policy_type": "test_dqn_own"}, enable_field=["eval"])
    assert type(policy) is Own and policy._enabled == ("eval",)


class TestActing:
    def test_the_rate_of_exploration_is_a_setting(self):
        policy, obs = DQNPolicy(dqn_config()), torch.randn(400, 4)
        best = policy.model(obs)["logit"].argmax(dim=1)
        policy.collect_mode.set_setting({"eps": 0.0, "gamma": 123})
        assert torch.equal(act(policy.collect_mode, obs)["action"], best)
        assert policy._gamma == 0.9  # not a setting of collect mode
        policy.collect_mode.set_setting({"eps": 1.0})
        other = (act(policy.collect_mode, obs)["action"] != best).float().mean()
        assert other.item() == pytest.approx(2 / 3, abs=0.08)

    def test_before_any_command_it_explores_as_at_the_start(self):
        cfg = dqn_config() | {"command": {"eps": {"start": 0.7, "end": 0.1, "decay": 100}}}
        policy = DQNPolicy(cfg)
        assert policy._eps == 0.7
        assert policy.command_mode.get_setting_collect({"learner_step": 0})["eps"] == pytest.approx(0.7)
        assert policy.command_mode.get_setting_collect({"learner_step": 10**6})["eps"] == pytest.approx(0.1)

    def test_evaluation_may_explore(self):
        policy = DQNPolicy(dqn_config() | {"eval": {"deterministic": False, "eps": 0.5}})
        obs = torch.randn(600, 4)
        best = policy.model(obs)["logit"].argmax(dim=1)
        assert (act(policy.eval_mode, obs)["action"] != best).float().mean().item() == pytest.approx(1 / 3, abs=0.07)

    def test_a_row_holds_what_was_seen_done_and_gained(self):
        obs, output = torch.randn(2, 4), {"action": torch.tensor([2, 1]), "logit": torch.randn(2, 3)}
        flags = torch.zeros(2, dtype=torch.bool)
        timestep = BaseEnvTimestep(torch.randn(2, 4), torch.tensor([1.5, -2.0]), flags, {})
        row = DQNPolicy(dqn_config()).collect_mode.process_transition(obs, output, timestep)
        assert set(row) == {"obs", "action", "reward"}
        assert all(torch.equal(row[k], v) for k, v in
                   {"obs": obs, "action": output["action"], "reward": timestep.reward}.items())  # fmt: skip

    def test_a_mapping_of_lanes(self):
        policy = DQNPolicy(dqn_config())
        obs = {3: torch.randn(4), 1: torch.randn(4)}
        lane_id, data = policy.eval_mode.data_preprocess(obs)
        output = policy.eval_mode.data_postprocess(lane_id, policy.eval_mode.forward(lane_id, data))
        assert set(output) == {3, 1} and output[3]["action"].shape == ()
        assert output[1]["action"] == policy.model(obs[1][None])["logit"].argmax()

    def test_images_get_a_convolutional_network(self):
        cfg = dqn_config() | {"model": {"obs_dim": [1, 36, 36], "action_dim": 2, "embedding_dim": 8}}
        policy = DQNPolicy(cfg, enable_field=["eval"])
        assert act(policy.eval_mode, torch.zeros(2, 1, 36, 36, dtype=torch.uint8))["action"].shape == (2,)

    def test_a_network_of_ones_own(self):
        cfg = dqn_config() | {"model": {"obs_dim": 4, "action_dim": 2}}
        assert isinstance(create_policy(cfg, model_type=Tabular).model, Tabular)
        model = Tabular(4, 2)
        assert DQNPolicy(cfg, model=model).model is model

    def test_it_is_a_policy_of_the_registry(self):
        assert POLICY_REGISTRY.get("dqn") is DQNPolicy and issubclass(DQNPolicy, Policy)


def tabular_policy(states, actions, **learn):
    cfg = dqn_config(**{"learning_rate": 0.1, "target_update_freq": 10, **learn})
    return DQNPolicy(cfg | {"model": {"obs_dim": states, "action_dim": actions}}, model_type=Tabular)


def q_table(policy, states):
    with torch.no_grad():
        return policy.model({"obs": torch.eye(states)})["logit"]


@pytest.mark.parametrize("double", [True, False])
def test_it_learns_the_optimal_values_of_a_corridor(double):
    """Five states, the complete set of transitions in each batch: Q must become Q*."""
    step, pairs = returns.corridor(5), [(s, a) for s in range(4) for a in (0, 1)]
    after = [step(s, a) for s, a in pairs]
    eye = torch.eye(5)
    batch = {
        "obs": eye[[s for s, _ in pairs]],
        "next_obs": eye[[n for n, _, _ in after]],
        "action": torch.tensor([a for _, a in pairs]),
        "reward": torch.tensor([[r] for _, r, _ in after]),
        "done": torch.tensor([end for _, _, end in after]),
        "value_gamma": torch.full((8,), 0.9),
        "weight": torch.ones(8),
    }
    policy = tabular_policy(5, 2, double=double)
    with torch.no_grad():
        policy.model.table.weight[:, 4] = 50.0  # what the network says of the end must not matter
        policy._agent.target_model.table.weight[:, 4] = 50.0
    for _ in range(400):
        learn(policy, dict(batch))
    expected = torch.tensor(returns.optimal_q(4, 2, step, 0.9))
    assert torch.allclose(q_table(policy, 5)[:4], expected, atol=0.01)


RING = 4  # states; one action leads from each to the next and pays its number


def ring_rows(end, first_states, limit=3):
    """Rows of one lane: an episode of ``limit`` steps from each of the first states; one dummy after each."""
    rows = []
    for first in first_states:
        for t in range(limit + 1):
            s, last, dummy = (first + t) % RING, t == limit - 1, t == limit
            rows.append({"obs": np.eye(RING, dtype=np.float32)[s], "action": 0, "reward": np.float32(0 if dummy else s),
                         "valid": not dummy, "terminated": last and end == "terminated",
                         "truncated": last and end == "truncated"})  # fmt: skip
    return {k: np.stack([np.asarray(r[k]) for r in rows])[:, None] for k in rows[0]}


def learned_from(rows, nstep, cut=5):
    """The values after learning from a replay to which the rows came in blocks of ``cut``."""
    config = {"meta_maxlen": 200, "max_reuse": float("inf"), "min_sample_ratio": 1.0, "unroll_len": 1,
              "sampler": "uniform", "alpha": 0.6, "beta": 0.4, "anneal_step": 1}  # fmt: skip
    policy = tabular_policy(RING, 1, nstep=nstep, batch_size=32, target_update_freq=6)
    replay = Replay(config, 1, policy.window, seed=0)
    for start in range(0, len(rows["valid"]), cut):
        replay.push_data({k: v[start : start + cut] for k, v in rows.items()}, [0])
    for _ in range(900):
        learn(policy, replay.sample(32))
    return q_table(policy, RING)[:, 0].tolist()


@pytest.mark.parametrize("nstep", [1, 3])
def test_the_value_at_a_time_limit_is_the_bootstrapped_one(nstep):
    """Defect 11: episodes are cut after three steps, but the task goes on: V(s) = s + γ·V(s + 1 mod 4)."""
    expected = [sum(0.9**k * ((s + k) % RING) for k in range(400)) for s in range(RING)]
    found = learned_from(ring_rows("truncated", [0, 1, 2, 3, 0, 1]), nstep)
    assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("nstep", [1, 3])
def test_the_value_at_a_termination_is_not(nstep):
    """Episodes 0, 1, 2: nothing comes after the third step."""
    found = learned_from(ring_rows("terminated", [0] * 6), nstep)
    assert found[:3] == pytest.approx([0.9 * 1 + 0.81 * 2, 1 + 0.9 * 2, 2], abs=0.02)


@pytest.mark.parametrize("nstep", [1, 3])
def test_samples_are_gathered_from_rows_as_they_are(nstep):
    policy, rows = tabular_policy(RING, 1, nstep=nstep), object()
    assert isinstance(policy.window, NStepWindow)
    assert (policy.window.nstep, policy.window.discount_factor) == (nstep, 0.9)
    assert policy.collect_mode.get_train_sample(rows) is rows


def test_r2d2_without_terminations_takes_them_for_time_limits():
    compiled = compiled_case("r2d2")
    batch = collected(compiled, 1)[1][0]
    batch["terminated"][2, 0], batch["truncated"][2, 0] = True, False
    batch["terminated"][3, 1], batch["truncated"][3, 1] = False, True
    ends = batch["terminated"] | batch["truncated"]
    processed = []
    for ignore in (False, True):
        cfg = compiled.cfg.policy.to_dict()
        cfg["learn"]["ignore_done"] = ignore
        processed.append(create_policy(cfg).learn_mode.data_preprocess(dict(batch)))
    kept, ignored = processed
    assert torch.equal(kept["terminated"], batch["terminated"]) and torch.equal(kept["truncated"], batch["truncated"])
    assert not ignored["terminated"].any() and torch.equal(ignored["truncated"], ends)
    assert batch["terminated"][2, 0]  # the batch itself is left alone
