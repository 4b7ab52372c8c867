"""The Atari games with the standard preprocessing, every part of it a key of the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from app_zoo.atari.envs.atari_vector import AtariVector, Games
from app_zoo.atari.envs.consoles import Consoles
from app_zoo.atari.envs.games import Game, Moves, find_game
from app_zoo.atari.envs.pool_games import PoolGames
from nervex.config.schema import build, option
from nervex.config.source import ConfigSource
from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo
from nervex.envs.registry import register_env
from nervex.envs.vector_env import ACT
from nervex.utils.errors import ConfigError, EnvFault

_SECTION_KEYS = ("import_names", "env_type", "env_manager_type", "manager", "actor_env_num", "evaluator_env_num")
_ONLY_LANE = np.zeros(1, np.int64)
_ACTS = np.full(1, ACT, np.int64)


@dataclass(kw_only=True)
class AtariEnvConfig:
    """Keys of ``env_type: atari``. The defaults are those of Mnih et al. 2015 but for the time limit, which is that of
    Machado et al. 2018, https://arxiv.org/abs/1709.06009 (who have sticky actions of 0.25 and no episodic life)."""

    env_id: str = option(
        doc="The game: PongNoFrameskip-v4, ALE/Pong-v5, Pong-v5 and Pong are one, all else is set by the keys here."
    )
    repeat_action_probability: float = option(0.0, ge=0, lt=1, doc="Sticky actions: that a frame repeats the last one.")
    noop_max: int = option(30, ge=0, doc="A game begins with fewer than this many frames without action, at random.")
    frame_skip: int = option(4, ge=1, unit="frames", doc="an action lasts; rewards are summed, the last two maximized")
    frame_stack: int = option(4, ge=1, doc="Number of last frames in an observation.")
    screen_size: int = option(84, ge=8, unit="pixels", doc="height and width of a frame")
    grayscale: bool = option(True, doc="One channel per frame in place of three.")
    clip_reward: bool = option(True, doc="The sign of the reward in place of it; evaluations count the true score.")
    episodic_life: bool = option(True, doc="A lost life ends an episode; evaluations play whole games.")
    fire_reset: bool = option(True, doc="Press FIRE at the beginning, in games that have it.")
    full_action_space: bool = option(False, doc="All 18 actions in place of those that the game uses.")
    max_episode_frames: int = option(108_000, ge=1, unit="frames", doc="time limit of a game (half an hour); truncates")
    render_mode: str | None = option(None, doc="Makes render() work.", choices=(None, "rgb_array"))
    backend: str = option("ale", doc="Engine of env_manager_type: vector.", choices=("ale", "envpool"))


