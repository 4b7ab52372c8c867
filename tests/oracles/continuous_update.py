"""Whole updates of DDPG, TD3 and SAC as their papers say them: plain layers, one sample at a time, Adam by hand.

Nothing here is of nerveX or of ``torch.nn``; only the gradients come from autograd. A batch is a dict of ``obs``,
``next_obs`` [B, O], ``action`` [B, A] (discrete: [B]), ``reward`` [B, n], ``done`` [B] (terminated),
``value_gamma`` and ``weight`` [B]. Each class keeps its networks and their optimizers; ``update`` makes one update of
them in place.
"""

import math

import torch


class Net:
    """Layers ``(weight [out, in], bias [out])`` with ReLU between them; a call takes one sample [in]."""

    def __init__(self, layers):
        self.layers = [(w.detach().clone().requires_grad_(), b.detach().clone().requires_grad_()) for w, b in layers]

    def __call__(self, x):
        for i, (weight, bias) in enumerate(self.layers):
            x = weight @ x + bias
            if i < len(self.layers) - 1:
                x = torch.where(x > 0, x, torch.zeros_like(x))
        return x

    @property
    def parameters(self):
        return [p for layer in self.layers for p in layer]


class Adam:
    """Kingma & Ba 2015, algorithm 1; weight decay as an L2 penalty."""

    def __init__(self, parameters, lr, weight_decay=0.0):
        self.parameters, self.lr, self.weight_decay, self.t = list(parameters), lr, weight_decay, 0
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]

    def minimize(self, loss):
        gradients = torch.autograd.grad(loss, self.parameters)
        self.t += 1
        with torch.no_grad():
            for p, gradient, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
                g = gradient + self.weight_decay * p
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                m_hat, v_hat = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
                p.copy_(p - self.lr * m_hat / (torch.sqrt(v_hat) + 1e-8))


def follow(targets, nets, theta):
    """θ' ← (1 − θ)·θ' + θ·θ_main."""
    with torch.no_grad():
        for target, net in zip(targets, nets, strict=True):
            for p_target, p in zip(target.parameters, net.parameters, strict=True):
                p_target.copy_((1 - theta) * p_target + theta * p)


def bootstrapped(batch, b, gamma, next_value):
    """Σ_i γ^i·r_i, plus the value of what follows unless the task ended; its factor says how many steps later it is."""
    total = sum(gamma**i * r for i, r in enumerate(batch["reward"][b]))
    return total if batch["done"][b] else total + batch["value_gamma"][b] * next_value


def critic_loss(critics, batch, targets):
    """Σ over critics of the weighted mean squared error, the batch's mean; and the errors [C][B]."""
    loss, errors = 0.0, []
    for critic in critics:
        own = []
        for b, target in enumerate(targets):
            q = critic(torch.cat([batch["obs"][b], batch["action"][b]]))[0]
            own.append((target - q).item())
            loss = loss + batch["weight"][b] * (q - target) ** 2 / len(targets)
        errors.append(own)
    return loss, errors


class DeterministicActorCritic:
    """DDPG (Lillicrap et al. 2016, algorithm 1) with one critic and no target noise; TD3 (Fujimoto et al. 2018,
    algorithm 1) with two, a delay and target noise."""

    def __init__(self, actor, critics, gamma, theta, lr_actor, lr_critic, delay=1, sigma=0.0, clip=0.0, decay=0.0):
        self.actor, self.critics = Net(actor), [Net(critic) for critic in critics]
        self.target_actor, self.target_critics = Net(actor), [Net(critic) for critic in critics]
        self.gamma, self.theta, self.delay, self.sigma, self.clip = gamma, theta, delay, sigma, clip
        self.actor_adam = Adam(self.actor.parameters, lr_actor, decay)
        self.critic_adam = Adam([p for critic in self.critics for p in critic.parameters], lr_critic, decay)
        self.count = 0

    def update(self, batch, noise=None):
        """``noise`` [B, A], standard normal; returns the TD errors [C][B]."""
        size, targets = len(batch["obs"]), []
        with torch.no_grad():
            for b in range(size):
                action = torch.tanh(self.target_actor(batch["next_obs"][b]))
                if noise is not None:
                    action = action + torch.clip(self.sigma * noise[b], -self.clip, self.clip)
                    action = torch.clip(action, -1.0, 1.0)
                x = torch.cat([batch["next_obs"][b], action])
                next_value = min(critic(x)[0] for critic in self.target_critics)
                targets.append(bootstrapped(batch, b, self.gamma, next_value))
        loss, errors = critic_loss(self.critics, batch, targets)
        self.critic_adam.minimize(loss)
        self.count += 1
        if self.count % self.delay == 0:
            value = 0.0
            for obs in batch["obs"]:
                value = value + self.critics[0](torch.cat([obs, torch.tanh(self.actor(obs))]))[0] / size
            self.actor_adam.minimize(-value)
            follow([self.target_actor, *self.target_critics], [self.actor, *self.critics], self.theta)
        return errors


