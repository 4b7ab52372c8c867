"""The recurrent layer: single steps, sequences with resets, gradients through both, and its settings."""

import pytest
import torch
from torch import nn

from nervex.model.rnn import RecurrentCore, recurrent_settings
from nervex.utils.errors import ConfigError

T, B, SIZE, HIDDEN = 24, 5, 3, 4
KINDS = ["lstm", "gru"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def state_of(kind, requires_grad=False):
    keys = ("h", "c") if kind == "lstm" else ("h",)
    return {k: torch.randn(B, HIDDEN, dtype=torch.float64, requires_grad=requires_grad) for k in keys}


def core_of(kind):
    return RecurrentCore(SIZE, HIDDEN, kind).double()


def rows():
    return torch.randn(T, B, SIZE, dtype=torch.float64, requires_grad=True)


def begins(share):
    """Where episodes begin: nowhere, seldom (long stretches), often (single steps), always."""
    return torch.rand(T, B) < share


def step_by_step(core, x, state, begin):
    """The sequence as single steps; the state is set to zero by hand."""
    out = []
    for t in range(T):
        if begin is not None and state is not None:
            state = {k: torch.where(begin[t][:, None], torch.zeros_like(s), s) for k, s in state.items()}
        y, state = core(x[t], state)
        out.append(y)
    return torch.stack(out), state


@pytest.mark.parametrize("kind", KINDS)
class TestSequence:
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.5, 1.0])
    @pytest.mark.parametrize("given", [True, False])
    def test_is_single_steps(self, kind, share, given):
        core, x, begin = core_of(kind), rows(), begins(share)
        state = state_of(kind) if given else None
        out, after = core(x, state, begin, sequence=True)
        expected, last = step_by_step(core, x, state, begin)
        assert out.shape == (T, B, HIDDEN) and after.keys() == last.keys()
        assert torch.allclose(out, expected, atol=1e-12)
        assert all(torch.allclose(after[k], last[k], atol=1e-12) for k in last)

    @pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
    def test_gradients_are_those_of_single_steps(self, kind, share):
        core, x, begin, state = core_of(kind), rows(), begins(share), state_of(kind, requires_grad=True)
        inputs = [x, *state.values(), *core.parameters()]
        weight = torch.randn(T, B, HIDDEN, dtype=torch.float64)
        found, expected = (
            torch.autograd.grad((weight * out).sum() + sum(s.square().sum() for s in after.values()), inputs)
            for out, after in (core(x, state, begin, sequence=True), step_by_step(core, x, state, begin))
        )
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))

    @pytest.mark.parametrize("every", [1, 2, 12])
    def test_no_gradient_crosses_a_reset(self, kind, every):
        core, x = core_of(kind), rows()
        begin = (torch.arange(T) % every == 0)[:, None].expand(T, B)
        out, _ = core(x, None, begin, sequence=True)
        out[every].sum().backward()
        assert x.grad[every].abs().sum() > 0 and x.grad[:every].abs().sum() == 0

    def test_the_state_flows_without_resets(self, kind):
        core, x, state = core_of(kind), rows(), state_of(kind, requires_grad=True)
        core(x, state, sequence=True)[0][-1].sum().backward()
        assert x.grad[0].abs().sum() > 0 and all(s.grad.abs().sum() > 0 for s in state.values())

    def test_pieces_of_a_sequence(self, kind):
        core, x, begin = core_of(kind), rows(), begins(0.1)
        whole, last = core(x, state := state_of(kind), begin, sequence=True)
        first, state = core(x[:7], state, begin[:7], sequence=True)
        second, state = core(x[7:], state, begin[7:], sequence=True)
        assert torch.allclose(torch.cat([first, second]), whole, atol=1e-12)
        assert all(torch.allclose(state[k], last[k], atol=1e-12) for k in last)

    def test_lanes_do_not_mix(self, kind):
        core, x, begin, state = core_of(kind), rows(), begins(0.1), state_of(kind)
        whole, _ = core(x, state, begin, sequence=True)
        alone, _ = core(x[:, 2:3], {k: s[2:3] for k, s in state.items()}, begin[:, 2:3], sequence=True)
        assert torch.allclose(alone, whole[:, 2:3], atol=1e-12)

    def test_one_row(self, kind):
        core, x, state = core_of(kind), rows(), state_of(kind)
        out, after = core(x[:1], state, begins(0.0)[:1], sequence=True)
        one, last = core(x[0], state)
        assert torch.allclose(out[0], one) and all(torch.allclose(after[k], last[k]) for k in last)


