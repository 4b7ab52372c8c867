"""Running normalization of observations and rewards, as parts whose statistics are in the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nervex.model.encoder import as_shape
from nervex.model.inputs import read_input
from nervex.utils.errors import ConfigError

_EPS = 1e-8  # smallest variance
_LANES = 1024  # accumulators held from the beginning, so that states of few and of many lanes have one shape


class RunningMoments(nn.Module):
    """Mean and variance of everything that was seen, in float64.

        δ = mean_b − mean,  n = count + count_b
        mean ← mean + δ·count_b / n
        var  ← (count·var + count_b·var_b + δ²·count·count_b / n) / n

    Chan, Golub & LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115. The variance is that of the population
    (divided by n). Before the first update the count is 0, the mean 0 and the variance 1.

    Args:
        shape: of one item.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Takes in the items x [n, *shape]; n may be 0."""
        if len(x) == 0:
            return
        x = x.double()
        mean = x.mean(dim=0)
        squares = (x - mean).square_().sum(dim=0)  # count_b·var_b
        total = self.count + len(x)
        delta = mean - self.mean
        between = delta.square() * (self.count * len(x) / total)
        self.var.copy_((self.var * self.count + squares + between) / total)
        self.mean.add_(delta * (len(x) / total))
        self.count.copy_(total)

    def std(self) -> Tensor:
        """Returns the standard deviation, float64 [*shape], at least 1e-4."""
        return self.var.clamp_min(_EPS).sqrt_()


class NormalizedModel(nn.Module):
    """A network that gets normalized observations.

        obs ← clip((obs − mean) / std, ±clip)

    Mean and standard deviation are those of every observation that :meth:`observe` was given; before the first one,
    observations pass unchanged, as do integers, images and action masks always. Attributes that this module lacks are
    those of the network (``actor``, ``critic``, ``reset_noise``, ...).

    Args:
        model: any network; its ``forward`` takes ``{'obs': ...}`` or the observation itself.
        obs_dim: length of a vector observation, or a mapping of such lengths and shapes of images.
        clip: largest absolute value of a normalized observation.

    Raises:
        ConfigError: there is no vector to normalize, or ``clip`` is not positive.
    """

    def __init__(self, model: nn.Module, obs_dim: Any, clip: float = 10.0) -> None:
        super().__init__()
        if not clip > 0:
            raise ConfigError(f"the clip of normalized observations is {clip}; expected more than 0")
        dims = obs_dim if isinstance(obs_dim, Mapping) else {None: obs_dim}
        lengths = {key: as_shape(dim) for key, dim in dims.items() if key != "action_mask"}
        lengths = {key: shape for key, shape in lengths.items() if len(shape) == 1}
        if not lengths:
            raise ConfigError(
                f"observation normalization takes vectors, obs_dim is {obs_dim}; images are divided by 255 by their "
                "encoder, leave the normalization out"
            )
        self.model = model
        self.clip = clip
        self._keys = sorted(lengths, key=str)
        self.moments = nn.ModuleList([RunningMoments(lengths[key]) for key in self._keys])

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns what the network returns for ``x`` with its observation normalized."""
        obs = self.normalize(read_input(x)[0])
        whole = isinstance(x, Mapping) and "obs" in x
        return self.model({**x, "obs": obs} if whole else obs, *args, **kwargs)

    def normalize(self, obs: Any) -> Any:
        """Returns the observation [..., *obs_dim], or mapping of them, normalized."""
        if not isinstance(obs, Mapping):
            return self._scaled(self.moments[0], obs)  # type: ignore[arg-type]
        scaled = {key: self._scaled(m, obs[key]) for key, m in zip(self._keys, self.moments, strict=True)}  # type: ignore[arg-type]
        return {**obs, **scaled}

    def observe(self, obs: Any, valid: Tensor | None = None) -> None:
        """Takes observations into the running statistics.

        Args:
            obs: [..., *obs_dim], or a mapping of them.
            valid: bool [...]: which of them count; None: all.
        """
        for key, moments in zip(self._keys, self.moments, strict=True):
            part = obs if key is None else obs[key]
            if part.is_floating_point():
                moments.update(part.flatten(0, -2) if valid is None else part[valid])  # type: ignore[operator]

    def _scaled(self, moments: RunningMoments, obs: Tensor) -> Tensor:
        if not obs.is_floating_point():
            return obs
        scaled = (obs - moments.mean).div_(moments.std()).clamp_(-self.clip, self.clip).to(obs.dtype)
        return torch.where(moments.count > 0, scaled, obs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__") or name == "model":
                raise
            return getattr(self.model, name)


class RewardScale(nn.Module):
    """Divides rewards by the running standard deviation of the discounted return so far.

        R_t = γ·R_{t−1} + r_t within an episode,  r ← clip(r / std(R), ±clip)

    Engstrom et al. 2020, https://arxiv.org/abs/2005.12729, section 3. Before the first update rewards pass unchanged.

    Args:
        discount_factor: γ.
        clip: largest absolute value of a scaled reward.

    Raises:
        ConfigError: γ is not within [0, 1], or ``clip`` is not positive.
    """

    running: Tensor

    def __init__(self, discount_factor: float, clip: float = 10.0) -> None:
        super().__init__()
        if not 0 <= discount_factor <= 1 or not clip > 0:
            raise ConfigError(
                f"reward scaling has discount_factor {discount_factor} and clip {clip}; expected 0 to 1 and more than 0"
            )
        self.discount_factor = discount_factor
        self.clip = clip
        self.moments = RunningMoments()
        self.register_buffer("running", torch.zeros(_LANES, dtype=torch.float64))  # R of each lane

    @torch.no_grad()
    def observe(
        self, reward: Tensor, terminated: Tensor, truncated: Tensor, valid: Tensor | None, lane_id: Tensor
    ) -> None:
        """Takes rewards into the running statistics.

        Args:
            reward: float [T, b], consecutive rows of each lane, each row once.
            terminated, truncated: bool [T, b].
            valid: bool [T, b]: other rows are passed over; None: all.
            lane_id: int [b], or [T, b] of which the first row counts; no lane is there twice.
        """
        lane = torch.as_tensor(lane_id, device=self.running.device)
        lane = (lane[0] if lane.dim() == 2 else lane).long()
        self._grow(int(lane.max()) + 1)
        counts = torch.ones_like(terminated) if valid is None else valid
        goes_on = self.discount_factor * (~(terminated | truncated)).double()  # [T, b]
        held = self.running[lane]  # [b]: γ·R of the row before
        seen = torch.empty(reward.shape, dtype=torch.float64, device=held.device)
        for t, row in enumerate(reward.double()):
            seen[t] = held + row
            held = torch.where(counts[t], seen[t] * goes_on[t], held)
        self.running[lane] = held
        self.moments.update(seen[counts])

    def scale(self, reward: Tensor) -> Tensor:
        """Returns rewards of any shape, scaled."""
        scaled = (reward / self.moments.std()).clamp(-self.clip, self.clip).to(reward.dtype)
        return torch.where(self.moments.count > 0, scaled, reward)

    def _grow(self, lane_num: int) -> None:
        missing = lane_num - len(self.running)
        if missing > 0:
            self.running = torch.cat([self.running, self.running.new_zeros(missing)])

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + "running")
        if saved is not None:
            self._grow(len(saved))
            self.running = self.running[: len(saved)].clone()
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[no-untyped-call]
