"""A network of the user's own, named in the configuration."""

from pathlib import Path

import pytest
import torch

import nervex
from nervex.config.source import ConfigSource, apply_overrides, read_source
from nervex.entry import serial_pipeline
from nervex.entry.compile_config import compile_config
from nervex.utils.errors import ConfigError

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, obs_dim, action_dim, width=32):
        super().__init__()
        self.body = torch.nn.Linear(obs_dim, width)
        self.logit = torch.nn.Linear(width, action_dim)
        self.value = torch.nn.Linear(width, 1)

    def forward(self, x):
        hidden = torch.tanh(self.body(x["obs"]))
        return {"logit": self.logit(hidden), "value": self.value(hidden).squeeze(-1)}
"""

YAML = """
env: {env_type: gymnasium, env_id: CartPole-v1, actor_env_num: 2, evaluator_env_num: 1}
policy:
  policy_type: ppo
  model_type: net.py:Net
  model: {width: 7}
  learn: {batch_size: 16, epoch_per_collect: 1}
  collect: {traj_len: 16}
evaluator: {n_episode: 1}
max_env_step: 60
"""


@pytest.fixture
def config(tmp_path: Path) -> ConfigSource:
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(YAML, encoding="utf-8")
    return read_source(tmp_path / "own.yaml")


def test_it_is_trained_resumed_and_served(config: ConfigSource, tmp_path: Path) -> None:
    outcome = serial_pipeline(config, run_dir=tmp_path / "run", show=False)
    assert type(outcome.policy.model).__name__ == "Net" and outcome.policy.model.body.out_features == 7
    assert nervex.load(tmp_path / "run").act(torch.zeros(4)) in (0, 1)  # config.yaml of the run leads back to the file
    serial_pipeline(
        apply_overrides(read_source(tmp_path / "run" / "config.yaml"), ["max_env_step=90"]),
        run_dir=tmp_path / "run", resume=True, show=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.model.widht=3", "unknown key 'policy.model.widht'.*did you mean 'width'"),
        ("policy.model_type=Net", "'policy.model_type'.* is 'Net'; expected 'module:Name' or 'file.py:Name'"),
        ("policy.model_type=no_such_module:Net", "cannot import 'no_such_module'"),
        ("policy.model_type=torch.nn:Linaer", "torch.nn has no 'Linaer'; did you mean 'Linear'"),
    ],
)
def test_wrong_names(config: ConfigSource, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compile_config(apply_overrides(config, [override]))
