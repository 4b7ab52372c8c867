"""Rebuilds one update of a run: from the checkpoint before it the run is made once more, exactly, up to there."""

import copy
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nervex.config.source import apply_overrides, read_source
from nervex.entry.compile_config import CompiledConfig, EnvSetting, compile_config
from nervex.entry.serial_entry import BAD_BATCH
from nervex.entry.serial_parts import build_parts, settle_env_manager
from nervex.entry.serial_run import SerialRun
from nervex.entry.state_diff import compare_states
from nervex.policy.base_policy import Policy
from nervex.torch_utils.checkpoint import Checkpoint, CheckpointManager
from nervex.torch_utils.finite import nonfinite
from nervex.torch_utils.state_files import load_state, save_state
from nervex.utils.errors import CheckpointError, ConfigError, NumericalError, RunFolderError
from nervex.worker.learner.hooks import LearnerHook
from nervex.worker.monitor.jsonl_sink import JsonlSink, read_metrics
from nervex.worker.monitor.run_folder import RunFolder
from nervex.worker.monitor.sink import MetricLog, without_time


class Replayed(NamedTuple):
    """One update, rebuilt.

    Attributes:
        train_iter: learner iterations done after it.
        checkpoint: where the replay began.
        tree: ``train_iter``, ``seed``, ``batch``, ``policy_before`` (optimizer, targets, ...), ``output`` (losses),
            ``gradient`` (where the update leaves them), ``weights_after``, ``nonfinite`` (names of what is not finite).
        weights: those before the update.
        row_num: rows of metrics that were compared with those of the run.
        differences: what is not as in the run, in words.
        batch_checked: the run has saved the batch of this very update, and it was compared.
    """

    train_iter: int
    checkpoint: Path
    tree: dict[str, Any]
    weights: dict[str, Tensor]
    row_num: int
    differences: list[str]
    batch_checked: bool

    def lines(self) -> list[str]:
        """Returns the report as text."""
        output = {k: v for k, v in self.tree["output"].items() if not isinstance(v, Tensor) or v.numel() == 1}
        lines = [f"iteration {self.train_iter}, rebuilt from {self.checkpoint.name}"]
        lines += [f"  {name} {float(value):.9g}" for name, value in output.items() if not isinstance(value, str)]
        if self.tree["nonfinite"]:
            lines.append(f"  not finite: {', '.join(self.tree['nonfinite'])}")
        checked = [f"{self.row_num} row(s) of metrics.jsonl"] + ["the saved batch"] * self.batch_checked
        lines.append(f"  the same as in the run, bit for bit: {' and '.join(checked)}" if not self.differences else "")
        return [line for line in lines if line] + [f"  NOT as in the run: {d}" for d in self.differences]


def replay_run(
    run_dir: Path | str,
    train_iter: int | None = None,
    *,
    out: Path | str | None = None,
    env_setting: EnvSetting | None = None,
    policy_type: Any = None,
    model_type: Any = None,
    model: Any = None,
) -> Replayed:
    """Rebuilds the update that made iteration ``train_iter``; the run folder is only read.

    Args:
        run_dir: folder of the run.
        train_iter: counted from 1; None: the first update that gave something not finite, for a run that failed so.
        out: directory to make, to be read with ``nervex.torch_utils.load_state``; None: none.
        env_setting, policy_type, model_type, model: as ``serial_pipeline`` was given them.

    Raises:
        ConfigError: ``train_iter`` is missing or less than 1.
        CheckpointError: no sound checkpoint is before it, or ``out`` exists.
        RunFolderError: the run ends before it.
    """
    folder = RunFolder.open(run_dir)
    saved = _bad_batches(folder.path)
    if (train_iter is None and not saved) or (train_iter is not None and train_iter < 1):
        raise ConfigError(
            f"{folder.path} has no bad batch, so that one of its updates has to be named" if train_iter is None
            else f"--iter is {train_iter}; updates are counted from 1"
        )  # fmt: skip
    if out is not None and Path(out).exists():
        raise CheckpointError(f"cannot write to {out}: it exists already; give another --out")
    last = max(saved) if train_iter is None else train_iter
    found = CheckpointManager(folder.checkpoint_dir).latest(last)
    if found is None:
        raise CheckpointError(
            f"no checkpoint of {folder.path} is from before iteration {last}: the newest two and the best are kept; "
            f"train once more with the same seed and max_train_iter={last}, then replay that"
        )
    source = apply_overrides(read_source(folder.config_path), ["max_wall_s=.inf"])
    compiled = compile_config(source, env_setting, policy_type, model_type, model_given=model is not None)
    replayed = _replay(settle_env_manager(compiled), folder, found, last, train_iter is None, model)
    if replayed.train_iter in saved:
        batch = load_state(saved[replayed.train_iter])[0]["batch"]
        differences = [d.first for d in compare_states({"batch": batch}, replayed.tree) if d.part == "batch"]
        replayed = replayed._replace(
            batch_checked=True, differences=replayed.differences + [d for d in differences if d is not None]
        )
    if out is not None:
        save_state(Path(out), replayed.tree, weights=replayed.weights, metadata={"train_iter": replayed.train_iter})
    return replayed


