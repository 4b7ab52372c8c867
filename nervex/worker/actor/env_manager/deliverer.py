"""Keeps track of where each lane's newest row lies, and hands rows out without a copy where that can be."""

from typing import Any

import numpy as np

from nervex.utils.errors import EnvFault, SpecError
from nervex.worker.actor.env_manager.blocks import Blocks, ReadyBlock, StepBlock, map_tree, tree_leaves


class Deliverer:
    """Turns the slots of the blocks into what ``ready_block`` and ``step_block`` return.

    When all lanes went in step, a slot itself is handed out; else rows are gathered into arrays that alternate with
    the slots, so that either stays valid until the second next step.

    Args:
        blocks: arrays that the envs write.
        all_lanes: int64 ``[B]``, 0 to B - 1.
    """

    def __init__(self, blocks: Blocks, all_lanes: np.ndarray) -> None:
        num = blocks.env_num
        self._blocks = blocks
        self._all_lanes = all_lanes
        self._slot = 0
        self._in_step = True  # all lanes' newest rows lie in the present slot
        self._all_ready = True
        self.ready_mask = np.ones(num, np.bool_)
        self._rows = all_lanes.copy()  # row of a lane's newest data, in blocks seen as [2 * lane_stride, ...]
        self._stride = blocks.lane_stride
        self._flat_obs, self._flat_scalars = blocks.flat_obs, blocks.flat_scalars
        scalars = (blocks.reward, blocks.terminated, blocks.truncated, blocks.valid, blocks.episode_return)
        self._slot_scalars = [tuple(a[slot] for a in scalars) for slot in (0, 1)]
        self._slot_obs = [map_tree(lambda a, slot=slot: a[slot], blocks.obs) for slot in (0, 1)]
        self._gathered: list[list[Any]] = [[None, None], [None, None]]
        float_shapes = [a.shape[1:] if a.dtype.kind in "fc" else None for a in tree_leaves(blocks.obs)]
        self._masks = [None if shape is None else np.empty(shape, np.bool_) for shape in float_shapes]
        self._slot_leaves = [
            [(leaf, mask) for leaf, mask in zip(tree_leaves(obs), self._masks, strict=True) if mask is not None]
            for obs in self._slot_obs
        ]
        # Steps of all lanes that end no episode are always these records.
        self._whole = [
            StepBlock(all_lanes, obs, *scalars, None)  # type: ignore[call-arg]
            for obs, scalars in zip(self._slot_obs, self._slot_scalars, strict=True)
        ]
        self._all_at_rest = [ReadyBlock(all_lanes, obs) for obs in self._slot_obs]

    def checked_lanes(self, lane_id: Any) -> np.ndarray:
        """Returns lanes as int64 [b]; raises a SpecError unless each is there, and named once."""
        lanes, num = np.asarray(lane_id, dtype=np.int64), len(self._all_lanes)
        listed = lanes.tolist()
        if lanes.ndim != 1 or len(set(listed)) != len(listed) or any(not 0 <= i < num for i in listed):
            raise SpecError(f"got the lanes {listed}, expected each at most once, from 0 to {num - 1}")
        return lanes

    def require_ready(self, lane_id: np.ndarray) -> None:
        """Raises a SpecError when a lane is still in flight."""
        if not self._all_ready and not self.ready_mask[lane_id].all():
            busy = lane_id[~self.ready_mask[lane_id]].tolist()
            raise SpecError(f"the lanes {busy} cannot act: their last steps have not come back; ask ready_block()")

    def begin(self, lane_id: np.ndarray, full: bool) -> int:
        """Takes the other slot for the coming rows of the lanes and returns it."""
        if self._in_step and not full:
            self._rows[:] = self._slot * self._stride + self._all_lanes
        self._slot = slot = 1 - self._slot
        self._in_step = full
        self._blocks.clear(slot, None if full else lane_id)
        if not full:
            self._rows[lane_id] = slot * self._stride + lane_id
        return slot

    def deliver(self, asked: np.ndarray, finished: np.ndarray, infos: dict[int, dict[str, Any]]) -> StepBlock:
        """Returns the rows of the finished lanes; those asked and not finished cannot act until they are.

        Raises:
            EnvFault: an observation is not finite.
        """
        if finished is not asked:
            self.ready_mask[asked] = False
            self.ready_mask[finished] = True
            self._all_ready = bool(self.ready_mask.all())
        info = tuple(infos.get(i, {}) for i in finished.tolist()) if infos else None
        if self._in_step and finished is asked:
            self._check_slot()
            whole = self._whole[self._slot]
            if info is None and finished is self._all_lanes:
                return whole
            return whole._replace(lane_id=finished, info=info)
        rows = self._newest_rows(finished)
        obs = self._gather(rows, 0)
        scalars = tuple(flat[rows] for flat in self._flat_scalars)
        leaves = zip(tree_leaves(obs), self._masks, strict=True)
        for leaf, mask in ((leaf, mask[: len(leaf)]) for leaf, mask in leaves if mask is not None):
            self._require_finite(finished, leaf, mask)
        return StepBlock(finished, obs, *scalars, info)  # type: ignore[call-arg]

    def ready(self) -> ReadyBlock:
        """Returns the newest observations of the lanes that can act."""
        if self._all_ready and self._in_step:
            return self._all_at_rest[self._slot]
        lanes = self._all_lanes if self._all_ready else np.flatnonzero(self.ready_mask)
        return ReadyBlock(lanes, self._gather(self._newest_rows(lanes), 1))

    def check_all(self) -> None:
        """Marks every lane ready after a reset of all, and checks their observations.

        Raises:
            EnvFault: an observation is not finite.
        """
        self.ready_mask[:] = True
        self._all_ready = True
        self._check_slot()

    def hold_back(self, lanes: Any) -> None:
        """Makes lanes wait until ``deliver`` hands them out, and all others ready."""
        self.ready_mask[:] = True
        self.ready_mask[list(lanes)] = False
        self._all_ready = not lanes

    def obs_of(self, lane: int) -> Any:
        """Returns a copy of a lane's newest observation."""
        row = int(self._newest_rows(self._all_lanes)[lane])
        return map_tree(lambda flat: flat[row].copy(), self._flat_obs)

    def slot_of(self, lane: int) -> int:
        """Returns the slot of a lane's newest row."""
        return int(self._newest_rows(self._all_lanes)[lane]) // self._stride

    def set_obs(self, lane: int, obs: Any) -> None:
        """Puts an observation in the place of a lane's newest one."""
        row = int(self._newest_rows(self._all_lanes)[lane])
        map_tree(lambda flat, value: flat.__setitem__(row, value), self._flat_obs, obs)

    def _newest_rows(self, lanes: np.ndarray) -> np.ndarray:
        if self._in_step:
            self._rows[:] = self._slot * self._stride + self._all_lanes
        rows: np.ndarray = self._rows[lanes]
        return rows

    def _gather(self, rows: np.ndarray, purpose: int) -> Any:
        held = self._gathered[purpose]
        if held[self._slot] is None:
            held[self._slot] = map_tree(np.empty_like, self._slot_obs[0])
        # mode='clip' because with 'raise' NumPy gathers into a buffer first.
        return map_tree(
            lambda flat, out: np.take(flat, rows, axis=0, out=out[: len(rows)], mode="clip"),
            self._flat_obs,
            held[self._slot],
        )

    def _check_slot(self) -> None:
        for leaf, mask in self._slot_leaves[self._slot]:
            self._require_finite(self._all_lanes, leaf, mask)

    def _require_finite(self, lanes: np.ndarray, leaf: np.ndarray, mask: np.ndarray) -> None:
        if np.count_nonzero(np.isfinite(leaf, out=mask)) == mask.size:
            return
        bad = np.argwhere(~mask)[0].tolist()
        env_id = int(lanes[bad[0]])
        episode, step = self._blocks.progress[env_id].tolist()
        raise EnvFault(
            f"env {env_id} sent obs with {leaf[tuple(bad)]} at index {bad[1:]}, expected finite numbers "
            f"(episode {episode}, step {step})",
            env_id,
            step,
        )
