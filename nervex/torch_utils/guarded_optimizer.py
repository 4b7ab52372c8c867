"""What the optimizers share: a step down a gradient that is guarded first, and that can be compiled or recorded."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from nervex.torch_utils.grad_clip import GradGuard
from nervex.utils.errors import CheckpointError

_GUARD_KEY = "gradient_guard"


class GuardedOptimizer(torch.optim.Optimizer):
    """An optimizer whose step guards the gradient first, and whose state holds that of the guard.

    A subclass sets ``_guard`` before its base is initialized, and moves the weights in ``_update``. A gradient that was
    zeroed still lets the optimizer's own momentum move the weights; ``ignored_count`` counts those steps.
    """

    _guard: GradGuard
    _groups: list["HeldGroup"] | None = None  # what descend() reads; None: to be made
    _state_tensors: list[Tensor]
    _state_num = 0  # parameters that had one then
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
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
        ) or any(p._post_accumulate_grad_hooks for group in self.param_groups for p in group["params"])

    def prepare(self) -> list[Tensor]:
        """Brings what :meth:`descend` reads up to date: states of all parameters, learning rates as tensors.

        Returns:
            The tensors that :meth:`descend` reads and writes; the same list until they are others.
        """
        settings = [
            (
                [(id(p), p.requires_grad) for p in group["params"]],
                *(v for k, v in group.items() if k not in ("params", "lr")),
            )
            for group in self.param_groups
        ]
        if self._groups is None or settings != self._settings or len(self.state) < self._state_num:
            self._settings = settings
            self._groups = [
                HeldGroup(group, params, {name: self._slots(name, params) for name in self._slot_names(group)})
                for group in self.param_groups
                if (params := [p for p in group["params"] if p.requires_grad])
            ]
            self._state_tensors = [*self._guard.tensors, *(t for held in self._groups for t in held.tensors)]
            self._state_num = len(self.state)
        for held in self._groups:
            held.refresh()
        return self._state_tensors

    def _descend(
        self, loss: Tensor, move: Callable[["HeldGroup", Sequence[Tensor | None]], None]
    ) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """Returns the parameters and their gradients."""
        assert self._groups is not None
        params = [p for group in self._groups for p in group.params]
        grads: Sequence[Tensor | None] = torch.autograd.grad(loss, params, allow_unused=True)
        with torch.no_grad():
            if not torch.compiler.is_compiling():
                grads = [_laid_out(grad, p) for grad, p in zip(grads, params, strict=True)]
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
    def _step_group(self, group: "HeldGroup", grads: Sequence[Tensor | None]) -> None:
        """Moves the weights of a group along ``grads``."""

    @abstractmethod
    def _update_traced(self, group: "HeldGroup", grads: Sequence[Tensor | None]) -> None:
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


def _laid_out(grad: Tensor | None, p: Tensor) -> Tensor | None:
    """Returns the gradient in memory as the parameter is, which fused kernels take for granted: that of a sum is one
    number with strides of 0."""
    if grad is None or grad.stride() == p.stride():
        return grad
    return torch.empty_like(p).copy_(grad)


class HeldGroup:
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
        lr = float(self.options["lr"])
        if self._lr_shown != lr:
            self._lr_shown = lr
            self.lr.fill_(self._lr_shown)
            self.exact_lr.fill_(self._lr_shown)