@pytest.mark.parametrize("kind", KINDS)
class TestStep:
    def test_is_the_layer_of_torch(self, kind):
        core, x, state = core_of(kind), rows(), state_of(kind)
        out, after = core(x[0], state)
        h = state["h"][None]
        expected, last = core.layer(x[:1], (h, state["c"][None]) if kind == "lstm" else h)
        assert torch.allclose(out, expected[0], atol=1e-12)
        assert torch.allclose(after["h"], (last[0] if kind == "lstm" else last)[0], atol=1e-12)
        assert torch.equal(out, after["h"])

    def test_no_state_is_zeros(self, kind):
        core, x = core_of(kind), rows()
        zeros = {k: torch.zeros_like(s) for k, s in state_of(kind).items()}
        assert torch.equal(core(x[0])[0], core(x[0], zeros)[0])

    def test_begin_sets_the_state_to_zero(self, kind):
        core, x, state = core_of(kind), rows(), state_of(kind)
        state["h"][1] = float("nan")  # not even a broken one comes through
        begin = torch.tensor([False, True, True, False, False])
        out, after = core(x[0], state, begin)
        fresh, _ = core(x[0])
        held, _ = core(x[0], state)
        assert torch.equal(out[begin], fresh[begin]) and torch.equal(out[~begin], held[~begin])
        assert state["h"][1].isnan().all() and after["h"].isfinite().all()


def test_one_call_of_the_layer_where_nothing_is_reset():
    """Fast where it can be: no loop over the rows."""
    core, calls = core_of("lstm"), []
    core.layer.register_forward_hook(lambda *_: calls.append(1))
    core(rows(), None, begins(0.0), sequence=True)
    core(rows(), None, None, sequence=True)
    assert len(calls) == 2
    core(rows(), None, begins(1.0), sequence=True)
    assert len(calls) == 2


class TestSettings:
    @pytest.mark.parametrize(
        "arguments, expected",
        [
            ((None, None, None), (None, 64)),
            (("none", None, None), (None, 64)),
            (("lstm", None, None), ("lstm", 64)),
            (("gru", 32, None), ("gru", 32)),
            ((None, None, {"lstm_type": "normal"}), ("lstm", 64)),
            (("lstm", None, {"lstm_type": "pytorch", "hidden_size": 16}), ("lstm", 16)),
            ((None, None, {"lstm_type": "none"}), (None, 64)),
            (("gru", None, {"hidden_size": 16}), ("gru", 16)),
            ((None, None, {}), (None, 64)),
        ],
    )
    def test_what_is_asked_for(self, arguments, expected):
        assert recurrent_settings(*arguments, embedding_dim=64) == expected

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (("lsmt", None, None), r"unknown rnn_type 'lsmt'; did you mean 'lstm'\? \(known: none, lstm, gru\)"),
            ((None, None, {"lstm_type": "norml"}), r"unknown lstm_type 'norml'; did you mean 'normal'\? \(known: "),
            ((None, None, {"hiden_size": 3}), r"lstm_kwargs has 'hiden_size'; did you mean 'hidden_size'"),
            (("gru", None, {"lstm_type": "normal"}), "rnn_type is 'gru', lstm_kwargs.lstm_type 'normal'; give one of"),
            (("lstm", None, {"lstm_type": "none"}), "rnn_type is 'lstm', lstm_kwargs.lstm_type 'none'; give one of"),
            (("lstm", 8, {"hidden_size": 9}), "rnn_hidden_dim is 8, lstm_kwargs.hidden_size 9; give one of the two"),
        ],
    )  # fmt: skip
    def test_refusals(self, arguments, message):
        with pytest.raises(ConfigError, match=message):
            recurrent_settings(*arguments, embedding_dim=64)

    def test_the_layer_itself(self):
        assert isinstance(RecurrentCore(2, 3, "gru").layer, nn.GRU)
        with pytest.raises(ConfigError, match=r"unknown rnn_type 'rnn' \(known: lstm, gru\)"):
            RecurrentCore(2, 3, "rnn")
        with pytest.raises(ConfigError, match="rnn_hidden_dim is 0; expected at least 1"):
            RecurrentCore(2, 0)
