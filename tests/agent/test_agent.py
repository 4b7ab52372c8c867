"""The agent around a model: what it wraps, which sub-agent answers, and the mode it keeps."""

import pytest
import torch
from easydict import EasyDict
from torch import nn
from toy_models import Echo, Noisy

from nervex.agent import PLUGIN_REGISTRY, Agent, AgentPlugin, BaseAgent, register_plugin
from nervex.utils.errors import ConfigError

OBS = torch.tensor([[1.0, 2.0], [4.0, 3.0]])


@pytest.fixture
def registry(monkeypatch):
    """Forgets the plugins that a test registers."""
    monkeypatch.setattr(PLUGIN_REGISTRY, "_entries", dict(PLUGIN_REGISTRY._entries))


class TestForward:
    def test_a_bare_observation_is_wrapped(self):
        model = Echo()
        output = Agent(model).forward(OBS)
        assert torch.equal(output["logit"], OBS)
        assert list(model.calls[0][0]) == ["obs"] and model.calls[0][0]["obs"] is OBS

    def test_a_dict_observation_is_wrapped_too(self):
        model = Echo()
        obs = {"logit": OBS, "action_mask": torch.ones(2, 2)}
        Agent(model).forward(obs)
        assert model.calls[0][0] == {"obs": obs}

    @pytest.mark.parametrize("kind", [dict, EasyDict])
    def test_what_has_an_obs_is_passed_on(self, kind):
        model = Echo()
        data = kind({"obs": OBS, "extra": 3})
        Agent(model).forward(data)
        seen = model.calls[0][0]
        assert torch.equal(seen["obs"], OBS) and seen["extra"] == 3

    def test_the_callers_dict_is_left_alone(self):
        data = {"obs": OBS}
        agent = Agent(Echo())
        agent.add_plugin("main", "argmax_sample")
        agent.forward(data)
        assert data == {"obs": OBS}

    def test_keyword_arguments_and_param_reach_the_model(self):
        model = Echo()
        agent = Agent(model)
        agent.forward(OBS, param={"a": 1, "b": 2}, b=3)
        assert model.calls[0][1] == {"a": 1, "b": 3}

    def test_the_model(self):
        model = Echo()
        agent = Agent(model)
        assert agent.model is model


class Mark(AgentPlugin):
    """Writes its name into what goes in and what comes out."""

    def __init__(self, mark, suffix=""):
        self.mark = mark + suffix
        self.reset_with = []
        self.count = 0

    def wrap(self, forward):
        def run(data, param):
            data["order"] = [*data.get("order", []), self.mark]
            output = forward(data, param)
            output["order"] = [*output.get("order", []), self.mark]
            self.count += 1
            return output

        return run

    def reset(self, data_id=None, **kwargs):
        self.reset_with.append((None if data_id is None else data_id.tolist(), kwargs))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class OtherMark(Mark):
    pass


