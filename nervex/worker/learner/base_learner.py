"""The training iteration and the hooks around it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nervex.config.frozen import FrozenConfig
from nervex.config.schema import build, complete, option
from nervex.config.source import ConfigSource
from nervex.torch_utils.checkpoint import CountVar
from nervex.torch_utils.dist_helper import allreduce, get_world_size
from nervex.torch_utils.finite import nonfinite
from nervex.torch_utils.optimizer import Adam
from nervex.utils.errors import ConfigError, NumericalError, SpecError
from nervex.worker.learner.graph_learn_mode import GraphLearnMode
from nervex.worker.learner.hooks import POSITIONS, add_learner_hook, build_learner_hook_by_cfg


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

    learner_type: str = option("base", doc="registered learner; a policy's must be a BaseLearner without _setup_agent")
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


@dataclass
class GraphLearnerConfig(LearnerConfig):
    """Section ``learner`` of a learner that is set up from an agent and a computation graph. Beside these keys it may
    have sections of the user's own, such as ``dqn``."""

    use_cuda: bool = option(False, doc="a GPU is wanted; _setup_agent puts the model there")
    learning_rate: float = option(1e-3, gt=0, doc="step size of Adam")
    weight_decay: float = option(0.0, ge=0, doc="L2 penalty of Adam")
    batch_size: int = option(64, ge=1, unit="samples", doc="of one update (read by SingleMachineRunner)")
    train_step: int = option(
        1, ge=1, unit="learner iterations", doc="updates after each collection (read by SingleMachineRunner)"
    )


def complete_learner_section(source: ConfigSource) -> dict[str, Any]:
    """Returns section ``learner`` of a whole configuration, checked as a ``GraphLearnerConfig`` with defaults filled
    in; sections in it that are no keys of ours stay as they are.

    Raises:
        ConfigError: an unknown key that is no section, a wrong value, or a GPU is asked for and there is none.
    """
    section = source.data.get("learner") or {}
    known = GraphLearnerConfig.__dataclass_fields__
    if not isinstance(section, Mapping):
        raise ConfigError(f"'learner' in {source.name} is a {type(section).__name__}, expected a section")
    own = {key: value for key, value in section.items() if isinstance(value, Mapping) and key not in known}
    ours = {key: value for key, value in section.items() if key not in own}
    checked = build(GraphLearnerConfig, ours, source, ("learner",))
    if checked["use_cuda"] and not torch.cuda.is_available():
        raise ConfigError("learner.use_cuda is true, but torch sees no CUDA device; set it to false")
    return {**checked, **own}


