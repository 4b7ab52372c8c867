"""Measures a policy: a fixed set of episodes, none preferred for being short."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from nervex.config.schema import complete, option
from nervex.data.lanes import LaneBlock
from nervex.utils.errors import EnvFault
from nervex.utils.tree import tree_map
from nervex.worker.actor.env_manager.fault_budget import MOST_IN_A_ROW


@dataclass
class EvaluatorConfig:
    """Section ``evaluator`` of a configuration."""

    n_episode: int = option(10, ge=1, unit="episodes", doc="of one evaluation")
    eval_freq: int = option(200, ge=1, unit="collections", doc="between evaluations")
    stop_val: float = option(float("inf"), doc="mean return that solves the task")
    confirm_episode: int = option(100, ge=0, unit="episodes", doc="fresh ones that must confirm a stop; 0: none")
    max_episode_step: int = option(
        200_000, ge=1, unit="env steps", doc="a longer episode is an error: it would perhaps never end"
    )
    stop: bool = option(True, doc="end the run when stop_val is confirmed; false: go on to the end of the budget")


@dataclass
class EvalResult:
    """Returns and lengths of the evaluated episodes, in the order in which they were assigned."""

    episode_return: np.ndarray  # float64 [n_episode]
    episode_length: np.ndarray  # int64 [n_episode]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(self.episode_return.mean())

    @property
    def std(self) -> float:
        """Standard deviation of the return over episodes."""
        return float(self.episode_return.std())


class BaseSerialEvaluator:
    """Runs a policy's eval mode in an env manager.

    Every env plays a number of episodes that is fixed in advance, and all of them count: an episode's chance to be
    measured does not depend on its length. An episode that a fault of its env cut off does not count; the env plays its
    next one in its place.

    Args:
        cfg: section ``evaluator``, an ``EvaluatorConfig`` as mapping (missing keys take their defaults).
        env: an env manager; may be set later.
        policy: a policy's ``eval_mode``; may be set later.
        seed: of the evaluations; each one has episodes of its own.

    Attributes:
        watch: called after each step with ``(lane_id, obs, action, step)``, such as an ``EpisodeRecorder``; or None.
    """

    def __init__(self, cfg: Any, env: Any = None, policy: Any = None, seed: int = 0) -> None:
        self._cfg = complete(EvaluatorConfig, cfg)
        self._seed = seed
        self._launched = False
        self.eval_count = 0
        self.best: float | None = None
        self.last: EvalResult | None = None
        self.env = env
        self.policy = policy
        self.watch: Callable[[np.ndarray, Any, Any, Any], None] | None = None

    def eval(
        self,
        train_iter: int,
        n_episode: int | None = None,
        confirm: bool = True,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool | None:
        """Evaluates, and returns whether the task is solved: the mean return reaches ``stop_val``, and does so again
        over ``confirm_episode`` fresh episodes with the same weights.

        Args:
            train_iter: learner iteration, for the caller's records.
            n_episode: episodes; None: the config's number.
            confirm: play the fresh episodes when the first ones reach ``stop_val``.
            stop: asked before each step; True gives the evaluation up, as if it had not begun, and returns None.
        """
        before = self.eval_count
        result = self.evaluate(n_episode or self._cfg["n_episode"], stop)
        fresh = self._cfg["confirm_episode"]
        if result is not None and confirm and fresh and result.mean >= self._cfg["stop_val"]:
            result = self.evaluate(fresh, stop)
        if result is None:
            self.eval_count = before
            return None
        self.last = result
        self.best = self.last.mean if self.best is None else max(self.best, self.last.mean)
        return bool(self.last.mean >= self._cfg["stop_val"])

    @overload
    def evaluate(self, n_episode: int) -> EvalResult: ...
    @overload
    def evaluate(self, n_episode: int, stop: Callable[[], bool]) -> EvalResult | None: ...
    def evaluate(self, n_episode: int, stop: Callable[[], bool] = lambda: False) -> EvalResult | None:
        """Plays ``n_episode`` episodes that no earlier evaluation played; None when ``stop`` ended it.

        Raises:
            EnvFault: an episode does not end, or faults of an env have cut off several of its episodes in a row.
        """
        manager = self.env
        lanes = manager.lane_num
        seeds = np.random.SeedSequence((self._seed, self.eval_count)).generate_state(lanes)
        self.eval_count += 1
        manager.seed([int(s) for s in seeds])
        if self._launched:
            manager.reset()
        else:
            manager.launch()
            self._launched = True
        self.policy.reset()
        left = n_episode // lanes + (np.arange(lanes) < n_episode % lanes)  # episodes that each lane still plays
        length = np.zeros(lanes, dtype=np.int64)
        broken = np.zeros(lanes, dtype=np.int64)  # episodes in a row that faults have cut off
        returns: list[list[float]] = [[] for _ in range(lanes)]
        lengths: list[list[int]] = [[] for _ in range(lanes)]
        while left.any():
            if stop():
                return None
            step = self._step(left)
            length[step.lane_id] += step.valid
            begun = step.lane_id[~step.valid]  # a reset; if nothing ended before, a fault cut the episode off
            broken[begun] += length[begun] > 0
            length[begun] = 0
            if broken.max() >= MOST_IN_A_ROW:
                lane = int(broken.argmax())
                raise EnvFault(
                    f"faults of env {lane} have cut off {broken[lane]} episodes of an evaluation in a row; mend the env"
                )
            if length.max() > self._cfg["max_episode_step"]:
                raise EnvFault(
                    f"env {int(length.argmax())} has played {int(length.max())} steps of one episode in evaluation "
                    "(limit evaluator.max_episode_step); give the env a time limit, such as "
                    "env.make_kwargs: {max_episode_steps: 1000} of a Gymnasium env"
                )
            for row in np.flatnonzero(step.terminated | step.truncated):
                lane = int(step.lane_id[row])
                returns[lane].append(float(step.episode_return[row]))
                lengths[lane].append(int(length[lane]))
                length[lane] = broken[lane] = 0
                left[lane] -= 1
        return EvalResult(
            np.array([r for lane in returns for r in lane]), np.array([n for lane in lengths for n in lane])
        )

    def close(self) -> None:
        """Closes the envs."""
        if self.env is not None and self._launched:
            self.env.close()

    def state_dict(self) -> dict[str, Any]:
        """Returns the counters; episodes never span two evaluations."""
        last = None if self.last is None else [self.last.episode_return, self.last.episode_length]
        return {"eval_count": self.eval_count, "best": self.best, "last": last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` gave."""
        self.eval_count = int(state["eval_count"])
        self.best = state["best"]
        self.last = None if state["last"] is None else EvalResult(*state["last"])

    def _step(self, left: np.ndarray) -> Any:
        ready = self.env.ready_block()
        lane_id, obs = ready.lane_id, ready.obs
        wanted = left[lane_id] > 0
        if not wanted.all():
            lane_id = lane_id[wanted]
            obs = tree_map(lambda x: x[wanted], obs)
        with torch.inference_mode():
            ids, data = self.policy.data_preprocess(LaneBlock(lane_id, tree_map(torch.from_numpy, obs)))
            output = self.policy.forward(ids, data)
        action = tree_map(lambda x: x.cpu().numpy(), output["action"])
        seen = None if self.watch is None else tree_map(np.copy, obs)  # the envs write over it
        step = self.env.step_block(action, lane_id)
        if self.watch is not None:
            self.watch(lane_id, seen, action, step)
        if not step.valid.all():  # these rows were resets
            self.policy.reset(torch.from_numpy(step.lane_id[~step.valid]))
        return step
