"""The training iteration and the hooks around it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nervex.config.schema import complete, option
from nervex.torch_utils.checkpoint import CountVar
from nervex.torch_utils.finite import nonfinite
from nervex.utils.errors import ConfigError, NumericalError, SpecError
from nervex.worker.learner.hooks import POSITIONS, add_learner_hook, build_learner_hook_by_cfg

_ADVICE = "lower policy.learn.learning_rate, clip gradients, or check rewards and the model for NaN"


@dataclass
class HookConfig:
    """One entry of ``learner.hook``."""

    name: str | None = option(None, doc="unique name; the entry's key unless given")
    type: str | None = option(None, doc="registered hook; the entry's key unless given")
    priority: int = option(20, doc="lower runs earlier")
    position: str = option("after_iter", choices=POSITIONS, doc="when it runs")
    ext_args: dict[str, Any] = option(default_factory=dict, doc="arguments of the hook, such as {freq: 100}")


@dataclass
class LearnerConfig:
    """Section ``learner`` of a configuration."""

    log_freq: int = option(500, ge=1, unit="learner iterations", doc="between rows of metrics.jsonl")
    save_freq: int = option(10_000, ge=1, unit="learner iterations", doc="between checkpoints")
    check_finite_freq: int | None = option(
        None, ge=1, unit="learner iterations",
        doc="between looks at the loss for NaN; null: 1 on a CPU, and on a GPU, which each look makes wait, whenever a "
        "row of metrics or a checkpoint is due",
    )  # fmt: skip
    hook: dict[str, HookConfig] = option(
        default_factory=dict, doc="further hooks: {key: {type, position, priority, ext_args}}"
    )


class BaseLearner:
    """Runs a policy's learn mode.

    Args:
        cfg: section ``learner``, a ``LearnerConfig`` as mapping (missing keys take their defaults).
        policy: a policy's ``learn_mode``; may be set later.

    Attributes:
        last_iter: iterations made so far (``CountVar``).
        report: receives averages of the output every ``log_freq`` iterations, or None.
        saver: saves a checkpoint, or None.
        last_batch: the batch of the newest iteration.
    """

    _name = "BaseLearner"

    def __init__(self, cfg: Any, policy: Any = None) -> None:
        self._cfg = cfg = complete(LearnerConfig, cfg)
        self.policy = policy
        self.last_iter = CountVar(0)
        self.collect_info: dict[str, Any] = {}
        self.report: Callable[[dict[str, float]], None] | None = None
        self.saver: Callable[[], None] | None = None
        self.last_batch: Any = None
        self._sum: dict[str, Any] = {}
        self._summed: dict[str, int] = {}  # iterations that each sum is of
        self._priority_info: dict[str, Any] | None = None
        self.hooks = build_learner_hook_by_cfg(
            {
                "log_show": {"ext_args": {"freq": cfg["log_freq"]}, "priority": 10},
                "save_ckpt": {"ext_args": {"freq": cfg["save_freq"]}, "priority": 90},
                **cfg["hook"],
            }
        )

    @property
    def name(self) -> str:
        """Name of the learner, for logs."""
        return self._name

    @property
    def priority_info(self) -> dict[str, Any] | None:
        """``{'index', 'priority'}`` of the newest batch, for the replay; None when the policy gives no priority."""
        return self._priority_info

    def register_hook(self, hook: Any) -> None:
        """Adds a ``LearnerHook``, or a function of the learner that runs after each iteration."""
        add_learner_hook(self.hooks, hook)

    def call_hook(self, position: str) -> None:
        """Runs the hooks of a position in order."""
        for hook in self.hooks[position]:
            hook(self)

    def launch(self) -> None:
        """Runs the hooks of ``before_run``."""
        self.call_hook("before_run")

    def train(self, batch: Any) -> dict[str, Any]:
        """Makes one iteration and returns the policy's output.

        Raises:
            NumericalError: the loss is NaN or infinite.
        """
        self.call_hook("before_iter")
        self.last_batch = batch
        data = self.policy.data_preprocess(batch)
        output: dict[str, Any] = self.policy.forward(data)
        if not isinstance(output, dict):
            raise SpecError(f"_forward_learn returned {type(output).__name__}; expected a dict of numbers")
        priority = output.pop("priority", None)
        index = batch.get("index") if isinstance(batch, dict) else None
        self._priority_info = None if priority is None or index is None else {"index": index, "priority": priority}
        self.last_iter.add(1)
        self._check_loss(output)
        self._accumulate(output)
        self.call_hook("after_iter")
        return output

    def run(self, max_iterations: int, data_source: Callable[[], Any]) -> None:
        """Makes ``max_iterations`` iterations on the batches of ``data_source()``, with the hooks around them."""
        self.launch()
        for _ in range(max_iterations):
            self.train(data_source())
        self.call_hook("after_run")

    def save_checkpoint(self) -> None:
        """Saves a checkpoint through the run's saver."""
        if self.saver is None:
            raise ConfigError("this learner has no saver; set learner.saver to a function that saves a checkpoint")
        self.saver()

    def get_current_info(self) -> dict[str, Any]:
        """Returns ``{'learner_step': iterations made}``."""
        return {"learner_step": self.last_iter.val}

    def check_numbers(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Looks for what is not finite in the losses since the last row of metrics and in the weights, which a gradient
        that is not finite reaches at once.

        Raises:
            NumericalError: something is; it may have gone wrong in an earlier iteration than this one.
        """
        self._refuse("total_loss", self._sum.get("total_loss"))
        bad = nonfinite(weights)
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise NumericalError(
                f"weight '{bad[0]}'{more} is not finite at learner iteration {self.last_iter.val}, or since before; "
                f"{_ADVICE}"
            )

    def take_averages(self) -> dict[str, float]:
        """Returns the averages of the scalar outputs since the last call, each over the iterations that gave it.

        Raises:
            NumericalError: the loss is NaN or infinite.
        """
        self._refuse("total_loss", self._sum.get("total_loss"))
        averages = {k: float(v) / self._summed[k] for k, v in self._sum.items()}
        self._sum, self._summed = {}, {}
        return averages

    def state_dict(self) -> dict[str, Any]:
        """Returns counters, running sums and the hooks' state, as plain data."""
        return {
            "last_iter": self.last_iter.val,
            "sum": dict(self._sum),
            "summed": dict(self._summed),
            "hook": {hook.name: hook.state_dict() for hooks in self.hooks.values() for hook in hooks},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self.last_iter.update(int(state["last_iter"]))
        self._sum, self._summed = dict(state["sum"]), dict(state["summed"])
        for hook in (h for hooks in self.hooks.values() for h in hooks):
            if hook.name in state["hook"]:
                hook.load_state_dict(state["hook"][hook.name])

    def _accumulate(self, output: dict[str, Any]) -> None:
        """Adds up scalars; tensors stay tensors until they are shown."""
        for key, value in output.items():
            if isinstance(value, torch.Tensor) and value.dim() == 0:
                # detached, so that no graph grows from sum to sum; cloned, since the policy may use its tensor again
                self._sum[key] = self._sum[key] + value.detach() if key in self._sum else value.detach().clone()
            elif isinstance(value, int | float):
                self._sum[key] = self._sum.get(key, 0) + value
            else:
                continue
            self._summed[key] = self._summed.get(key, 0) + 1

    def _check_loss(self, output: dict[str, Any]) -> None:
        loss, freq = output.get("total_loss"), self._cfg["check_finite_freq"]
        if freq is None:
            on_cpu = not isinstance(loss, torch.Tensor) or loss.device.type == "cpu"
            freq = 1 if on_cpu else math.inf  # the running sum keeps a NaN until it is looked at
        if self.last_iter.val % freq == 0:
            self._refuse("total_loss", loss)

    def _refuse(self, name: str, value: Any) -> None:
        number = value.item() if isinstance(value, torch.Tensor) else value
        if number is not None and not math.isfinite(number):
            raise NumericalError(f"{name} is {number} at learner iteration {self.last_iter.val}; {_ADVICE}")
