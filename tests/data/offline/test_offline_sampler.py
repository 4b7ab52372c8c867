"""The stream of batches: each sample once per pass, a place that is one number, the same with worker processes."""

import itertools

import pytest
import torch
from data.offline.episodes_tool import LENGTHS, columns, write

from nervex.data.loader import AsyncDataLoader
from nervex.data.offline import DatasetBatches, EpochSampler, FolderWriter, TransitionDataset, collate, open_dataset
from nervex.utils.errors import CheckpointError, DatasetError

TOTAL = sum(LENGTHS)


def taken(iterator, num):
    return list(itertools.islice(iterator, num))


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


class TestEpochs:
    def test_each_once_per_pass(self):
        batches = taken(iter(EpochSampler(12, 4, seed=1)), 6)
        first, second = flat(batches[:3]), flat(batches[3:])
        assert sorted(first) == sorted(second) == list(range(12)) and first != second

    def test_what_does_not_fill_a_batch_is_left_out(self):
        sampler = EpochSampler(13, 4, seed=1)
        assert sampler.batch_num == 3
        left = [set(range(13)) - set(flat(taken(iter(EpochSampler(13, 4, 1, 3 * k)), 3))) for k in range(40)]
        assert all(len(each) == 1 for each in left) and len(set.union(*left)) > 8  # others in each pass

    def test_a_place_is_one_number(self):
        whole = taken(iter(EpochSampler(13, 4, seed=5)), 20)
        for start in (0, 1, 7, 12):
            assert taken(iter(EpochSampler(13, 4, seed=5, start=start)), 20 - start) == whole[start:]
        assert taken(iter(EpochSampler(13, 4, seed=6)), 20) != whole

    @pytest.mark.parametrize("size", [0, 14])
    def test_refusals(self, size):
        with pytest.raises(DatasetError, match=rf"batch_size is {size}, and there are 13 transitions"):
            EpochSampler(13, size)


class TestBatches:
    def obs(self, batches, num):
        return [batch["obs"].flatten().tolist() for batch in batches.batches(num)]

    def test_it_goes_on_where_it_was(self, tmp_path):
        data = write(tmp_path / "set")
        whole = self.obs(DatasetBatches(data, 4, seed=2), 10)
        first = DatasetBatches(data, 4, seed=2)
        assert self.obs(first, 4) == whole[:4] and first.metrics() == {"epoch": 4 / 3}
        second = DatasetBatches(data, 4, seed=2)
        second.load_state_dict(first.state_dict())
        assert self.obs(second, 6) == whole[4:] == self.obs(first, 6)

    def test_other_data_are_refused(self, tmp_path):
        before = DatasetBatches(write(tmp_path / "set"), 4).state_dict()
        with FolderWriter(tmp_path / "set", append=True) as writer:
            writer.add(columns(4, 2), True)
        with pytest.raises(CheckpointError, match="begun with other data than"):
            DatasetBatches(open_dataset(tmp_path / "set"), 4).load_state_dict(before)

    def test_the_best_tenth(self, tmp_path):
        batches = DatasetBatches(write(tmp_path / "set"), 4, best_fraction=0.1)
        assert sorted(self.obs(batches, 1)[0]) == [300, 301, 302, 303]

    def test_a_thread_reads_ahead_where_batches_are_large(self, tmp_path):
        data = write(tmp_path / "set")
        expected = self.obs(DatasetBatches(data, 4, seed=2), 9)
        with AsyncDataLoader.from_dataset(
            TransitionDataset(data), EpochSampler(TOTAL, 4, seed=2), collate_fn=collate
        ) as loader:
            loader._thread_bytes = 0
            found = [next(loader)["obs"].flatten().tolist() for _ in range(9)]
            assert len(loader._ahead) == 2
        assert found == expected

    def test_batches_end_with_the_sampler(self, tmp_path):
        sampler = [[0, 1], [2, 3], [4]]
        dataset = TransitionDataset(write(tmp_path / "set"))
        with AsyncDataLoader.from_dataset(dataset, sampler, collate_fn=collate) as loader:
            assert [len(batch["reward"]) for batch in loader] == [2, 2, 1]

    def test_an_error_comes_where_its_batch_would(self, tmp_path):
        dataset = TransitionDataset(write(tmp_path / "set"))
        with AsyncDataLoader.from_dataset(dataset, [[0], [99], [1]], collate_fn=collate) as loader:
            assert len(next(loader)["reward"]) == 1
            with pytest.raises(IndexError):
                next(loader)

    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
    def test_worker_processes_give_the_same_in_order(self, tmp_path):
        data = write(tmp_path / "set")
        expected = self.obs(DatasetBatches(data, 4, seed=2), 12)
        batches = DatasetBatches(data, 4, seed=2, num_workers=2)
        try:
            assert self.obs(batches, 12) == expected
        finally:
            batches.close()

    @pytest.mark.gpu
    def test_copies_to_a_gpu(self, tmp_path):
        data = write(tmp_path / "set")
        expected = self.obs(DatasetBatches(data, 4, seed=2), 6)
        batches = DatasetBatches(data, 4, seed=2, device="cuda")
        found = list(batches.batches(6))
        assert all(batch["obs"].is_cuda for batch in found)
        assert [batch["obs"].flatten().tolist() for batch in found] == expected and torch.cuda.is_available()
