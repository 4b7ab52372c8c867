"""``check_env``: the probes in their order, within limits, on any env."""

import contextlib
import copy
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import cloudpickle
import gymnasium
import numpy as np

from nervex.envs.base_env import BaseEnv
from nervex.envs.doctor import effects, ends, process, seeding, sharing
from nervex.envs.doctor.finding import ERROR, NOTE, Broken, Finding
from nervex.envs.doctor.trial import Limits, Trial, kept_generators
from nervex.envs.gymnasium_env import GymnasiumEnv
from nervex.utils.errors import ConfigError


class Probe(NamedTuple):
    """A probe and what it costs: new envs, resets, and beginnings of episodes played."""

    run: Callable[[Trial], None]
    builds: int = 0
    resets: int = 0
    plays: int = 0


#: In order: what comes first is tried also where time is short. One more is a function ``(trial) -> None`` that adds
#: to ``trial.findings``.
PROBES = (
    Probe(effects.spaces),
    Probe(ends.flags),
    Probe(ends.time_limit),
    Probe(ends.truncations),
    Probe(ends.autoreset),
    Probe(ends.final_obs),
    Probe(ends.score),
    Probe(effects.rewards),
    Probe(effects.changes),
    Probe(effects.obs_scale),
    Probe(effects.masks),
    Probe(sharing.aliased_obs),
    Probe(sharing.aliased_inside, 1, 1, 1),
    Probe(sharing.changed_action),
    Probe(process.imports),
    Probe(process.slow),
    Probe(process.waiting, 1, 1, 0),
    Probe(seeding.same_seed, 2, 6, 6),
    Probe(seeding.carried_over, 1, 3, 3),
    Probe(seeding.different_seeds, 3, 6, 6),
    Probe(seeding.shared_state, 4, 4, 4),
    Probe(sharing.scribbled, 3, 6, 6),
    Probe(effects.action_effect, 1, 3, 6),
    Probe(process.closing, 3, 2),
    Probe(process.memory, 1, 12, 12),
)


@dataclass(frozen=True)
class Diagnosis:
    """What an examination found.

    Attributes:
        findings: errors first.
        summary: lines about what was played and how long steps take.
    """

    findings: list[Finding]
    summary: list[str]

    @property
    def error_num(self) -> int:
        """Number of errors."""
        return sum(finding.level == ERROR for finding in self.findings)


def check_env(env: Any, cfg: Mapping[str, Any] | None = None, limits: Limits | None = None) -> list[Finding]:
    """Returns what is wrong with an env: errors, warnings and notes, one line each (``print(*findings, sep="\\n")``).

    Args:
        env: a Gymnasium id, an env class, a function that returns a new env, or an env (copied where more than one is
            needed); ``BaseEnv`` or ``gymnasium.Env``.
        cfg: what the class or function is called with: the config of a ``BaseEnv``; None: {} for a ``BaseEnv``, no
            argument for all else.
        limits: of time and steps.

    Raises:
        ConfigError: the id is not known, or ``env`` is none of these.
    """
    return examine_env(env, cfg, limits).findings


def examine_env(
    env: Any,
    cfg: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    send: Callable[[Any], bytes] = cloudpickle.dumps,
) -> Diagnosis:
    """Returns the findings of ``check_env`` with a summary of what was played.

    Args:
        env, cfg, limits: as for ``check_env``.
        send: makes of a class or a config what a worker process is sent.
    """
    build, env_fn = _builder(env, cfg)
    trial = Trial(build, limits or Limits())
    out, before = process.Printed(), process.surrounding_state()
    skipped: list[str] = []
    with kept_generators(), contextlib.redirect_stdout(out), _watchdog(trial):
        with contextlib.suppress(Broken):
            trial.play_first()
        if trial.episodes:
            _probe(trial, skipped)
            with contextlib.suppress(Broken):
                process.sending(trial, env_fn, cfg, send)
        if trial.subject is not None:
            with contextlib.suppress(Broken):
                trial.subject.close()
    process.surroundings(trial, before)
    process.printed(trial, out)
    if skipped:
        trial.findings.add(
            NOTE,
            "skipped",
            f"not tried within {trial.limits.time_s:g} s and {trial.limits.step:,} steps: {', '.join(skipped)}",
            "give check_env larger Limits",
        )
    return Diagnosis(trial.findings.sorted(), _summary(trial))


def _probe(trial: Trial, skipped: list[str]) -> None:
    for probe in PROBES:
        if probe.builds and not trial.affords(probe.builds, probe.resets, probe.plays * trial.prefix):
            skipped.append(probe.run.__name__)
            continue
        with contextlib.suppress(Broken):  # its finding has been added
            probe.run(trial)


def _builder(env: Any, cfg: Mapping[str, Any] | None) -> tuple[Callable[[], Any], Any]:
    if isinstance(env, str):
        probe = GymnasiumEnv({"env_id": env, **(cfg or {})})
        probe.info()  # raises where the id is wrong
        probe.close()
        return lambda: GymnasiumEnv({"env_id": env, **copy.deepcopy(dict(cfg or {}))}), None
    if isinstance(env, gymnasium.Env | BaseEnv):
        instances = [env]
        try:
            pristine = copy.deepcopy(env)
        except Exception:  # whatever a reducer raises
            pristine = None

        def again() -> Any:
            if instances:
                return instances.pop()
            if pristine is not None:
                return copy.deepcopy(pristine)
            spec = getattr(env, "spec", None)
            if spec is None:
                raise ConfigError("this env cannot be copied; give check_env its class or a function that makes it")
            return gymnasium.make(spec)

        return again, None
    if not callable(env):
        raise ConfigError(f"check_env got a {type(env).__name__}; expected an id, an env, its class or a function")
    is_base = isinstance(env, type) and issubclass(env, BaseEnv)
    if is_base or cfg is not None:
        return lambda: env(copy.deepcopy(dict(cfg or {}))), env
    return env, env


class _Hangs(BaseException):
    """Not an Exception: an env that catches those must not catch this one."""


@contextlib.contextmanager
def _watchdog(trial: Trial) -> Iterator[None]:
    """Ends the examination where one call takes too long; in the main thread only, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def look(*_: Any) -> None:
        running = trial.clock.running
        if running is not None and time.perf_counter() - running[1] > trial.limits.call_s:
            trial.findings.add(
                ERROR,
                "hangs",
                f"{running[0]} has not returned for {trial.limits.call_s:g} s",
                "find what it waits for; every wait needs a limit",
            )
            raise _Hangs

    before = signal.signal(signal.SIGALRM, look)
    interval = min(0.5, trial.limits.call_s / 2)
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield
    except _Hangs:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _summary(trial: Trial) -> list[str]:
    lengths = [len(episode) for episode in trial.episodes]
    if not lengths:
        return ["nothing was played"]
    ended = sum(episode.ended for episode in trial.episodes)
    step, reset = np.asarray(trial.clock.step or [np.nan]), trial.clock.reset
    p50, p99 = np.percentile(step, (50, 99))
    return [
        f"played    {len(trial.clock.step):,} steps, {len(reset):,} resets; the first {len(lengths)} episodes of "
        f"{min(lengths)} to {max(lengths)} steps ({ended} ended)",
        f"step      median {_time(p50)}, 99 % below {_time(p99)}, at most {_time(step.max())}",
        f"reset     median {_time(statistics.median(reset))}, at most {_time(max(reset))}",
    ]


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.3g} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )
