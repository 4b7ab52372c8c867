"""The Atari env: names, frames, lives, scores, and that its native vector is the same env bit for bit."""

import copy
import sys

import ale_py
import numpy as np
import pytest
from ale_py import roms

from app_zoo.atari.envs import AtariEnv, games
from app_zoo.atari.envs.games import find_game
from nervex.envs.registry import get_vec_env_setting
from nervex.utils.errors import CheckpointError, ConfigError, EnvFault, MissingExtraError, SpecError
from nervex.worker.actor.env_manager.registry import create_env_manager

PONG = {"env_id": "PongNoFrameskip-v4"}
BREAKOUT = {"env_id": "BreakoutNoFrameskip-v4"}
PLAIN = {"noop_max": 0, "fire_reset": False}  # a game begins with its very first frame


@pytest.mark.parametrize(
    ("env_id", "rom"),
    [
        ("PongNoFrameskip-v4", "pong"),
        ("PongDeterministic-v0", "pong"),
        ("Pong-v5", "pong"),
        ("ALE/Pong-v5", "pong"),
        ("pong", "pong"),
        ("SpaceInvadersNoFrameskip-v4", "space_invaders"),
        ("ALE/UpNDown-v5", "up_n_down"),
        ("ms_pacman", "ms_pacman"),
        ("Qbert", "qbert"),
        ("ALE/Tetris-v5", "tetris"),
    ],
)
def test_an_id_names_a_game(env_id, rom):
    assert find_game(env_id, False).rom == rom


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("PongNoFrameskip-v7", "'PongNoFrameskip-v7' names no Atari game for one player; did you mean 'PongNoF"),
        ("Breakuot-v5", "did you mean 'BreakoutNoFrameskip-v4'"),
        ("ALE/Joust-v5", "names no Atari game for one player"),
    ],
)
def test_unknown_games(env_id, message):
    with pytest.raises(ConfigError, match=message):
        AtariEnv({"env_id": env_id})


@pytest.mark.parametrize(
    ("cfg", "shape", "actions"),
    [
        ({}, (4, 84, 84), 6),
        ({"full_action_space": True, "frame_stack": 1, "screen_size": 40}, (1, 40, 40), 18),
        ({"grayscale": False, "frame_stack": 2}, (6, 84, 84), 6),
    ],
)
def test_spaces(cfg, shape, actions):
    env = AtariEnv({**PONG, **cfg})
    info = env.info()
    assert (info.obs_space.shape, info.act_space.shape) == (shape, actions)
    obs = env.reset()
    assert (obs.shape, obs.dtype) == (shape, np.uint8)
    assert env.step(actions - 1).obs.shape == shape
    with pytest.raises(SpecError, match=rf"got action {actions} for env 0, expected 0 to {actions - 1} \(NOOP, FIRE, "):
        env.step(actions)
    env.close()


def console(rom, seed):
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", seed)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(rom))
    ale.reset_game()
    return ale


def shrunk(frame, size):
    """The mean of the area that each small pixel covers, float64 ``[size, size]``."""

    def weights(n):
        edges = np.linspace(0, n, size + 1)
        low, high = edges[:-1, None], edges[1:, None]
        pixel = np.arange(n)[None]
        return np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None) * size / n

    return weights(frame.shape[0]) @ frame @ weights(frame.shape[1]).T


@pytest.mark.parametrize("skip", [4, 1])
def test_frames_are_those_of_the_console(skip):
    env = AtariEnv({**BREAKOUT, **PLAIN, "frame_skip": skip})
    ale = console("breakout", 11)
    actions = ale.getMinimalActionSet()
    env.seed(11)
    obs = env.reset()
    expected = [np.zeros((84, 84))] * 3 + [shrunk(ale.getScreenGrayscale(), 84)]
    np.testing.assert_allclose(obs, np.stack(expected), atol=0.51)
    for action in np.random.default_rng(0).integers(0, 4, 15).tolist():
        screens = []
        for _ in range(skip):
            ale.act(actions[action])
            screens.append(ale.getScreenGrayscale())
        expected = [*expected[1:], shrunk(np.max(screens[-2:], axis=0), 84)]
        np.testing.assert_allclose(env.step(action).obs, np.stack(expected), atol=0.51)
    env.close()


