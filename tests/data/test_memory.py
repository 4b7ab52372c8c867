"""Codecs, budgets and places by configuration: what a replay is planned to take, and takes; the same batches always."""

import os

import numpy as np
import pytest
import torch

from nervex.data import lz4_store
from nervex.data.memory import BLOB_OVERHEAD_BYTES, StorageOptions, human_bytes, plan_memory
from nervex.data.replay import Replay
from nervex.data.window import NStepWindow, SequenceWindow
from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import ConfigError, MissingExtraError, SpecError

LANES = 2
WAYS = {
    "stacked": {"codec": {"obs/screen": "frame_stack"}},
    "auto": {},
    "lz4": {"lz4": True},
    "raw and lz4": {"codec": "raw", "lz4": True},
    "spilled": {"spill_dir": "here"},
    "raw and spilled": {"codec": "raw", "spill_dir": "here"},
}


def rows(rng, first, num, episode=23, screen=(4, 10, 12)):
    """Rows of images that move, with a dummy row after every episode."""
    steps = np.arange(first, first + num)
    frame = np.zeros((num + screen[0], LANES, *screen[1:]), np.uint8)
    for t in range(len(frame)):
        frame[t, :, (first + t) % 10, (first + t) // 10 % 12] = 1 + np.arange(LANES)
    stack = np.stack([frame[i : i + num] for i in range(screen[0])], 2)
    step = np.tile((steps % episode)[:, None], (1, LANES))
    young = np.arange(screen[0])[None, None] < screen[0] - 1 - step[..., None]
    stack[young] = 0
    return {
        "obs": {"screen": stack, "speed": rng.standard_normal((num, LANES, 5)).astype(np.float32)},
        "action": rng.integers(0, 5, (num, LANES)),
        "reward": rng.standard_normal((num, LANES)).astype(np.float32),
        "valid": step != episode - 1, "terminated": step == episode - 2, "truncated": np.zeros((num, LANES), bool),
        "episode_step": step, "prev_state": {"h": rng.standard_normal((num, LANES, 3)).astype(np.float32)},
    }  # fmt: skip


def made(window, way=None, tmp_path=None, seed=0, **cfg):
    cfg = {"meta_maxlen": 100, **({"codec": "raw"} if way is None else WAYS[way]), **cfg}
    if "spill_dir" in cfg:
        cfg["spill_dir"] = str(tmp_path)
    return Replay(cfg, LANES, window, seed)


def same(one, two):
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    return one.dtype == two.dtype and torch.equal(one, two)


def play(replay, first, pushes, rng):
    """Pushes and samples; returns the batches."""
    batches = []
    for _ in range(pushes):
        num = int(rng.integers(1, 9))
        lanes = np.arange(LANES) if rng.random() < 0.8 else np.arange(LANES)[::-1]
        replay.push_data(rows(rng, first, num), lanes, gap=rng.random(LANES) < 0.1)
        first += num
        batches.append(replay.sample(6))
    return first, [b for b in batches if b is not None]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "window", [NStepWindow(1, 0.9), NStepWindow(3, 0.9), SequenceWindow(5, 2)], ids=["1-step", "3-step", "sequence"]
)
def test_batches_are_the_same_however_columns_are_kept(way, window, tmp_path):
    """And after a checkpoint, too."""
    replays = [made(window), made(window, way, tmp_path)]
    rngs = [np.random.default_rng(1) for _ in replays]
    played = [play(replay, 0, 25, rng) for replay, rng in zip(replays, rngs, strict=True)]
    assert len(played[0][1]) > 20 and all(map(same, *(batches for _, batches in played)))
    kept = replays[1].storage.table
    assert ("obs/screen" in kept.packed) == (way != "raw and spilled")

    save_state(tmp_path / "state", replays[1].state_dict())
    restored = made(window, way, tmp_path, seed=5)
    play(restored, 7, 4, np.random.default_rng(2))  # what it held before must not matter
    restored.load_state_dict(load_state(tmp_path / "state")[0])
    again = [play(r, played[0][0], 25, rng) for r, rng in zip([replays[0], restored], rngs, strict=True)]
    assert len(again[0][1]) == 25 and all(map(same, *(batches for _, batches in again)))


