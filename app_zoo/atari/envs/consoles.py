"""Consoles of the Arcade Learning Environment, one per lane, that run side by side in its own threads."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from app_zoo.atari.envs.games import Moves, require_ale

_SEED_MASK = 0x7FFFFFFF  # a console takes 31 bits


class Started(NamedTuple):
    """A game that has begun on a console: its first observation ``[1, ...]`` and number of lives."""

    console: Any
    obs: np.ndarray
    lives: int


class Consoles:
    """``B`` lanes of one game, each an ``ale_py`` vector of one env with a thread of its own.

    Several vectors of one rather than one of several: they are as fast (a step of a console takes 0.3 ms, its call
    0.01 ms), and only so can some lanes step without the others.

    A console draws the number of no-ops and the sticky actions from its seed, and is only seeded by loading its ROM
    anew, which takes 90 ms. A second console per lane does that in the background once the next seed is announced.

    The step that ends a game, or reaches its time limit, stops ``ale_py`` before it has seen the screen: its newest
    frame is the one from two frames earlier, or that of the step before.

    Args:
        lane_num: number of lanes.
        options: keyword arguments of ``ale_py``'s ``AtariVectorEnv``.
    """

    seeded = True

    def __init__(self, lane_num: int, options: dict[str, Any]) -> None:
        self._options = options
        self._consoles = [self._new_console() for _ in range(lane_num)]
        self._ahead: dict[int, tuple[int, Future[Started]]] = {}  # lane -> seed, game that begins in the background
        self._idle: list[Any] = []
        self._threads = ThreadPoolExecutor(min(lane_num, os.cpu_count() or 1), "boot")

    def reset(self, seed: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Begins a new game in every lane; as ``begin``."""
        return self.begin(np.arange(len(self._consoles)), seed, out)

    def begin(self, lane_id: np.ndarray, seed: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Begins a new game of its own seed in each lane.

        Args:
            lane_id, seed: int64 ``[b]``.
            out: uint8 ``[B, channel, height, width]``; the rows of ``lane_id`` take the observations.

        Returns:
            lives, int64 ``[b]``.
        """
        games = [self._game(*pair) for pair in zip(lane_id.tolist(), seed.tolist(), strict=True)]
        lives = np.zeros(len(lane_id), np.int64)
        for row, (lane, game) in enumerate(zip(lane_id.tolist(), games, strict=True)):
            started = game.result()
            if started.console is not self._consoles[lane]:
                self._idle.append(self._consoles[lane])
                self._consoles[lane] = started.console
            out[lane] = _channels_first(started.obs[0])
            lives[row] = started.lives
        return lives

    def act(self, lane_id: np.ndarray, action: np.ndarray, out: np.ndarray) -> Moves:
        """Steps lanes whose games go on, side by side.

        Args:
            lane_id, action: int64 ``[b]``.
            out: uint8 ``[B, channel, height, width]``.

        Returns:
            ``(reward, terminated, truncated, lives)``, all ``[b]``: the score's change, game over, time limit, lives.
        """
        b = len(lane_id)
        reward, lives = np.zeros(b), np.zeros(b, np.int64)
        terminated, truncated = np.zeros(b, np.bool_), np.zeros(b, np.bool_)
        lanes = lane_id.tolist()
        for row, lane in enumerate(lanes):
            self._consoles[lane].send(action[row : row + 1])
        for row, lane in enumerate(lanes):
            obs, gain, over, cut, info = self._consoles[lane].recv()
            out[lane] = _channels_first(obs[0])
            reward[row], terminated[row], truncated[row], lives[row] = gain[0], over[0], cut[0], info["lives"][0]
        return reward, terminated, truncated, lives

    def announce(self, lane_id: np.ndarray, seed: np.ndarray) -> None:
        """Begins the lanes' next games in the background."""
        for lane, number in zip(lane_id.tolist(), seed.tolist(), strict=True):
            _, game = self._ahead.pop(lane, (0, None))
            if game is not None:
                self._idle.append(game.result().console)
            console = self._idle.pop() if self._idle else self._new_console()
            self._ahead[lane] = number, self._threads.submit(_start, console, number)

    def close(self) -> None:
        """Ends all consoles."""
        self._threads.shutdown()
        self._consoles, self._idle = [], []
        self._ahead.clear()

    def _game(self, lane: int, seed: int) -> "Future[Started]":
        """Returns the lane's next game: the one that was announced, else one on the lane's own console."""
        announced, game = self._ahead.pop(lane, (None, None))
        if game is not None and announced == seed:
            return game
        if game is not None:
            self._idle.append(game.result().console)
        return self._threads.submit(_start, self._consoles[lane], seed)

    def _new_console(self) -> Any:
        return require_ale().AtariVectorEnv(num_envs=1, num_threads=1, **self._options)


def _start(console: Any, seed: int) -> Started:
    obs, info = console.reset(seed=np.array([seed & _SEED_MASK]))
    return Started(console, obs, int(info["lives"][0]))


def _channels_first(frames: np.ndarray) -> np.ndarray:
    """Returns ``[stack, h, w]`` as it is, and ``[stack, h, w, 3]`` as ``[stack * 3, h, w]``."""
    if frames.ndim == 3:
        return frames
    stack, height, width, colors = frames.shape
    return frames.transpose(0, 3, 1, 2).reshape(stack * colors, height, width)
