"""What happens before and after iterations and runs of a learner."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nervex.utils.errors import ConfigError, did_you_mean
from nervex.utils.registry import Registry

POSITIONS = ("before_run", "after_run", "before_iter", "after_iter")

HOOK_REGISTRY = Registry(
    "learner hook",
    {
        "log_show": "nervex.worker.learner.hooks:LogShowHook",
        "log_reduce": "nervex.worker.learner.hooks:LogReduceHook",
        "save_ckpt": "nervex.worker.learner.hooks:SaveCkptHook",
        "save_ckpt_after_run": "nervex.worker.learner.hooks:SaveCkptHook",
    },
)


class LearnerHook(ABC):
    """A callable ``hook(learner)`` with a position; hooks of one position run by priority, lowest number first, and in
    the order of registration among equals.

    Args:
        name: unique within a learner.
        priority: lower runs earlier.
        position: ``before_run``, ``after_run``, ``before_iter`` or ``after_iter``.
        ext_args: further arguments, such as ``{'freq': 100}``.
    """

    def __init__(
        self, name: str, priority: int = 20, position: str = "after_iter", ext_args: Mapping[str, Any] | None = None
    ) -> None:
        if position not in POSITIONS:
            raise ConfigError(
                f"hook '{name}': unknown position '{position}'{did_you_mean(position, POSITIONS)} "
                f"(known: {', '.join(POSITIONS)})"
            )
        self.name = name
        self.priority = priority
        self.position = position
        self.ext_args = dict(ext_args or {})

    @abstractmethod
    def __call__(self, learner: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """Returns the hook's own state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 (most hooks have no state)
        """Restores what :meth:`state_dict` gave."""


class FunctionHook(LearnerHook):
    """A plain function as a hook after each iteration."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        super().__init__(getattr(function, "__name__", "hook"))
        self._function = function

    def __call__(self, learner: Any) -> None:
        self._function(learner)


class LogShowHook(LearnerHook):
    """Every ``freq`` iterations hands the averages of the learner's output since the last time to its ``report``."""

    def __init__(self, name: str = "log_show", priority: int = 20, position: str = "after_iter",
                 ext_args: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        super().__init__(name, priority, position, ext_args)
        self._freq = _freq(name, self.ext_args, 100)

    def __call__(self, learner: Any) -> None:
        if learner.last_iter.val % self._freq == 0 and learner.report is not None:
            learner.report(learner.take_averages())


class LogReduceHook(LearnerHook):
    """Every ``freq`` iterations makes the averages of the learner's output those of all processes that train together.

    ``freq`` must divide that of ``log_show``.

    Raises:
        ConfigError: at the first call, when ``log_show`` runs before it; its priority number must be the lower one.
    """

    def __init__(self, name: str = "log_reduce", priority: int = 5, position: str = "after_iter",
                 ext_args: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        super().__init__(name, priority, position, ext_args)
        self._freq = _freq(name, self.ext_args, 1)

    def __call__(self, learner: Any) -> None:
        for hook in learner.hooks["after_iter"]:
            if isinstance(hook, LogShowHook) and hook.priority <= self.priority:
                raise ConfigError(
                    f"hook '{self.name}' has priority {self.priority} and '{hook.name}', which shows what it reduces, "
                    f"{hook.priority}; give it a lower number, so that it runs first"
                )
        if learner.last_iter.val % self._freq == 0:
            learner.reduce_averages()


class SaveCkptHook(LearnerHook):
    """Every ``freq`` iterations (or once, after the run) asks the learner to save a checkpoint, if it has a saver."""

    def __init__(self, name: str = "save_ckpt", priority: int = 20, position: str = "after_iter",
                 ext_args: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        super().__init__(name, priority, position, ext_args)
        self._freq = _freq(name, self.ext_args, 1)

    def __call__(self, learner: Any) -> None:
        if learner.saver is not None and (self.position != "after_iter" or learner.last_iter.val % self._freq == 0):
            learner.save_checkpoint()


def _freq(name: str, ext_args: Mapping[str, Any], default: int) -> int:
    freq = ext_args.get("freq", default)
    if isinstance(freq, bool) or not isinstance(freq, int) or freq < 1:
        raise ConfigError(
            f"hook '{name}': ext_args.freq is {freq!r}; expected a whole number of iterations, at least 1"
        )
    return freq


def register_learner_hook(name: str, hook_class: type[LearnerHook]) -> None:
    """Makes ``hook_class`` available to configurations as ``learner.hook.<key>.type: name``."""
    HOOK_REGISTRY.register(name, hook_class)


def build_learner_hook_by_cfg(cfg: Mapping[str, Mapping[str, Any]]) -> dict[str, list[LearnerHook]]:
    """Returns hooks by position for a section ``learner.hook``, whose values are ``{name, type, priority, position,
    ext_args}``; name and type are the key unless given."""
    hooks: dict[str, list[LearnerHook]] = {position: [] for position in POSITIONS}
    for key, item in cfg.items():
        hook_class = HOOK_REGISTRY.get(item.get("type") or key)
        hook = hook_class(
            name=item.get("name") or key, priority=item.get("priority", 20),
            position=item.get("position", "after_iter"), ext_args=item.get("ext_args"),
        )  # fmt: skip
        add_learner_hook(hooks, hook)
    return hooks


def add_learner_hook(hooks: dict[str, list[LearnerHook]], hook: Any) -> None:
    """Adds ``hook`` (a ``LearnerHook`` or a function of the learner) at its place."""
    hook = hook if isinstance(hook, LearnerHook) else FunctionHook(hook)
    if not isinstance(hook, FunctionHook) and any(hook.name == h.name for held in hooks.values() for h in held):
        raise ConfigError(f"two learner hooks are named '{hook.name}'; give one of them another name")
    hooks[hook.position].append(hook)
    hooks[hook.position].sort(key=lambda h: h.priority)


def merge_hooks(
    first: Mapping[str, Sequence[LearnerHook]], second: Mapping[str, Sequence[LearnerHook]]
) -> dict[str, list[LearnerHook]]:
    """Returns the hooks of both by position, in the order in which they run; of equal priority those of ``first`` come
    first.

    Raises:
        ConfigError: a name is in both.
    """
    merged: dict[str, list[LearnerHook]] = {position: [] for position in POSITIONS}
    for hook in (hook for hooks in (first, second) for held in hooks.values() for hook in held):
        add_learner_hook(merged, hook)
    return merged
