"""Adam with guards against gradients that are far larger than usual."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nervex.utils.errors import CheckpointError, ConfigError, did_you_mean

OPTIM_TYPES = ("adam", "adamw")
CLIP_TYPES = ("clip_momentum", "clip_value", "clip_norm", "clip_momentum_norm")
IGNORE_TYPES = ("ignore_momentum", "ignore_value", "ignore_norm", "ignore_momentum_norm")
_FUSED_DEVICES = ("cpu", "cuda")
_GUARD_KEY = "gradient_guard"


def grad_norm(params: Iterable[Tensor], norm_type: float = 2) -> Tensor:
    """Returns the norm of all gradients of ``params`` taken as one vector, 0-d and on their device (0 without any).

    Args:
        params: parameters; those without a gradient do not count.
        norm_type: p of the p-norm, ``inf`` for the largest absolute value.
    """
    return _total_norm([p.grad for p in params if p.grad is not None], norm_type)


class Adam(torch.optim.Adam):
    """Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980) or AdamW (Loshchilov & Hutter 2019,
    https://arxiv.org/abs/1711.05101), fused where torch has it, with optional guards on the gradient.

    In ``step``, before the update, the *ignore* guard sets the whole gradient to zero when it is exceeded (a gradient
    that is not finite always exceeds it), and then the *clip* guard shortens what exceeds it:

        value          |g_i| against the threshold, element by element
        norm           ‖g‖_p of all gradients as one vector against the threshold
        momentum       |g_i| against coef · √v̂_i, v_i the running mean of g_i²
        momentum_norm  ‖g‖_p against coef · √v̂, v the running mean of ‖g‖_p²

    v decays by β₂ and is bias-corrected: v̂ = v / (1 − β₂ᵏ) after k gradients. It is that of the gradients *before*
    the present one, as they came in, so that an outlier does not raise its own threshold and a lasting change of
    scale is followed; what is not finite leaves v̂ as it is. The momentum guards are active once they have seen
    ``..._momentum_timestep`` gradients. A zeroed gradient still lets Adam's own momentum move the weights;
    ``ignored_count`` counts those steps.

    Args:
        params: parameters or parameter groups, all on one device where a guard is used.
        lr: learning rate.
        betas: decays of Adam's first and second moment.
        eps: added to the root of the second moment.
        weight_decay: L2 penalty (``adam``) or decoupled decay (``adamw``).
        amsgrad: keep the largest second moment (Reddi et al. 2018).
        optim_type: ``'adam'`` or ``'adamw'``.
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

    Raises:
        ConfigError: an option has an unknown name or lacks its threshold.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        amsgrad: bool = False,
        optim_type: str = "adam",
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
        _check_name("optim_type", optim_type, OPTIM_TYPES)
        _check_name("grad_norm_type", grad_norm_type, (None,))
        _check_name("grad_clip_type", grad_clip_type, (None, *CLIP_TYPES))
        _check_name("grad_ignore_type", grad_ignore_type, (None, *IGNORE_TYPES))
        self._clip = _Threshold.build(
            grad_clip_type,
            value=clip_value,
            coef=clip_coef,
            norm_type=clip_norm_type,
            timestep=clip_momentum_timestep,
            decay=betas[1],
        )
        self._ignore = _Threshold.build(
            grad_ignore_type,
            value=ignore_value,
            coef=ignore_coef,
            norm_type=ignore_norm_type,
            timestep=ignore_momentum_timestep,
            decay=betas[1],
        )
        self.ignored_count = torch.zeros((), dtype=torch.int64)
        params = list(params)
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            fused=_can_fuse(params) or None,
            decoupled_weight_decay=optim_type == "adamw",
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Guards the gradient in place, then updates the weights.

        Args:
            closure: recomputes the loss and the gradients, and returns the loss.

        Returns:
            The loss of ``closure``, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._ignore is not None or self._clip is not None:
            self._guard()
        _adam_step()(self)
        return loss

    @torch.no_grad()
    def _guard(self) -> None:
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        held = [(i, p.grad) for i, p in enumerate(params) if p.grad is not None]
        if not held:
            return
        index, grads = [i for i, _ in held], [g for _, g in held]
        clip_limits = None if self._clip is None else self._clip.limits(index, grads)
        if self._ignore is not None:
            exceeded = self._ignore.exceeded(grads, self._ignore.limits(index, grads))
            for grad in grads:
                grad.masked_fill_(exceeded, 0)  # a product would leave inf * 0
            self.ignored_count = self.ignored_count.to(exceeded.device) + exceeded
        if self._clip is not None and clip_limits is not None:
            self._clip.shorten(grads, clip_limits)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the optimizer and of its guards, a state tree of numbers and tensors."""
        guards = {"clip": self._clip, "ignore": self._ignore}
        state = {name: None if guard is None else guard.state_dict() for name, guard in guards.items()}
        return {**super().state_dict(), _GUARD_KEY: {**state, "ignored_count": self.ignored_count}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state; it is copied. A state of torch's own Adam starts the guards anew.

        Raises:
            CheckpointError: the state is that of other parameters or of other guards.
        """
        state = copy.deepcopy(state_dict)
        guards = state.pop(_GUARD_KEY, None)
        self._check_state(state)
        for name, guard in (("clip", self._clip), ("ignore", self._ignore)):
            saved = guards and guards[name]
            found = saved and saved["kind"]
            own = guard and guard.kind
            if guards is not None and found != own:
                raise CheckpointError(
                    f"the optimizer was saved with grad_{name}_type={found}, this one has {own}; use the saved setting"
                )
        super().load_state_dict(state)
        if guards is None:
            return
        self.ignored_count = guards["ignored_count"]
        for name, guard in (("clip", self._clip), ("ignore", self._ignore)):
            if guard is not None:
                guard.load_state_dict(guards[name], self.param_groups[0]["params"][0].device)

    def _check_state(self, state: dict[str, Any]) -> None:
        """torch notices neither a moment of another shape nor, before the next step, one for another parameter."""
        params = [p for group in self.param_groups for p in group["params"]]
        saved = [i for group in state["param_groups"] for i in group["params"]]
        if len(params) != len(saved):
            raise CheckpointError(
                f"the optimizer was saved for {len(saved)} parameters, this one has {len(params)}; use the same model"
            )
        for param, i in zip(params, saved, strict=True):
            moment = state["state"].get(i, {}).get("exp_avg", param)
            if moment.shape != param.shape:
                raise CheckpointError(
                    f"the optimizer was saved with parameter {i} of shape {tuple(moment.shape)}, here it is "
                    f"{tuple(param.shape)}; use the same model"
                )

    def __getstate__(self) -> dict[str, Any]:
        own = {name: self.__dict__[name] for name in ("_clip", "_ignore", "ignored_count")}
        return {**super().__getstate__(), **own}


class _Threshold:
    """What a gradient, element by element or as a norm, is held against.

    Attributes:
        kind: the option's name, for the state.
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
        self._running = running
        self._second: dict[int, Tensor] = {}  # index of the parameter (0 for the norm) -> v̂
        self._seen: dict[int, int] = {}  # the same -> gradients in it

    @classmethod
    def build(cls, kind: str | None, **options: Any) -> "_Threshold | None":
        """Returns the threshold of an option, None for None."""
        return None if kind is None else cls(kind, **options)

    def limits(self, index: Sequence[int], grads: Sequence[Tensor]) -> list[Tensor]:
        """Returns the limit of each gradient (0-d or of its shape), or one for the norm; takes ``grads`` into the
        running means after that."""
        if not self._running:
            assert self._value is not None
            count = 1 if self._of_norm else len(grads)
            return [torch.full((), self._value, dtype=g.dtype, device=g.device) for g in grads[:count]]
        if self._of_norm:
            index, grads = [0], [_total_norm(grads, self._norm_type)]
        limits = [self._running_limit(i, g) for i, g in zip(index, grads, strict=True)]
        self._observe(index, grads)
        return limits

    def exceeded(self, grads: Sequence[Tensor], limits: Sequence[Tensor]) -> Tensor:
        """Returns a 0-d bool: anything above its limit or not a number."""
        held = [_total_norm(grads, self._norm_type)] if self._of_norm else grads
        # before a momentum limit is active it is inf, and inf <= inf
        within = [((g.abs() <= limit) & torch.isfinite(g)).all() for g, limit in zip(held, limits, strict=True)]
        return ~torch.stack(within).all()

    def shorten(self, grads: Sequence[Tensor], limits: Sequence[Tensor]) -> None:
        """Clamps each element to its limit, or scales all by one factor so that the norm is at the limit, in place."""
        if self._of_norm:
            factor = (limits[0] / _total_norm(grads, self._norm_type)).clamp(max=1)
            torch._foreach_mul_(list(grads), torch.where(torch.isnan(factor), 1, factor))
        elif not self._running:
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


def _total_norm(tensors: Sequence[Tensor], norm_type: float) -> Tensor:
    return torch.nn.utils.get_total_norm(list(tensors), norm_type)


def _check_name(option: str, value: str | None, names: Sequence[str | None]) -> None:
    if value not in names:
        known = [n for n in names if n is not None]
        raise ConfigError(
            f"unknown {option} '{value}'{did_you_mean(str(value), known)} (known: {', '.join(map(str, names))})"
        )


def _can_fuse(params: Sequence[Any]) -> bool:
    """Returns whether torch's fused kernel takes all of ``params``: parameters, (name, parameter) pairs or groups."""
    tensors: list[Tensor] = []
    for entry in params:
        held = entry["params"] if isinstance(entry, dict) else [entry]
        entries = [held] if isinstance(held, Tensor) else list(held)
        tensors += [e[1] if isinstance(e, tuple) else e for e in entries]
    return all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in tensors)


def _adam_step() -> Callable[..., Any]:
    """Returns torch's Adam step without the hooks of its class, which exist once a plain Adam does: the hooks of ours
    run already, and would run twice."""
    step = torch.optim.Adam.step
    return step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]