class TestPlugins:
    def test_later_plugins_wrap_outside_earlier_ones(self, registry):
        register_plugin("mark", Mark)
        register_plugin("other_mark", OtherMark)
        model = Echo()
        agent = Agent(model)
        agent.add_plugin("main", "mark", mark="first")
        agent.add_plugin("main", "other_mark", mark="second", suffix="!")
        output = agent.forward(OBS)
        assert model.calls[0][0]["order"] == ["second!", "first"]
        assert output["order"] == ["first", "second!"]

    def test_reset_reaches_every_plugin(self, registry):
        register_plugin("mark", Mark)
        agent = Agent(Echo())
        agent.add_plugin("main", "mark", mark="a")
        plugin = agent._agents["main"].plugins["mark"]
        agent.reset()
        agent.reset(data_id=[2, 0])
        agent.reset(data_id=torch.tensor([1]), state=5)
        assert plugin.reset_with == [(None, {}), ([2, 0], {}), ([1], {"state": 5})]

    def test_a_plugin_may_pop_its_keyword(self, registry):
        class Scale(AgentPlugin):
            def wrap(self, forward):
                def run(data, param):
                    factor = param.pop("factor")
                    output = forward(data, param)
                    return {**output, "logit": output["logit"] * factor}

                return run

        register_plugin("scale", Scale)
        model = Echo()
        agent = Agent(model)
        agent.add_plugin("main", "scale")
        assert torch.equal(agent.forward(OBS, factor=3.0)["logit"], OBS * 3) and model.calls[0][1] == {}

    def test_state_of_plugins_that_have_one(self, registry):
        register_plugin("mark", Mark)
        agent, other = Agent(Echo()), Agent(Echo())
        for a in (agent, other):
            a.add_plugin("main", "mark", mark="a")
            a.add_plugin("main", "argmax_sample")
        agent.forward(OBS)
        agent.forward(OBS)
        state = agent.full_state(agent.model)
        assert state == {"main": {"plugin": {"mark": {"count": 2}}}}
        other.load_full_state(state)
        assert other._agents["main"].plugins["mark"].count == 2

    def test_unknown_plugin(self):
        with pytest.raises(ConfigError, match="unknown plugin 'argmax_smaple'; did you mean 'argmax_sample'"):
            Agent(Echo()).add_plugin("main", "argmax_smaple")

    def test_a_plugin_is_added_once(self):
        agent = Agent(Echo())
        agent.add_plugin("main", "argmax_sample")
        with pytest.raises(ConfigError, match="agent has plugin 'argmax_sample' already; a plugin is added once"):
            agent.add_plugin("main", "argmax_sample")

    @pytest.mark.parametrize(
        ("name", "kwargs", "message"),
        [
            ("target", {"update_typ": "assign", "update_kwargs": {"freq": 1}}, "plugin 'target': missing a required "
             "argument: 'update_type'; did you mean 'update_type'? (it takes: update_type, update_kwargs)"),
            ("target", {"update_type": "assign", "update_kwargs": {"freq": 1}, "freq": 1}, "plugin 'target': got an "
             "unexpected keyword argument 'freq' (it takes: update_type, update_kwargs)"),
            ("teacher", {"teacher_config": {}}, "plugin 'teacher': got an unexpected keyword argument "
             "'teacher_config'; did you mean 'teacher_cfg'? (it takes: teacher_cfg)"),
        ],
    )  # fmt: skip
    def test_arguments_that_a_model_does_not_take(self, name, kwargs, message):
        agent = Agent(Echo())
        with pytest.raises(ConfigError) as e:
            agent.add_model(name, **kwargs)
        assert str(e.value) == message
        assert not agent.has_model(name)

    def test_arguments_that_a_plugin_does_not_take(self):
        agent = Agent(Echo())
        with pytest.raises(ConfigError, match=r"plugin 'argmax_sample': got .* 'eps' \(it takes: nothing\)"):
            agent.add_plugin("main", "argmax_sample", eps=0.1)
        agent.add_plugin("main", "argmax_sample")

    def test_two_plugins_of_one_name(self, registry):
        register_plugin("mark", Mark)
        with pytest.raises(ConfigError, match=r"plugin 'mark' is registered twice: by .*\.Mark and by .*\.OtherMark"):
            register_plugin("mark", OtherMark)


