"""The ready-made agents of DQN."""

import pytest
import torch
from torch import nn

from nervex.utils.errors import ConfigError, SpecError
from nervex.worker.agent import create_dqn_actor_agent, create_dqn_evaluator_agent, create_dqn_learner_agent


class Net(nn.Module):
    """Its action values are its weight, for every row; with dropout in train mode."""

    def __init__(self, *value):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return {"logit": self.dropout(self.weight.expand(len(x["obs"]), -1))}


def set_weight(net, *value):
    with torch.no_grad():
        net.weight.copy_(torch.tensor(value))


def test_a_learner_agent_without_a_target():
    agent = create_dqn_learner_agent(Net(1.0, 2.0), is_double=False)
    assert agent.is_double is False and not agent.has_model("target")
    with pytest.raises(AttributeError, match="target_forward"):
        agent.target_forward(torch.zeros(1, 1))


def test_assigning_at_every_third_update():
    net = Net(1.0, 2.0)
    agent = create_dqn_learner_agent(net, update_kwargs={"freq": 3})
    agent.target_mode(train=False)
    set_weight(net, 5.0, 6.0)
    seen = []
    for _ in range(4):
        agent.target_update(agent.state_dict()["model"])
        seen.append(agent.target_forward(torch.zeros(1, 1))["logit"].tolist())
    assert seen == [[[1.0, 2.0]], [[1.0, 2.0]], [[5.0, 6.0]], [[5.0, 6.0]]]


def test_moving_toward_the_network():
    net = Net(1.0, 2.0)
    agent = create_dqn_learner_agent(net, update_type="momentum", update_kwargs={"theta": 0.25})
    agent.target_mode(train=False)
    set_weight(net, 5.0, 6.0)
    agent.target_update(agent.state_dict()["model"])
    assert agent.target_forward(torch.zeros(1, 1))["logit"].tolist() == [[2.0, 3.0]]


def test_modes_do_not_leak_between_agents_of_one_network():
    net = Net(1.0, 2.0)
    learner, evaluator, actor = (
        create_dqn_learner_agent(net),
        create_dqn_evaluator_agent(net),
        create_dqn_actor_agent(net),
    )
    obs = torch.zeros(1000, 1)
    for _ in range(2):
        assert (learner.forward(obs)["logit"] == 0).any()  # dropout
        assert (evaluator.forward(obs)["logit"] == torch.tensor([1.0, 2.0])).all()
        assert (actor.forward(obs, eps=0.0)["logit"] == torch.tensor([1.0, 2.0])).all()
    learner.mode(train=False)
    assert (learner.forward(obs)["logit"] != 0).all()


def test_every_row_explores_for_itself():
    torch.manual_seed(0)
    actor = create_dqn_actor_agent(Net(1.0, 2.0))
    action = actor.forward({"obs": torch.zeros(4000, 1)}, eps=torch.cat([torch.zeros(2000), torch.ones(2000)]))[
        "action"
    ]
    assert action.dtype == torch.int64 and action[:2000].eq(1).all()
    assert action[2000:].float().mean() == pytest.approx(0.5, abs=0.05)


def test_mistakes_are_one_clear_error():
    with pytest.raises(SpecError, match=r"the model of an agent is a dict, expected a torch.nn.Module"):
        create_dqn_actor_agent({"weight": 1})
    with pytest.raises(ConfigError, match="unknown update_type 'momentun'; did you mean 'momentum'"):
        create_dqn_learner_agent(Net(1.0), update_type="momentun")
    with pytest.raises(ConfigError, match="lacks 'theta'"):
        create_dqn_learner_agent(Net(1.0), update_type="momentum", update_kwargs={"freq": 2})
    with pytest.raises(ConfigError, match="got no 'eps'"):
        create_dqn_actor_agent(Net(1.0)).forward(torch.zeros(1, 1))
