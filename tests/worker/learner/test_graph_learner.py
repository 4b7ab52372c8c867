"""Learners of an agent and a computation graph: the same iterations, hooks, checks and state as those of a policy."""

import pytest
import torch
from torch import nn

from nervex.agent import Agent
from nervex.computation_graph import BaseCompGraph
from nervex.torch_utils import load_state, save_state
from nervex.utils.errors import CheckpointError, ConfigError, NumericalError, SpecError
from nervex.worker import BaseLearner
from nervex.worker.agent import create_dqn_learner_agent

CFG = {"learner": {"learning_rate": 0.1, "mine": {"factor": 2.0}}}


class Net(nn.Module):
    """q = obs · w, one number."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, x):
        return {"logit": x["obs"] @ self.weight}


class Graph(BaseCompGraph):
    """Mean of factor · weight · q²."""

    def __init__(self, factor):
        self._factor = factor

    def forward(self, data, agent):
        q = agent.forward(data["obs"])["logit"]
        if agent.is_double:
            agent.target_update(agent.state_dict()["model"])
        output = {"total_loss": self._factor * (data["weights"] * q**2).mean()}
        return {**output, "priority": q.abs()} if "index" in data else output


class Learner(BaseLearner):
    _name = "MyLearner"

    def _setup_agent(self):
        self._agent = create_dqn_learner_agent(Net(), update_kwargs={"freq": 2})

    def _setup_computation_graph(self):
        self._computation_graph = Graph(self._cfg.learner.mine.factor)


class SgdLearner(Learner):
    def _setup_optimizer(self):
        self._optimizer = torch.optim.SGD(self._agent.model.parameters(), self._cfg.learner.learning_rate)


BATCH = {"obs": torch.tensor([[1.0, 2.0], [3.0, 5.0]]), "weights": torch.tensor([1.0, 0.5])}
#: q = (-1, -2); loss = 2·(1·1 + 0.5·4)/2 = 3; gradient = 2·Σ w·2·q·obs / 2 = (-8, -14)
LOSS, GRADIENT = 3.0, torch.tensor([-8.0, -14.0])


def test_one_iteration_in_numbers():
    learner = SgdLearner(CFG)
    output = learner.train(BATCH)
    assert output == {"total_loss": LOSS, "cur_lr": 0.1} and not output["total_loss"].requires_grad
    torch.testing.assert_close(learner.agent.model.weight.detach(), torch.tensor([1.0, -1.0]) - 0.1 * GRADIENT)
    assert learner.last_iter.val == 1 and learner.name == "MyLearner"
    assert learner.take_averages() == {"total_loss": LOSS, "cur_lr": pytest.approx(0.1)}


def test_the_default_optimizer_is_adam_of_the_configuration():
    learner = Learner({"learner": {"learning_rate": 0.05, "weight_decay": 0.01, "mine": {"factor": 2.0}}})
    (group,) = learner._optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.05, 0.01)
    learner.train(BATCH)  # Adam's first step is lr · sign(gradient)
    torch.testing.assert_close(learner.agent.model.weight.detach(), torch.tensor([1.05, -0.95]), atol=1e-5, rtol=0)


def test_a_list_of_samples_is_a_batch():
    samples = [{"obs": BATCH["obs"][i].numpy(), "weights": float(BATCH["weights"][i])} for i in range(2)]
    assert SgdLearner(CFG).train(samples)["total_loss"] == LOSS
    arrays = {k: v.numpy() for k, v in BATCH.items()}
    assert SgdLearner(CFG).train(arrays)["total_loss"] == LOSS


def test_priorities_go_back_with_their_indices():
    learner = SgdLearner(CFG)
    index = torch.tensor([7, 8])
    output = learner.train({**BATCH, "index": index})
    assert "priority" not in output
    assert learner.priority_info["index"] is index and learner.priority_info["priority"].tolist() == [1.0, 2.0]
    assert not learner.priority_info["priority"].requires_grad
    learner.train(BATCH)
    assert learner.priority_info is None


def test_hooks_and_reports_are_those_of_every_learner():
    hook = {"end": {"type": "save_ckpt_after_run", "position": "after_run"}}
    learner = Learner({"learner": {**CFG["learner"], "log_freq": 2, "save_freq": 3, "hook": hook}})
    calls, reports = [], []
    learner.register_hook(lambda one: calls.append(one.last_iter.val))
    learner.report = reports.append
    learner.saver = lambda: calls.append("save")
    learner.run(4, lambda: BATCH)
    assert calls == [1, 2, 3, "save", 4, "save"]
    assert len(reports) == 2 and reports[0].keys() == {"total_loss", "cur_lr"}


def test_a_loss_or_weight_that_is_not_finite_stops():
    learner = Learner(CFG)
    with pytest.raises(NumericalError, match=r"total_loss is nan at learner iteration 1; lower learner.learning_rate,"):
        learner.train({**BATCH, "weights": torch.tensor([1.0, float("nan")])})
    with pytest.raises(NumericalError, match="weight 'weight' is not finite at learner iteration 1"):
        learner._sum.clear()
        learner.check_numbers(dict(learner.agent.model.named_parameters()))


def test_it_goes_on_exactly_after_a_checkpoint(tmp_path):
    learner, other = Learner(CFG), Learner(CFG)
    for _ in range(3):
        learner.train(BATCH)
    save_state(tmp_path / "state", {"learner": learner.state_dict()})
    other.load_state_dict(load_state(tmp_path / "state")[0]["learner"])
    assert other.last_iter.val == 3
    for _ in range(3):  # the target network moves at the 4th and 6th iteration
        assert learner.train(BATCH) == other.train(BATCH)
        for one in ("forward", "target_forward"):
            values = [getattr(x.agent, one)(BATCH["obs"])["logit"] for x in (learner, other)]
            assert torch.equal(*values)
    assert learner.take_averages() == other.take_averages()


def test_a_checkpoint_of_another_agent_is_refused():
    class Other(Learner):
        def _setup_agent(self):
            self._agent = create_dqn_learner_agent(Net(), is_double=False)

    with pytest.raises(CheckpointError, match="the saved state does not fit this learner's agent"):
        Other(CFG).load_state_dict(Learner(CFG).state_dict())


def test_the_configuration_is_read_only_complete_and_a_copy():
    given = {"env": {"a": 1}, "learner": {"mine": {"factor": 2.0}}}
    learner = Learner(given)
    assert given == {"env": {"a": 1}, "learner": {"mine": {"factor": 2.0}}}
    assert learner._cfg.env.a == 1 and learner._cfg.learner.use_cuda is False and learner._cfg.learner.batch_size == 64
    with pytest.raises(ConfigError, match=r"cannot change 'learner.use_cuda'"):
        learner._cfg.learner.use_cuda = True


class NoGraph(BaseLearner):
    def _setup_agent(self):
        self._agent = create_dqn_learner_agent(Net())


class NoAgent(Learner):
    def _setup_agent(self):
        create_dqn_learner_agent(Net())


class NoLoss(Learner):
    def _setup_computation_graph(self):
        class Silent(BaseCompGraph):
            def forward(self, data, agent):
                return {"loss": agent.forward(data["obs"])["logit"].sum()}

        self._computation_graph = Silent()


def test_what_a_subclass_forgot_is_one_clear_error():
    with pytest.raises(ConfigError, match="NoGraph has _setup_agent and no _setup_computation_graph; add that method"):
        NoGraph(CFG)
    with pytest.raises(ConfigError, match=r"NoAgent._setup_agent has set no self._agent; assign"):
        NoAgent(CFG)
    with pytest.raises(SpecError, match=r"Silent.forward returned a dict of \['loss'\], expected 'total_loss' in it"):
        NoLoss(CFG).train(BATCH)
    with pytest.raises(ConfigError, match="Learner has _setup_agent and was given a policy too"):
        Learner(CFG, policy=object())
    assert BaseLearner({}).agent is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"learning_rat": 0.1}, r"unknown key 'learner.learning_rat' in config; did you mean 'learning_rate'\?"),
        ({"learning_rate": -1}, "learner.learning_rate"),
        ({"my_number": 3}, "unknown key 'learner.my_number'"),
        (3, "'learner' in config is a int, expected a section"),
    ],
)
def test_keys_of_the_section(section, message):
    with pytest.raises(ConfigError, match=message):
        Learner({"learner": section})


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"learner.use_cuda is true, but torch sees no CUDA device; set it to false"):
        Learner({"learner": {"use_cuda": True}})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {**BATCH, "obs": torch.zeros(2, 3)},
            r"Graph.forward cannot take the batch \{obs: float32 \[2, 3\], weights: ",
        ),
        ({"obs": BATCH["obs"]}, r"Graph.forward cannot take the batch \{obs: float32 \[2, 2\]\}: KeyError: 'weights'"),
        ([], "cannot make a batch of no items"),
        ([{"obs": torch.zeros(2)}, {"obs": torch.zeros(3)}], r"item 1 of a batch holds \{obs: float32 \[3\]\}, item 0"),
        ([1, 2], "a batch of a learner is a list, expected a mapping of columns or a list of mappings"),
    ],
)
def test_a_batch_that_does_not_fit(batch, message):
    with pytest.raises(SpecError, match=message):
        Learner(CFG).train(batch)


def test_an_agent_of_any_kind_will_do():
    class Plain(Learner):
        def _setup_agent(self):
            self._agent = Agent(Net())

        def _setup_computation_graph(self):
            class Loss(BaseCompGraph):
                def forward(self, data, agent):
                    return {"total_loss": agent.forward(data)["logit"].pow(2).mean()}

            self._computation_graph = Loss()

    learner = Plain(CFG)
    losses = [float(learner.train(BATCH)["total_loss"]) for _ in range(30)]
    assert losses[0] == 2.5 and losses[-1] < 0.1