class TestSubAgents:
    def agent(self):
        model = Echo(2.0)
        agent = Agent(model)
        agent.add_model("target", update_type="assign", update_kwargs={"freq": 1})
        return agent, model

    def test_the_target_is_a_copy(self):
        agent, model = self.agent()
        with torch.no_grad():
            model.weight.fill_(5.0)
        assert torch.equal(agent.forward(OBS)["logit"], OBS * 5)
        assert torch.equal(agent.target_forward(OBS)["logit"], OBS * 2)
        assert agent.target_model is not model
        assert not agent.target_model.weight.requires_grad and model.weight.requires_grad

    def test_calls_go_where_their_name_says(self):
        agent, model = self.agent()
        agent.mode(train=False)
        agent.target_mode(train=True)
        agent.forward(OBS)
        agent.target_forward(OBS)
        assert not model.training and agent.target_model.training
        with torch.no_grad():
            model.weight.fill_(7.0)
        agent.target_update(agent.state_dict()["model"])
        assert agent.target_model.weight.item() == 7.0
        agent.target_reset()
        assert agent.target_state_dict()["model"]["weight"].item() == 7.0

    def test_plugins_belong_to_one_sub_agent(self):
        agent, _ = self.agent()
        agent.add_plugin("target", "argmax_sample")
        assert "action" in agent.target_forward(OBS) and "action" not in agent.forward(OBS)

    def test_the_lanes_are_for_plugins(self):
        agent, model = self.agent()
        agent.forward(OBS, data_id=[0, 1])
        agent.target_forward(OBS, param={"data_id": [0, 1]})
        assert model.calls[-1][1] == agent.target_model.calls[-1][1] == {}

    def test_state_round_trip(self):
        agent, model = self.agent()
        with torch.no_grad():
            model.weight.fill_(9.0)
        state = agent.full_state(model)
        assert "model" not in state["main"]  # the run saves those weights by themselves
        other = Agent(Echo(0.0))
        other.add_model("target", update_type="assign", update_kwargs={"freq": 1})
        other.load_full_state(state)
        assert other.target_model.weight.item() == 2.0 and other.model.weight.item() == 0.0
        other.load_state_dict(agent.state_dict())
        assert other.model.weight.item() == 9.0

    def test_a_model_that_nobody_else_saves_is_in_the_state(self):
        agent, model = self.agent()
        agent.add_model("teacher", model=Echo(4.0))
        assert ["model" in part for part in agent.full_state().values()] == [True, True, True]
        assert {k: "model" in v for k, v in agent.full_state(model).items()} == {
            "main": False, "target": True, "teacher": True,
        }  # fmt: skip
        other = Agent(Echo(0.0))
        other.load_full_state({"main": agent.full_state()["main"]})
        assert other.model.weight.item() == 2.0

    def test_remove(self):
        agent, _ = self.agent()
        agent.remove_model("target")
        with pytest.raises(AttributeError, match=r"agent has no 'target_forward' \(sub-agents: main\)"):
            agent.target_forward
        agent.add_model("target", update_type="assign", update_kwargs={"freq": 1})

    def test_what_it_refuses(self):
        agent, _ = self.agent()
        with pytest.raises(ConfigError, match=r"unknown sub-agent 'tagret'; did you mean 'target'\?"):
            agent.add_model("tagret")
        with pytest.raises(ConfigError, match=r"unknown sub-agent 'mian'; did you mean 'main'\?"):
            agent.add_plugin("mian", "argmax_sample")
        with pytest.raises(ConfigError, match="agent has a 'target' model already"):
            agent.add_model("target", update_type="assign", update_kwargs={"freq": 1})
        with pytest.raises(ConfigError, match=r"agent has no 'teacher' model; call add_model\('teacher', ...\) first"):
            agent.add_plugin("teacher", "argmax_sample")
        for name in ("target", "teacher"):
            held = Agent(Echo())
            with pytest.raises(ConfigError, match=f"the '{name}' model has parameters of the main one"):
                held.add_model(name, model=nn.Sequential(held.model), update_type="assign", update_kwargs={"freq": 1})
            assert not held.has_model(name) and held.model.weight.requires_grad
        for name in ("main", "teacher"):
            with pytest.raises(ConfigError, match=f"agent has no removable '{name}' model"):
                agent.remove_model(name)
        for name in ("target_forwrad", "teacher_forward", "nothing", "main_forward"):
            with pytest.raises(AttributeError, match=f"agent has no '{name}'"):
                getattr(agent, name)


