"""Exploration: schedules of epsilon, and noise that is added to continuous actions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nervex.utils.errors import ConfigError, did_you_mean


def epsilon_greedy(start: float, end: float, decay: float, type_: str = "exp") -> Callable[[float], float]:
    """Returns the schedule ε(x) of the exploration rate.

        exp:     ε(x) = end + (start − end)·exp(−x / decay)
        linear:  ε(x) = start + (end − start)·min(x / decay, 1)

    Args:
        start: ε at x = 0.
        end: limit of ε; reached at ``decay`` when linear.
        decay: time constant, in the unit of x (learner iterations where the tutorial's policies call it).
        type_: ``'exp'`` or ``'linear'``.

    Raises:
        ConfigError: unknown type, or a decay that is not positive.
    """
    if decay <= 0:
        raise ConfigError(f"epsilon_greedy: decay is {decay}, expected a positive number")
    if type_ == "exp":
        return lambda x: end + (start - end) * math.exp(-x / decay)
    if type_ == "linear":
        return lambda x: start + (end - start) * min(x / decay, 1.0)
    raise ConfigError(f"epsilon_greedy: unknown type '{type_}'{did_you_mean(type_, ['exp', 'linear'])}")


class GaussianNoise:
    """Independent normal noise. ``noise(shape, device, row)`` returns float [*shape]; ``row`` makes no difference."""

    def __init__(self, mu: float = 0.0, sigma: float = 1.0) -> None:
        if sigma < 0:
            raise ConfigError(f"gauss noise: sigma is {sigma}, expected at least 0")
        self.mu, self.sigma = mu, sigma

    def __call__(self, shape: tuple[int, ...], device: str | torch.device = "cpu", row: Tensor | None = None) -> Tensor:
        return self.mu + self.sigma * torch.randn(shape, device=device)

    def reset(self, row: Tensor | None = None) -> None:
        """Nothing to forget."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class OUNoise:
    """Ornstein-Uhlenbeck noise: each call returns the *state* of the process, one row per lane.

        x ← x + θ·(μ − x)·dt + σ·√dt·N(0, 1)

    Uhlenbeck & Ornstein 1930; Lillicrap et al. 2016, https://arxiv.org/abs/1509.02971. Stationary standard deviation
    σ·√(dt / (1 − (1 − θ·dt)²)).

    ``noise(shape, device, row)`` moves the processes of the lanes ``row`` (int [b]; added when first met) by one step
    and leaves the others as they are; ``shape`` is [b, ...]. Without ``row`` the rows are all lanes. Another shape of
    one row, or without ``row`` another number of them, begins anew.

    Args:
        mu, sigma, theta, dt: the μ, σ, θ and time step of the process.
        x0: state at the start and after a reset; None: μ.
    """

    def __init__(
        self, mu: float = 0.0, sigma: float = 0.3, theta: float = 0.15, dt: float = 1e-2, x0: float | None = 0.0
    ) -> None:
        self.mu, self.sigma, self.theta, self.dt = mu, sigma, theta, dt
        self.x0 = mu if x0 is None else x0
        # [lanes, ...]; never written to in place: it may be from inference mode, which forbids that outside of it
        self._state: Tensor | None = None

    def __call__(self, shape: tuple[int, ...], device: str | torch.device = "cpu", row: Tensor | None = None) -> Tensor:
        if row is None:
            if self._state is None or self._state.shape != torch.Size(shape):
                self._state = self._start(tuple(shape), device)
            self._state = self._next(self._state.to(device))
            return self._state.clone()
        held = self._lanes(int(row.max()) + 1, tuple(shape[1:]), device)  # [lanes, ...]
        row = row.to(device)
        x = self._next(held[row])
        self._state = held.index_copy(0, row, x)
        return x

    def reset(self, row: Tensor | None = None) -> None:
        """Sets the given rows (int index tensor, None: all) back to ``x0``."""
        if self._state is None or row is None:
            self._state = None
        else:
            row = row[row < len(self._state)].to(self._state.device)
            self._state = self._state.index_fill(0, row, self.x0)

    def state_dict(self) -> dict[str, Any]:
        return {"state": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = None if state["state"] is None else state["state"].clone()

    def _start(self, shape: tuple[int, ...], device: str | torch.device) -> Tensor:
        return torch.full(shape, float(self.x0), device=device)

    def _next(self, x: Tensor) -> Tensor:
        drift = self.theta * (self.mu - x) * self.dt
        return x + drift + self.sigma * math.sqrt(self.dt) * torch.randn(x.shape, device=x.device)

    def _lanes(self, num: int, shape: tuple[int, ...], device: str | torch.device) -> Tensor:
        """Returns the state on ``device`` with at least ``num`` rows of ``shape``."""
        if self._state is None or self._state.shape[1:] != torch.Size(shape):
            return self._start((num, *shape), device)
        held = self._state.to(device)
        missing = num - len(held)
        return held if missing <= 0 else torch.cat([held, self._start((missing, *shape), device)])


_NOISES: dict[str, type] = {"gauss": GaussianNoise, "ou": OUNoise}


def create_noise_generator(noise_type: str, noise_kwargs: dict[str, Any] | None = None) -> Any:
    """Returns the noise generator ``noise_type`` (``'gauss'`` or ``'ou'``); call it with ``(shape, device, row)``."""
    if noise_type not in _NOISES:
        raise ConfigError(f"unknown noise '{noise_type}'{did_you_mean(noise_type, _NOISES)} (known: gauss, ou)")
    return _NOISES[noise_type](**(noise_kwargs or {}))
