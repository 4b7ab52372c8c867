"""What policies that learn from rollouts share: rows, memories and advantages are where they belong."""

import pytest
import torch
from policy.rollout_tools import Walker, collect_blocks, learn, minibatches, rollout_policy, slow_gae
from torch import nn

from nervex.model.normalized import NormalizedModel
from nervex.model.rnn import is_recurrent
from nervex.policy import create_policy
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map

KINDS = ("discrete", "masked", "multi_discrete", "continuous")
MEMORIES = ((None, 1), ("lstm", 4), ("gru", 4))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("rnn_type", "unroll_len"), MEMORIES)
@pytest.mark.parametrize("action", KINDS)
def test_what_is_stored_is_what_the_network_gives_along_each_lane(action, rnn_type, unroll_len):
    policy = rollout_policy("ppo", action, rnn_type, unroll_len=unroll_len)
    blocks, _ = collect_blocks(policy, action, num=3)
    walker = Walker(policy.model)
    for block in blocks:
        assert not block.traj["valid"].all()
        value, logp = walker.walk(block)
        assert torch.allclose(block.traj["value"], value[:-1], atol=1e-5)
        assert torch.allclose(block.traj["logp"], logp, atol=1e-5)


@pytest.mark.parametrize(("rnn_type", "unroll_len"), MEMORIES)
@pytest.mark.parametrize("traj_len", [8, 3, "inf"])
@pytest.mark.parametrize("policy_type", ["ppo", "a2c"])
def test_advantages_against_sums_along_episodes(policy_type, traj_len, rnn_type, unroll_len):
    unroll_len = 3 if unroll_len > 1 and traj_len == 3 else unroll_len
    algo = {"discount_factor": 0.9, "gae_lambda": 0.7}
    policy = rollout_policy(policy_type, "discrete", rnn_type, traj_len, unroll_len, algo)
    blocks, _ = collect_blocks(policy, num=6)
    walker, truncated = Walker(policy.model), 0
    for block in blocks:
        value, _ = walker.walk(block)
        expected, valid = slow_gae(block, value, 0.9, 0.7), block.traj["valid"]
        assert torch.allclose(block.traj["adv"], expected, atol=1e-5)
        assert torch.allclose(block.traj["return_"][valid], (expected + value[:-1])[valid], atol=1e-5)
        truncated += int(block.traj["truncated"].sum())
    assert truncated > 2


@pytest.mark.parametrize(("rnn_type", "unroll_len"), [*MEMORIES, (None, 4)])
@pytest.mark.parametrize("action", KINDS)
def test_the_first_update_of_ppo_sees_the_policy_that_collected(action, rnn_type, unroll_len):
    policy = rollout_policy("ppo", action, rnn_type, unroll_len=unroll_len, learning_rate=1e-12)
    blocks, _ = collect_blocks(policy, action)
    for batch in minibatches(policy, blocks, 12):
        output = learn(policy, batch)
        assert output["approx_kl"].item() == pytest.approx(0, abs=1e-6) and output["clipfrac"].item() == 0


@pytest.mark.parametrize("rnn_type", [None, "lstm", "gru"])
@pytest.mark.parametrize("action", KINDS)
def test_the_first_update_of_impala_sees_the_policy_that_collected(action, rnn_type):
    policy = rollout_policy("impala", action, rnn_type, unroll_len=4, learning_rate=1e-12)
    blocks, _ = collect_blocks(policy, action)
    for batch in minibatches(policy, blocks, 12):
        assert learn(policy, batch)["rho"].item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_a_memory_that_begins_at_the_wrong_place_is_seen(rnn_type):
    policy = rollout_policy("ppo", "discrete", rnn_type, unroll_len=4, learning_rate=1e-12)
    blocks, _ = collect_blocks(policy)
    (batch,) = minibatches(policy, blocks, 48)
    assert learn(policy, batch)["approx_kl"].item() < 1e-6
    for change in (
        {"begin": torch.zeros_like(batch["begin"])},
        {"begin": batch["begin"].roll(1, 0)},
        {"prev_state": tree_map(torch.zeros_like, batch["prev_state"])},
    ):
        assert learn(policy, {**batch, **change})["approx_kl"].item() > 1e-5


