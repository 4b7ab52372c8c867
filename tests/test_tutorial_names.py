"""Every import line of the tutorial's policy chapter and of its quickstart."""

import numpy as np
import torch

LINES = """
from nervex.entry import serial_pipeline
from nervex.utils import read_config
from app_zoo.classic_control.cartpole.envs import CartPoleEnv
from nervex.envs import BaseEnv, BaseEnvTimestep, BaseEnvInfo
from nervex.worker.actor.env_manager import BaseEnvManager, SubprocessEnvManager, SyncSubprocessEnvManager
from nervex.agent import Agent
from nervex.rl_utils import q_1step_td_data, q_1step_td_error, q_nstep_td_data, q_nstep_td_error
from nervex.rl_utils import nstep_return_data, nstep_return, epsilon_greedy, Adder
from nervex.model import FCDiscreteNet, ConvDiscreteNet, FCDQN
from nervex.policy import Policy, CommonPolicy, register_policy, create_policy, DQNPolicy
from nervex.policy.base_policy import Policy, register_policy
from nervex.policy.common_policy import CommonPolicy
from nervex.torch_utils import Adam
from nervex.worker import BaseLearner, BaseSerialActor, BaseSerialEvaluator, BaseSerialCommand
from nervex.worker.learner import LearnerHook, register_learner_hook
from nervex.worker.actor.env_manager import SubprocessEnvManager
from nervex.worker.agent import create_dqn_learner_agent, create_dqn_actor_agent, create_dqn_evaluator_agent
from nervex.computation_graph import BaseCompGraph
from nervex.worker import BaseLearner
from nervex.data import PrioritizedBuffer
from nervex.entry.base_single_machine import SingleMachineRunner
from app_zoo.classic_control.cartpole.entry.cartpole_single_machine.cartpole_main import main
"""


def test_every_line_imports() -> None:
    for line in LINES.strip().splitlines():
        exec(line, {})


def test_the_quickstart_env_and_network() -> None:
    from app_zoo.classic_control.cartpole.envs import CartPoleEnv
    from nervex.model import FCDQN

    env = CartPoleEnv(cfg={})
    info = env.info()
    assert (info.obs_shape.shape, info.act_shape.shape) == (4, 2)
    assert (info.obs_space.shape, info.act_space.shape) == (4, 2)
    model = FCDQN(info.obs_shape.shape, info.act_shape.shape)
    env.seed(0)
    obs = torch.from_numpy(env.reset()).unsqueeze(0)
    action = int(model({"obs": obs})["logit"].argmax())
    timestep = env.step(action)
    assert timestep.obs.shape == (4,) and np.isfinite(timestep.reward) and not timestep.done
    env.close()


def test_four_envs_in_processes() -> None:
    from app_zoo.classic_control.cartpole.envs import CartPoleEnv
    from nervex.worker.actor.env_manager import SubprocessEnvManager

    manager = SubprocessEnvManager(env_fn=CartPoleEnv, env_cfg=[{} for _ in range(4)], env_num=4, episode_num=2)
    manager.seed(0)
    manager.launch()
    episodes = 0
    while not manager.done:
        timesteps = manager.step({env_id: torch.tensor(0) for env_id in manager.next_obs})
        episodes += sum(int(t.done) for t in timesteps.values())
    manager.close()
    assert episodes == 8
