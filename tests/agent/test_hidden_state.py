"""Recurrent states, one per lane."""

import pytest
import torch
from toy_models import Memory, Summer

from nervex.agent import Agent
from nervex.utils.errors import ConfigError, SpecError

# 'meta' tensors hold no numbers, but mixing their device with the CPU's is an error, as with those of a GPU
DEVICES = ["meta", pytest.param("cuda", marks=pytest.mark.gpu)]


def agent_of(model=None, lanes=3, **kwargs):
    agent = Agent(model or Summer())
    agent.add_plugin("main", "hidden_state", state_num=lanes, **kwargs)
    return agent


def test_each_lane_has_its_own_state():
    agent = agent_of()
    obs = torch.tensor([[1.0], [10.0], [100.0]])
    assert agent.forward(obs)["logit"][:, 0].tolist() == [1, 10, 100]
    output = agent.forward(obs)
    assert output["logit"][:, 0].tolist() == [2, 20, 200] and "next_state" not in output


def test_some_lanes_in_any_order():
    agent = agent_of()
    agent.forward(torch.tensor([[1.0], [10.0], [100.0]]))
    output = agent.forward(torch.tensor([[1.0], [2.0]]), data_id=[2, 0])
    assert output["logit"][:, 0].tolist() == [101, 3]
    assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [3, 10, 101]


def test_the_first_forward_may_serve_some_lanes_only():
    agent = agent_of()
    agent.forward(torch.tensor([[5.0]]), data_id=torch.tensor([1]))
    assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [0, 5, 0]


def test_reset_of_some_lanes():
    agent = agent_of()
    agent.forward(torch.tensor([[1.0], [10.0], [100.0]]))
    agent.reset(data_id=[0, 2])
    assert agent.forward(torch.ones(3, 1))["logit"][:, 0].tolist() == [1, 11, 1]
    agent.reset()
    assert agent.forward(torch.zeros(3, 1))["logit"].abs().sum() == 0


def test_reset_to_a_given_state():
    agent = agent_of()
    agent.forward(torch.zeros(3, 1))
    agent.reset(data_id=[2, 0], state=torch.tensor([[7.0], [8.0]]))
    assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [8, 0, 7]


def test_reset_to_a_given_state_before_the_first_forward():
    """What a recurrent learner does: it sets the stored state, then runs the batch."""
    agent = agent_of()
    agent.reset(state=torch.tensor([[1.0], [2.0], [3.0]]))
    assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [1, 2, 3]
    other = agent_of(init_fn=lambda: torch.tensor([9.0]))
    other.reset(data_id=[1], state=torch.tensor([[5.0]]))
    assert other.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [9, 5, 9]


def test_initial_state():
    agent = agent_of(init_fn=lambda: torch.tensor([3.0]))
    assert agent.forward(torch.tensor([[0.0], [1.0]]), data_id=[0, 2])["logit"][:, 0].tolist() == [3, 4]
    agent.reset(data_id=[2])
    assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [3, 3, 3]


def test_the_state_before_the_forward_is_given_out():
    agent = agent_of(save_prev_state=True)
    first = agent.forward(torch.ones(3, 1))["prev_state"]
    assert first.tolist() == [[0], [0], [0]]
    second = agent.forward(torch.ones(2, 1), data_id=[1, 2])["prev_state"]
    assert second.tolist() == [[1], [1]] and not second.requires_grad
    agent.forward(torch.ones(3, 1))
    assert second.tolist() == [[1], [1]]  # what was given out does not change afterwards


def test_no_gradient_flows_from_one_forward_to_the_next():
    model = Summer()
    agent = agent_of(model)
    agent.forward(torch.ones(3, 1))
    agent.forward(torch.ones(3, 1))["logit"].sum().backward()
    assert model.scale.grad.item() == 3  # of the second step alone
    assert not model.seen[1].requires_grad


def test_lanes_are_reset_after_acting_in_inference_mode():
    agent = agent_of()
    with torch.inference_mode():
        agent.forward(torch.tensor([[1.0], [2.0], [3.0]]))
    agent.reset(data_id=[1])
    agent.reset(data_id=[2], state=torch.tensor([[7.0]]))
    with torch.inference_mode():
        assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [1, 0, 7]


def test_nested_states():
    model = Summer(nested=True)
    agent = agent_of(model, save_prev_state=True)
    agent.forward(torch.tensor([[1.0], [2.0], [3.0]]))
    output = agent.forward(torch.zeros(2, 1), data_id=[2, 1])
    assert output["logit"][:, 0].tolist() == [3, 2] and output["prev_state"]["h"][0][:, 0].tolist() == [3, 2]
    agent.reset(data_id=[1])
    assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [1, 0, 3]


def test_state_round_trip():
    agent, other = agent_of(), agent_of()
    agent.forward(torch.tensor([[1.0], [2.0], [3.0]]))
    other.load_full_state(agent.full_state())
    other.forward(torch.ones(3, 1))
    assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [1, 2, 3]  # not touched by the other one
    assert other.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [2, 3, 4]
    fresh = agent_of()
    fresh.load_full_state(agent_of().full_state())
    assert fresh.forward(torch.ones(3, 1))["logit"][:, 0].tolist() == [1, 1, 1]


