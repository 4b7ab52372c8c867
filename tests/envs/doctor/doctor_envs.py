"""Small envs for the doctor: a correct one, and faulty ones, each with one fault (``odd_envs``: odd, and correct).

``WALKS`` are changes to a correct Gymnasium env, by the kind of finding that they should lead to; see ``base_envs``.
"""

import random
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """A position that moves by ±1 and noise until it leaves [-4, 4]; correct. Truncated after ``limit`` steps."""

    limit = 40

    def __init__(self) -> None:
        self.observation_space: Any = spaces.Box(-10.0, 10.0, (2,), np.float32)
        self.action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        super().reset(seed=seed)
        self.begin()
        return self.obs(), {}

    def begin(self) -> None:
        self.count = 0
        self.x = self.np_random.uniform(-1, 1)
        self.v = 0.0

    def obs(self) -> Any:
        return np.array([self.x, self.v], np.float32)

    def move(self, action: Any) -> None:
        self.v = (2.0 * int(action) - 1.0) + self.np_random.uniform(-0.5, 0.5)
        self.x += self.v
        self.count += 1

    def step(self, action: Any) -> Any:
        self.move(action)
        terminated = bool(abs(self.x) > 4)
        truncated = self.count >= self.limit and not terminated
        return self.obs(), float(abs(self.x) < 2), terminated, truncated, {}


