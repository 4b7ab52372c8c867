"""Learners by name: what they get of the configuration, and what they do in a run."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nervex.config.source import ConfigSource
from nervex.entry import serial_pipeline
from nervex.entry.compile_config import compile_config
from nervex.utils.errors import ConfigError
from nervex.worker.learner import BaseLearner, create_learner, register_learner


class CountingLearner(BaseLearner):
    """Counts the rows that it learns from."""

    row_num = 0

    def train(self, batch):
        type(self).row_num += len(batch["action"])
        return super().train(batch)


class OwnLearner(BaseLearner):
    def _setup_agent(self):
        self._agent = type("Holder", (), {"model": nn.Linear(self._cfg.size, 1)})()

    def _setup_computation_graph(self):
        self._computation_graph = lambda data, agent: {"total_loss": agent.model(data["obs"]).mean()}


register_learner("registry_test_counting", CountingLearner)
register_learner("registry_test_own", OwnLearner)
DQN = {
    "env": {"env_type": "gymnasium", "env_id": "CartPole-v1", "actor_env_num": 2, "evaluator_env_num": 1},
    "policy": {"policy_type": "dqn", "model": {"hidden_dim_list": [8], "embedding_dim": 8}, "learn": {"batch_size": 6}},
    "evaluator": {"eval_freq": 100, "n_episode": 1},
    "max_train_iter": 5,
}


def test_without_a_type_it_is_the_base():
    learner = create_learner({"learner": {"log_freq": 7}}, "mode")
    assert type(learner) is BaseLearner and learner.policy == "mode" and learner._settings["log_freq"] == 7
    assert type(create_learner({})) is BaseLearner


def test_a_learner_of_a_policy_gets_its_section():
    learner = create_learner({"learner": {"learner_type": "registry_test_counting", "save_freq": 3}}, "mode")
    assert type(learner) is CountingLearner and learner.policy == "mode" and learner._settings["save_freq"] == 3


def test_a_learner_with_an_agent_of_its_own_gets_all():
    learner = create_learner({"size": 2, "learner": {"learner_type": "registry_test_own", "learning_rate": 0.5}})
    before = learner.agent.model.weight.detach().clone()
    learner.train({"obs": torch.ones(4, 2)})
    # Adam's first step is the learning rate, whatever the gradient
    assert torch.allclose(learner.agent.model.weight, before - 0.5, atol=1e-4) and learner.last_iter.val == 1


def test_a_run_with_a_learner_of_ones_own(tmp_path: Path):
    CountingLearner.row_num = 0
    config = {**DQN, "learner": {"learner_type": "registry_test_counting"}}
    serial_pipeline(config, 0, run_dir=tmp_path / "run", show=False)
    assert CountingLearner.row_num == 5 * 6


@pytest.mark.parametrize(
    "name, message",
    [("registry_test_countin", "'learner.learner_type' .*is 'registry_test_countin', no such learner; did you mean "
      "'registry_test_counting'"), ("registry_test_own", "has _setup_agent and takes no policy")],
)  # fmt: skip
def test_bad_types_are_named_before_anything_starts(name, message):
    with pytest.raises(ConfigError, match=message):
        compile_config(ConfigSource.from_dict({**DQN, "learner": {"learner_type": name}}, name="bad"))
