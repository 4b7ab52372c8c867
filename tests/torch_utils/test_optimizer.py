"""Adam and its guards against slow computations on plain floats."""

import copy
import json
import math

import pytest
import torch
from torch_utils.optimizer_tool import (
    GUARDS,
    KINDS,
    OPTIONS,
    SHAPES,
    STEPS,
    flat,
    keywords,
    make_gradients,
    make_params,
    run,
    slow_adam,
)

from nervex.torch_utils.optimizer import Adam, grad_norm
from nervex.torch_utils.state_tree import decode_state, encode_state
from nervex.utils.errors import CheckpointError, ConfigError


def test_without_guards_it_is_torchs_adam():
    for optim_type, torch_class in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        for amsgrad in (False, True):
            options = {"betas": (0.8, 0.95), "eps": 1e-5, "weight_decay": 0.1, "amsgrad": amsgrad}
            ours, _ = run(make_gradients(), optim_type=optim_type, **options)
            params = make_params()
            reference = torch_class(params, lr=0.1, foreach=False, fused=False, **options)
            for grads in make_gradients():
                for p, g in zip(params, grads, strict=True):
                    p.grad = g.clone()
                reference.step()
            assert ours == pytest.approx(flat(params), abs=1e-12)
    assert run(make_gradients(), optim_type="adamw", weight_decay=0.1)[0] != pytest.approx(
        run(make_gradients(), optim_type="adam", weight_decay=0.1)[0], abs=1e-3
    )


def test_the_slow_twin_is_adam():
    assert slow_adam(make_gradients())[0] == pytest.approx(run(make_gradients())[0], abs=1e-12)


