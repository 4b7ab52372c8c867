"""Slow obvious twins of the replay: counter envs whose rows say what they are, and one list of rows per lane."""

import numpy as np

from nervex.data.replay import Replay

DEFAULTS = {
    "meta_maxlen": 100,
    "max_reuse": float("inf"),
    "min_sample_ratio": 1.0,
    "unroll_len": 1,
    "sampler": "uniform",
    "alpha": 0.6,
    "beta": 0.4,
    "anneal_step": 100,
}
ENDS = ("terminated", "truncated")


def make_replay(lane_num, window, seed=0, **cfg):
    return Replay({**DEFAULTS, **cfg}, lane_num, window, seed)


def reward_of(lane, episode, step):
    """A reward that tells where it was given; exact in float32."""
    return float(1 + lane * 10_000 + episode * 100 + step)


class Stream:
    """Rows of one lane without end, with next-step autoreset; the observation is (lane, episode, step).

    Args:
        lane: number of the lane.
        plan: (length, kind of end) of the episodes, repeated.
    """

    def __init__(self, lane, plan):
        self.lane, self.plan = lane, plan
        self.episode = self.step = 0

    def length(self, episode):
        return self.plan[episode % len(self.plan)][0]

    def next_row(self):
        length, kind = self.plan[self.episode % len(self.plan)]
        episode, step = self.episode, self.step
        dummy = step == length
        ended = step == length - 1
        self.episode, self.step = (episode + 1, 0) if dummy else (episode, step + 1)
        return {
            "obs": (self.lane, episode, step),
            "reward": 0.0 if dummy else reward_of(self.lane, episode, step),
            "terminated": ended and kind == "terminated",
            "truncated": ended and kind == "truncated",
            "valid": not dummy,
        }

    def restart(self):
        """Begins a new episode somewhere in the middle, as an actor that was restarted does."""
        self.episode, self.step = self.episode + 1, 0


class LaneTwin:
    """Every row that one lane ever stored."""

    def __init__(self, ring_len):
        self.ring_len = ring_len
        self.rows = []
        self.gap_next = True

    def add(self, row):
        self.rows.append({**row, "gap": self.gap_next})
        self.gap_next = False

    def held(self):
        return range(max(0, len(self.rows) - self.ring_len), len(self.rows))

    def steps(self, r, nstep):
        """Rows of the window that begins at row ``r``, or None when it cannot be sampled."""
        if r not in self.held() or not self.rows[r]["valid"]:
            return None
        for k in range(1, nstep + 1):
            if r + k >= len(self.rows) or self.rows[r + k]["gap"]:
                return None
            if self.rows[r + k - 1]["terminated"] or self.rows[r + k - 1]["truncated"]:
                return k
        return nstep

    def sample(self, r, nstep, gamma):
        """What a batch must hold for the window that begins at row ``r``."""
        k = self.steps(r, nstep)
        lane, episode, step = self.rows[r]["obs"]
        last = self.rows[r + k - 1]
        return {
            "obs": (lane, episode, step),
            "next_obs": (lane, episode, step + k),
            "reward": [reward_of(lane, episode, step + i) if i < k else 0.0 for i in range(nstep)],
            "done": last["terminated"],
            "terminated": last["terminated"],
            "truncated": last["truncated"],
            "value_gamma": np.float32(gamma**k),
        }


class Feeder:
    """Pushes the rows of counter envs into a replay and into twins of its lanes."""

    def __init__(self, replay, plans):
        self.replay = replay
        self.streams = [Stream(lane, plan) for lane, plan in enumerate(plans)]
        self.twins = [LaneTwin(replay.storage.ring_len) for _ in plans]
        self.cleared = 0  # names of forgotten rows are not given again

    def push(self, lanes, row_num, length=None):
        """Pushes ``row_num`` rows of the lanes; with ``length``, so many of each and padding after them."""
        taken = [row_num] * len(lanes) if length is None else list(length)
        columns = {
            "obs": {"place": np.full((row_num, len(lanes), 3), np.nan, np.float32)},
            "reward": np.full((row_num, len(lanes)), np.nan, np.float32),
            **{k: np.zeros((row_num, len(lanes)), bool) for k in ("terminated", "truncated", "valid")},
        }
        for b, lane in enumerate(lanes):
            for t in range(taken[b]):
                row = self.streams[lane].next_row()
                self.twins[lane].add(row)
                columns["obs"]["place"][t, b] = row["obs"]
                for key in ("reward", "terminated", "truncated", "valid"):
                    columns[key][t, b] = row[key]
        self.replay.push_data(columns, np.array(lanes, np.int64), None if length is None else np.array(length))

    def restart(self, lanes):
        self.replay.mark_gap(np.array(lanes, np.int64))
        for lane in lanes:
            self.twins[lane].gap_next = True
            self.streams[lane].restart()

    def clear(self):
        self.replay.clear()
        self.cleared += max(len(twin.rows) for twin in self.twins)
        self.twins = [LaneTwin(self.replay.storage.ring_len) for _ in self.streams]

    def row_id(self, lane, r):
        return (self.cleared + r) * len(self.streams) + lane

    def expected(self, nstep, gamma):
        """Row id -> sample, of every row that can be sampled."""
        return {
            self.row_id(lane, r): twin.sample(r, nstep, gamma)
            for lane, twin in enumerate(self.twins)
            for r in twin.held()
            if twin.steps(r, nstep) is not None
        }

    def held_valid(self):
        return sum(twin.rows[r]["valid"] for twin in self.twins for r in twin.held())

    def unwritten(self):
        """Slots that hold no row."""
        lane_num, size = len(self.twins), self.replay.storage.ring_len
        return [r * lane_num + b for b, twin in enumerate(self.twins) for r in range(len(twin.rows), size)]


def poison(storage, slots):
    """Makes slots look like rows full of nonsense."""
    for column in storage.column.values():
        column[slots] = np.nan if column.dtype.kind == "f" else True
    storage.gap[slots] = False


def unpoison(storage, slots):
    """Takes back what the storage itself relies on."""
    if storage.column:
        storage.column["valid"][slots] = False


def rows_of_batch(batch):
    """Splits a batch of n-step windows into dicts like those of ``LaneTwin.sample``, by row id."""
    rows = []
    for i, index in enumerate(batch["index"].tolist()):
        row = {
            "obs": tuple(batch["obs"]["place"][i].tolist()),
            "next_obs": tuple(batch["next_obs"]["place"][i].tolist()),
            "reward": batch["reward"][i].tolist(),
            "value_gamma": np.float32(batch["value_gamma"][i]),
            **{k: bool(batch[k][i]) for k in ("done", "terminated", "truncated")},
        }
        rows.append((index, row))
    return rows


def chi_square(counts, probabilities):
    """Whether draws fit their probabilities, but for one chance in ten thousand (Wilson and Hilferty 1931)."""
    counts, probabilities = np.asarray(counts, float), np.asarray(probabilities, float)
    expected = counts.sum() * probabilities
    df = len(counts) - 1
    limit = df * (1 - 2 / (9 * df) + 3.719 * np.sqrt(2 / (9 * df))) ** 3
    return float(((counts - expected) ** 2 / expected).sum()) < limit
