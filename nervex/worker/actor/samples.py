"""What passes between an actor's policy, its envs and whoever takes its samples."""

from typing import Any

import numpy as np
import torch

from nervex.data.columns import to_plain
from nervex.rl_utils.trajectory import Trajectory
from nervex.utils.errors import NumericalError
from nervex.utils.tree import tree_leaves, tree_map
from nervex.worker.actor.rollout import Block


def random_action(spec: Any, lane_num: int, mask: Any = None) -> Any:
    """Returns actions drawn uniformly from the action space (normal where it is unbounded), tensors [b, ...].

    Args:
        spec: of the actions.
        lane_num: number of lanes b.
        mask: which discrete actions are allowed, [b, N], or [b, ΣN] for several heads; None: all.
    """
    if isinstance(spec, dict):
        return {k: random_action(v, lane_num) for k, v in spec.items()}
    if spec.kind in ("discrete", "multi_discrete"):
        return _random_choice(spec, lane_num, mask)
    if spec.kind == "multi_binary":
        return torch.randint(2, (lane_num, *spec.shape)).to(torch.from_numpy(np.zeros(0, spec.dtype)).dtype)
    low = torch.tensor(np.broadcast_to(spec.low, spec.shape), dtype=torch.float32)
    high = torch.tensor(np.broadcast_to(spec.high, spec.shape), dtype=torch.float32)
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        return torch.randn(lane_num, *spec.shape)
    return low + (high - low) * torch.rand(lane_num, *spec.shape)


def _random_choice(spec: Any, lane_num: int, mask: Any) -> torch.Tensor:
    sizes = [spec.n] if spec.kind == "discrete" else list(spec.n)
    if mask is None:
        heads = [torch.randint(n, (lane_num,)) for n in sizes]
    else:
        heads = [torch.multinomial(m.float(), 1).squeeze(1) for m in mask.split(sizes, dim=-1)]
    return heads[0] if spec.kind == "discrete" else torch.stack(heads, dim=1)


def finished(sample: Any, asked: Trajectory) -> Trajectory:
    """Returns training samples as a trajectory whose ``done`` means terminated."""
    if sample is None or (not isinstance(sample, Trajectory) and len(sample) == 0):
        return Trajectory({"valid": torch.zeros(0, asked.lane_num, dtype=torch.bool)})
    if not isinstance(sample, Trajectory):
        rows = [tree_map(torch.as_tensor, to_plain(row)) for row in sample]
        stacked: Any = tree_map(lambda *leaves: torch.stack(leaves), *rows)
        leaves = [rows[0]["valid"]] if "valid" in rows[0] else tree_leaves(rows[0])
        of_lanes = all(x.shape[:1] == (asked.lane_num,) for x in leaves)
        if not of_lanes:  # finished items, each without a dimension for lanes
            stacked = tree_map(lambda x: x.unsqueeze(1), stacked)
        stacked.setdefault("valid", torch.ones(stacked["reward"].shape[:2], dtype=torch.bool))
        sample = Trajectory(stacked, dropped=asked.dropped)
    if "done" in sample.columns and "terminated" in sample.columns:
        sample.columns["done"] = sample.columns["terminated"]
    return sample


def copied(block: Block) -> Block:
    """Returns a block whose memory is its own."""
    traj = block.traj
    columns: Any = tree_map(torch.clone, traj.columns)
    last_obs = tree_map(torch.clone, traj.last_obs) if traj.last_obs is not None else None
    kept = Trajectory(columns, last_obs, traj.return_num, traj.unroll_len, traj.dropped, traj.length)
    return block._replace(traj=kept)


def as_actions(action: Any) -> Any:
    """Returns actions as arrays for the envs.

    Raises:
        NumericalError: an action is not finite, as when the network's weights are not.
    """
    arrays = _array(action) if isinstance(action, torch.Tensor) else tree_map(_array, action)
    for leaf in tree_leaves(arrays) if isinstance(arrays, dict) else (arrays,):
        if leaf.dtype.kind == "f" and np.count_nonzero(np.isfinite(leaf)) != leaf.size:
            raise NumericalError("the policy's action is not finite; its network returned NaN or infinity")
    return arrays


def as_tensors(obs: Any) -> Any:
    """Returns nested arrays as tensors that share their memory."""
    return torch.from_numpy(obs) if isinstance(obs, np.ndarray) else tree_map(torch.from_numpy, obs)


def _array(action: torch.Tensor) -> np.ndarray:
    array: np.ndarray = action.numpy() if action.is_cpu else action.cpu().numpy()
    return array
