"""Recurrent networks against a loop over rows and numbers, and all forms of their state."""

import copy

import pytest
import torch
from torch import nn

from nervex.torch_utils import LSTM, PytorchGRU, PytorchLSTM, get_lstm
from nervex.utils.errors import ConfigError, SpecError

T, B, IN, H = 4, 3, 5, 6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def layer_norm(x, layer):
    mean, var = x.mean(), ((x - x.mean()) ** 2).mean()
    return (x - mean) / (var + 1e-5).sqrt() * layer.weight + layer.bias


def slow_lstm(net, inputs, h, c, normed):
    """Row by row and element by element of the batch; h and c are [L, B, H]."""
    h, c, out = h.clone(), c.clone(), []
    for t in range(len(inputs)):
        rows = []
        for b in range(inputs.shape[1]):
            x = inputs[t, b]
            for i in range(net.num_layers):
                from_x, from_h = net.wx[i].weight @ x, net.wh[i].weight @ h[i, b]
                if normed:
                    from_x, from_h = layer_norm(from_x, net.norm_x[i]), layer_norm(from_h, net.norm_h[i])
                gate = from_x + from_h + net.bias[i]
                i_, f, g, o = gate[:H], gate[H : 2 * H], gate[2 * H : 3 * H], gate[3 * H :]
                c[i, b] = torch.sigmoid(f) * c[i, b] + torch.sigmoid(i_) * torch.tanh(g)
                h[i, b] = torch.sigmoid(o) * torch.tanh(c[i, b])
                x = h[i, b]
            rows.append(x.clone())
        out.append(torch.stack(rows))
    return torch.stack(out), (h, c)


def random_norms(net):
    for parameter in net.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("norm_type", ["LN", None])
def test_lstm_is_the_loop(layers, norm_type):
    net = LSTM(IN, H, layers, norm_type)
    random_norms(net)
    x, h, c = torch.randn(T, B, IN), torch.randn(layers, B, H), torch.randn(layers, B, H)
    with torch.no_grad():
        expected, after = slow_lstm(net, x, h, c, norm_type is not None)
        output, state = net(x, (h, c), list_next_state=False)
    assert torch.allclose(output, expected, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(state, after, strict=True))


def test_without_norm_it_is_torchs_lstm():
    net, theirs = LSTM(IN, H, norm_type=None), nn.LSTM(IN, H)
    random_norms(net)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(net.wx[0].weight)
        theirs.weight_hh_l0.copy_(net.wh[0].weight)
        theirs.bias_ih_l0.copy_(net.bias[0])
        theirs.bias_hh_l0.zero_()
    x = torch.randn(T, B, IN)
    assert torch.allclose(net(x)[0], theirs(x)[0], atol=1e-6)


@pytest.mark.parametrize("kind, theirs", [(PytorchLSTM, nn.LSTM), (PytorchGRU, nn.GRU)])
def test_the_others_are_torchs_with_their_weights(kind, theirs):
    net, other = kind(IN, H, 2), theirs(IN, H, 2)
    other.load_state_dict(net.state_dict())
    x, h = torch.randn(T, B, IN), torch.randn(2, B, H)
    state = h if kind is PytorchGRU else (h, torch.randn(2, B, H))
    for given in (state, None):
        found, expected = net(x, given, list_next_state=False), other(x, given)
        assert torch.equal(found[0], expected[0])
        for a, b in zip(found[1], expected[1], strict=True):
            assert torch.equal(a, b)


def halves(net, x, **options):
    first, state = net(x[:2], **options)
    second, state = net(x[2:], state)
    return torch.cat([first, second]), state


@pytest.mark.parametrize("lstm_type", ["normal", "pytorch", "gru"])
def test_a_sequence_in_two_halves_is_the_whole_one(lstm_type):
    net, x = get_lstm(lstm_type, IN, H, 2), torch.randn(T, B, IN)
    whole, after = net(x)
    for as_list in (True, False):
        output, state = halves(net, x, list_next_state=as_list)
        assert torch.allclose(output, whole, atol=1e-6)
        for a, b in zip(state, after, strict=True):
            for p, q in zip(a, b, strict=True):
                assert torch.allclose(p, q, atol=1e-6)


@pytest.mark.parametrize("lstm_type", ["normal", "pytorch", "gru"])
def test_states_in_a_list_are_one_per_row_and_none_is_zero(lstm_type):
    net, x = get_lstm(lstm_type, IN, H, 2), torch.randn(T, B, IN)
    _, states = net(x)
    assert len(states) == B
    first = states[0] if lstm_type == "gru" else states[0][0]
    assert first.shape == (2, 1, H)
    order = [2, 0, 1]
    mixed = [None, states[1], states[2]]
    expected, _ = net(x, mixed)
    shuffled, _ = net(x[:, order], [mixed[i] for i in order])
    assert torch.allclose(shuffled, expected[:, order], atol=1e-6)
    assert torch.allclose(expected[:, :1], net(x[:, :1])[0], atol=1e-6)
    assert not torch.allclose(expected[:, 1:2], net(x[:, 1:2])[0], atol=1e-3)


def test_dropout_is_between_layers_while_training():
    net, x = LSTM(IN, H, 2, dropout=0.5), torch.randn(T, B, IN)
    assert not torch.allclose(net(x)[0], net(x)[0])
    net.eval()
    without = LSTM(IN, H, 2)
    without.load_state_dict(copy.deepcopy(net.state_dict()))
    assert torch.allclose(net(x)[0], without(x)[0], atol=1e-6)
    single = LSTM(IN, H, 1, dropout=0.5)
    assert torch.allclose(single(x)[0], single(x)[0])


def test_get_lstm_by_name():
    assert type(get_lstm("normal", IN, H)) is LSTM and type(get_lstm("gru", IN, H, 2)) is PytorchGRU
    assert type(get_lstm("pytorch", IN, H)) is PytorchLSTM and get_lstm("pytorch", IN, H, 2).num_layers == 2
    assert type(get_lstm("normal", IN, H, norm_type=None).norm_x[0]) is nn.Identity
    with pytest.raises(ConfigError, match="unknown lstm_type 'pytorh'; did you mean 'pytorch'"):
        get_lstm("pytorh", IN, H)


@pytest.mark.parametrize("kind", [LSTM, PytorchLSTM, PytorchGRU])
def test_wrong_shapes_are_told(kind):
    net, x, name = kind(IN, H), torch.ones(T, B, IN), kind.__name__
    with pytest.raises(SpecError, match=rf"{name}: 'inputs' has shape \[3, 5\], expected \['any', 'any', 5\]"):
        net(x[0])
    h = torch.ones(2, B, H)
    with pytest.raises(SpecError, match=rf"{name}: 'prev_state h' has shape \[2, 3, 6\], expected \[1, 3, 6\]"):
        net(x, h if kind is PytorchGRU else (h, h))
    with pytest.raises(SpecError, match=rf"{name}: 'prev_state' is a list of 2, expected one entry for each of 3 rows"):
        net(x, [None, None])
    with pytest.raises(ConfigError, match=rf"{name}: num_layers is 0, expected at least 1"):
        kind(IN, H, 0)
    if kind is not PytorchGRU:
        with pytest.raises(SpecError, match=rf"{name}: 'prev_state' holds a Tensor, expected a pair \(h, c\)"):
            net(x, h)
