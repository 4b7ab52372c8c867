"""Rollout buffer: every valid row once per pass, in minibatches of a fixed size; unrolls with what they need."""

import numpy as np
import pytest
import torch

from nervex.data.rollout_buffer import RolloutBuffer
from nervex.utils.errors import SpecError


def block(row_num, lane_num, first=0, invalid=()):
    """Rows whose ``id`` names time and lane, and whose observation is the id + 0.5."""
    ids = torch.arange(first, first + row_num)[:, None] * 100 + torch.arange(lane_num)
    valid = torch.ones(row_num, lane_num, dtype=torch.bool)
    step = torch.arange(row_num)[:, None].expand(row_num, lane_num).clone() + 1
    for row, lane in invalid:
        valid[row, lane] = False
        if row + 1 < row_num:
            step[row + 1 :, lane] = torch.arange(row_num - row - 1)
    return {
        "id": ids, "obs": {"x": ids + 0.5}, "valid": valid, "episode_step": step, "lane_id": ids % 100,
        "episode_id": ids, "policy_version": ids,
    }  # fmt: skip


def last_obs(row_num, lane_num, first=0):
    return {"x": (first + row_num) * 100 + torch.arange(lane_num) + 0.5}


@pytest.mark.parametrize(("row_num", "lane_num", "size", "invalid"), [
    (8, 4, 8, ()), (8, 4, 8, ((2, 1), (5, 3))), (5, 3, 4, ((0, 0),)), (3, 1, 8, ()),
    (7, 2, 5, ((1, 0), (2, 1), (6, 0))),
])  # fmt: skip
def test_a_pass_holds_every_valid_row_once_in_batches_of_one_size(row_num, lane_num, size, invalid):
    rows = block(row_num, lane_num, invalid=invalid)
    buffer = RolloutBuffer(seed=1)
    buffer.push_data(rows)
    assert buffer.count == int(rows["valid"].sum())
    for _ in range(3):
        batches = list(buffer.batches(size, 1))
        assert all(len(b["id"]) == size and b["obs"]["x"].shape == (size,) for b in batches)
        seen = torch.cat([b["id"][b["valid"]] for b in batches])
        assert sorted(seen.tolist()) == sorted(rows["id"][rows["valid"]].tolist())
        for b in batches:
            assert (b["obs"]["x"] == b["id"] + 0.5).all()
            if b["weight"] is not None:
                assert (b["weight"] * b["id"]).mean() == pytest.approx(float(b["id"][b["valid"]].float().mean()))
            assert (b["weight"] is None) == bool(b["valid"].all())


def test_the_memory_of_a_block_may_be_written_again():
    rows = block(4, 2)
    buffer = RolloutBuffer()
    buffer.push_data(rows)
    rows["id"].zero_()
    assert torch.cat([b["id"] for b in buffer.batches(8, 1)]).sum() > 0


def test_passes_and_numbers_of_updates():
    buffer = RolloutBuffer()
    buffer.push_data(block(4, 2))
    assert len(list(buffer.batches(4, 3))) == 6
    assert len(list(buffer.batches(4, 1, update_num=5))) == 5
    orders = [b["id"].tolist() for b in buffer.batches(8, 4)]
    assert len({tuple(o) for o in orders}) == 4  # each pass has an order of its own


def test_same_seed_same_batches_also_after_a_restart():
    first, other = RolloutBuffer(seed=3), RolloutBuffer(seed=9)
    first.push_data(block(6, 2, invalid=((2, 0),)), last_obs(6, 2))
    list(first.batches(4, 1))
    other.load_state_dict(first.state_dict())
    assert other.count == first.count == 11
    for a, b in zip(first.batches(4, 2), other.batches(4, 2), strict=True):
        assert torch.equal(a["id"], b["id"]) and torch.equal(a["valid"], b["valid"])


def test_unrolls_hold_consecutive_rows_their_first_state_and_the_observation_after_them():
    rows = block(8, 3, invalid=((1, 0), (6, 2))) | {"prev_state": {"h": (torch.arange(8)[:, None] * 100.0
                                                                        + torch.arange(3))[..., None]}}  # fmt: skip
    buffer = RolloutBuffer(unroll_len=4, seed=0)
    buffer.push_data(rows, last_obs(8, 3))
    seen = []
    for batch in buffer.batches(8, 1):
        assert batch["id"].shape == (4, 2) and batch["prev_state"]["h"].shape == (2, 1)
        for i in range(2):
            first = int(batch["id"][0, i])
            assert batch["id"][:, i].tolist() == [first + 100 * k for k in range(4)]
            assert float(batch["prev_state"]["h"][i, 0]) == first
            assert float(batch["last_obs"]["x"][i]) == first + 400.5
            time, lane = divmod(first, 100)
            begins = [
                bool(rows["valid"][time + k, lane]) and rows["episode_step"][time + k, lane] == 0 for k in range(4)
            ]
            assert batch["begin"][:, i].tolist() == begins
            seen.append(first)
    assert sorted(seen) == [0, 1, 2, 400, 401, 402]


def test_begin_follows_the_dummy_row():
    buffer = RolloutBuffer(unroll_len=4)
    buffer.push_data(block(4, 1, invalid=((1, 0),)), last_obs(4, 1))
    (batch,) = buffer.batches(4, 1)
    assert batch["begin"][:, 0].tolist() == [False, False, True, False]
    assert batch["valid"][:, 0].tolist() == [True, False, True, True]


def test_episodes_that_do_not_fill_their_last_unroll_are_filled_up_and_keep_their_last_observation():
    buffer = RolloutBuffer(unroll_len=4)
    buffer.push_data(block(6, 2), last_obs(6, 2))
    (batch,) = buffer.batches(16, 1)
    by_first = {int(batch["id"][0, i]): i for i in range(4)}
    tail = by_first[401]
    assert batch["valid"][:, tail].tolist() == [True, True, False, False]
    assert float(batch["obs"]["x"][2, tail]) == 601.5  # the observation after the episode's last row


def test_too_few_unrolls_are_filled_up_with_invalid_ones():
    buffer = RolloutBuffer(unroll_len=2)
    buffer.push_data(block(2, 3), last_obs(2, 3))
    batches = list(buffer.batches(4, 1))
    assert [b["id"].shape for b in batches] == [(2, 2), (2, 2)]
    assert sum(int(b["valid"].sum()) for b in batches) == 6
    assert [b["weight"] is None for b in batches].count(False) == 1


def test_blocks_of_several_lengths_make_one_rollout():
    buffer = RolloutBuffer()
    buffer.push_data(block(3, 2))
    buffer.push_data(block(5, 1, first=10))
    assert buffer.count == 11
    assert sorted(np.concatenate([b["id"][b["valid"]].numpy() for b in buffer.batches(4, 1)]).tolist()) == sorted(
        [t * 100 + lane for t in range(3) for lane in range(2)] + [t * 100 for t in range(10, 15)]
    )


def test_other_columns_are_refused():
    buffer = RolloutBuffer()
    buffer.push_data(block(3, 2))
    with pytest.raises(SpecError, match="must return the same keys every time"):
        buffer.push_data({**block(3, 2), "more": torch.zeros(3, 2)})


def test_an_empty_rollout_gives_nothing():
    buffer = RolloutBuffer()
    rows = block(2, 1)
    rows["valid"][:] = False
    buffer.push_data(rows)
    assert list(buffer.batches(4, 1)) == []
