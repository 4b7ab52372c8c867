"""The rules around the games' engines, on scripted games; consoles that begin games ahead of time."""

import numpy as np
import pytest

from app_zoo.atari.envs.atari_vector import AtariVector
from app_zoo.atari.envs.consoles import Consoles
from app_zoo.atari.envs.games import Game
from nervex.envs.vector_env import ACT

GAME = Game("toy", "Toy", ("NOOP", "FIRE", "LEFT"), 210, 160)


class ScriptedGames:
    """Two lanes; each step of a lane takes the next line (reward, over, limit, lives) of its script."""

    seeded = True

    def __init__(self, *scripts):
        self.scripts = [list(script) for script in scripts]
        self.begun, self.acted, self.announced = [], [], []

    def reset(self, seed, out):
        return self.begin(np.arange(len(self.scripts)), seed, out)

    def begin(self, lane_id, seed, out):
        self.begun.append(dict(zip(lane_id.tolist(), seed.tolist(), strict=True)))
        return np.full(len(lane_id), 3)

    def act(self, lane_id, action, out):
        self.acted.append(dict(zip(lane_id.tolist(), action.tolist(), strict=True)))
        rows = [self.scripts[lane].pop(0) for lane in lane_id.tolist()]
        reward, over, limit, lives = map(np.array, zip(*rows, strict=True))
        return reward.astype(float), over, limit, lives

    def announce(self, lane_id, seed):
        self.announced.append(dict(zip(lane_id.tolist(), seed.tolist(), strict=True)))

    def close(self):
        pass


def play(*scripts, **cfg):
    games = ScriptedGames(*scripts)
    cfg = {"clip_reward": True, "episodic_life": True, "fire_reset": True, **cfg}
    vector = AtariVector(games, GAME, cfg, len(scripts))
    vector.reset(np.arange(100, 100 + len(scripts)), None)
    games.begun.clear()
    return games, vector


def step(vector, action, seed):
    lanes = np.arange(len(action))
    return vector.step(np.array(action), lanes, np.array(seed), None)


ON, LOST = (30, False, False, 3), (5, False, False, 2)


def test_a_lost_life_ends_an_episode_and_the_game_goes_on():
    games, vector = play([ON, LOST, (7, False, False, 2), ON], [ON, ON, ON, ON])
    first = step(vector, [2, 0], [ACT, ACT])
    assert first.reward.tolist() == [1, 1] and first.info == {}
    lost = step(vector, [2, 0], [ACT, ACT])
    assert lost.terminated.tolist() == [True, False] and not lost.truncated.any()
    assert lost.info == {0: {"terminated": True, "truncated": False, "life_lost": True, "final_eval_reward": 35.0}}
    assert vector.fallen.tolist() == [True, False]
    begun = step(vector, [2, 2], [7, ACT])
    assert games.acted[-1] == {0: 1, 1: 2}  # FIRE in place of the action
    assert begun.continued.tolist() == [True, False] and begun.reward.tolist() == [0, 1]
    assert games.begun == [] and not begun.terminated.any()
    assert step(vector, [0, 0], [ACT, ACT]).score.tolist() == [72.0, 120.0]


@pytest.mark.parametrize("end", [(2, True, False, 0), (2, False, True, 2)], ids=["game over", "time limit"])
def test_a_game_that_ends_as_it_goes_on_is_followed_by_a_new_one(end):
    games, vector = play([LOST, end, ON], fire_reset=False)
    step(vector, [2], [ACT])
    begun = step(vector, [2], [7])
    assert games.acted[-1] == {0: 0} and games.begun == [{0: 7}]
    assert begun.continued.tolist() == [False] and begun.reward.tolist() == [0]
    assert not begun.terminated.any() and not begun.truncated.any() and begun.info == {}
    assert step(vector, [2], [ACT]).score.tolist() == [30.0]


@pytest.mark.parametrize(
    ("line", "episodic", "ends"),
    [
        ((1, True, False, 0), True, (True, False, False)),
        ((1, True, False, 2), True, (True, False, False)),  # over, whatever the lives
        ((1, False, False, 0), True, (False, False, False)),  # the counter of the last life in some games
        ((1, False, False, 4), True, (False, False, False)),  # a life won
        ((1, False, True, 3), True, (False, True, False)),
        ((1, False, True, 2), True, (True, False, False)),  # a life lost at the time limit
        ((1, True, True, 0), True, (True, False, False)),
        (LOST, False, (False, False, False)),
    ],
)
def test_ends(line, episodic, ends):
    games, vector = play([line, ON], episodic_life=episodic)
    result = step(vector, [0], [ACT])
    assert (result.terminated[0], result.truncated[0], vector.fallen[0]) == ends
    if any(ends):
        step(vector, [0], [9])
        assert games.begun == [{0: 9}]


@pytest.mark.parametrize(("clip", "rewards"), [(True, [1, -1]), (False, [30, -4])])
def test_clipping(clip, rewards):
    _, vector = play([ON], [(-4, False, False, 3)], clip_reward=clip)
    assert step(vector, [0, 0], [ACT, ACT]).reward.tolist() == rewards


def test_seeds_are_announced_where_a_new_game_may_come_next():
    for episodic, expected in ((True, {0: 11}), (False, {0: 11, 1: 12})):
        games, vector = play([(0, False, False, 1)], [ON], episodic_life=episodic)
        step(vector, [0, 0], [ACT, ACT])
        vector.announce(np.arange(2), np.array([11, 12]))
        assert games.announced == [expected]


def test_games_begun_ahead_are_the_games_of_their_seeds():
    options = {"game": "breakout", "reward_clipping": False, "repeat_action_probability": 0.25}
    eager, plain = Consoles(1, options), Consoles(1, options)
    lane = np.zeros(1, np.int64)
    a, b = np.zeros((2, 1, 4, 84, 84), np.uint8)
    announced = [[2], [9], [9, 4], []]  # after the games 1, 2, 3 and 4: the next one's seed, another's, both, none
    for seed, ahead in zip((1, 2, 3, 4), announced, strict=True):
        assert eager.begin(lane, np.array([seed]), a).tolist() == plain.begin(lane, np.array([seed]), b).tolist() == [5]
        np.testing.assert_array_equal(a, b)
        for other in ahead:
            eager.announce(lane, np.array([other]))
        for action in (1, 2, 2, 3):
            eager.act(lane, np.array([action]), a)
            plain.act(lane, np.array([action]), b)
            np.testing.assert_array_equal(a, b)
    eager.close()
    plain.close()
