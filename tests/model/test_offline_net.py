"""Networks of offline policies: kinds of action, bounds, what shares nothing."""

import pytest
import torch

from nervex.model import IQLNet, PolicyNet
from nervex.utils.errors import ConfigError

OBS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
ACTION = torch.rand(5, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_discrete_policy():
    net = PolicyNet(4, 3)
    assert net({"obs": OBS})["logit"].shape == (5, 3)
    assert torch.equal(net(OBS)["logit"], net({"obs": OBS})["logit"])


def test_a_mask_forbids_actions():
    net = PolicyNet({"vector": 4}, 3, embedding_dim=8)
    mask = torch.tensor([[1, 0, 1]]).expand(5, 3)
    logit = net({"obs": {"vector": OBS, "action_mask": mask}})["logit"]
    assert (logit[:, 1] == -1e8).all() and (logit[:, 0] > -100).all()


@pytest.mark.parametrize("net_class", [PolicyNet, IQLNet])
def test_a_continuous_policy_is_bounded_and_its_spread_is_its_own(net_class):
    kwargs = {"action_type": "continuous"} if net_class is PolicyNet else {}
    net = net_class(4, 2, **kwargs)
    logit = net({"obs": 1e4 * OBS})["logit"]
    assert logit["mu"].shape == logit["sigma"].shape == (5, 2)
    assert logit["mu"].abs().max() <= 1 and logit["mu"].abs().max() > 0.9
    assert (logit["sigma"] == 1).all()  # log σ begins at 0, in every state


def test_images():
    net = PolicyNet((3, 36, 36), 2, "continuous", [8], embedding_dim=16)
    assert net({"obs": torch.zeros(2, 3, 36, 36)})["logit"]["mu"].shape == (2, 2)


def test_value_and_critics_share_nothing():
    net = IQLNet(4, 2, [8])
    value = net({"obs": OBS}, mode="compute_value")["value"]
    q_value = net({"obs": OBS, "action": ACTION}, mode="compute_q")["q_value"]
    assert value.shape == (5,) and q_value.shape == (2, 5) and not torch.equal(q_value[0], q_value[1])
    for output, owner in ((value.sum(), "value"), (q_value.sum(), "critic"), (net(OBS)["logit"]["mu"].sum(), "actor")):
        net.zero_grad()
        output.backward()
        reached = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == {owner}


def test_modes_that_are_not_there():
    with pytest.raises(ConfigError, match="PolicyNet has no mode 'compute_q'"):
        PolicyNet(4, 2)(OBS, mode="compute_q")
    with pytest.raises(ConfigError, match="IQLNet has no mode 'compute_values'; did you mean 'compute_value'"):
        IQLNet(4, 2)(OBS, mode="compute_values")
