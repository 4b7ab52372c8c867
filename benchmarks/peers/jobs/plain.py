"""Plain PyTorch in the manner of single-file libraries: eager, one loss and one optimizer step at a time.

Envs, networks and buffers that the ``plain_*`` drivers share; all of it was written for this comparison.
"""

import importlib
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

PACKAGES = ("torch", "gymnasium", "numpy")


def seeded(given: dict[str, Any]) -> None:
    """Seeds everything."""
    np.random.seed(given["seed"])
    torch.manual_seed(given["seed"])


def make_envs(given: dict[str, Any], num: int) -> Any:
    """Returns ``num`` envs in step: Gymnasium's in this process, or the vector of ale-py for Atari games."""
    if given.get("network") == "nature":
        vector = importlib.import_module("ale_py.vector_env")
        game = given["env"].removesuffix("NoFrameskip-v4").lower()
        return vector.AtariVectorEnv(game=game, num_envs=num, num_threads=given["threads"], reward_clipping=True,
                                     episodic_life=True)  # fmt: skip
    return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(given["env"]) for _ in range(num)])


def perceptron(sizes: list[int], activation: type[nn.Module], last_gain: float | None = None) -> nn.Sequential:
    """Returns linear layers with activations between them, orthogonal where a gain of the last one is given."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        linear = nn.Linear(before, after)
        if last_gain is not None:
            nn.init.orthogonal_(linear.weight, last_gain if i == len(sizes) - 2 else 2**0.5)
            nn.init.zeros_(linear.bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


class Nature(nn.Module):
    """The convolutions of Mnih et al. 2015 on uint8 frames, then one layer of 512."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(),
        )  # fmt: skip
        for layer in self.main:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                assert layer.bias is not None
                nn.init.orthogonal_(layer.weight, 2**0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.main(obs / 255.0)
        return out


class Buffer:
    """A ring of transitions, one array per column.

    Args:
        size: rows.
        columns: name -> (shape, dtype).
    """

    def __init__(self, size: int, columns: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        self._columns = {name: np.zeros((size, *shape), dtype) for name, (shape, dtype) in columns.items()}
        self._size, self._next, self._held = size, 0, 0

    def add(self, **rows: np.ndarray) -> None:
        """Stores rows [b, ...]."""
        number = len(next(iter(rows.values())))
        slot = (self._next + np.arange(number)) % self._size
        for name, value in rows.items():
            self._columns[name][slot] = value
        self._next = (self._next + number) % self._size
        self._held = min(self._held + number, self._size)

    def sample(self, batch_size: int) -> dict[str, torch.Tensor]:
        """Returns a batch drawn uniformly."""
        slot = np.random.randint(0, self._held, batch_size)
        return {name: torch.from_numpy(column[slot]) for name, column in self._columns.items()}
