"""BC, CQL and IQL on recorded data whose best actions and values are known."""

import numpy as np
import pytest
import torch

from nervex.data.lanes import LaneBlock
from nervex.data.offline import DatasetBatches, dataset_writer, open_dataset
from nervex.policy import create_policy
from nervex.utils.errors import ConfigError

SMALL = {"obs_dim": 1, "action_dim": 1, "hidden_dim_list": [32]}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def bandit(path, num=800):
    """Episodes of one step: s in [-1, 1], uniform actions, reward 1 − (a − s/2)², then the task ends."""
    rng = np.random.default_rng(0)
    with dataset_writer(path) as writer:
        for _ in range(num):
            s, a = rng.uniform(-1, 1, 2).astype(np.float32)
            obs = np.array([[s], [0]], np.float32)
            writer.add(
                {"obs": obs, "action": np.array([[a]]), "reward": np.array([1 - (a - s / 2) ** 2])}, terminated=True
            )
    return open_dataset(path)


def trained(name, data, num, algo=None, model=SMALL, **learn):
    cfg = {
        "policy_type": name, "model": {**model, **({"action_type": "continuous"} if name == "bc" else {})},
        "learn": {"batch_size": 64, "learning_rate": 0.005, "algo": algo or {}, **learn},
    }  # fmt: skip
    policy = create_policy(cfg)
    for batch in DatasetBatches(data, 64).batches(num):
        policy.learn_mode.forward(policy.learn_mode.data_preprocess(batch))
    return policy


def actions(policy, states):
    mode = policy.eval_mode
    lane_id, data = mode.data_preprocess(LaneBlock(np.arange(len(states)), torch.tensor(states)[:, None]))
    return mode.forward(lane_id, data)["action"].flatten()


STATES = [-0.9, -0.5, 0.0, 0.5, 0.9]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return bandit(tmp_path_factory.mktemp("bandit") / "set")


class TestBandit:
    """Uniform actions have the mean 0; the best one is half the state."""

    @pytest.mark.parametrize("loss", ["nll", "mse"])
    def test_bc_does_what_was_done_on_average(self, data, loss):
        found = actions(trained("bc", data, 200, {"loss": loss}), STATES)
        assert found.abs().max() < 0.2

    def test_iql_does_the_best_that_was_done(self, data):
        found = actions(trained("iql", data, 400, {"beta": 20.0, "expectile": 0.8}), STATES)
        assert torch.allclose(found, torch.tensor(STATES) / 2, atol=0.15)

    def test_iql_without_advantages_is_bc(self, data):
        assert actions(trained("iql", data, 200, {"beta": 0.0}), STATES).abs().max() < 0.2

    def test_cql_does_the_best(self, data):
        found = actions(
            trained("cql", data, 400, {"cql_weight": 0.01, "sample_num": 4, "target_entropy": -2.0}), STATES
        )
        assert torch.allclose(found, torch.tensor(STATES) / 2, atol=0.2)


def chain(path, terminated):
    """Reward 1 in every step; episodes of 4 steps that end in the task's end, or are cut off."""
    with dataset_writer(path) as writer:
        for _ in range(64):
            obs = np.eye(5, dtype=np.float32)[:, :4] if terminated else np.ones((5, 4), np.float32)
            action = np.random.default_rng(_).uniform(-1, 1, (4, 1)).astype(np.float32)
            writer.add({"obs": obs, "action": action, "reward": np.ones(4)}, terminated)
    return open_dataset(path)


@pytest.mark.parametrize("name", ["cql", "iql"])
def test_a_time_limit_is_no_end_and_an_end_is_one(name, tmp_path):
    model = {**SMALL, "obs_dim": 4}
    algo = {
        "discount_factor": 0.5,
        "target_theta": 0.2,
        **({"cql_weight": 1e-3, "sample_num": 1} if name == "cql" else {}),
    }
    cut = trained(name, chain(tmp_path / "cut", False), 250, algo, model)
    assert value(cut, torch.ones(1, 4)) == pytest.approx(2, abs=0.1)  # 1/(1 − γ), also before the limit
    ended = trained(name, chain(tmp_path / "end", True), 250, algo, model)
    found = [value(ended, row[None]) for row in torch.eye(4)]
    assert found == pytest.approx([1.875, 1.75, 1.5, 1.0], abs=0.1)


def value(policy, obs):
    """The critics' mean value of the middle action."""
    pair = {"obs": obs, "action": torch.zeros(1, 1)}
    return policy.model(pair, mode="compute_q")["q_value"].mean().item()


def test_cql_values_what_is_not_in_the_data_less(tmp_path):
    with dataset_writer(tmp_path / "set") as writer:  # actions near 0.5 only, all equally good
        for number in range(200):
            action = np.random.default_rng(number).uniform(0.4, 0.6, (1, 1)).astype(np.float32)
            writer.add({"obs": np.ones((2, 1), np.float32), "action": action, "reward": np.ones(1)}, True)
    data = open_dataset(tmp_path / "set")
    policy = trained("cql", data, 200, {"cql_weight": 1.0, "sample_num": 4})
    pairs = {"obs": torch.ones(3, 1), "action": torch.tensor([[-0.8], [0.5], [0.95]])}
    q_value = policy.model(pairs, mode="compute_q")["q_value"].mean(0).tolist()
    assert q_value[1] > q_value[0] + 0.3 and q_value[1] > q_value[2] + 0.1
    assert 0.35 < actions(policy, [1.0]).item() < 0.65


def test_a_lagrange_factor_moves_towards_its_gap(tmp_path):
    data = bandit(tmp_path / "set", 100)
    for gap, grows in ((-10.0, True), (100.0, False)):
        policy = trained("cql", data, 30, {"cql_weight": 1.0, "lagrange_gap": gap, "sample_num": 2})
        assert (policy._log_weight.item() > 0) is grows


def test_the_squared_error_is_for_continuous_actions():
    policy = create_policy(
        {"policy_type": "bc", "model": {"obs_dim": 1, "action_dim": 2}, "learn": {"algo": {"loss": "mse"}}}
    )
    batch = {"obs": torch.zeros(3, 1), "action": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ConfigError, match="loss is 'mse', but the actions are discrete; use nll"):
        policy.learn_mode.forward(policy.learn_mode.data_preprocess(batch))
