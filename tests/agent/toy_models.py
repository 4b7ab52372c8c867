"""Networks whose output says what reached them."""

import torch
from torch import nn

from nervex.utils.tree import tree_map


class Echo(nn.Module):
    """``logit`` is the observation times one weight; it remembers what it was called with."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(weight)))
        self.calls = []

    def forward(self, x, **param):
        self.calls.append((x, param))
        obs = x["obs"]
        if isinstance(obs, dict):
            obs = obs["logit"]
        return {"logit": tree_map(lambda o: o * self.weight, obs)}


class Summer(nn.Module):
    """Recurrent: ``next_state`` = ``prev_state`` + obs, ``logit`` = ``next_state``; a state that is absent is 0."""

    def __init__(self, nested=False):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.nested = nested
        self.seen = []

    def forward(self, x):
        self.seen.append(x["prev_state"])
        prev = x["prev_state"]
        if prev is not None and self.nested:
            prev = prev["h"][0]
        after = (0 if prev is None else prev) + x["obs"] * self.scale
        return {
            "logit": after,
            "action": torch.zeros_like(after),
            "next_state": {"h": (after,)} if self.nested else after,
        }


class Memory(nn.Module):
    """An LSTM cell; ``logit`` is its output."""

    def __init__(self, obs_dim, hidden_dim):
        super().__init__()
        self.cell = nn.LSTMCell(obs_dim, hidden_dim)

    def forward(self, x):
        prev = x["prev_state"]
        h, c = self.cell(x["obs"], None if prev is None else (prev["h"], prev["c"]))
        return {"logit": h, "next_state": {"h": h, "c": c}}


class Noisy(nn.Module):
    """Dropout and batch normalization: its output depends on the mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return {"logit": self.linear(self.norm(x["obs"])), "dropped": self.dropout(torch.ones(64))}