class BaseLearner:
    """Runs training iterations: those of a policy, or those of an agent and a computation graph.

    With a policy, ``BaseLearner(cfg, policy)`` calls its learn mode. A subclass with ``_setup_agent`` and
    ``_setup_computation_graph`` is a learner of its own, ``MyLearner(cfg)``: they set ``self._agent`` and
    ``self._computation_graph`` from ``self._cfg``, the whole configuration (read-only, defaults of section ``learner``
    filled in). Each iteration then steps down the graph's ``total_loss`` with ``self._optimizer``, which
    ``_setup_optimizer`` may choose. Hooks, metrics, checks and state are the same for both.

    Args:
        cfg: section ``learner``, a ``LearnerConfig`` as mapping (missing keys take their defaults); for a learner with
            ``_setup_agent`` the whole configuration, whose section ``learner`` is a ``GraphLearnerConfig``.
        policy: a policy's ``learn_mode``; may be set later.

    Raises:
        ConfigError: the configuration is wrong, or a subclass left a part out.

    Attributes:
        last_iter: iterations made so far (``CountVar``).
        report: receives averages of the output every ``log_freq`` iterations, or None.
        saver: saves a checkpoint, or None.
        last_batch: the batch of the newest iteration.
    """

    _name = "BaseLearner"

    def __init__(self, cfg: Any, policy: Any = None) -> None:
        self._cfg: Any
        self._has_graph = self.has_graph()
        if self._has_graph:
            source = ConfigSource.from_dict(cfg)
            self._cfg = FrozenConfig({**source.data, "learner": complete_learner_section(source)})
            self._settings: Mapping[str, Any] = self._cfg["learner"]
        else:
            self._cfg = self._settings = complete(LearnerConfig, cfg)
        cfg = self._settings
        self.policy = policy
        self._agent: Any = None
        self._computation_graph: Any = None
        self._optimizer: Any = None
        self.last_iter = CountVar(0)
        self.collect_info: dict[str, Any] = {}
        self.report: Callable[[dict[str, float]], None] | None = None
        self.saver: Callable[[], None] | None = None
        self.last_batch: Any = None
        self._sum: dict[str, Any] = {}
        self._summed: dict[str, float] = {}  # iterations that each sum is of
        self._priority_info: dict[str, Any] | None = None
        self.hooks = build_learner_hook_by_cfg(
            {
                "log_show": {"ext_args": {"freq": cfg["log_freq"]}, "priority": 10},
                "save_ckpt": {"ext_args": {"freq": cfg["save_freq"]}, "priority": 90},
                **cfg["hook"],
            }
        )
        if self._has_graph:
            self._setup()

    @classmethod
    def has_graph(cls) -> bool:
        """Returns whether this class sets up an agent and a computation graph of its own."""
        return cls._setup_agent is not BaseLearner._setup_agent

    def _setup(self) -> None:
        name = type(self).__name__
        if self.policy is not None:
            raise ConfigError(f"{name} has _setup_agent and was given a policy too; leave one of them out")
        for part in ("agent", "computation_graph", "optimizer"):
            getattr(self, f"_setup_{part}")()
            if getattr(self, f"_{part}") is None:
                raise ConfigError(f"{name}._setup_{part} has set no self._{part}; assign it there")
        self.policy = GraphLearnMode(self._agent, self._computation_graph, self._optimizer)

    def _setup_agent(self) -> None:
        """Sets ``self._agent``; a subclass that has this method needs no policy."""
        raise NotImplementedError

    def _setup_computation_graph(self) -> None:
        """Sets ``self._computation_graph``."""
        raise ConfigError(f"{type(self).__name__} has _setup_agent and no _setup_computation_graph; add that method")

    def _setup_optimizer(self) -> None:
        """Sets ``self._optimizer``: Adam with ``learner.learning_rate`` and ``learner.weight_decay``, unless a subclass
        chooses another one."""
        self._optimizer = Adam(
            self._agent.model.parameters(), self._settings["learning_rate"], weight_decay=self._settings["weight_decay"]
        )

    @property
    def agent(self) -> Any:
        """The agent that ``_setup_agent`` made; None for the learner of a policy."""
        return self._agent

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
                f"{self._advice}"
            )

    def reduce_averages(self) -> None:
        """Makes what :meth:`take_averages` is going to return the averages over all processes that train together. May
        be called after any iteration; every process must call it, and have the same keys. Alone it changes nothing.

        Raises:
            DistributedError: a process did not take part in time.
        """
        world_size = get_world_size()
        if world_size == 1 or not self._sum:
            return
        keys = sorted(self._sum)
        device = next((v.device for v in self._sum.values() if isinstance(v, torch.Tensor)), None)
        numbers = [[self._sum[key], self._summed[key]] for key in keys]
        means = allreduce(torch.tensor(numbers, dtype=torch.float64, device=device)).div_(world_size)  # [keys, 2]
        self._sum = dict(zip(keys, means[:, 0].clone().unbind(), strict=True))
        self._summed = dict(zip(keys, means[:, 1].tolist(), strict=True))

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
        """Returns counters, running sums and the hooks' state, as plain data, and the state of agent and optimizer that
        ``_setup_agent`` and ``_setup_optimizer`` made; a policy keeps its own."""
        return {
            **({"learn": self.policy.state_dict()} if self._has_graph else {}),
            "last_iter": self.last_iter.val,
            "sum": dict(self._sum),
            "summed": dict(self._summed),
            "hook": {hook.name: hook.state_dict() for hooks in self.hooks.values() for hook in hooks},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        if self._has_graph:
            self.policy.load_state_dict(state["learn"])
        self.last_iter.update(int(state["last_iter"]))
        self._sum, self._summed = dict(state["sum"]), dict(state["summed"])
        for hook in (h for hooks in self.hooks.values() for h in hooks):
            if hook.name in state["hook"]:
                hook.load_state_dict(state["hook"][hook.name])

    @property
    def _advice(self) -> str:
        section = "learner" if self._has_graph else "policy.learn"
        return f"lower {section}.learning_rate, clip gradients, or check rewards and the model for NaN"

    def _accumulate(self, output: dict[str, Any]) -> None:
        """Adds up scalars; tensors on a GPU, which reading them makes wait, stay tensors until they are shown."""
        for key, value in output.items():
            if isinstance(value, torch.Tensor) and value.dim() == 0:
                # detached, so that no graph grows from sum to sum; cloned, since the policy may use its tensor again
                number = value.item() if value.device.type == "cpu" else value.detach().clone()
            elif isinstance(value, int | float):
                number = value
            else:
                continue
            self._sum[key] = self._sum[key] + number if key in self._sum else number
            self._summed[key] = self._summed.get(key, 0) + 1

    def _check_loss(self, output: dict[str, Any]) -> None:
        loss, freq = output.get("total_loss"), self._settings["check_finite_freq"]
        if freq is None:
            on_cpu = not isinstance(loss, torch.Tensor) or loss.device.type == "cpu"
            freq = 1 if on_cpu else math.inf  # the running sum keeps a NaN until it is looked at
        if self.last_iter.val % freq == 0:
            self._refuse("total_loss", loss)

    def _refuse(self, name: str, value: Any) -> None:
        number = value.item() if isinstance(value, torch.Tensor) else value
        if number is not None and not math.isfinite(number):
            raise NumericalError(f"{name} is {number} at learner iteration {self.last_iter.val}; {self._advice}")
