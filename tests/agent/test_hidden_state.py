"""Recurrent states, one per lane."""

import torch
from toy_models import Summer

from nervex.agent import Agent


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
