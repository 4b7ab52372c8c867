"""Running normalization: against NumPy on everything at once, in any pieces, over a restart, with large offsets."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nervex.agent import Agent
from nervex.model import FCDiscreteNet, NoiseFCDiscreteNet, NormalizedModel, RewardScale, SACNet
from nervex.model.normalized import RunningMoments
from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import ConfigError

GAMMA = 0.9


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Echo(nn.Module):
    """Returns what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, **kwargs):
        return {"x": x, **kwargs}


def pieces(shift=0.0, scale=1.0):
    rng = np.random.default_rng(0)
    return [(shift + scale * rng.normal(size=(n, 3)) * [1, 5, 0.1]).astype(np.float32) for n in (1, 7, 0, 500, 3)]


class TestMoments:
    @pytest.mark.parametrize("shift", [0.0, 1e6])
    def test_equal_those_of_everything_at_once(self, shift):
        moments, parts = RunningMoments((3,)), pieces(shift, 10.0)
        for part in parts:
            moments.update(torch.from_numpy(part))
        whole = np.concatenate(parts).astype(np.float64)
        assert moments.count.item() == len(whole)
        np.testing.assert_allclose(moments.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.var, whole.var(axis=0), rtol=1e-9)
        np.testing.assert_allclose(moments.std(), whole.std(axis=0), rtol=1e-9)

    def test_many_small_pieces_far_from_zero(self):
        """A sum of squares would lose all digits: the variance is 1e-18 of the square of the mean."""
        x = torch.from_numpy(1e9 + np.random.default_rng(0).normal(size=2000))
        moments = RunningMoments()
        for part in x.split(3):
            moments.update(part)
        assert moments.var.item() == pytest.approx(x.numpy().var(), rel=1e-6)

    def test_nothing_seen(self):
        moments = RunningMoments((2,))
        moments.update(torch.zeros(0, 2))
        assert (moments.count, *moments.mean, *moments.var) == (0, 0, 0, 1, 1)


