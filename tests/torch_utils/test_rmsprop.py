"""RMSprop against torch's and a slow twin, with the guards of Adam."""

import copy
import json
import math

import pytest
import torch
from torch_utils.optimizer_tool import (
    GUARDS,
    KINDS,
    OPTIONS,
    flat,
    keywords,
    make_gradients,
    make_params,
    run,
)

from nervex.torch_utils.optimizer import Adam, RMSprop
from nervex.torch_utils.state_tree import decode_state, encode_state
from nervex.utils.errors import CheckpointError, ConfigError


def slow_rmsprop(gradients, *, eps_inside, centered, momentum, eps=0.01, alpha=0.9, lr=0.1, weight_decay=0.0):
    """The equations of ``RMSprop`` on a flat list of floats."""
    w = flat(make_params())
    v, m, b = ([0.0] * len(w) for _ in range(3))
    for grads in gradients:
        for i, x in enumerate(flat(grads)):
            g = x + weight_decay * w[i]
            v[i] = alpha * v[i] + (1 - alpha) * g * g
            m[i] = alpha * m[i] + (1 - alpha) * g
            square = v[i] - m[i] ** 2 if centered else v[i]
            d = math.sqrt(square + eps) if eps_inside else math.sqrt(square) + eps
            b[i] = momentum * b[i] + g / d
            w[i] -= lr * b[i]
    return w


_RMSPROP_GRID = [
    {"momentum": momentum, "centered": centered, "weight_decay": weight_decay}
    for momentum, centered, weight_decay in ((0, False, 0), (0.7, False, 0.1), (0, True, 0.1), (0.7, True, 0))
]


class TestRMSprop:
    @pytest.mark.parametrize("options", _RMSPROP_GRID)
    def test_with_eps_outside_of_the_root_it_is_torchs(self, options):
        options = {"eps": 0.01, "alpha": 0.9, **options}
        ours, _ = run(make_gradients(), optimizer_class=RMSprop, **options)
        params = make_params()
        reference = torch.optim.RMSprop(params, lr=0.1, foreach=False, **options)
        for grads in make_gradients():
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            reference.step()
        assert ours == pytest.approx(flat(params), abs=1e-12)

    @pytest.mark.parametrize("eps_inside", [False, True])
    @pytest.mark.parametrize("options", _RMSPROP_GRID)
    def test_against_the_slow_twin(self, options, eps_inside):
        ours, _ = run(make_gradients(), optimizer_class=RMSprop, eps=0.01, alpha=0.9, eps_inside=eps_inside, **options)
        assert ours == pytest.approx(slow_rmsprop(make_gradients(), eps_inside=eps_inside, **options), abs=1e-12)
        other, _ = run(
            make_gradients(), optimizer_class=RMSprop, eps=0.01, alpha=0.9, eps_inside=not eps_inside, **options
        )
        assert ours != pytest.approx(other, abs=1e-3)

    def test_the_floor_of_the_divisor(self):
        """A first gradient far below ε moves by lr·g/√ε with ε inside of the root, by lr·g/ε outside."""
        for eps_inside, divisor in ((True, 0.1), (False, 0.01)):
            param = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
            optimizer = RMSprop([param], lr=1.0, eps=0.01, eps_inside=eps_inside)
            param.grad = torch.full_like(param, 1e-6)
            optimizer.step()
            assert -param.item() == pytest.approx(1e-6 / divisor, rel=1e-3)

    def test_a_constant_gradient_has_no_deviation(self):
        """v − m² falls below 0 by rounding: without a floor that is not a number."""
        param = torch.nn.Parameter(torch.zeros(64))
        optimizer = RMSprop([param], alpha=0.5, centered=True)
        for _ in range(60):
            param.grad = torch.linspace(0.1, 3.3, 64)
            optimizer.step()
        assert torch.isfinite(param).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_has_the_guards(self, kind):
        """What the guards leave of a gradient is the same under both optimizers, when their decays are."""
        for prefix, option in (("clip", "grad_clip_type"), ("ignore", "grad_ignore_type")):
            left = {}
            for cls, decay in ((Adam, {"betas": (0.9, 0.95)}), (RMSprop, {"alpha": 0.95})):
                params = make_params()
                optimizer = cls(params, **{option: f"{prefix}_{kind}"}, **keywords(prefix, OPTIONS), **decay)
                left[cls] = []
                for grads in make_gradients():
                    for p, g in zip(params, grads, strict=True):
                        p.grad = g.clone()
                    optimizer.step()
                    left[cls] += flat([p.grad for p in params])
            assert left[Adam] == left[RMSprop] != flat([g for grads in make_gradients() for g in grads])

    @pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "centered": True, "eps_inside": True}])
    def test_a_saved_one_goes_on_bit_for_bit(self, options):
        options = {**options, **{k: v for k, v in GUARDS.items() if k != "betas"}}
        gradients = make_gradients()
        whole_params, params = make_params(), make_params()
        run(gradients, whole_params, RMSprop, **options)
        _, first = run(gradients[:7], params, RMSprop, **options)
        structure, tensors = encode_state(first.state_dict())
        second = RMSprop(params, lr=9.0, **options)
        second.load_state_dict(decode_state(json.loads(json.dumps(structure)), tensors))
        for grads in gradients[7:]:
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            second.step()
        assert all(torch.equal(a, b) for a, b in zip(params, whole_params, strict=True))
        assert str(copy.deepcopy(second).state_dict()) == str(second.state_dict())

    def test_state_of_torchs_rmsprop_is_taken(self):
        params = make_params()
        plain = torch.optim.RMSprop(params, lr=0.3)
        for p in params:
            p.grad = torch.ones_like(p)
        plain.step()
        ours = RMSprop(params, eps_inside=True, **{k: v for k, v in GUARDS.items() if k != "betas"})
        ours.load_state_dict(plain.state_dict())
        ours.step()
        assert ours.param_groups[0]["lr"] == 0.3 and ours.param_groups[0]["eps_inside"] is True
        with pytest.raises(CheckpointError, match=r"parameter 1 of shape \(2, 2\), here it is \(\)"):
            RMSprop([make_params()[i] for i in (0, 2, 1)]).load_state_dict(plain.state_dict())

    def test_groups_hooks_and_closures(self):
        params = make_params()
        optimizer = RMSprop([{"params": params[:2]}, {"params": [params[2]], "lr": 0.5}], lr=0.1, eps=0.0)
        calls = []
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))

        def closure():
            for p in (params[0], params[2]):
                p.grad = torch.full_like(p, 2.0)
            return 7.0

        assert optimizer.step(closure) == 7.0 and calls == ["pre"]
        assert flat(params) == pytest.approx([-0.5] * 3 + [1.5] * 4 + [2.5 - 5])  # lr·g/√(0.01·g²)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": 1.0}, "RMSprop: alpha is 1.0, expected less than 1"),
            ({"momentum": -0.1}, "RMSprop: momentum is -0.1, expected at least 0"),
            ({"lr": float("nan")}, "RMSprop: lr is nan, expected at least 0"),
            ({"grad_clip_type": "clip_nrom"}, "unknown grad_clip_type 'clip_nrom'; did you mean 'clip_norm'?"),
        ],
    )
    def test_bad_options_are_named(self, options, message):
        with pytest.raises(ConfigError) as e:
            RMSprop(make_params(), **options)
        assert message in str(e.value)
