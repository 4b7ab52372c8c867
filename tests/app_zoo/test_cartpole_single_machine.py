"""The complete example of the quickstart."""

import runpy

import pytest
import torch

from app_zoo.classic_control.cartpole.entry.cartpole_single_machine import cartpole_main
from app_zoo.classic_control.cartpole.entry.cartpole_single_machine.cartpole_main import FCDQN, main


@pytest.mark.parametrize("dueling", [False, True])
def test_the_network_with_and_without_dueling(dueling):
    torch.manual_seed(0)
    net = FCDQN(4, 3, hidden_dim_list=(8,), dueling=dueling)
    obs = torch.randn(5, 4)
    logit = net({"obs": obs})["logit"]
    hidden = torch.relu(obs @ net.main[0].weight.T + net.main[0].bias)
    adv = hidden @ net.pred.weight.T + net.pred.bias
    if dueling:  # the mean of the action values is the state's value
        torch.testing.assert_close(logit.mean(dim=1, keepdim=True), net.value(hidden))
        torch.testing.assert_close(logit - logit.mean(dim=1, keepdim=True), adv - adv.mean(dim=1, keepdim=True))
    else:
        torch.testing.assert_close(logit, adv)


def test_the_script(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cartpole_main.py", "--seed", "1", "--max-env-step", "60"])
    runpy.run_path(cartpole_main.__file__, run_name="__main__")
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("max_env_step: return ") and "over 10 episodes after 6" in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.learning
def test_it_learns_in_a_small_budget():
    """Untrained, an episode is of about 10 steps."""
    result = main(seed=0, cfg={"max_env_step": 4000, "evaluator": {"eval_freq": 60, "n_episode": 5}})
    assert result.env_step >= 4000 and result.best_eval_return > 150
