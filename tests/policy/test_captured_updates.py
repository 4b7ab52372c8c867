"""Updates and forwards that are played from tapes against those that run as they are written: the same bits."""

import gymnasium
import pytest
import torch
from policy.policy_cases import CASES, collected, compiled_case

from nervex.policy import create_policy
from nervex.policy.dqn import DQNPolicy
from nervex.torch_utils.compiled import tensor_functions
from nervex.utils.tree import tree_map

RECURRENT = {"r2d2": "gradients", "ppo recurrent": "gradients", "impala recurrent": "gradients"}


def policies(name):
    source = {**CASES[name]["policy"]["learn"], "lr_schedule": {"type": "linear", "length": 20}}
    captured = compiled_case(name, learn=source)
    plain = create_policy(compiled_case(name, learn={**source, "capture": False}).cfg.policy)
    played = create_policy(captured.cfg.policy)
    played.load_weights(plain.model.state_dict())
    return captured, plain, played


def learn(policy, batch, seed):
    torch.manual_seed(seed)
    mode = policy.learn_mode
    output = mode.forward(mode.data_preprocess(tree_map(torch.clone, batch)))
    return {key: torch.as_tensor(value).clone() for key, value in output.items()}


def weights(policy):
    return {
        **policy.model.state_dict(),
        **{f"{name} {i}": t for name, part in vars(policy).items() if isinstance(part, torch.optim.Optimizer)
           for i, t in enumerate(part.prepare())},
    }  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_updates_give_the_same_bits(name):
    compiled, plain, played = policies(name)
    for i, batch in enumerate(collected(compiled, 6)[1] * 2):
        expected, found = learn(plain, batch, i), learn(played, batch, i)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), f"{key} in update {i}"
    for key, value in weights(plain).items():
        assert torch.equal(weights(played)[key], value), key
    for parameter, other in zip(played.model.parameters(), plain.model.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, other.grad)
    for function in [getattr(played, name) for name in tensor_functions(type(played))]:
        if name in RECURRENT:  # torch's recurrent layers keep what their backward needs only where one will come
            assert RECURRENT[name] in function.refusal or "takes values" in function.refusal
        else:
            assert function.refusal is None and any(function.tapes)
    assert not any(hasattr(getattr(plain, name), "tapes") for name in tensor_functions(type(plain)))


@pytest.mark.parametrize("name", ["dqn", "sac"])
def test_a_state_that_is_loaded_is_gone_on_with(name):
    compiled, plain, played = policies(name)
    batches = collected(compiled, 6)[1]
    for i, batch in enumerate(batches):
        learn(plain, batch, i)
        learn(played, batch, i)
    resumed = policies(name)[2]
    for policy in (played, resumed):  # one of them with tapes of its former tensors
        policy.model.load_state_dict(plain.model.state_dict())
        policy.load_state_dict(plain.state_dict())
    for i, batch in enumerate(batches):
        expected = learn(plain, batch, i)
        for policy in (played, resumed):
            assert torch.equal(learn(policy, batch, i)["total_loss"], expected["total_loss"])


def acting(capture, **command):
    cfg = compiled_case("dqn", learn={**CASES["dqn"]["policy"]["learn"], "capture": capture}).cfg.policy
    return create_policy(cfg)


def test_acting_gives_the_same_bits_whatever_the_rate_of_exploration():
    plain, played = acting(False), acting(True)
    played.load_weights(plain.model.state_dict())
    space = gymnasium.make("CartPole-v1").observation_space
    for i in range(12):
        lanes = 3 if i % 4 else 2
        obs = torch.randn(lanes, *space.shape)
        outputs = []
        for policy in (plain, played):
            policy.collect_mode.set_setting({"eps": 1 / (i + 1)})
            torch.manual_seed(i)
            with torch.inference_mode():
                outputs.append(policy.collect_mode.forward(range(lanes), {"obs": obs}))
        assert torch.equal(outputs[0]["action"], outputs[1]["action"])
        assert torch.equal(outputs[0]["logit"], outputs[1]["logit"])
        with torch.no_grad():
            for weight in (p for policy in (plain, played) for p in policy.model.parameters()):
                weight.add_(0.01)  # as learning does, in place
    (captured,) = [policy._collect_agent._agents["main"].captured for policy in (played,)]
    assert captured.refusal is None and sum(tape is not None for tape in captured.tapes) == 2
    assert plain._collect_agent._agents["main"].captured is None


class Own(torch.nn.Module):
    """Counts its forwards, which a tape would leave out."""

    def __init__(self, obs_dim, action_dim, **kwargs):
        super().__init__()
        self.layer = torch.nn.Linear(obs_dim, action_dim)
        self.count = 0

    def forward(self, x, **kwargs):
        self.count += 1
        return {"logit": self.layer(x["obs"]) + self.count}


def test_a_network_of_the_users_own_runs_as_it_is_written():
    compiled = compiled_case("dqn")
    policy = create_policy(compiled.cfg.policy, model_type=Own)
    for i, batch in enumerate(collected(compiled, 3)[1]):
        learn(policy, batch, i)
    assert policy.model.count >= 3 and "Own" in policy._update.refusal


def test_a_method_that_is_written_anew_without_the_mark_is_not_captured():
    class Other(DQNPolicy):
        calls = 0

        def _update(self, data):
            type(self).calls += 1
            return super()._update(data)

    compiled = compiled_case("dqn")
    policy = Other(compiled.cfg.policy)
    for i, batch in enumerate(collected(compiled, 4)[1]):
        learn(policy, batch, i)
    assert Other.calls == 4
