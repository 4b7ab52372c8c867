"""Target networks: copies and slow followers, their counts, and what is copied with the weights."""

import copy

import pytest
import torch
from torch import nn
from toy_models import Echo, Noisy

from nervex.agent import Agent
from nervex.utils.errors import ConfigError


def target_agent(model, **kwargs):
    agent = Agent(model)
    agent.add_model("target", **kwargs)
    return agent


def test_assign_copies_at_every_freq_th_update():
    model = Echo(0.0)
    agent = target_agent(model, update_type="assign", update_kwargs={"freq": 3})
    held = []
    for i in range(1, 8):
        model.weight.data.fill_(float(i))
        agent.target_update(agent.state_dict()["model"])
        held.append(agent.target_model.weight.item())
    assert held == [0, 0, 3, 3, 3, 6, 6]


def test_reset_starts_counting_anew():
    model = Echo(0.0)
    agent = target_agent(model, update_type="assign", update_kwargs={"freq": 2})
    model.weight.data.fill_(1.0)
    agent.target_update(agent.state_dict()["model"])
    agent.target_reset()
    agent.target_update(agent.state_dict()["model"])
    assert agent.target_model.weight.item() == 0.0
    agent.target_update(agent.state_dict()["model"])
    assert agent.target_model.weight.item() == 1.0


def test_the_count_is_in_the_state():
    def fresh():
        return target_agent(Echo(0.0), update_type="assign", update_kwargs={"freq": 2})

    first, second = fresh(), fresh()
    first.target_update(first.state_dict()["model"])
    second.load_full_state(first.full_state())
    second.target_update({"weight": torch.tensor(4.0)})
    assert second.target_model.weight.item() == 4.0


@pytest.mark.parametrize(
    "kwargs",
    [
        {"update_type": "assign", "update_kwargs": {"freq": 100}},
        {"update_type": "momentum", "update_kwargs": {"theta": 0.01}},
    ],
)
def test_direct_copies_at_once(kwargs):
    model = Noisy()
    agent = target_agent(model, **kwargs)
    agent.mode(train=True)
    agent.forward(torch.randn(8, 2))
    model.linear.weight.data.fill_(2.0)
    agent.target_update(agent.state_dict()["model"], direct=True)
    own, main = agent.target_model.state_dict(), model.state_dict()
    assert all(torch.equal(own[k], main[k]) for k in main)


def test_momentum_numbers():
    model = Echo(0.0)
    agent = target_agent(model, update_type="momentum", update_kwargs={"theta": 0.25})
    model.weight.data.fill_(8.0)
    held = []
    for _ in range(3):
        agent.target_update(agent.state_dict()["model"])
        held.append(agent.target_model.weight.item())
    assert held == [2.0, 3.5, 4.625]  # p + (p_main − p) / 4


def test_buffers_follow_too():
    """Defect 14: the running statistics of the target stayed those of its birth."""
    torch.manual_seed(0)
    model = Noisy()
    agent = target_agent(model, update_type="momentum", update_kwargs={"theta": 0.5})
    agent.mode(train=True)
    for _ in range(3):
        agent.forward(torch.randn(16, 2) + 10)
    moving = {k for k, _ in model.named_parameters()}  # statistics are copied: they are no slower than the rows
    expected = {k: (v + w) / 2 if k in moving else v for (k, v), w in
                zip(model.state_dict().items(), agent.target_model.state_dict().values(), strict=True)}  # fmt: skip
    agent.target_update(agent.state_dict()["model"])
    own = agent.target_model.state_dict()
    assert own["norm.running_mean"].min() > 1 and own["norm.num_batches_tracked"].item() == 3
    assert all(torch.allclose(own[k].float(), expected[k].float()) for k in expected)


def test_a_weight_with_two_names_moves_once():
    model = nn.Module()
    model.a, model.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    model.b.weight = model.a.weight
    nn.init.zeros_(model.a.weight)
    agent = target_agent(model, update_type="momentum", update_kwargs={"theta": 0.25})
    nn.init.constant_(model.a.weight, 8.0)
    agent.target_update(agent.state_dict()["model"])
    assert agent.target_model.b.weight is agent.target_model.a.weight
    assert agent.target_model.a.weight.unique().tolist() == [2.0]


def test_what_is_no_tensor_is_left_alone():
    class Counting(Echo):
        def get_extra_state(self):
            return {"count": 3}

        def set_extra_state(self, state):
            pass

    model = Counting(0.0)
    agent = target_agent(model, update_type="momentum", update_kwargs={"theta": 0.25})
    model.weight.data.fill_(8.0)
    agent.target_update(agent.state_dict()["model"])
    assert agent.target_model.weight.item() == 2.0


def test_a_part_that_both_get_later_moves_too():
    model = Echo(0.0)
    agent = target_agent(model, update_type="momentum", update_kwargs={"theta": 0.25})
    agent.target_update(agent.state_dict()["model"])
    for network, value in ((model, 8.0), (agent.target_model, 0.0)):
        network.extra = nn.Linear(1, 1)
        nn.init.constant_(network.extra.weight, value)
    agent.target_update(agent.state_dict()["model"])
    assert agent.target_model.extra.weight.item() == 2.0


def test_the_tensors_stay_the_same_ones():
    model = Noisy()
    agent = target_agent(model, update_type="momentum", update_kwargs={"theta": 0.5})
    before = {k: v.data_ptr() for k, v in agent.target_model.state_dict().items()}
    agent.target_update(agent.state_dict()["model"])
    assert {k: v.data_ptr() for k, v in agent.target_model.state_dict().items()} == before


def test_the_target_and_the_main_model_share_nothing():
    model = Noisy()
    agent = target_agent(model, update_type="assign", update_kwargs={"freq": 1})
    agent.target_update(agent.state_dict()["model"])
    before = copy.deepcopy(agent.target_model.state_dict())
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    after = agent.target_model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_what_it_refuses():
    with pytest.raises(ConfigError, match=r"target: unknown update_type 'asign'; did you mean 'assign'"):
        target_agent(Echo(), update_type="asign", update_kwargs={"freq": 1})
    with pytest.raises(ConfigError, match=r"target: update_kwargs {'freq': 1} lacks 'theta'"):
        target_agent(Echo(), update_type="momentum", update_kwargs={"freq": 1})


def bias(model):
    return model.linear.bias


@pytest.mark.parametrize("which", ["main", "target"])
@pytest.mark.parametrize("part", [False, True])
def test_weights_that_are_replaced_are_followed(which, part):
    model = Noisy()
    agent = target_agent(model, update_type="momentum", update_kwargs={"theta": 0.5})
    agent.target_update(agent.state_dict()["model"])
    changed = model if which == "main" else agent.target_model
    new = torch.full_like(bias(changed), 4.0)
    if part:
        changed.linear = copy.deepcopy(changed.linear)
        changed.linear.bias.data = new
    else:
        changed.linear.bias = torch.nn.Parameter(new)
    expected = (bias(model) + bias(agent.target_model)) / 2
    agent.target_update(agent.state_dict()["model"])
    assert torch.allclose(bias(agent.target_model), expected)


def test_the_state_of_another_model_may_come_between():
    model, other = Noisy(), Noisy()
    agent = target_agent(model, update_type="assign", update_kwargs={"freq": 1})
    for source in (agent.state_dict()["model"], other.state_dict(), agent.state_dict()["model"]):
        agent.target_update(source)
        assert all(torch.equal(v, source[k]) for k, v in agent.target_model.state_dict().items())
