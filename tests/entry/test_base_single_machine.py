"""The single-machine runner: what it stores, that it learns, how it ends, and what it refuses."""

import copy
import json

import numpy as np
import pytest
import torch
from count_env import CountEnv, FaultyEnv
from easydict import EasyDict
from torch import nn

from nervex.computation_graph import BaseCompGraph
from nervex.entry import SingleMachineRunner
from nervex.rl_utils import q_1step_td_data, q_1step_td_error
from nervex.torch_utils import CheckpointManager
from nervex.utils.errors import ConfigError, EnvFault, NumericalError, RunFolderError
from nervex.worker import BaseLearner
from nervex.worker.actor.env_manager import BaseEnvManager, SubprocessEnvManager
from nervex.worker.agent import create_dqn_actor_agent, create_dqn_evaluator_agent, create_dqn_learner_agent
from nervex.worker.monitor import MetricSink, without_time

GAMMA = 0.9
CFG = {
    "learner": {"learning_rate": 0.2, "batch_size": 8, "train_step": 4, "log_freq": 20},
    "replay_buffer": {"maxlen": 200},
    "actor": {"n_sample": 4},
    "evaluator": {"n_episode": 4, "eval_freq": 20, "confirm_episode": 6},
    "max_train_iter": 40,
}


class Net(nn.Module):
    """A value for each action, whatever the step."""

    def __init__(self):
        super().__init__()
        self.q = nn.Parameter(torch.randn(2) * 0.1)

    def forward(self, x):
        return {"logit": self.q.expand(len(x["obs"]), -1)}


class Graph(BaseCompGraph):
    def forward(self, data, agent):
        q, next_q = agent.forward(data["obs"])["logit"], agent.target_forward(data["next_obs"])["logit"]
        agent.target_update(agent.state_dict()["model"])
        td_data = q_1step_td_data(q, next_q, data["action"], data["reward"], data["done"])
        return {"total_loss": q_1step_td_error(td_data, GAMMA, data["weights"]), "priority": torch.rand(len(q)) + 0.5}


class Learner(BaseLearner):
    _name = "CountLearner"

    def _setup_agent(self):
        self._agent = create_dqn_learner_agent(Net(), update_kwargs={"freq": 1})

    def _setup_computation_graph(self):
        self._computation_graph = Graph()

    def _setup_optimizer(self):
        self._optimizer = torch.optim.SGD(self._agent.model.parameters(), self._cfg.learner.learning_rate)


class Runner(SingleMachineRunner):
    env_class = CountEnv
    manager_class = BaseEnvManager

    def _setup_env(self):
        cfg = dict(self._cfg.env)
        self._actor_env = self.manager_class(self.env_class, [cfg] * 4, 4)
        self._evaluator_env = BaseEnvManager(CountEnv, [cfg] * 2, 2)

    def _setup_learner(self):
        self._learner = Learner(self._cfg)

    def _setup_agent(self):
        self._actor_agent = create_dqn_actor_agent(self._learner.agent.model)
        self._evaluator_agent = create_dqn_evaluator_agent(self._learner.agent.model)


class Rows(MetricSink):
    def __init__(self):
        self.rows = []

    def write(self, row):
        self.rows.append({"kind": row.kind, "env_step": row.env_step, "train_iter": row.train_iter, **row.values})


def config(**changes):
    cfg = copy.deepcopy(CFG)
    for key, value in changes.items():
        cfg[key] = {**cfg[key], **value} if isinstance(value, dict) and key in cfg else value
    return cfg


def q_of(runner):
    return runner.learner.agent.model.q.detach()


@pytest.mark.parametrize(
    ("terminal", "manager"), [(False, BaseEnvManager), (True, BaseEnvManager), (False, SubprocessEnvManager)]
)
def test_transitions_are_aligned_and_done_means_terminated(manager, terminal):
    runner = Runner(config(env={"terminal": terminal}, max_train_iter=8))
    runner._actor_env = manager(CountEnv, [{"terminal": terminal}] * 4, 4)
    runner.run()
    items = runner.buffer.state_dict()["item"]
    assert len(items) >= 8
    for item in items:
        assert item.keys() == {"obs", "next_obs", "action", "reward", "done"}
        step = item["obs"][0].item()
        assert item["next_obs"].tolist() == [step + 1, 1.0]  # at the end: the true final one
        assert item["reward"].item() == item["action"].item()
        assert item["done"].item() is (terminal and step == 2)
    assert {item["obs"][0].item() for item in items} == {0.0, 1.0, 2.0}


@pytest.mark.parametrize(("terminal", "best"), [(False, 1 / (1 - GAMMA)), (True, 1 / (1 - GAMMA * 2 / 3))])
def test_it_learns_the_known_values(terminal, best):
    """Three steps of reward a: cut by a time limit, Q*(a) = a + γ / (1 − γ). Where every third step is terminal, and
    the network cannot see which, Q(1) = 1 + γ·2/3·Q(1) = Q(0) + 1."""
    runner = Runner(config(env={"terminal": terminal}, max_train_iter=400, replay_buffer={"alpha": 0.0}))
    result = runner.run()
    np.testing.assert_allclose(q_of(runner).numpy(), [best - 1, best], atol=0.6 if terminal else 0.05)
    assert result.episode_return.tolist() == [3.0] * 4


def test_it_stops_when_solved_and_says_how():
    sink = Rows()
    result = Runner(config(evaluator={"stop_val": 3.0}, max_train_iter=2000), sinks=[sink]).run()
    assert (result.stop_reason, result.solved, result.best_eval_return) == ("stop_val", True, 3.0)
    assert result.episode_return.tolist() == [3.0] * 6  # confirmed by fresh episodes
    assert result.train_iter < 2000 and result.env_step == sink.rows[-1]["env_step"]
    kinds = [row["kind"] for row in sink.rows]
    assert kinds[0] == kinds[-1] == "eval"
    going_on = Runner(config(evaluator={"stop_val": 3.0, "stop": False}, max_train_iter=200)).run()
    assert (going_on.stop_reason, going_on.solved, going_on.train_iter) == ("max_train_iter", True, 200)


