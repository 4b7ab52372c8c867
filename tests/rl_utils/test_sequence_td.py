"""n-step targets inside sequences that hold ends, dummy rows and gaps; priorities of sequences."""

import numpy as np
import pytest
import torch
from oracles import mdp, values

from nervex.rl_utils.sequence_td import nstep_sequence_target, sequence_priority, trainable_rows
from nervex.rl_utils.td import nstep_return, nstep_return_data
from nervex.rl_utils.value_rescale import value_inv_transform, value_transform
from nervex.utils.errors import ConfigError, SpecError

MASKS = ("terminated", "truncated", "valid")


class TestByHand:
    """γ = 1/2; rewards 1, 2, 4, 8, 16 and values 32, 64, 128, 256, 512 at the rows' own observations."""

    reward = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])[:, None]
    value = torch.tensor([32.0, 64.0, 128.0, 256.0, 512.0])[:, None]

    def target(self, nstep, **masks):
        columns = [torch.tensor(masks[k], dtype=torch.bool)[:, None] if k in masks else None for k in MASKS]
        target, trainable = nstep_sequence_target(self.value, self.reward, *columns, 0.5, nstep)
        assert not target[~trainable].any()
        return [
            t if ok else None for t, ok in zip(target.flatten().tolist(), trainable.flatten().tolist(), strict=True)
        ]

    def test_one_step(self):
        assert self.target(1) == [1 + 32, 2 + 64, 4 + 128, 8 + 256, None]

    def test_three_steps_end_at_the_last_row(self):
        assert self.target(3) == [1 + 1 + 1 + 256 / 8, 2 + 2 + 2 + 512 / 8, 4 + 4 + 512 / 4, 8 + 512 / 2, None]

    def test_terminated_inside(self):
        ends = {"terminated": [0, 1, 0, 0, 0], "valid": [1, 1, 0, 1, 1]}
        assert self.target(3, **ends) == [1 + 1, 2, None, 8 + 256, None]

    def test_truncated_inside_bootstraps_from_the_dummy(self):
        ends = {"truncated": [0, 1, 0, 0, 0], "valid": [1, 1, 0, 1, 1]}
        assert self.target(3, **ends) == [1 + 1 + 128 / 4, 2 + 128 / 2, None, 8 + 256, None]

    def test_terminated_in_the_last_row(self):
        assert self.target(3, terminated=[0, 0, 0, 0, 1]) == [1 + 1 + 1 + 32, 2 + 2 + 2 + 64, 4 + 4 + 4, 8 + 8, 16]

    def test_truncated_in_the_last_row_its_dummy_is_not_there(self):
        assert self.target(3, truncated=[0, 0, 0, 0, 1]) == self.target(3)

    def test_the_last_row_is_the_dummy(self):
        ends = {"truncated": [0, 0, 0, 1, 0], "valid": [1, 1, 1, 1, 0]}
        assert self.target(3, **ends) == [1 + 1 + 1 + 32, 2 + 2 + 2 + 64, 4 + 4 + 128, 8 + 256, None]
        ends = {"terminated": [0, 0, 0, 1, 0], "valid": [1, 1, 1, 1, 0]}
        assert self.target(3, **ends) == [1 + 1 + 1 + 32, 2 + 2 + 2, 4 + 4, 8, None]

    def test_begins_with_a_dummy(self):
        assert self.target(1, valid=[0, 1, 1, 1, 1]) == [None, 2 + 64, 4 + 128, 8 + 256, None]

    def test_what_follows_a_gap_is_no_successor(self):
        assert self.target(3, valid=[1, 1, 0, 1, 1]) == [1 + 32, None, None, 8 + 256, None]

    def test_rescaled_values(self):
        """Without ε, h(3) = 1 and h(8) = 2: V = 2 is worth 8; 4 + 8/2 = 8 is 2."""
        target, _ = nstep_sequence_target(
            torch.tensor([[9.0], [2.0]]), torch.tensor([[4.0], [9.0]]), None, None, None, 0.5, 1,
            lambda x: value_transform(x, 0.0), lambda x: value_inv_transform(x, 0.0),
        )  # fmt: skip
        assert target.flatten().tolist() == pytest.approx([2.0, 0.0])


