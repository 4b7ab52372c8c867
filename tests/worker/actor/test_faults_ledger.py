"""Faults of envs lose no transition, repeat none, and nothing that is learned from reaches over them."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from actor_envs import FaultySeededEnv, ends_truncated, length_of, long_label_of, reward_of
from actor_fakes import FakePolicy, seeds_of

from nervex.data.replay import Replay
from nervex.data.window import NStepWindow
from nervex.rl_utils.adder import Adder
from nervex.worker.actor.env_manager.env_runner import episode_seed
from nervex.worker.actor.env_manager.registry import create_env_manager
from nervex.worker.actor.serial_actor import BaseSerialActor

LANES, LONGEST, GAMMA, LAMBDA = 4, 12, 0.9, 0.8
SEEDS = seeds_of(LANES)
IN_PROCESS = ("raise", "nan", "shape", "dtype")
OF_A_PROCESS = ("kill", "hang", "stop", "exit")
MANAGERS = {
    "base": ("base", {}),
    "one each": ("sync_subprocess", {"worker_num": LANES}),
    "shared": ("sync_subprocess", {"worker_num": 2}),
    "asynchronous": ("subprocess", {"wait_num": 1}),
    "asynchronous shared": ("subprocess", {"wait_num": 2, "worker_num": 2}),
}


def length(seed):
    return length_of(seed, LONGEST)


def faults_of(kinds):
    """Faults in every lane: in the middle of an episode, in its first step, in its last one, in a reset."""
    faults = {}
    for lane, seed in enumerate(SEEDS):
        episodes = [episode_seed(seed, k) for k in range(1, 40)]
        long = [e for e in episodes if length(e) >= 5][:3]
        at = [3, 1, length(long[2])]
        for i, episode in enumerate(long):
            faults[episode] = (at[i], kinds[(lane + i) % len(kinds)])
        faults[next(e for e in episodes if e not in long)] = (0, kinds[lane % len(kinds)])
    return faults


def make_manager(name):
    kind, options = MANAGERS[name]
    faults = faults_of(IN_PROCESS if kind == "base" else IN_PROCESS + OF_A_PROCESS)
    configs = [{"env": i, "longest": LONGEST, "faults": faults} for i in range(LANES)]
    limits = {"fault_budget": 1000, "close_timeout_s": 0.1} if kind != "base" else {"fault_budget": 1000}
    manager = create_env_manager(kind, FaultySeededEnv, configs, **options, **limits)
    manager.seed(SEEDS)
    return manager


class Ledger:
    """Writes down every row that a manager delivers."""

    def __init__(self, manager):
        self.rows = [[] for _ in range(LANES)]  # of each lane: (label of the episode, step); None: a dummy row
        self.last_step = {}  # (lane, label) -> steps delivered
        self._inner, manager.step_block = manager.step_block, self.step_block

    def step_block(self, action, lane_id):
        block = self._inner(action, lane_id)
        for lane, valid, obs in zip(block.lane_id.tolist(), block.valid, block.obs.astype(int).tolist(), strict=True):
            assert obs[0] == lane
            self.rows[lane].append((obs[1], obs[2] - 1) if valid else None)
            if valid:
                self.last_step[lane, obs[1]] = obs[2]
        return block

    def delivered(self):
        return Counter((lane, *row) for lane, rows in enumerate(self.rows) for row in rows if row is not None)

    def complete(self, stored, nstep):
        """Transitions whose windows are complete when the first ``stored[lane]`` rows of each lane are stored."""
        found = Counter()
        for lane, rows in enumerate(self.rows):
            for at, row in enumerate(rows):
                if row is not None:
                    closed = None in rows[at:]
                    length = min(nstep, self.last_step[lane, row[0]] - row[1]) if closed else nstep
                    if at + length < stored[lane]:
                        found[lane, *row] += 1
        return found


def collect(name, traj_len, get_train_sample=None, sink=None, n_sample=400):
    """Collects until all planned faults have happened, in any manager."""
    manager = make_manager(name)
    try:
        policy = FakePolicy(LANES, get_train_sample)
        cfg = {"n_sample": 8, "n_episode": None, "traj_len": traj_len, "return_window": 20}
        actor = BaseSerialActor(cfg, manager, policy.mode)
        if name != "base":
            manager._crew.step_timeout_s = manager._crew.reset_timeout_s = 0.3  # starting the processes takes longer
        ledger = Ledger(manager)
        actor.generate_data(n_sample=n_sample, consume=sink)
        crew = getattr(manager, "_crew", None)
        if crew is not None:
            crew.step_timeout_s = crew.reset_timeout_s = 60.0
        return actor, ledger, manager.fault_count
    finally:
        manager.close()


def seed_of_label():
    return {(i, long_label_of(episode_seed(s, k))): episode_seed(s, k) for i, s in enumerate(SEEDS) for k in range(60)}


def expected_window(last_step, seed, step, nstep):
    """(rewards, k, done) of a window: it ends where the episode ended, or where its delivered rows do."""
    k = min(nstep, last_step - step)
    done = step + k == length(seed) and not ends_truncated(seed)
    rewards = [reward_of(seed, step + i) for i in range(k)] + [0.0] * (nstep - k)
    return rewards, k, done


def check_windows(storage, ledger, nstep):
    seeds = seed_of_label()
    window = NStepWindow(nstep, GAMMA)
    plan = window.plan(storage, np.arange(storage.written()))
    plan = plan.take(np.flatnonzero(plan.ok))
    batch = window.gather(storage, plan)
    trained = Counter()
    for row in range(len(plan.slot)):
        lane, label, step, _ = batch["obs"][row].int().tolist()
        trained[lane, label, step] += 1
        rewards, k, done = expected_window(ledger.last_step[lane, label], seeds[lane, label], step, nstep)
        assert batch["next_obs"][row][:3].int().tolist() == [lane, label, step + k]
        assert batch["reward"][row].tolist() == rewards
        assert bool(batch["done"][row]) == done
        assert batch["value_gamma"][row].item() == pytest.approx(GAMMA**k)
    return trained


ON_EVERY_WAY = [(name, length) for name in ("base", "asynchronous") for length in (1, 5, math.inf)]


@pytest.mark.parametrize(
    ("name", "traj_len"), [*ON_EVERY_WAY, ("one each", 1), ("shared", 1), ("asynchronous shared", 5)]
)
def test_every_transition_is_in_the_replay_once(name, traj_len):
    replay = Replay({"meta_maxlen": 4000, "min_sample_ratio": 1.0}, LANES, NStepWindow(3, GAMMA))

    def push(block):
        replay.push_data(block.traj.columns, block.lane_id, block.length, block.gap, block.cut)

    actor, ledger, fault_count = collect(name, traj_len, sink=push)
    assert fault_count >= 3 * LANES and actor.broken_episode >= 2 * LANES
    delivered = ledger.delivered()
    assert actor.env_step == delivered.total() and max(delivered.values()) == 1
    stored = replay.storage.head.tolist()
    for rows, number in zip(ledger.rows, stored, strict=True):  # what is not stored is a part of a block
        held_back = rows[number:]
        begun = list(itertools.dropwhile(lambda row: row is None, held_back))  # resets that failed come first
        assert None not in begun if traj_len == math.inf else len(held_back) < traj_len
    for nstep in (1, 3):
        assert check_windows(replay.storage, ledger, nstep) == ledger.complete(stored, nstep)
    shown = set(actor.recent_return)
    seeds = seed_of_label()
    whole = {sum(reward_of(s, t) for t in range(length(s))) for (i, label), s in seeds.items()
             if ledger.last_step.get((i, label)) == length(s)}  # fmt: skip
    assert shown <= whole  # no return of an episode that was cut off


@pytest.mark.parametrize("name", ["base", "one each", "shared", "asynchronous"])
def test_advantages_of_rollouts(name):
    def value(obs):
        return (obs[..., 1] % 7 + obs[..., 2]).double()

    def with_advantages(traj):
        traj.columns["value"] = value(traj["obs"])
        traj.columns["reward"] = traj["reward"].double()
        return Adder().get_gae(traj, value(traj.last_obs), GAMMA, LAMBDA)

    blocks = []
    seeds = seed_of_label()

    def keep(block):
        blocks.append((
            {k: block.traj[k].clone().numpy() for k in ("obs", "adv", "valid")},
            block.traj.last_obs.clone().numpy() if block.traj.last_obs is not None else None,
        ))  # fmt: skip

    _, ledger, fault_count = collect(name, 8, with_advantages, keep)
    assert fault_count >= 3 * LANES
    trained = Counter()
    for columns, _ in blocks:
        for b in range(columns["valid"].shape[1]):
            rows = [tuple(obs[:3].astype(int)) for obs in columns["obs"][:, b]]
            after = 0.0
            for t in reversed(range(len(rows))):
                if not columns["valid"][t, b]:
                    assert columns["adv"][t, b] == 0
                    continue
                lane, label, step = (int(x) for x in rows[t])
                trained[lane, label, step] += 1
                seed, last = seeds[lane, label], ledger.last_step[lane, label]
                is_end = step + 1 == last
                terminated = step + 1 == length(seed) and not ends_truncated(seed)
                follows = t + 1 < len(rows) and not is_end
                here, there = label % 7 + step, 0.0 if terminated else label % 7 + step + 1
                after = reward_of(seed, step) + GAMMA * there - here + (GAMMA * LAMBDA * after if follows else 0.0)
                assert columns["adv"][t, b] == pytest.approx(after, rel=1e-6), (t, lane, label, step)
    delivered = ledger.delivered()
    assert max(trained.values()) == 1 and not trained - delivered
    assert (delivered - trained).total() < 8 * LANES  # blocks that are not full yet