class Push(Walk):
    """The walk with a continuous push."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def move(self, action: Any) -> None:
        self.v = float(action[0]) + self.np_random.uniform(-0.5, 0.5)
        self.x += self.v
        self.count += 1


class TimeLimitAsEnd(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, False, info

    def move(self, action: Any) -> None:
        super().move(action)
        self.x = float(np.clip(self.x, -3, 3))


class TimeLimitAsEndAmongOthers(TimeLimitAsEnd):
    limit = 12

    def move(self, action: Any) -> None:
        Walk.move(self, action)


class BothFlags(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, terminated or truncated, info


class TruncatedAnywhere(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, False, terminated or truncated, info


class ResetsItself(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            obs, _ = self.reset()
        return obs, reward, terminated, truncated, info


class BeginsItself(Walk):
    limit = 10**9

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            self.begin()
            obs = self.obs()
        return obs, reward, terminated, truncated, info


class BlankEnd(Walk):
    limit = 5

    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        return (np.zeros_like(obs) if rest[1] or rest[2] else obs), *rest


class GlobalRandom(Walk):
    def begin(self) -> None:
        super().begin()
        self.x = np.random.uniform(-1, 1)


class GlobalSeeded(Walk):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        if seed is not None:
            np.random.seed(seed)
        return super().reset(seed=seed)

    def begin(self) -> None:
        self.count, self.v = 0, 0.0
        self.x = np.random.uniform(-1, 1)


class GlobalSteps(GlobalSeeded):
    def move(self, action: Any) -> None:
        super().move(action)
        self.x += np.random.uniform(0, 0.1)


class PythonRandom(Walk):
    def move(self, action: Any) -> None:
        super().move(action)
        self.x += random.uniform(0, 0.1)


class Unseeded(Walk):
    def begin(self) -> None:
        super().begin()
        self.x = np.random.default_rng().uniform(-1, 1)


class SeedIgnored(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.count, self.v = 0, 0.0
        self.x = self.rng.uniform(-1, 1)
        return self.obs(), {}

    def move(self, action: Any) -> None:
        self.v = 2.0 * int(action) - 1.0
        self.x += self.v
        self.count += 1


class ConstantSeed(Walk):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.np_random = np.random.default_rng(42)
        self.begin()
        return self.obs(), {}


class SeedAgain(Walk):
    last = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        self.last = self.last if seed is None else seed
        return super().reset(seed=self.last)


class CarriedOver(Walk):
    v = 0.0

    def begin(self) -> None:
        self.count = 0
        self.x = self.np_random.uniform(-1, 1)


class SharedState(Walk):
    state = {"x": 0.0}

    def begin(self) -> None:
        super().begin()
        self.state["x"] = self.x

    def move(self, action: Any) -> None:
        self.x = self.state["x"]
        super().move(action)
        self.state["x"] = self.x


class SameArray(Walk):
    def begin(self) -> None:
        super().begin()
        self.array = np.zeros(2, np.float32)

    def obs(self) -> Any:
        self.array[:] = self.x, self.v
        return self.array


class OwnState(Walk):
    def begin(self) -> None:
        super().begin()
        self.state = np.array([self.x, 0], np.float32)

    def obs(self) -> Any:
        return self.state

    def move(self, action: Any) -> None:
        self.x = float(self.state[0])
        super().move(action)
        self.state = np.array([self.x, self.v], np.float32)


class ChangesAction(Push):
    def move(self, action: Any) -> None:
        action *= 0.5
        super().move(action)


class KeepsAction(Push):
    def begin(self) -> None:
        super().begin()
        self.before = np.zeros(1, np.float32)

    def move(self, action: Any) -> None:
        super().move(self.before + action)
        self.before = action


class Float64(Walk):
    def obs(self) -> Any:
        return np.array([self.x, self.v])


class WrongShape(Walk):
    def obs(self) -> Any:
        return np.array([[self.x, self.v]], np.float32)


class AList(Walk):
    def obs(self) -> Any:
        return [self.x, self.v]


class OutOfBounds(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


class RareNan(Walk):
    def obs(self) -> Any:
        return np.array([self.x, np.nan if self.x > 4.2 else self.v], np.float32)


class NanReward(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if self.count == 7 else reward, *rest


class ArrayReward(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward]), *rest


class HugeReward(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, 1e6 * reward, *rest


class SumReward(Walk):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, float(self.count), *rest


class NoChange(Walk):
    def obs(self) -> Any:
        return np.ones(2, np.float32)


class Late(Walk):
    def begin(self) -> None:
        super().begin()
        self.before = self.x, self.v

    def step(self, action: Any) -> Any:
        before = Walk.obs(self)
        _, *rest = super().step(action)
        return before, *rest


class NoEffect(Walk):
    limit = 20

    def move(self, action: Any) -> None:
        super().move(self.count % 2)


class InfoMissing(Walk):
    def step(self, action: Any) -> Any:
        return *super().step(action)[:4], None


class OldStep(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated or truncated, info


class OldReset(Walk):
    def reset(self, *, seed: int | None = None, options: dict | None = None) -> Any:
        return super().reset(seed=seed)[0]


class NoSeedArgument(Walk):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class IntFlags(Walk):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, "yes" if terminated else "", truncated, info


class Raises(Walk):
    def step(self, action: Any) -> Any:
        if self.count == 9:
            raise ValueError("the physics exploded")
        return super().step(action)


class Prints(Walk):
    def begin(self) -> None:
        super().begin()
        print("a new episode")


class CloseFails(Walk):
    def close(self) -> None:
        raise RuntimeError("no such window")


class Leaks(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Any] = []

    def move(self, action: Any) -> None:
        super().move(action)
        self.history.append(self.obs())


class LeavesFiles(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.files: list[Any] = []

    def begin(self) -> None:
        super().begin()
        KEPT.append(open("/dev/null"))  # noqa: SIM115 - that is the fault


KEPT: list[Any] = []


class Hangs(Walk):
    def step(self, action: Any) -> Any:
        if self.count == 3:
            time.sleep(30)
        return super().step(action)


class Masked(Walk):
    """The walk with a mask in its observation, correct."""

    def __init__(self) -> None:
        super().__init__()
        mask = spaces.Box(0, 1, (2,), np.int8)
        self.observation_space = spaces.Dict({"x": self.observation_space, "action_mask": mask})

    def mask(self) -> Any:
        return np.array([self.x > -2, self.x < 2], np.int8)

    def obs(self) -> Any:
        return {"x": super().obs(), "action_mask": self.mask()}

    def move(self, action: Any) -> None:
        if not self.mask()[action]:
            raise ValueError(f"action {action} is masked")
        super().move(action)


class EmptyMask(Masked):
    def mask(self) -> Any:
        return np.array([self.x > -2, self.x < 2], np.int8) * (abs(self.x) < 3)

    def move(self, action: Any) -> None:
        Walk.move(self, action)


class DarkImage(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (1, 20, 20), np.uint8)

    def obs(self) -> Any:
        image = np.zeros((1, 20, 20), np.float32)
        image[0, :, int(np.clip(self.x + 10, 0, 19))] = 1.0
        return image.astype(np.uint8)


#: kind of finding -> level, env
WALKS: list[tuple[str, str, Any]] = [
    ("time-limit", "warning", TimeLimitAsEnd),
    ("time-limit", "warning", TimeLimitAsEndAmongOthers),
    ("both-flags", "warning", BothFlags),
    ("truncated-anywhere", "warning", TruncatedAnywhere),
    ("autoreset", "error", ResetsItself),
    ("autoreset", "error", BeginsItself),
    ("final-obs", "warning", BlankEnd),
    ("same-seed", "error", GlobalRandom),
    ("global-random", "warning", GlobalSeeded),
    ("shared-state", "error", GlobalSteps),
    ("same-seed", "error", PythonRandom),
    ("same-seed", "error", Unseeded),
    ("seed-ignored", "error", SeedIgnored),
    ("seed-ignored", "warning", ConstantSeed),
    ("seed-again", "warning", SeedAgain),
    ("carried-over", "warning", CarriedOver),
    ("shared-state", "error", SharedState),
    ("obs-alias", "warning", SameArray),
    ("obs-kept", "warning", OwnState),
    ("action-changed", "warning", ChangesAction),
    ("action-kept", "warning", KeepsAction),
    ("obs-dtype", "warning", Float64),
    ("obs-shape", "error", WrongShape),
    ("obs-type", "warning", AList),
    ("obs-bounds", "error", OutOfBounds),
    ("obs-finite", "error", RareNan),
    ("reward-finite", "error", NanReward),
    ("reward-type", "warning", ArrayReward),
    ("reward-scale", "warning", HugeReward),
    ("reward-sum", "warning", SumReward),
    ("obs-constant", "warning", NoChange),
    ("obs-late", "warning", Late),
    ("action-effect", "warning", NoEffect),
    ("info", "error", InfoMissing),
    ("step-return", "error", OldStep),
    ("reset-return", "error", OldReset),
    ("raises-reset", "error", NoSeedArgument),
    ("flag-type", "error", IntFlags),
    ("raises-step", "error", Raises),
    ("prints", "warning", Prints),
    ("raises-close", "error", CloseFails),
    ("memory", "warning", Leaks),
    ("close", "warning", LeavesFiles),
    ("mask-empty", "error", EmptyMask),
    ("image-range", "warning", DarkImage),
]
