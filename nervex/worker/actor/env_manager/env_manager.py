"""The contract of every env manager: one block call inside, the tutorial's dict calls as a thin view of it."""

import copy
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nervex.envs.base_env import BaseEnvInfo, spec_tree
from nervex.utils.errors import CheckpointError, ConfigError, EnvFault, SpecError
from nervex.worker.actor.env_manager.action_writer import ActionWriter
from nervex.worker.actor.env_manager.blocks import Blocks, ReadyBlock, StepBlock, same_tree
from nervex.worker.actor.env_manager.deliverer import Deliverer
from nervex.worker.actor.env_manager.dict_view import DictView
from nervex.worker.actor.env_manager.fault_budget import FaultBudget


class EnvManager(ABC):
    """Many envs of one kind behind block calls; a lane is one env.

    Next-step autoreset: the row after an episode's end holds the true final observation; the step from it ignores the
    action, resets the env and is a dummy with ``valid`` False. Episode ``k`` of env ``i`` is seeded by
    ``SeedSequence((seed_i, k))``, so it is a function of its seed and the actions, whatever the manager.

    An env that raises, hangs, dies or sends what it does not declare is built anew, within ``fault_budget``. The step
    that failed is no row: in its place the lane gets a dummy row with the first observation of its next episode. So a
    dummy row whose row before did not end its episode means that the episode was cut off there. Other lanes go on,
    but those of a process that was lost: their episodes are cut off too, at their last rows.

    A call that raises an ``EnvFault``, or is interrupted, closes the manager; ``launch`` starts it afresh. Faults while
    it starts are raised at once. Block calls and dict calls are two views of the same envs: use one of them at a time.

    Args:
        env_fn: env class, or callable that takes a config and returns an env.
        env_cfg: one config per env, copied.
        env_num: number of envs.
        episode_num: episodes that each env plays under the dict calls before it is done; ``inf`` for no end.
        step_timeout_s: limit of one env step; None: 20 times the measured 99th percentile of step times, at least 5 s
            (60 s until 100 steps were measured). An env in this very process cannot be interrupted, so that the
            ``base`` manager accepts the limits without effect.
        reset_timeout_s: limit of building and of resetting an env.
        fault_budget: faults of envs that are mended within ``fault_window_s``; one more is raised. 0: the first is.
        fault_window_s: seconds.

    Attributes:
        fault_count: faults that were mended so far.

    Raises:
        ConfigError: the number of configs is not ``env_num``, or a number is out of range.
    """

    method_name_list = ("reset", "step", "seed", "close")
    _can_mend = True

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
        configs = list(env_cfg)
        if env_num < 1 or len(configs) != env_num:
            raise ConfigError(f"env_num is {env_num} and env_cfg holds {len(configs)} configs; give one config per env")
        limits = {"episode_num": episode_num, "step_timeout_s": step_timeout_s, "reset_timeout_s": reset_timeout_s}
        for name, value in limits.items():
            if value is not None and not float(value) > 0:
                raise ConfigError(f"{name} of an env manager is {value}, expected a number above 0")
        self.env_num = env_num
        self.episode_num = float(episode_num)
        self._env_fn = env_fn
        self._env_cfg = [copy.deepcopy(c) for c in configs]
        self._step_timeout_s = None if step_timeout_s is None else float(step_timeout_s)
        self._reset_timeout_s = float(reset_timeout_s)
        self._seeds: list[int] | None = None
        self._info: BaseEnvInfo | None = None
        self._all_lanes = np.arange(env_num, dtype=np.int64)
        self._faults = FaultBudget(fault_budget, fault_window_s)
        self._mends = False  # faults are mended: the envs have been started
        self._launched = False
        self._closed_by = "launch() was not called"
        self._view = DictView(self)

    # What the envs are

    @property
    def lane_num(self) -> int:
        """Number of lanes: one (env, seat) each."""
        return self.env_num

    @property
    def fault_count(self) -> int:
        """Number of faults of envs that were mended."""
        return self._faults.count

    @fault_count.setter
    def fault_count(self, count: int) -> None:
        self._faults.count = count

    def env_info(self) -> BaseEnvInfo:
        """Returns what the env declares, from one more instance of the first config.

        Raises:
            EnvFault: the env raised while it was built or asked.
        """
        if self._info is None:
            try:
                env = self._env_fn(copy.deepcopy(self._env_cfg[0]))
                info = env.info()
                env.close()
            except Exception as e:
                raise EnvFault(f"env 0 raised {type(e).__name__} while asked for its info(): {e}", 0, 0) from e
            if not hasattr(info, "obs_space") or not hasattr(info, "act_space"):
                raise SpecError(f"info() of the env returned a {type(info).__name__}, expected a BaseEnvInfo")
            self._info = info
        return self._info

    @property
    def obs_spec(self) -> Any:
        """``LeafSpec`` of the observation, or a nested dict of them."""
        return spec_tree(self.env_info().obs_space)

    @property
    def action_spec(self) -> Any:
        """``LeafSpec`` of the action, or a nested dict of them."""
        return spec_tree(self.env_info().act_space, is_action=True)

    # Block calls

    def launch(self, reset_param: Any = None) -> None:
        """Builds all envs and begins their first episodes.

        Args:
            reset_param: as in ``reset``.

        Raises:
            EnvFault: an env could not be built or reset.
        """
        if self._launched:
            raise ConfigError("launch() was called on an env manager that runs; call close() first, or reset()")
        self._open()
        self.reset(reset_param)
        self._mends = self._can_mend

    def seed(self, seed: int | Sequence[int]) -> None:
        """Seeds the envs: env ``i`` gets ``seed + i``, or ``seed[i]``. Its next reset begins episode 0 of that seed."""
        seeds = [int(seed) + i for i in range(self.env_num)] if np.isscalar(seed) else [int(s) for s in seed]  # type: ignore
        if len(seeds) != self.env_num or min(seeds) < 0:
            raise ConfigError(f"got the seeds {seeds}, expected {self.env_num} numbers that are not negative")
        self._seeds = seeds
        if self._launched:
            with self._closing_at_fault():
                self._set_seeds(seeds)

    def ready_block(self) -> ReadyBlock:
        """Returns the lanes that can act now; valid until the second next ``step_block``."""
        self._require_launched()
        return self._deliverer.ready()

    def step_block(self, action: Any, lane_id: np.ndarray) -> StepBlock:
        """Steps the lanes, or resets those whose last row ended an episode.

        The arrays of the result stay valid until the second next call. The managers in step return the same lanes in
        the same order; the asynchronous one returns some lanes that have finished, perhaps of earlier calls.

        Args:
            action: array or nested dict of arrays ``[b, ...]``; discrete actions are integers ``[b]``.
            lane_id: int64 ``[b]``, lanes that are ready, each once.

        Raises:
            SpecError: a lane cannot act, or the action has not the declared shape and dtype.
            NumericalError: an action is not finite.
            EnvFault: more faults of envs than the budget allows: one raised, died, hung or sent what it does not
                declare. The manager is closed then.
        """
        self._require_launched()
        full = lane_id is self._all_lanes
        if not full:
            lane_id = self._deliverer.checked_lanes(lane_id)
            full = np.array_equal(lane_id, self._all_lanes)
        self._deliverer.require_ready(lane_id)
        self._action_writer.write(action, lane_id, full)
        slot = self._deliverer.begin(lane_id, full)
        try:
            finished, infos = self._exchange(lane_id, slot)
            while True:
                try:
                    return self._deliverer.deliver(lane_id, finished, infos)
                except EnvFault as fault:
                    self._mend_row(fault)
                    infos.pop(fault.env_id, None)
        except BaseException as e:
            self._close_after(e)
            raise

    def state_dict(self) -> dict[str, Any]:
        """Returns plain data from which ``load_state_dict`` comes back to this point of every episode.

        The asynchronous manager first waits for the lanes in flight; their rows are part of the state and of the next
        ``step_block``.
        """
        self._require_launched()
        with self._closing_at_fault():
            states = self._env_states()
        ready = self._deliverer.ready_mask
        told = [{"obs": self._deliverer.obs_of(i), "delivered": bool(ready[i])} for i in range(self.env_num)]
        lanes = [{**state, **more} for state, more in zip(states, told, strict=True)]
        return {"lanes": lanes, "played": list(self._view.played)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Brings every env back by its seed and its recorded actions; launches the manager if it is not.

        Raises:
            CheckpointError: the state is of another number of envs, or an env does not replay its episode exactly.
        """
        lanes = state["lanes"]
        if len(lanes) != self.env_num:
            raise CheckpointError(f"the saved state has {len(lanes)} envs, this manager has {self.env_num}")
        self._seeds = [int(lane["seed"]) for lane in lanes]
        if not self._launched:
            self._open()
        with self._closing_at_fault():
            slot = self._deliverer.begin(self._all_lanes, True)
            states = [{k: v for k, v in lane.items() if k != "obs"} for lane in lanes]
            results = self._load_env_states(states, slot)
            for i, (exact, _) in enumerate(results):
                if not lanes[i].get("begun", True):
                    if lanes[i]["delivered"]:
                        self._deliverer.set_obs(i, lanes[i]["obs"])
                    continue
                if not exact or not same_tree(self._deliverer.obs_of(i), lanes[i]["obs"]):
                    raise CheckpointError(
                        f"env {i} does not come back to its saved state when episode {lanes[i]['episode']} is replayed "
                        "from its seed; something in the env is not fixed by seed()"
                    )
            undelivered = {i: info for i, (_, info) in enumerate(results) if not lanes[i]["delivered"]}
            for i in undelivered:
                # A row without a step before it can only be that of a reset.
                self._blocks.valid[slot, i] = self._blocks.progress[i, 1] > 0
            self._deliverer.hold_back(undelivered)
            self._keep_undelivered(undelivered)
        ended = [i for i, lane in enumerate(lanes) if lane["awaits_reset"] and lane["delivered"]]
        self._view.restore(state["played"], ended)
        self._mends = self._can_mend

    def close(self) -> None:
        """Ends all envs and frees everything; may be called twice."""
        self._close("it was closed", in_peace=True)

    # Dict calls of the tutorial

    def reset(self, reset_param: Any = None) -> None:
        """Begins a new episode in every env.

        Args:
            reset_param: keyword arguments of the envs' ``reset``, one dict per env or ``{env_id: dict}``, in force
                from now on; None leaves them as they are.
        """
        self._require_launched()
        params = dict(reset_param if isinstance(reset_param, Mapping) else enumerate(reset_param or ()))
        with self._closing_at_fault():
            slot = self._deliverer.begin(self._all_lanes, True)
            self._reset_all(slot, params)
            while True:
                try:
                    self._deliverer.check_all()
                    break
                except EnvFault as fault:
                    self._mend_row(fault)
        self._view.restart()

    def step(self, action: Mapping[int, Any]) -> dict[int, Any]:
        """Steps envs by id and returns ``{env_id: BaseEnvTimestep}`` with torch tensors; resets what has ended."""
        return self._view.step(action)

    @property
    def next_obs(self) -> dict[int, Any]:
        """Observations, as torch tensors, of the envs that can act now: ``{env_id: obs}``."""
        return self._view.next_obs()

    @property
    def ready_obs(self) -> dict[int, Any]:
        """Same as ``next_obs``."""
        return self._view.next_obs()

    @property
    def done(self) -> bool:
        """Whether every env has played ``episode_num`` episodes under the dict calls."""
        return self._view.done()

    def __getattr__(self, name: str) -> list[Any]:
        # Only names that the manager lacks come here; private ones are never those of an env.
        if name.startswith("_") or not self.__dict__.get("_launched"):
            raise AttributeError(f"'{type(self).__name__}' has no attribute '{name}' (envs are asked after launch())")
        try:
            return self._read_attribute(name)
        except EnvFault as e:
            self._close_after(e)
            raise

    def __enter__(self) -> "EnvManager":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # What a kind of manager does

    @abstractmethod
    def _start(self, blocks_of: Callable[[Any], Blocks], seeds: list[int]) -> Blocks:
        """Builds the envs, on ``blocks_of(memory or None)``."""

    @abstractmethod
    def _exchange(self, lane_id: np.ndarray, slot: int) -> tuple[np.ndarray, dict[int, dict[str, Any]]]:
        """Steps lanes into ``slot``; returns the finished ones (``lane_id`` itself if the same) and infos of ends."""

    @abstractmethod
    def _reset_all(self, slot: int, params: dict[int, Any]) -> None:
        """Begins a new episode in every env, writing into ``slot``; rows not delivered yet are dropped."""

    @abstractmethod
    def _set_seeds(self, seeds: list[int]) -> None: ...

    @abstractmethod
    def _env_states(self) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _load_env_states(self, states: list[dict[str, Any]], slot: int) -> list[tuple[bool, dict[str, Any] | None]]: ...

    @abstractmethod
    def _read_attribute(self, name: str) -> list[Any]: ...

    @abstractmethod
    def _stop(self, in_peace: bool) -> None:
        """Ends the envs; at once when it is not in peace."""

    def _begin_anew(self, lane: int, slot: int) -> None:
        """Builds the lane's env anew and writes a dummy row, with the first observation of its next episode."""
        raise NotImplementedError

    def _keep_undelivered(self, infos: dict[int, dict[str, Any] | None]) -> None:
        """Takes over rows that a restored state holds and that the next ``step_block`` must return."""
        if infos:
            raise CheckpointError(
                f"the saved state has envs in flight ({sorted(infos)}), as only an asynchronous manager has; resume it "
                "with the env manager that saved it"
            )

    # Inside

    def _spend(self, fault: EnvFault) -> None:
        """Takes note of a fault that is about to be mended; raises it where it must not be."""
        if not self._mends:
            raise fault
        self._faults.spend(fault)

    def _mend_row(self, fault: EnvFault) -> None:
        """Replaces an env, and the row that it sent, after that was found to be wrong."""
        self._spend(fault)
        self._begin_anew(fault.env_id, self._deliverer.slot_of(fault.env_id))

    def _open(self) -> None:
        if self._seeds is None:
            self._seeds = [secrets.randbits(32) + i for i in range(self.env_num)]
        obs_spec, action_spec = self.obs_spec, self.action_spec
        self._launched = True
        with self._closing_at_fault():
            self._blocks = self._start(lambda memory: Blocks(obs_spec, action_spec, self.env_num, memory), self._seeds)
            self._deliverer = Deliverer(self._blocks, self._all_lanes)
            self._action_writer = ActionWriter(self._blocks)

    def _close(self, why: str, in_peace: bool) -> None:
        if self._launched:
            self._launched = self._mends = False
            self._closed_by = why
            self._stop(in_peace)

    @contextmanager
    def _closing_at_fault(self) -> Iterator[None]:
        try:
            yield
        except BaseException as e:
            self._close_after(e)
            raise

    def _close_after(self, error: BaseException) -> None:
        """Some envs have moved on and others have not."""
        self._close(f"it was closed after {type(error).__name__}: {error}", in_peace=False)

    def _require_launched(self) -> None:
        if not self._launched:
            raise EnvFault(f"the env manager does not run: {self._closed_by}; call launch()")
