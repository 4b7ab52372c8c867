"""Batches that a thread makes ready on a device, in order, while the current one is used."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from nervex.torch_utils.device import to_device
from nervex.torch_utils.nested import map_nested


class AheadCopy:
    """Copies of nested tensors to a device that may still be under way when the host goes on.

    To a GPU they go from pinned memory on a stream of its own, and a reader's stream waits for them. Elsewhere a copy
    is done when it is made.

    Args:
        device: where they go.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self._stream: Any = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def send(self, batch: Any) -> tuple[Any, Any]:
        """Returns ``(batch, copied)``: the batch on the device, and what :meth:`receive` needs of it."""
        if self._stream is None:
            return (batch if self.device.type == "cpu" else to_device(batch, self.device)), None
        with torch.cuda.stream(self._stream):
            pinned = map_nested(lambda x: x.pin_memory() if isinstance(x, Tensor) and not x.is_cuda else x, batch)
            moved = to_device(pinned, self.device)
            event = torch.cuda.Event()
            event.record(self._stream)
        return moved, (event, pinned)  # pinned memory must stay until it was copied

    def receive(self, sent: tuple[Any, Any]) -> Any:
        """Returns the batch, which whatever the present stream does next may read."""
        batch, copied = sent
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied[0])
            map_nested(lambda x: x.record_stream(stream) if isinstance(x, Tensor) else None, batch)
        return batch


class CudaFetcher:
    """Takes batches from a source with a thread and copies them to a device ahead of their use, in order.

    At most ``queue_size`` batches are ready, and one more is in the thread's hands. An error of the source is raised
    where its batch would have come. On a CPU it is a prefetcher.

        with CudaFetcher(source, "cuda") as fetcher:
            for batch in fetcher:
                ...

    Args:
        source: batches: nested containers of tensors, numbers, strings.
        device: where they go.
        queue_size: batches ready at most, at least 1.
        sleep: seconds between two looks at whether it was closed, while the queue is full.
        timeout_s: longest wait for a batch.

    Raises:
        ValueError: ``queue_size`` or ``sleep`` is too small.
    """

    def __init__(
        self,
        source: Iterable[Any],
        device: str | torch.device = "cuda",
        queue_size: int = 4,
        sleep: float = 0.1,
        timeout_s: float = 600.0,
    ) -> None:
        if queue_size < 1 or not sleep > 0:
            raise ValueError(
                f"CudaFetcher got queue_size {queue_size} and sleep {sleep}; expected at least 1, and above 0"
            )
        self._source = source
        self._copy = AheadCopy(device)
        self._sleep = sleep
        self._timeout_s = timeout_s
        self._queue: queue.Queue[Any] = queue.Queue(queue_size)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = False

    def run(self) -> None:
        """Starts the thread, which the first use would do otherwise."""
        if self._closed.is_set():
            raise RuntimeError("this CudaFetcher was closed; make a new one")
        if self._thread is None:
            self._thread = threading.Thread(target=self._produce, name="nervex-fetcher", daemon=True)
            self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Returns the next batch on the device.

        Raises:
            TimeoutError: the source has given none for ``timeout_s``.
        """
        if self._ended:
            raise StopIteration
        self.run()
        try:
            kind, value = self._queue.get(timeout=self._timeout_s)
        except queue.Empty:
            raise TimeoutError(
                f"CudaFetcher waited {self._timeout_s:g} s for a batch from {type(self._source).__name__}; see why the "
                "source hangs, or give a longer timeout_s"
            ) from None
        if kind == "batch":
            return self._copy.receive(value)
        self._ended = True
        if value is not None:
            raise value
        raise StopIteration

    def close(self) -> None:
        """Ends the thread once the source has given the batch that it is at; what is ready is dropped."""
        self._closed.set()
        self._ended = True
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._queue = queue.Queue(1)  # lets go of what was ready

    def __enter__(self) -> "CudaFetcher":
        self.run()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _produce(self) -> None:
        try:
            for batch in self._source:
                if not self._put(("batch", self._copy.send(batch))):
                    return
        except BaseException as e:  # raised again by the thread that asks for the batch
            self._put(("end", e))
        else:
            self._put(("end", None))

    def _put(self, entry: tuple[str, Any]) -> bool:
        """Returns whether there was room before the end."""
        while not self._closed.is_set():
            try:
                self._queue.put(entry, timeout=self._sleep)
            except queue.Full:
                continue
            return True
        return False
