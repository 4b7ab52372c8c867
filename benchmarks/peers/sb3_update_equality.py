"""Compares whole updates with those of Stable-Baselines3: the same weights, batches and noise, in 64 bits.

    python benchmarks/peers/sb3_update_equality.py peer FILE      # in the environment of sb3_learn.py, without nerveX
    python benchmarks/peers/sb3_update_equality.py ours FILE      # in nerveX's

The first writes the weights of five updates of SAC, TD3 and DDPG on the shapes of HalfCheetah (256-256, batch 256); the
second makes the same updates and prints the largest difference of any weight, targets included. Learning rates as in
``sb3_settings.json``.

Three things differ by design, all of SAC. SB3 keeps log(1 - a² + 1e-6) where ours is exact: ``epsilon`` is set to 0
there, and the figure with it in place is printed too. Its critics' loss is halved, which Adam undoes but for its own ε:
that is halved there, too. Its temperature's loss has log α in place of α (Haarnoja et al. 2018b, eq. 18), which Adam
makes nearly the same.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

OBS, ACTION, BATCH, UPDATES = 17, 6, 256, 5
RATE = {"SAC": 3e-4, "SAC epsilon 1e-6": 3e-4, "TD3": 1e-3, "DDPG": 1e-3}


def batches() -> list[dict[str, torch.Tensor]]:
    """Returns the batches, with two arrays of standard normal noise for each."""
    rng = np.random.default_rng(0)
    return [
        {
            "obs": torch.tensor(rng.normal(size=(BATCH, OBS))),
            "next_obs": torch.tensor(rng.normal(size=(BATCH, OBS))),
            "action": torch.tensor(rng.uniform(-1, 1, (BATCH, ACTION))),
            "reward": torch.tensor(rng.normal(size=(BATCH, 1))),
            "done": torch.tensor(rng.random(BATCH) < 0.1),
            "noise": torch.tensor(rng.normal(size=(BATCH, ACTION))),
            "next_noise": torch.tensor(rng.normal(size=(BATCH, ACTION))),
        }
        for _ in range(UPDATES)
    ]


def peer(path: Path) -> None:
    """Makes the updates with Stable-Baselines3."""
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.type_aliases import ReplayBufferSamples
    from torch.distributions import normal

    class Shapes(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,), np.float64)
        action_space = gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32)

    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]  # it casts observations
    found: dict[str, Any] = {}
    for name, rate in RATE.items():
        kind = name.split()[0]
        kwargs = {"net_arch": [256, 256]}
        model = getattr(stable_baselines3, kind)(
            "MlpPolicy", Shapes(), learning_rate=rate, policy_kwargs=kwargs, device="cpu"
        )
        model.set_logger(Logger(None, []))
        if kind == "SAC":
            model.actor.action_dist.epsilon = 1e-6 if "epsilon" in name else 0.0
            model.critic.optimizer.param_groups[0]["eps"] = 0.5e-8
        states = [sb3_weights(model)]
        for b in batches():
            data = ReplayBufferSamples(b["obs"], b["action"], b["next_obs"], b["done"].double()[:, None], b["reward"])
            noises = [b["noise"], b["next_noise"]]
            normal._standard_normal = lambda *_, queue=noises, **__: queue.pop(0)
            model.replay_buffer.sample = lambda *_, data=data, **__: data
            fill = torch.Tensor.normal_
            torch.Tensor.normal_ = lambda x, mean, std, b=b: x.copy_(mean + std * b["next_noise"])
            model.train(1, BATCH)
            torch.Tensor.normal_ = fill
            states.append(sb3_weights(model))
        found[name] = states
    torch.save(found, path)


def sb3_weights(model: Any) -> dict[str, Any]:
    """Returns a copy of the linear layers of actor, critics and their targets, and log α."""
    nets = {"actor": [model.actor], "critic": model.critic.q_networks, "target_critic": model.critic_target.q_networks}
    if hasattr(model, "actor_target"):
        nets["target_actor"] = [model.actor_target]
    state: dict[str, Any] = {
        name: [[p.detach().clone() for p in net.parameters()] for net in several] for name, several in nets.items()
    }
    state["log_alpha"] = model.log_ent_coef.detach().clone() if hasattr(model, "log_ent_coef") else torch.zeros(1)
    return state


def ours(path: Path) -> None:
    """Makes the updates with nerveX and prints the differences."""
    from nervex.policy import create_policy

    torch.set_default_dtype(torch.float64)
    for name, states in torch.load(path, weights_only=True).items():
        kind = name.split()[0].lower()
        learn = {"learning_rate": RATE[name], "algo": {"discount_factor": 0.99}}
        policy = create_policy({"policy_type": kind, "model": {"obs_dim": OBS, "action_dim": ACTION}, "learn": learn})
        target = policy._agent.target_model
        for net, prefix in ((policy.model, ""), (target, "target_")):
            load(net.actor, states[0].get(f"{prefix}actor", states[0]["actor"]))
            load(net.critic, states[0][f"{prefix}critic"])
        worst = 0.0
        for b, state in zip(batches(), states[1:], strict=True):
            noises = [b["next_noise"], b["noise"]]
            torch.randn = lambda *_, queue=noises, **__: queue.pop(0)  # type: ignore[assignment]
            torch.randn_like = lambda *_, queue=noises, **__: queue.pop(0)  # type: ignore[assignment]
            data = {k: v for k, v in b.items() if "noise" not in k}
            policy.learn_mode.forward(
                policy.learn_mode.data_preprocess(data | {"value_gamma": torch.full((BATCH,), 0.99)})
            )
            pairs = [(policy.model.actor, "actor"), (policy.model.critic, "critic"), (target.critic, "target_critic")]
            pairs += [(target.actor, "target_actor")] if "target_actor" in state else []
            worst = max(worst, *(difference(net, state[key]) for net, key in pairs))
        alpha = f", of log α {(policy._log_alpha - state['log_alpha']).abs().item():.1e}" if kind == "sac" else ""
        print(f"{name}: largest difference of a weight in {UPDATES} updates {worst:.1e}{alpha}")


def layers(net: Any, number: int) -> list[list[torch.Tensor]]:
    """Returns views of the parameters of ours in the order and shape of the peer's: of an actor, or of each critic."""
    if not hasattr(net, "main"):
        return [list(net.parameters())]
    pairs = list(zip(net.main.weight, net.main.bias, strict=True))
    return [[p for w, b in pairs for p in (w[i].T, b[i, 0])] for i in range(number)]


def load(net: Any, state: list[list[torch.Tensor]]) -> None:
    """Copies the peer's weights into ours."""
    with torch.no_grad():
        for own, theirs in zip(layers(net, len(state)), state, strict=True):
            merged = sac_heads(theirs, len(own))
            for p, q in zip(own, merged, strict=True):
                p.copy_(q)


def difference(net: Any, state: list[list[torch.Tensor]]) -> float:
    """Returns the largest absolute difference between ours and the peer's."""
    return max(
        (p - q).abs().max().item()
        for own, theirs in zip(layers(net, len(state)), state, strict=True)
        for p, q in zip(own, sac_heads(theirs, len(own)), strict=True)
    )


def sac_heads(parameters: list[torch.Tensor], expected: int) -> list[torch.Tensor]:
    """Puts the peer's two output layers of SAC's actor (mean, log standard deviation) on top of each other."""
    if len(parameters) == expected:
        return parameters
    *hidden, mu_w, mu_b, std_w, std_b = parameters
    return [*hidden, torch.cat([mu_w, std_w]), torch.cat([mu_b, std_b])]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("peer", "ours"))
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"peer": peer, "ours": ours}[args.side](args.file)
