"""What each plugin does to a forward: numbers, frequencies, lanes, states."""

import math

import pytest
import torch
from torch import nn
from toy_models import Echo

from nervex.agent import Agent
from nervex.rl_utils.distribution import log_prob
from nervex.utils.errors import ConfigError

LANES = 1000

# 'meta' tensors hold no numbers, but mixing their device with the CPU's is an error, as with those of a GPU
DEVICES = ["meta", pytest.param("cuda", marks=pytest.mark.gpu)]


def agent_of(model, *plugins, **kwargs):
    agent = Agent(model)
    for plugin in plugins:
        agent.add_plugin("main", plugin, **kwargs)
    return agent


def action_of(plugin, logit, mask=None, **kwargs):
    """The action for logits [b, N] (or a list of them), with the mask in the observation."""
    obs = {"logit": logit} if mask is None else {"logit": logit, "action_mask": mask}
    return agent_of(Echo(), plugin).forward({"obs": obs}, **kwargs)["action"]


class TestArgmax:
    def test_the_largest_logit(self):
        action = action_of("argmax_sample", torch.tensor([[1.0, 3.0, 2.0], [9.0, -1.0, 0.0]]))
        assert action.tolist() == [1, 0] and action.dtype == torch.int64

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
    def test_a_masked_action_is_never_taken(self, dtype):
        logit = torch.tensor([[1.0, 3.0, 2.0], [9.0, -100.0, -2000.0]])
        mask = torch.tensor([[1, 0, 1], [0, 0, 1]]).to(dtype)
        assert action_of("argmax_sample", logit, mask).tolist() == [2, 2]

    def test_a_mask_that_the_model_gives_goes_first(self):
        class Masking(nn.Module):
            def forward(self, x):
                return {"logit": x["obs"]["logit"], "action_mask": torch.tensor([[False, True]])}

        agent = agent_of(Masking(), "argmax_sample")
        obs = {"logit": torch.tensor([[5.0, 1.0]]), "action_mask": torch.tensor([[True, False]])}
        assert agent.forward({"obs": obs})["action"].tolist() == [1]

    def test_several_heads(self):
        logit = [torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([[0.0, 5.0, 1.0], [0.0, 1.0, 5.0]])]
        assert action_of("argmax_sample", logit).tolist() == [[1, 1], [0, 2]]
        mask = [torch.tensor([[True, False], [True, True]]), torch.tensor([[True, False, True], [True, True, False]])]
        assert action_of("argmax_sample", logit, mask).tolist() == [[0, 2], [0, 1]]

    def test_a_normal_gives_its_mean(self):
        logit = {"mu": torch.tensor([[1.0, -2.0]]), "sigma": torch.tensor([[0.5, 3.0]])}
        assert action_of("argmax_sample", logit).tolist() == [[1.0, -2.0]]

    def test_the_logit_stays(self):
        logit = torch.tensor([[1.0, 3.0]])
        output = agent_of(Echo(), "argmax_sample").forward(logit)
        assert torch.equal(output["logit"], logit)


