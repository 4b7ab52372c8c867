"""The workers of a subprocess manager: what they are asked, what they answer, and who replaces those that are lost."""

import json
import math
import select
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from nervex.utils.errors import EnvFault
from nervex.worker.actor.env_manager.blocks import Blocks
from nervex.worker.actor.env_manager.fault_budget import MOST_IN_A_ROW, give_up
from nervex.worker.actor.env_manager.wire import Kind, packed, receive
from nervex.worker.actor.env_manager.worker_pool import Worker, WorkerPool, fault_of, value_of

_STEP = (packed(Kind.STEP, 0), packed(Kind.STEP, 1))
_OVERTIME_S = 1.0
_OVERSLEPT_S = 0.2
_TIMES_P99 = 20.0
_LEAST_S = 5.0  # limit of a step that nobody has set
_UNMEASURED_S = 60.0  # the same, as long as nobody knows how long steps take

Limit = tuple[float, str]  # seconds, and the option that sets them


class Work(NamedTuple):
    """What some lanes are asked for.

    Attributes:
        kind: ``STEP`` or ``ANEW`` into ``slot``, ``CALL`` of ``calls``; ``SETUP``: their process builds its envs.
        slot: where rows go.
        calls: ``{lane: (method of its runner, arguments)}``.
    """

    kind: Kind
    slot: int = 0
    calls: dict[int, tuple[str, tuple[Any, ...]]] | None = None


STEP_WORK = (Work(Kind.STEP, 0), Work(Kind.STEP, 1))
_BUILD = Work(Kind.SETUP)


class _Flight(NamedTuple):
    """A message that a worker has not answered yet: what it does for some lanes, one after the other."""

    lanes: list[int]
    sent_s: float
    limit: Limit | None  # of each lane; None: that of a step, or of a reset where ``Crew.resets`` says so
    work: Work


