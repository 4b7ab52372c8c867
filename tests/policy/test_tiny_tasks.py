"""The tiny tasks are what they say: the best policy gets the optimum, and the exact values are exact."""

import numpy as np
import pytest
import tiny_tasks as tiny

from nervex.config.source import ConfigSource
from nervex.entry.compile_config import compile_config
from nervex.envs.registry import get_vec_env_setting
from nervex.utils.errors import ConfigError, SpecError

GAMMA = 0.9


def make(task, **changes):
    env_class, cfgs, _ = get_vec_env_setting({**tiny.TASKS[task], **changes})
    env = env_class(cfgs[0])
    env.seed(0)
    return env


def play(env, act, episodes=300):
    """Returns the mean return of ``act(observations of the episode so far)``, and the last timestep."""
    total = 0.0
    for _ in range(episodes):
        seen, done = [env.reset()], False
        while not done:
            timestep = env.step(act(seen))
            total += timestep.reward
            done = timestep.done
            seen.append(timestep.obs)
    return total / episodes, timestep


def context(seen):
    row = seen[-1]["context"] if isinstance(seen[-1], dict) else seen[-1]
    return int(row.argmax())


BEST = {
    "corridor": lambda seen: 1,
    "bandit": lambda seen: tiny.bandit_best()[context(seen)],
    "bandit_heads": lambda seen: tiny.bandit_best("heads")[context(seen)],
    "bandit_mask": lambda seen: tiny.bandit_best("mask")[context(seen)],
    "endless": lambda seen: 1,
    "target": lambda seen: tiny.target_action(seen[-1]),
    "endless_target": lambda seen: tiny.target_action(seen[-1]),
    "memory_cue": lambda seen: int(seen[0][:2].argmax()),
}


@pytest.mark.parametrize("task", tiny.TASKS)
def test_the_best_policy_gets_the_optimum(task):
    env = make(task)
    mean, last = play(env, BEST[task])
    assert mean == pytest.approx(tiny.OPTIMUM[task], abs=0.04 if task.startswith(("corridor", "bandit")) else 1e-6)
    assert last.info["truncated"] is task.startswith("endless")
    obs, space = env.reset(), env.info().obs_space
    for name, leaf in obs.items() if isinstance(obs, dict) else {"": obs}.items():
        element = space[name] if name else space
        assert leaf.dtype == element.value["dtype"] and leaf.shape == (element.shape,)


@pytest.mark.parametrize("task", tiny.TASKS)
def test_another_policy_gets_less(task):
    env, rng = make(task), np.random.default_rng(1)

    def act(seen):
        if task == "bandit_mask":
            return int(rng.choice(np.flatnonzero(seen[-1]["action_mask"])))
        shape, kind = env.info().act_space.shape, env.info().act_space.value["kind"]
        return rng.uniform(-1, 1, 1) if kind == "box" else rng.integers(shape)

    assert play(env, act)[0] < tiny.OPTIMUM[task] - 0.1


def test_values_of_the_corridor():
    q = tiny.corridor_q(GAMMA)
    for s in range(5):
        k = 5 - s
        assert q[s, 1] == pytest.approx(GAMMA ** (k - 1) - 0.1 * (1 - GAMMA**k) / (1 - GAMMA))
        assert q[s, 0] == pytest.approx(-0.1 + GAMMA * q[max(s - 1, 0), 1])
        env = make("corridor")
        while not env.reset()[s]:
            pass
        total, rewards = 0.0, [env.step(1).reward for _ in range(k)]
        for reward in rewards[::-1]:
            total = reward + GAMMA * total
        assert total == pytest.approx(q[s, 1]) and not env.running


def test_the_corridor_has_a_wall_and_a_time_limit():
    env = make("corridor", time_limit=7)
    env.reset()
    steps = [env.step(0) for _ in range(7)]
    assert steps[-1].obs.tolist() == [1, 0, 0, 0, 0] and [s.done for s in steps] == [False] * 6 + [True]
    assert steps[-1].info == {"terminated": False, "truncated": True}


def test_arms_of_the_bandit():
    assert tiny.bandit_best().tolist() == [0, 1, 2] and tiny.bandit_best("mask").tolist() == [2, 1, 0]
    assert tiny.bandit_best("heads").tolist() == [[0, 1], [1, 0], [2, 1]]
    best = tiny.bandit_best("heads")
    assert (tiny.bandit_q("heads")[np.arange(3), best[:, 0], best[:, 1]] == tiny.bandit_q("heads").max((1, 2))).all()
    for kind in ("arms", "mask", "heads"):
        env = make("bandit", kind=kind)
        for action in np.ndindex(tiny.bandit_q(kind).shape[1:]):
            obs = env.reset()
            expected = tiny.bandit_q(kind)[(context([obs]), *action)]
            if expected == -np.inf:
                with pytest.raises(SpecError, match="is masked in context"):
                    env.step(action[0])
            else:
                assert env.step(action if kind == "heads" else action[0]).reward == pytest.approx(expected)


def test_values_beyond_a_time_limit():
    """What the reward would add up to without one."""
    for gamma in (0.5, 0.9):
        tail = sum(gamma**k for k in range(1, 2000))
        assert tiny.endless_q(gamma).tolist() == pytest.approx([tail, 1 + tail])
        x, action = np.array([0.6]), np.array([0.1])
        assert tiny.target_q(x, action, gamma, endless=True) == pytest.approx(1 - 0.04 + tail)
    assert tiny.target_q(np.array([0.6]), np.array([0.1])) == pytest.approx(-0.04)
    for task in ("endless", "endless_target"):
        env = make(task)
        env.reset()
        steps = [env.step(1) for _ in range(3)]
        assert [s.info["truncated"] for s in steps] == [False, False, True]
        with pytest.raises(SpecError, match="outside of an episode"):
            env.step(1)


def test_actions_out_of_range():
    env = make("target")
    obs = env.reset()
    assert env.step(np.array([7.0])).reward == pytest.approx(-((1 - 0.5 * obs[0]) ** 2))
    env = make("bandit")
    env.reset()
    with pytest.raises(SpecError, match="action 3 is not among 3"):
        env.step(3)


@pytest.mark.parametrize(
    ("task", "policy_type"),
    [("corridor", "dqn"), ("bandit", "dqn"), ("bandit_mask", "dqn"), ("endless", "dqn"), ("memory_cue", "dqn")],
)
def test_configurations_compile(task, policy_type):
    cfg = tiny.tiny_config(task, policy_type, envs=3, policy__learn__batch_size=16, max_env_step=100)
    compiled = compile_config(ConfigSource.from_dict(cfg))
    assert compiled.cfg.policy.learn.batch_size == 16 and compiled.cfg.max_env_step == 100
    assert len(compiled.actor_env_cfg) == len(compiled.evaluator_env_cfg) == 3
    assert tiny.TASKS[task].get("delay") == compiled.actor_env_cfg[0].get("delay")
    given = compile_config(ConfigSource.from_dict(cfg), env_setting=get_vec_env_setting(cfg["env"]))
    assert given.cfg.policy.model == compiled.cfg.policy.model


def test_a_wrong_key_is_named():
    with pytest.raises(ConfigError, match=r"unknown key .*time_limt"):
        make("corridor", time_limt=3)
