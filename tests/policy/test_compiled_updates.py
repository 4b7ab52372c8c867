"""Compiled updates against eager ones, on the same data, weights and random numbers."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from policy.policy_cases import CASES, collected, compiled_case

from nervex.policy import create_policy
from nervex.torch_utils.compiled import CompiledFunction, signature, tensor_function, tensor_functions
from nervex.torch_utils.optimizer import Adam, RMSprop
from nervex.utils.tree import tree_map

pytestmark = pytest.mark.usefixtures("compiling")
QUICK = ("dqn", "sac")


def cases():
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]


def learn(policy, batch):
    mode = policy.learn_mode
    return mode.forward(mode.data_preprocess(tree_map(torch.clone, batch)))


@pytest.mark.parametrize("name", cases())
def test_compiled_updates_are_the_eager_ones(name, caplog):
    compiled = compiled_case(name)
    batches = collected(compiled, 4)[1]
    eager = create_policy(compiled.cfg.policy)
    source = compiled_case(name, learn={**CASES[name]["policy"]["learn"], "compile": True})
    quick = create_policy(source.cfg.policy)
    quick.load_weights(eager.model.state_dict())
    with caplog.at_level(logging.INFO, "nervex"):
        for batch in batches:
            torch.manual_seed(7)
            expected = learn(eager, batch)
            torch.manual_seed(7)
            found = learn(quick, batch)
            assert found.keys() == expected.keys()
            for key in expected:
                value = torch.as_tensor(expected[key])
                torch.testing.assert_close(torch.as_tensor(found[key]), value, rtol=1e-4, atol=1e-5, msg=key)
    # Adam's first steps are the sign of a gradient, whatever its size: rounding of one near 0 shows in full
    for key, value in eager.model.state_dict().items():
        torch.testing.assert_close(quick.model.state_dict()[key], value, rtol=1e-3, atol=2e-4, msg=key)
    assert "runs eagerly" not in caplog.text
    assert caplog.text.count("compiled in") >= len(tensor_functions(type(quick)))


class Sum(torch.nn.Module):
    """A little policy: one weight per input, and a loss."""

    def __init__(self, make, **kwargs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        self.optimizer = make([self.weight], **kwargs)

    @tensor_function
    def update(self, data):
        loss = ((data["x"] @ self.weight - data["y"]) ** 2).mean()
        self.optimizer.descend(loss)
        return {"loss": loss.detach()}


def data_of(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(size, 3, generator=generator), "y": torch.randn(size, generator=generator)}


def compiled_update(policy):
    return CompiledFunction(policy.update, policy, [policy.optimizer], torch.device("cpu"))


OPTIMIZERS = [
    (Adam, {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
    (Adam, {"lr": 0.1, "weight_decay": 0.1, "optim_type": "adamw", "grad_clip_type": "clip_norm", "clip_value": 0.5}),
    (RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True, "grad_clip_type": "clip_value", "clip_value": 0.3}),
    (RMSprop, {"lr": 0.1, "eps_inside": True, "grad_ignore_type": "ignore_norm", "ignore_value": 8.0}),
]


@pytest.mark.parametrize(("make", "kwargs"), OPTIMIZERS)
def test_every_optimizer_takes_the_same_steps_compiled(make, kwargs):
    eager, quick = Sum(make, **kwargs), Sum(make, **kwargs)
    update = compiled_update(quick)
    for step in range(6):
        rate = 0.1 / (1 + step)
        eager.optimizer.param_groups[0]["lr"] = quick.optimizer.param_groups[0]["lr"] = rate
        expected, found = eager.update(data_of(4, step)), update(data_of(4, step))
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(quick.weight, eager.weight, rtol=1e-5, atol=1e-6)
    if "grad_ignore_type" in kwargs:
        assert eager.optimizer.ignored_count == quick.optimizer.ignored_count > 0
    # and either goes on from the state of the other
    state = quick.optimizer.state_dict()
    other = Sum(make, **kwargs)
    other.weight.data.copy_(quick.weight.data)
    other.optimizer.load_state_dict(state)
    resumed = compiled_update(other)
    update(data_of(4, 9))
    resumed(data_of(4, 9))
    torch.testing.assert_close(other.weight, quick.weight, rtol=0, atol=0)


def test_loading_a_state_into_a_compiled_optimizer_counts():
    policy = Sum(Adam, lr=0.1)
    update = compiled_update(policy)
    start, state = policy.weight.detach().clone(), policy.optimizer.state_dict()
    first = [update(data_of(4, i))["loss"] for i in range(3)]
    policy.weight.data.copy_(start)
    policy.optimizer.load_state_dict(state)
    assert [update(data_of(4, i))["loss"] for i in range(3)] == first


def test_policies_of_one_class_and_other_shapes_do_not_meet(caplog):
    first, second = Sum(Adam, lr=0.1), Sum(Adam, lr=0.1, weight_decay=1.0)
    updates = [compiled_update(first), compiled_update(second)]
    eager = [Sum(Adam, lr=0.1), Sum(Adam, lr=0.1, weight_decay=1.0)]
    with caplog.at_level(logging.INFO, "nervex"):
        for size in (4, 7, 4):
            for update, one in zip(updates, eager, strict=True):
                update(data_of(size, size))
                one.update(data_of(size, size))
    torch.testing.assert_close(first.weight, eager[0].weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(second.weight, eager[1].weight, rtol=1e-5, atol=1e-6)
    assert caplog.text.count("Sum.update compiled in") == 4  # two shapes of each


class Branching(Sum):
    @tensor_function
    def update(self, data):
        if data["x"].sum() > 0:
            return {"loss": data["x"].sum()}
        return super().update(data)


def test_what_cannot_be_compiled_runs_eagerly_and_says_so_once(caplog):
    eager, quick = Branching(Adam, lr=0.1), Branching(Adam, lr=0.1)
    update = compiled_update(quick)
    for seed in range(4):
        torch.testing.assert_close(update(data_of(4, seed))["loss"], eager.update(data_of(4, seed))["loss"])
    torch.testing.assert_close(quick.weight, eager.weight, rtol=0, atol=0)
    lines = [record.getMessage() for record in caplog.records if "runs eagerly" in record.getMessage()]
    assert len(lines) == 1 and lines[0].startswith("policy.learn.compile: Branching.update runs eagerly, it cannot be")


NO_COMPILER = """
import logging, torch
from policy.test_compiled_updates import Adam, Sum, compiled_update, data_of
logging.basicConfig(level=logging.WARNING)
quick, eager = Sum(Adam, lr=0.1), Sum(Adam, lr=0.1)
update = compiled_update(quick)
for seed in range(2):
    update(data_of(5, seed))
    eager.update(data_of(5, seed))
