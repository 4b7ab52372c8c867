"""Linear layers whose weights are noisy, so that a network explores by itself."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NoisyLinear(nn.Module):
    """Linear layer with factorized Gaussian noise on its weights.

        y = (μ_w + σ_w ⊙ ε_w)·x + μ_b + σ_b ⊙ ε_b
        ε_w = f(ε_out)·f(ε_in)ᵀ,  ε_b = f(ε_out),  f(ε) = sgn(ε)·√|ε|

    Fortunato et al. 2018, https://arxiv.org/abs/1706.10295, eq. 9 to 11. In eval mode the noise is left out. A draw is
    kept until :meth:`reset_noise`, which is not to be called between a forward and its backward.

    Args:
        in_features, out_features: sizes p and q.
        sigma0: σ at the beginning is ``sigma0`` / √p; μ is uniform in ±1 / √p.
    """

    noise: Tensor

    def __init__(self, in_features: int, out_features: int, sigma0: float = 0.5) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bound = 1 / math.sqrt(in_features)
        self.weight_mu = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma0 * bound))
        self.bias_mu = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma0 * bound))
        self.register_buffer("noise", torch.empty(in_features + out_features))  # f(ε_in), f(ε_out)
        self.reset_noise()

    @torch.no_grad()
    def reset_noise(self) -> None:
        """Draws new noise from torch's generator."""
        noise = self.noise.normal_()
        noise.copy_(noise.sign() * noise.abs().sqrt_())

    def forward(self, x: Tensor) -> Tensor:
        """Maps float [..., in_features] to [..., out_features]."""
        if not self.training:
            return F.linear(x, self.weight_mu, self.bias_mu)
        noise_in, noise_out = self.noise.split((self.in_features, self.out_features))
        if 8 * x.shape[:-1].numel() < self.out_features:  # few rows: two products cost less than composing the weight
            noisy = F.linear(x * noise_in, self.weight_sigma, self.bias_sigma)
            return torch.addcmul(F.linear(x, self.weight_mu, self.bias_mu), noisy, noise_out)
        weight = torch.addcmul(self.weight_mu, self.weight_sigma, torch.outer(noise_out, noise_in))
        return F.linear(x, weight, torch.addcmul(self.bias_mu, self.bias_sigma, noise_out))

    def extra_repr(self) -> str:
        """Returns the sizes, for ``print(model)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def reset_noise(module: nn.Module) -> None:
    """Draws new noise for every :class:`NoisyLinear` within ``module``."""
    for part in module.modules():
        if isinstance(part, NoisyLinear):
            part.reset_noise()
