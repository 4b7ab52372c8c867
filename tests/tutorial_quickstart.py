"""The quickstart chapter of the tutorial, block by block, as a reader types it. Two things are ours: ``FCDQN`` has the
argument ``dueling`` that the chapter's learner passes and its network lacks, and ``_setup_computation_graph`` is a
method of the learner (in the chapter it is indented into ``_setup_agent``)."""
# ruff: noqa
# fmt: off

from easydict import EasyDict

cfg = EasyDict({
    'env': {},
    'learner': {
        'use_cuda': False,
        'learning_rate': 0.001,
        'dqn': {'is_double': True, 'dueling': True, 'discount_factor': 0.9},
    },
})

# ---- the env

from app_zoo.classic_control.cartpole.envs import CartPoleEnv

env = CartPoleEnv(cfg={})  # use default env config

from nervex.worker.actor.env_manager import SubprocessEnvManager

# create 4 CartPoleEnv env with default config(set `env_cfg=[{} for _ in range(4)]`)
env_manager = SubprocessEnvManager(env_fn=CartPoleEnv, env_cfg=[{} for _ in range(4)], env_num=4, episode_num=2)

# ---- the network

import torch
import torch.nn as nn


# network definition
class FCDQN(nn.Module):
    def __init__(self, input_dim, action_dim, hidden_dim_list=[128, 256, 256], device='cpu', dueling=False):
        super(FCDQN, self).__init__()
        self.act = nn.ReLU()
        layers = []
        for dim in hidden_dim_list:
            layers.append(nn.Linear(input_dim, dim))
            layers.append(self.act)
            input_dim = dim
        self.main = nn.Sequential(*layers)
        self.action_dim = action_dim
        self.pred = nn.Linear(input_dim, action_dim)
        self.device = device

    def forward(self, x, info={}):
        x = x['obs']
        x = self.main(x)
        x = self.pred(x)
        return {'logit': x}

# create network
env_info = env.info()
obs_shape = env_info.obs_shape.shape
act_shape = env_info.act_shape.shape
model = FCDQN(obs_shape, act_shape)

# ---- the agents

from nervex.worker.agent import create_dqn_learner_agent, create_dqn_actor_agent, create_dqn_evaluator_agent

learner_agent = create_dqn_learner_agent(model, is_double=cfg.learner.dqn.is_double)
actor_agent = create_dqn_actor_agent(model)
evaluator_agent = create_dqn_evaluator_agent(model)

# ---- the computation graph

from nervex.computation_graph import BaseCompGraph
from nervex.rl_utils import q_1step_td_data, q_1step_td_error


class CartPoleDqnGraph(BaseCompGraph):

    def __init__(self, cfg):
        self._gamma = cfg.dqn.discount_factor

    def forward(self, data, agent):
        obs = data.get('obs')
        nextobs = data.get('next_obs')
        reward = data.get('reward')
        action = data.get('action')
        terminate = data.get('done').float()
        weights = data.get('weights', None)

        q_value = agent.forward(obs)['logit']
        if agent.is_double:
            target_q_value = agent.target_forward(nextobs)['logit']
        else:
            target_q_value = agent.forward(nextobs)['logit']

        data = q_1step_td_data(q_value, target_q_value, action, reward, terminate)
        loss = q_1step_td_error(data, self._gamma, weights)
        if agent.is_double:
            agent.target_update(agent.state_dict()['model'])
        return {'total_loss': loss}

# ---- the learner

from nervex.worker import BaseLearner


class CartPoleDqnLearner(BaseLearner):
    _name = "CartPoleDqnLearner"

    def _setup_agent(self):
        env_info = CartPoleEnv(self._cfg.env).info()
        model = FCDQN(env_info.obs_space.shape, env_info.act_space.shape, dueling=self._cfg.learner.dqn.dueling)
        if self._cfg.learner.use_cuda:
            model.cuda()
        self._agent = create_dqn_learner_agent(model, is_double=self._cfg.learner.dqn.is_double)
        self._agent.mode(train=True)
        if self._agent.is_double:
            self._agent.target_mode(train=True)

    def _setup_computation_graph(self):
        self._computation_graph = CartPoleDqnGraph(self._cfg.learner)

# ---- the buffer

from nervex.data import PrioritizedBuffer


buffer_ = PrioritizedBuffer(maxlen=10000)

# add 10 data
for _ in range(10):
    buffer_.append({'data': 'placeholder'})
data = buffer_.sample(4)  # sample 4 data
