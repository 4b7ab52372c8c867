"""Envs in worker processes: at their own pace, or in step with each other."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from nervex.utils.errors import ConfigError
from nervex.worker.actor.env_manager.blocks import Blocks, block_bytes, tree_leaves
from nervex.worker.actor.env_manager.crew import STEP_WORK, Crew, Work
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.env_manager.wire import Kind
from nervex.worker.actor.env_manager.worker_pool import WorkerPool, usable_cores

_SLOW_STEP_S = 60.0  # of a replay, where no limit was given


class SubprocessEnvManager(EnvManager):
    """Asynchronous: ``step_block`` returns when some lanes have finished, so a slow env holds up nobody.

    Observations, rewards and actions lie in shared memory; one message of 8 bytes per step and worker goes each way,
    and whoever waits for one sleeps. Which lanes come back together is decided by timing: runs are not reproducible.
    A process that dies or is late is replaced, see ``Crew``. See ``EnvManager`` for the rest.

    Args:
        wait_num: lanes that a step waits for, if as many are under way; half of the envs when None.
        close_timeout_s: how long ``close`` waits for the envs before it kills their processes.
        worker_num: processes that share the envs; lanes of one process wait for each other. None: one per env.

    Raises:
        ConfigError: ``wait_num`` or ``worker_num`` is out of range.
    """

    def __init__(
        self,
        env_fn: Callable[[Any], Any],
        env_cfg: Iterable[Mapping[str, Any]],
        env_num: int,
        episode_num: int | float | str = float("inf"),
        *,
        step_timeout_s: float | None = None,
        reset_timeout_s: float = 60.0,
        fault_budget: int = 10,
        fault_window_s: float = 600.0,
        wait_num: int | None = None,
        close_timeout_s: float = 5.0,
        worker_num: int | None = None,
    ) -> None:
        super().__init__(
            env_fn, env_cfg, env_num, episode_num, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s,
            fault_budget=fault_budget, fault_window_s=fault_window_s,
        )  # fmt: skip
        for name, number in (("wait_num", wait_num), ("worker_num", worker_num)):
            if number is not None and not 1 <= number <= env_num:
                raise ConfigError(f"{name} of an env manager is {number}, expected 1 to env_num = {env_num}")
        self._wait_num = wait_num or max(1, env_num // 2)
        self._worker_num = worker_num or env_num
        self._close_timeout_s = close_timeout_s
        self._pool: WorkerPool | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def _start(self, blocks_of: Callable[[Any], Blocks], seeds: list[int]) -> Blocks:
        specs = {"obs_spec": self.obs_spec, "action_spec": self.action_spec}
        self._pool = pool = WorkerPool(self._env_fn, block_bytes(**specs, env_num=self.env_num), self._reset_timeout_s)
        self._finalizer = weakref.finalize(self, pool.stop, 1.0)
        self._specs = specs
        self._reset_params: list[dict[str, Any]] = [{} for _ in range(self.env_num)]
        self._blocks = blocks = blocks_of(pool.memory)
        limits = (self._step_timeout_s, self._reset_timeout_s)
        self._crew = Crew(pool, blocks, self._setup_of, self._spend, *limits)
        self._crew.hire(lanes.tolist() for lanes in np.array_split(self._all_lanes, self._worker_num))
        return blocks

    def _setup_of(self, lanes: list[int]) -> dict[str, Any]:
        assert self._seeds is not None
        envs = [
            {
                "env_id": i,
                "cfg": self._env_cfg[i],
                "seed": self._seeds[i],
                "next_episode": int(self._blocks.next_episode[i]),
                "reset_param": self._reset_params[i],
            }
            for i in lanes
        ]
        return {**self._specs, "env_num": self.env_num, "envs": envs}

    def _exchange(self, lane_id: np.ndarray, slot: int) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
        asked = lane_id.tolist()
        crew = self._crew
        crew.send(asked, STEP_WORK[slot])
        crew.collect(self._enough())
        finished, crew.finished = crew.finished, {}
        infos = {lane: info for lane, info in finished.items() if info is not None}
        if len(finished) == len(asked) and all(lane in finished for lane in asked):
            return lane_id, infos
        return np.array(sorted(finished), np.int64), infos

    def _enough(self) -> int:
        return min(self._wait_num, self._crew.under_way + len(self._crew.finished))

    def _begin_anew(self, lane: int, slot: int) -> None:
        self._blocks.clear(slot, np.array([lane]))
        self._crew.send([lane], Work(Kind.ANEW, slot), self._crew.reset_limit)
        self._crew.wait_for(lane)
        del self._crew.finished[lane]

    def _reset_all(self, slot: int, params: dict[int, Any]) -> None:
        self._crew.settle()
        self._crew.finished.clear()
        if params:
            for i, param in params.items():
                self._reset_params[i] = dict(param)
            self._crew.call({i: ("set_reset_param", (p,)) for i, p in params.items()})
        self._crew.call(dict.fromkeys(range(self.env_num), ("reset", (slot,))))
        self._crew.resets = [False] * self.env_num

    def _set_seeds(self, seeds: list[int]) -> None:
        self._crew.settle()
        self._blocks.next_episode.fill(0)  # also of an env whose process dies before it hears of its seed
        self._crew.call({i: ("set_seed", (seed,)) for i, seed in enumerate(seeds)})

    def _env_states(self) -> list[dict[str, Any]]:
        return self._crew.call(dict.fromkeys(range(self.env_num), ("state_dict", ())))

    def _load_env_states(self, states: list[dict[str, Any]], slot: int) -> list[tuple[bool, dict[str, Any] | None]]:
        self._crew.settle()
        self._crew.finished.clear()
        self._reset_params = [dict(state["reset_param"]) for state in states]
        # A replay takes as many steps as the episode had.
        longest = max(len(tree_leaves(state["actions"])[0]) for state in states)
        limit_s = self._reset_timeout_s + longest * (self._step_timeout_s or _SLOW_STEP_S)
        results = self._crew.call(
            {i: ("load_state_dict", (state, slot)) for i, state in enumerate(states)}, (limit_s, "step_timeout_s")
        )
        self._crew.resets = [bool(state["awaits_reset"]) for state in states]
        return results

    def _keep_undelivered(self, infos: dict[int, dict[str, Any] | None]) -> None:
        self._crew.finished.update(infos)

    def _read_attribute(self, name: str) -> list[Any]:
        return self._crew.call(dict.fromkeys(range(self.env_num), ("get_attribute", (name,))))

    def _stop(self, in_peace: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            assert self._finalizer is not None
            self._finalizer.detach()
            pool.stop(self._close_timeout_s if in_peace else min(1.0, self._close_timeout_s))


class SyncSubprocessEnvManager(SubprocessEnvManager):
    """In step: ``step_block`` returns the lanes that were asked, in their order, when all have finished.

    Same seed and same actions give the same rows as the ``base`` manager, whatever the number of workers. See
    ``SubprocessEnvManager``.

    Args:
        worker_num: processes that share the envs, each with one wake-up per step. None: one per core, as the envs of
            one process take no longer than processes that wait for one core.
    """

    def __init__(
        self,
        env_fn: Callable[[Any], Any],
        env_cfg: Iterable[Mapping[str, Any]],
        env_num: int,
        episode_num: int | float | str = float("inf"),
        *,
        step_timeout_s: float | None = None,
        reset_timeout_s: float = 60.0,
        fault_budget: int = 10,
        fault_window_s: float = 600.0,
        close_timeout_s: float = 5.0,
        worker_num: int | None = None,
    ) -> None:
        super().__init__(
            env_fn, env_cfg, env_num, episode_num, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s,
            fault_budget=fault_budget, fault_window_s=fault_window_s, close_timeout_s=close_timeout_s,
            worker_num=worker_num,
        )  # fmt: skip
        self._worker_num = worker_num or min(env_num, usable_cores())

    def _enough(self) -> int:
        return self._crew.under_way + len(self._crew.finished)
