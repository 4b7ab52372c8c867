"""Which game an env id means, and what the console says about it."""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nervex.utils.errors import ConfigError, MissingExtraError, did_you_mean

try:
    import ale_py
    from ale_py import roms
except ImportError:
    ale_py = None  # type: ignore[assignment]

_ID = re.compile(r"(?:ALE/)?(?P<game>[A-Za-z_]+?)(?:Deterministic|NoFrameskip)?(?P<version>-.*)?")
_VERSIONS = (None, "-v0", "-v4", "-v5")
_TWO_PLAYERS_ONLY = ("combat", "joust", "maze_craze", "warlords")

Moves = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Reward, terminated, truncated and lives, each ``[b]``: what a step of some lanes of an engine gives."""


class Game(NamedTuple):
    """A game and its console.

    Attributes:
        rom: name of its ROM, as ``'space_invaders'``.
        name: as it stands in ids, ``'SpaceInvaders'``.
        actions: names of the actions, in the order of their numbers.
        height, width: of the screen, in pixels.
    """

    rom: str
    name: str
    actions: tuple[str, ...]
    height: int
    width: int


def require_ale() -> Any:
    """Returns the package ``ale_py``.

    Raises:
        MissingExtraError: it is not installed.
    """
    if ale_py is None:
        raise MissingExtraError(
            "env_type 'atari' needs the package ale-py, which is not installed; run: pip install \"nervex[atari]\""
        )
    return ale_py


@lru_cache
def find_game(env_id: str, full_action_space: bool) -> Game:
    """Returns the game that an id means: ``'PongNoFrameskip-v4'``, ``'ALE/Pong-v5'`` and ``'pong'`` are one.

    Args:
        env_id: only the game is read from it; versions and suffixes set nothing.
        full_action_space: all 18 actions of the joystick in place of those that the game uses.

    Raises:
        MissingExtraError: ``ale_py`` is not installed.
        ConfigError: there is no such game.
    """
    require_ale()
    known = {_letters(rom): rom for rom in roms.get_all_rom_ids() if rom not in _TWO_PLAYERS_ONLY}
    match = _ID.fullmatch(env_id)
    word = _letters(match["game"] if match else env_id)
    if word not in known or (match and match["version"] not in _VERSIONS):
        near = did_you_mean(word, known)
        for letters, rom in known.items():
            near = near.replace(f"'{letters}'", f"'{_title(rom)}NoFrameskip-v4'")
        raise ConfigError(f"env.env_id '{env_id}' names no Atari game for one player{near}")
    rom = known[word]
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    console = ale_py.ALEInterface()
    path = roms.get_rom_path(rom)
    assert path is not None
    console.loadROM(path)
    actions = console.getLegalActionSet() if full_action_space else console.getMinimalActionSet()
    return Game(rom, _title(rom), tuple(action.name for action in actions), *console.getScreenDims())


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def _title(rom: str) -> str:
    return rom.title().replace("_", "")