class TestMultinomial:
    def test_frequencies_are_those_of_the_softmax(self):
        torch.manual_seed(0)
        logit = torch.tensor([[0.1, 0.2, 0.7]]).log().expand(20_000, 3)
        frequency = action_of("multinomial_sample", logit).bincount(minlength=3) / 20_000
        assert frequency.tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.012)

    def test_a_masked_action_is_never_drawn(self):
        torch.manual_seed(0)
        logit = torch.tensor([[0.0, 50.0, 0.0]]).expand(2000, 3)
        mask = torch.tensor([[True, False, True]]).expand(2000, 3)
        frequency = action_of("multinomial_sample", logit, mask).bincount(minlength=3) / 2000
        assert frequency[1] == 0 and frequency[0].item() == pytest.approx(0.5, abs=0.05)

    def test_heads_draw_independently(self):
        torch.manual_seed(0)
        action = action_of("multinomial_sample", [torch.zeros(4000, 2), torch.zeros(4000, 2)])
        assert action.shape == (4000, 2)
        pairs = (action[:, 0] * 2 + action[:, 1]).bincount(minlength=4) / 4000
        assert pairs.tolist() == pytest.approx([0.25] * 4, abs=0.03)

    def test_a_normal(self):
        torch.manual_seed(0)
        logit = {"mu": torch.tensor([1.0, -2.0]).expand(20_000, 2), "sigma": torch.tensor([0.5, 3.0]).expand(20_000, 2)}
        action = action_of("multinomial_sample", logit)
        assert action.shape == (20_000, 2) and action.dtype == torch.float32
        assert action.mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.06)
        assert action.std(0).tolist() == pytest.approx([0.5, 3.0], rel=0.03)

    @pytest.mark.parametrize(
        "logit",
        [
            torch.tensor([[0.0, 1.0, -1.0], [3.0, 0.0, 0.0]]),
            [torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0, -1.0], [3.0, 0.0, 0.0]])],
            {"mu": torch.tensor([[0.1, 2.0], [0.0, 0.0]]), "sigma": torch.tensor([[1.0, 2.0], [0.5, 0.1]])},
        ],
        ids=["discrete", "multi_discrete", "normal"],
    )
    def test_the_log_probability_is_that_of_the_action(self, logit):
        torch.manual_seed(0)
        for _ in range(5):
            output = agent_of(Echo(), "multinomial_sample").forward({"obs": {"logit": logit}})
            assert output["logp"].shape == (2,)
            assert torch.allclose(output["logp"], log_prob(logit, output["action"]))

    def test_the_log_probability_is_that_of_the_allowed_actions(self):
        logit, mask = torch.tensor([[1.0, 50.0, 1.0]]), torch.tensor([[True, False, True]])
        output = agent_of(Echo(), "multinomial_sample").forward({"obs": {"logit": logit, "action_mask": mask}})
        assert output["logp"].item() == pytest.approx(math.log(0.5))
        heads, masks = [logit, logit], [mask, torch.tensor([[False, True, False]])]
        output = agent_of(Echo(), "multinomial_sample").forward({"obs": {"logit": heads, "action_mask": masks}})
        assert output["logp"].item() == pytest.approx(math.log(0.5)) and output["action"][0, 1] == 1


