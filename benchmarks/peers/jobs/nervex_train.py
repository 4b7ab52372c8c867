"""nerveX: any job that trains, through ``serial_pipeline`` and a shipped recipe with the job's settings put over it."""

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from driver import Clock, Solved, emit, settings

from nervex.config.source import apply_overrides, read_source
from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config
from nervex.torch_utils.precision import autocast_dtype
from nervex.worker import LearnerHook
from nervex.worker.monitor.sink import MetricRow, MetricSink

# Evaluation and checkpoints are no part of what is measured.
FIXED = ["policy.learn.lr_schedule.type=constant", "learner.save_freq=1000000000", "evaluator.confirm_episode=0"]
UNSEEN = ["evaluator.eval_freq=1000000000", "evaluator.n_episode=1", "env.evaluator_env_num=1", "evaluator.stop=false"]
Overrides = list[str]


def common(given: dict[str, Any]) -> Overrides:
    return [
        f"torch_threads={given['threads']}",
        f"env.actor_env_num={given['env_num']}",
        f"policy.learn.learning_rate={given['learning_rate']}",
        f"policy.learn.batch_size={given['batch_size']}",
        f"policy.learn.algo.discount_factor={given['gamma']}",
        *FIXED,
        *given.get("overrides", []),
    ]


def off_policy(given: dict[str, Any]) -> Overrides:
    """A vector step, then ``updates`` updates."""
    return [
        f"actor.n_sample={given['env_num']}",
        f"policy.learn.train_step={given['updates']}",
        f"replay_buffer.meta_maxlen={given['buffer_size']}",
        f"actor.random_collect_size={given['learning_starts']}",
    ]


def actor_critic(given: dict[str, Any]) -> Overrides:
    return [
        *off_policy(given),
        f"policy.model.hidden_dim_list={given['hidden']}",
        f"policy.learn.algo.target_theta={given['tau']}",
    ]


def dqn(given: dict[str, Any]) -> Overrides:
    steps_of_update = given["env_num"] / given["updates"]
    own = [] if given["network"] == "nature" else [
        f"policy.model.embedding_dim={given['network'][-1]}",
        f"policy.model.hidden_dim_list={given['network'][:-1]}",
        "policy.model.norm_type=null",
    ]  # fmt: skip
    return [
        *off_policy(given),
        *own,
        "policy.model.dueling=false",
        "policy.model.head_kwargs={layer_num: 0}",
        "policy.learn.algo.double=false",
        "policy.learn.algo.nstep=1",
        f"policy.learn.algo.target_update_freq={given['target_update_freq']}",
        "policy.command.eps.type=linear",
        f"policy.command.eps.start={given['eps_start']}",
        f"policy.command.eps.end={given['eps_end']}",
        f"policy.command.eps.decay={given['eps_step'] / steps_of_update}",
    ]


def ppo(given: dict[str, Any]) -> Overrides:
    own = [] if given["network"] == "nature" else [
        f"policy.model.embedding_dim={given['network'][-1]}",
        f"policy.model.hidden_dim_list={given['network'][:-1]}",
    ]  # fmt: skip
    return [
        *own,
        f"policy.collect.traj_len={given['n_steps']}",
        f"policy.learn.epoch_per_collect={given['epochs']}",
        f"policy.learn.algo.gae_lambda={given['gae_lambda']}",
        f"policy.learn.algo.clip_ratio={given['clip']}",
        f"policy.learn.algo.entropy_weight={given['entropy']}",
        f"policy.learn.algo.value_weight={2 * given['value']}",  # of a loss with one half
        f"policy.learn.grad_clip_norm={given['max_grad_norm']}",
    ]


ALGORITHMS = {"sac": actor_critic, "td3": actor_critic, "dqn": dqn, "ppo": ppo}


def overrides(given: dict[str, Any]) -> Overrides:
    """Returns what the job puts over the recipe; ends the process where this processor would compute in another
    precision than is asked for, which would be a figure under a wrong name."""
    in_bf16 = "policy.learn.precision=bf16" in given.get("overrides", [])
    if in_bf16 and autocast_dtype("bf16", torch.device("cpu")) is None:
        sys.exit("this processor has no bfloat16 instructions")
    return [*ALGORITHMS[given["algorithm"]](given), *common(given)]


