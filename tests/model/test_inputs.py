"""What networks take: forms of an observation, masks, and kinds of actions."""

import pytest
import torch
from torch import nn

from nervex.model.inputs import action_mask, encode, head_sizes, masked, read_input
from nervex.utils.errors import ConfigError


def test_forms_of_an_input():
    obs, state, begin = torch.zeros(2, 3), {"h": torch.ones(2, 4)}, torch.ones(2, dtype=torch.bool)
    assert read_input(obs) == (obs, None, None)
    assert read_input({"obs": obs}) == (obs, None, None)
    assert read_input({"obs": obs, "prev_state": state, "begin": begin, "more": 1}) == (obs, state, begin)
    parts = {"a": obs}
    assert read_input(parts) == (parts, None, None) and read_input({"obs": parts})[0] is parts


def test_sequences_are_encoded_as_one_batch():
    class Sum(nn.Module):
        def forward(self, obs):
            assert obs["a"].shape == (6, 4) and obs["b"].shape == (6, 1, 2)
            return obs["a"] + obs["b"].sum(-1)

    a, b = torch.randn(3, 2, 4), torch.randn(3, 2, 1, 2)
    assert torch.equal(encode(Sum(), {"a": a, "b": b}, True), a + b.sum(-1))
    assert torch.equal(encode(nn.Identity(), a, False), a)


def test_masks():
    logit, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[True, False, True]])
    assert masked(logit, mask).tolist() == [[1.0, -1e8, 3.0]]
    assert masked(logit, mask.float()).tolist() == [[1.0, -1e8, 3.0]]
    assert masked(logit, None) is logit and logit.tolist() == [[1.0, 2.0, 3.0]]


def test_where_masks_are_found():
    one, several = torch.ones(2, 3), [torch.ones(2, 3), torch.zeros(2, 2)]
    assert (
        action_mask(torch.zeros(2, 4)) is None
        and action_mask({"a": one}) is None
        and action_mask({"a": 1}, [3]) is None
    )
    assert action_mask({"action_mask": one}) is one
    for given in (several, tuple(several), torch.cat(several, dim=1)):
        found = action_mask({"action_mask": given}, [3, 2])
        assert isinstance(found, list) and all(torch.equal(a, b) for a, b in zip(found, several, strict=True))


@pytest.mark.parametrize(
    "action_dim, action_type, expected",
    [
        (3, None, ("discrete", [3])),
        ((3, 2), None, ("multi_discrete", [3, 2])),
        (3, "discrete", ("discrete", [3])),
        ([3, 2], "multi_discrete", ("multi_discrete", [3, 2])),
        (6, "continuous", ("continuous", [6])),
    ],
)
def test_kinds_of_actions(action_dim, action_type, expected):
    assert head_sizes(action_dim, action_type) == expected


@pytest.mark.parametrize(
    "action_dim, action_type, message",
    [
        (3, "continous", "unknown action_type 'continous'; did you mean 'continuous'"),
        ([3], "discrete", r"action_type 'discrete' takes an int as action_dim, got \[3\]"),
        ([2, 2], "continuous", r"action_type 'continuous' takes an int as action_dim, got \[2, 2\]"),
        (3, "multi_discrete", "action_type 'multi_discrete' takes a list with the number of actions of each head as "
                              "action_dim, got 3"),
        (0, None, "action_dim is 0; expected at least one of at least 1"),
        ([], None, r"action_dim is \[\]; expected at least one of at least 1"),
    ],
)  # fmt: skip
def test_refused_kinds(action_dim, action_type, message):
    with pytest.raises(ConfigError, match=message):
        head_sizes(action_dim, action_type)