def test_a_raw_checkpoint_goes_on_raw_and_says_no_to_another_codec(tmp_path):
    """As checkpoints of before there were codecs do."""
    window = NStepWindow(1, 0.9)
    old, new = made(window), made(window, "auto")
    first, _ = play(old, 0, 9, np.random.default_rng(0))
    state = old.state_dict()
    del state["storage"]["packed"], state["storage"]["pool"], state["storage"]["newest_version"]
    new.load_state_dict(state)
    assert not new.storage.table.packed
    rngs = [np.random.default_rng(1) for _ in range(2)]
    assert all(map(same, *(play(r, first, 9, rng)[1] for r, rng in zip((old, new), rngs, strict=True))))
    with pytest.raises(SpecError, match=r"has the packed columns \[\], this replay \['obs/screen'\]; resume with"):
        made(window, "stacked").load_state_dict(state)


@pytest.mark.parametrize("way", [None, "stacked", "spilled"])
def test_the_plan_is_what_is_taken(way, tmp_path):
    replay = made(NStepWindow(1, 0.9), way, tmp_path)
    block = rows(np.random.default_rng(0), 0, 3)
    plan = replay.plan_memory(block)
    replay.push_data(block, np.arange(LANES))
    assert plan.memory_bytes + plan.disk_bytes == replay.storage.nbytes
    assert (plan.disk_bytes > 0) == (way == "spilled") and plan.lz4_bytes == 0
    assert list(plan.column) == replay.storage.names


def atari(lanes=8, rows=1_000_000, **options):
    columns = {
        "obs": np.empty((1, lanes, 4, 84, 84), np.uint8), "action": np.empty((1, lanes), np.int64),
        "reward": np.empty((1, lanes), np.float32), "policy_version": np.empty((1, lanes), np.int64),
        **{k: np.empty((1, lanes), bool) for k in ("valid", "terminated", "truncated")},
        **{k: np.empty((1, lanes), np.int32) for k in ("lane_id", "episode_id", "episode_step")},
    }  # fmt: skip
    return plan_memory(StorageOptions(**options), columns, rows, lanes)


def test_a_million_atari_transitions():
    gib = 2**30
    assert atari().memory_bytes > 26 * gib
    plan = atari(codec="auto")
    assert plan.column["obs"].codec == "frame_stack" and 6.5 * gib < plan.memory_bytes < 7 * gib
    packed = atari(codec="auto", lz4=True)
    assert packed.memory_bytes < 0.15 * gib and packed.lz4_bytes == plan.column["obs"].nbytes
    assert packed.column["obs"].index_bytes > 1_000_000 * (BLOB_OVERHEAD_BYTES + 16)
    spilled = atari(codec="auto", spill_dir="/anywhere")
    assert spilled.memory_bytes < 0.1 * gib and 6.5 * gib < spilled.disk_bytes < 7 * gib


def test_the_plan_in_words():
    text = atari(codec="auto", max_bytes=8 * 2**30).text()
    assert text.startswith("replay 1,000,000 rows: 6.7 GiB of memory (budget 8.0 GiB)\n")
    assert "  obs              uint8 [4, 84, 84]: 6.6 GiB (frame_stack)" in text.split("\n")
    assert "  reward           float32 []: 3.8 MiB" in text.split("\n")
    both = atari(codec="auto", lz4=True).text()
    assert "of memory + what LZ4 leaves of 6.6 GiB\n" in both and "(frame_stack, lz4)" in both
    assert " on disk" in atari(spill_dir="/anywhere").text().split("\n")[0]