class AtariEnv(BaseEnv):
    """One game of the Atari 2600 (Bellemare et al. 2013, https://arxiv.org/abs/1207.4708).

    Observation: uint8 ``[frame_stack, screen_size, screen_size]``, the newest frame last, black before the game began;
    with colors ``[frame_stack * 3, ...]``. Action: one of those that the game uses. Frames and rewards are those of
    ``ale_py``'s vector env, and the lanes of ``env_manager_type: vector`` are this env, bit for bit.

    Training envs have clipped rewards and lives as episodes where the configuration says so; evaluation envs never.
    ``info`` of an episode's last step has ``final_eval_reward``, the unclipped score of the game so far (of the whole
    game where it is over), and ``life_lost``, that the game goes on.

    With ``episodic_life`` the ``reset`` after a lost life goes on with the same game, and the seed is not used. Such an
    episode cannot be played again from its seed alone: a resumed run begins new games, except with the ``vector``
    manager, which keeps the actions of the whole game.

    Args:
        cfg: keys of ``AtariEnvConfig``; the keys of the ``env`` section that are not the env's own are ignored.

    Raises:
        MissingExtraError: ``ale_py`` is not installed.
        ConfigError: an unknown game or key, or a wrong value.
    """

    config_class = AtariEnvConfig

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self._cfg = _checked(cfg)
        self._game = find_game(self._cfg["env_id"], self._cfg["full_action_space"])
        self._vector: AtariVector | None = None
        self._seed: int | None = None
        self._screen: np.ndarray | None = None
        self._obs = np.zeros((1, *_obs_shape(self._cfg)), np.uint8)

    @staticmethod
    def create_evaluator_env_cfg(cfg: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns one config per evaluating env: whole games and their true scores."""
        return BaseEnv.create_evaluator_env_cfg({**cfg, "clip_reward": False, "episodic_life": False})

    @classmethod
    def create_vector(cls, cfgs: list[dict[str, Any]]) -> AtariVector:
        """Returns one engine of all envs, which must have the same configuration.

        Raises:
            ConfigError: their configurations differ.
            MissingExtraError: the engine's package is not installed.
        """
        checked = [_checked(cfg) for cfg in cfgs]
        if any(cfg != checked[0] for cfg in checked):
            raise ConfigError("the envs of one native vector have the same configuration; got different ones")
        cfg = checked[0]
        game = find_game(cfg["env_id"], cfg["full_action_space"])
        if cfg["backend"] == "envpool":
            games: Games = PoolGames(game, len(cfgs), cfg)
        else:
            games = Consoles(len(cfgs), _options(cfg, game))
        return AtariVector(games, game, cfg, len(cfgs))

    def reset(self) -> np.ndarray:
        """Begins a game, or goes on with it after a lost life; returns its observation."""
        vector = self._vector
        seed = np.array([np.random.SeedSequence().generate_state(1)[0] if self._seed is None else self._seed])
        if vector is None:
            games: Games = Consoles(1, _options(self._cfg, self._game))
            if self._cfg["render_mode"] is not None:
                self._screen = np.zeros((1, 3, self._game.height, self._game.width), np.uint8)
                games = _Filmed(games, Consoles(1, _film_options(self._cfg, self._game)), self._screen)
            vector = AtariVector(games, self._game, self._cfg, 1)
            vector.reset(seed, self._obs)
            self._vector = vector
        elif vector.fallen[0]:
            vector.step(_ONLY_LANE, _ONLY_LANE, seed, self._obs)
        else:
            vector.reset(seed, self._obs)
        self._seed = None
        return self._obs[0].copy()

    def step(self, action: Any) -> BaseEnvTimestep:
        """Applies ``action`` for ``frame_skip`` frames.

        Raises:
            EnvFault: no game has begun.
            SpecError: there is no such action.
        """
        if self._vector is None:
            raise EnvFault(f"{self!r}: step() before reset(); call reset() first")
        step = self._vector.step(np.array([int(action)]), _ONLY_LANE, _ACTS, self._obs)
        info = step.info.get(0)
        done = info is not None
        return BaseEnvTimestep(
            self._obs[0].copy(), float(step.reward[0]), done, info or {"terminated": False, "truncated": False}
        )

    def seed(self, seed: int) -> None:
        """Makes the next new game that of this seed; a game without one takes a seed of its own."""
        self._seed = int(seed)

    def render(self) -> np.ndarray:
        """Returns the present frame in the console's own size and colors, uint8 ``[H, W, 3]``.

        Raises:
            ConfigError: ``render_mode`` is not set.
            EnvFault: no game has begun.
        """
        if self._cfg["render_mode"] is None:
            raise ConfigError(f"{self!r} was made without frames; set env.render_mode to 'rgb_array'")
        if self._screen is None:
            raise EnvFault(f"{self!r}: render() before reset(); call reset() first")
        return self._screen[0].transpose(1, 2, 0).copy()

    def close(self) -> None:
        """Frees the console; a later ``reset`` makes a new one."""
        vector, self._vector = self._vector, None
        if vector is not None:
            vector.close()

    def info(self) -> BaseEnvInfo:
        """Returns the declaration of the spaces."""
        actions = len(self._game.actions)
        bound = 1.0 if self._cfg["clip_reward"] else np.inf
        return BaseEnvInfo(
            agent_num=1,
            obs_space=EnvElementInfo(_obs_shape(self._cfg), {"min": 0, "max": 255, "dtype": np.uint8, "kind": "box"}),
            act_space=EnvElementInfo(actions, {"min": 0, "max": actions - 1, "dtype": np.int64, "kind": "discrete"}),
            rew_space=EnvElementInfo(1, {"min": -bound, "max": bound, "dtype": np.float32}),
        )

    def __repr__(self) -> str:
        return f"AtariEnv({self._game.name})"


class _Filmed:
    """Plays every game on a second set of consoles too, whose observations are the screen in full."""

    def __init__(self, games: Games, film: Games, screen: np.ndarray) -> None:
        self.seeded = games.seeded
        self._games, self._film, self._screen = games, film, screen

    def reset(self, seed: np.ndarray, out: np.ndarray) -> np.ndarray:
        self._film.reset(seed, self._screen)
        return self._games.reset(seed, out)

    def begin(self, lane_id: np.ndarray, seed: np.ndarray, out: np.ndarray) -> np.ndarray:
        self._film.begin(lane_id, seed, self._screen)
        return self._games.begin(lane_id, seed, out)

    def act(self, lane_id: np.ndarray, action: np.ndarray, out: np.ndarray) -> Moves:
        self._film.act(lane_id, action, self._screen)
        return self._games.act(lane_id, action, out)

    def announce(self, lane_id: np.ndarray, seed: np.ndarray) -> None:
        pass

    def close(self) -> None:
        self._film.close()
        self._games.close()


def _checked(cfg: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in cfg.items() if key not in _SECTION_KEYS}
    return build(AtariEnvConfig, own, ConfigSource({}, name="the config of AtariEnv"), ("env",))


def _obs_shape(cfg: Mapping[str, Any]) -> tuple[int, int, int]:
    channels = cfg["frame_stack"] * (1 if cfg["grayscale"] else 3)
    return channels, cfg["screen_size"], cfg["screen_size"]


def _options(cfg: Mapping[str, Any], game: Game) -> dict[str, Any]:
    """Arguments of ale_py's vector env; lives and clipping are done outside, as it would begin a new game for each
    life and hide the score."""
    return {
        "game": game.rom,
        "max_num_frames_per_episode": cfg["max_episode_frames"],
        "repeat_action_probability": cfg["repeat_action_probability"],
        "full_action_space": cfg["full_action_space"],
        "img_height": cfg["screen_size"],
        "img_width": cfg["screen_size"],
        "grayscale": cfg["grayscale"],
        "stack_num": cfg["frame_stack"],
        "frameskip": cfg["frame_skip"],
        "noop_max": cfg["noop_max"],
        "use_fire_reset": cfg["fire_reset"],
        "episodic_life": False,
        "reward_clipping": False,
    }


def _film_options(cfg: Mapping[str, Any], game: Game) -> dict[str, Any]:
    full = {"img_height": game.height, "img_width": game.width, "grayscale": False, "stack_num": 1}
    return {**_options(cfg, game), **full}


register_env("atari", AtariEnv)
