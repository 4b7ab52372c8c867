"""An engine made of plain envs, so that the contract suite of the env managers can be run on the vector manager."""

import traceback

import numpy as np

from nervex.envs.vector_env import ACT, VectorEnv, VectorStep
from nervex.utils.errors import EnvFault


class ListVector(VectorEnv):
    """Steps a list of envs lane by lane; says which env it was when one fails."""

    def __init__(self, env_class, cfgs):
        self.calls = []  # lanes and seeds of every step
        self.announced = {}
        self._params = [{} for _ in cfgs]
        self._count = [(-1, 0)] * len(cfgs)
        self._envs = []
        for i, cfg in enumerate(cfgs):
            self._envs.append(self._guarded(i, "its constructor", env_class, cfg))

    def _guarded(self, i, where, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as e:
            frame = traceback.extract_tb(e.__traceback__)[-1]
            text = f"env {i} raised {type(e).__name__} in {where}: {e} [{frame.filename}:{frame.lineno}]"
            raise EnvFault(text, i, self._count[i][1]) from e

    def _write(self, block, value, i, name="obs"):
        if isinstance(block, dict):
            if value.keys() != block.keys():
                raise EnvFault(
                    f"env {i} sent {name} with the keys {sorted(value)}, its info says a dict of {sorted(block)}"
                )
            for key, child in block.items():
                self._write(child, value[key], i, f"{name}.{key}")
        else:
            block[i] = value

    def _begin(self, i, seed, out):
        self._count[i] = (self._count[i][0] + 1, 0)
        self._guarded(i, "seed()", self._envs[i].seed, int(seed))
        self._write(out, self._guarded(i, "reset()", self._envs[i].reset, **self._params[i]), i)

    def reset(self, seed, out):
        for i, s in enumerate(seed.tolist()):
            self._begin(i, s, out)

    def step(self, action, lane_id, seed, out):
        b = len(lane_id)
        self.calls.append((lane_id.tolist(), seed.tolist()))
        reward, score = np.zeros(b), np.full(b, np.nan)
        terminated, truncated, info = np.zeros(b, bool), np.zeros(b, bool), {}
        for row, i in enumerate(lane_id.tolist()):
            if seed[row] != ACT:
                self._begin(i, seed[row], out)
                continue
            obs, reward[row], done, full_info = self._guarded(i, "step()", self._envs[i].step, _row(action, row))
            self._write(out, obs, i)
            if done:
                truncated[row] = full_info.get("truncated", False)
                terminated[row] = full_info.get("terminated", not truncated[row])
                plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in full_info.items()}
                info[row] = {k: v for k, v in plain.items() if isinstance(v, bool | int | float | str)}
                score[row] = info[row].get("final_eval_reward", np.nan)
        return VectorStep(reward, terminated, truncated, None if np.isnan(score).all() else score, None, info)

    def announce(self, lane_id, seed):
        self.announced.update(zip(lane_id.tolist(), seed.tolist(), strict=True))

    def set_reset_param(self, param):
        for i, p in param.items():
            self._params[i] = p

    def attribute(self, name):
        if not all(hasattr(env, name) for env in self._envs):
            raise AttributeError(f"the env has no attribute '{name}'")
        values = [getattr(env, name) for env in self._envs]
        if callable(values[0]):
            raise AttributeError(f"'{name}' is a method of the env; a manager forwards reads of data only")
        return values

    def close(self):
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()


def _row(action, row):
    if isinstance(action, dict):
        return {key: _row(value, row) for key, value in action.items()}
    return action[row].item() if action.ndim == 1 else action[row].copy()


def vectored(env_class):
    """Returns a subclass of ``env_class`` that offers a ``ListVector``."""

    def create_vector(cls, cfgs):
        return ListVector(cls, cfgs)

    return type(env_class.__name__, (env_class,), {"create_vector": classmethod(create_vector)})
