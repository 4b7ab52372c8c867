"""What the state of a policy holds."""

import pytest
import torch
from torch import nn

from nervex.policy import DQNPolicy
from nervex.torch_utils.state_files import load_state, save_state
from nervex.utils.errors import CheckpointError

CONFIG = {"policy_type": "dqn", "model": {"obs_dim": 4, "action_dim": 3, "embedding_dim": 8, "hidden_dim_list": [8]}}


class KeepingPolicy(DQNPolicy):
    """Keeps one thing of each kind."""

    state_names = ("count",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.count = 0
        self.log_alpha = torch.zeros(2, requires_grad=True)
        self.critic = nn.Linear(2, 1)
        self.schedule = torch.optim.lr_scheduler.StepLR(self._optimizer, 3)


def test_a_state_holds_all_that_a_policy_keeps(tmp_path):
    policy, other = KeepingPolicy(CONFIG), KeepingPolicy(CONFIG)
    policy.count = 5
    with torch.no_grad():
        policy.log_alpha.fill_(0.5)
    policy.schedule.last_epoch = 7
    save_state(tmp_path / "state", policy.state_dict())
    state = load_state(tmp_path / "state")[0]
    parts = {"_agent", "_collect_agent", "_eval_agent", "_optimizer", "count", "log_alpha", "critic", "schedule"}
    assert state.keys() == parts
    leaf = other.log_alpha
    other.load_state_dict(state)
    assert other.count == 5 and other.schedule.last_epoch == 7
    assert other.log_alpha is leaf and leaf.requires_grad and leaf.tolist() == [0.5, 0.5]
    assert other.critic.weight.equal(policy.critic.weight)
    for wrong in ({k: v for k, v in state.items() if k != "critic"}, {**state, "more": 1}):
        with pytest.raises(CheckpointError, match=r"the saved state of policy KeepingPolicy has the parts \["):
            other.load_state_dict(wrong)