@pytest.mark.parametrize("nstep", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("seed", range(8))
def test_against_the_oracle(seed, nstep):
    rng = np.random.default_rng(seed)
    rows = values.random_lanes(rng, 17, 6, gaps=seed % 2 == 1)
    value = rng.normal(size=(17, 6)) * 100
    masks = tuple(rows[k] for k in MASKS)
    expected, counts = values.sequence_targets(value, rows["reward"], masks, 0.9, nstep)
    columns = [torch.from_numpy(x) for x in masks]
    reward = torch.from_numpy(rows["reward"]).masked_fill(~columns[2], torch.nan)  # of dummies nothing is read
    target, trainable = nstep_sequence_target(torch.from_numpy(value), reward, *columns, 0.9, nstep)
    assert target.dtype == torch.float64 and target.numpy() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert (trainable.numpy() == counts).all() and trainable.equal(trainable_rows(*columns))
    single, _ = nstep_sequence_target(torch.from_numpy(value).float(), reward.float(), *columns, 0.9, nstep)
    assert single.dtype == torch.float32 and single.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-3)
    inverse = value_inv_transform(torch.from_numpy(value)).numpy()  # held against a bisection in its own test
    plain, _ = values.sequence_targets(inverse, rows["reward"], masks, 0.9, nstep)
    rescaled, _ = nstep_sequence_target(
        torch.from_numpy(value), reward, *columns, 0.9, nstep, value_transform, value_inv_transform
    )
    again = [[values.rescale(v, 0.01) for v in row] for row in plain]
    assert rescaled.numpy() == pytest.approx(np.array(again), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_of_one_episode_reaches_another(seed):
    """A change of the rows from an episode's beginning on leaves all targets before it as they were."""
    rng = np.random.default_rng(seed)
    rows = values.random_lanes(rng, 15, 1)
    columns = [torch.from_numpy(rows[k]) for k in MASKS]
    value, reward = torch.from_numpy(rng.normal(size=(15, 1))), torch.from_numpy(rows["reward"])
    before, _ = nstep_sequence_target(value, reward, *columns, 0.9, 4)
    ends = np.flatnonzero(rows["terminated"] | rows["truncated"])
    begins = [t + 2 for t in ends if t + 2 < 15]
    assert begins
    for begin in begins:
        other_value, other_reward = value.clone(), reward.clone()
        other_value[begin:], other_reward[begin:] = 1e6, -1e6
        after, _ = nstep_sequence_target(other_value, other_reward, *columns, 0.9, 4)
        assert after[:begin].equal(before[:begin])


class TestLimits:
    def test_every_full_window_is_the_nstep_return(self):
        rng = np.random.default_rng(0)
        value, reward = torch.from_numpy(rng.normal(size=(2, 9, 3)))
        target, trainable = nstep_sequence_target(value, reward, None, None, None, 0.9, 4)
        for t in range(5):
            window = nstep_return_data(reward[t : t + 4], value[t + 4], None)
            assert target[t].allclose(nstep_return(window, 0.9, 4), rtol=1e-13)
        assert trainable.tolist() == [[True] * 3] * 8 + [[False] * 3]

    def test_gamma_of_zero_is_the_reward(self):
        reward = torch.rand(4, 2)
        target, _ = nstep_sequence_target(torch.rand(4, 2), reward, None, None, None, 0.0, 3)
        assert target[:3].equal(reward[:3]) and not target[3].any()

    def test_one_row(self):
        for end, expected in ((True, ([[5.0]], [[True]])), (False, ([[0.0]], [[False]]))):
            target, trainable = nstep_sequence_target(
                torch.ones(1, 1), torch.full((1, 1), 5.0), torch.tensor([[end]]), None, None, 0.9, 2
            )
            assert (target.tolist(), trainable.tolist()) == expected


class TestKnownValues:
    """With the true values of a policy every target is a true value, wherever time limits cut."""

    @pytest.mark.parametrize("nstep", [1, 3, 8])
    @pytest.mark.parametrize("time_limit", [1, 3, 5])
    def test_ring_that_only_time_limits_cut(self, time_limit, nstep):
        task = mdp.ring(3)
        self.check(task, np.ones((3, 1)), mdp.values(task, np.ones((3, 1)), 0.9)[0], time_limit, nstep)

    @pytest.mark.parametrize("nstep", [1, 3, 8])
    @pytest.mark.parametrize("time_limit", [2, 4, np.inf])
    def test_corridor(self, time_limit, nstep):
        task = mdp.corridor(5)
        true = mdp.optimal_values(task, 0.9)[0]
        assert true == pytest.approx([0.9 ** (4 - s) for s in range(5)])
        self.check(task, np.eye(2)[np.ones(5, int)], true, time_limit, nstep)

    def check(self, task, policy, true, time_limit, nstep):
        rows = mdp.play(task, policy, np.random.default_rng(0), 40, time_limit)
        value = torch.tensor([*true, torch.nan], dtype=torch.float64)[rows["state"][:-1], None]
        columns = [torch.from_numpy(rows[k])[:, None] for k in ("reward", *MASKS)]
        target, trainable = nstep_sequence_target(value, *columns, 0.9, nstep)
        assert target[trainable].numpy() == pytest.approx(value[trainable].numpy(), rel=1e-12)
        assert trainable[:-1].equal(columns[3][:-1])  # all transitions but the last row


def test_no_gradient_flows():
    value, reward = (torch.rand(4, 2, requires_grad=True) for _ in range(2))
    target, _ = nstep_sequence_target(value, reward, None, None, None, 0.9, 2, value_transform, value_inv_transform)
    assert not target.requires_grad


class TestPriority:
    def test_by_hand(self):
        error = torch.tensor([[1.0, -9.0, 4.0], [-3.0, 2.0, 4.0], [7.0, -2.0, 4.0]])
        counts = torch.tensor([[True, False, False], [True, True, False], [False, True, False]])
        # max 3, mean 2; max 2, mean 2; none
        assert sequence_priority(error, counts, 0.9).tolist() == pytest.approx([2.9, 2.0, 0.0])
        assert sequence_priority(error, counts, 1.0).tolist() == [3.0, 2.0, 0.0]
        assert sequence_priority(error, counts, 0.0).tolist() == [2.0, 2.0, 0.0]
        assert sequence_priority(error, counts).tolist() == pytest.approx([2.9, 2.0, 0.0])

    @pytest.mark.parametrize("seed", range(3))
    def test_against_the_oracle(self, seed):
        rng = np.random.default_rng(seed)
        error, counts = rng.normal(size=(6, 9)), rng.random((6, 9)) < 0.4
        poisoned = torch.from_numpy(np.where(counts, error, np.nan)).requires_grad_()
        priority = sequence_priority(poisoned, torch.from_numpy(counts), 0.7)
        assert not priority.requires_grad
        assert priority.numpy() == pytest.approx(values.sequence_priority(error, counts, 0.7), abs=1e-14)


R = torch.ones(3, 2)
ERRORS = [
    ((R, R[0], None, None, None), "'reward' has shape [2], expected ['any', 'any']"),
    ((R[:2], R, None, None, None), "'next_value' has shape [2, 2], expected [3, 2]"),
    ((R.long(), R, None, None, None), "'next_value' is torch.int64, expected a floating tensor; cast it with .float()"),
    ((R, R, R[:1], None, None), "'terminated' has shape [1, 2], expected [3, 2]"),
    ((R, R, None, R.T, None), "'truncated' has shape [2, 3], expected [3, 2]"),
    ((R, R, None, None, R[:, 0]), "'valid' has shape [3], expected [3, 2]"),
]


@pytest.mark.parametrize("args, message", ERRORS, ids=[m.split("'")[1] + m.split("'")[2][:4] for _, m in ERRORS])
def test_a_wrong_shape_or_dtype_is_said(args, message):
    with pytest.raises(SpecError) as e:
        nstep_sequence_target(*args, 0.9, 2)
    assert str(e.value) == "nstep_sequence_target: " + message


def test_other_mistakes_are_said():
    with pytest.raises(ConfigError, match=r"^nstep_sequence_target: nstep is 0, expected at least 1$"):
        nstep_sequence_target(R, R, None, None, None, 0.9, 0)
    message = "^nstep_sequence_target: got one of value_transform and value_inv_transform, expected both or neither$"
    with pytest.raises(ConfigError, match=message):
        nstep_sequence_target(R, R, None, None, None, 0.9, 1, value_transform)
    with pytest.raises(SpecError, match=r"^sequence_priority: 'td_error' has shape \[2\], expected \['any', 'any'\]$"):
        sequence_priority(R[0], R[0].bool())
    with pytest.raises(SpecError, match=r"^sequence_priority: 'trainable' has shape \[2\], expected \[3, 2\]$"):
        sequence_priority(R, R[0].bool())