class TestTeacher:
    def test_it_answers_without_gradients(self):
        agent, teacher = Agent(Echo(1.0)), Echo(3.0)
        agent.add_model("teacher", model=teacher)
        with torch.enable_grad():
            output = agent.teacher_forward(OBS.clone().requires_grad_())
        assert torch.equal(output["logit"], OBS * 3) and not output["logit"].requires_grad
        assert agent.teacher_model is teacher and not teacher.weight.requires_grad
        assert agent.forward(OBS)["logit"].requires_grad
        agent.teacher_reset()

    def test_without_a_model_it_is_a_copy(self):
        model = Echo(2.0)
        agent = Agent(model)
        agent.add_model("teacher")
        with torch.no_grad():
            model.weight.fill_(5.0)
        assert torch.equal(agent.teacher_forward(OBS)["logit"], OBS * 2) and model.weight.requires_grad

    @pytest.mark.parametrize("given", [True, False])
    def test_it_stays_in_eval_mode(self, given):
        torch.manual_seed(0)
        agent = Agent(Noisy())
        agent.mode(train=True)
        agent.add_model("teacher", model=Noisy() if given else None)
        before = agent.teacher_model.norm.running_mean.clone()
        assert (agent.teacher_forward(OBS)["dropped"] == 1).all()
        agent.teacher_mode(train=True)
        assert (agent.teacher_forward(OBS)["dropped"] == 1).all()
        assert torch.equal(agent.teacher_model.norm.running_mean, before)
        assert (agent.forward(OBS)["dropped"] == 0).any()

    def test_it_keeps_its_settings(self):
        agent = Agent(Echo())
        cfg = {"kl_weight": 0.5}
        agent.add_model("teacher", teacher_cfg=cfg)
        assert agent.teacher_cfg == cfg
        other = Agent(Echo())
        other.add_model("teacher", model=None)
        assert other.teacher_cfg == {}

    def test_plugins_may_be_added(self):
        agent = Agent(Echo())
        agent.add_model("teacher", model=Echo(-1.0))
        agent.add_plugin("teacher", "argmax_sample")
        assert agent.teacher_forward(OBS)["action"].tolist() == [0, 1]

    def test_its_weights_are_in_the_state(self):
        agent, other = Agent(Echo(0.0)), Agent(Echo(0.0))
        agent.add_model("teacher", model=Echo(3.0))
        other.add_model("teacher")
        other.load_full_state(agent.full_state(agent.model))
        assert other.teacher_model.weight.item() == 3.0


class TestSharedModel:
    """Learn and collect agents share one model; neither leaves it in the other's mode."""

    def pair(self):
        torch.manual_seed(0)
        model = Noisy()
        learn, collect = Agent(model), Agent(model)
        learn.mode(train=True)
        collect.mode(train=False)
        return model, learn, collect

    def test_each_forward_runs_in_its_own_mode(self):
        _, learn, collect = self.pair()
        for _ in range(3):
            assert (learn.forward(OBS)["dropped"] == 0).any()
            assert (collect.forward(OBS)["dropped"] == 1).all()
            assert (collect.forward(OBS)["dropped"] == 1).all()
            assert (learn.forward(OBS)["dropped"] == 0).any()

    def test_statistics_move_in_training_only(self):
        model, learn, collect = self.pair()
        before = model.norm.running_mean.clone()
        collect.forward(OBS)
        assert torch.equal(model.norm.running_mean, before)
        learn.forward(OBS)
        assert not torch.equal(model.norm.running_mean, before)

    def test_choosing_a_mode_does_not_touch_the_other_agent(self):
        _, learn, collect = self.pair()
        learn.forward(OBS)
        collect.mode(train=False)
        assert (learn.forward(OBS)["dropped"] == 0).any()
        collect.mode(train=True)
        assert (collect.forward(OBS)["dropped"] == 0).any()

    def test_the_mode_reaches_submodules(self):
        model, learn, collect = self.pair()
        learn.forward(OBS)
        assert model.norm.training and model.dropout.training
        collect.forward(OBS)
        assert not model.norm.training and not model.dropout.training

    def test_without_a_choice_the_models_own_mode_stays(self):
        model = nn.Sequential().eval()
        assert BaseAgent(model)._train is False


class TestGrad:
    @pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad])
    @pytest.mark.parametrize("enabled", [True, False])
    def test_gradients_on_or_off_whatever_is_around(self, outside, enabled):
        agent = Agent(Echo())
        agent.add_plugin("main", "grad", enable_grad=enabled)
        with outside():
            output = agent.forward(OBS)["logit"]
            assert output.requires_grad is enabled and torch.equal(output, Echo()({"obs": OBS})["logit"])
            assert torch.is_grad_enabled() is (outside is torch.enable_grad)
