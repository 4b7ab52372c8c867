"""Transitions, episodes, sequences and streams of episodes whose numbers tell where they belong."""

import numpy as np
import pytest
import torch
from data.offline.episodes_tool import LENGTHS, TERMINATED, columns, parts, write
from torch.utils.data import DataLoader

from nervex.data.offline import (
    EpisodeDataset,
    SequenceDataset,
    TransitionDataset,
    TransitionStream,
    best_episodes,
    collate,
    open_dataset,
)
from nervex.utils.errors import DatasetError

TOTAL = sum(LENGTHS)
ROWS = [(number, step) for number, length in enumerate(LENGTHS) for step in range(length)]


@pytest.fixture(params=[write, parts], ids=["one file", "four files"])
def data(request, tmp_path):
    return request.param(tmp_path / "set")


def check_rows(batch, rows):
    """A batch holds just these (episode, step)."""
    number, step = (torch.tensor(x) for x in zip(*rows, strict=True))
    assert batch["obs"].flatten().tolist() == (100 * number + step).tolist()
    assert batch["next_obs"].flatten().tolist() == (100 * number + step + 1).tolist()  # also after the last step
    assert batch["action"].tolist() == step.tolist()
    assert batch["reward"].tolist() == (number + 1).tolist() and batch["reward"].dtype == torch.float32
    last = [s == LENGTHS[n] - 1 for n, s in rows]
    assert batch["terminated"].tolist() == [end and TERMINATED[n] for end, (n, _) in zip(last, rows, strict=True)]
    assert batch["truncated"].tolist() == [end and not TERMINATED[n] for end, (n, _) in zip(last, rows, strict=True)]


def test_transitions(data):
    dataset = TransitionDataset(data)
    assert len(dataset) == TOTAL
    check_rows(dataset.__getitems__(range(TOTAL)), ROWS)
    order = np.random.default_rng(0).permutation(TOTAL)
    check_rows(dataset.__getitems__(order), [ROWS[i] for i in order])
    assert dataset[4]["obs"].item() == 101 and dataset[-1]["truncated"]
    with pytest.raises(IndexError):
        dataset[TOTAL]


def test_transitions_of_chosen_episodes(data):
    dataset = TransitionDataset(data, np.array([0, 3]))
    check_rows(dataset.__getitems__(range(len(dataset))), [row for row in ROWS if row[0] in (0, 3)])


def test_in_torchs_own_loader(data):
    loader = DataLoader(TransitionDataset(data), batch_size=5, collate_fn=collate)
    found = list(loader)
    assert [len(batch["reward"]) for batch in found] == [5, 5, 3]
    check_rows({k: torch.cat([b[k] for b in found]) for k in found[0]}, ROWS)


def test_the_best_episodes(data):
    # returns 3, 10, 3, 16
    assert best_episodes(data, 0.5).tolist() == [1, 3] and best_episodes(data, 0.01).tolist() == [3]
    assert best_episodes(data, 0.75).tolist() == [0, 1, 3]  # of equal ones the first
    assert best_episodes(data, 1.0).tolist() == [0, 1, 2, 3]
    with pytest.raises(DatasetError, match="fraction of episodes is 0; expected above 0"):
        best_episodes(data, 0)


def test_episodes_are_padded(data):
    dataset = EpisodeDataset(data)
    batch = next(iter(DataLoader(dataset, batch_size=4, collate_fn=collate)))
    assert batch["obs"].shape == (6, 4, 1) and batch["valid"].sum(0).tolist() == list(LENGTHS)
    assert batch["obs"][:, 1, 0].tolist() == [100, 101, 102, 103, 104, 105]
    assert batch["obs"][:, 2, 0].tolist() == [200, 201, 0, 0, 0, 0] and batch["action"][:, 0].tolist() == [
        0,
        1,
        2,
        0,
        0,
    ]
    assert len(EpisodeDataset(data, np.array([2]))) == 1


