"""What the bases of actor-critics promise: each mode is one method, and all of them must be there."""

import pytest
import torch
from torch import nn

from nervex.model import (
    QAC,
    DiscreteSACNet,
    IQLNet,
    QActorCriticBase,
    SACNet,
    SoftActorCriticBase,
    ValueAC,
    ValueActorCriticBase,
)
from nervex.utils.errors import ConfigError

OBS = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


class Value(ValueActorCriticBase):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def compute_action_value(self, x, plus=0.0):
        return {**self.compute_action(x), "value": self.scale * x["obs"].sum(dim=-1) + plus}

    def compute_action(self, x):
        return {"logit": -x["obs"]}


class Linear(QActorCriticBase):
    def compute_action(self, x):
        return {"action": x["obs"] / 10}

    def compute_q(self, x):
        return {"q_value": (x["obs"] * x["action"]).sum(dim=-1)}


class Soft(SoftActorCriticBase):
    def compute_action(self, x):
        return {"logit": {"mu": x["obs"], "sigma": torch.ones_like(x["obs"])}}

    def compute_q(self, x):
        return {"q_value": torch.stack([x["obs"].sum(dim=-1), x["action"].sum(dim=-1)])}


def test_value_actor_critic():
    net = Value()
    assert net({"obs": OBS})["value"].tolist() == [6, 14]  # the first mode is the default
    assert net({"obs": OBS}, mode="compute_action_value", plus=1.0)["value"].tolist() == [7, 15]
    assert net({"obs": OBS}, mode="compute_action")["logit"].tolist() == [[-1, -2], [-3, -4]]


def test_q_actor_critic():
    net = Linear()
    assert net({"obs": 10 * OBS})["action"].tolist() == OBS.tolist()
    assert net({"obs": OBS, "action": OBS}, mode="compute_q")["q_value"].tolist() == [5, 25]


def test_soft_actor_critic():
    net = Soft()
    assert net({"obs": OBS})["logit"]["mu"].tolist() == OBS.tolist()
    assert net({"obs": OBS, "action": 2 * OBS}, mode="compute_q")["q_value"].tolist() == [[3, 7], [6, 14]]


@pytest.mark.parametrize(
    "base, missing",
    [(ValueActorCriticBase, "compute_action_value"), (QActorCriticBase, "compute_q"),
     (SoftActorCriticBase, "compute_q")],
)  # fmt: skip
def test_every_mode_must_be_there(base, missing):
    half = type("Half", (base,), {"compute_action": lambda self, x: {}})
    with pytest.raises(TypeError, match=missing):
        half()


def test_an_unknown_mode_is_named_with_the_known_ones():
    expected = r"Linear has no mode 'compute_v'; did you mean 'compute_q'\? \(known: compute_action, compute_q\)"
    with pytest.raises(ConfigError, match=expected):
        Linear()(OBS, mode="compute_v")
    with pytest.raises(ConfigError, match="Linear has no mode 'train'"):  # a method of modules, and no mode
        Linear()(OBS, mode="train")


@pytest.mark.parametrize("kind, modes", [(ValueAC, 2), (QAC, 2), (SACNet, 2), (DiscreteSACNet, 2), (IQLNet, 3)])
def test_built_in_networks_answer_in_every_mode(kind, modes):
    net = kind(2, 3)
    assert len(net.modes) == modes
    x = {"obs": OBS, "action": torch.zeros(2, 3)}
    for mode in net.modes:
        output, expected = net(x, mode=mode), getattr(net, mode)(x)
        assert output.keys() == expected.keys() and not {"logit", "action", "q_value", "value"}.isdisjoint(output)
