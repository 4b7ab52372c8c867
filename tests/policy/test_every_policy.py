"""The contract that every policy keeps, on data of its own actor."""

import copy
import itertools

import gymnasium
import numpy as np
import pytest
import torch
from policy.policy_cases import CASES, collected, compiled_case

from nervex.config.source import ConfigSource
from nervex.data.lanes import LaneBlock
from nervex.entry import serial_pipeline
from nervex.entry.compile_config import compile_config
from nervex.envs import BaseEnvTimestep
from nervex.policy import POLICY_REGISTRY, create_policy
from nervex.torch_utils.state_files import load_state, save_state
from nervex.utils.errors import CheckpointError, ConfigError
from nervex.utils.tree import tree_leaves, tree_map

MODES = ("learn", "collect", "eval", "command")
LANES = 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """``(compiled configuration, four batches)``."""
    compiled = compiled_case(request.param)
    return compiled, collected(compiled, 4)[1]


def make(case, **kwargs):
    return create_policy(case[0].cfg.policy, **kwargs)


def learn(policy, batch):
    mode = policy.learn_mode
    return mode.forward(mode.data_preprocess(tree_map(torch.clone, batch)))


def observations(case):
    spec = case[0].info.obs_space
    return torch.randn(LANES, *np.atleast_1d(spec.shape), generator=torch.Generator().manual_seed(5))


def act(mode, obs):
    lane_id, data = mode.data_preprocess(LaneBlock(np.arange(len(obs)), obs))
    return mode.forward(lane_id, data)


def weights_of(policy):
    return {k: v.clone() for k, v in policy.model.state_dict().items()}


def same(a, b):
    return all(
        torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(*map(tree_leaves, (a, b)), strict=True)
    )


def test_every_built_in_policy_has_a_case():
    built_in = {n for n in POLICY_REGISTRY.names() if n in POLICY_REGISTRY._builtin}
    assert built_in == {config["policy"]["policy_type"] for config in CASES.values()}


def test_modes_are_built_when_asked_for(case):
    for modes in (["learn"], ["collect"], ["eval"], ["command"], ["collect", "eval"], list(MODES), None):
        policy = make(case, enable_field=modes)
        built = MODES if modes is None else modes
        optimizers = [v for v in vars(policy).values() if isinstance(v, torch.optim.Optimizer)]
        assert bool(optimizers) is ("learn" in built)
        assert hasattr(policy, "_collect_agent") is ("collect" in built)
        assert hasattr(policy, "_eval_agent") is ("eval" in built)
        assert hasattr(policy, "_model") is (built != ["command"])


def test_the_state_goes_on_where_it_was(case, tmp_path):
    policy, batches = make(case), case[1]
    for batch in batches[:2]:
        learn(policy, batch)
    act(policy.collect_mode, observations(case))
    save_state(tmp_path / "state", policy.state_dict(), weights=policy.model.state_dict())
    tree, weights = load_state(tmp_path / "state")
    other = make(case)
    other.model.load_state_dict(weights)
    other.load_state_dict(tree)
    for batch in batches[2:]:
        torch.manual_seed(1)
        expected = learn(policy, batch)
        torch.manual_seed(1)
        found = learn(other, batch)
        assert expected.keys() == found.keys() and same(found, expected)
    assert same(weights_of(other), weights_of(policy))
    outputs = []
    for each in (policy, other):
        torch.manual_seed(2)
        outputs.append(act(each.collect_mode, observations(case))["action"])
    assert same(*outputs)


def test_every_update_changes_the_weights(case):
    policy = make(case)
    held = [weights_of(policy)]
    for batch in case[1][:2]:
        learn(policy, batch)
        held.append(weights_of(policy))
    for before, after in itertools.pairwise(held):
        assert not same(before, after)
    assert all(torch.isfinite(v).all() for v in held[-1].values())


def test_evaluation_is_deterministic(case):
    policy, found = make(case), []
    for _ in range(5):
        policy.eval_mode.reset()
        found.append(act(policy.eval_mode, observations(case))["action"])
    assert all(same(action, found[0]) for action in found)


def test_acting_does_not_depend_on_which_lanes_come_together(case):
    policy, obs = make(case), observations(case)
    together = act(policy.eval_mode, obs)["action"]
    policy.eval_mode.reset()
    for i in range(LANES):
        lane, data = policy.eval_mode.data_preprocess(LaneBlock(np.array([i]), obs[i : i + 1]))
        assert torch.allclose(policy.eval_mode.forward(lane, data)["action"][0].float(), together[i].float(), atol=1e-6)


def test_a_priority_per_sample_where_it_is_promised(case):
    output, policy_class = learn(make(case), case[1][0]), case[0].policy_class
    if policy_class.gives_priority and policy_class.data_path == "replay":
        assert output["priority"].shape == (case[0].cfg.policy.learn.batch_size,) and (output["priority"] >= 0).all()
    assert {"cur_lr", "total_loss"} <= output.keys()


def test_what_learning_reports_holds_no_graph(case):
    output = learn(make(case), case[1][0])
    assert not any(v.requires_grad for v in output.values() if isinstance(v, torch.Tensor))


def test_an_actor_needs_no_more_than_the_weights(case):
    learner, actor = make(case, enable_field=["learn"]), make(case, enable_field=["collect", "eval"])
    learn(learner, case[1][0])
    actor.model.load_state_dict(learner.model.state_dict())
    full = make(case)
    full.model.load_state_dict(learner.model.state_dict())
    obs = observations(case)
    assert same(act(actor.eval_mode, obs)["action"], act(full.eval_mode, obs)["action"])


