"""The examination of one env: how instances are made, what may be spent, and the episodes played first."""

import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nervex.envs.doctor.finding import ERROR, Broken, Findings
from nervex.envs.doctor.play import STYLES, Episode, play, playing
from nervex.envs.doctor.spaces import value_leaves
from nervex.envs.doctor.subject import Clock, Subject
from nervex.envs.gymnasium_env import GymnasiumEnv

_MOST_BYTES = 48 << 20  # of recorded observations
_LONGEST = 1500  # steps after which an episode is broken off
_MOST_EPISODES = 100
_PLAY_SHARE = 0.35  # of the time goes to the episodes that are played first,
_PLAY_STEPS = 0.4  # and of the steps
_SEED_STEP = 715_827_883  # so that seeds fill 32 bits, as those of a run do


@dataclass(frozen=True)
class Limits:
    """What an examination may take. What does not fit is left out, and said.

    Attributes:
        time_s: seconds, builds and resets included. The first build and reset are always waited for.
        step: env steps in all.
        call_s: seconds after which a single call of the env counts as hanging.
    """

    time_s: float = 10.0
    step: int = 10_000
    call_s: float = 60.0


class Trial:
    """What the probes share.

    Args:
        build: returns a new env.
        limits: what may be spent.

    Attributes:
        episodes: those that were played first, on one instance, each with a seed of its own.
        subject: that instance.
        touched: names of the global generators whose state changed meanwhile.
    """

    def __init__(self, build: Callable[[], Any], limits: Limits) -> None:
        self.findings, self.clock, self.limits = Findings(), Clock(), limits
        self._build, self._begin = build, time.perf_counter()
        self.episodes: list[Episode] = []
        self.touched: list[str] = []
        self.ends_inside: list[bool] = []
        self.subject: Subject | None = None

    def make(self) -> Subject:
        """Returns a new instance under examination.

        Raises:
            Broken: it cannot be built.
        """
        begin = time.perf_counter()
        self.clock.running = ("its constructor", begin)
        try:
            env = self._build()
            if isinstance(env, GymnasiumEnv) and type(env).step is GymnasiumEnv.step:
                env = env.simulator  # what the adapter casts and joins would go unseen
        except Exception as e:
            self.findings.add(ERROR, "raises-constructor", f"its constructor raised {type(e).__name__}: {e}", "mend it")
            raise Broken from e
        finally:
            self.clock.running = None
        subject = Subject(env, self.findings, self.clock)
        self.clock.build.append(time.perf_counter() - begin)
        return subject

    @contextmanager
    def fresh(self, number: int = 1) -> Iterator[Any]:
        """Gives a new instance, or a list of them, closed at the end."""
        subjects = [self.make() for _ in range(number)]
        try:
            yield subjects[0] if number == 1 else subjects
        finally:
            for subject in subjects:
                subject.close()

    def left_s(self) -> float:
        """Returns the seconds that may still be spent."""
        return self.limits.time_s - (time.perf_counter() - self._begin)

    def affords(self, builds: int, resets: int, steps: int = 0) -> bool:
        """Whether so many calls fit into the time that is left, and the steps into their limit."""
        clock = self.clock
        costs = sum(
            n * (statistics.fmean(t) if t else 0.0)
            for n, t in ((builds, clock.build), (resets, clock.reset), (steps, clock.step))
        )
        return costs <= self.left_s() and len(clock.step) + steps <= self.limits.step

    @property
    def prefix(self) -> int:
        """Steps of an episode that is played to be compared: few where a step is slow."""
        step_s = statistics.fmean(self.clock.step) if self.clock.step else 0.0
        share = 0.04 * self.limits.time_s / max(step_s, 1e-6)
        return int(min(max(share, 4), 80, max(self.limits.step // 125, 4)))

    def play_first(self) -> None:
        """Plays and records: several styles of acting, a seed for each episode.

        Raises:
            Broken: the env cannot be played; what was recorded so far stays.
        """
        before = global_states()
        subject = self.subject = self.make()
        subject.watch_resets()
        size, spent, until = 0, False, int(self.limits.step * _PLAY_STEPS)
        for i in range(_MOST_EPISODES):
            inside = subject.resets_inside
            for record in playing(subject, _seed(i), i, STYLES[i % len(STYLES)], _LONGEST):
                if len(record.obs) == 1:
                    self.episodes.append(record)
                size += 2 * sum(leaf.nbytes for leaf in value_leaves(record.obs[-1]))
                spent = self.left_s() < (1 - _PLAY_SHARE) * self.limits.time_s
                if len(self.clock.step) >= until or (spent and len(record) >= 3) or size > _MOST_BYTES:
                    break
            self.ends_inside.append(subject.resets_inside > inside)
            if spent or len(self.clock.step) >= until or size > _MOST_BYTES:
                break
        after = global_states()
        self.touched = [name for name in before if before[name] != after.get(name)]

    def plays(self, subject: Subject, seeds: Sequence[int | None], scribble: str = "") -> list[Episode]:
        """Returns records of the beginnings of episodes, with the same draws of actions at each call."""
        return [play(subject, seed, DRAW_SEEDS[i], "random", self.prefix, scribble) for i, seed in enumerate(seeds)]


def _seed(i: int) -> int:
    return (17 + i * _SEED_STEP) % 2**32


SEEDS = (_seed(1001), _seed(1002), _seed(1003))  # of envs
DRAW_SEEDS = (7_000_001, 7_000_002, 7_000_003)  # of actions


def global_states() -> dict[str, Any]:
    """Returns the state of each global generator, to be compared."""
    numpy_state: Any = np.random.get_state()
    states = {"np.random": (numpy_state[1].tobytes(), *numpy_state[2:]), "random": random.getstate()}
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.random.get_rng_state().numpy().tobytes()
    return states


@contextmanager
def kept_generators(seed: int | None = None) -> Iterator[None]:
    """Puts the global generators back at the end; with a seed, sets them to it meanwhile."""
    torch: Any = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state(), None if torch is None else torch.random.get_rng_state()
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed)
        if torch is not None:
            torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if before[2] is not None:
            torch.random.set_rng_state(before[2])
