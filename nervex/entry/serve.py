"""Serves the policy of a finished run: observations in, actions out, no env and no configuration needed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nervex.config.frozen import FrozenConfig
from nervex.config.schema import build
from nervex.config.source import ConfigSource, read_source
from nervex.data.lanes import LaneBlock
from nervex.entry.spaces import from_json
from nervex.policy.base_policy import POLICY_REGISTRY, Policy
from nervex.torch_utils.checkpoint import load_weights
from nervex.utils.errors import CheckpointError, ConfigError, MissingKeyError, RunFolderError, SpecError
from nervex.utils.import_helper import import_names
from nervex.utils.tree import tree_leaves, tree_map
from nervex.worker.monitor.run_folder import RunFolder

SPACES = "spaces.json"


class ServedPolicy:
    """A trained policy.

    Args:
        policy_class: the algorithm.
        cfg: its section of the configuration.
        weights: of its network.
        obs_spec: what an observation looks like.
        model_type: a user's network class, or None.
        model: a network to put the weights into, or None.
    """

    def __init__(
        self, policy_class: type[Policy], cfg: dict[str, Any], weights: dict[str, Any], obs_spec: Any,
        model_type: Any = None, model: torch.nn.Module | None = None,
    ) -> None:  # fmt: skip
        self._class, self._cfg, self._model_type = policy_class, cfg, model_type
        self._obs_spec = obs_spec
        self._by_mode: dict[bool, Policy] = {}
        first = self._build(bool(cfg["eval"].get("deterministic", True)), model)
        try:
            first.model.load_state_dict(weights)
        except RuntimeError as e:
            raise CheckpointError(f"the weights of the run do not fit its network: {e}") from e

    @property
    def model(self) -> torch.nn.Module:
        """The network."""
        return next(iter(self._by_mode.values())).model

    def act(self, obs: Any, deterministic: bool = True) -> Any:
        """Returns the action for one observation, or actions for a batch of them.

        Args:
            obs: observation as the env gives it (nested dict, array, list or tensor), or a batch with one more
                dimension in front.
            deterministic: greedy; False: as the policy explores in stochastic evaluation.

        Returns:
            int or array of one action; array [B, ...] of a batch.

        Raises:
            SpecError: the observation has not the shape that the policy was trained on.
        """
        batch, single = self._batched(obs)
        rows = tree_leaves(batch)[0].shape[0]
        policy = self._by_mode.get(deterministic) or self._build(deterministic, self.model)
        with torch.inference_mode():
            lane_id, data = policy.eval_mode.data_preprocess(LaneBlock(np.arange(rows), batch))
            output = policy.eval_mode.forward(lane_id, data)
        action = tree_map(lambda x: x.cpu().numpy(), output["action"])
        if not single:
            return action
        return tree_map(lambda x: x[0].item() if x.ndim == 1 else x[0], action)

    def reset(self) -> None:
        """Forgets the state of recurrent policies; call it when an episode begins."""
        for policy in self._by_mode.values():
            policy.eval_mode.reset()

    def _build(self, deterministic: bool, model: torch.nn.Module | None) -> Policy:
        cfg = json.loads(json.dumps(self._cfg))
        if "deterministic" in cfg["eval"]:
            cfg["eval"]["deterministic"] = deterministic
        elif not deterministic:
            raise ConfigError(
                f"policy {self._class.__name__} has no key policy.eval.deterministic, so it acts in one way only; "
                "call act(obs) without deterministic=False"
            )
        try:
            policy = self._class(FrozenConfig(cfg), model=model, model_type=self._model_type, enable_field=["eval"])
        except (TypeError, MissingKeyError) as e:
            raise ConfigError(
                f"the network of the run cannot be built from policy.model ({e}); if the run was given model_type= or "
                "model= from Python, give load() the same"
            ) from e
        self._by_mode[deterministic] = policy
        return policy

    def _batched(self, obs: Any) -> tuple[Any, bool]:
        single: list[bool] = []

        def convert(spec: Any, value: Any, path: str) -> Any:
            if isinstance(spec, dict):
                if not isinstance(value, dict) or value.keys() != spec.keys():
                    got = sorted(value) if isinstance(value, dict) else type(value).__name__
                    raise SpecError(f"{path} is {got}, the policy was trained on a dict with {sorted(spec)}")
                return {k: convert(spec[k], value[k], f"{path}[{k!r}]") for k in spec}
            array = np.asarray(value)
            if array.shape != spec.shape and array.shape[1:] != spec.shape:
                raise SpecError(
                    f"{path} has shape {list(array.shape)}, the policy was trained on {list(spec.shape)} (or a batch: "
                    f"{['B', *spec.shape]})"
                )
            single.append(array.shape == spec.shape)
            array = array.astype(spec.dtype, copy=False)
            return torch.from_numpy(array[None] if single[-1] else array)

        batch = convert(self._obs_spec, obs, "obs")
        return batch, all(single)


def load(run_dir: str | Path, policy_type: Any = None, model_type: Any = None, model: Any = None) -> ServedPolicy:
    """Returns the policy of a run, with the weights of its best evaluation.

    Args:
        run_dir: folder of the run.
        policy_type, model_type, model: what the run was given from Python, if it was; the model gets the weights.

    Raises:
        RunFolderError: ``run_dir`` is no run folder.
        CheckpointError: its weights are missing or damaged.
    """
    folder = RunFolder.open(run_dir)
    source = read_source(folder.config_path)
    section = source.data["policy"]
    import_names(section.get("import_names") or [], "policy.import_names", package="nervex.policy")
    policy_class = policy_type or POLICY_REGISTRY.get(section["policy_type"])
    cfg = build(policy_class.config_class, section, ConfigSource(source.data), ("policy",))
    cfg["use_cuda"] = bool(cfg["use_cuda"] and torch.cuda.is_available())
    try:
        spaces = json.loads((folder.path / SPACES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise RunFolderError(f"{folder.path / SPACES} is missing or damaged; the run folder is not complete") from e
    return ServedPolicy(policy_class, cfg, load_weights(folder.path), from_json(spaces["obs"]), model_type, model)
