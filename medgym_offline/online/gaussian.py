"""The stochastic actor: a tanh-squashed Gaussian with a state-independent spread.

    z ~ N(mu_theta(s), diag(sigma^2)),   a = tanh(z),   log sigma in [-3, 0]

Density ratios and the KL divergence of two such policies are those of the Gaussians before squashing: tanh is one fixed
invertible map, whose Jacobian cancels in a ratio, and KL is invariant under it. Both are therefore closed-form:

    KL(old || new) = mean_s sum_i [ log(sigma'_i/sigma_i) + (sigma_i^2 + (mu_i - mu'_i)^2) / (2 sigma'_i^2) - 1/2 ]

and its Hessian at new = old, the Fisher matrix, is exactly

    F = [ J^T diag(1/sigma^2) J / N    0 ]      J = d mu / d theta
        [ 0                          2 I ]      (log sigma)

which is positive semi-definite by construction (the Hessian of a sampled log-ratio is not).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.online.networks import TanhMLP

__all__ = ["LOG_STD_RANGE", "FisherBatch", "GaussianActor", "interval_bias"]

LOG_STD_RANGE = (-3.0, 0.0)
"""Bounds of the log standard deviation before squashing (benchmark.md section 5)."""


def interval_bias(decisions: int, horizon: float, low: float, high: float) -> float:
    """Pre-squash mean whose interval is `horizon / decisions` hours, for actions mapped from [-1, 1] to [low, high].

    A dt head that starts elsewhere costs more than any later update repairs (feasibility.md, pitfall 5).
    """
    share = (horizon / decisions - low) / (high - low)
    return math.atanh(min(max(2.0 * share - 1.0, -0.999), 0.999))


@dataclass(frozen=True)
class FisherBatch:
    """What the products with one Fisher matrix share: activations, slopes, and row weights over sigma^2."""

    activations: list[Tensor]
    slopes: list[Tensor]
    precision: Tensor


@dataclass(frozen=True)
class GaussianActor:
    """A stack of tanh-squashed Gaussian actors of one shape, as functions of a flat parameter `(P, n)`.

    The last `action_dim` entries of the parameter are the log standard deviations, the rest the mean network.

    Args:
        sizes: Widths of the mean network, `(observation_dim, hidden, .., action_dim)`.
    """

    sizes: tuple[int, ...]

    @property
    def action_dim(self) -> int:
        """Number of action components A."""
        return self.sizes[-1]

    @property
    def network(self) -> TanhMLP:
        """The mean network."""
        return TanhMLP(self.sizes)

    @property
    def count(self) -> int:
        """Number of parameters per patient."""
        return self.network.count + self.action_dim

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """`(mean network (P, n - A), log std (P, A))`, views of `theta (P, n)`."""
        return theta[:, : -self.action_dim], theta[:, -self.action_dim :]

    def initial(
        self,
        generators: Sequence[np.random.Generator],
        mean: Sequence[float],
        std: Sequence[float],
        output_gain: float = 0.01,
    ) -> Tensor:
        """Flat parameter `(P, n)` whose pre-squash mean starts near `mean` with spread `std`, each of length A."""
        theta = self.network.initial(generators, output_gain)
        self.network.layers(theta)[-1][1].copy_(torch.tensor(mean, dtype=theta.dtype))
        return torch.cat([theta, torch.tensor(std, dtype=theta.dtype).log().expand(theta.shape[0], -1)], dim=1)

    def project(self, theta: Tensor) -> Tensor:
        """`theta` with its log standard deviations clamped to their range (a new tensor)."""
        network, log_std = self.split(theta)
        return torch.cat([network, log_std.clamp(*LOG_STD_RANGE)], dim=1)

    def mean(self, theta: Tensor, observations: Tensor) -> Tensor:
        """Pre-squash mean `(P, N, A)` of `observations (P, N, d)`."""
        return self.network.forward(self.split(theta)[0], observations)

    def log_ratio(self, mean: Tensor, log_std: Tensor, noise: Tensor, shift: Tensor, old_log_std: Tensor) -> Tensor:
        """log pi_new(a) - log pi_old(a), `(P, N)`, of actions drawn as `z = mu_old + sigma_old * noise`.

        Args:
            mean: New pre-squash mean `(P, N, A)`.
            log_std: New log standard deviation `(P, A)`.
            noise: Standard normal draws `(P, N, A)` behind the actions.
            shift: Old pre-squash mean `(P, N, A)`.
            old_log_std: Old log standard deviation `(P, A)`.
        """
        old_std, std = old_log_std.exp().unsqueeze(1), log_std.exp().unsqueeze(1)
        scaled = (shift - mean + old_std * noise) / std
        return (0.5 * (noise.square() - scaled.square())).sum(-1) + (old_log_std - log_std).sum(-1, keepdim=True)

    def kl(self, old_mean: Tensor, old_log_std: Tensor, mean: Tensor, log_std: Tensor, weights: Tensor) -> Tensor:
        """KL(old || new) `(P,)`, averaged over rows with `weights (P, N)` that sum to 1 per patient."""
        precision = (-2.0 * log_std).exp()
        distance = ((mean - old_mean).square() * precision.unsqueeze(1)).sum(-1)
        spread = (log_std - old_log_std + 0.5 * ((2.0 * old_log_std).exp() * precision - 1.0)).sum(-1)
        return 0.5 * (distance * weights).sum(-1) + spread * weights.sum(-1)

    def policy_gradient(
        self, theta: Tensor, activations: list[Tensor], slopes: list[Tensor], noise: Tensor, weighted_advantage: Tensor
    ) -> Tensor:
        """Gradient `(P, n)` of `sum(weighted_advantage * ratio)` at the policy that acted, where the ratio is 1.

        d ratio / d mu = noise / sigma;  d ratio / d log sigma = noise^2 - 1.
        """
        network, log_std = self.split(theta)
        pull = weighted_advantage.unsqueeze(-1) * noise
        g_mean = self.network.vjp(network, activations, slopes, pull * (-log_std).exp().unsqueeze(1))
        g_std = (pull * noise).sum(1) - weighted_advantage.sum(1, keepdim=True)
        return torch.cat([g_mean, g_std], dim=1)

    def fisher_batch(self, theta: Tensor, observations: Tensor, weights: Tensor) -> FisherBatch:
        """Prepare :meth:`fisher_product` on `observations (P, N, d)`; `weights (P, N)` sum to 1 per patient."""
        network, log_std = self.split(theta)
        activations = self.network.activations(network, observations)
        precision = weights.unsqueeze(-1) * (-2.0 * log_std).exp().unsqueeze(1)
        return FisherBatch(activations, self.network.slopes(activations), precision)

    def curvature(
        self, theta: Tensor, activations: list[Tensor], slopes: list[Tensor], weights: Tensor, vector: Tensor
    ) -> Tensor:
        """`v^T F v` `(P,)` on all rows of `weights (P, N)`: one forward product, no reverse one."""
        network, log_std = self.split(theta)
        v_mean, v_std = self.split(vector)
        pushed = self.network.jvp(network, activations, slopes, v_mean)
        length = (pushed * (-log_std).exp().unsqueeze(1)).square().sum(-1)
        return (length * weights).sum(-1) + 2.0 * v_std.square().sum(-1)

    def fisher_product(self, theta: Tensor, batch: FisherBatch, vector: Tensor) -> Tensor:
        """`F v` for `vector (P, n)`: curvature of the closed-form KL at `theta (P, n)`."""
        network = self.split(theta)[0]
        v_mean, v_std = self.split(vector)
        pushed = self.network.jvp(network, batch.activations, batch.slopes, v_mean).mul_(batch.precision)
        return torch.cat([self.network.vjp(network, batch.activations, batch.slopes, pushed), 2.0 * v_std], dim=1)