@pytest.mark.parametrize(("number", "text"), [(12, "12 B"), (2048, "2.0 KiB"), (3 << 40, "3.0 TiB")])
def test_bytes_in_words(number, text):
    assert human_bytes(number) == text


def test_rows_beyond_the_budget_are_refused_before_they_come():
    plan = atari(max_bytes=8 * 2**30)
    with pytest.raises(
        ConfigError,
        match=r"meta_maxlen: 1,000,000 rows take 26.3 GiB \(28,\d+ B a row\), replay_buffer.max_bytes is 8.0 GiB; make "
        r"meta_maxlen at most 30\d,\d+ or max_bytes larger; or use codec: \{obs: frame_stack\} if 'obs' is a stack of "
        r"frames, lz4: true, spill_dir: DIRECTORY$",
    ):
        plan.check()
    atari(rows=plan.fitting_rows, max_bytes=8 * 2**30).check()
    atari(codec="auto", max_bytes=8 * 2**30).check()
    replay = made(NStepWindow(1, 0.9), max_bytes=1000)
    with pytest.raises(ConfigError, match=r"make meta_maxlen at most \d or max_bytes larger"):
        replay.push_data(rows(np.random.default_rng(0), 0, 3), np.arange(LANES))
    assert not replay.storage.column, "nothing was taken"


def noise(rng, num, shape=(4, 20, 20)):
    block = rows(rng, 0, num)
    block["obs"]["screen"] = rng.integers(0, 255, (num, LANES, *shape)).astype(np.uint8)
    return block


def test_what_does_not_compress_breaks_the_budget_early():
    """After 1,024 rows of 100,000, not when memory is full."""
    cfg = {"meta_maxlen": 100_000, "codec": {"obs/screen": "frame_stack"}, "lz4": True, "max_bytes": 30_000_000}
    replay = Replay(cfg, LANES, NStepWindow(1, 0.9))
    rng = np.random.default_rng(0)
    message = (
        r"max_bytes is 28.6 MiB, but at the size to which LZ4 compressed the first 1,\d+ rows, all 100,000 will take "
        r"\d+.\d MiB; make meta_maxlen at most \d+,\d+ or max_bytes larger"
    )
    frames = rng.integers(0, 255, (1300, LANES, 20, 20)).astype(np.uint8)
    with pytest.raises(ConfigError, match=message):
        for first in range(0, 1200, 30):
            block = rows(rng, first, 30, episode=10_000, screen=(4, 20, 20))
            block["obs"]["screen"] = np.stack([frames[first + i : first + i + 30] for i in range(4)], 2)
            replay.push_data(block, np.arange(LANES))
    assert 1024 <= replay.storage.head.sum() < 1100


@pytest.mark.parametrize("lz4", [False, True])
def test_what_only_looks_like_a_stack_is_kept_raw_by_auto(lz4):
    """Colors, say; found out after 1,024 rows, with nothing lost."""
    window = NStepWindow(1, 0.9)
    replay = Replay({"meta_maxlen": 2000, "lz4": lz4}, LANES, window)
    twin = Replay({"meta_maxlen": 2000, "codec": "raw"}, LANES, window)
    rng = np.random.default_rng(0)
    for i in range(30):
        block = noise(rng, 25)
        for r in (replay, twin):
            r.push_data(block, np.arange(LANES))
        packed = replay.storage.table.packed.get("obs/screen")
        assert (type(packed).__name__ if packed else None) == ("FrameStack" if i < 20 else "RowColumn" if lz4 else None)
        assert same(replay.sample(9), twin.sample(9))
    assert lz4 or replay.storage.nbytes == twin.storage.nbytes, "the frames were given back"