class TestEpsGreedy:
    """Defect 9: one number was drawn for the whole batch, so that all lanes explored or none."""

    logit = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]).expand(LANES, 8)

    def test_about_half_of_the_lanes_explore_at_every_step(self):
        torch.manual_seed(0)
        agent = agent_of(Echo(), "eps_greedy_sample")
        explored = torch.stack([agent.forward(self.logit, eps=0.5)["action"] != 7 for _ in range(20)])
        rate = explored.float().mean(dim=1)  # 1/2 explore, 7/8 of them take another action
        assert rate.tolist() == pytest.approx([7 / 16] * 20, abs=0.06)
        per_lane = explored.sum(dim=0)  # binomial(20, 7/16): lanes are not always or never among them
        assert per_lane.float().var().item() == pytest.approx(20 * 7 / 16 * 9 / 16, rel=0.2)

    def test_exploration_is_uniform_over_all_actions(self):
        torch.manual_seed(0)
        action = torch.cat([action_of("eps_greedy_sample", self.logit, eps=1.0) for _ in range(8)])
        assert (action.bincount(minlength=8) / len(action)).tolist() == pytest.approx([1 / 8] * 8, abs=0.015)

    @pytest.mark.parametrize("eps", [0, 0.0, torch.tensor(0.0)])
    def test_no_eps_is_greedy(self, eps):
        assert (action_of("eps_greedy_sample", self.logit, eps=eps) == 7).all()

    def test_eps_per_lane(self):
        torch.manual_seed(0)
        eps = torch.zeros(LANES)
        eps[::2] = 1.0
        action = action_of("eps_greedy_sample", self.logit, eps=eps)
        assert (action[1::2] == 7).all()
        assert (action[::2] != 7).float().mean().item() == pytest.approx(7 / 8, abs=0.05)

    def test_the_mask_holds_for_both(self):
        torch.manual_seed(0)
        mask = torch.zeros(LANES, 8, dtype=torch.bool)
        mask[:, [1, 2, 4]] = True
        action = action_of("eps_greedy_sample", self.logit, mask, eps=0.5)
        frequency = action.bincount(minlength=8) / LANES
        assert frequency[[1, 2, 4]].tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3], abs=0.05)
        assert frequency[[0, 3, 5, 6, 7]].sum() == 0

    def test_a_mask_per_lane(self):
        torch.manual_seed(0)
        allowed = torch.arange(LANES) % 8
        mask = torch.nn.functional.one_hot(allowed, 8).bool()
        assert torch.equal(action_of("eps_greedy_sample", self.logit, mask, eps=0.5), allowed)

    def test_several_heads_explore_together_and_draw_apart(self):
        torch.manual_seed(0)
        heads = [torch.tensor([[0.0, 1.0]]).expand(LANES, 2), torch.tensor([[0.0, 0.0, 9.0]]).expand(LANES, 3)]
        action = action_of("eps_greedy_sample", heads, eps=torch.tensor([0.0, 1.0]).repeat(LANES // 2))
        assert (action[::2] == torch.tensor([1, 2])).all()
        pairs = (action[1::2, 0] * 3 + action[1::2, 1]).bincount(minlength=6) / (LANES // 2)
        assert pairs.tolist() == pytest.approx([1 / 6] * 6, abs=0.06)

    def test_masks_of_several_heads(self):
        torch.manual_seed(0)
        heads = [torch.tensor([[0.0, 1.0]]).expand(LANES, 2), torch.tensor([[0.0, 0.0, 9.0]]).expand(LANES, 3)]
        masks = [torch.tensor([[True, False]]).expand(LANES, 2), torch.tensor([[True, True, False]]).expand(LANES, 3)]
        action = action_of("eps_greedy_sample", heads, masks, eps=0.5)
        assert (action[:, 0] == 0).all()
        assert (action[:, 1].bincount(minlength=3) / LANES).tolist() == pytest.approx([0.75, 0.25, 0], abs=0.05)

    def test_one_seed_one_sequence(self):
        torch.manual_seed(5)
        first = action_of("eps_greedy_sample", self.logit, eps=0.5)
        torch.manual_seed(5)
        assert torch.equal(action_of("eps_greedy_sample", self.logit, eps=0.5), first)

    def test_eps_does_not_reach_the_model(self):
        model = Echo()
        agent_of(model, "eps_greedy_sample").forward(self.logit, eps=0.1)
        assert model.calls[0][1] == {}

    def test_a_forward_without_eps(self):
        with pytest.raises(ConfigError, match=r"eps_greedy_sample: forward\(\) got no 'eps'"):
            action_of("eps_greedy_sample", self.logit)


class Steady(nn.Module):
    """The same continuous action always."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = value

    def forward(self, x):
        return {"action": torch.full((len(x["obs"]), 3), self.value)}


class TestActionNoise:
    def noisy(self, value, rows=2000, **kwargs):
        torch.manual_seed(0)
        agent = Agent(Steady(value))
        agent.add_plugin("main", "action_noise", **kwargs)
        return agent.forward(torch.zeros(rows, 1))["action"]

    def test_it_is_added(self):
        action = self.noisy(0.25, noise_kwargs={"sigma": 0.1})
        assert action.mean().item() == pytest.approx(0.25, abs=0.01)
        assert action.std().item() == pytest.approx(0.1, abs=0.01)
        assert action.unique().numel() > 5000  # every lane and dimension draws for itself

    def test_the_noise_is_clipped(self):
        action = self.noisy(0.0, noise_kwargs={"sigma": 1.0}, noise_range={"min": -0.5, "max": 0.25})
        assert action.min().item() == -0.5 and action.max().item() == 0.25

    def test_the_sum_is_clipped_to_one_unless_told(self):
        action = self.noisy(0.9, noise_kwargs={"sigma": 1.0})
        assert action.max().item() == 1.0 and action.min().item() == -1.0
        wide = self.noisy(0.9, noise_kwargs={"sigma": 3.0}, action_range={"min": -4.0, "max": 2.0})
        assert wide.max().item() == 2.0 and wide.min().item() == -4.0

    def test_ornstein_uhlenbeck_keeps_a_state_per_lane(self):
        agent = Agent(Steady(0.0))
        agent.add_plugin("main", "action_noise", noise_type="ou",
                         noise_kwargs={"sigma": 0.0, "theta": 1.0, "dt": 0.5, "x0": 0.8})  # fmt: skip
        obs = torch.zeros(2, 1)
        assert agent.forward(obs)["action"].unique().item() == pytest.approx(0.4)
        assert agent.forward(obs)["action"].unique().item() == pytest.approx(0.2)
        agent.reset(data_id=[1])
        assert agent.forward(obs)["action"][:, 0].tolist() == pytest.approx([0.1, 0.4])
        state = agent.full_state()
        expected = agent.forward(obs)["action"]
        other = Agent(Steady(0.0))
        other.add_plugin("main", "action_noise", noise_type="ou",
                         noise_kwargs={"sigma": 0.0, "theta": 1.0, "dt": 0.5, "x0": 0.8})  # fmt: skip
        other.load_full_state(state)
        assert torch.equal(other.forward(obs)["action"], expected)

    def test_lanes_are_reset_after_acting_in_inference_mode(self):
        agent = Agent(Steady(0.0))
        agent.add_plugin("main", "action_noise", noise_type="ou",
                         noise_kwargs={"sigma": 0.0, "theta": 1.0, "dt": 0.5, "x0": 0.8})  # fmt: skip
        with torch.inference_mode():
            agent.forward(torch.zeros(2, 1))
        agent.reset(data_id=[1])
        with torch.inference_mode():
            assert agent.forward(torch.zeros(2, 1))["action"][:, 0].tolist() == pytest.approx([0.2, 0.4])

    def test_lanes_that_come_one_by_one(self):
        """An asynchronous manager hands over the lanes that are ready, other ones at each step."""
        agent = Agent(Steady(0.0))
        agent.add_plugin("main", "action_noise", noise_type="ou",
                         noise_kwargs={"sigma": 0.0, "theta": 1.0, "dt": 0.5, "x0": 0.8})  # fmt: skip
        steps, count = [[0, 2], [2], [1, 2], [0, 1, 2, 3], [3, 0]], [0] * 4
        for lanes in steps:
            action = agent.forward(torch.zeros(len(lanes), 1), data_id=lanes)["action"]
            for lane in lanes:
                count[lane] += 1
            assert action[:, 0].tolist() == pytest.approx([0.8 * 0.5 ** count[lane] for lane in lanes])
        agent.reset(data_id=[2])
        assert agent.forward(torch.zeros(2, 1), data_id=[2, 3])["action"][:, 0].tolist() == pytest.approx([0.4, 0.1])

    def test_unknown_noise(self):
        with pytest.raises(ConfigError, match="unknown noise 'uo'"):
            self.noisy(0.0, noise_type="uo")


@pytest.mark.parametrize("device", DEVICES)
def test_actions_are_drawn_where_the_logits_are(device):
    logit, lanes = torch.zeros(4, 3, device=device), [0, 3, 1, 2]
    agent = agent_of(Echo().to(device), "eps_greedy_sample")
    for obs in ({"logit": logit}, {"logit": logit, "action_mask": logit == 0}, {"logit": [logit, logit]}):
        for eps in (0.5, torch.tensor(0.5), torch.full((4,), 0.5)):
            assert agent.forward({"obs": obs}, eps=eps, data_id=lanes)["action"].device.type == device
    agent = agent_of(Echo().to(device), "multinomial_sample")
    output = agent.forward({"obs": {"logit": logit, "action_mask": logit == 0}}, data_id=lanes)
    assert output["action"].device.type == output["logp"].device.type == device


@pytest.mark.parametrize("device", DEVICES)
def test_noise_is_drawn_where_the_actions_are(device):
    agent, saved = Agent(Echo().to(device)), Agent(Echo())
    for a, d in ((agent, device), (saved, "cpu")):
        a.add_plugin("main", "argmax_sample")
        a.add_plugin("main", "action_noise", noise_type="ou")
        logit = {"mu": torch.zeros(2, 3, device=d), "sigma": torch.ones(2, 3, device=d)}
        a.forward({"obs": {"logit": logit}}, data_id=[0, 2])
        a.reset(data_id=torch.tensor([1, 7]))
    agent._agents["main"].load_plugin_state(saved._agents["main"].plugin_state())
    logit = {"mu": torch.zeros(2, 3, device=device), "sigma": torch.ones(2, 3, device=device)}
    assert agent.forward({"obs": {"logit": logit}}, data_id=[4, 0])["action"].device.type == device
    agent._agents["main"].load_plugin_state(saved._agents["main"].plugin_state())
    assert agent.forward({"obs": {"logit": logit}})["action"].device.type == device
