"""Envs for the tests of the env managers; worker processes import this module, so that it needs no torch."""

import os
import signal
import sys
import time

import numpy as np

from nervex.envs.base_env import BaseEnv, BaseEnvInfo, BaseEnvTimestep, EnvElementInfo

OBS = EnvElementInfo(3, {"dtype": np.float32})
TWO_ACTIONS = EnvElementInfo(2, {"dtype": np.int64})
REWARD = EnvElementInfo(1, {"dtype": np.float32})


class CounterEnv(BaseEnv):
    """Its observation is (env, episode, step) and its reward the step, so that any misalignment is a wrong number."""

    obs_info = OBS
    act_info = TWO_ACTIONS

    def __init__(self, cfg):
        self.cfg = cfg
        self.seeds = []
        self.actions = []
        self.episode = -1
        self.step_count = 0
        self.params = []
        self.obs = np.zeros(3, np.float32)
        if cfg.get("fault") == "constructor" and cfg.get("env") == 1:
            raise OSError("no such map")

    def _obs(self):
        self.obs[:] = self.cfg.get("env", 0), self.episode, self.step_count  # one array, used again and again
        return self.obs

    def reset(self, **param):
        self.params.append(param)
        self.episode += 1
        self.step_count = 0
        self.cfg.setdefault("visits", []).append(self.episode)
        return self._obs()

    def end_info(self):
        return {"truncated": self.cfg.get("end") == "truncated"}

    def step(self, action):
        self.actions.append(action)
        self.step_count += 1
        done = self.step_count >= self.cfg.get("length", 3)
        return BaseEnvTimestep(self._obs(), float(self.step_count), done, self.end_info() if done else {})

    def seed(self, seed):
        self.seeds.append(seed)

    def close(self):
        if "closed_file" in self.cfg:
            with open(self.cfg["closed_file"], "a") as f:
                f.write("closed\n")

    def info(self):
        return BaseEnvInfo(1, self.obs_info, self.act_info, REWARD)

    @property
    def loaded_modules(self):
        return sorted(sys.modules)

    @property
    def threads_variable(self):
        return os.environ.get("OMP_NUM_THREADS")

    @property
    def pid(self):
        return os.getpid()

    def __repr__(self):
        return "CounterEnv"


class EndEnv(CounterEnv):
    """Ends its episode with the timestep parts of its config."""

    def step(self, action):
        obs, reward, done, _ = super().step(action)
        return BaseEnvTimestep(obs, reward, self.cfg["done"] if done else False, self.cfg["info"] if done else {})


class FaultEnv(CounterEnv):
    """Env 1 misbehaves in step 2 of episode 1, or in the reset of episode 1."""

    def reset(self, **param):
        obs = super().reset(**param)
        if self.cfg["env"] == 1 and self.episode == 1:
            match self.cfg["fault"]:
                case "raise in reset":
                    raise KeyError("lost level")
                case "reset gives (obs, info)":
                    return obs, {}
                case "reset gives a timestep":
                    return BaseEnvTimestep(obs, 0.0, False, {})
                case "reset gives nothing":
                    return None
                case "hang in reset":
                    time.sleep(1000)
        return obs

    def step(self, action):
        obs, reward, done, info = super().step(action)
        if self.cfg["env"] == 1 and self.episode == 1 and self.step_count == 2:
            match self.cfg["fault"]:
                case "raise in step":
                    raise ZeroDivisionError("the physics exploded")
                case "wrong shape":
                    obs = np.zeros(5, np.float32)
                case "wrong dtype":
                    obs = obs.astype(np.float64)
                case "nan obs":
                    obs[1] = np.nan
                case "nan reward":
                    reward = float("nan")
                case "huge reward":
                    reward = 1e300
                case "reward vector":
                    reward = np.ones(2)
                case "five values":
                    return obs, reward, done, False, info
                case "info is a list":
                    info = [1]
                case "done without reason":
                    info = {"truncated": True}
                case "odd done":
                    done = "yes"
                case "hang":
                    time.sleep(1000)
                case "exit":
                    sys.exit(7)
                case "kill":
                    os.kill(os.getpid(), 9)
        return BaseEnvTimestep(obs, reward, done, info)


