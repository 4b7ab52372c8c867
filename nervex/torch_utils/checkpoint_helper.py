"""Checkpoints of a model beside what belongs to it, under a name of one's own: one call to save, one to load.

A run keeps its checkpoints with :class:`CheckpointManager`; this is for programs that keep their own.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from nervex.torch_utils.checkpoint import CountVar, refuse_pickle
from nervex.torch_utils.checks import check_name
from nervex.torch_utils.state_files import load_state, save_state
from nervex.utils.errors import CheckpointError, ConfigError

_logger = logging.getLogger("nervex")
_PREFIX_OPS = (None, "remove", "add")
_COUNTERS = ("last_iter", "last_epoch", "last_frame")
_SHOWN = 5


class LoadReport(NamedTuple):
    """Names of weights, sorted.

    Attributes:
        matched: loaded.
        missing: of the model, not in the checkpoint.
        unexpected: in the checkpoint, not of the model.
        mismatched: in both, of different shapes.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]


class CheckpointHelper:
    """Saves a model with its optimizer, counters and data, and loads them into others of their kind.

    A checkpoint is a directory whose name is the path, whatever that ends in (``iteration_10.pth.tar``): weights as
    safetensors, the rest as plain data; nothing in it can run code. It is there whole or not at all, and is never
    overwritten.
    """

    def save(
        self,
        path: str | Path,
        model: nn.Module | Mapping[str, Tensor],
        optimizer: Any = None,
        last_iter: CountVar | None = None,
        last_epoch: CountVar | None = None,
        last_frame: CountVar | None = None,
        dataset: Any = None,
        actor_info: Any = None,
        prefix_op: str | None = None,
        prefix: str | None = None,
    ) -> None:
        """Writes a checkpoint; directories above it are made.

        Args:
            path: name of the new checkpoint.
            model: module, or its state dict.
            optimizer, dataset, actor_info: anything with ``state_dict()`` of plain data and tensors; None: without.
            last_iter, last_epoch, last_frame: counters; None: without.
            prefix_op: ``'add'`` or ``'remove'`` a ``prefix`` of the names of weights.
            prefix: such as ``'module.'``.

        Raises:
            CheckpointError: the path exists, or the disk is full or failing.
            ConfigError: ``prefix_op`` and ``prefix`` do not fit.
        """
        counters = dict(zip(_COUNTERS, (last_iter, last_epoch, last_frame), strict=True))
        parts = {"optimizer": optimizer, "dataset": dataset, "actor_info": actor_info}
        tree: dict[str, Any] = {name: count.val for name, count in counters.items() if count is not None}
        tree |= {name: part.state_dict() for name, part in parts.items() if part is not None}
        weights = model.state_dict() if isinstance(model, nn.Module) else model
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, tree, weights={k: v.detach() for k, v in renamed(weights, prefix_op, prefix).items()})
        _logger.info("saved checkpoint %s", path)

    def load(
        self,
        load_path: str | Path,
        model: nn.Module,
        optimizer: Any = None,
        last_iter: CountVar | None = None,
        last_epoch: CountVar | None = None,
        last_frame: CountVar | None = None,
        dataset: Any = None,
        actor_info: Any = None,
        prefix_op: str | None = None,
        prefix: str | None = None,
        strict: bool = True,
        logger_prefix: str = "",
        state_dict_mask: Sequence[str] = (),
    ) -> LoadReport:
        """Loads a checkpoint into what is given; what is None is left in the checkpoint.

        Nothing is changed when an error is raised because of names or shapes of weights.

        Args:
            load_path: of the checkpoint.
            model: module that takes the weights.
            optimizer, dataset, actor_info: anything with ``load_state_dict``.
            last_iter, last_epoch, last_frame: counters that are set.
            prefix_op, prefix: as in :meth:`save`, applied to the names in the checkpoint.
            strict: every name and shape must fit; False: what fits is loaded, and the rest is logged.
            logger_prefix: put before what is logged.
            state_dict_mask: beginnings of names, of the model, that are neither loaded nor missed.

        Returns:
            What became of each weight.

        Raises:
            CheckpointError: the checkpoint is missing, damaged or could run code; it lacks what was asked for; or, with
                ``strict``, weights do not fit.
        """
        path = Path(load_path)
        if path.is_file():
            refuse_pickle(path)
        tree, weights = load_state(path)
        if weights is None:
            raise CheckpointError(f"checkpoint {path} was saved without weights; load another one")
        counters = dict(zip(_COUNTERS, (last_iter, last_epoch, last_frame), strict=True))
        parts = {"optimizer": optimizer, "dataset": dataset, "actor_info": actor_info}
        asked = [name for name, value in {**counters, **parts}.items() if value is not None]
        lacking = [name for name in asked if name not in tree]
        if lacking:
            raise CheckpointError(
                f"checkpoint {path} has no {', '.join(lacking)} (it has: {', '.join(sorted(tree)) or 'weights only'}); "
                "leave them out, or load another one"
            )
        weights = renamed(weights, prefix_op, prefix)
        report = _load_weights(path, model, weights, strict, tuple(state_dict_mask))
        _show(report, f"{logger_prefix}{path}", strict)
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(tree[name])
        for name, count in counters.items():
            if count is not None:
                count.update(tree[name])
        return report