class TestNormalizedModel:
    def test_formula(self):
        net, parts = NormalizedModel(Echo(), 3, clip=2.0), pieces(5.0)
        for part in parts:
            net.observe(torch.from_numpy(part))
        whole = np.concatenate(parts).astype(np.float64)
        expected = np.clip((whole - whole.mean(axis=0)) / whole.std(axis=0), -2, 2)
        found = net({"obs": torch.from_numpy(whole).float()})["x"]["obs"]
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert found.abs().max() == 2

    def test_forms_of_the_input(self):
        net = NormalizedModel(Echo(), [3])
        net.observe(torch.randn(50, 3) * 4)
        obs, state = torch.randn(2, 3), torch.ones(2, 3)
        scaled = net.normalize(obs)
        assert not torch.allclose(scaled, obs)
        assert torch.equal(net(obs)["x"], scaled)
        output = net({"obs": obs, "action": state, "prev_state": {"h": state}}, mode="compute_q")
        assert torch.equal(output["x"]["obs"], scaled) and output["x"]["action"] is state
        assert output["x"]["prev_state"]["h"] is state and output["mode"] == "compute_q"
        sequence = torch.randn(4, 2, 3)
        assert torch.equal(net({"obs": sequence}, sequence=True)["x"]["obs"][1], net.normalize(sequence[1]))

    def test_mappings(self):
        dims = {"b": 3, "a": (2,), "image": (1, 4, 4), "action_mask": 2, "count": 1}
        net = NormalizedModel(Echo(), dims)
        obs = {
            "a": torch.randn(60, 2), "b": 7 * torch.randn(60, 3), "image": torch.rand(60, 1, 4, 4),
            "action_mask": torch.ones(60, 2, dtype=torch.bool), "count": torch.arange(60)[:, None],
        }  # fmt: skip
        net.observe(obs)
        for form in (obs, {"obs": obs}):
            found = net(form)["x"]
            found = found.get("obs", found)
            for key in ("a", "b"):
                expected = (obs[key] - obs[key].mean(0)) / obs[key].std(0, correction=0)
                assert torch.allclose(found[key], expected, atol=1e-5)
            assert all(found[key] is obs[key] for key in ("image", "action_mask", "count"))

    def test_valid_rows_alone_count(self):
        one, other = NormalizedModel(Echo(), 3), NormalizedModel(Echo(), 3)
        obs, valid = torch.randn(6, 4, 3), torch.rand(6, 4) < 0.5
        obs[~valid] = float("nan")
        one.observe(obs, valid)
        other.observe(obs[valid])
        assert torch.equal(one.moments[0].mean, other.moments[0].mean) and one.moments[0].count == valid.sum()
        one.observe(obs, torch.zeros_like(valid))
        assert one.moments[0].count == valid.sum()
        other.observe(torch.randn(2, 3, 4, 3))
        assert other.moments[0].count == valid.sum() + 24

    def test_before_the_first_observation_nothing_changes(self):
        obs = 1e3 * torch.randn(4, 3)
        assert torch.equal(NormalizedModel(Echo(), 3)(obs)["x"], obs)

    def test_digits_survive_a_large_offset(self):
        """float32 near 1e6 is exact to 1/16; nothing further may be lost."""
        obs = (1e6 + torch.randint(-8, 9, (500, 1)).double() / 4).float()
        net = NormalizedModel(Echo(), 1)
        net.observe(obs)
        exact = obs.double()
        expected = (exact - exact.mean()) / exact.std(correction=0)
        assert torch.allclose(net(obs)["x"].double(), expected, atol=1e-6)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
    def test_a_constant_becomes_zero(self, value):
        net, obs = NormalizedModel(Echo(), 2), torch.randn(100, 2)
        obs[:, 0] = value
        for part in obs.split(7):
            net.observe(part)
        found = net(obs)["x"]
        assert found[:, 0].abs().max() < 1e-4 and found.isfinite().all()
        obs[:, 0] += 1.0 + value
        assert torch.equal(net(obs)["x"][:, 0], torch.full((100,), 10.0))  # what is new is clipped

    def test_one_observation(self):
        net = NormalizedModel(Echo(), 2)
        net.observe(torch.tensor([[3.0, -1.0]]))
        assert net(torch.tensor([[3.0, -1.0]]))["x"].tolist() == [[0, 0]]

    def test_statistics_are_in_the_weights(self, tmp_path):
        net, other = (NormalizedModel(FCDiscreteNet(3, 2), 3) for _ in range(2))
        net.observe(torch.randn(50, 3) * 3 + 1e6)
        save_state(tmp_path / "state", {}, weights=net.state_dict())
        other.load_state_dict(load_state(tmp_path / "state")[1])
        obs = torch.randn(4, 3) * 3 + 1e6
        assert torch.equal(other(obs)["logit"], net(obs)["logit"])
        assert other.moments[0].mean.dtype == torch.float64
        for model in (net, other):
            model.observe(obs)
        assert torch.equal(other.moments[0].var, net.moments[0].var)

    def test_no_gradient_and_no_parameter_of_its_own(self):
        model = FCDiscreteNet(3, 2)
        net = NormalizedModel(model, 3)
        net.observe(torch.randn(50, 3, requires_grad=True))
        assert list(net.parameters()) == list(model.parameters())
        obs = torch.randn(4, 3, requires_grad=True)
        net(obs)["logit"].sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        assert not any(b.requires_grad for b in net.buffers()) and obs.grad.abs().sum() > 0

    def test_the_networks_attributes(self):
        net = NormalizedModel(SACNet(3, 2), 3)
        assert net.actor is net.model.actor and net.critic is net.model.critic
        assert not hasattr(net, "reset_noise") and hasattr(NormalizedModel(NoiseFCDiscreteNet(3, 2), 3), "reset_noise")
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            net.nothing
        noisy = NormalizedModel(NoiseFCDiscreteNet(3, 2), 3)
        before = noisy(torch.ones(1, 3))["logit"]
        noisy.reset_noise()
        assert not torch.equal(noisy(torch.ones(1, 3))["logit"], before)

    def test_copies_are_whole(self):
        net = NormalizedModel(SACNet(3, 2), 3)
        twin = copy.deepcopy(net)
        net.observe(torch.randn(50, 3))
        assert isinstance(twin, NormalizedModel) and twin.actor is not net.actor and twin.moments[0].count == 0

    def test_a_network_that_copies_itself(self):
        class Own(Echo):
            def __deepcopy__(self, memo):
                return Own()

        assert isinstance(copy.deepcopy(NormalizedModel(Own(), 3)), NormalizedModel)

    @pytest.mark.parametrize(
        "obs_dim, clip, message",
        [
            (
                (4, 84, 84),
                10.0,
                r"observation normalization takes vectors, obs_dim is \(4, 84, 84\); images are divided",
            ),
            ({"image": (4, 84, 84), "action_mask": 3}, 10.0, "observation normalization takes vectors"),
            (3, 0.0, "the clip of normalized observations is 0.0; expected more than 0"),
        ],
    )
    def test_refusals(self, obs_dim, clip, message):
        with pytest.raises(ConfigError, match=message):
            NormalizedModel(Echo(), obs_dim, clip)


@pytest.mark.parametrize(
    "update", [{"update_type": "assign", "update_kwargs": {"freq": 1}},
               {"update_type": "momentum", "update_kwargs": {"theta": 1.0}}]
)  # fmt: skip
def test_a_target_network_follows(update):
    """Reward statistics within the model too, whose lanes the copy has not seen."""
    net = NormalizedModel(FCDiscreteNet(3, 2), 3)
    net.add_module("reward_scale", RewardScale(GAMMA))
    agent = Agent(net)
    agent.add_model("target", **update)
    obs = torch.randn(50, 3) * 4
    net.observe(obs)
    net.reward_scale.observe(*rewards(5, 40), torch.arange(40))
    agent.target_update(agent.state_dict()["model"])
    assert torch.allclose(agent.target_forward(obs)["logit"], agent.forward(obs)["logit"])