def test_a_budget_of_env_steps():
    result = Runner(config(max_env_step=30, max_train_iter=1000)).run()
    assert result.stop_reason == "max_env_step" and not result.solved and 30 <= result.env_step < 34


def test_random_actions_come_first():
    runner = Runner(
        config(actor={"n_sample": 4, "random_collect_size": 60}, max_train_iter=4, command={"eps": {"start": 0.0}})
    )
    runner.run()
    first = [item["action"].item() for item in runner.buffer.state_dict()["item"][:60]]
    assert 15 < sum(first) < 45


def test_the_same_seed_gives_the_same_metrics():
    rows = []
    for seed in (1, 1, 2):
        sink = Rows()
        runner = Runner(EasyDict(config(seed=seed)), sinks=[sink])
        torch.rand(len(rows) + 3)  # what happens between does not matter
        runner.run()
        rows.append(without_time(sink.rows))
    assert len(rows[0]) > 3 and any("total_loss" in row for row in rows[0])
    assert rows[0] == rows[1] != rows[2]


def test_it_writes_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Runner(config()).run()
    assert list(tmp_path.iterdir()) == []
    runner = Runner(config(), run_dir="run")
    result = runner.run()
    names = {p.name for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")}
    assert names == {"config.yaml", "versions.json", "metrics.jsonl", "checkpoints", "result.json"}
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (written["train_iter"], written["env_step"]) == (40, result.env_step)
    checkpoint = CheckpointManager(tmp_path / "run" / "checkpoints").load_latest()
    assert torch.equal(checkpoint.weights["q"], q_of(runner))
    other = Learner(config())
    other.load_state_dict(checkpoint.tree["learner"])
    assert other.last_iter.val == 40 and torch.equal(other.agent.model.q.detach(), q_of(runner))
    with pytest.raises(RunFolderError, match="already holds a run"):
        Runner(config(), run_dir="run")


class Watched(BaseEnvManager):
    closed = 0

    def close(self):
        type(self).closed += 1
        super().close()


def test_envs_are_closed_whatever_happens():
    class Faulty(Runner):
        env_class, manager_class = FaultyEnv, Watched

    class NotReady(Runner):
        manager_class = Watched

        def _setup_learner(self):
            raise ValueError("no learner today")

    class Diverging(Runner):
        manager_class = Watched

        def _setup_agent(self):
            super()._setup_agent()
            self._learner.register_hook(lambda one: self._learner.agent.model.q.data.fill_(float("nan")))

    Watched.closed = 0
    with pytest.raises(EnvFault, match="the engine is on fire"):
        Faulty(config()).run()
    assert Watched.closed == 1
    with pytest.raises(ValueError, match="no learner today"):
        NotReady(config())
    assert Watched.closed == 2
    with pytest.raises(NumericalError, match=r"not finite|is nan"):
        Diverging(config()).run()
    assert Watched.closed == 3


def test_it_runs_once():
    runner = Runner(config(max_train_iter=4))
    runner.run()
    with pytest.raises(ConfigError, match="this Runner has run already; make a new one"):
        runner.run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay_bufer": {}}, r"unknown key 'replay_bufer' in config; did you mean 'replay_buffer'\?"),
        ({"replay_buffer": {"max_len": 3}}, r"unknown key 'replay_buffer.max_len' in config; did you mean 'maxlen'\?"),
        ({"learner": {"batchsize": 3}}, r"unknown key 'learner.batchsize' in config; did you mean 'batch_size'\?"),
        ({"evaluator": {"stop_value": 3}}, r"unknown key 'evaluator.stop_value' in config; did you mean 'stop_val'\?"),
        ({"seed": -1}, "seed"),
        (
            {"env": {"actor_env_num": 8}},
            r"env.actor_env_num is 8, and the manager that Runner._setup_env made has 4 envs",
        ),
        ({"env": {"evaluator_env_num": 3}}, "env.evaluator_env_num is 3, and .* has 2 envs; make the two equal"),
        ({"replay_buffer": {"maxlen": 7}}, "replay_buffer.maxlen is 7, and a batch needs 8 items"),
        ({"actor": {"n_episode": 2}}, "actor: give exactly one of n_sample and n_episode"),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        Runner(config(**changes)).run()


def test_what_a_subclass_forgot_is_one_clear_error():
    class NoEvaluatorEnv(Runner):
        def _setup_env(self):
            self._actor_env = BaseEnvManager(CountEnv, [{}], 1)

    class WrongEnv(Runner):
        def _setup_env(self):
            self._actor_env = CountEnv({})

    class NoAgent(Runner):
        def _setup_learner(self):
            self._learner = BaseLearner({})

    class NoActor(Runner):
        def _setup_agent(self):
            pass

    for runner, message in [
        (NoEvaluatorEnv, r"NoEvaluatorEnv._setup_env has set no self._evaluator_env; expected an EnvManager"),
        (WrongEnv, r"WrongEnv._setup_env set self._actor_env to a CountEnv; expected an EnvManager"),
        (NoAgent, r"the learner BaseLearner has no agent; give it a _setup_agent"),
        (NoActor, r"NoActor._setup_agent has set no self._actor_agent; expected an Agent"),
    ]:
        with pytest.raises(ConfigError, match=message):
            runner(config())
    with pytest.raises(TypeError, match="_setup_env"):
        SingleMachineRunner(config())
