"""The loop of a serial run: command, collect, store, learn, evaluate; and its state."""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from nervex.entry.compile_config import CompiledConfig
from nervex.entry.learning import learning_for
from nervex.entry.relations import refuse_other_config
from nervex.entry.serial_parts import SerialParts, child_seeds
from nervex.torch_utils.checkpoint import Checkpoint, CheckpointManager
from nervex.torch_utils.checkpoint_writer import CheckpointWriter
from nervex.torch_utils.seeds import load_rng_state, rng_state
from nervex.utils.errors import CheckpointError, NerveXError, RunFolderError
from nervex.worker.monitor.run_folder import RunFolder, cpu_s, peak_rss_bytes
from nervex.worker.monitor.sink import MetricLog, MetricRow

_logger = logging.getLogger("nervex")


class SerialRun:
    """Joins the parts of a run.

    One loop is: settings from the command, then collecting and learning (``nervex.entry.learning``); every
    ``eval_freq`` loops it begins with an evaluation. Checkpoints are taken between loops.

    Args:
        compiled: the configuration.
        parts: what it joins.
        folder: where it writes.
        log: where metrics go.
        saves: write checkpoints; False for a run that is only looked at.
    """

    def __init__(
        self, compiled: CompiledConfig, parts: SerialParts, folder: RunFolder, log: MetricLog, saves: bool = True
    ) -> None:
        self.cfg = compiled.cfg
        self.parts = parts
        self.folder = folder
        self.log = log
        self.checkpoints = CheckpointManager(folder.checkpoint_dir)
        self._writer = CheckpointWriter(self.checkpoints)
        self.loop = 0
        self.evaluated_iter = -1
        # where stop_val was first reached and confirmed; the learner iteration of runs that make no env steps
        self.solved_env_step: int | None = None
        self._begun = False  # random collection is over
        self._rate_mark = (0.0, 0, 0)  # wall, env step and iteration of the last shown rates
        self._wall_before = self._cpu_before = 0.0
        self._start = time.perf_counter()
        self._cpu_start = cpu_s()
        self._saves = saves
        self._save_wanted = False
        self._interrupted = False
        self._learning = learning_for(self.cfg, parts)
        parts.learner.report = self._report
        parts.learner.saver = self._want_save

    @property
    def solved(self) -> bool:
        """Whether ``evaluator.stop_val`` was reached and confirmed."""
        return self.solved_env_step is not None

    @property
    def wall_s(self) -> float:
        """Seconds that the run has taken, with the parts before a resume."""
        return self._wall_before + time.perf_counter() - self._start

    @property
    def cpu_s(self) -> float:
        """CPU seconds that the run has taken, with the parts before a resume."""
        return self._cpu_before + cpu_s() - self._cpu_start

    def run(self) -> str:
        """Runs to the end and returns why it ended: ``stop_val``, a budget's key, or ``interrupted``."""
        parts = self.parts
        with self._signals():
            parts.learner.call_hook("before_run")
            if not self._begun:
                self.parts.command.step()
                self._begun = self._learning.prepare(self._must_stop)
                self.save()
            while True:
                reason = self._end()
                if reason is None and self.loop % self.cfg.evaluator.eval_freq == 0:
                    reason = self._evaluate_once()
                if reason is not None:
                    break
                parts.command.step()
                if self._learning.loop(self._must_stop):
                    self.loop += 1
                if self._save_wanted:
                    self.save(wait=False)
            if reason != "interrupted":
                reason = self._evaluate_once() or reason
            parts.learner.call_hook("after_run")
            self.save()
            self.settle()
        return reason

    def save(self, pin: str | None = None, envs: bool = True, wait: bool = True) -> None:
        """Saves a checkpoint.

        Args:
            pin: label that protects it, such as ``'best'``.
            envs: include the state of the envs; False after a fault of theirs.
            wait: return when it lies on the disk; False: it is written while the run goes on.

        Raises:
            NumericalError: a loss or a weight is not finite; the checkpoints before are intact.
        """
        self._save_wanted = False
        if not self._saves:
            return
        if not self.folder.config_path.is_file():
            raise RunFolderError(f"run folder {self.folder.path} was removed or emptied while the run wrote to it")
        self.log.flush()
        weights = {k: v.detach() for k, v in self.parts.policy.model.state_dict().items()}
        self._check_numbers()
        self._writer.save(
            self.parts.learner.last_iter.val, self.state_dict(envs), weights,
            metadata={"env_step": self.parts.actor.env_step}, pin=pin, wait=wait,
        )  # fmt: skip

    def settle(self) -> None:
        """Returns when no checkpoint is being written, and ends the thread that writes them.

        Raises:
            CheckpointError: the one that was being written could not be.
        """
        self._writer.close()

    def state_dict(self, envs: bool = True) -> dict[str, Any]:
        """Returns everything that the run needs to go on, beside the weights."""
        p = self.parts
        return {
            "policy": p.policy.state_dict(),
            "learner": p.learner.state_dict(),
            "actor": p.actor.state_dict(envs),
            "replay": p.store.state_dict(),
            "evaluator": p.evaluator.state_dict(),
            "rng": rng_state(),
            "log": self.log.state_dict(),
            "run": {
                "loop": self.loop,
                "evaluated_iter": self.evaluated_iter,
                "solved_env_step": self.solved_env_step,
                "begun": self._begun,
                "config": self.cfg.to_dict(),
                "wall_s": self.wall_s,
                "cpu_s": self.cpu_s,
            },
        }

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes back to a checkpoint.

        Raises:
            CheckpointError: it does not fit this configuration.
        """
        state, p = checkpoint.tree, self.parts
        refuse_other_config(state["run"]["config"], self.cfg.to_dict(), self.folder.path)
        try:
            p.policy.model.load_state_dict(checkpoint.weights or {})
            p.policy.load_state_dict(state["policy"])
            p.learner.load_state_dict(state["learner"])
            p.store.load_state_dict(state["replay"])
            self._load_actor(state["actor"])
            p.evaluator.load_state_dict(state["evaluator"])
            run = state["run"]
            self.loop, self.evaluated_iter, self._begun = run["loop"], run["evaluated_iter"], run["begun"]
            if self.cfg.evaluator.stop_val <= run["config"]["evaluator"]["stop_val"]:  # the bar was not raised
                self.solved_env_step = run["solved_env_step"]
            self._wall_before, self._cpu_before = run["wall_s"], run["cpu_s"]
            self.log.load_state_dict(state["log"])
        except (KeyError, RuntimeError, TypeError, ValueError) as e:
            if isinstance(e, NerveXError):
                raise
            raise CheckpointError(f"checkpoint {checkpoint.path} does not fit this run: {type(e).__name__}: {e}") from e
        self._rate_mark = (self._wall_before, p.actor.env_step, p.learner.last_iter.val)
        load_rng_state(state["rng"])

    def _load_actor(self, state: dict[str, Any]) -> None:
        """Goes on within the episodes if the envs can be brought back, else with new ones, and says so."""
        seed = child_seeds(self.cfg.seed)["actor_env"]
        try:
            self.parts.actor.load_state_dict(state, seed)
        except CheckpointError as e:
            if state["env"] is None:
                raise
            _logger.warning("resuming at the beginning of new episodes, so not exactly: %s", e)
            self.parts.actor.env.close()
            self.parts.actor.load_state_dict({**state, "env": None}, seed)

    def result(self, stop_reason: str) -> dict[str, Any]:
        """Returns what ``result.json`` holds."""
        cfg, p = self.cfg, self.parts
        last = p.evaluator.last
        return {
            "policy": cfg.policy.policy_type or type(p.policy).__name__,
            "env": cfg.env.get("env_id") or cfg.env.get("env_type") or "own",
            "seed": cfg.seed,
            "stop_reason": stop_reason,
            "solved": self.solved,
            "solved_env_step": self.solved_env_step,
            "best_eval_return": p.evaluator.best,
            "last_eval_return": None if last is None else last.mean,
            "last_eval_episode": None if last is None else len(last.episode_return),
            "stop_val": cfg.evaluator.stop_val,
            "env_step": p.actor.env_step,
            "train_iter": p.learner.last_iter.val,
            "wall_s": round(self.wall_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "peak_rss_bytes": peak_rss_bytes(),
            "run_dir": str(self.folder.path),
        }

    def _evaluate_once(self) -> str | None:
        """Evaluates weights that were not evaluated yet; a run that was killed at the save within an evaluation goes on
        after it."""
        if self.evaluated_iter != self.parts.learner.last_iter.val:
            self._evaluate()
        return "stop_val" if self.solved and self.cfg.evaluator.stop else None

    def _evaluate(self) -> None:
        p = self.parts
        before = p.evaluator.best
        start = time.perf_counter()
        reached = p.evaluator.eval(p.learner.last_iter.val, confirm=not self.solved, stop=lambda: self._interrupted)
        if reached is None:
            return
        if reached and not self.solved:
            self.solved_env_step = p.actor.env_step if p.offline is None else p.learner.last_iter.val
        self.evaluated_iter = p.learner.last_iter.val
        result = p.evaluator.last
        assert result is not None and p.evaluator.best is not None
        values = {
            "eval_return": result.mean,
            "eval_return_std": result.std,
            "eval_episode": len(result.episode_return),
            "eval_episode_length": float(result.episode_length.mean()),
            "best_eval_return": p.evaluator.best,
            "time/eval_s": time.perf_counter() - start,
            "time/wall_s": self.wall_s,
        }
        if p.evaluator.env.fault_count:
            values["env_fault"] = p.evaluator.env.fault_count
        self._write("eval", values)
        if before is None or p.evaluator.best > before:
            self.save(pin="best", wait=False)

    def _report(self, averages: dict[str, float]) -> None:
        p = self.parts
        self._check_numbers()
        wall, step, iteration = self.wall_s, p.actor.env_step, p.learner.last_iter.val
        last_wall, last_step, last_iteration = self._rate_mark
        elapsed = max(wall - last_wall, 1e-9)
        self._rate_mark = (wall, step, iteration)
        self._write(
            "train",
            {
                **averages, **p.actor.metrics(), **p.command.metrics(), **p.store.metrics(),
                "time/env_step_per_s": (step - last_step) / elapsed,
                "time/iter_per_s": (iteration - last_iteration) / elapsed,
                "time/wall_s": wall,
            },
        )  # fmt: skip

    def _check_numbers(self) -> None:
        # parameters alone: a network may well keep an infinity in a buffer, such as a mask
        self.parts.learner.check_numbers(dict(self.parts.policy.model.named_parameters()))

    def _write(self, kind: str, values: dict[str, float]) -> None:
        self.log.write(MetricRow(kind, self.parts.actor.env_step, self.parts.learner.last_iter.val, values))

    def _want_save(self) -> None:
        self._save_wanted = True

    def _must_stop(self) -> bool:
        return self._end() is not None

    def _end(self) -> str | None:
        if self._interrupted:
            return "interrupted"
        if self.parts.actor.env_step >= self.cfg.max_env_step:
            return "max_env_step"
        if self.parts.learner.last_iter.val >= self.cfg.max_train_iter:
            return "max_train_iter"
        return "max_wall_s" if self.wall_s >= self.cfg.max_wall_s else None

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the run after the current loop, the second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            _logger.warning("stopping after this step; press Ctrl-C again to stop at once")

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
