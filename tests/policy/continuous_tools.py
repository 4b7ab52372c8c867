"""Small policies of DDPG, TD3 and SAC, batches for them, and the oracles' networks made from theirs."""

import math

import numpy as np
import tiny_tasks as tiny
import torch
from oracles import continuous_update as oracle
from torch import nn

from nervex.data.lanes import LaneBlock
from nervex.model.mlp import EnsembleMLP

OBS, ACTION, GAMMA, THETA = 3, 2, 0.9, 0.05
LR_ACTOR, LR_CRITIC, LR_ALPHA = 0.003, 0.01, 0.02


def config(policy_type, nstep=1, model=None, collect=None, **learn):
    """Returns section ``policy``; keys of ``learn.algo`` come in ``algo``."""
    algo = {"discount_factor": GAMMA, "nstep": nstep, "target_theta": THETA, **learn.pop("algo", {})}
    rates = {"learning_rate_actor": LR_ACTOR, "learning_rate_critic": LR_CRITIC}
    if policy_type == "sac":
        rates["learning_rate_alpha"] = LR_ALPHA
    sizes = {"obs_dim": OBS, "action_dim": ACTION, "hidden_dim_list": [8, 7]}
    return {
        "policy_type": policy_type, "model": {**sizes, **(model or {})}, "learn": {**rates, "algo": algo, **learn},
        "collect": {"algo": {"nstep": nstep}, **(collect or {})},
    }  # fmt: skip


def batch(seed=0, nstep=1, size=6, action_num=None):
    """Returns a batch of ``NStepWindow``, with windows that a time limit has cut; discrete with ``action_num``."""
    rng = torch.Generator().manual_seed(seed)
    dtype = torch.get_default_dtype()

    def normal(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    continuous = torch.tanh(normal(size, ACTION))
    discrete = torch.randint(action_num or 1, (size,), generator=rng)
    return {
        "obs": normal(size, OBS), "next_obs": normal(size, OBS),
        "action": continuous if action_num is None else discrete,
        "reward": normal(size, nstep), "done": torch.rand(size, generator=rng) < 0.3,
        "value_gamma": torch.tensor([GAMMA, GAMMA**nstep], dtype=dtype).repeat(size // 2),
        "weight": torch.rand(size, generator=rng, dtype=torch.float64).to(dtype),
    }  # fmt: skip


def learn(policy, data):
    mode = policy.learn_mode
    return mode.forward(mode.data_preprocess(data))


def act(mode, obs, lane=None):
    lane_id, data = mode.data_preprocess(LaneBlock(np.arange(len(obs)) if lane is None else np.asarray(lane), obs))
    return mode.forward(lane_id, data)["action"]


def linear_layers(module):
    """The layers of the actor, for ``oracle.Net``."""
    return [(m.weight, m.bias) for m in module.modules() if isinstance(m, nn.Linear)]


def critic_layers(module):
    """The same of each critic."""
    (ensemble,) = (m for m in module.modules() if isinstance(m, EnsembleMLP))
    count = len(ensemble.weight[0])
    return [[(w[c].T, b[c, 0]) for w, b in zip(ensemble.weight, ensemble.bias, strict=True)] for c in range(count)]


def largest_difference(policy, reference):
    """Returns the largest absolute difference of any weight, targets and temperature included."""
    pairs = [(linear_layers(policy.model.actor), reference.actor)]
    pairs += zip(critic_layers(policy.model.critic), reference.critics, strict=True)
    target = policy._agent.target_model
    pairs += zip(critic_layers(target.critic), reference.target_critics, strict=True)
    if hasattr(reference, "target_actor"):
        pairs.append((linear_layers(target.actor), reference.target_actor))
    found = [
        (ours.double() - theirs.double()).abs().max().item()
        for layers, net in pairs
        for ours, theirs in zip((p for layer in layers for p in layer), net.parameters, strict=True)
    ]
    if hasattr(reference, "log_alpha"):
        found.append((policy._log_alpha - reference.log_alpha).abs().item())
    return max(found)


def deterministic_reference(policy, **options):
    """The oracle of a new DDPG or TD3 policy."""
    model = policy.model
    return oracle.DeterministicActorCritic(
        linear_layers(model.actor), critic_layers(model.critic), GAMMA, THETA, LR_ACTOR, LR_CRITIC, **options
    )


def soft_reference(policy, target_entropy, kind=oracle.SoftActorCritic, alpha=1.0):
    """The oracle of a new SAC policy."""
    model = policy.model
    return kind(
        linear_layers(model.actor), critic_layers(model.critic), GAMMA, THETA, LR_ACTOR, LR_CRITIC, LR_ALPHA,
        target_entropy, alpha,
    )  # fmt: skip


def seeded_noise(seed, *shapes):
    """The standard normal numbers that torch draws after ``manual_seed(seed)``, for arrays of these shapes in turn."""
    torch.manual_seed(seed)
    return [torch.randn(shape) for shape in shapes]


def mean_priority(errors):
    """|δ| averaged over the critics, from the oracle's [C][B]."""
    return [math.fsum(abs(e) for e in column) / len(column) for column in zip(*errors, strict=True)]


def small_run(policy_type, task, steps, **changes):
    """Returns the configuration of a run of two seconds on a tiny task; ``changes`` as for ``tiny_config``."""
    base = {
        "policy__model__hidden_dim_list": [32], "policy__learn__batch_size": 64, "policy__learn__learning_rate": 0.003,
        "policy__learn__train_step": 2, "policy__learn__algo__target_theta": 0.05, "actor__random_collect_size": 200,
        "evaluator__n_episode": 4, "max_env_step": steps, **changes,
    }  # fmt: skip
    return tiny.tiny_config(task, policy_type, **base)


def learned(policy):
    """Returns what a policy made of a task with targets: its values of its own actions [17] (the first critic's), and
    the mean distance of those actions from the best ones (0.2 if it always acts 0)."""
    x = torch.linspace(-0.8, 0.8, 17)[:, None]
    with torch.no_grad():
        action = act(policy.eval_mode, x)
        q_value = policy.model({"obs": x, "action": action}, mode="compute_q")["q_value"]
    error = np.abs(action.numpy() - tiny.target_action(x.numpy())).mean()
    return q_value[0] if q_value.dim() == 2 else q_value, error