class SoftActorCritic:
    """SAC with a learned temperature, Haarnoja et al. 2018b (https://arxiv.org/abs/1812.05905), algorithm 1."""

    def __init__(self, actor, critics, gamma, theta, lr_actor, lr_critic, lr_alpha, target_entropy, alpha=1.0):
        self.actor, self.critics = Net(actor), [Net(critic) for critic in critics]
        self.target_critics = [Net(critic) for critic in critics]
        self.gamma, self.theta, self.target_entropy = gamma, theta, target_entropy
        self.log_alpha = torch.tensor(math.log(alpha), requires_grad=True)
        self.actor_adam = Adam(self.actor.parameters, lr_actor)
        self.critic_adam = Adam([p for critic in self.critics for p in critic.parameters], lr_critic)
        self.alpha_adam = Adam([self.log_alpha], lr_alpha)

    def act(self, obs, noise):
        """One action [A] and its log-probability: the normal's density, divided by the slope of tanh."""
        mean, log_std = self.actor(obs).chunk(2)
        std = torch.exp(torch.clip(log_std, -20.0, 2.0))
        u = mean + std * noise
        density = torch.exp(-((u - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
        return torch.tanh(u), torch.log(density / (1 - torch.tanh(u) ** 2)).sum()

    def update(self, batch, next_noise, noise):
        """``next_noise``, ``noise`` [B, A], standard normal, for the actions at next_obs and at obs; returns the TD
        errors [C][B]."""
        size, targets, alpha = len(batch["obs"]), [], torch.exp(self.log_alpha).item()
        with torch.no_grad():
            for b in range(size):
                action, logp = self.act(batch["next_obs"][b], next_noise[b])
                x = torch.cat([batch["next_obs"][b], action])
                next_value = min(critic(x)[0] for critic in self.target_critics) - alpha * logp
                targets.append(bootstrapped(batch, b, self.gamma, next_value))
        loss, errors = critic_loss(self.critics, batch, targets)
        self.critic_adam.minimize(loss)
        actor_loss, logps = 0.0, []
        for b in range(size):
            action, logp = self.act(batch["obs"][b], noise[b])
            x = torch.cat([batch["obs"][b], action])
            actor_loss = actor_loss + (alpha * logp - min(critic(x)[0] for critic in self.critics)) / size
            logps.append(logp.item())
        self.actor_adam.minimize(actor_loss)
        self.learn_alpha(logps)
        follow(self.target_critics, self.critics, self.theta)
        return errors

    def learn_alpha(self, logps):
        mean = sum(logps) / len(logps)
        self.alpha_adam.minimize(-torch.exp(self.log_alpha) * (mean + self.target_entropy))


class DiscreteSoftActorCritic(SoftActorCritic):
    """Christodoulou 2019, https://arxiv.org/abs/1910.07207: expectations over the actions in place of samples."""

    def update(self, batch):
        """Returns the TD errors [C][B]."""
        size, targets, alpha = len(batch["obs"]), [], torch.exp(self.log_alpha).item()
        with torch.no_grad():
            for b in range(size):
                p = torch.softmax(self.actor(batch["next_obs"][b]), dim=0)
                values = [critic(batch["next_obs"][b]) for critic in self.target_critics]
                next_value = sum(
                    p[a] * (min(value[a] for value in values) - alpha * torch.log(p[a])) for a in range(len(p))
                )
                targets.append(bootstrapped(batch, b, self.gamma, next_value))
        loss, errors = 0.0, []
        for critic in self.critics:
            taken = [critic(batch["obs"][b])[batch["action"][b]] for b in range(size)]
            errors.append([(targets[b] - taken[b]).item() for b in range(size)])
            loss = loss + sum(batch["weight"][b] * (taken[b] - targets[b]) ** 2 for b in range(size)) / size
        self.critic_adam.minimize(loss)
        actor_loss, logps = 0.0, []
        for obs in batch["obs"]:
            p = torch.softmax(self.actor(obs), dim=0)
            values = [critic(obs).detach() for critic in self.critics]
            for a in range(len(p)):
                gain = min(value[a] for value in values) - alpha * torch.log(p[a])
                actor_loss = actor_loss - p[a] * gain / size
            logps.append((p * torch.log(p)).sum().item())
        self.actor_adam.minimize(actor_loss)
        self.learn_alpha(logps)
        follow(self.target_critics, self.critics, self.theta)
        return errors
