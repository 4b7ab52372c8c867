"""Gradients with spikes, and a slow twin of the optimizers' guards, for their tests."""

import math

import torch

from nervex.torch_utils.optimizer import Adam

SHAPES = [(3,), (2, 2), ()]
STEPS = 14


def make_gradients(seed=0, spikes=(4, 9)):
    """One list of gradients per step, those of the steps in ``spikes`` a hundred times larger in one parameter."""
    generator = torch.Generator().manual_seed(seed)
    steps = [[torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES] for _ in range(STEPS)]
    for t in spikes:
        steps[t][1] *= 100
    return steps


def make_params(dtype=torch.float64):
    return [torch.nn.Parameter(torch.full(s, 0.5 + i, dtype=dtype)) for i, s in enumerate(SHAPES)]


def run(gradients, params=None, optimizer_class=Adam, **options):
    """Returns all weights, flat, after stepping through ``gradients``, and the optimizer."""
    params = params or make_params()
    optimizer = optimizer_class(params, lr=0.1, **options)
    for grads in gradients:
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return flat(params), optimizer


def flat(tensors):
    return [x for t in tensors for x in t.detach().reshape(-1).tolist()]


def p_norm(xs, p):
    return max(abs(x) for x in xs) if p == math.inf else sum(abs(x) ** p for x in xs) ** (1 / p)


class SlowMoment:
    """Running mean of squares, bias-corrected: written out, from the list of all that was seen."""

    def __init__(self, decay):
        self.decay, self.seen = decay, []

    def root(self):
        k = len(self.seen)
        total = sum((1 - self.decay) * self.decay ** (k - 1 - i) * x * x for i, x in enumerate(self.seen))
        return math.sqrt(total / (1 - self.decay**k))


def slow_limits(kind, moments, g, *, value, coef, norm_type, timestep):
    """Returns one limit per element, or one for the norm, and takes ``g`` into ``moments``."""
    of_norm = kind.endswith("norm")
    held = [p_norm(g, norm_type)] if of_norm else g
    if "momentum" not in kind:
        return [value] * len(held)
    limits = []
    for moment, x in zip(moments, held, strict=False):
        limits.append(coef * moment.root() if len(moment.seen) >= max(timestep, 1) else math.inf)
        moment.seen.append(x)
    return limits


def slow_adam(gradients, *, clip=None, ignore=None, clip_options=None, ignore_options=None, lr=0.1, b2=0.999):
    """Adam on a flat list of floats, with the guards as the docstring of ``Adam`` states them."""
    w = flat(make_params())
    m, v, ignored = [0.0] * len(w), [0.0] * len(w), 0
    clip_moments, ignore_moments = ([SlowMoment(b2) for _ in w] for _ in range(2))
    for t, grads in enumerate(gradients, 1):
        g = flat(grads)
        clip_limits = clip and slow_limits(clip, clip_moments, g, **clip_options)
        if ignore:
            limits = slow_limits(ignore, ignore_moments, g, **ignore_options)
            held = [p_norm(g, ignore_options["norm_type"])] if ignore.endswith("norm") else [abs(x) for x in g]
            if any(x > limit for x, limit in zip(held, limits, strict=True)):
                g, ignored = [0.0] * len(g), ignored + 1
        if clip and clip.endswith("norm"):
            norm = p_norm(g, clip_options["norm_type"])
            g = [x * clip_limits[0] / norm if norm > clip_limits[0] else x for x in g]
        elif clip:
            g = [max(-limit, min(limit, x)) for x, limit in zip(g, clip_limits, strict=True)]
        for i, x in enumerate(g):
            m[i] = 0.9 * m[i] + 0.1 * x
            v[i] = b2 * v[i] + (1 - b2) * x * x
            w[i] -= lr * (m[i] / (1 - 0.9**t)) / (math.sqrt(v[i] / (1 - b2**t)) + 1e-8)
    return w, ignored


OPTIONS = {"value": 0.7, "coef": 1.2, "norm_type": 2, "timestep": 3}
KINDS = ["value", "norm", "momentum", "momentum_norm"]


def keywords(prefix, options):
    return {
        f"{prefix}_value": options["value"],
        f"{prefix}_coef": options["coef"],
        f"{prefix}_norm_type": options["norm_type"],
        f"{prefix}_momentum_timestep": options["timestep"],
    }


GUARDS = {
    "grad_clip_type": "clip_momentum",
    "clip_momentum_timestep": 3,
    "clip_coef": 1.5,
    "grad_ignore_type": "ignore_momentum_norm",
    "ignore_momentum_timestep": 3,
    "ignore_coef": 4,
    "betas": (0.9, 0.95),
}
