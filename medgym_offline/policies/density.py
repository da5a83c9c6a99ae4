"""Probabilities of perturbed actions: a Gaussian clipped to [-1, 1] has a density inside and two atoms.

    a = clip(m + sigma*N(0, 1), -1, 1)              (a component; components are independent)

    P(a = -1) = Phi((-1 - m)/sigma)        P(a = 1) = Phi((m - 1)/sigma)        p(a) = phi((a - m)/sigma)/sigma between

These are densities with respect to one reference measure, Lebesgue on (-1, 1) plus a unit mass at each of -1 and 1.
It is the same for every m, so the ratio of two of them is the likelihood ratio, at the atoms too. Treating a clipped
action as if its density were the Gaussian's would give the wrong weight to every action at a bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["clipped_normal_log_prob", "clipped_uniform_log_prob"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def clipped_normal_log_prob(actions: Tensor, mean: Tensor, sigma: float) -> Tensor:
    """Log-probability of clip(mean + sigma*N): actions and mean (..., A) -> (...), float64, summed over components."""
    a, m = actions.double(), mean.double()
    inside = -0.5 * ((a - m) / sigma).square() - math.log(sigma) - _LOG_SQRT_2PI
    low = torch.special.log_ndtr((-1.0 - m) / sigma)
    high = torch.special.log_ndtr((m - 1.0) / sigma)
    return torch.where(a <= -1.0, low, torch.where(a >= 1.0, high, inside)).sum(-1)


def clipped_uniform_log_prob(actions: Tensor, sigma: float) -> Tensor:
    """Log-probability of clip(U + sigma*N), U uniform in [-1, 1], sigma 0 too: actions (..., A) -> (...), float64.

    Inside, p(a) = (Phi((a + 1)/sigma) - Phi((a - 1)/sigma))/2. Each atom is the mean of Phi((u - 1)/sigma) over u,
    sigma*(h(0) - h(-2/sigma))/2 with h(z) = z*Phi(z) + phi(z), the antiderivative of Phi.
    """
    a = actions.double()
    if sigma == 0.0:
        return torch.full_like(a, -math.log(2.0)).sum(-1)
    inside = 0.5 * (torch.special.ndtr((a + 1.0) / sigma) - torch.special.ndtr((a - 1.0) / sigma))
    z = torch.tensor([0.0, -2.0 / sigma], dtype=torch.float64)
    h = z * torch.special.ndtr(z) + torch.exp(-0.5 * z.square() - _LOG_SQRT_2PI)
    atom = 0.5 * sigma * (h[0] - h[1])
    return torch.where(a.abs() >= 1.0, atom, inside).log().sum(-1)