@pytest.mark.parametrize("norm_type", [1, 2, 3, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_clip_against_the_slow_twin(kind, norm_type):
    options = {**OPTIONS, "norm_type": norm_type}
    ours, _ = run(make_gradients(), grad_clip_type=f"clip_{kind}", **keywords("clip", options))
    assert ours == pytest.approx(slow_adam(make_gradients(), clip=f"clip_{kind}", clip_options=options)[0], abs=1e-10)
    assert ours != pytest.approx(run(make_gradients())[0], abs=1e-3)


@pytest.mark.parametrize("norm_type", [1, 2, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_ignore_against_the_slow_twin(kind, norm_type):
    options = {**OPTIONS, "value": 20.0, "coef": 3.5, "norm_type": norm_type}
    ours, optimizer = run(make_gradients(), grad_ignore_type=f"ignore_{kind}", **keywords("ignore", options))
    slow, ignored = slow_adam(make_gradients(), ignore=f"ignore_{kind}", ignore_options=options)
    assert ours == pytest.approx(slow, abs=1e-10)
    assert int(optimizer.ignored_count) == ignored and 0 < ignored < STEPS / 2
    assert ours != pytest.approx(run(make_gradients())[0], abs=1e-3)


@pytest.mark.parametrize("clip", KINDS)
@pytest.mark.parametrize("ignore", KINDS)
def test_both_guards_together(clip, ignore):
    ignore_options = {**OPTIONS, "value": 50.0, "coef": 4}
    ours, _ = run(
        make_gradients(),
        betas=(0.9, 0.9),
        grad_clip_type=f"clip_{clip}",
        grad_ignore_type=f"ignore_{ignore}",
        **keywords("clip", OPTIONS),
        **keywords("ignore", ignore_options),
    )
    slow, _ = slow_adam(
        make_gradients(),
        clip=f"clip_{clip}",
        ignore=f"ignore_{ignore}",
        clip_options=OPTIONS,
        ignore_options=ignore_options,
        b2=0.9,
    )
    assert ours == pytest.approx(slow, abs=1e-10)


@pytest.mark.parametrize("kind", ["clip_momentum", "clip_momentum_norm"])
def test_momentum_clip_is_active_after_n_steps_and_not_before(kind):
    constant = [[torch.ones(s, dtype=torch.float64) for s in SHAPES] for _ in range(6)]
    for spike_at in range(6):
        for timestep in (0, 1, 3):
            gradients = copy.deepcopy(constant[: spike_at + 1])
            gradients[spike_at][0] *= 1000
            params = make_params()
            run(gradients, params, grad_clip_type=kind, clip_coef=2, clip_momentum_timestep=timestep)
            active = spike_at >= max(timestep, 1)
            assert (params[0].grad.max() < 999) == active
            if active and kind == "clip_momentum":
                assert params[0].grad.tolist() == pytest.approx([2, 2, 2]) and params[1].grad.eq(1).all()
            if active and kind == "clip_momentum_norm":
                assert float(grad_norm(params)) == pytest.approx(2 * math.sqrt(8))


def test_a_lasting_change_of_scale_is_followed():
    params = make_params()
    optimizer = Adam(params, betas=(0.9, 0.9), grad_ignore_type="ignore_momentum_norm", ignore_momentum_timestep=5)
    for t in range(60):
        for p in params:
            p.grad = torch.full_like(p, 1.0 if t < 20 else 1e4)
        optimizer.step()
    assert 0 < int(optimizer.ignored_count) < 10
    assert float(grad_norm(params)) == pytest.approx(1e4 * math.sqrt(8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 1, 6])
def test_a_gradient_that_is_not_finite_is_ignored_and_forgotten(kind, bad, step):
    gradients = make_gradients(spikes=())
    broken = copy.deepcopy(gradients)
    broken[step][1][0, 1] = bad
    options = {**OPTIONS, "value": 1e6, "coef": 1e6}
    ours, optimizer = run(broken, grad_ignore_type=f"ignore_{kind}", **keywords("ignore", options))
    assert int(optimizer.ignored_count) == 1
    zeroed = copy.deepcopy(gradients)
    for g in zeroed[step]:
        g.zero_()
    assert ours == pytest.approx(run(zeroed)[0], abs=1e-12)


def test_zero_gradients_pass_the_norm_clips():
    zeros = [[torch.zeros(s, dtype=torch.float64) for s in SHAPES]] * 5
    for kind in ("clip_norm", "clip_momentum_norm", "clip_momentum", "clip_value"):
        ours, _ = run(zeros, grad_clip_type=kind, clip_value=1, clip_momentum_timestep=2)
        assert ours == flat(make_params())


def test_parameters_without_a_gradient_are_left_alone():
    params = make_params()
    frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
    optimizer = Adam(
        [{"params": [params[0], frozen]}, {"params": [params[2]], "lr": 0.5}],
        grad_clip_type="clip_momentum",
        grad_ignore_type="ignore_momentum_norm",
        clip_momentum_timestep=1,
    )
    optimizer.step()
    for t in range(4):
        params[0].grad = torch.ones_like(params[0]) if t != 2 else None
        params[2].grad = torch.ones_like(params[2])
        optimizer.step()
    assert frozen.tolist() == [1, 1] and params[0].max() < 0.5 and params[2] < 2.5 - 1.5


def test_it_is_fused_where_torch_can():
    assert Adam(make_params(torch.float32)).param_groups[0]["fused"] is True
    assert Adam([{"params": make_params(), "lr": 1.0}]).param_groups[0]["fused"] is True
    assert Adam(iter(make_params())).param_groups[0]["fused"] is True
    assert Adam(torch.nn.Linear(1, 1).named_parameters()).param_groups[0]["fused"] is True
    assert Adam([torch.zeros(2, dtype=torch.complex64, requires_grad=True)]).param_groups[0]["fused"] is None
    assert Adam(make_params(), lr=0.25).defaults["lr"] == 0.25


@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "optim_type": "adamw", "weight_decay": 0.1}, GUARDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_optimizer_goes_on_bit_for_bit(options, dtype):
    gradients = [[g.to(dtype) for g in step] for step in make_gradients()]
    whole_params = make_params(dtype)
    _, whole = run(gradients, whole_params, **options)
    params = make_params(dtype)
    _, first = run(gradients[:7], params, **options)
    structure, tensors = encode_state(first.state_dict())
    saved = decode_state(json.loads(json.dumps(structure)), {k: t.clone() for k, t in tensors.items()})
    before = copy.deepcopy(saved)
    second = Adam(params, lr=9.0, **options)
    second.load_state_dict(saved)
    for grads in gradients[7:]:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(params, whole_params, strict=True))
    assert second.param_groups[0]["lr"] == 0.1 and torch.equal(second.ignored_count, whole.ignored_count)
    assert str(encode_state(second.state_dict())) == str(encode_state(whole.state_dict()))
    assert str(saved) == str(before), "the loaded state was changed by stepping"


def test_a_copied_optimizer_keeps_its_guards():
    params = make_params()
    _, optimizer = run(make_gradients(), params, **GUARDS)
    clone = copy.deepcopy(optimizer)
    assert str(clone.state_dict()) == str(optimizer.state_dict())
    clone.step()


def test_state_of_torchs_adam_is_taken():
    params = make_params()
    plain = torch.optim.Adam(params, lr=0.3)
    for p in params:
        p.grad = torch.ones_like(p)
    plain.step()
    ours = Adam(params, **GUARDS)
    ours.load_state_dict(plain.state_dict())
    assert ours.param_groups[0]["lr"] == 0.3 and ours.state[params[0]]["step"] == 1


def test_state_of_another_optimizer_is_refused():
    _, optimizer = run(make_gradients(), **GUARDS)
    saved = optimizer.state_dict()
    with pytest.raises(CheckpointError, match=r"saved with grad_clip_type=clip_momentum, this one has None"):
        Adam(make_params()).load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"saved for 3 parameters, this one has 2"):
        Adam(make_params()[:2], **GUARDS).load_state_dict(saved)
    with pytest.raises(CheckpointError, match=r"parameter 1 of shape \(2, 2\), here it is \(\)"):
        Adam([make_params()[i] for i in (0, 2, 1)], **GUARDS).load_state_dict(saved)


def test_a_closure_is_evaluated_before_the_guard():
    param = torch.nn.Parameter(torch.tensor([1.0, 100.0]))
    optimizer = Adam([param], grad_clip_type="clip_norm", clip_value=1.0)

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 10_001
    assert float(grad_norm([param])) == pytest.approx(1)


def test_step_hooks_run_once_also_beside_a_plain_adam():
    torch.optim.Adam(make_params())
    params = make_params()
    optimizer = Adam(params)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert calls == ["pre", "post"]
    assert params[0].requires_grad and params[0].grad_fn is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim_type": "adamm"}, "unknown optim_type 'adamm'; did you mean 'adam'? (known: adam, adamw)"),
        (
            {"grad_clip_type": "clip_nrom"},
            "unknown grad_clip_type 'clip_nrom'; did you mean 'clip_norm'? (known: None, ",
        ),
        ({"grad_ignore_type": "clip_norm"}, "unknown grad_ignore_type 'clip_norm'"),
        ({"grad_norm_type": "l2"}, "unknown grad_norm_type 'l2' (known: None)"),
        ({"grad_clip_type": "clip_norm"}, "'clip_norm' needs a positive clip_value, got None; set clip_value"),
        (
            {"grad_ignore_type": "ignore_value", "ignore_value": 0},
            "'ignore_value' needs a positive ignore_value, got 0",
        ),
        ({"grad_clip_type": "clip_momentum", "clip_coef": -1}, "'clip_momentum' needs a positive clip_coef, got -1"),
        (
            {"grad_ignore_type": "ignore_momentum", "ignore_momentum_timestep": -1},
            "ignore_momentum_timestep is -1; expected 0 or more",
        ),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigError) as e:
        Adam(make_params(), **options)
    assert message in str(e.value)


def test_grad_norm():
    params = make_params()
    assert float(grad_norm(params)) == 0
    params[0].grad = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    params[1].grad = torch.full((2, 2), 2.0, dtype=torch.float64)
    assert float(grad_norm(params)) == 5 and grad_norm(params).shape == ()
    assert float(grad_norm(params, norm_type=1)) == 13
    assert float(grad_norm(iter(params), norm_type=math.inf)) == 2