def test_a_state_of_other_modes_is_refused(case):
    learner, actor = make(case, enable_field=["learn"]), make(case, enable_field=["collect", "eval"])
    with pytest.raises(CheckpointError, match=rf"saved state of policy {type(actor).__name__} has the parts .*'_ag"):
        actor.load_state_dict(learner.state_dict())


def test_one_transition_or_many_at_once(case):
    policy, obs = make(case), observations(case)
    output = act(policy.collect_mode, obs)
    reward, done = torch.arange(LANES).float(), torch.arange(LANES) % 2 == 0
    together = policy.collect_mode.process_transition(obs, output, BaseEnvTimestep(obs + 1, reward, done, {}))
    for i in range(LANES):
        row = BaseEnvTimestep(obs[i] + 1, reward[i], done[i], {})
        picked = tree_map(lambda x, i=i: x[i], dict(output))
        alone = policy.collect_mode.process_transition(obs[i], picked, row)
        assert alone.keys() == together.keys() and same(alone, tree_map(lambda x, i=i: x[i], dict(together)))


def test_unknown_mode(case):
    with pytest.raises(ConfigError, match="unknown policy mode 'colect'; did you mean 'collect'"):
        make(case, enable_field=["colect"])


@pytest.mark.parametrize("name", ["dqn", "ppo", "sac"])
def test_learning_rates_follow_their_schedule(name):
    schedule = {"type": "linear", "length": 4, "end_factor": 0.0}
    case = compiled_case(name)
    learn_cfg = {**case.cfg.policy.learn.to_dict(), "lr_schedule": schedule}
    case = compiled_case(name, learn=learn_cfg), collected(case, 4)[1]
    policy = make(case)
    rates = [float(learn(policy, batch)["cur_lr"]) for batch in case[1]]
    assert rates == pytest.approx([rates[0] * (1 - i / 4) for i in range(4)])


@pytest.mark.parametrize("name", ["dqn", "ppo", "ppo recurrent", "sac"])
def test_normalization_is_part_of_the_weights(name):
    compiled = compiled_case(name, normalize={"obs": True, "reward": True})
    parts, batches = collected(compiled, 2)
    policy = parts.policy
    for block in parts.rollout.blocks if parts.rollout is not None else ():
        policy.observe(block)
    weights = policy.model.state_dict()
    assert any("mean" in key for key in weights)
    other = create_policy(compiled.cfg.policy)
    obs = torch.randn(LANES, *np.atleast_1d(compiled.info.obs_space.shape)) * 50
    policy.eval_mode.reset()
    before = act(policy.eval_mode, obs)
    other.model.load_state_dict(weights)
    assert same(act(other.eval_mode, obs)["action"], before["action"])
    learn(policy, batches[0])


class DictEnv(gymnasium.Env):
    """Episodes of 7 steps; the observation has the parts ``name`` and ``goal``. With ``masked``, all actions but one
    are forbidden, and the forbidden ones raise."""

    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, name="vec", masked=False):
        box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        mask = {"action_mask": gymnasium.spaces.MultiBinary(3)} if masked else {}
        self.name, self.masked = name, masked
        self.observation_space = gymnasium.spaces.Dict({name: box, "goal": box, **mask})

    def observe(self):
        draw = self.np_random.uniform(-1, 1, (2, 2)).astype(np.float32)
        mask = {"action_mask": np.eye(3, dtype=np.int8)[self.count % 3]} if self.masked else {}
        return {self.name: draw[0], "goal": draw[1], **mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        if self.masked and action != self.count % 3:
            raise ValueError(f"action {action} is forbidden")
        self.count += 1
        return self.observe(), float(action), self.count == 7, False, {}


gymnasium.register("nervex-test/Dict-v0", DictEnv)


def dict_config(policy_type, **make_kwargs):
    """A small configuration of a policy for discrete actions beside :class:`DictEnv`."""
    config = copy.deepcopy(CASES["sac discrete" if policy_type == "sac" else policy_type])
    config["env"] |= {"env_id": "nervex-test/Dict-v0", "make_kwargs": make_kwargs}
    config["evaluator"] = {"n_episode": 2, "eval_freq": 1000}
    return config


DISCRETE = ("dqn", "rainbow_dqn", "r2d2", "sac", "a2c", "ppo", "impala")


@pytest.mark.parametrize("policy_type", DISCRETE)
def test_a_part_of_the_observation_may_be_named_obs(policy_type):
    found = []
    for name in ("obs", "pos"):  # in the same place of the order
        torch.manual_seed(0)
        case = compile_config(ConfigSource.from_dict(dict_config(policy_type, name=name)))
        torch.manual_seed(0)
        batches = collected(case, 2)[1]
        torch.manual_seed(0)
        policy = create_policy(case.cfg.policy)
        found.append([learn(policy, batch)["total_loss"].item() for batch in batches])
    assert found[0] == found[1]


@pytest.mark.parametrize("policy_type", DISCRETE)
def test_masks_of_floats_are_obeyed_also_by_random_actions(policy_type, tmp_path):
    config = dict_config(policy_type, masked=True)
    config["actor"] = {**config.get("actor", {}), "random_collect_size": 30}
    outcome = serial_pipeline(config, seed=0, run_dir=tmp_path / "run", show=False)
    assert outcome.result["stop_reason"] == "max_train_iter" and outcome.result["last_eval_return"] == 6.0


@pytest.mark.gpu
def test_learning_and_acting_on_a_gpu(case):
    config = {**case[0].cfg.policy.to_dict(), "use_cuda": True}
    policy = create_policy(config)
    for batch in case[1]:
        assert torch.isfinite(learn(policy, batch)["total_loss"])
    assert act(policy.collect_mode, observations(case))["action"].is_cuda
