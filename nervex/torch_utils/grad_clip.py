"""Guards against gradients that are far larger than usual, for any optimizer."""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from nervex.torch_utils.checks import check_name
from nervex.utils.errors import CheckpointError, ConfigError

CLIP_TYPES = ("clip_momentum", "clip_value", "clip_norm", "clip_momentum_norm")
IGNORE_TYPES = ("ignore_momentum", "ignore_value", "ignore_norm", "ignore_momentum_norm")


class GuardOptions(TypedDict, total=False):
    """Keyword arguments of :class:`GradGuard` beside ``decay``, for the optimizers that have one."""

    grad_clip_type: str | None
    clip_value: float | None
    clip_coef: float
    clip_norm_type: float
    clip_momentum_timestep: int
    grad_norm_type: str | None
    grad_ignore_type: str | None
    ignore_value: float | None
    ignore_coef: float
    ignore_norm_type: float
    ignore_momentum_timestep: int


class GradGuard:
    """Two guards on the gradient of some parameters, either of them optional.

    First the *ignore* guard sets the whole gradient to zero when it is exceeded (a gradient that is not finite always
    exceeds it), and then the *clip* guard shortens what exceeds it:

        value          |g_i| against the threshold, element by element
        norm           ‖g‖_p of all gradients as one vector against the threshold
        momentum       |g_i| against coef · √v̂_i, v_i the running mean of g_i²
        momentum_norm  ‖g‖_p against coef · √v̂, v the running mean of ‖g‖_p²

    v decays by β and is bias-corrected: v̂ = v / (1 − βᵏ) after k gradients. It is that of the gradients *before*
    the present one, as they came in, so that an outlier does not raise its own threshold and a lasting change of
    scale is followed; what is not finite leaves v̂ as it is. The momentum guards are active once they have seen
    ``..._momentum_timestep`` gradients.

    Args:
        decay: β of the running means.
        grad_clip_type: None, ``'clip_value'``, ``'clip_norm'``, ``'clip_momentum'`` or ``'clip_momentum_norm'``.
        clip_value: threshold of ``clip_value`` and ``clip_norm``.
        clip_coef: coefficient of the momentum clips.
        clip_norm_type: p of the norm clips.
        clip_momentum_timestep: gradients seen before a momentum clip is active.
        grad_norm_type: None, the only value.
        grad_ignore_type: None, ``'ignore_value'``, ``'ignore_norm'``, ``'ignore_momentum'`` or
            ``'ignore_momentum_norm'``.
        ignore_value: threshold of ``ignore_value`` and ``ignore_norm``.
        ignore_coef: coefficient of the momentum ignores.
        ignore_norm_type: p of the norm ignores.
        ignore_momentum_timestep: gradients seen before a momentum ignore is active.

    Attributes:
        ignored_count: int64 0-d, gradients that the ignore guard has zeroed.

    Raises:
        ConfigError: an option has an unknown name or lacks its threshold.
    """

    def __init__(
        self,
        decay: float,
        *,
        grad_clip_type: str | None = None,
        clip_value: float | None = None,
        clip_coef: float = 5,
        clip_norm_type: float = 2,
        clip_momentum_timestep: int = 100,
        grad_norm_type: str | None = None,
        grad_ignore_type: str | None = None,
        ignore_value: float | None = None,
        ignore_coef: float = 5,
        ignore_norm_type: float = 2,
        ignore_momentum_timestep: int = 100,
    ) -> None:
        check_name("grad_norm_type", grad_norm_type, (None,))
        check_name("grad_clip_type", grad_clip_type, (None, *CLIP_TYPES))
        check_name("grad_ignore_type", grad_ignore_type, (None, *IGNORE_TYPES))
        self._clip = _Threshold.build(
            grad_clip_type,
            value=clip_value,
            coef=clip_coef,
            norm_type=clip_norm_type,
            timestep=clip_momentum_timestep,
            decay=decay,
        )
        self._ignore = _Threshold.build(
            grad_ignore_type,
            value=ignore_value,
            coef=ignore_coef,
            norm_type=ignore_norm_type,
            timestep=ignore_momentum_timestep,
            decay=decay,
        )
        self.ignored_count = torch.zeros((), dtype=torch.int64)

    @property
    def counts(self) -> bool:
        """Whether a guard keeps running means, whose correction counts gradients in Python."""
        return any(guard is not None and guard.running for guard in self._guards().values())

    @property
    def tensors(self) -> list[Tensor]:
        """What :meth:`guard` writes to, where it does not count."""
        return [] if self._ignore is None else [self.ignored_count]

    def apply(self, params: Sequence[Tensor]) -> None:
        """Guards the gradients of ``params`` in place, see :meth:`guard`."""
        self.guard([p.grad for p in params])

    @torch.no_grad()
    def guard(self, gradients: Sequence[Tensor | None]) -> None:
        """Guards gradients in place.

        Args:
            gradients: always of the same parameters in the same order, all on one device; None: there is none.
        """
        if self._ignore is None and self._clip is None:
            return
        held = [(i, grad) for i, grad in enumerate(gradients) if grad is not None]
        if not held:
            return
        index, grads = [i for i, _ in held], [g for _, g in held]
        clip_limits = None if self._clip is None else self._clip.limits(index, grads)
        if self._ignore is not None:
            exceeded = self._ignore.exceeded(grads, self._ignore.limits(index, grads))
            for grad in grads:
                grad.masked_fill_(exceeded, 0)  # a product would leave inf * 0
            if self.ignored_count.device != exceeded.device:
                self.ignored_count = self.ignored_count.to(exceeded.device)
            self.ignored_count.add_(exceeded)
        if self._clip is not None and clip_limits is not None:
            self._clip.shorten(grads, clip_limits)

    def state_dict(self) -> dict[str, Any]:
        """Returns the running means and ``ignored_count`` as a state tree."""
        state = {name: None if guard is None else guard.state_dict() for name, guard in self._guards().items()}
        return {**state, "ignored_count": self.ignored_count.clone()}

    def check_state(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError when ``state`` is that of other guards."""
        for name, guard in self._guards().items():
            found, own = state[name] and state[name]["kind"], guard and guard.kind
            if found != own:
                raise CheckpointError(
                    f"the optimizer was saved with grad_{name}_type={found}, this one has {own}; use the saved setting"
                )

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes over a state, on the parameters' device."""
        self.check_state(state)
        self.ignored_count = state["ignored_count"].clone()
        for name, guard in self._guards().items():
            if guard is not None:
                guard.load_state_dict(state[name], device)

    def _guards(self) -> dict[str, "_Threshold | None"]:
        return {"clip": self._clip, "ignore": self._ignore}


class _Threshold:
    """What a gradient, element by element or as a norm, is held against.

    Attributes:
        kind: the option's name, for the state.
        running: it is a multiple of a running mean.
    """

    def __init__(
        self, kind: str, *, value: float | None, coef: float, norm_type: float, timestep: int, decay: float
    ) -> None:
        running, prefix = "momentum" in kind, kind.split("_", maxsplit=1)[0]
        name, needed = (f"{prefix}_coef", coef) if running else (f"{prefix}_value", value)
        if needed is None or not needed > 0:
            raise ConfigError(f"'{kind}' needs a positive {name}, got {needed}; set {name}")
        if timestep < 0:
            raise ConfigError(f"{prefix}_momentum_timestep is {timestep}; expected 0 or more")
        self.kind = kind
        self._value = value
        self._coef = coef
        self._norm_type = norm_type
        self._timestep = max(1, timestep)
        self._decay = decay
        self._of_norm = kind.endswith("norm")
        self.running = running
        self._second: dict[int, Tensor] = {}  # index of the parameter (0 for the norm) -> v̂
        self._seen: dict[int, int] = {}  # the same -> gradients in it

    @classmethod
    def build(cls, kind: str | None, **options: Any) -> "_Threshold | None":
        """Returns the threshold of an option, None for None."""
        return None if kind is None else cls(kind, **options)

    def limits(self, index: Sequence[int], grads: Sequence[Tensor]) -> list[Tensor]:
        """Returns the limit of each gradient (0-d or of its shape), or one for the norm; takes ``grads`` into the
        running means after that."""
        if not self.running:
            assert self._value is not None
            count = 1 if self._of_norm else len(grads)
            return [torch.full((), self._value, dtype=g.dtype, device=g.device) for g in grads[:count]]
        if self._of_norm:
            index, grads = [0], [total_norm(grads, self._norm_type)]
        limits = [self._running_limit(i, g) for i, g in zip(index, grads, strict=True)]
        self._observe(index, grads)
        return limits

    def exceeded(self, grads: Sequence[Tensor], limits: Sequence[Tensor]) -> Tensor:
        """Returns a 0-d bool: anything above its limit or not a number."""
        held = [total_norm(grads, self._norm_type)] if self._of_norm else grads
        # before a momentum limit is active it is inf, and inf <= inf
        within = [((g.abs() <= limit) & torch.isfinite(g)).all() for g, limit in zip(held, limits, strict=True)]
        return ~torch.stack(within).all()

    def shorten(self, grads: Sequence[Tensor], limits: Sequence[Tensor]) -> None:
        """Clamps each element to its limit, or scales all by one factor so that the norm is at the limit, in place."""
        if self._of_norm:
            factor = (limits[0] / total_norm(grads, self._norm_type)).clamp(max=1)
            torch._foreach_mul_(list(grads), torch.where(torch.isnan(factor), 1, factor))
        elif not self.running:
            assert self._value is not None
            torch._foreach_clamp_min_(list(grads), -self._value)
            torch._foreach_clamp_max_(list(grads), self._value)
        else:
            torch._foreach_minimum_(list(grads), list(limits))
            torch._foreach_maximum_(list(grads), list(torch._foreach_neg(list(limits))))

    def _running_limit(self, i: int, grad: Tensor) -> Tensor:
        seen = self._seen.get(i, 0)
        if seen < self._timestep:
            return torch.full_like(grad, float("inf"))
        return self._coef * self._second[i].sqrt()

    def _observe(self, index: Sequence[int], grads: Sequence[Tensor]) -> None:
        for i, grad in zip(index, grads, strict=True):
            if i not in self._second:
                self._second[i] = torch.zeros_like(grad)
            self._seen[i] = self._seen.get(i, 0) + 1
        squares = torch._foreach_mul(list(grads), list(grads))
        for i, square in zip(index, squares, strict=True):
            # the bias-corrected mean itself: v̂_k = v̂_{k-1} + (g² − v̂_{k-1})·(1 − β)/(1 − βᵏ)
            new = torch.lerp(self._second[i], square, (1 - self._decay) / (1 - self._decay ** self._seen[i]))
            # one element that is not finite would otherwise switch its threshold off for good
            self._second[i] = torch.where(torch.isfinite(new), new, self._second[i])

    def state_dict(self) -> dict[str, Any]:
        """Returns the running means as a state tree."""
        return {"kind": self.kind, "second": dict(self._second), "seen": dict(self._seen)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes over the running means of ``state``."""
        self._second = {i: mean.to(device) for i, mean in state["second"].items()}
        self._seen = dict(state["seen"])


def total_norm(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    """Returns the p-norm of all tensors as one vector, 0-d."""
    return torch.nn.utils.get_total_norm(list(tensors), norm_type)


def grad_ignore_norm(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2) -> None:
    """Zeroes all gradients of ``parameters`` where their norm, taken as one vector, is above ``max_norm`` or is not a
    number. In place.

    Args:
        parameters: those without a gradient do not count.
        max_norm: threshold, above 0.
        norm_type: p of the p-norm.

    Raises:
        ConfigError: ``max_norm`` is not positive.
    """
    guard = GradGuard(0, grad_ignore_type="ignore_norm", ignore_value=max_norm, ignore_norm_type=norm_type)
    guard.apply(list(parameters))


def grad_ignore_value(parameters: Iterable[Tensor], clip_value: float) -> None:
    """Zeroes all gradients of ``parameters`` where any element of any of them is, in absolute value, above
    ``clip_value`` or not a number. In place.

    Raises:
        ConfigError: ``clip_value`` is not positive.
    """
    GradGuard(0, grad_ignore_type="ignore_value", ignore_value=clip_value).apply(list(parameters))