def test_a_codec_that_was_asked_for_and_serves_nothing_is_an_error():
    replay = Replay({"meta_maxlen": 2000, "codec": {"obs/screen": "frame_stack"}}, LANES, NStepWindow(1, 0.9))
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"frame_stack does not serve the column 'obs/screen': after 1,0\d\d rows, "):
        for _ in range(30):
            replay.push_data(noise(rng, 25), np.arange(LANES))


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        (
            {"obs/sreen": "frame_stack"},
            r"names the column 'obs/sreen', which the rows do not have; did you mean 'obs/s",
        ),
        ({"zzz": "raw"}, r"names the column 'zzz', which the rows do not have; they have \['action', "),
        ({"obs/speed": "frame_stack"}, r"cannot serve the column 'obs/speed' \(float32 \[5\]\); it takes stacks of at"),
        ({"prev_state/h": "frame_stack"}, r"'prev_state/h' \(float32 \[3\], kept for the first rows of samples only\)"),
    ],
)
def test_a_codec_on_a_column_that_it_cannot_serve(codec, message):
    replay = Replay({"meta_maxlen": 100, "codec": codec}, LANES, SequenceWindow(5, 2))
    with pytest.raises(ConfigError, match=message):
        replay.push_data(rows(np.random.default_rng(0), 0, 3), np.arange(LANES))


def test_words_that_are_no_codec():
    with pytest.raises(ConfigError, match=r"codec.*expected 'auto' or 'raw' or mapping"):
        Replay({"codec": "zip"}, LANES, NStepWindow(1, 0.9))
    with pytest.raises(ConfigError, match=r"codec.obs.*expected 'raw' or 'frame_stack'"):
        Replay({"codec": {"obs": "frames"}}, LANES, NStepWindow(1, 0.9))


def test_lz4_without_its_package(monkeypatch):
    monkeypatch.setattr(lz4_store, "lz4_block", None)
    replay = made(NStepWindow(1, 0.9), "lz4")
    with pytest.raises(MissingExtraError, match=r"lz4 is true, but the package lz4 is not installed; install it with"):
        replay.push_data(rows(np.random.default_rng(0), 0, 3), np.arange(LANES))


def test_a_spill_directory_that_cannot_be_used(tmp_path, monkeypatch):
    columns = rows(np.random.default_rng(0), 0, 3)
    replay = Replay({"spill_dir": str(tmp_path / "none")}, LANES, NStepWindow(1, 0.9))
    with pytest.raises(ConfigError, match=r"spill_dir '.*none' cannot take [\d,]+ bytes \(No such file or directory\)"):
        replay.push_data(columns, np.arange(LANES))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    replay = Replay({"spill_dir": str(tmp_path)}, LANES, NStepWindow(1, 0.9))
    with pytest.raises(ConfigError, match=r"\(No space left on device\); give a directory that exists, on a disk with"):
        replay.push_data(columns, np.arange(LANES))


def test_spilled_rows_leave_no_file_behind(tmp_path):
    replay = made(NStepWindow(1, 0.9), "spilled", tmp_path)
    replay.push_data(rows(np.random.default_rng(0), 0, 30), np.arange(LANES))
    assert isinstance(replay.storage.table.packed["obs/screen"].pool.store._part[0], np.memmap)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_not_written_while_someone_holds_it():
    """Memory of large batches is used again, but only of those that are gone."""
    replay = made(NStepWindow(1, 0.9), "stacked")
    replay.push_data(rows(np.random.default_rng(0), 0, 50), np.arange(LANES))
    held = [replay.sample(200)["obs"]["screen"] for _ in range(4)]
    copies = [x.clone() for x in held]
    assert held[0].nbytes >= 64 << 10
    places = set()
    for _ in range(6):
        batch = replay.sample(200)
        places.add(batch["next_obs"]["screen"].data_ptr())
        view = batch["obs"]["screen"][3:5]
        del batch
        kept = view.clone()
        replay.sample(200)
        assert torch.equal(view, kept), "a part of a batch holds all of it"
    assert all(map(torch.equal, held, copies))
    assert len(places) < 4
