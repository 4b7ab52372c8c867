"""Spaces of an env as JSON, so that a trained policy can be served without the env."""

import math
from typing import Any

import numpy as np

from nervex.envs.base_env import LeafSpec


def to_json(spec: Any) -> Any:
    """Returns a ``LeafSpec`` or nested dict of them as plain data."""
    if isinstance(spec, dict):
        return {"kind": "dict", "items": {k: to_json(v) for k, v in spec.items()}}
    low, high = (_numbers(np.asarray(x, dtype=np.float64).tolist()) for x in (spec.low, spec.high))
    return {"kind": spec.kind, "shape": list(spec.shape), "dtype": spec.dtype.name, "low": low, "high": high,
            "n": list(spec.n) if isinstance(spec.n, tuple) else spec.n}  # fmt: skip


def from_json(data: Any) -> Any:
    """The inverse of :func:`to_json`."""
    if data["kind"] == "dict":
        return {k: from_json(v) for k, v in data["items"].items()}
    n = tuple(data["n"]) if isinstance(data["n"], list) else data["n"]
    low, high = np.asarray(data["low"], dtype=np.float64), np.asarray(data["high"], dtype=np.float64)
    return LeafSpec(tuple(data["shape"]), np.dtype(data["dtype"]), low, high, data["kind"], n)


def _numbers(value: Any) -> Any:
    """Infinities as text, which standard JSON has no number for."""
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    return value if math.isfinite(value) else str(value)
