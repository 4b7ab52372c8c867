"""Every env in a process of its own: at its own pace, or in step with the others."""

import json
import math
import select
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import cloudpickle
import numpy as np

from nervex.utils.errors import ConfigError, EnvFault
from nervex.worker.actor.env_manager.blocks import Blocks, block_bytes, tree_leaves
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.env_manager.wire import Kind, packed, receive
from nervex.worker.actor.env_manager.worker_pool import Worker, WorkerPool, fault_of, value_of

_STEP = (packed(Kind.STEP, 0), packed(Kind.STEP, 1))
_OVERTIME_S = 1.0

Limit = tuple[float, str]  # seconds, and the option that sets them


class SubprocessEnvManager(EnvManager):
    """Asynchronous: ``step_block`` returns when some lanes have finished, so a slow env holds up nobody.

    Observations, rewards and actions lie in shared memory; one small message per step and env goes each way. Which
    lanes come back together is decided by timing: runs are not reproducible. See ``EnvManager`` for the rest.

    Args:
        wait_num: lanes that a step waits for, if as many are under way; half of the envs when None.
        close_timeout_s: how long ``close`` waits for the envs before it kills their processes.
    """

    def __init__(
        self,
        env_fn: Callable[[Any], Any],
        env_cfg: Iterable[Mapping[str, Any]],
        env_num: int,
        episode_num: int | float | str = float("inf"),
        *,
        step_timeout_s: float = 60.0,
        reset_timeout_s: float = 60.0,
        wait_num: int | None = None,
        close_timeout_s: float = 5.0,
    ) -> None:
        super().__init__(
            env_fn, env_cfg, env_num, episode_num, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s
        )
        if wait_num is not None and not 1 <= wait_num <= env_num:
            raise ConfigError(f"wait_num of an env manager is {wait_num}, expected 1 to env_num = {env_num}")
        self._wait_num = wait_num or max(1, env_num // 2)
        self._close_timeout_s = close_timeout_s
        self._pool: WorkerPool | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def _start(self, blocks_of: Callable[[Any], Blocks], seeds: list[int]) -> Blocks:
        num = self.env_num
        specs = {"obs_spec": self.obs_spec, "action_spec": self.action_spec}
        pool = WorkerPool(self._env_fn, block_bytes(**specs, env_num=num), self._reset_timeout_s)
        self._pool = pool
        self._finalizer = weakref.finalize(self, pool.stop, 1.0)
        self._workers: list[Worker] = []
        self._lane_of: dict[int, int] = {}
        self._poll = select.poll()
        self._finished: dict[int, Any] = {}  # lane -> answer that has not been handed on
        self._deadline = [math.inf] * num  # inf: nothing is under way
        self._next_deadline = math.inf
        self._limits = [self._reset_limit] * num  # of what the lane does next
        self._running_limit = list(self._limits)  # of what it does now
        self._blocks = blocks_of(pool.memory)
        for i, cfg in enumerate(self._env_cfg):
            worker = pool.spawn(i, {**specs, "env_id": i, "env_num": num, "cfg": cfg, "seed": seeds[i]})
            self._workers.append(worker)
            self._lane_of[worker.sock.fileno()] = i
            self._poll.register(worker.sock, select.POLLIN)
            self._expect(i, self._reset_limit)
        self._collect(num)
        self._finished.clear()
        return self._blocks

    @property
    def _step_limit(self) -> Limit:
        return self._step_timeout_s, "step_timeout_s"

    @property
    def _reset_limit(self) -> Limit:
        return self._reset_timeout_s, "reset_timeout_s"

    def _exchange(self, lane_id: np.ndarray, slot: int) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
        asked = lane_id.tolist()
        message = _STEP[slot]
        for lane in asked:
            self._send(lane, message)
        self._collect(self._enough())
        finished, self._finished = self._finished, {}
        infos = {lane: info for lane, info in finished.items() if info is not None}
        for lane in finished:
            self._limits[lane] = self._reset_limit if lane in infos else self._step_limit
        if len(finished) == len(asked) and all(lane in finished for lane in asked):
            return lane_id, infos
        return np.array(sorted(finished), np.int64), infos

    def _enough(self) -> int:
        return min(self._wait_num, self._under_way() + len(self._finished))

    def _reset_all(self, slot: int, params: dict[int, Any]) -> None:
        self._settle()
        self._finished.clear()
        if params:
            self._call({i: ("set_reset_param", (p,)) for i, p in params.items()})
        self._call(dict.fromkeys(range(self.env_num), ("reset", (slot,))))
        self._limits = [self._step_limit] * self.env_num

    def _set_seeds(self, seeds: list[int]) -> None:
        self._call({i: ("set_seed", (seed,)) for i, seed in enumerate(seeds)})

    def _env_states(self) -> list[dict[str, Any]]:
        return self._call(dict.fromkeys(range(self.env_num), ("state_dict", ())))

    def _load_env_states(self, states: list[dict[str, Any]], slot: int) -> list[tuple[bool, dict[str, Any] | None]]:
        self._settle()
        self._finished.clear()
        # A replay takes as many steps as the episode had.
        longest = max(len(tree_leaves(state["actions"])[0]) for state in states)
        results = self._call(
            {i: ("load_state_dict", (state, slot)) for i, state in enumerate(states)},
            self._reset_timeout_s + longest * self._step_timeout_s,
        )
        for i, state in enumerate(states):
            self._limits[i] = self._reset_limit if state["awaits_reset"] else self._step_limit
        return results

    def _keep_undelivered(self, infos: dict[int, dict[str, Any] | None]) -> None:
        self._finished.update(infos)

    def _read_attribute(self, name: str) -> list[Any]:
        return self._call(dict.fromkeys(range(self.env_num), ("get_attribute", (name,))))

    def _stop(self, in_peace: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            assert self._finalizer is not None
            self._finalizer.detach()
            pool.stop(self._close_timeout_s if in_peace else min(1.0, self._close_timeout_s))

    # Messages

    def _call(self, calls: dict[int, tuple[str, tuple[Any, ...]]], limit_s: float | None = None) -> list[Any]:
        """Calls methods of the lanes' runners and returns their values; step results that come in are kept."""
        self._settle()
        kept, self._finished = self._finished, {}
        limit = (limit_s, "step_timeout_s") if limit_s else self._reset_limit
        for lane, call in calls.items():
            self._send(lane, packed(Kind.CALL, 0, cloudpickle.dumps(call)), limit)
        self._collect(len(calls))
        values, self._finished = self._finished, kept
        absent = next((v for v in values.values() if isinstance(v, AttributeError)), None)
        if absent is not None:
            raise absent
        return [values[lane] for lane in calls]

    def _under_way(self) -> int:
        return self.env_num - self._deadline.count(math.inf)

    def _settle(self) -> None:
        """Waits for all that is under way."""
        self._collect(self._under_way() + len(self._finished))

    def _send(self, lane: int, message: bytes, limit: Limit | None = None) -> None:
        try:
            self._workers[lane].sock.sendall(message)
        except ConnectionError:
            raise self._death(lane) from None
        except BlockingIOError:
            raise self._overdue(lane) from None
        self._expect(lane, limit or self._limits[lane])

    def _expect(self, lane: int, limit: Limit) -> None:
        self._running_limit[lane] = limit
        deadline = time.monotonic() + limit[0]
        self._deadline[lane] = deadline
        self._next_deadline = min(self._next_deadline, deadline)

    def _collect(self, count: int) -> None:
        """Waits until ``count`` answers are in ``_finished``; any worker's death is noticed at once."""
        while len(self._finished) < count:
            left = self._next_deadline - time.monotonic()
            if left <= 0:
                self._check_deadlines()
                continue
            self._receive_ready(None if left == math.inf else left)

    def _receive_ready(self, limit_s: float | None) -> None:
        for fd, _ in self._poll.poll(None if limit_s is None else math.ceil(limit_s * 1000)):
            self._receive(self._lane_of[fd])

    def _receive(self, lane: int) -> None:
        try:
            kind, _, payload = receive(self._workers[lane].sock)
        except (EOFError, ConnectionError):
            raise self._death(lane) from None
        except BlockingIOError:
            raise self._overdue(lane) from None
        self._deadline[lane] = math.inf
        if kind is Kind.DONE:
            self._finished[lane] = None
        elif kind is Kind.ENDED:
            self._finished[lane] = json.loads(payload)
        elif kind is Kind.VALUE:
            self._finished[lane] = value_of(payload)
        elif kind is Kind.ABSENT:
            self._finished[lane] = AttributeError(payload.decode())
        else:
            raise fault_of(payload)

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        late = [lane for lane, deadline in enumerate(self._deadline) if deadline <= now]
        if late:
            # This process may itself have been stopped or busy: what has answered by now is not late.
            self._receive_ready(min(_OVERTIME_S, self._running_limit[late[0]][0]))
            for lane in late:
                if self._deadline[lane] <= now:
                    raise self._overdue(lane)
        self._next_deadline = min(self._deadline)

    def _death(self, lane: int) -> EnvFault:
        worker = self._workers[lane]
        episode, step = self._blocks.progress[lane].tolist()
        assert self._pool is not None
        how = self._pool.reap(worker)
        return EnvFault(f"env {lane} (pid {worker.pid}) {how} at episode {episode} step {step}", lane, step)

    def _overdue(self, lane: int) -> EnvFault:
        episode, step = self._blocks.progress[lane].tolist()
        limit_s, key = self._running_limit[lane]
        return EnvFault(
            f"env {lane} (pid {self._workers[lane].pid}) has not answered for {limit_s:g} s at episode {episode} step "
            f"{step}; mend the env, or raise {key} if it is only slow",
            lane,
            step,
        )


class SyncSubprocessEnvManager(SubprocessEnvManager):
    """In step: ``step_block`` returns the lanes that were asked, in their order, when all have finished.

    Same seed and same actions give the same rows as the ``base`` manager. See ``SubprocessEnvManager``.
    """

    def __init__(
        self,
        env_fn: Callable[[Any], Any],
        env_cfg: Iterable[Mapping[str, Any]],
        env_num: int,
        episode_num: int | float | str = float("inf"),
        *,
        step_timeout_s: float = 60.0,
        reset_timeout_s: float = 60.0,
        close_timeout_s: float = 5.0,
    ) -> None:
        super().__init__(
            env_fn,
            env_cfg,
            env_num,
            episode_num,
            step_timeout_s=step_timeout_s,
            reset_timeout_s=reset_timeout_s,
            close_timeout_s=close_timeout_s,
        )

    def _enough(self) -> int:
        return self._under_way() + len(self._finished)
