"""An agent as actors and evaluators call it."""

import numpy as np
import torch
from torch import nn

from nervex.agent import Agent
from nervex.data.lanes import LaneBlock
from nervex.worker.agent import AgentMode, create_dqn_actor_agent, create_dqn_evaluator_agent


class Net(nn.Module):
    """The second action is the best."""

    def forward(self, x):
        return {"logit": torch.tensor([0.0, 1.0]).expand(len(x["obs"]), -1)}


class Memory(nn.Module):
    """Its logit counts the forwards of a lane."""

    def forward(self, x):
        prev = x["prev_state"]
        count = (torch.zeros(len(x["obs"]), 1) if prev is None else prev) + 1
        return {"logit": torch.cat([count, -count], dim=1), "next_state": count}


def acted(mode, lanes):
    ids, data = mode.data_preprocess(LaneBlock(np.array(lanes), torch.zeros(len(lanes), 1)))
    return mode.forward(ids, data)


def test_the_rate_of_exploration_is_what_was_set_last():
    torch.manual_seed(0)
    mode = AgentMode(create_dqn_actor_agent(Net()), eps=1.0)
    lanes = list(range(2000))
    assert 0.4 < acted(mode, lanes)["action"].float().mean() < 0.6
    mode.set_setting({"eps": 0.0})
    assert acted(mode, lanes)["action"].tolist() == [1] * 2000


def test_an_evaluator_takes_no_rate():
    assert acted(AgentMode(create_dqn_evaluator_agent(Net())), [0, 1])["action"].tolist() == [1, 1]


def test_memory_is_kept_per_lane():
    agent = Agent(Memory())
    agent.add_plugin("main", "hidden_state")
    agent.add_plugin("main", "argmax_sample")
    mode = AgentMode(agent)
    acted(mode, [0, 1])
    assert acted(mode, [1])["logit"][:, 0].tolist() == [2.0]
    mode.reset(torch.tensor([1]))
    assert acted(mode, [1, 0])["logit"][:, 0].tolist() == [1.0, 2.0]
