"""Adam and RMSprop with guards against gradients that are far larger than usual."""

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from nervex.torch_utils.checks import check_name
from nervex.torch_utils.grad_clip import GradGuard, GuardOptions, total_norm
from nervex.torch_utils.guarded_optimizer import GuardedOptimizer, HeldGroup
from nervex.utils.errors import ConfigError

OPTIM_TYPES = ("adam", "adamw")
_FUSED_DEVICES = ("cpu", "cuda")


def grad_norm(params: Iterable[Tensor], norm_type: float = 2) -> Tensor:
    """Returns the norm of all gradients of ``params`` taken as one vector, 0-d and on their device (0 without any).

    Args:
        params: parameters; those without a gradient do not count.
        norm_type: p of the p-norm, ``inf`` for the largest absolute value.
    """
    return total_norm([p.grad for p in params if p.grad is not None], norm_type)


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

    def _step_group(self, group: HeldGroup, grads: Sequence[Tensor | None]) -> None:
        options, held = group.options, [i for i, grad in enumerate(grads) if grad is not None]
        if not options["fused"] or not held:
            self._update_traced(group, grads)
            return
        params, given = [group.params[i] for i in held], [grad for grad in grads if grad is not None]
        slots = {name: [slot[i] for i in held] for name, slot in group.slots.items()}
        if len(held) == len(grads):
            group.count.add_(1)  # all at once
        else:
            torch._foreach_add_(slots["step"], 1)
        beta1, beta2 = options["betas"]
        on_cpu = params[0].device.type == "cpu"
        kernel = torch._fused_adamw_ if options["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            params, given, slots["exp_avg"], slots["exp_avg_sq"], slots.get("max_exp_avg_sq", []), slots["step"],
            lr=group.exact_lr if on_cpu else options["lr"], beta1=beta1, beta2=beta2,
            weight_decay=options["weight_decay"], eps=options["eps"], amsgrad=options["amsgrad"],
            maximize=options["maximize"],
        )  # fmt: skip

    def _slot_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

    def _update_traced(self, group: HeldGroup, grads: Sequence[Tensor | None]) -> None:
        slots, options = group.slots, group.options
        beta1, beta2 = options["betas"]
        decay, decoupled = options["weight_decay"], options["decoupled_weight_decay"]
        for i, (p, g) in enumerate(zip(group.params, grads, strict=True)):
            if g is None:
                continue
            grad = g + decay * p if decay and not decoupled else g
            step, first, second = slots["step"][i], slots["exp_avg"][i], slots["exp_avg_sq"][i]
            step.add_(1)
            if decay and decoupled:
                p.mul_(1 - group.lr * decay)
            first.lerp_(grad, 1 - beta1)
            second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            if options["amsgrad"]:
                second = slots["max_exp_avg_sq"][i].copy_(torch.maximum(slots["max_exp_avg_sq"][i], second))
            root = second.sqrt() * (1 - beta2**step).rsqrt() + options["eps"]
            p.sub_(group.lr / (1 - beta1**step) * first / root)


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
        # torch adds the last one whenever a state is loaded; a resumed run is to have what an undisturbed one has
        options = {"centered": centered, "eps_inside": eps_inside, "differentiable": False}
        super().__init__(params, {**numbers, **options})

    @torch.no_grad()
    def _update(self) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                slots = {name: self._slots(name, params) for name in self._slot_names(group)}
                self._move(group, params, [p.grad for p in params], slots, group["lr"])

    def _step_group(self, group: HeldGroup, grads: Sequence[Tensor | None]) -> None:
        held = [i for i, grad in enumerate(grads) if grad is not None]
        if not held:
            return
        slots = {name: [slot[i] for i in held] for name, slot in group.slots.items()}
        self._move(group.options, [group.params[i] for i in held], [grads[i] for i in held], slots, group.lr)

    def _slot_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        used = {"square_avg": True, "grad_avg": group["centered"], "momentum_buffer": group["momentum"]}
        return tuple(name for name, is_used in used.items() if is_used)

    _update_traced = _step_group

    @staticmethod
    def _move(
        options: dict[str, Any], params: list[Tensor], grads: list[Any], slots: dict[str, list[Tensor]], lr: Any
    ) -> None:
        if options["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=options["weight_decay"]))
        second = slots["square_avg"]
        torch._foreach_mul_(second, options["alpha"])
        torch._foreach_addcmul_(second, grads, grads, 1 - options["alpha"])
        if options["centered"]:
            first = slots["grad_avg"]
            torch._foreach_lerp_(first, grads, 1 - options["alpha"])
            second = list(torch._foreach_addcmul(second, first, first, -1))
            torch._foreach_clamp_min_(second, 0)  # below it by rounding only
        if options["eps_inside"]:
            divisor = torch._foreach_sqrt(torch._foreach_add(second, options["eps"]))
        else:
            divisor = torch._foreach_add(torch._foreach_sqrt(second), options["eps"])
        update = list(torch._foreach_div(grads, divisor))
        if options["momentum"]:
            held = slots["momentum_buffer"]
            torch._foreach_mul_(held, options["momentum"])
            torch._foreach_add_(held, update)
            update = held
        if isinstance(lr, Tensor):
            torch._foreach_sub_(params, torch._foreach_mul(update, lr))
        else:
            torch._foreach_add_(params, update, alpha=-lr)


def _can_fuse(params: Sequence[Any]) -> bool:
    """Returns whether torch's fused kernel takes all of ``params``: parameters, (name, parameter) pairs or groups."""
    tensors: list[Tensor] = []
    for entry in params:
        held = entry["params"] if isinstance(entry, dict) else [entry]
        entries = [held] if isinstance(held, Tensor) else list(held)
        tensors += [e[1] if isinstance(e, tuple) else e for e in entries]
    if len({(p.dtype, p.device) for p in tensors}) > 1:
        return False
    return all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in tensors)
