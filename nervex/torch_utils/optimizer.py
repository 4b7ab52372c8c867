"""Adam and RMSprop with guards against gradients that are far larger than usual."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from nervex.torch_utils.checks import check_name
from nervex.torch_utils.grad_clip import GradGuard, GuardOptions, total_norm
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
    _groups: list["_Group"] | None = None  # what descend() reads; None: to be made
    _state_tensors: list[Tensor] | None = None
    _settings: list[Any] | None = None  # options and frozen parameters that these are of

    @property
    def counts(self) -> bool:
        """Whether the guards count gradients in Python, which compiled code cannot."""
        return self._guard.counts

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
        self._guard.apply(self.trained)
        self._update()
        return loss

    def descend(self, loss: Tensor) -> None:
        """Makes one step down the gradient of ``loss`` (0-d) to the parameters of this optimizer.

        No other gradient is computed: those of a critic's weights, through which an actor's loss goes, would cost as
        much as the actor's own. Afterwards they are the parameters' ``grad``, as the guards have left them, unless the
        code is compiled. Compiled code that calls it needs :meth:`prepare` before each call.
        """
        if torch.compiler.is_compiling():
            self._descend(loss, self._update_traced)
            return
        if self.hooked:
            trained = self.trained
            for p in trained:
                p.grad = None
            loss.backward(inputs=trained)
            self.step()
            return
        self.prepare()
        for p, grad in zip(*self._descend(loss, self._step_group), strict=True):
            p.grad = grad

    @property
    def trained(self) -> list[Tensor]:
        """The parameters that are not frozen."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @property
    def hooked(self) -> bool:
        """Whether functions of others are to run before or after a step, or when a gradient has arrived."""
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks) or any(
            p._post_accumulate_grad_hooks for group in self.param_groups for p in group["params"]
        )

    def state_tensors(self) -> list[Tensor]:
        """Returns the tensors that :meth:`descend` reads and writes; the same list until they are others."""
        self.prepare()
        assert self._state_tensors is not None
        return self._state_tensors

    def prepare(self) -> None:
        """Brings what :meth:`descend` reads up to date: states of all parameters, learning rates as tensors."""
        settings = [
            ([p.requires_grad for p in group["params"]], *(v for k, v in group.items() if k not in ("params", "lr")))
            for group in self.param_groups
        ]
        if self._groups is None or settings != self._settings:
            self._settings = settings
            self._groups = [
                _Group(group, params, {name: self._slots(name, params) for name in self._slot_names(group)})
                for group in self.param_groups
                if (params := [p for p in group["params"] if p.requires_grad])
            ]
            self._state_tensors = [*self._guard.tensors, *(t for held in self._groups for t in held.tensors)]
        for held in self._groups:
            held.refresh()

    def _descend(
        self, loss: Tensor, move: Callable[["_Group", Sequence[Tensor | None]], None]
    ) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """Returns the parameters and their gradients."""
        assert self._groups is not None
        params = [p for group in self._groups for p in group.params]
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        with torch.no_grad():
            self._guard.guard(grads)
            first = 0
            for group in self._groups:
                move(group, grads[first : first + len(group.params)])
                first += len(group.params)
        return params, grads

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own."""
        super().add_param_group(param_group)
        self._groups = None

    def _slots(self, name: str, params: Sequence[Tensor]) -> list[Tensor]:
        """Returns the running tensors of that name, zeros at first; numbers of steps as elements of one tensor."""
        if name == "step":
            steps = [self.state[p].get(name, p.new_zeros((), dtype=torch.float32)) for p in params]
            for p, step in zip(params, torch.stack(steps).unbind(), strict=True):
                self.state[p][name] = step
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p)
        return [self.state[p][name] for p in params]

    @abstractmethod
    def _slot_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Returns the names of the running tensors that a parameter of the group has."""

    @abstractmethod
    def _update(self) -> None:
        """Moves the weights along the gradients as they are."""

    @abstractmethod
    def _step_group(self, group: "_Group", grads: Sequence[Tensor | None]) -> None:
        """Moves the weights of a group along ``grads``."""

    @abstractmethod
    def _update_traced(self, group: "_Group", grads: Sequence[Tensor | None]) -> None:
        """The same in plain tensor operations, for compiled code."""

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
        self._groups = None
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


class _Group:
    """A parameter group as :meth:`GuardedOptimizer.descend` reads it.

    Attributes:
        options: of the group.
        params: its trained parameters.
        slots: name -> running tensors, one per parameter.
        count: what ``slots['step']`` are the elements of, if there are any.
        lr: learning rate, float32 0-d.
        exact_lr: the same in the precision of Python's floats.
    """

    def __init__(self, options: dict[str, Any], params: list[Tensor], slots: dict[str, list[Tensor]]) -> None:
        self.options = options
        self.params = params
        self.slots = slots
        self.count: Any = slots["step"][0]._base if "step" in slots else None
        self.lr = params[0].new_zeros((), dtype=torch.float32)
        self.exact_lr = torch.zeros((), dtype=torch.float64)
        self._lr_shown: float | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of it."""
        count = [] if self.count is None else [self.count]
        return [*self.params, *(t for slot in self.slots.values() for t in slot), *count, self.lr, self.exact_lr]

    def refresh(self) -> None:
        """Takes over the group's learning rate."""
        if self._lr_shown != self.options["lr"]:
            self._lr_shown = self.options["lr"]
            self.lr.fill_(self._lr_shown)
            self.exact_lr.fill_(self._lr_shown)


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

    def _step_group(self, group: _Group, grads: Sequence[Tensor | None]) -> None:
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

    def _update_traced(self, group: _Group, grads: Sequence[Tensor | None]) -> None:
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

    def _step_group(self, group: _Group, grads: Sequence[Tensor | None]) -> None:
        held = [i for i, grad in enumerate(grads) if grad is not None]
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
