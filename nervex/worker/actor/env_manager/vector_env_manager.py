"""All envs in one native engine that steps them together."""

import copy
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from nervex.envs.vector_env import ACT, VectorEnv, VectorStep
from nervex.utils.errors import CheckpointError, ConfigError, EnvFault, NerveXError
from nervex.worker.actor.env_manager.action_log import ActionLog
from nervex.worker.actor.env_manager.blocks import Blocks, map_tree, tree_leaves
from nervex.worker.actor.env_manager.env_manager import EnvManager
from nervex.worker.actor.env_manager.env_runner import episode_seed

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class VectorEnvManager(EnvManager):
    """Drives the engine (``VectorEnv``) that the env class offers by ``create_vector(cfgs)``: blocks in, blocks out.

    The engine writes observations straight into the block that is handed out; seeds, episodes, dummy rows and returns
    are kept here as arrays over the lanes. Where the engine can seed every episode, same seed and same actions give
    the rows of the same engine in the ``base`` manager, and a saved state is restored by playing all lanes' recorded
    actions again. An engine that cannot (``seeded`` False) is not restored within an episode: ``load_state_dict``
    raises a ``CheckpointError``, after which a run goes on with new episodes. See ``EnvManager`` for the arguments and
    the calls; time limits and fault budget have no effect, as an engine in this very process can be neither
    interrupted nor mended: its first fault is raised.

    Raises:
        ConfigError: the env class offers no engine.
    """

    _vector: VectorEnv | None = None
    _can_mend = False

    def __init__(
        self,
        env_fn: Callable[[Any], Any],
        env_cfg: Iterable[Mapping[str, Any]],
        env_num: int,
        episode_num: int | float | str = float("inf"),
        *,
        step_timeout_s: float | None = None,
        reset_timeout_s: float = 60.0,
        fault_budget: int = 10,
        fault_window_s: float = 600.0,
    ) -> None:
        super().__init__(
            env_fn, env_cfg, env_num, episode_num, step_timeout_s=step_timeout_s, reset_timeout_s=reset_timeout_s,
            fault_budget=fault_budget, fault_window_s=fault_window_s,
        )  # fmt: skip
        if not hasattr(env_fn, "create_vector"):
            raise ConfigError(
                f"env {getattr(env_fn, '__name__', env_fn)} has no native vector (no create_vector), which "
                "env.env_manager_type 'vector' needs; use 'base' or 'sync_subprocess'"
            )

    def _start(self, blocks_of: Callable[[Any], Blocks], seeds: list[int]) -> Blocks:
        blocks = blocks_of(None)
        num = self.env_num
        self._lane_seed = list(seeds)
        self._next_episode = np.zeros(num, np.int64)
        self._origin = np.zeros(num, np.int64)  # the seed that last fixed a lane's state; the log begins there
        self._awaits = np.zeros(num, np.bool_)  # the lane's last step ended its episode
        self._some_await = False
        self._return = np.zeros(num, np.float64)
        self._all_act = np.full(num, ACT, np.int64)
        self._out = [map_tree(lambda a, slot=slot: a[slot], blocks.obs) for slot in (0, 1)]
        self._log = ActionLog(blocks.action)
        configs = copy.deepcopy(self._env_cfg)
        create: Any = self._env_fn.create_vector  # type: ignore[attr-defined]
        vector: VectorEnv = _guarded("create_vector()", create, configs)
        self._announces = type(vector).announce is not VectorEnv.announce
        self._vector = vector
        return blocks

    @property
    def _engine(self) -> VectorEnv:
        assert self._vector is not None
        return self._vector

    def _exchange(self, lane_id: np.ndarray, slot: int) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
        begins = self._awaits[lane_id] if self._some_await else None
        seed = self._all_act[: len(lane_id)]
        if begins is not None and np.count_nonzero(begins):
            seed = np.full(len(lane_id), ACT, np.int64)
            seed[begins] = self._next_seeds(lane_id[begins])
        else:
            begins = None
        step = self._advance(lane_id, seed, begins, slot)
        blocks = self._blocks
        rows = self._rows_of(lane_id)
        blocks.reward[slot, rows] = step.reward
        if begins is not None:
            begun = lane_id[begins]
            blocks.valid[slot, begun] = False
            if self._announces:
                self._engine.announce(begun, self._seeds_ahead(begun))
        if not step.info:
            return lane_id, {}
        blocks.terminated[slot, rows] = step.terminated
        blocks.truncated[slot, rows] = step.truncated
        ended = step.terminated | step.truncated
        lanes = lane_id[ended]
        blocks.episode_return[slot, lanes] = self._return[lanes] if step.score is None else step.score[ended]
        return lane_id, {int(lane_id[row]): info for row, info in step.info.items()}

    def _rows_of(self, lane_id: np.ndarray) -> Any:
        """Returns an index of the lanes, of all as a slice: NumPy takes a fraction of the time."""
        return slice(None) if lane_id is self._all_lanes else lane_id

    def _advance(self, lane_id: np.ndarray, seed: np.ndarray, begins: np.ndarray | None, slot: int) -> VectorStep:
        """Steps the engine and keeps the lanes' account; ``begins`` [b] are the rows that have a seed."""
        rows = self._rows_of(lane_id)
        action = map_tree(lambda a: a[rows].copy(), self._blocks.action)
        step: VectorStep = _guarded("step()", self._engine.step, action, lane_id, seed, self._out[slot])
        reward = np.asarray(step.reward, np.float64)
        progress = self._blocks.progress
        progress[rows, 1] += 1
        sound = np.abs(reward) <= _FLOAT32_MAX  # False for NaN too
        if np.count_nonzero(sound) < len(sound):
            row = int(np.flatnonzero(~sound)[0])
            raise self._fault(int(lane_id[row]), f"sent reward {reward[row]}, expected a finite float32 number")
        self._return[rows] += reward
        if begins is None:
            if self._engine.seeded:
                self._log.add(lane_id, False)
        else:
            fresh = begins if step.continued is None else begins & ~step.continued
            begun = lane_id[begins]
            progress[begun, 1] = 0
            self._return[begun] = 0.0
            self._origin[lane_id[fresh]] = seed[fresh]
            self._log.restart(lane_id[fresh])
            if self._engine.seeded:
                self._log.add(lane_id[~fresh], begins[~fresh])
        if begins is not None or step.info:
            self._awaits[rows] = step.terminated | step.truncated
            self._some_await = bool(self._awaits.any())
        return step

    def _reset_all(self, slot: int, params: dict[int, Any]) -> None:
        if params:
            _guarded("set_reset_param()", self._engine.set_reset_param, params)
        self._begin_all(self._next_seeds(self._all_lanes), slot)

    def _begin_all(self, seed: np.ndarray, slot: int) -> None:
        _guarded("reset()", self._engine.reset, seed, self._out[slot])
        self._origin[:] = seed
        self._log.restart(self._all_lanes)
        self._awaits[:] = self._some_await = False
        self._return[:] = 0.0
        self._blocks.progress[:, 1] = 0
        self._blocks.reward[slot] = 0.0

    def _next_seeds(self, lane_id: np.ndarray) -> np.ndarray:
        """Moves the lanes on to their next episodes and returns the seeds of these."""
        seed = self._seeds_ahead(lane_id)
        self._blocks.progress[lane_id, 0] = self._next_episode[lane_id]
        self._next_episode[lane_id] += 1
        return seed

    def _seeds_ahead(self, lane_id: np.ndarray) -> np.ndarray:
        pairs = zip(lane_id.tolist(), self._next_episode[lane_id].tolist(), strict=True)
        return np.array([episode_seed(self._lane_seed[i], episode) for i, episode in pairs], np.int64)

    def _set_seeds(self, seeds: list[int]) -> None:
        self._lane_seed = list(seeds)
        self._next_episode[:] = 0

    def _env_states(self) -> list[dict[str, Any]]:
        states = []
        for i in range(self.env_num):
            actions, begins = self._log.of(i)
            states.append(
                {
                    "seed": self._lane_seed[i],
                    "next_episode": int(self._next_episode[i]),
                    "episode": int(self._blocks.progress[i, 0]),
                    "episode_seed": int(self._origin[i]),
                    "reset_param": {},
                    "actions": actions,
                    "begins": begins,
                    "awaits_reset": bool(self._awaits[i]),
                    "episode_return": float(self._return[i]),
                }
            )
        return states

    def _load_env_states(self, states: list[dict[str, Any]], slot: int) -> list[tuple[bool, dict[str, Any] | None]]:
        if not self._engine.seeded:
            raise CheckpointError(
                f"the engine {type(self._engine).__name__} takes seeds only when it is made, so that an episode cannot "
                "be played again"
            )
        self._lane_seed = [int(state["seed"]) for state in states]
        self._next_episode[:] = [int(state["next_episode"]) for state in states]
        self._blocks.progress[:, 0] = [int(state["episode"]) for state in states]
        self._begin_all(np.array([int(state["episode_seed"]) for state in states], np.int64), slot)
        exact = self._replay(states, slot)
        awaits = np.array([bool(state["awaits_reset"]) for state in states])
        returns = np.array([float(state["episode_return"]) for state in states])
        exact &= (awaits == self._awaits) & (returns == self._return)
        return [(same, None) for same in exact.tolist()]

    def _replay(self, states: list[dict[str, Any]], slot: int) -> np.ndarray:
        """Plays the recorded actions of all lanes side by side; returns which lanes ended and began as recorded."""
        count = np.array([len(tree_leaves(state["actions"])[0]) for state in states])
        begins = np.zeros((self.env_num, max(int(count.max()), 1)), np.bool_)
        for i, state in enumerate(states):
            marks = state.get("begins")  # absent in the state of another manager: one episode
            begins[i, : count[i]] = False if marks is None else marks
        exact = np.ones(self.env_num, np.bool_)
        for t in range(int(count.max())):
            exact[(t < count) & (begins[:, t] != self._awaits)] = False
            lanes = np.flatnonzero((t < count) & exact)
            for lane in lanes.tolist():
                _set_row(self._blocks.action, lane, states[lane]["actions"], t)
            marked = begins[lanes, t]
            seed = np.where(marked, self._origin[lanes], ACT)
            step = self._advance(lanes, seed, marked if marked.any() else None, slot)
            exact[lanes[marked if step.continued is None else marked & ~step.continued]] = False
        return exact

    def _read_attribute(self, name: str) -> list[Any]:
        return self._engine.attribute(name)

    def _stop(self, in_peace: bool) -> None:
        vector, self._vector = self._vector, None
        if vector is None:
            return
        try:
            _guarded("close()", vector.close)
        except EnvFault:
            if in_peace:  # while another fault is on its way, a broken engine may well fail to close too
                raise

    def _fault(self, lane: int, text: str) -> EnvFault:
        episode, step = self._blocks.progress[lane].tolist()
        return EnvFault(f"env {lane} {text} (episode {episode}, step {step})", lane, step)


def _guarded(where: str, function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except NerveXError:
        raise
    except Exception as e:
        frame = traceback.extract_tb(e.__traceback__)[-1]
        raise EnvFault(
            f"the native vector of envs raised {type(e).__name__} in {where}: {e} [{frame.filename}:{frame.lineno}]"
        ) from e


def _set_row(block: Any, row: int, recorded: Any, t: int) -> None:
    if isinstance(block, dict):
        for key, child in block.items():
            _set_row(child, row, recorded[key], t)
    else:
        block[row] = recorded[t]