class TestSequences:
    def test_windows_stay_in_episodes_and_cover_them(self, data):
        dataset = SequenceDataset(data, length=2)
        batch = dataset.__getitems__(range(len(dataset)))
        # 3 steps: from 0 and 1; 5: 0, 2, 3; 1: 0 (filled up); 4: 0, 2
        assert batch["obs"].squeeze(-1).T.tolist() == [
            [0, 1], [1, 2], [100, 101], [102, 103], [103, 104], [200, 0], [300, 301], [302, 303]
        ]  # fmt: skip
        assert batch["next_obs"][1].flatten().tolist() == [2, 3, 102, 104, 105, 0, 302, 304]
        assert batch["valid"].T.tolist() == [[True, True]] * 5 + [[True, False]] + [[True, True]] * 2
        assert batch["begin"][0].tolist() == [True, False, True, False, False, True, True, False]
        assert batch["terminated"].T.tolist()[1] == [False, True] and not batch["terminated"][1, 5]

    def test_one_window(self, data):
        window = SequenceDataset(data, length=4, stride=1)[1]
        assert window["obs"].flatten().tolist() == [100, 101, 102, 103] and window["valid"].all()

    def test_every_step_of_every_length_and_stride(self, data):
        for length in (1, 2, 3, 5, 8):
            for stride in (1, 2, length):
                dataset = SequenceDataset(data, length, min(stride, length))
                batch = dataset.__getitems__(range(len(dataset)))
                seen = batch["obs"][batch["valid"]].flatten().unique().tolist()
                assert seen == [100 * n + s for n, s in ROWS]
                episode = (batch["obs"].squeeze(-1) // 100).masked_fill(~batch["valid"], -1)
                assert ((episode == episode[0]) | ~batch["valid"]).all()

    def test_in_torchs_own_loader(self, data):
        loader = DataLoader(SequenceDataset(data, 2), batch_size=3, collate_fn=collate)
        assert [batch["reward"].shape for batch in loader] == [(2, 3), (2, 3), (2, 2)]

    def test_refusals(self, data):
        with pytest.raises(DatasetError, match="a window of 0 steps every 1; expected at least 1"):
            SequenceDataset(data, 0, 1)


class TestStream:
    def test_in_order(self, data):
        found = list(TransitionStream(data, batch_size=3, shard_size=5))
        assert [len(batch["reward"]) for batch in found] == [3, 2, 3, 2, 3]
        check_rows({k: torch.cat([b[k] for b in found]) for k in found[0]}, ROWS)

    def test_mixed_each_once_and_another_order_each_pass(self, data):
        stream = TransitionStream(data, batch_size=3, shard_size=5, seed=1)
        passes = []
        for epoch in (0, 1, 0):
            stream.set_epoch(epoch)
            passes.append(torch.cat([batch["obs"] for batch in stream]).flatten().tolist())
        assert all(sorted(each) == [100 * n + s for n, s in ROWS] for each in passes)
        assert passes[0] == passes[2] != passes[1] and passes[0] != sorted(passes[0])

    @pytest.mark.parametrize("workers", [1, 2, 3, 7])
    def test_workers_share_it_without_duplicates(self, data, workers, monkeypatch):
        stream = TransitionStream(data, batch_size=2, shard_size=2, seed=3)
        found = []
        for number in range(workers):
            info = type("Info", (), {"id": number, "num_workers": workers})
            monkeypatch.setattr("nervex.data.offline.stream.get_worker_info", lambda info=info: info)
            found += [batch["obs"].flatten().tolist() for batch in stream]
        assert sorted(x for batch in found for x in batch) == [100 * n + s for n, s in ROWS]

    def test_refusals(self, data):
        with pytest.raises(DatasetError, match="batch_size is 4 and shard_size 3"):
            TransitionStream(data, 4, 3)


def test_samples_that_are_no_batch_are_stacked(data):
    dataset = TransitionDataset(data)
    batch = collate([dataset[0], dataset[4]])
    assert batch["obs"].flatten().tolist() == [0, 101]


def test_floating_numbers_are_float32(tmp_path):
    from nervex.data.offline import dataset_writer

    with dataset_writer(tmp_path / "set") as writer:
        wide = columns(0, 3)
        writer.add({**wide, "obs": wide["obs"].astype(np.float64), "reward": np.arange(3)}, True)
    batch = TransitionDataset(open_dataset(tmp_path / "set")).__getitems__([0, 1])
    assert batch["obs"].dtype == batch["next_obs"].dtype == batch["reward"].dtype == torch.float32
