"""Returns over time by compiled loops and by torch: the same numbers, and which of the two computes when."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import policy_gradient as oracle
from oracles import values
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from nervex import kernels
from nervex.rl_utils import recursion
from nervex.rl_utils.advantage import gae, gae_data
from nervex.rl_utils.sequence_td import nstep_sequence_target
from nervex.rl_utils.upgo import upgo_returns
from nervex.rl_utils.value_td import generalized_lambda_returns, td_lambda_data, td_lambda_error
from nervex.rl_utils.vtrace import vtrace_returns

MASKS = ("terminated", "truncated", "valid")


def run_gae(rows, gamma, lambda_, masks):
    return (gae(gae_data(rows["value"], rows["reward"], *masks), gamma, lambda_),)


def run_vtrace(rows, gamma, lambda_, masks):
    return vtrace_returns(rows["ratio"], rows["value"], rows["reward"], *masks, gamma, lambda_, 2.0, 1.5, 0.5)


def run_upgo(rows, gamma, lambda_, masks):
    return (upgo_returns(rows["reward"], rows["value"], gamma, *masks),)


def run_lambda(rows, gamma, lambda_, masks):
    return (generalized_lambda_returns(rows["value"], rows["reward"], gamma, lambda_, *masks),)


def run_lambda_by_row(rows, gamma, lambda_, masks):
    gammas, lambdas = gamma * rows["ratio"].clamp(max=1), lambda_ * (rows["ratio"] / 2).clamp(max=1)
    return (generalized_lambda_returns(rows["value"], rows["reward"], gammas, lambdas, *masks),)


def run_nstep(rows, gamma, lambda_, masks):
    return (nstep_sequence_target(rows["value"][:-1], rows["reward"], *masks, gamma, 1 + int(5 * lambda_))[0],)


KERNEL_OF = {
    run_gae: "gae",
    run_vtrace: "vtrace",
    run_upgo: "upgo",
    run_lambda: "lambda_returns",
    run_lambda_by_row: "lambda_returns",
    run_nstep: "nstep_returns",
}
each_function = pytest.mark.parametrize("run", KERNEL_OF, ids=[run.__name__[4:] for run in KERNEL_OF])


def kernels_for_all_sizes():
    return mock.patch.object(recursion, "MIN_KERNEL_ROWS", 1)


def only_torch(run):
    """No kernel may be called, however small the limit."""
    refusing = mock.patch.object(
        kernels, KERNEL_OF[run], create=True, side_effect=AssertionError("a kernel was called")
    )
    return kernels_for_all_sizes(), refusing


def tables(rows, dtype=torch.float64):
    given_rows = {k: torch.from_numpy(v) for k, v in rows.items()}
    return {k: v if v.dtype == torch.bool else v.to(dtype) for k, v in given_rows.items()}


def poisoned(rows):
    """NaN where nothing may look: rows that are no transition (their values, if no row bootstraps from them)."""
    read = np.zeros(rows["value"].shape, bool)
    read[:-1] |= rows["valid"]
    read[1:] |= rows["valid"] & ~rows["terminated"]
    out = {k: np.where(rows["valid"], rows[k], np.nan) for k in ("reward", "ratio")}
    return {**rows, **out, "value": np.where(read, rows["value"], np.nan)}


@each_function
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3, 70]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sets(st.sampled_from(MASKS)),
)
def test_kernel_and_torch_agree(run, seed, total, batch, gamma, lambda_, absent):
    rows = oracle.random_rows(np.random.default_rng(seed), total, batch)
    rows = rows if absent or run is run_lambda_by_row else poisoned(rows)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        table = tables(rows, dtype)
        masks = [None if k in absent else table[k] for k in MASKS]
        expected = run(table, gamma, lambda_, masks)
        before = {k: v.clone() for k, v in table.items()}
        called = mock.patch.object(kernels, KERNEL_OF[run], create=True, wraps=getattr(kernels, KERNEL_OF[run]))
        with kernels_for_all_sizes(), called as kernel:
            found = run(table, gamma, lambda_, masks)
        assert kernel.call_count == 1
        assert all(torch.equal(v.nan_to_num(), before[k].nan_to_num()) for k, v in table.items())
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype == dtype and a.shape == b.shape and not a.requires_grad
            assert torch.equal(a.isnan(), b.isnan())
            valid = table["valid"] if "valid" not in absent else torch.ones_like(table["valid"])
            assert a[valid].isfinite().all()
            scale = 1 + b[valid].abs().max().item() if valid.any() else 1
            assert (a - b).nan_to_num().abs().max().item() <= tolerance * scale


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1))
def test_kernels_against_the_oracles(seed, total, batch, gamma, lambda_):
    rows = oracle.random_rows(np.random.default_rng(seed), total, batch)
    table, masks = tables(poisoned(rows)), {k: rows[k] for k in MASKS}
    of_run = (table, gamma, lambda_, [table[k] for k in MASKS])
    value, reward, ratio = (rows[k] for k in ("value", "reward", "ratio"))
    gammas, lambdas = gamma * ratio.clip(max=1), lambda_ * (ratio / 2).clip(max=1)
    columns, nstep = tuple(masks.values()), 1 + int(5 * lambda_)
    expected = {
        run_gae: [oracle.gae(value, reward, gamma, lambda_, **masks)],
        run_vtrace: oracle.vtrace(ratio, value, reward, gamma, lambda_, 2.0, 1.5, 0.5, **masks),
        run_upgo: [oracle.upgo_returns(value, reward, gamma, **masks)],
        run_lambda: [values.lambda_returns(value[1:], reward, 0 * gammas + gamma, 0 * lambdas + lambda_, columns)],
        run_lambda_by_row: [values.lambda_returns(value[1:], reward, gammas, lambdas, columns)],
        run_nstep: [values.sequence_targets(value[:-1], reward, columns, gamma, nstep)[0]],
    }
    for run, numbers in expected.items():
        with kernels_for_all_sizes():
            found = run(*of_run if run is not run_lambda_by_row else (tables(rows), *of_run[1:]))
        for a, b in zip(found, numbers, strict=True):
            np.testing.assert_allclose(a[table["valid"]], b[rows["valid"]], rtol=1e-9, atol=1e-9)


def test_a_step_no_worse_than_its_value_goes_up():
    """As in test_upgo: 2 + 5 = 7, and what follows is better."""
    reward, value = torch.tensor([[1.0], [2], [4]]), torch.tensor([[8.0], [7], [5], [2]])
    with kernels_for_all_sizes():
        assert upgo_returns(reward, value).flatten().tolist() == [9, 8, 6]


def test_arrays_are_contiguous_and_share_memory():
    table = torch.zeros(3, 4)
    assert recursion.array(table.T).flags.c_contiguous
    recursion.array(table)[1, 2] = 5
    assert table[1, 2] == 5


@each_function
def test_columns_that_are_not_contiguous_and_masks_of_numbers(run):
    table = tables(oracle.random_rows(np.random.default_rng(2), 9, 5))
    masks = [table[k] for k in MASKS]
    turned = {k: v.T.contiguous().T for k, v in table.items()}
    with kernels_for_all_sizes():
        expected = run(table, 0.9, 0.8, masks)
        found = run(turned, 0.9, 0.8, [turned[k].double() for k in MASKS])
    assert not turned["reward"].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class TestWhoComputes:
    rows = tables(oracle.random_rows(np.random.default_rng(4), 16, 6))

    def run_with(self, run, **changed):
        rows = {**self.rows, **changed}
        return run(rows, 0.9, 0.8, [rows[k] for k in MASKS])

    @each_function
    def test_torch_where_the_table_is_small(self, run):
        _, refusing = only_torch(run)
        with refusing:
            self.run_with(run)
            assert recursion.MIN_KERNEL_ROWS > 16 * 6
        with mock.patch.object(recursion, "MIN_KERNEL_ROWS", 16 * 6), refusing, pytest.raises(AssertionError):
            self.run_with(run)

    @each_function
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_torch_for_other_dtypes(self, run, dtype):
        enough, refusing = only_torch(run)
        with enough, refusing:
            found = self.run_with(run, **{k: self.rows[k].to(dtype) for k in ("value", "reward", "ratio")})
            assert found[0].dtype == dtype

    @each_function
    def test_torch_for_mixed_dtypes(self, run):
        enough, refusing = only_torch(run)
        with enough, refusing:
            assert self.run_with(run, value=self.rows["value"].float())[0].dtype == torch.float64

    @each_function
    def test_torch_under_compile(self, run, compiling):
        expected = self.run_with(run)
        enough, refusing = only_torch(run)
        torch._dynamo.reset()
        with enough, refusing:
            found = torch.compile(run, backend="eager", fullgraph=True)(
                self.rows, 0.9, 0.8, [self.rows[k] for k in MASKS]
            )
        assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))

    @each_function
    def test_torch_for_fake_tensors(self, run):
        enough, refusing = only_torch(run)
        mode = FakeTensorMode(allow_non_fake_inputs=True)  # left at once: the tensors alone must tell
        fake = {k: mode.from_tensor(v) for k, v in self.rows.items()}
        with enough, refusing:
            assert run(fake, 0.9, 0.8, [fake[k] for k in MASKS])[0].shape == (16, 6)

    @each_function
    def test_torch_under_a_tracing_mode(self, run):
        enough, refusing = only_torch(run)
        names = list(self.rows)
        columns = [self.rows[k] for k in names]

        def from_columns(*columns):
            rows = dict(zip(names, columns, strict=True))
            return tuple(run(rows, 0.9, 0.8, [rows[k] for k in MASKS]))

        with enough, refusing:
            traced = make_fx(from_columns)(*columns)
        again = [x if x.dtype == torch.bool else x + 1 for x in columns]
        assert torch.allclose(traced(*again)[0], from_columns(*again)[0])

    @each_function
    def test_torch_under_vmap(self, run):
        expected = self.run_with(run)
        enough, refusing = only_torch(run)
        two = {k: torch.stack([v, v]) for k, v in self.rows.items()}
        with enough, refusing:
            found = torch.func.vmap(lambda rows: run(rows, 0.9, 0.8, [rows[k] for k in MASKS])[0])(two)
        assert torch.allclose(found[1], expected[0])

    def test_torch_where_a_gradient_flows(self):
        value = self.rows["value"].clone().requires_grad_()
        enough, refusing = only_torch(run_lambda)
        with enough, refusing:
            self.run_with(run_lambda, value=value)[0].sum().backward()
        assert value.grad.abs().sum() > 0

    def test_a_loss_whose_target_has_no_gradient_uses_the_kernel(self):
        value = self.rows["value"].clone().requires_grad_()
        masks = [self.rows[k] for k in MASKS]
        grads, losses = [], []
        called = mock.patch.object(kernels, "lambda_returns", create=True, wraps=kernels.lambda_returns)
        for patch in (mock.patch.object(recursion, "MIN_KERNEL_ROWS", 1 << 40), kernels_for_all_sizes()):
            with patch, called as kernel:
                losses.append(td_lambda_error(td_lambda_data(value, self.rows["reward"], None, *masks), 0.9, 0.8))
            grads.append(torch.autograd.grad(losses[-1], value)[0])
        assert kernel.call_count == 1
        assert torch.allclose(*grads, rtol=1e-12) and torch.allclose(*losses, rtol=1e-12)

    @pytest.mark.parametrize("run", [run_gae, run_vtrace, run_upgo])
    def test_values_of_a_network_in_training_are_no_hindrance(self, run):
        with kernels_for_all_sizes():
            value = self.rows["value"].clone().requires_grad_()
            assert torch.equal(self.run_with(run, value=value)[0], self.run_with(run)[0])


def test_a_ratio_of_a_dummy_row_may_be_anything():
    table = tables(oracle.random_rows(np.random.default_rng(6), 30, 4))
    bad = torch.where(table["valid"], table["ratio"], torch.nan)
    masks = [table[k] for k in MASKS]
    assert bad.isnan().any()
    found, expected = run_vtrace({**table, "ratio": bad}, 0.9, 0.8, masks), run_vtrace(table, 0.9, 0.8, masks)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
