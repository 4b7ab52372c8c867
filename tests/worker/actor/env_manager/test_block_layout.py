"""Where the arrays of a manager lie in their memory."""

import numpy as np
import pytest
from manager_envs import CounterEnv

from nervex.envs.base_env import spec_tree
from nervex.worker.actor.env_manager.blocks import Blocks, block_bytes, tree_leaves


@pytest.mark.parametrize("env_num", [1, 3, 8])
@pytest.mark.parametrize("shared", [False, True])
def test_the_observations_of_both_slots_are_aligned_and_apart(env_num, shared):
    """A forward rounds by the address of its input, and after a resume the same step may fall into the other slot."""
    info = CounterEnv({}).info()
    obs, action = spec_tree(info.obs_space), spec_tree(info.act_space, is_action=True)
    memory = bytearray(block_bytes(obs, action, env_num)) if shared else None
    blocks = Blocks(obs, action, env_num, memory)
    for leaf in tree_leaves(blocks.obs):
        assert leaf.shape[:2] == (2, env_num)
        for slot in (0, 1):
            assert leaf[slot].flags.c_contiguous and leaf[slot].ctypes.data % 16 == 0
        leaf[0], leaf[1] = 1, 2
        blocks.reward[:] = 3
        assert np.all(leaf[0] == 1) and np.all(leaf[1] == 2)
