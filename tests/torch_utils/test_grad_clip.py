"""The guard by itself; ``test_optimizer.py`` holds it against a slow twin inside of the optimizers."""

import math

import pytest
import torch

from nervex.torch_utils.grad_clip import GradGuard, grad_ignore_norm, grad_ignore_value
from nervex.utils.errors import CheckpointError, ConfigError


def params_of(*gradients):
    params = [torch.nn.Parameter(torch.zeros(len(g))) for g in gradients]
    for p, g in zip(params, gradients, strict=True):
        p.grad = torch.tensor(g)
    return params


def guarded(guard, *gradients):
    params = params_of(*gradients)
    guard.apply(params)
    return [p.grad.tolist() for p in params]


def test_value():
    guard = GradGuard(0.9, grad_clip_type="clip_value", clip_value=2.0)
    assert guarded(guard, [1.0, -5.0], [3.0]) == [[1, -2], [2]]


def test_norm_is_that_of_all_gradients():
    guard = GradGuard(0.9, grad_clip_type="clip_norm", clip_value=1.0)
    (a, b), (c,) = guarded(guard, [2.0, 3.0], [6.0])  # norm 7
    assert [a, b, c] == pytest.approx([2 / 7, 3 / 7, 6 / 7])
    assert guarded(guard, [0.3], [0.4]) == [pytest.approx([0.3]), pytest.approx([0.4])]


def test_momentum_is_that_of_the_gradients_before():
    guard = GradGuard(0.5, grad_clip_type="clip_momentum", clip_coef=2.0, clip_momentum_timestep=1)
    assert guarded(guard, [3.0, 1.0]) == [[3, 1]]
    assert guarded(guard, [100.0, 1.5]) == [[6, 1.5]]  # 2·√9, below 2·√1


def test_ignored_gradients_are_zero_and_counted():
    guard = GradGuard(0.9, grad_ignore_type="ignore_norm", ignore_value=5.0)
    assert guarded(guard, [3.0], [4.0]) == [[3], [4]]
    assert guarded(guard, [3.0], [4.5]) == [[0], [0]]
    assert guarded(guard, [float("nan")], [0.0]) == [[0], [0]]
    assert guard.ignored_count == 2


def test_without_options_nothing_happens():
    guard = GradGuard(0.9)
    assert guarded(guard, [1e9], [float("inf")]) == [[1e9], [float("inf")]]
    assert guard.ignored_count == 0
    guard.apply([])


def test_state_round_trip():
    options = {"grad_clip_type": "clip_momentum", "clip_coef": 2.0, "clip_momentum_timestep": 1}
    guard, other = GradGuard(0.5, **options), GradGuard(0.5, **options)
    guarded(guard, [3.0, 1.0])
    other.load_state_dict(guard.state_dict(), torch.device("cpu"))
    assert guarded(other, [100.0, 1.5]) == [[6, 1.5]]
    with pytest.raises(CheckpointError, match="saved with grad_clip_type=clip_momentum, this one has None"):
        GradGuard(0.5).load_state_dict(guard.state_dict(), torch.device("cpu"))


def test_a_threshold_that_is_missing():
    with pytest.raises(ConfigError, match="'clip_value' needs a positive clip_value, got None; set clip_value"):
        GradGuard(0.9, grad_clip_type="clip_value")


@pytest.mark.parametrize("norm_type, norm", [(2, 5.0), (1, 7.0), (math.inf, 4.0)])
def test_grad_ignore_norm_zeroes_all_or_nothing(norm_type, norm):
    for limit, kept in ((norm + 0.1, True), (norm - 0.1, False)):
        params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
        params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([-4.0])
        grad_ignore_norm(iter(params), limit, norm_type)
        assert [params[0].grad.item(), params[1].grad.item()] == ([3.0, -4.0] if kept else [0.0, 0.0])
        assert params[2].grad is None


def test_grad_ignore_value_looks_at_each_element():
    for limit, kept in ((4.0, True), (3.9, False)):
        params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([-4.0])
        grad_ignore_value(params, limit)
        assert [p.grad.item() for p in params] == ([3.0, -4.0] if kept else [0.0, 0.0])


@pytest.mark.parametrize("ignore", [grad_ignore_norm, grad_ignore_value])
def test_grad_ignore_takes_what_is_not_finite_for_too_large(ignore):
    params = [torch.nn.Parameter(torch.zeros(2))]
    params[0].grad = torch.tensor([float("nan"), 1.0])
    ignore(params, 100.0)
    assert params[0].grad.tolist() == [0.0, 0.0]
    with pytest.raises(ConfigError, match="needs a positive ignore_value, got 0"):
        ignore(params, 0)
