"""Elements and runners, and an env that is built from them and learned."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nervex.entry import serial_pipeline
from nervex.envs import (
    BaseEnv,
    BaseEnvInfo,
    BaseEnvTimestep,
    EnvElement,
    EnvElementInfo,
    EnvElementRunner,
    IEnvElement,
    leaf_spec,
)
from nervex.envs.common import affine_transform, clip_one_hot
from nervex.utils.errors import SpecError
from nervex.worker import BaseEnvManager


class CellObs(EnvElement):
    """Where the walker is: one-hot of its cell, and how much time is left."""

    def _init(self, length: int) -> None:
        self._length = length
        self._shape = length + 1
        self._value = {"min": 0.0, "max": 1.0, "dtype": np.float32}
        self._to_agent_processor = self._to_agent
        self._from_agent_processor = None

    def _to_agent(self, cell: int, left: float) -> np.ndarray:
        return np.append(clip_one_hot(cell, self._length), np.float32(left))

    def _details(self) -> str:
        return f"{self._length} cells"


class CellObsRunner(EnvElementRunner):
    """Counts the steps of the episode itself: state that the env need not know."""

    def _init(self, length: int, max_step: int) -> None:
        self._core = CellObs(length)
        self._max_step = max_step
        self.reset()

    def get(self, engine: Any) -> np.ndarray:
        self._count += 1
        return self.info.to_agent_processor(engine.cell, 1 - (self._count - 1) / self._max_step)

    def reset(self) -> None:
        self._count = 0


class MoveAction(EnvElement):
    """Left or right, which the engine takes as -1.0 and 1.0."""

    def _init(self) -> None:
        self._shape = 2
        self._value = {"min": 0, "max": 1, "dtype": np.int64, "kind": "discrete"}
        self._to_agent_processor = None
        self._from_agent_processor = lambda action: affine_transform(2.0 * action - 1, min_val=-1, max_val=1)

    def _details(self) -> str:
        return "left, right"


class GoalReward(EnvElement):
    def _init(self) -> None:
        self._shape = 1
        self._value = {"min": -0.02, "max": 1.0, "dtype": np.float32}
        self._to_agent_processor = self._from_agent_processor = None

    def _details(self) -> str:
        return "1 at the goal"


class GoalRewardRunner(EnvElementRunner):
    def get(self, engine: Any) -> float:
        self.episode_return += (reward := 1.0 if engine.is_at_goal else -0.02)
        return reward

    def reset(self) -> None:
        self.episode_return = 0.0


class Engine:
    """The simulator: cells in a row, the goal at the right end."""

    def __init__(self, length: int) -> None:
        self.length, self.cell = length, 0

    @property
    def is_at_goal(self) -> bool:
        return self.cell == self.length - 1

    def move(self, by: float) -> None:
        self.cell = int(np.clip(self.cell + by, 0, self.length - 1))


class ElementEnv(BaseEnv):
    def __init__(self, cfg: dict[str, Any]) -> None:
        self._length, self._max_step = cfg.get("length", 6), cfg.get("max_step", 20)
        self._obs = CellObsRunner(self._length, self._max_step)
        self._act = MoveAction()
        self._reward = GoalRewardRunner(GoalReward())
        self._rng = np.random.default_rng()

    def reset(self) -> np.ndarray:
        self._engine = Engine(self._length)
        self._engine.cell = int(self._rng.integers(self._length // 2))
        self._obs.reset()
        self._reward.reset()
        self._step = 0
        return self._obs.get(self._engine)

    def step(self, action: Any) -> BaseEnvTimestep:
        self._engine.move(self._act.info.from_agent_processor(int(action)))
        self._step += 1
        reward, terminated = self._reward.get(self._engine), self._engine.is_at_goal
        truncated = not terminated and self._step == self._max_step
        info = {"truncated": truncated}
        if terminated or truncated:
            info["final_eval_reward"] = self._reward.episode_return
        return BaseEnvTimestep(self._obs.get(self._engine), reward, terminated or truncated, info)

    def seed(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def close(self) -> None: ...

    def info(self) -> BaseEnvInfo:
        return BaseEnvInfo(agent_num=1, obs_space=self._obs.info, act_space=self._act.info, rew_space=self._reward.info)

    def __repr__(self) -> str:
        return f"ElementEnv({self._obs!r}, {self._act!r})"


def test_info_is_what_the_element_declares() -> None:
    runner = CellObsRunner(6, 20)
    assert isinstance(runner, IEnvElement) and isinstance(runner._core, IEnvElement)
    info = runner.info
    assert isinstance(info, EnvElementInfo) and info == EnvElement.info_template(*info)
    assert (info.shape, info.value["max"], info.from_agent_processor) == (7, 1.0, None)
    assert info.to_agent_processor(2, 0.25).tolist() == [0, 0, 1, 0, 0, 0, 0.25]
    assert leaf_spec(info).shape == (7,) and leaf_spec(MoveAction().info, is_action=True).n == 2
    assert repr(runner) == "CellObsRunner(CellObs(6 cells))"


def test_what_an_element_must_say() -> None:
    class Mute(IEnvElement):
        def __repr__(self) -> str:
            return "mute"

    with pytest.raises(TypeError, match=r"abstract.*info"):
        Mute()  # type: ignore[abstract]


def test_a_second_env_with_another_config_has_its_own_shapes() -> None:
    first, second = ElementEnv({"length": 6}), ElementEnv({"length": 9})
    assert [env.info().obs_space.shape for env in (first, second, ElementEnv({}))] == [7, 10, 7]
    assert [env.reset().shape for env in (first, second)] == [(7,), (10,)]
    assert first.step(1).obs.shape == (7,)


def test_a_runner_has_state_that_reset_forgets() -> None:
    runner, engine = CellObsRunner(4, 10), Engine(4)
    assert [float(runner.get(engine)[-1]) for _ in range(3)] == pytest.approx([1.0, 0.9, 0.8])
    other = CellObsRunner(4, 10)
    assert other.get(engine)[-1] == 1.0
    runner.reset()
    assert runner.get(engine)[-1] == 1.0


def test_an_element_has_no_state() -> None:
    element = CellObs(3)
    with pytest.raises(SpecError, match="element CellObs is complete, _shape cannot be set; keep what changes in its"):
        element._shape = 5
    assert element.info.shape == 4
    for twin in (copy.deepcopy(element), pickle.loads(pickle.dumps(element))):
        assert twin.info.shape == 4 and twin.info.to_agent_processor(1, 0.5).tolist() == [0, 1, 0, 0.5]


def test_an_incomplete_element_or_runner_is_one_clear_sentence() -> None:
    class Half(CellObs):
        def _init(self) -> None:
            self._shape, self._value = 1, {}

    with pytest.raises(SpecError, match="Half sets no _to_agent_processor, _from_agent_processor; set them in its"):
        Half()

    class Coreless(GoalRewardRunner):
        def _init(self) -> None: ...

    with pytest.raises(SpecError, match="runner Coreless has the core None; give it an EnvElement"):
        Coreless()
    with pytest.raises(SpecError, match="runner GoalRewardRunner has the core 'x'"):
        GoalRewardRunner("x")
    with pytest.raises(TypeError, match="abstract"):
        EnvElement()  # type: ignore[abstract]


def test_an_env_of_elements_behind_a_manager() -> None:
    manager = BaseEnvManager(env_fn=ElementEnv, env_cfg=[{"max_step": 30}] * 3, env_num=3, episode_num=1)
    manager.seed(0)
    manager.launch()
    returns = {}
    while not manager.done:
        for env_id, timestep in manager.step(dict.fromkeys(manager.next_obs, 1)).items():
            assert timestep.obs.shape == (7,) and timestep.obs.dtype == torch.float32
            if timestep.done:
                returns[env_id] = (timestep.info["final_eval_reward"], float(timestep.obs[-1]))
    manager.close()
    # always right from cell c: 5 - c steps, all but the last of them at -0.02
    assert set(returns) == {0, 1, 2}
    for value, left in returns.values():
        steps = round((1 - left) * 30)
        assert 3 <= steps <= 5 and value == pytest.approx(1 - 0.02 * (steps - 1))


def test_an_env_of_elements_is_learned(tmp_path: Path) -> None:
    cfg = {
        "policy": {"policy_type": "dqn", "learn": {"learning_rate": 0.003}, "command": {"eps": {"decay": 300}}},
        "evaluator": {"n_episode": 4, "stop_val": 0.9, "eval_freq": 25, "confirm_episode": 4},
        "max_env_step": 4000,
    }
    done = serial_pipeline(cfg, 0, (ElementEnv, [{}] * 4, [{}] * 2), run_dir=tmp_path / "run", show=False)
    assert done.result["stop_reason"] == "stop_val" and done.result["train_iter"] > 0
