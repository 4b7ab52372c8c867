"""What a learner trains on: what an actor collects, through a replay or rollout by rollout, or a data set."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from nervex.data.memory import human_bytes
from nervex.data.window import ItemWindow
from nervex.entry.serial_parts import SerialParts
from nervex.utils.errors import ConfigError
from nervex.utils.tree import tree_map
from nervex.worker.actor.rollout import Block

_logger = logging.getLogger("nervex")
Stop = Callable[[], bool]


class ReplayLearning:
    """Off-policy: ``n_sample`` transitions into the replay (more until it suffices), then ``train_step`` updates from
    batches drawn from it.

    Args:
        cfg: the whole configuration.
        parts: actor, replay, learner.
    """

    def __init__(self, cfg: Any, parts: SerialParts) -> None:
        self._cfg = cfg
        self._parts = parts
        self._batch_size: int = cfg.policy.learn.batch_size
        self._planned = not isinstance(parts.replay.window, ItemWindow)

    def prepare(self, must_stop: Stop) -> bool:
        """Collects transitions with random actions before learning begins; False when it was stopped."""
        actor, size = self._parts.actor, self._cfg.actor.random_collect_size
        while actor.sample_count < size and not must_stop():
            left = size - actor.sample_count
            actor.generate_data(n_sample=left, consume=self.push, random=True, stop=must_stop)
        return actor.sample_count >= size

    def loop(self, must_stop: Stop) -> bool:
        """Collects and learns; False when it was stopped while collecting, which then goes on where it was."""
        p, learn = self._parts, self._cfg.policy.learn
        assert p.loader is not None
        needed = p.replay.needed(self._batch_size, learn.train_step)
        while True:
            _, p.learner.collect_info = p.actor.generate_data(consume=self.push, stop=must_stop)
            if p.learner.collect_info["stopped"]:
                return False
            if p.replay.count >= needed:
                break
            p.replay.check_room(needed)
        # fewer where rows are there but not yet what follows them: the next loop goes on
        updates = min(learn.train_step, self._cfg.max_train_iter - p.learner.last_iter.val)
        for batch in p.loader.batches(updates, p.learner.last_iter.val):
            p.learner.train(batch)
            if p.replay.prioritized:
                self._update_priority()
        if self._cfg.policy.on_policy:
            p.replay.clear()
        return True

    def push(self, block: Block) -> None:
        """Stores what the actor hands on."""
        self._parts.policy.observe(block.traj.columns)
        if not self._planned:  # items of the policy's own making: before them nobody knows their size
            self._planned = True
            plan, limit = self._parts.replay.plan_memory(block.traj.columns), self._cfg.memory_limit
            _logger.info(plan.text().split("\n")[0])
            if limit is not None and plan.memory_bytes > limit:
                size = human_bytes(plan.memory_bytes)
                raise ConfigError(
                    f"memory_limit is {human_bytes(limit)}, and the replay would take {size}; "
                    "make replay_buffer.meta_maxlen smaller, or memory_limit larger"
                )
        self._parts.replay.push_data(block.traj.columns, block.lane_id, block.length, block.gap, block.cut)

    def _update_priority(self) -> None:
        info = self._parts.learner.priority_info
        if info is None:
            raise ConfigError(
                "replay_buffer.sampler is 'prioritized', but the policy's _forward_learn returned no 'priority' [B]; "
                "return one, or use sampler: uniform"
            )
        self._parts.replay.update(info)


class RolloutLearning:
    """On-policy: one rollout, then ``epoch_per_collect`` passes over it in minibatches, then the next.

    Args:
        cfg: the whole configuration.
        parts: actor, rollout buffer, learner.
    """

    def __init__(self, cfg: Any, parts: SerialParts) -> None:
        assert parts.rollout is not None
        self._cfg = cfg
        self._parts = parts
        self._rollout = parts.rollout

    def prepare(self, must_stop: Stop) -> bool:
        """Collects transitions with the initial policy, of which only the running normalization learns."""
        actor, size = self._parts.actor, self._cfg.actor.random_collect_size
        while actor.sample_count < size and not must_stop():
            actor.generate_data(n_row=size - actor.sample_count, consume=self._observe, stop=must_stop)
        return actor.sample_count >= size

    def loop(self, must_stop: Stop) -> bool:
        """Collects a rollout and learns from it; False when it was stopped while collecting, which then goes on where
        it was."""
        p, learn = self._parts, self._cfg.policy.learn
        p.learner.collect_info = self.collect(must_stop)
        if p.learner.collect_info["stopped"]:
            return False
        for batch in self._rollout.batches(learn.batch_size, learn.epoch_per_collect, learn.train_step):
            if p.learner.last_iter.val >= self._cfg.max_train_iter:
                break
            if p.learner.train(batch).get("stop_epochs"):
                break
        for block in self._rollout.blocks:  # afterwards, so that collecting and learning see the same statistics
            p.policy.observe(block)
        self._rollout.clear()
        return True

    def collect(self, must_stop: Stop = lambda: False) -> dict[str, Any]:
        """Collects one rollout and returns what the actor says of it."""
        actor = self._cfg.actor
        amount = {"n_episode": actor.n_episode} if actor.n_sample is None else {"n_row": actor.n_sample}
        info: dict[str, Any] = self._parts.actor.generate_data(**amount, consume=self.push, stop=must_stop)[1]
        return info

    def push(self, block: Block) -> None:
        """Keeps what the actor hands on."""
        self._rollout.push_data(block.traj.columns, block.traj.last_obs)

    def _observe(self, block: Block) -> None:
        self._parts.policy.observe(block.traj.columns)


class DatasetLearning:
    """Offline: ``train_step`` updates from batches of recorded transitions; nothing is collected.

    Args:
        cfg: the whole configuration.
        parts: batches, learner.
    """

    def __init__(self, cfg: Any, parts: SerialParts) -> None:
        assert parts.offline is not None
        self._cfg = cfg
        self._parts = parts
        self._batches = parts.offline

    def prepare(self, must_stop: Stop) -> bool:
        """Shows the running normalization all episodes that are learned from."""
        normalize = self._cfg.policy.normalize
        for number in self._batches.episode if normalize.obs or normalize.reward else ():
            columns = self._batches.data.episode(int(number))
            row = tree_map(lambda x: x[: len(columns["reward"])].unsqueeze(1), columns)  # [T, 1, ...]  # noqa: B023
            valid = torch.ones(len(columns["reward"]), 1, dtype=torch.bool)
            self._parts.policy.observe({**row, "valid": valid, "lane_id": torch.zeros(1, dtype=torch.int64)})
        return True

    def loop(self, must_stop: Stop) -> bool:
        """Learns."""
        learner = self._parts.learner
        updates = min(self._cfg.policy.learn.train_step, self._cfg.max_train_iter - learner.last_iter.val)
        for batch in self._batches.batches(updates):
            learner.train(batch)
        return True


def learning_for(cfg: Any, parts: SerialParts) -> ReplayLearning | RolloutLearning | DatasetLearning:
    """Returns what joins the parts of a run, by where its data come from."""
    if parts.offline is not None:
        return DatasetLearning(cfg, parts)
    return ReplayLearning(cfg, parts) if parts.rollout is None else RolloutLearning(cfg, parts)