class NestedEnv(CounterEnv):
    """A dict observation and a dict action; the observation shows the last action."""

    def __init__(self, cfg):
        super().__init__(cfg)
        position = EnvElementInfo((2, 2), {"dtype": np.float32})
        kind = EnvElementInfo(7, {"dtype": np.int64, "kind": "discrete"})
        image = EnvElementInfo((2, 3), {"dtype": np.uint8})
        self.obs_info = {"unit": {"position": position, "kind": kind}, "image": image}
        self.act_info = {
            "move": EnvElementInfo(2, {"dtype": np.float32}),
            "key": EnvElementInfo(4, {"dtype": np.int64}),
        }
        self.last = {"move": np.zeros(2, np.float32), "key": 0}

    def _obs(self):
        assert type(self.last["key"]) is int and self.last["move"].dtype == np.float32
        env = self.cfg["env"]
        position = np.array([[env, self.step_count], self.last["move"]], np.float32)
        image = np.full((2, 3), self.step_count, np.uint8)
        return {"image": image, "unit": {"position": position, "kind": self.last["key"]}}

    def step(self, action):
        self.last = {"move": action["move"].copy(), "key": action["key"]}
        action["move"][:] = 1e9  # an env may do with its action what it likes
        return super().step(action)


class ForgetfulEnv(NestedEnv):
    """Leaves one key of its observation out."""

    def _obs(self):
        obs = super()._obs()
        if self.step_count == 2:
            del obs["unit"]["kind"]
        return obs


class GateEnv(CounterEnv):
    """A step of an env with a ``gate`` waits until someone writes into that named pipe."""

    def step(self, action):
        if "gate" in self.cfg and self.cfg.get("gate_step", 1) == self.step_count + 1:
            with open(self.cfg["gate"]) as f:
                f.read()
        return super().step(action)


class SlowEnv(CounterEnv):
    """A step takes ``sleep_s`` seconds, 0.2 unless the config says so."""

    def step(self, action):
        time.sleep(self.cfg.get("sleep_s", 0.2))
        return super().step(action)


class Unloadable:
    """Builds envs, but not where it is unpickled."""

    def __call__(self, cfg):
        return CounterEnv(cfg)

    def __reduce__(self):
        return refuse, ()


def refuse():
    raise ImportError("only here")


class HealingEnv(CounterEnv):
    """Observes (env, seed of the episode, step); env 1 has a fault in step 2 of the episode with seed ``bad_seed``."""

    def _obs(self):
        seed = self.seeds[-1] if self.seeds else 0
        return np.array([self.cfg["env"], seed % 2**20, self.step_count], np.float32)

    def reset(self, **param):
        obs = super().reset(**param)
        if self.cfg["fault"] == "nan first" and self.seeds[-1] == self.cfg["bad_seed"]:
            obs[1] = np.nan
        return obs

    def step(self, action):
        obs, reward, done, info = super().step(action)
        if self.cfg["env"] == 1 and self.seeds[-1] == self.cfg["bad_seed"]:
            if done and self.cfg["fault"] == "nan return":
                info["final_eval_reward"] = float("nan")
            elif self.step_count == 2:
                match self.cfg["fault"]:
                    case "raise":
                        raise ZeroDivisionError("the physics exploded")
                    case "nan":
                        obs[1] = np.nan
                    case "shape":
                        obs = np.zeros(5, np.float32)
                    case "dtype":
                        obs = obs.astype(np.float64)
                    case "nan reward":
                        reward = float("nan")
                    case "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    case "stop":
                        os.kill(os.getpid(), signal.SIGSTOP)
                    case "exit":
                        sys.exit(7)
                    case "hang":
                        time.sleep(1000)
        return BaseEnvTimestep(obs, reward, done, info)


class NeverAgainEnv(HealingEnv):
    """Can be built as often as its config allows; a process has its own count."""

    built = 0

    def __init__(self, cfg):
        super().__init__(cfg)
        type(self).built += 1
        if cfg["env"] == 1 and type(self).built > cfg["most"]:
            raise OSError("no such map")
