"""What the games' engines leave to be done: lives as episodes, clipped rewards, true scores, checked actions."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from app_zoo.atari.envs.games import Game, Moves
from nervex.envs.vector_env import ACT, VectorEnv, VectorStep
from nervex.utils.errors import SpecError


class Games(Protocol):
    """Lanes that play whole games, each of which begins where it is told to; see ``Consoles``."""

    seeded: bool

    def reset(self, seed: np.ndarray, out: np.ndarray) -> np.ndarray: ...

    def begin(self, lane_id: np.ndarray, seed: np.ndarray, out: np.ndarray) -> np.ndarray: ...

    def act(self, lane_id: np.ndarray, action: np.ndarray, out: np.ndarray) -> Moves: ...

    def announce(self, lane_id: np.ndarray, seed: np.ndarray) -> None: ...

    def close(self) -> None: ...


class AtariVector(VectorEnv):
    """Lanes of one game under the keys of the configuration.

    With ``episodic_life`` an episode ends as terminated when a life is lost and others are left; the next one goes on
    in the same game (``continued``) after one step without action, or of FIRE with ``fire_reset``. The reported score
    of an episode is that of its game up to there, unclipped, and the whole game's where the game ended.

    Args:
        games: the engine.
        game: which game it plays.
        cfg: ``clip_reward``, ``episodic_life``, ``fire_reset``.
        lane_num: number of lanes.

    Attributes:
        fallen: bool ``[B]``, a life was lost in the lane's last step, and the game goes on.
    """

    def __init__(self, games: Games, game: Game, cfg: Mapping[str, Any], lane_num: int) -> None:
        self.seeded = games.seeded
        self._games = games
        self._game = game
        self._clip, self._episodic = bool(cfg["clip_reward"]), bool(cfg["episodic_life"])
        fires = cfg["fire_reset"] and "FIRE" in game.actions
        self._revive = game.actions.index("FIRE" if fires else "NOOP")
        self._lives = np.zeros(lane_num, np.int64)
        self.fallen = np.zeros(lane_num, np.bool_)
        self._score = np.zeros(lane_num, np.float64)

    def reset(self, seed: np.ndarray, out: np.ndarray) -> None:
        """See ``VectorEnv``."""
        self._lives[:] = self._games.reset(seed, out)
        self._score[:] = 0.0
        self.fallen[:] = False

    def step(self, action: np.ndarray, lane_id: np.ndarray, seed: np.ndarray, out: np.ndarray) -> VectorStep:
        """See ``VectorEnv``.

        Raises:
            SpecError: there is no such action.
        """
        begins = seed != ACT
        continued = begins & self.fallen[lane_id]
        self._check(action, lane_id, ~begins)
        moved = ~begins | continued
        lanes = lane_id[moved]
        b = len(lane_id)
        reward, terminated, truncated = np.zeros(b), np.zeros(b, np.bool_), np.zeros(b, np.bool_)
        if len(lanes):
            moves = np.where(continued, self._revive, action)[moved]
            reward[moved], terminated[moved], truncated[moved], lives = self._games.act(lanes, moves, out)
            self._score[lanes] += reward[moved]
            fallen = np.zeros(b, np.bool_)
            if self._episodic:
                fallen[moved] = (lives > 0) & (lives < self._lives[lanes])
                fallen &= ~begins & ~terminated
                terminated |= fallen
            self.fallen[lanes] = (fallen & ~truncated)[moved]
            self._lives[lanes] = lives
            truncated &= ~terminated
        if begins.any():
            # A game that ended in the very step that was to go on with it is followed by a new one.
            fresh = begins & (~continued | terminated | truncated)
            if fresh.any():
                lanes = lane_id[fresh]
                self._lives[lanes] = self._games.begin(lanes, seed[fresh], out)
                self._score[lanes] = 0.0
                self.fallen[lanes] = False
            continued &= ~fresh
            reward[begins], terminated[begins], truncated[begins] = 0, False, False
        score = self._score[lane_id]
        info = {
            row: {
                "terminated": bool(terminated[row]),
                "truncated": bool(truncated[row]),
                "life_lost": bool(self.fallen[lane_id[row]]),
                "final_eval_reward": float(score[row]),
            }
            for row in np.flatnonzero(terminated | truncated).tolist()
        }
        gain = np.sign(reward) if self._clip else reward
        return VectorStep(gain, terminated, truncated, score, continued, info)

    def announce(self, lane_id: np.ndarray, seed: np.ndarray) -> None:
        """Lets the engine prepare new games of the lanes whose next episode will be one."""
        last = np.ones(len(lane_id), np.bool_) if not self._episodic else self._lives[lane_id] <= 1
        self._games.announce(lane_id[last], seed[last])

    def close(self) -> None:
        """See ``VectorEnv``."""
        self._games.close()

    def _check(self, action: np.ndarray, lane_id: np.ndarray, acts: np.ndarray) -> None:
        # The engines do not check: theirs would wait for an answer without end.
        bad = acts & ((action < 0) | (action >= len(self._game.actions)))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise SpecError(
                f"got action {action[row]} for env {lane_id[row]}, expected 0 to {len(self._game.actions) - 1} "
                f"({', '.join(self._game.actions)})"
            )