class Crew:
    """Worker processes that each run the envs of some lanes.

    What a lane is asked for is answered once, whatever becomes of its process. A process that dies, or is late, is
    replaced: its envs are built anew, those whose episode was under way begin the next one, and what was not answered
    is asked again. Of an env that raises in a healthy process only the env is built anew; its neighbors go on.

    Args:
        pool: where processes come from.
        blocks: shared memory with the workers.
        setup_of: returns what a new process for these lanes needs to know.
        spend: called with every fault before it is mended; raises when it must not be.
        step_timeout_s: limit of one env step; None: 20 times the measured 99th percentile, at least 5 s.
        reset_timeout_s: limit of building and of resetting an env.

    Attributes:
        finished: answers that nobody has taken yet, by lane.
        under_way: lanes that were asked for something and have not answered.
        resets: lanes whose next step is a reset.
    """

    def __init__(
        self,
        pool: WorkerPool,
        blocks: Blocks,
        setup_of: Callable[[list[int]], dict[str, Any]],
        spend: Callable[[EnvFault], None],
        step_timeout_s: float | None,
        reset_timeout_s: float,
    ) -> None:
        self.step_timeout_s = step_timeout_s
        self.reset_timeout_s = reset_timeout_s
        self.workers: list[Worker] = []
        self.finished: dict[int, Any] = {}
        self.under_way = 0
        self.resets = [True] * blocks.env_num
        self._pool, self._blocks = pool, blocks
        self._setup_of, self._spend = setup_of, spend
        self._failed_resets: dict[int, int] = {}  # lane -> times in a row that it failed to begin an episode
        self._worker_of: list[int] = []  # lane -> its worker
        self._worker_at: dict[int, int] = {}  # file descriptor -> its worker
        self._poll = select.poll()
        self._flights: list[deque[_Flight]] = []  # of each worker, in the order of its answers
        self._since: list[float] = []  # of each worker, from when the limit of what it does counts at the earliest
        self._deadline: list[float] = []  # of each worker, the earliest that may be; inf: nothing is under way
        self._next_deadline = math.inf

    def hire(self, groups: Iterable[list[int]]) -> None:
        """Starts a process for each group of lanes, in order, and waits until all envs are built."""
        for w, lanes in enumerate(groups):
            self._worker_of += [w] * len(lanes)
            self._flights.append(deque())
            self._since.append(0.0)
            self._deadline.append(math.inf)
            self.workers.append(self._hired(w, lanes))
        while any(self._flights):
            self._take_in()

    @property
    def reset_limit(self) -> Limit:
        """Limit of building or resetting an env."""
        return self.reset_timeout_s, "reset_timeout_s"

    @property
    def step_limit(self) -> Limit:
        """Limit of a step, as far as steps were measured."""
        if self.step_timeout_s is not None:
            return self.step_timeout_s, "step_timeout_s"
        slowest = float(self._blocks.step_p99.max())
        return max(_LEAST_S, _TIMES_P99 * slowest) if slowest else _UNMEASURED_S, "step_timeout_s"

    # Asking

    def send(self, lanes: Iterable[int], work: Work, limit: Limit | None = None) -> None:
        """Asks lanes for something; their answers come into ``finished``."""
        for w, group in self._by_worker(lanes).items():
            self.under_way += len(group)
            self._post(w, group, work, limit)

    def collect(self, count: int) -> None:
        """Waits until ``count`` answers are in ``finished``; any worker's death is noticed at once."""
        while len(self.finished) < count:
            self._take_in()

    def wait_for(self, lane: int) -> None:
        """Waits until the lane has answered."""
        while lane not in self.finished:
            self._take_in()

    def settle(self) -> None:
        """Waits for all that is under way."""
        self.collect(self.under_way + len(self.finished))

    def call(self, calls: dict[int, tuple[str, tuple[Any, ...]]], limit: Limit | None = None) -> list[Any]:
        """Calls methods of the lanes' runners and returns their values; step results that come in are kept.

        Raises:
            AttributeError: a runner raised it.
        """
        self.settle()
        kept, self.finished = self.finished, {}
        self.send(calls, Work(Kind.CALL, calls=calls), limit or self.reset_limit)
        self.collect(len(calls))
        values, self.finished = self.finished, kept
        absent = next((v for v in values.values() if isinstance(v, AttributeError)), None)
        if absent is not None:
            raise absent
        return [values[lane] for lane in calls]

    def _by_worker(self, lanes: Iterable[int]) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = {}
        for lane in lanes:
            groups.setdefault(self._worker_of[lane], []).append(lane)
        return groups

    def _post(self, w: int, lanes: list[int], work: Work, limit: Limit | None) -> None:
        worker = self.workers[w]
        if work.calls is not None:
            calls = {lane: work.calls[lane] for lane in lanes}
            message = packed(Kind.CALL, 0, cloudpickle.dumps(calls))
        elif work.kind is Kind.STEP and len(lanes) == len(worker.env_ids):
            message = _STEP[work.slot]
        else:
            message = packed(work.kind, work.slot, np.array(lanes, np.int64).tobytes())
        self._expect(w, _Flight(lanes, time.monotonic(), limit, work))
        try:  # noqa: SIM105 (every step comes here, and contextlib takes its time)
            worker.sock.sendall(message)
        except (ConnectionError, BlockingIOError):
            pass  # it is dead, or late: that is found out when its answer is waited for

    def _expect(self, w: int, flight: _Flight) -> None:
        flights = self._flights[w]
        flights.append(flight)
        if len(flights) == 1:
            self._set_deadline(w, flight.sent_s)

    # Answers

    def _take_in(self) -> None:
        """Waits for an answer, a death or a deadline."""
        left = self._next_deadline - time.monotonic()
        if left <= 0:
            self._check_deadlines()
        else:
            self._receive_ready(None if left == math.inf else left)

    def _receive_ready(self, limit_s: float | None) -> None:
        for fd, _ in self._poll.poll(None if limit_s is None else math.ceil(limit_s * 1000)):
            self._receive(self._worker_at[fd])

    def _receive(self, w: int) -> None:
        flights = self._flights[w]
        try:
            kind, _, payload = receive(self.workers[w].sock)
        except (EOFError, ConnectionError):
            self._replace(w, None)
            return
        except BlockingIOError:
            self._replace(w, self._overdue(w))
            return
        if kind is Kind.FAULT:  # its envs cannot be built
            self._replace(w, fault_of(payload))
            return
        flight = flights.popleft()
        if flights:
            self._set_deadline(w, time.monotonic())
        else:
            self._deadline[w] = math.inf
        if flight.work is _BUILD:
            return
        lanes = flight.lanes
        if kind is Kind.DONE:
            self._finish_steps(dict.fromkeys(lanes))
        elif kind is Kind.ENDED:
            infos = json.loads(payload)
            self._finish_steps({lane: infos.get(str(lane)) for lane in lanes})
        elif kind is Kind.VALUE:
            self._finish(value_of(payload))
        elif kind is Kind.BROKEN:
            self._mend(w, flight, **value_of(payload))
        else:
            self._finish(dict.fromkeys(lanes, AttributeError(payload.decode())))

    def _finish_steps(self, infos: dict[int, Any]) -> None:
        for lane, info in infos.items():
            self.resets[lane] = info is not None
            if self._failed_resets:
                self._failed_resets.pop(lane, None)
        self._finish(infos)

    def _finish(self, answers: dict[int, Any]) -> None:
        self.finished.update(answers)
        self.under_way -= len(answers)

    # Faults

    def _mend(self, w: int, flight: _Flight, values: dict[int, Any], faults: dict[int, bytes]) -> None:
        """Asks the envs that failed again, which builds them anew; the others' answers are kept."""
        calls = flight.work.calls
        if calls is None:
            self._finish_steps(values)
        else:
            self._finish(values)
        for lane, description in faults.items():
            fault = fault_of(description)
            if calls is not None and calls[lane][0] != "reset":  # neither a replay nor an attribute gets better by it
                raise fault
            self._take_note(lane, fault)
        self._ask_again(w, list(faults), flight.work)

    def _take_note(self, lane: int, fault: EnvFault) -> None:
        """Spends a fault; raises it where the lane fails to begin an episode time and again."""
        self._spend(fault)
        if self.resets[lane]:
            times = self._failed_resets[lane] = self._failed_resets.get(lane, 0) + 1
            if times >= MOST_IN_A_ROW:
                raise give_up(fault, times)
        self.resets[lane] = True

    def _replace(self, w: int, fault: EnvFault | None) -> None:
        """Puts a new process in the place of a worker and asks it for what the old one has not answered.

        Args:
            w: the worker.
            fault: what it did; None: it died.
        """
        worker, flights = self.workers[w], self._flights[w]
        lane = self._at_work(w)[0] if flights else worker.env_ids[0]
        process = self._process_of(lane)
        self._poll.unregister(worker.sock)
        del self._worker_at[worker.sock.fileno()]
        self._flights[w], self._deadline[w] = deque(), math.inf
        how = self._pool.reap(worker)
        if fault is None:
            episode, step = self._blocks.progress[lane].tolist()
            fault = EnvFault(f"env {lane} ({process}) {how} at episode {episode} step {step}", lane, step)
        self._take_note(lane, fault)
        try:
            self.workers[w] = self._hired(w, worker.env_ids)
        except EnvFault as e:  # such as that the fork server is gone too
            fault.add_note(f"It could not be replaced: {e}")
            raise fault from None
        for flight in flights:
            if flight.work is not _BUILD:
                self._ask_again(w, flight.lanes, flight.work)

    def _hired(self, w: int, lanes: list[int]) -> Worker:
        sent_s = time.monotonic()
        worker = self._pool.spawn(lanes, self._setup_of(lanes))
        self._worker_at[worker.sock.fileno()] = w
        self._poll.register(worker.sock, select.POLLIN)
        for lane in lanes:
            self.resets[lane] = True
        self._expect(w, _Flight(lanes, sent_s, self.reset_limit, _BUILD))
        return worker

    def _ask_again(self, w: int, lanes: list[int], work: Work) -> None:
        if work.calls is None:  # the row may have been half written
            self._blocks.clear(work.slot, np.array(lanes))
        self._post(w, lanes, work, self.reset_limit)

    # Deadlines

    def _set_deadline(self, w: int, since_s: float) -> None:
        """Limits the first lane of what the worker now does; the limits of further lanes begin with their steps.

        A limit that depends on measured times is looked up once its least value is over: it costs a step nothing.
        """
        flight = self._flights[w][0]
        if flight.limit is not None:
            limit_s = flight.limit[0]
        elif self.resets[flight.lanes[0]]:
            limit_s = self.reset_timeout_s
        else:
            limit_s = self.step_timeout_s or _LEAST_S
        self._since[w] = since_s
        deadline = self._deadline[w] = since_s + limit_s
        self._next_deadline = min(self._next_deadline, deadline)

    def _limit_of(self, flight: _Flight, lane: int) -> Limit:
        return flight.limit or (self.reset_limit if self.resets[lane] else self.step_limit)

    def _check_deadlines(self) -> None:
        # This process may itself have been stopped or busy, perhaps together with its workers: then these get a moment.
        overslept = time.monotonic() - self._next_deadline > _OVERSLEPT_S
        late = [w for w in range(len(self.workers)) if self._is_late(w)]
        if late:  # what has answered by now is not
            lane, _ = self._at_work(late[0])
            limit_s, _ = self._limit_of(self._flights[late[0]][0], lane)
            self._receive_ready(min(_OVERTIME_S, limit_s) if overslept else 0.0)
            for w in late:
                if self._is_late(w):
                    self._replace(w, self._overdue(w))
        self._next_deadline = min(self._deadline)

    def _is_late(self, w: int) -> bool:
        """Whether the lane that the worker is at has had its time; moves the deadline on if another lane's runs."""
        now = time.monotonic()
        if self._deadline[w] <= now:
            lane, since_s = self._at_work(w)
            start_s = self._since[w] if since_s is None else since_s
            self._deadline[w] = start_s + self._limit_of(self._flights[w][0], lane)[0]
        return self._deadline[w] <= now

    def _at_work(self, w: int) -> tuple[int, float | None]:
        """Returns the lane that the worker is at and since when; None: it has not taken up the message yet."""
        flight = self._flights[w][0]
        began = self._blocks.began[flight.lanes]
        newest = int(began.argmax())
        if began[newest] < flight.sent_s:
            return flight.lanes[0], None
        return flight.lanes[newest], float(began[newest])

    def _overdue(self, w: int) -> EnvFault:
        lane, _ = self._at_work(w)
        limit = self._limit_of(self._flights[w][0], lane)
        episode, step = self._blocks.progress[lane].tolist()
        return EnvFault(
            f"env {lane} ({self._process_of(lane)}) has not answered for {limit[0]:g} s at episode {episode} step "
            f"{step}; mend the env, or raise {limit[1]} if it is only slow",
            lane,
            step,
        )

    def _process_of(self, lane: int) -> str:
        worker = self.workers[self._worker_of[lane]]
        others = [str(i) for i in worker.env_ids if i != lane]
        also = f", which also runs env{'s' if len(others) > 1 else ''} {', '.join(others)}" if others else ""
        return f"pid {worker.pid}{also}"