class TestGrowth:
    def test_lanes_are_added_when_they_are_met(self):
        agent = agent_of(lanes=None)
        agent.forward(torch.tensor([[1.0], [10.0]]), data_id=[0, 2])
        assert agent.forward(torch.zeros(2, 1), data_id=[4, 2])["logit"][:, 0].tolist() == [0, 10]
        assert agent.forward(torch.ones(5, 1))["logit"][:, 0].tolist() == [2, 1, 11, 1, 1]

    def test_state_num_is_where_it_begins(self):
        agent = agent_of(lanes=2)
        agent.forward(torch.tensor([[5.0]]), data_id=[3])
        assert agent.forward(torch.zeros(4, 1))["logit"][:, 0].tolist() == [0, 0, 0, 5]

    def test_new_lanes_begin_in_the_initial_state(self):
        agent = agent_of(lanes=None, init_fn=lambda: torch.tensor([3.0]))
        assert agent.forward(torch.zeros(1, 1), data_id=[1])["logit"].item() == 3
        agent.forward(torch.ones(1, 1), data_id=[1])
        assert agent.forward(torch.zeros(2, 1), data_id=[1, 2])["logit"][:, 0].tolist() == [4, 3]
        agent.reset(data_id=[5, 1])
        assert agent.forward(torch.zeros(6, 1))["logit"][:, 0].tolist() == [3] * 6

    def test_all_rows_of_the_first_forward_are_the_lanes(self):
        agent = agent_of(lanes=None)
        agent.forward(torch.tensor([[1.0], [10.0]]))
        assert agent.forward(torch.zeros(2, 1))["logit"][:, 0].tolist() == [1, 10]

    def test_a_given_state_says_how_many_lanes_there_are(self):
        """A recurrent learner's batches need not be of one size."""
        agent = agent_of(lanes=None)
        for size in (4, 2, 3):
            agent.reset(state=torch.full((size, 1), 7.0))
            assert agent.forward(torch.ones(size, 1))["logit"][:, 0].tolist() == [8] * size

    def test_it_grows_between_inference_mode_and_outside(self):
        agent = agent_of(lanes=None)
        with torch.inference_mode():
            agent.forward(torch.tensor([[1.0]]), data_id=[0])
            agent.forward(torch.tensor([[2.0]]), data_id=[1])
        agent.reset(data_id=[2])
        agent.reset(data_id=[0])
        with torch.inference_mode():
            assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [0, 2, 0]

    def test_a_restored_one_grows_too(self):
        agent, other = agent_of(lanes=None), agent_of(lanes=None)
        agent.forward(torch.tensor([[1.0], [2.0]]), data_id=[0, 1])
        other.load_full_state(agent.full_state())
        assert other.forward(torch.zeros(2, 1), data_id=[2, 1])["logit"][:, 0].tolist() == [0, 2]

    def test_no_lanes_may_be_reset(self):
        agent = agent_of()
        agent.forward(torch.ones(3, 1))
        agent.reset(data_id=[])
        assert agent.forward(torch.zeros(3, 1))["logit"][:, 0].tolist() == [1, 1, 1]


def test_the_state_of_an_lstm():
    torch.manual_seed(0)
    model = Memory(2, 4)
    agent, obs = agent_of(model, lanes=None, save_prev_state=True), torch.randn(5, 3, 2)
    held = {"h": torch.zeros(3, 4), "c": torch.zeros(3, 4)}
    for t in range(5):
        expected = model({"obs": obs[t], "prev_state": held})
        lanes = [0, 1, 2] if t != 3 else [2, 0]  # lane 1 has nothing to do at step 3
        output = agent.forward(obs[t][lanes], data_id=lanes)
        assert torch.allclose(output["logit"], expected["logit"][lanes])
        assert all(torch.allclose(output["prev_state"][k], held[k][lanes]) for k in ("h", "c"))
        waits = torch.tensor([[t == 3 and lane == 1] for lane in range(3)])
        held = {k: torch.where(waits, held[k], v) for k, v in expected["next_state"].items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("init_fn", [None, lambda: {"h": (torch.ones(1),)}])
def test_the_state_is_where_the_model_is(device, init_fn):
    """Lane ids, initial states and checkpoints come from the CPU."""
    saved = agent_of(Summer(nested=True), lanes=None)
    saved.forward(torch.ones(4, 1))
    agent = agent_of(Summer(nested=True).to(device), lanes=2, init_fn=init_fn, save_prev_state=True)
    obs = torch.ones(2, 1, device=device)
    agent.forward(obs)
    agent.forward(obs, data_id=torch.tensor([2, 0]))
    agent.reset(data_id=[1])
    agent.reset(data_id=[1, 3], state={"h": (torch.ones(2, 1),)})
    agent.reset(state={"h": (torch.ones(2, 1),)})
    agent._agents["main"].load_plugin_state(saved._agents["main"].plugin_state())
    output = agent.forward(obs, data_id=[5, 0])
    assert output["logit"].device.type == output["prev_state"]["h"][0].device.type == device
    agent.reset()


def test_two_plugins_read_the_lanes():
    agent = agent_of(lanes=None)
    agent.add_plugin("main", "action_noise", noise_type="ou", noise_kwargs={"sigma": 0.0, "theta": 1.0, "dt": 0.5,
                                                                             "x0": 0.8})  # fmt: skip
    agent.forward(torch.ones(2, 1), data_id=[0, 1])
    output = agent.forward(torch.zeros(2, 1), data_id=[1, 2])
    assert output["logit"][:, 0].tolist() == [1, 0]
    assert output["action"][:, 0].tolist() == pytest.approx([0.2, 0.4])


def test_what_it_refuses():
    with pytest.raises(SpecError, match=r"hidden_state: got the states of 2 rows for 3 lanes; give forward.* data_id"):
        agent = agent_of()
        agent.forward(torch.ones(3, 1))
        agent.reset(data_id=[0, 1, 2], state=torch.ones(2, 1))
    with pytest.raises(ConfigError, match="hidden_state: how many lanes there are is not known"):
        agent_of(lanes=None, init_fn=lambda: torch.zeros(1)).forward(torch.ones(3, 1))
