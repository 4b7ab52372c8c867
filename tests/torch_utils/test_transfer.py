"""The prefetcher: order, bound, errors, ends."""

import threading

import pytest
import torch

from nervex.torch_utils import CudaFetcher
from nervex.torch_utils.transfer import AheadCopy


def test_batches_come_in_order_and_end():
    source = [{"x": torch.full((2,), float(i)), "name": str(i), "n": i} for i in range(9)]
    with CudaFetcher(source, "cpu", queue_size=2) as fetcher:
        found = list(fetcher)
        assert [b["n"] for b in found] == list(range(9)) and [b["x"][0].item() for b in found] == list(range(9))
        with pytest.raises(StopIteration):
            next(fetcher)


def test_they_go_to_the_device():
    fetcher = CudaFetcher([[torch.ones(2)]], "meta")
    assert next(fetcher)[0].is_meta  # the meta device is one that every machine has
    fetcher.close()


def test_never_more_ahead_than_the_bound():
    taken, full = [], threading.Event()

    def source():
        for i in range(100):
            taken.append(i)
            if len(taken) == 4:  # two in the queue, one that waits for room, one that is asked for first
                full.set()
            yield torch.tensor(i)

    fetcher = CudaFetcher(source(), "cpu", queue_size=2, sleep=0.01)
    assert next(fetcher).item() == 0 and full.wait(30)
    for i in range(1, 20):
        assert next(fetcher).item() == i
        assert len(taken) <= i + 1 + 3
    fetcher.close()
    assert fetcher._thread is None and len(taken) < 30


def test_an_error_of_the_source_comes_where_its_batch_would_have():
    def source():
        yield torch.tensor(0)
        raise OSError("no such disk")

    with CudaFetcher(source(), "cpu") as fetcher:
        assert next(fetcher).item() == 0
        with pytest.raises(OSError, match="no such disk"):
            next(fetcher)
        with pytest.raises(StopIteration):
            next(fetcher)


def test_close_ends_the_thread_of_an_endless_source():
    before = threading.active_count()
    with CudaFetcher(iter(lambda: torch.ones(1), None), "cpu", queue_size=1, sleep=0.01) as fetcher:
        next(fetcher)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(fetcher)
    with pytest.raises(RuntimeError, match="was closed; make a new one"):
        fetcher.run()
    fetcher.close()


def test_a_source_that_hangs_is_named():
    stop = threading.Event()

    class Slow:
        def __iter__(self):
            stop.wait(30)
            return iter(())

    fetcher = CudaFetcher(Slow(), "cpu", timeout_s=0.05)
    with pytest.raises(TimeoutError, match=r"waited 0.05 s for a batch from Slow"):
        next(fetcher)
    stop.set()
    fetcher.close()


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"queue_size 0 and sleep 0\.1; expected at least 1, and above 0"):
        CudaFetcher([], "cpu", queue_size=0)
    with pytest.raises(ValueError, match="sleep 0;"):
        CudaFetcher([], "cpu", sleep=0)


def test_a_batch_that_is_on_the_cpu_is_not_copied():
    copy, batch = AheadCopy("cpu"), {"x": torch.ones(1)}
    assert copy.receive(copy.send(batch)) is batch


@pytest.mark.gpu
def test_copies_to_a_gpu_are_whole_when_they_are_received():
    source = [{"x": torch.full((1 << 20,), float(i))} for i in range(8)]
    with CudaFetcher(source, "cuda", queue_size=2) as fetcher:
        assert [b["x"].sum().item() / (1 << 20) for b in fetcher] == list(range(8))