def build_checkpoint_helper(cfg: Any = None) -> CheckpointHelper:
    """Returns a :class:`CheckpointHelper`; it has no settings, so ``cfg`` makes no difference."""
    return CheckpointHelper()


def auto_checkpoint(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of an object with ``save_checkpoint()`` save one before it passes on any exception.

    Ctrl-C counts. When saving fails too, that is logged and the first exception is raised.

    Args:
        method: such as a learner's ``run``.
    """

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            try:
                self.save_checkpoint()
            except Exception:
                _logger.exception("no checkpoint could be saved after an error in %s", method.__qualname__)
            raise

    return wrapper


def renamed(weights: Mapping[str, Tensor], prefix_op: str | None, prefix: str | None) -> dict[str, Tensor]:
    """Returns weights with ``prefix`` added to every name, or removed from those that have it.

    Raises:
        ConfigError: unknown ``prefix_op``, or one without a prefix.
    """
    check_name("prefix_op", prefix_op, _PREFIX_OPS)
    if prefix_op is None:
        return dict(weights)
    if not prefix:
        raise ConfigError(f"prefix_op is '{prefix_op}' without a prefix; give one, such as 'module.'")
    if prefix_op == "add":
        return {prefix + name: value for name, value in weights.items()}
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def _load_weights(
    path: Path, model: nn.Module, weights: Mapping[str, Tensor], strict: bool, mask: tuple[str, ...]
) -> LoadReport:
    own = {name: value for name, value in model.state_dict().items() if not name.startswith(mask)}
    given = {name: value for name, value in weights.items() if not name.startswith(mask)}
    both = own.keys() & given.keys()
    mismatched = {name for name in both if own[name].shape != given[name].shape}
    report = LoadReport(*(sorted(names) for names in (both - mismatched, own.keys() - both, given.keys() - both,
                                                      mismatched)))  # fmt: skip
    if strict and (report.missing or report.unexpected or mismatched):
        shapes = [f"{n} {list(given[n].shape)} for {list(own[n].shape)}" for n in report.mismatched]
        found = {"missing": report.missing, "unexpected": report.unexpected, "mismatched": shapes}
        text = "; ".join(f"{kind}: {_few(names)}" for kind, names in found.items() if names)
        raise CheckpointError(f"the weights in {path} do not fit the model ({text}); use its model, or strict=False")
    model.load_state_dict({name: given[name] for name in report.matched}, strict=False)
    return report


def _show(report: LoadReport, where: str, strict: bool) -> None:
    _logger.info("%s: loaded %d weights", where, len(report.matched))
    if not strict:
        for kind, names in report._asdict().items():
            if kind != "matched" and names:
                _logger.warning("%s: %s weights: %s", where, kind, _few(names))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