def test_rendered_frames_are_the_screen():
    env = AtariEnv({**BREAKOUT, **PLAIN, "frame_skip": 1, "render_mode": "rgb_array"})
    with pytest.raises(EnvFault, match=r"render\(\) before reset\(\)"):
        env.render()
    ale = console("breakout", 5)
    env.seed(5)
    env.reset()
    for action in (1, 1, 2, 3):
        np.testing.assert_array_equal(env.render(), ale.getScreenRGB())
        ale.act(ale.getMinimalActionSet()[action])
        env.step(action)
    assert env.render().shape == (210, 160, 3)
    env.close()
    with pytest.raises(ConfigError, match=r"set env\.render_mode to 'rgb_array'"):
        AtariEnv(PONG).render()


def frames(env, seed, steps=6):
    env.seed(seed)
    rows = [env.reset().copy()]
    return np.stack(rows + [env.step(2).obs.copy() for _ in range(steps)])


@pytest.mark.parametrize(
    ("cfg", "differ"),
    [({}, True), ({**PLAIN, "repeat_action_probability": 0.25}, True), (PLAIN, False)],
    ids=["no-ops", "sticky actions", "nothing at random"],
)
def test_a_seed_is_a_game(cfg, differ):
    env = AtariEnv({**BREAKOUT, **cfg})
    first, second, again = frames(env, 1), frames(env, 2**32 - 3), frames(env, 1)
    env.close()
    np.testing.assert_array_equal(first, again)
    assert (first != second).any() == differ


def test_lives_and_scores():
    """A training env against an env of whole games and true rewards that gets the same actions."""
    cfg = {"env_id": "SpaceInvaders-v5"}
    train = AtariEnv(cfg)
    whole = AtariEnv({**cfg, "clip_reward": False, "episodic_life": False})
    fire = find_game("SpaceInvaders", False).actions.index("FIRE")
    rng = np.random.default_rng(2)
    for env in (train, whole):
        env.seed(7)
    np.testing.assert_array_equal(train.reset(), whole.reset())
    score, lives, seen = 0.0, 0, set()
    while True:
        action = int(rng.integers(0, 6))
        step, true = train.step(action), whole.step(action)
        np.testing.assert_array_equal(step.obs, true.obs)
        score += true.reward
        assert step.reward == np.sign(true.reward)
        seen.add(true.reward)
        if true.done:
            break
        if step.done:
            lives += 1
            ends = {"terminated": True, "truncated": False, "life_lost": True, "final_eval_reward": score}
            assert step.info == ends
            train.seed(99)  # not used: the game goes on
            np.testing.assert_array_equal(train.reset(), whole.step(fire).obs)
    assert lives == 2 and {0.0, 5.0, 10.0} < seen
    assert step.info == true.info == {**ends, "life_lost": False, "final_eval_reward": score}
    train.seed(7)
    whole.seed(7)
    np.testing.assert_array_equal(train.reset(), whole.reset())
    train.close()
    whole.close()


def test_a_time_limit_truncates():
    env = AtariEnv({**PONG, "max_episode_frames": 40})
    for _ in range(2):
        env.reset()
        ends = [env.step(0) for _ in range(10)]
        assert [step.done for step in ends] == [False] * 9 + [True]
        score = ends[-1].info.pop("final_eval_reward")
        assert ends[-1].info == {"terminated": False, "truncated": True, "life_lost": False}
        assert type(score) is float
    env.close()


def test_evaluations_play_whole_games_for_true_scores():
    section = {
        "env_type": "atari",
        "import_names": ["app_zoo.atari.envs.atari_env"],
        **PONG,
        "actor_env_num": 3,
        "evaluator_env_num": 2,
        "frame_stack": 2,
    }
    env_class, actor, evaluator = get_vec_env_setting(section)
    assert env_class is AtariEnv
    assert actor == [{**PONG, "frame_stack": 2}] * 3
    assert evaluator == [{**PONG, "frame_stack": 2, "clip_reward": False, "episodic_life": False}] * 2
    assert env_class(actor[0]).info().rew_space.value["max"] == 1
    assert env_class(evaluator[0]).info().rew_space.value["max"] == np.inf


