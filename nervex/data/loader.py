"""Batches made ready by threads while the current one is learned."""

import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from nervex.data.columns import stack
from nervex.data.draw import Draw
from nervex.data.replay import Replay
from nervex.torch_utils.transfer import AheadCopy
from nervex.utils.tree import tree_leaves

Source = Callable[[int], Any]


class AsyncDataLoader:
    """Gathers the next batches, and copies them to the device, while the current one is learned.

    Batches come in order, and there are never more than ``depth`` of them ahead. An error in a thread is raised where
    its batch would have come, with its traceback.

    **From a replay** the batches are exactly those that ``replay.sample`` would give: rows are chosen by the thread
    that asks, and whatever changes the replay (new rows, priorities, ``clear``) or asks for its state takes back
    what was chosen ahead, to choose it again afterwards. So a checkpoint may be made at any moment and holds no batch
    in flight. It pays where several batches are drawn between changes, as with ``policy.learn.train_step`` above 1 and
    sampler ``uniform``. With priorities, which rows come next depends on what the present batch taught: nothing is
    chosen ahead, and only the copy to the device is left to the loader.

    **From a function** ``data_source(batch_size)`` it takes what that returns: a batch (nested dict of tensors), None
    (no data; the iteration ends), or a list of items or of functions without arguments that give items, which
    ``num_workers`` threads call in chunks of ``chunk_size`` and ``collate_fn`` joins. The function is called up to
    ``depth`` batches before its batch is asked for, always by one thread.

    **From a data set** see :meth:`from_dataset`.

        with AsyncDataLoader(replay, 32, "cuda") as loader:
            for batch in loader.batches(train_step):
                learner.train(batch)

    Args:
        data_source: a replay or a function.
        batch_size: of every batch.
        device: where batches go. The copy to a GPU is made from pinned memory on a stream of its own.
        chunk_size: items that one thread makes at a time; None: as many as keep all threads at work.
        collate_fn: list of items to batch; None: stacks every leaf.
        num_workers: threads that make items; 0: the one that makes the batch.
        depth: batches made ahead, at least 1.
        timeout_s: longest wait for a batch.
        thread_bytes: batches of a replay that are smaller and stay on the CPU are gathered by the thread that asks,
            as many at once as take so many bytes together.
    """

    def __init__(
        self,
        data_source: Replay | Source,
        batch_size: int,
        device: str | torch.device = "cpu",
        chunk_size: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
        depth: int = 2,
        timeout_s: float = 600.0,
        thread_bytes: int = 256 << 10,
    ) -> None:
        if depth < 1 or batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"AsyncDataLoader got batch_size {batch_size}, depth {depth}, num_workers {num_workers}; expected at "
                "least 1, 1 and 0"
            )
        self._replay = data_source if isinstance(data_source, Replay) else None
        self._source = data_source
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._chunk_size = chunk_size
        self._collate = stack if collate_fn is None else collate_fn
        self._depth = depth
        self._timeout_s = timeout_s
        self._copy = AheadCopy(self._device)
        self._ahead: deque[tuple[Draw | None, Any]] = deque()  # what comes: a future, or a batch that is there
        self._thread = ThreadPoolExecutor(1, "nervex-loader")
        self._workers = ThreadPoolExecutor(num_workers, "nervex-loader-worker") if num_workers else None
        self._worker_num = max(num_workers, 1)
        self._thread_bytes = thread_bytes
        self._worth: bool | None = None
        self._batch_bytes = 0
        self._closed = False
        self._closing = threading.Event()
        self._direct = False  # the source is quick: small batches are made by the thread that asks

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset[Any],
        batch_sampler: Iterable[list[int]],
        device: str | torch.device = "cpu",
        collate_fn: Callable[[Any], Any] | None = None,
        num_workers: int = 0,
        depth: int = 2,
        timeout_s: float = 600.0,
    ) -> "AsyncDataLoader":
        """Returns a loader of the batches of a PyTorch data set, in the order of the sampler.

        ``torch.utils.data.DataLoader`` gathers and pins them, in processes of its own if there are to be any, which
        come from a fork server and open mapped files themselves.

        Args:
            dataset: map-style.
            batch_sampler: gives the indices of each batch; batches end when it does.
            device, collate_fn, timeout_s: as for the class; the function is given what ``__getitems__`` returns, or a
                list of samples.
            num_workers: processes that gather batches; 0: a thread, or, for small batches that stay on the CPU, the one
                that asks.
            depth: batches made ahead, by each process if there are any.
        """
        loader = DataLoader(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.device(device).type == "cuda",
            multiprocessing_context=_fork_server(dataset) if num_workers else None,
            prefetch_factor=depth if num_workers else None,
            generator=torch.Generator(),  # else it would draw from the one that the training draws from
        )
        batches = iter(loader)
        asynchronous = cls(lambda _: next(batches, None), 1, device, depth=depth, timeout_s=timeout_s)
        asynchronous._direct = not num_workers
        return asynchronous

    def batches(self, num: int, policy_version: int | None = None) -> Iterator[Any]:
        """Yields up to ``num`` batches, fewer when there are no data for more; afterwards nothing is in flight.

        Args:
            num: batches.
            policy_version: learner iteration of the first batch, one more for each further one; from which the
                replay's ``max_staleness`` counts.
        """
        self._check_open()
        given = 0
        try:
            while given < num:
                batch = self._next(num - given, None if policy_version is None else policy_version + given)
                if batch is None:
                    return
                given += 1
                yield batch
                del batch  # its memory may serve again
        finally:
            self._take_back()

    def __iter__(self) -> Iterator[Any]:
        """Yields batches until there are no data."""
        self._check_open()
        while (batch := self._next(self._depth + 1, None)) is not None:
            yield batch

    def __next__(self) -> Any:
        """Returns the next batch."""
        self._check_open()
        batch = self._next(self._depth + 1, None)
        if batch is None:
            raise StopIteration
        return batch

    def close(self) -> None:
        """Ends the threads, after what they are at; batches in flight are dropped (those of a replay taken back)."""
        if not self._closed:
            self._closed = True
            self._closing.set()
            self._take_back()
            self._thread.shutdown(cancel_futures=True)
            self._source = _nothing  # lets the processes of a data set end
            if self._workers is not None:
                self._workers.shutdown(cancel_futures=True)

    def __enter__(self) -> "AsyncDataLoader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _next(self, wanted: int, policy_version: int | None) -> Any:
        """Returns a batch, having others made ready, ``wanted`` of them with it at most; None: no data."""
        made = self._made_ahead()
        if made is None and self._replay is not None and wanted > 1 and self._worth is False:
            made = self._made_together(self._replay, wanted, policy_version)
        if made is None and self._replay is not None:
            draw = self._replay.draw(self._batch_size, policy_version)
            made = None if draw is None else self._copy.send(self._replay.fetch(draw))
        elif made is None:
            made = self._from_source() if self._direct else self._result(self._thread.submit(self._from_source))
        if made is None:
            return None
        batch = self._copy.receive(made)
        if self._reads_ahead(batch):
            self._ask(min(wanted - 1, self._depth), None if policy_version is None else policy_version + 1)
        return batch

    def _made_together(self, replay: Replay, wanted: int, policy_version: int | None) -> Any:
        """Makes small batches in one go, which costs little more than one of them; returns the first, or None."""
        num = min(wanted, self._thread_bytes // max(self._batch_bytes, 1))
        draws = replay.draw_together(self._batch_size, num, policy_version) if num > 1 else []
        if not draws:
            return None
        batches = replay.fetch_together(draws)
        self._ahead.extend((draw, (batch, None)) for draw, batch in zip(draws, batches, strict=True))
        return self._made_ahead()

    def _made_ahead(self) -> Any:
        """Returns the next batch if it was made ahead and is still right, else None."""
        while self._ahead:
            draw, coming = self._ahead[0]
            made = None if draw is not None and draw.taken_back else self._result(coming)
            self._ahead.popleft()
            if draw is None:
                return made
            if self._replay is not None and self._replay.received(draw):
                return made  # else the replay has changed, and all of them are to be drawn again
        return None

    def _result(self, future: Any) -> Any:
        if not isinstance(future, Future):
            return future
        try:
            return future.result(self._timeout_s)
        except TimeoutError as e:
            if future.done():
                raise
            raise TimeoutError(
                f"AsyncDataLoader waited {self._timeout_s:g} s for a batch of {self._batch_size} from "
                f"{type(self._source).__name__}; see why the data source hangs, or give a longer timeout_s"
            ) from e

    def _reads_ahead(self, batch: Any) -> bool:
        if self._replay is None:
            return not self._direct or self._pays(batch)
        return not self._replay.prioritized and self._pays(batch)

    def _pays(self, batch: Any) -> bool:
        """Whether a batch is worth a thread: handing over a small one costs more than gathering it."""
        if self._worth is None:
            self._batch_bytes = sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
            self._worth = self._device.type != "cpu" or self._batch_bytes >= self._thread_bytes
        return self._worth

    def _ask(self, num: int, policy_version: int | None) -> None:
        """Has batches made until ``num`` are under way."""
        while len(self._ahead) < num:
            if self._replay is None:
                self._ahead.append((None, self._thread.submit(self._from_source)))
                continue
            version = None if policy_version is None else policy_version + len(self._ahead)
            draw = self._replay.draw(self._batch_size, version, ahead=True)
            if draw is None:
                return
            self._ahead.append((draw, self._thread.submit(self._from_replay, self._replay, draw)))

    def _take_back(self) -> None:
        if self._replay is not None:
            self._replay.take_back()
            self._ahead.clear()

    def _from_replay(self, replay: Replay, draw: Draw) -> Any:
        return None if draw.taken_back else self._copy.send(replay.fetch(draw))

    def _from_source(self) -> Any:
        if self._closing.is_set():
            return None
        assert callable(self._source)
        data = self._source(self._batch_size)
        if isinstance(data, list):
            data = self._collate(self._made(data)) if data else None
        return None if data is None else self._copy.send(data)

    def _made(self, items: list[Any]) -> list[Any]:
        """Calls the items that are functions, in order."""
        if self._workers is None:
            return _call(items)
        size = self._chunk_size or -(-len(items) // self._worker_num)
        chunks = [items[i : i + size] for i in range(0, len(items), size)]
        return [item for chunk in self._workers.map(_call, chunks) for item in chunk]

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this AsyncDataLoader was closed; make a new one")


def _fork_server(dataset: Dataset[Any]) -> Any:
    """Returns what starts processes that come from a fork server, which has loaded what the data set needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([type(dataset).__module__])
    return context


def _nothing(batch_size: int) -> None:
    return None


def _call(items: list[Any]) -> list[Any]:
    return [item() if callable(item) else item for item in items]
