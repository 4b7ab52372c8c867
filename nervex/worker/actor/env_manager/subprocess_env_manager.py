"""Envs in worker processes: at their own pace, or in step with each other."""

import json
import math
import select
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from nervex.utils.errors import ConfigError, EnvFault
from nervex.worker.actor.env_manager.blocks import Blocks, block_bytes, tree_leaves
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.env_manager.wire import Kind, packed, receive
from nervex.worker.actor.env_manager.worker_pool import Worker, WorkerPool, fault_of, usable_cores, value_of

_STEP = (packed(Kind.STEP, 0), packed(Kind.STEP, 1))
_OVERTIME_S = 1.0

Limit = tuple[float, str]  # seconds, and the option that sets them


class _Flight(NamedTuple):
    """A message that a worker has not answered yet: what it does for some lanes, one after the other."""

    lanes: list[int]
    sent_s: float
    limit: Limit | None  # of each lane; None: as ``_limits`` says


class SubprocessEnvManager(EnvManager):
    """Asynchronous: ``step_block`` returns when some lanes have finished, so a slow env holds up nobody.

    Observations, rewards and actions lie in shared memory; one message of 8 bytes per step and worker goes each way,
    and whoever waits for one sleeps. Which lanes come back together is decided by timing: runs are not reproducible.
    See ``EnvManager`` for the rest.

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
        step_timeout_s: float = 60.0,
        reset_timeout_s: float = 60.0,
        wait_num: int | None = None,
        close_timeout_s: float = 5.0,
        worker_num: int | None = None,
    ) -> None:
        super().__init__(
            env_fn, env_cfg, env_num, episode_num, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s
        )
        for name, number in (("wait_num", wait_num), ("worker_num", worker_num)):
            if number is not None and not 1 <= number <= env_num:
                raise ConfigError(f"{name} of an env manager is {number}, expected 1 to env_num = {env_num}")
        self._wait_num = wait_num or max(1, env_num // 2)
        self._worker_num = worker_num or env_num
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
        self._worker_of: list[int] = []  # lane -> its worker
        self._worker_at: dict[int, int] = {}  # file descriptor -> its worker
        self._poll = select.poll()
        self._flights: list[deque[_Flight]] = []  # of each worker, in the order of its answers
        self._under_way = 0  # lanes
        self._finished: dict[int, Any] = {}  # lane -> answer that has not been handed on
        self._deadline: list[float] = []  # of each worker, the earliest that may be; inf: nothing is under way
        self._next_deadline = math.inf
        self._limits = [self._reset_limit] * num  # of what the lane does next
        self._blocks = blocks_of(pool.memory)
        for w, lanes in enumerate(np.array_split(np.arange(num), self._worker_num)):
            envs = [{"env_id": i, "cfg": self._env_cfg[i], "seed": seeds[i]} for i in lanes.tolist()]
            sent_s = time.monotonic()
            worker = pool.spawn(lanes.tolist(), {**specs, "env_num": num, "envs": envs})
            self._workers.append(worker)
            self._worker_of += [w] * len(lanes)
            self._worker_at[worker.sock.fileno()] = w
            self._poll.register(worker.sock, select.POLLIN)
            self._flights.append(deque())
            self._deadline.append(math.inf)
            self._expect(w, _Flight(worker.env_ids, sent_s, None))
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
        for w, lanes in self._by_worker(asked).items():
            whole = len(lanes) == len(self._workers[w].env_ids)
            payload = b"" if whole else np.array(lanes, np.int64).tobytes()
            self._send(w, packed(Kind.STEP, slot, payload) if payload else _STEP[slot], lanes)
        self._collect(self._enough())
        finished, self._finished = self._finished, {}
        infos = {lane: info for lane, info in finished.items() if info is not None}
        for lane in finished:
            self._limits[lane] = self._reset_limit if lane in infos else self._step_limit
        if len(finished) == len(asked) and all(lane in finished for lane in asked):
            return lane_id, infos
        return np.array(sorted(finished), np.int64), infos

    def _enough(self) -> int:
        return min(self._wait_num, self._under_way + len(self._finished))

    def _by_worker(self, lanes: Iterable[int]) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = {}
        for lane in lanes:
            groups.setdefault(self._worker_of[lane], []).append(lane)
        return groups

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
        for w, lanes in self._by_worker(calls).items():
            message = packed(Kind.CALL, 0, cloudpickle.dumps({lane: calls[lane] for lane in lanes}))
            self._send(w, message, lanes, limit)
        self._collect(len(calls))
        values, self._finished = self._finished, kept
        absent = next((v for v in values.values() if isinstance(v, AttributeError)), None)
        if absent is not None:
            raise absent
        return [values[lane] for lane in calls]

    def _settle(self) -> None:
        """Waits for all that is under way."""
        self._collect(self._under_way + len(self._finished))

    def _send(self, w: int, message: bytes, lanes: list[int], limit: Limit | None = None) -> None:
        flight = _Flight(lanes, time.monotonic(), limit)
        try:
            self._workers[w].sock.sendall(message)
        except ConnectionError:
            raise self._death(w, lanes[0]) from None
        except BlockingIOError:
            raise self._overdue(lanes[0], self._limit_of(flight, lanes[0])) from None
        self._expect(w, flight)

    def _expect(self, w: int, flight: _Flight) -> None:
        flights = self._flights[w]
        flights.append(flight)
        self._under_way += len(flight.lanes)
        if len(flights) == 1:
            self._set_deadline(w, flight.sent_s)

    def _set_deadline(self, w: int, since_s: float) -> None:
        """Limits the first lane of what the worker now does; the limits of further lanes begin with their steps."""
        flight = self._flights[w][0]
        deadline = self._deadline[w] = since_s + self._limit_of(flight, flight.lanes[0])[0]
        self._next_deadline = min(self._next_deadline, deadline)

    def _limit_of(self, flight: _Flight, lane: int) -> Limit:
        return flight.limit or self._limits[lane]

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
            self._receive(self._worker_at[fd])

    def _receive(self, w: int) -> None:
        flights = self._flights[w]
        at = flights[0].lanes[0] if flights else self._workers[w].env_ids[0]
        try:
            kind, _, payload = receive(self._workers[w].sock)
        except (EOFError, ConnectionError):
            raise self._death(w, at) from None
        except BlockingIOError:
            raise self._overdue(at, self._limit_of(flights[0], at)) from None
        if kind is Kind.FAULT:
            raise fault_of(payload)
        lanes = flights.popleft().lanes
        self._under_way -= len(lanes)
        if flights:
            self._set_deadline(w, time.monotonic())
        else:
            self._deadline[w] = math.inf
        if kind is Kind.DONE:
            self._finished.update(dict.fromkeys(lanes))
        elif kind is Kind.ENDED:
            infos = json.loads(payload)
            self._finished.update((lane, infos.get(str(lane))) for lane in lanes)
        elif kind is Kind.VALUE:
            self._finished.update(value_of(payload))
        else:
            self._finished.update(dict.fromkeys(lanes, AttributeError(payload.decode())))

    def _check_deadlines(self) -> None:
        late = [w for w in range(len(self._workers)) if self._is_late(w)]
        if late:
            # This process may itself have been stopped or busy: what has answered by now is not late.
            lane, _ = self._at_work(late[0])
            self._receive_ready(min(_OVERTIME_S, self._limit_of(self._flights[late[0]][0], lane)[0]))
            for w in late:
                if self._is_late(w):
                    lane, _ = self._at_work(w)
                    raise self._overdue(lane, self._limit_of(self._flights[w][0], lane))
        self._next_deadline = min(self._deadline)

    def _is_late(self, w: int) -> bool:
        """Whether the lane that the worker is at has had its time; moves the deadline on if another lane's runs."""
        now = time.monotonic()
        if self._deadline[w] <= now:
            lane, since_s = self._at_work(w)
            if since_s is not None:
                self._deadline[w] = since_s + self._limit_of(self._flights[w][0], lane)[0]
        return self._deadline[w] <= now

    def _at_work(self, w: int) -> tuple[int, float | None]:
        """Returns the lane that the worker is at and since when; None: it has not taken up the message yet."""
        flight = self._flights[w][0]
        began = self._blocks.began[flight.lanes]
        newest = int(began.argmax())
        if began[newest] < flight.sent_s:
            return flight.lanes[0], None
        return flight.lanes[newest], float(began[newest])

    def _death(self, w: int, lane: int) -> EnvFault:
        worker = self._workers[w]
        if self._flights[w]:
            lane, _ = self._at_work(w)
        episode, step = self._blocks.progress[lane].tolist()
        assert self._pool is not None
        how = self._pool.reap(worker)
        return EnvFault(f"env {lane} ({self._process_of(lane)}) {how} at episode {episode} step {step}", lane, step)

    def _overdue(self, lane: int, limit: Limit) -> EnvFault:
        episode, step = self._blocks.progress[lane].tolist()
        return EnvFault(
            f"env {lane} ({self._process_of(lane)}) has not answered for {limit[0]:g} s at episode {episode} step "
            f"{step}; mend the env, or raise {limit[1]} if it is only slow",
            lane,
            step,
        )

    def _process_of(self, lane: int) -> str:
        worker = self._workers[self._worker_of[lane]]
        others = [str(i) for i in worker.env_ids if i != lane]
        also = f", which also runs env{'s' if len(others) > 1 else ''} {', '.join(others)}" if others else ""
        return f"pid {worker.pid}{also}"


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
        step_timeout_s: float = 60.0,
        reset_timeout_s: float = 60.0,
        close_timeout_s: float = 5.0,
        worker_num: int | None = None,
    ) -> None:
        super().__init__(
            env_fn,
            env_cfg,
            env_num,
            episode_num,
            step_timeout_s=step_timeout_s,
            reset_timeout_s=reset_timeout_s,
            close_timeout_s=close_timeout_s,
            worker_num=worker_num,
        )
        self._worker_num = worker_num or min(env_num, usable_cores())

    def _enough(self) -> int:
        return self._under_way + len(self._finished)