def updates_of(given: dict[str, Any], env_step: int) -> int:
    """Returns the updates that belong to so many env steps, in whole collections."""
    if given["algorithm"] == "ppo":
        rows = given["n_steps"] * given["env_num"]
        return -(-env_step // rows) * given["epochs"] * -(-rows // given["batch_size"])
    return -(-env_step // given["env_num"]) * given["updates"]


class Stretch(LearnerHook):
    """Times the updates after the ``warm`` first ones, with the collecting between them."""

    def __init__(self, warm: int) -> None:
        super().__init__("stretch", priority=99)
        self._warm = warm
        self.cost = (0.0, 0.0)
        self.env_step = 0

    def __call__(self, learner: Any) -> None:
        step = learner.collect_info["total_collect_step"]
        if learner.last_iter.val == self._warm:
            self._clock, self._begin = Clock(), step
        elif learner.last_iter.val > self._warm:
            self.cost = self._clock.read()
            self.env_step = step - self._begin


class Goal(MetricSink):
    """Notes what training has cost when an evaluation first reaches the goal; evaluations are off the clock.

    That of the weights as they were made does not count, since the peers evaluate no such.
    """

    def __init__(self, goal: float) -> None:
        self._goal = goal
        self._clock = Clock()
        self._trained: Any = None  # the cost at the end of the newest update
        self.reached: tuple[float, float] | None = None
        self.env_step = 0

    def learned(self, learner: Any) -> None:
        """Runs after each update, and ends the run once the goal is reached."""
        if self.reached is not None:
            raise Solved
        self._trained = self._clock.read()

    def write(self, row: MetricRow) -> None:
        if row.kind != "eval":
            return
        wall, cpu = self._clock.read()
        if self._trained is None:  # before the first update; what it cost in CPU time is at most what passed
            self._clock.leave_out((row.values["time/eval_s"], min(row.values["time/eval_s"], cpu)))
        else:
            self._clock.leave_out((wall - self._trained[0], cpu - self._trained[1]))
        self.env_step = row.env_step
        if row.train_iter and self.reached is None and row.values["eval_return"] >= self._goal:
            self.reached = self._clock.read()

    @property
    def cost(self) -> tuple[float, float]:
        """(wall, CPU) seconds up to now."""
        return self._clock.read()


def throughput(given: dict[str, Any], source: Any, run_dir: Path) -> None:
    warm, updates = (updates_of(given, given[key]) for key in ("warm_steps", "steps"))
    stretch = Stretch(warm)
    budget = [f"max_train_iter={warm + updates}", "max_env_step=inf", *UNSEEN]
    serial_pipeline(apply_overrides(source, budget), seed=given["seed"], hooks=[stretch], run_dir=run_dir, show=False)
    amount = updates if given["count"] == "update" else stretch.env_step
    emit(given, given["count"], amount, stretch.cost, *PACKAGES, env_step=stretch.env_step, update=updates)


def solve(given: dict[str, Any], source: Any, run_dir: Path) -> None:
    loop = given["n_steps"] * given["env_num"] if given["algorithm"] == "ppo" else given["env_num"]
    budget = [
        f"max_env_step={given['max_steps']}", f"evaluator.n_episode={given['eval_episodes']}",
        f"env.evaluator_env_num={given['eval_episodes']}", f"evaluator.eval_freq={given['eval_every'] // loop}",
        "evaluator.stop=false",
    ]  # fmt: skip
    source, goal = apply_overrides(source, budget), Goal(given["goal"])
    with contextlib.suppress(Solved):
        serial_pipeline(source, seed=given["seed"], hooks=[goal.learned], sinks=[goal], run_dir=run_dir, show=False)
    amount = 0 if goal.reached is None else 1
    emit(given, f"to {given['goal']}", amount, goal.reached or goal.cost, *PACKAGES, env_step=goal.env_step)


PACKAGES = ("nervex", "torch", "gymnasium")

if __name__ == "__main__":
    given = settings()
    source = apply_overrides(read_source(find_config(given["config"])), overrides(given))
    with tempfile.TemporaryDirectory() as folder:
        (solve if "goal" in given else throughput)(given, source, Path(folder) / "run")
