"""Adam and RMSprop with guards against gradients that are far larger than usual."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from nervex.torch_utils.grad_clip import GradGuard, GuardOptions, check_name, total_norm
from nervex.utils.errors import CheckpointError, ConfigError

OPTIM_TYPES = ("adam", "adamw")
_FUSED_DEVICES = ("cpu", "cuda")
_GUARD_KEY = "gradient_guard"


def grad_norm(params: Iterable[Tensor], norm_type: float = 2) -> Tensor:
    """Returns the norm of all gradients of ``params`` taken as one vector, 0-d and on their device (0 without any).

    Args:
        params: parameters; those without a gradient do not count.
        norm_type: p of the p-norm, ``inf`` for the largest absolute value.
    """
    return total_norm([p.grad for p in params if p.grad is not None], norm_type)


class GuardedOptimizer(torch.optim.Optimizer):
    """An optimizer whose step guards the gradient first, and whose state holds that of the guard.

    A subclass sets ``_guard`` before its base is initialized, and moves the weights in ``_update``. A gradient that was
    zeroed still lets the optimizer's own momentum move the weights; ``ignored_count`` counts those steps.
    """

    _guard: GradGuard

    @property
    def ignored_count(self) -> Tensor:
        """Steps whose gradient the ignore guard has zeroed, int64 0-d."""
        return self._guard.ignored_count

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
        self._guard.apply([p for group in self.param_groups for p in group["params"] if p.requires_grad])
        self._update()
        return loss

    @abstractmethod
    def _update(self) -> None:
        """Moves the weights along the gradients as they are."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the optimizer and of its guards, a state tree of numbers and tensors."""
        return {**super().state_dict(), _GUARD_KEY: self._guard.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state; it is copied. A state of torch's own optimizer of that name starts the guards anew.

        Raises:
            CheckpointError: the state is that of other parameters or of other guards.
        """
        state = copy.deepcopy(state_dict)
        guard = state.pop(_GUARD_KEY, None)
        self._check_state(state)
        if guard is not None:
            self._guard.check_state(guard)
        super().load_state_dict(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)  # options that torch's own has not
        if guard is not None:
            self._guard.load_state_dict(guard, self.param_groups[0]["params"][0].device)

    def _check_state(self, state: dict[str, Any]) -> None:
        """torch notices neither a moment of another shape nor, before the next step, one for another parameter."""
        params = [p for group in self.param_groups for p in group["params"]]
        saved = [i for group in state["param_groups"] for i in group["params"]]
        if len(params) != len(saved):
            raise CheckpointError(
                f"the optimizer was saved for {len(saved)} parameters, this one has {len(params)}; use the same model"
            )
        for param, i in zip(params, saved, strict=True):
            for name, moment in state["state"].get(i, {}).items():
                if name != "step" and moment.shape != param.shape:
                    raise CheckpointError(
                        f"the optimizer was saved with parameter {i} of shape {tuple(moment.shape)}, here it is "
                        f"{tuple(param.shape)}; use the same model"
                    )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_guard": self._guard}


class Adam(GuardedOptimizer, torch.optim.Adam):
    """Adam (Kingma & Ba 2015, https://arxiv.org/abs/1412.6980) or AdamW (Loshchilov & Hutter 2019,
    https://arxiv.org/abs/1711.05101), fused where torch has it, with optional guards on the gradient.

    Args:
        params: parameters or parameter groups, all on one device where a guard is used.
        lr: learning rate.
        betas: decays of Adam's first and second moment; the second one is that of the guards, too.
        eps: added to the root of the second moment.
        weight_decay: L2 penalty (``adam``) or decoupled decay (``adamw``).
        amsgrad: keep the largest second moment (Reddi et al. 2018).
        optim_type: ``'adam'`` or ``'adamw'``.
        guard: ``grad_clip_type``, ``grad_ignore_type`` and what belongs to them, see :class:`GradGuard`.

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
        **guard: Unpack[GuardOptions],
    ) -> None:
        check_name("optim_type", optim_type, OPTIM_TYPES)
        self._guard = GradGuard(betas[1], **guard)
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

    def _update(self) -> None:
        step = torch.optim.Adam.step
        # torch puts hooks around the step of its own class once a plain Adam exists; ours has run them already
        step = step.__wrapped__ if getattr(step, "hooked", False) else step  # type: ignore[attr-defined]
        step(self)


class RMSprop(GuardedOptimizer):
    """RMSprop (Tieleman & Hinton 2012, lecture 6.5 of "Neural networks for machine learning"), with optional guards on
    the gradient.

        v ← α·v + (1 − α)·g²,  m ← α·m + (1 − α)·g
        d = √v + ε             (``eps_inside``: √(v + ε), as TensorFlow has it; ``centered``: v − m² in place of v)
        b ← μ·b + g/d
        w ← w − lr·b

    Where the second moment is small the two places of ε differ: √ε is the floor of d inside the root, ε outside of it.
    ``centered``: Graves 2013, https://arxiv.org/abs/1308.0850, eq. 38 to 45.

    Args:
        params: parameters or parameter groups, all on one device where a guard is used.
        lr: learning rate.
        alpha: decay of the moments, and of those of the guards.
        eps: ε.
        weight_decay: L2 penalty.
        momentum: μ.
        centered: divide by the standard deviation of the gradient in place of its root mean square.
        eps_inside: add ε under the root.
        guard: ``grad_clip_type``, ``grad_ignore_type`` and what belongs to them, see :class:`GradGuard`.

    Raises:
        ConfigError: a number is out of its range, an option of the guards has an unknown name or lacks its threshold.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        momentum: float = 0,
        centered: bool = False,
        eps_inside: bool = False,
        **guard: Unpack[GuardOptions],
    ) -> None:
        numbers = {"lr": lr, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "alpha": alpha}
        for name, value in numbers.items():
            if not value >= 0:
                raise ConfigError(f"RMSprop: {name} is {value}, expected at least 0")
        if alpha >= 1:
            raise ConfigError(f"RMSprop: alpha is {alpha}, expected less than 1")
        self._guard = GradGuard(alpha, **guard)
        super().__init__(params, {**numbers, "centered": centered, "eps_inside": eps_inside})

    @torch.no_grad()
    def _update(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if group["weight_decay"]:
                grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
            second = self._moments("square_avg", params)
            torch._foreach_mul_(second, group["alpha"])
            torch._foreach_addcmul_(second, grads, grads, 1 - group["alpha"])
            if group["centered"]:
                first = self._moments("grad_avg", params)
                torch._foreach_lerp_(first, grads, 1 - group["alpha"])
                second = list(torch._foreach_addcmul(second, first, first, -1))
                torch._foreach_clamp_min_(second, 0)  # below it by rounding only
            if group["eps_inside"]:
                divisor = torch._foreach_sqrt(torch._foreach_add(second, group["eps"]))
            else:
                divisor = torch._foreach_add(torch._foreach_sqrt(second), group["eps"])
            update = list(torch._foreach_div(grads, divisor))
            if group["momentum"]:
                held = self._moments("momentum_buffer", params)
                torch._foreach_mul_(held, group["momentum"])
                torch._foreach_add_(held, update)
                update = held
            torch._foreach_add_(params, update, alpha=-group["lr"])

    def _moments(self, name: str, params: Sequence[Tensor]) -> list[Tensor]:
        """Returns the running tensors of that name, zeros at first."""
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]


def _can_fuse(params: Sequence[Any]) -> bool:
    """Returns whether torch's fused kernel takes all of ``params``: parameters, (name, parameter) pairs or groups."""
    tensors: list[Tensor] = []
    for entry in params:
        held = entry["params"] if isinstance(entry, dict) else [entry]
        entries = [held] if isinstance(held, Tensor) else list(held)
        tensors += [e[1] if isinstance(e, tuple) else e for e in entries]
    return all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in tensors)