def rewards(steps, lanes, seed=0):
    """reward, terminated, truncated, valid [T, b]; the row after an end is a dummy."""
    rng = torch.Generator().manual_seed(seed)
    reward = 3 * torch.randn(steps, lanes, generator=rng) + 1
    end = torch.rand(steps, lanes, generator=rng)
    valid = torch.ones(steps, lanes, dtype=torch.bool)
    for t in range(1, steps):
        valid[t] = ~(valid[t - 1] & (end[t - 1] < 0.4))
    return reward, valid & (end < 0.2), valid & (end >= 0.2) & (end < 0.4), valid


def slow_returns(reward, terminated, truncated, valid):
    """The discounted sums so far, row by row, of the valid rows of each lane."""
    found = []
    for lane in range(reward.shape[1]):
        total = 0.0
        for t in range(len(reward)):
            if valid[t, lane]:
                total = GAMMA * total + float(reward[t, lane])
                found.append(total)
                if terminated[t, lane] or truncated[t, lane]:
                    total = 0.0
    return np.array(found)


class TestRewardScale:
    @pytest.mark.parametrize("cuts", [(60,), (1, 2, 57), (20, 20, 20)])
    def test_std_of_the_running_return(self, cuts):
        """However the rows are cut into blocks."""
        columns, scale = rewards(60, 4), RewardScale(GAMMA)
        for block in zip(*(c.split(list(cuts)) for c in columns), strict=True):
            scale.observe(*block, torch.arange(4))
        expected = slow_returns(*columns)
        assert scale.moments.count == len(expected) == columns[3].sum()
        assert scale.moments.var.item() == pytest.approx(expected.var(), rel=1e-6)
        reward = torch.randn(5, 3)
        assert torch.allclose(scale.scale(reward), reward / float(expected.std()), atol=1e-6)
        assert scale.scale(reward).dtype == torch.float32

    def test_lanes_in_any_order_and_not_together(self):
        columns, scale = rewards(60, 4), RewardScale(GAMMA)
        for lanes, rows in (([2, 0, 1], slice(30)), ([3], slice(30)), ([3, 1, 2, 0], slice(30, 60))):
            scale.observe(*(c[rows][:, lanes] for c in columns), torch.tensor(lanes).expand(30, -1))
        assert scale.moments.var.item() == pytest.approx(slow_returns(*columns).var(), rel=1e-6)

    def test_a_lane_beyond_those_held(self):
        columns, scale, other = rewards(60, 1), RewardScale(GAMMA), RewardScale(GAMMA)
        for block in zip(*(c.split(20) for c in columns), strict=True):
            scale.observe(*block, torch.tensor([5000]))
        assert scale.moments.var.item() == pytest.approx(slow_returns(*columns).var(), rel=1e-6)
        other.load_state_dict(scale.state_dict())
        assert other.running[5000] == scale.running[5000] and len(other.running) == 5001
        other.load_state_dict(RewardScale(GAMMA).state_dict())
        assert other.running.abs().sum() == 0 and other.moments.count == 0

    def test_goes_on_after_a_restart(self):
        columns = rewards(60, 4)
        first, second = ([c[:25] for c in columns], [c[25:] for c in columns])
        scale, other = RewardScale(GAMMA), RewardScale(GAMMA)
        scale.observe(*first, torch.arange(4))
        other.load_state_dict(scale.state_dict())
        for s in (scale, other):
            s.observe(*second, torch.arange(4))
        assert torch.equal(other.moments.var, scale.moments.var) and torch.equal(other.running, scale.running)

    def test_before_the_first_reward_nothing_changes(self):
        reward = 1e3 * torch.randn(4)
        assert torch.equal(RewardScale(GAMMA).scale(reward), reward)

    def test_clip_and_constant_rewards(self):
        scale = RewardScale(0.0, clip=2.0)
        reward, end = torch.ones(9, 2), torch.zeros(9, 2, dtype=torch.bool)
        scale.observe(reward, end, end, None, torch.arange(2))
        assert scale.scale(torch.tensor([1.0, -1.0, 0.0])).tolist() == [2, -2, 0]

    @pytest.mark.parametrize("gamma, clip", [(1.1, 10.0), (-0.1, 10.0), (0.9, 0.0)])
    def test_refusals(self, gamma, clip):
        with pytest.raises(
            ConfigError, match=f"reward scaling has discount_factor {gamma} and clip {clip}; expected 0"
        ):
            RewardScale(gamma, clip)