def _bad_batches(path: Path) -> dict[int, Path]:
    """Returns iteration -> directory of the batches that were saved when the run failed."""
    found = {p: re.fullmatch(rf"{BAD_BATCH}(\d+)", p.name) for p in path.glob(f"{BAD_BATCH}*")}
    return {int(match[1]): p for p, match in found.items() if match is not None}


class _ReachedError(Exception):
    """Ends the run that is replayed."""


class _StopHook(LearnerHook):
    """Ends it after the hooks that write metrics."""

    def __init__(self, recorder: "_Recorder") -> None:
        super().__init__("replay_stop", priority=1_000_000)
        self._recorder = recorder

    def __call__(self, learner: Any) -> None:
        if self._recorder.tree is not None:
            raise _ReachedError


class _Recorder:
    """Stands for a policy's learn mode, and keeps all about one update.

    Args:
        policy: the policy.
        last: iteration whose update is kept at the latest.
        first_bad: keep the first one before that which gives something not finite.
    """

    def __init__(self, policy: Policy, last: int, first_bad: bool) -> None:
        self._policy = policy
        self._mode = policy.learn_mode
        self._last = last
        self._first_bad = first_bad
        self.train_iter = 0  # updates done
        self.tree: dict[str, Any] | None = None
        self.weights: dict[str, Tensor] = {}
        self._batch: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mode, name)

    def data_preprocess(self, batch: Any) -> Any:
        if self._is_wanted():
            self._batch = copy.deepcopy(batch)
        return self._mode.data_preprocess(batch)

    def forward(self, data: Any) -> Any:
        if not self._is_wanted():
            self.train_iter += 1
            return self._mode.forward(data)
        model = self._policy.model
        weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
        before = copy.deepcopy(self._policy.state_dict())
        output = self._mode.forward(data)
        self.train_iter += 1
        gradient = {k: p.grad.detach().clone() for k, p in model.named_parameters() if p.grad is not None}
        held = {k: v for k, v in output.items() if isinstance(v, int | float | str | Tensor)}
        kept = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in held.items()}
        parameters = {k: v.detach() for k, v in model.named_parameters()}
        numbers = {k: torch.as_tensor(v) for k, v in kept.items() if not isinstance(v, str)}
        bad = [f"{kind} {name}" for kind, group in (("output", numbers), ("gradient", gradient), ("weight", parameters))
               for name in nonfinite(group)]  # fmt: skip
        if bad or self.train_iter == self._last:
            self.weights = weights
            self.tree = {
                "train_iter": self.train_iter,
                "batch": self._batch,
                "policy_before": before,
                "output": kept,
                "gradient": gradient,
                "weights_after": {k: v.detach().clone() for k, v in model.state_dict().items()},
                "nonfinite": bad,
            }
        return output

    def _is_wanted(self) -> bool:
        return self._first_bad or self.train_iter == self._last - 1


def _replay(
    compiled: CompiledConfig, folder: RunFolder, found: Path, last: int, first_bad: bool, model: Any
) -> Replayed:
    parts = build_parts(compiled, model, launch=False)
    try:
        with tempfile.TemporaryDirectory(prefix="nervex-replay-") as name:
            copied = RunFolder(Path(name))
            if folder.metrics_path.exists():
                shutil.copyfile(folder.metrics_path, copied.metrics_path)
            with MetricLog([JsonlSink(copied.metrics_path)]) as log:
                run = SerialRun(compiled, parts, copied, log, saves=False)
                run.load(Checkpoint(found, *load_state(found)))
                known = len(read_metrics(copied.metrics_path))
                recorder = _Recorder(parts.policy, last, first_bad)
                recorder.train_iter = parts.learner.last_iter.val
                parts.learner.policy = recorder
                parts.learner.register_hook(_StopHook(recorder))
                _run(run, recorder, last)
            rows = without_time(read_metrics(copied.metrics_path))[known:]
    finally:
        parts.close()
    assert recorder.tree is not None
    tree = {"seed": compiled.cfg.seed, **recorder.tree}
    before = (
        without_time(read_metrics(folder.metrics_path))[known:][: len(rows)] if folder.metrics_path.exists() else []
    )
    compared = compare_states({"metrics": before}, {"metrics": rows[: len(before)]})
    differences = [d.first for d in compared if d.first is not None]
    return Replayed(recorder.train_iter, found, tree, recorder.weights, len(before), differences, False)


def _run(run: SerialRun, recorder: _Recorder, last: int) -> None:
    try:
        reason = run.run()
    except _ReachedError:
        return
    except NumericalError:
        if recorder.tree is None:
            raise
        return
    raise RunFolderError(
        f"the run ends at iteration {recorder.train_iter} ({reason}), before iteration {last}; give a smaller --iter"
    )