assert torch.equal(quick.weight, eager.weight)
"""


def test_without_a_compiler_it_runs_eagerly_and_says_so(tmp_path):
    env = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
           "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", NO_COMPILER], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Sum.update runs eagerly, it cannot be compiled") == 1


def test_momentum_guards_are_not_compiled(caplog):
    policy = Sum(Adam, lr=0.1, grad_clip_type="clip_momentum")
    update = compiled_update(policy)
    update(data_of(4, 0))
    assert "since a momentum guard on gradients counts them" in caplog.text


def test_too_many_shapes_end_in_eager_updates(caplog, monkeypatch):
    monkeypatch.setattr("nervex.torch_utils.compiled._MAX_SIGNATURES", 1)
    update = compiled_update(Sum(Adam, lr=0.1))
    for size in (2, 3, 4):
        update(data_of(size, 0))
    assert caplog.text.count("more than 1 combinations of shapes") == 1


def test_signature_tells_data_apart():
    data = data_of(4, 0)
    assert signature(data) == signature(data_of(4, 1)) != signature(data_of(5, 1))
    assert signature({**data, "weight": None}) != signature({**data, "weight": torch.ones(4)})
    assert signature({"x": torch.ones(4, 4).T[:2]}) != signature({"x": torch.ones(2, 4)})
    assert signature({"x": torch.ones(2).double()}) != signature({"x": torch.ones(2)})
    assert tensor_functions(Sum) == ["update"]


def test_a_policy_without_tensor_functions_says_so(caplog):
    class Plain(type(create_policy(compiled_case("dqn").cfg.policy))):
        _update = None

    cfg = compiled_case("dqn", learn={**CASES["dqn"]["policy"]["learn"], "compile": True}).cfg.policy
    Plain(cfg)
    assert "policy Plain marks no method with nervex.torch_utils.tensor_function" in caplog.text
