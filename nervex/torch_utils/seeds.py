"""Seeds, and the state of every random stream of this process as plain data."""

import logging
import random
from typing import Any

import numpy as np
import torch

from nervex.utils.errors import CheckpointError, ConfigError

_logger = logging.getLogger("nervex")


def set_seed(seed: int) -> None:
    """Seeds Python's ``random``, NumPy's global stream, and torch on all devices.

    Args:
        seed: 0 <= seed < 2^32, the range that NumPy takes.

    Raises:
        ConfigError: ``seed`` is no integer of that range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 32:
        raise ConfigError(f"seed is {seed!r}; expected an integer from 0 to {(1 << 32) - 1}")
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))


def rng_state() -> dict[str, Any]:
    """Returns the state of the streams that ``set_seed`` seeds, as a state tree; ``load_rng_state`` continues them."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": np.array(keys, dtype=np.uint32),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_rng_state(state: dict[str, Any]) -> None:
    """Makes the streams go on from where ``rng_state`` was called. CUDA streams of absent devices are left out, with
    a warning.

    Raises:
        CheckpointError: ``state`` is not one that ``rng_state`` returns.
    """
    try:
        python, numpy = state["python"], state["numpy"]
        random.setstate((python["version"], tuple(int(w) for w in python["words"]), python["gauss"]))
        np.random.set_state(
            (numpy["name"], numpy["keys"], numpy["position"], numpy["has_gauss"], numpy["cached"]),
        )
        torch.set_rng_state(state["torch"])
        saved_cuda = state["cuda"]
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise CheckpointError(
            f"not the state of random streams: {type(e).__name__}: {e}; use another checkpoint"
        ) from e
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(saved_cuda) != present:
        _logger.warning(
            "saved with the random streams of %d CUDA devices, %d are here: what is drawn on them will differ",
            len(saved_cuda),
            present,
        )
    for device, device_state in enumerate(saved_cuda[:present]):
        torch.cuda.set_rng_state(device_state, device)


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """Returns the state of ``generator`` as a state tree of its own."""
    return dict(generator.bit_generator.state)


def load_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Makes ``generator`` go on from where ``generator_state`` was called.

    Raises:
        CheckpointError: ``state`` is of another kind of generator, or of none.
    """
    own = type(generator.bit_generator).__name__
    found = state.get("bit_generator")
    if found != own:
        raise CheckpointError(f"the saved random generator is a {found}, this one is a {own}; use the same kind")
    try:
        generator.bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise CheckpointError(f"not the state of a {own}: {type(e).__name__}: {e}; use another checkpoint") from e
