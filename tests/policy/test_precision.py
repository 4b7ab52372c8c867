"""Precision of products: what is granted, and how far results move."""

import logging

import pytest
import torch
from policy.policy_cases import CASES, collected, compiled_case

from nervex.model.mlp import EnsembleMLP, perceptron
from nervex.policy import create_policy
from nervex.torch_utils import precision as module
from nervex.torch_utils.precision import autocast_dtype, matmul_error, set_matmul_precision
from nervex.utils.tree import tree_map

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.set_float32_matmul_precision("highest")


def test_float32_products_have_float32_errors():
    assert 1e-6 < matmul_error("highest") < 1e-3
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("medium", "granted"), [(4e-5, True), (0.15, False)])
def test_medium_is_granted_where_it_is_as_exact(monkeypatch, caplog, medium, granted):
    monkeypatch.setattr(module, "matmul_error", {"highest": 4e-5, "medium": medium}.get)
    assert set_matmul_precision("medium") is granted
    assert torch.get_float32_matmul_precision() == ("medium" if granted else "highest")
    assert ("'medium' is off by up to 0.1 on this processor, where float32 is by 4e-05" in caplog.text) is not granted
    assert set_matmul_precision("fp32") and torch.get_float32_matmul_precision() == "highest"


def test_bf16_needs_a_processor_that_has_it(monkeypatch, caplog):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: True)
    assert autocast_dtype("bf16", CPU) is torch.bfloat16 and autocast_dtype("fp32", CPU) is None
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: False)
    assert autocast_dtype("bf16", CPU) is None
    assert "this processor has no bfloat16 instructions; computing in fp32" in caplog.text


@pytest.mark.parametrize("build", [lambda: perceptron(3, [64], 2), lambda: EnsembleMLP(2, 3, [64], 2)])
def test_outputs_are_float32_and_finer_than_bfloat16(build):
    torch.manual_seed(0)
    network, x = build(), torch.randn(50, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x)
    assert output.dtype == torch.float32
    assert not torch.equal(output, output.bfloat16().float())
    assert 1e-5 < (output - network(x)).abs().max() < 2e-2


@pytest.mark.parametrize("name", CASES)
def test_bf16_updates_are_near_the_float32_ones(name, monkeypatch):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: True)
    compiled = compiled_case(name)
    batch = collected(compiled, 1)[1][0]
    exact = create_policy(compiled.cfg.policy)
    learn = {**CASES[name]["policy"]["learn"], "precision": "bf16"}
    coarse = create_policy(compiled_case(name, learn=learn).cfg.policy)
    coarse.load_weights(exact.model.state_dict())
    outputs = []
    for policy in (exact, coarse):
        torch.manual_seed(3)
        mode = policy.learn_mode
        outputs.append(mode.forward(mode.data_preprocess(tree_map(torch.clone, batch))))
    expected, found = (torch.as_tensor(output["total_loss"]) for output in outputs)
    assert found.dtype == torch.float32
    assert abs(float(found) - float(expected)) <= 0.05 * abs(float(expected)) + 0.05
    assert all(p.dtype == torch.float32 for p in coarse.model.parameters())
    assert float(found) != float(expected)


def test_a_rollout_is_acted_and_learned_in_one_precision(monkeypatch, caplog):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: True)
    learn = {**CASES["ppo"]["policy"]["learn"], "precision": "bf16"}
    compiled = compiled_case("ppo", learn=learn)
    batch = collected(compiled, 1)[1][0]
    policy = create_policy(compiled.cfg.policy)
    parts_policy = collected(compiled, 1)[0].policy
    policy.load_weights(parts_policy.model.state_dict())
    mode = policy.learn_mode
    output = mode.forward(mode.data_preprocess(batch))
    assert float(output["clipfrac"]) == 0 and abs(float(output["approx_kl"])) < 1e-6


def test_an_unknown_precision_is_refused():
    with pytest.raises(Exception, match="precision"):
        compiled_case("dqn", learn={"precision": "fp16"})


def test_the_log_is_quiet_otherwise(caplog):
    with caplog.at_level(logging.DEBUG, "nervex"):
        assert set_matmul_precision("bf16") and set_matmul_precision("fp32")
    assert caplog.text == ""