def stream(manager, steps, seed, few=True):
    """Steps all lanes, and every third time only two of them."""
    rng = np.random.default_rng(seed)
    rows = []
    for t in range(steps):
        lanes = np.array([2, 0]) if few and t % 3 == 2 else np.arange(3)
        rows.append(copy.deepcopy(tuple(manager.step_block(rng.integers(0, 4, 3)[lanes], lanes))))
    return rows


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        for column in range(7):
            np.testing.assert_array_equal(x[column], y[column])
        assert x[7] == y[7]


@pytest.mark.parametrize("cfg", [{}, {"repeat_action_probability": 0.25, "episodic_life": False, "grayscale": False}])
def test_the_native_vector_is_the_same_env(cfg):
    cfg = {**BREAKOUT, "max_episode_frames": 280, **cfg}
    streams = []
    for kind in ("base", "vector"):
        with create_env_manager(kind, AtariEnv, [cfg] * 3) as manager:
            manager.seed(3)
            manager.launch()
            streams.append(stream(manager, 85, 0))
    assert_same(*streams)
    infos = [info for row in streams[0] if row[7] for info in row[7] if info]
    assert any(info["truncated"] for info in infos)
    assert any(info["life_lost"] for info in infos) == cfg.get("episodic_life", True)


def test_a_saved_vector_goes_on_within_its_games():
    manager = create_env_manager("vector", AtariEnv, [BREAKOUT] * 3)
    manager.seed(8)
    manager.launch()
    rows = stream(manager, 45, 1)
    saved = copy.deepcopy(manager.state_dict())
    assert any(lane["begins"].any() for lane in saved["lanes"])  # a life was lost, and the game went on
    assert any(row[7] for row in rows)
    expected = stream(manager, 25, 2)
    manager.load_state_dict(saved)
    assert_same(stream(manager, 25, 2), expected)
    manager.close()
    saved["lanes"][1]["actions"][:] = 2
    with pytest.raises(CheckpointError, match="env 1 does not come back to its saved state"):
        manager.load_state_dict(saved)


def test_wrong_use_of_the_vector():
    with create_env_manager("vector", AtariEnv, [BREAKOUT] * 2) as manager:
        manager.launch()
        with pytest.raises(SpecError, match="got action 4 for env 1, expected 0 to 3"):
            manager.step_block(np.array([0, 4]), np.arange(2))
    with create_env_manager("vector", AtariEnv, [BREAKOUT, PONG]) as manager:
        with pytest.raises(ConfigError, match="have the same configuration"):
            manager.launch()


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(games, "ale_py", None)
    find_game.cache_clear()
    with pytest.raises(MissingExtraError, match=r'needs the package ale-py.*run: pip install "nervex\[atari\]"'):
        AtariEnv(PONG)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(MissingExtraError, match=r'needs the package envpool.*run: pip install "nervex\[envpool\]"'):
        create_env_manager("vector", AtariEnv, [{**PONG, "backend": "envpool"}]).launch()


@pytest.mark.envpool
def test_envpool_plays_by_the_same_rules():
    cfg = {**BREAKOUT, "max_episode_frames": 500, "backend": "envpool"}
    streams = []
    for _ in range(2):
        with create_env_manager("vector", AtariEnv, [cfg] * 3) as manager:
            manager.seed(3)
            manager.launch()
            streams.append([copy.deepcopy(tuple(manager.ready_block())), *stream(manager, 200, 0)])
            saved = manager.state_dict()
            with pytest.raises(CheckpointError, match="takes seeds only when it is made"):
                manager.load_state_dict(saved)
    np.testing.assert_array_equal(streams[0][0][1], streams[1][0][1])
    assert_same(streams[0][1:], streams[1][1:])
    awaits, score = np.zeros(3, bool), np.zeros(3)
    kinds = set()
    for lane_id, _, reward, terminated, truncated, valid, episode_return, info in streams[0][1:]:
        np.testing.assert_array_equal(valid, ~awaits[lane_id])
        assert set(np.unique(reward)) <= {0.0, 1.0} and not reward[~valid].any()
        score[lane_id] += reward  # the lowest rows of bricks are worth 1, and random play gets no higher
        for row, lane in enumerate(lane_id.tolist()):
            awaits[lane] = terminated[row] | truncated[row]
            if awaits[lane]:
                kinds.add((bool(terminated[row]), info[row]["life_lost"]))
                assert episode_return[row] >= score[lane]
                score[lane] *= info[row]["life_lost"]
    assert kinds >= {(True, True), (False, False)}