@pytest.mark.parametrize("rnn_type", ["lstm", "gru"])
def test_looking_at_what_comes_after_a_block_moves_no_memory(rnn_type):
    policy = rollout_policy("ppo", "discrete", rnn_type, unroll_len=4)
    blocks, _ = collect_blocks(policy)
    before = policy.state_dict()["_collect_agent"]["main"]["plugin"]["hidden_state"]["state"]
    before = tree_map(torch.clone, before)
    policy.collect_mode.get_train_sample(blocks[-1].traj)
    after = policy.state_dict()["_collect_agent"]["main"]["plugin"]["hidden_state"]["state"]
    assert any(state.abs().sum() > 0 for state in before.values())
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("action", KINDS)
def test_evaluation_takes_the_likeliest_action_or_draws(action):
    policy = rollout_policy("ppo", action)
    obs = torch.randn(1, 3).expand(64, 3)
    if action == "masked":
        obs = {"x": obs, "action_mask": torch.tensor([True, False, True]).expand(64, 3)}
    sure = policy._forward_eval(range(64), {"obs": obs})
    drawing = create_policy({**policy._cfg.to_dict(), "eval": {"deterministic": False}}, enable_field=["eval"])
    drawing.model.load_state_dict(policy.model.state_dict())
    drawn = drawing._forward_eval(range(64), {"obs": obs})["action"]
    logit = sure["logit"]
    if action == "continuous":
        assert torch.equal(sure["action"], logit["mu"])
    elif action == "multi_discrete":
        assert torch.equal(sure["action"], torch.stack([head.argmax(-1) for head in logit], dim=-1))
    else:
        assert torch.equal(sure["action"], logit.argmax(-1))
    assert (sure["action"] == sure["action"][0]).all() and not (drawn == drawn[0]).all()
    if action == "masked":
        assert (drawn != 1).all()


class Deaf(nn.Module):
    """An own network without memory, and without eyes for ``action_mask``."""

    def __init__(self, obs_dim, action_dim):
        super().__init__()
        self.policy, self.value = nn.Linear(3, action_dim), nn.Linear(3, 1)

    def forward(self, x):
        obs = x["obs"]["x"] if isinstance(x["obs"], dict) else x["obs"]
        return {"logit": self.policy(obs), "value": self.value(obs).squeeze(-1)}


class Remembering(nn.Module):
    """An own network with a memory of its own making: the sum of what it saw."""

    recurrent = True

    def __init__(self, obs_dim, action_dim):
        super().__init__()
        self.policy, self.value = nn.Linear(3, action_dim), nn.Linear(3, 1)

    def forward(self, x, sequence=False):
        obs = x["obs"] if sequence else x["obs"][None]
        held = torch.zeros_like(obs[0]) if x.get("prev_state") is None else x["prev_state"]["sum"]
        seen = []
        for t, row in enumerate(obs):
            held = held if not sequence else held * ~x["begin"][t, :, None]
            held = held + row
            seen.append(held)
        out = torch.stack(seen) if sequence else seen[0]
        return {"logit": self.policy(out), "value": self.value(out).squeeze(-1), "next_state": {"sum": held}}


@pytest.mark.parametrize("policy_type", ["ppo", "a2c", "impala"])
@pytest.mark.parametrize(("network", "action"), [(Deaf, "discrete"), (Deaf, "masked"), (Remembering, "discrete")])
def test_an_own_network(policy_type, network, action):
    unroll_len = 1 if network is Deaf and policy_type != "impala" else 4
    cfg = {
        "policy_type": policy_type, "model": {"obs_dim": 3, "action_dim": 3},
        "collect": {"traj_len": 8, "unroll_len": unroll_len}, "learn": {"learning_rate": 1e-12, "batch_size": 24},
    }  # fmt: skip
    policy = create_policy(cfg, model_type=network)
    assert is_recurrent(policy.model) is (network is Remembering)
    blocks, _ = collect_blocks(policy, action)
    for batch in minibatches(policy, blocks, 24):
        output = learn(policy, batch)
        if policy_type == "ppo":
            assert abs(output["approx_kl"].item()) < 1e-6
        if policy_type == "impala":
            assert output["rho"].item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("policy_type", ["ppo", "a2c"])
def test_rollouts_of_one_row_are_refused(policy_type):
    with pytest.raises(
        ConfigError, match=r"policy\.collect\.traj_len is 1, but advantages .* expected at least 2: give a"
    ):
        rollout_policy(policy_type, traj_len=1)


@pytest.mark.parametrize("policy_type", ["ppo", "a2c", "impala"])
def test_a_memory_needs_unrolls(policy_type):
    with pytest.raises(ConfigError, match=r"policy\.collect\.unroll_len is 1, but the network is recurrent"):
        rollout_policy(policy_type, rnn_type="lstm")


@pytest.mark.parametrize("policy_type", ["ppo", "a2c", "impala"])
def test_ignore_done_is_refused(policy_type):
    with pytest.raises(ConfigError, match=r"policy\.learn\.ignore_done is true, .* let the env report it as truncated"):
        rollout_policy(policy_type, unroll_len=4, ignore_done=True)


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("layer", [nn.Linear, nn.LSTM])
def test_a_network_that_says_whether_it_has_a_memory_is_believed(says, layer):
    network = nn.Sequential(layer(2, 2))
    assert is_recurrent(network) is (layer is nn.LSTM)
    network.recurrent = says
    assert is_recurrent(network) is says
    assert is_recurrent(NormalizedModel(network, 2)) is says
