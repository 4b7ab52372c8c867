"""A trained policy without env or YAML: single and batched observations."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nervex
from nervex.entry import serial_pipeline
from nervex.entry.catalog import find_config
from nervex.policy import create_policy
from nervex.torch_utils.checkpoint import load_weights
from nervex.utils.config_helper import read_config
from nervex.utils.errors import CheckpointError, RunFolderError, SpecError


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = read_config(find_config("cartpole_dqn"))
    cfg.max_env_step = 400
    cfg.evaluator.n_episode = 1
    cfg.policy.model.norm_type = None  # so that the network below is easily computed by hand
    path = tmp_path_factory.mktemp("serve") / "run"
    serial_pipeline(cfg, seed=0, run_dir=path, show=False)
    return path


def greedy(run_dir: Path, obs: np.ndarray) -> np.ndarray:
    """The action of the network, computed by hand from the saved weights."""
    w = {k: v.numpy() for k, v in load_weights(run_dir).items()}
    x = obs
    for layer in (0, 2, 4):
        x = np.maximum(x @ w[f"encoder.main.{layer}.weight"].T + w[f"encoder.main.{layer}.bias"], 0)

    def stream(name: str) -> np.ndarray:
        hidden = np.maximum(x @ w[f"head.0.{name}.main.0.weight"].T + w[f"head.0.{name}.main.0.bias"], 0)
        return hidden @ w[f"head.0.{name}.main.2.weight"].T + w[f"head.0.{name}.main.2.bias"]

    advantage = stream("advantage")
    return (stream("value") + advantage - advantage.mean(axis=1, keepdims=True)).argmax(axis=1)


def test_single_and_batched_observations_agree_with_the_network(run_dir: Path) -> None:
    policy = nervex.load(run_dir)
    obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32) * 3
    batch = policy.act(obs)
    assert batch.shape == (64,) and set(batch.tolist()) == {0, 1}
    assert (batch == greedy(run_dir, obs)).all()
    assert [policy.act(o) for o in obs] == batch.tolist()
    single = policy.act(obs[0].tolist())
    assert type(single) is int
    assert policy.act(torch.from_numpy(obs)).tolist() == batch.tolist()
    assert policy.act(obs[:1]).shape == (1,)


def test_stochastic_actions_differ_sometimes(run_dir: Path) -> None:
    policy = nervex.load(run_dir)
    torch.manual_seed(0)
    obs = np.zeros((4000, 4), np.float32)
    actions = policy.act(obs, deterministic=False)
    other = (actions != policy.act(obs[0])).mean()
    assert 0.015 < other < 0.035  # eps 0.05, half of it takes the other action


@pytest.mark.parametrize("obs", [np.zeros(5), np.zeros((2, 3, 4)), 1.0, {"a": np.zeros(4)}])
def test_a_wrong_observation_is_told(run_dir: Path, obs: Any) -> None:
    with pytest.raises((SpecError, TypeError, ValueError)):
        nervex.load(run_dir).act(obs)
    with pytest.raises(SpecError, match=r"obs has shape \[5\], the policy was trained on \[4\]"):
        nervex.load(run_dir).act(np.zeros(5))


def test_a_folder_that_is_no_run_is_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError):
        nervex.load(tmp_path)
    shutil.copytree(run_dir, tmp_path / "copy")
    assert nervex.load(tmp_path / "copy").act(np.zeros(4)) in (0, 1)  # a run folder may be moved
    shutil.rmtree(tmp_path / "copy" / "checkpoints")
    with pytest.raises(CheckpointError):
        nervex.load(tmp_path / "copy")


@pytest.mark.parametrize("policy_type", ["dqn", "ppo"])
def test_normalized_policies_act_in_both_ways(policy_type: str, tmp_path: Path) -> None:
    cfg = {
        "env": {"env_type": "gymnasium", "env_id": "CartPole-v1", "actor_env_num": 2, "evaluator_env_num": 1},
        "policy": {"policy_type": policy_type, "normalize": {"obs": True, "reward": True}},
        "evaluator": {"n_episode": 1},
        "max_env_step": 300,
    }
    outcome = serial_pipeline(cfg, seed=0, run_dir=tmp_path / "run", show=False)
    section = outcome.policy._cfg.to_dict()
    weights = load_weights(tmp_path / "run")
    assert any("mean" in key for key in weights)
    obs = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    served = nervex.load(tmp_path / "run")
    for deterministic in (False, True, False):
        section["eval"]["deterministic"] = deterministic
        policy = create_policy(section, enable_field=["eval"])
        policy.model.load_state_dict(weights)
        torch.manual_seed(3)
        expected = policy.eval_mode.forward(np.arange(500), {"obs": torch.from_numpy(obs)})["action"]
        torch.manual_seed(3)
        assert served.act(obs, deterministic=deterministic).tolist() == expected.tolist()
    assert (served.act(obs, deterministic=False) != served.act(obs)).any()
