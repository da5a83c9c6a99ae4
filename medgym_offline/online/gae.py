"""Generalised advantage estimation for decisions of unequal length.

With intervals dt_k the discount of one decision is that of the time it takes, gamma_k = gamma^(dt_k / 4.8); 4.8 h is
96 h / 20, so at K = 20 fixed it is the paper's gamma per decision. Then (Schulman et al., 2016, eq. 16, with a
discount per step)

    delta_k = r_k + gamma_k V(s_{k+1}) - V(s_k)
    A_k     = delta_k + gamma_k lambda A_{k+1}

lambda decays per decision. Every episode ends in a true terminal at 96 h, where V = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["advantages", "centred", "discounts", "standardise"]


def discounts(dt: Tensor, gamma: float, reference: float) -> Tensor:
    """gamma^(dt / reference), shape of `dt` (hours)."""
    return torch.pow(torch.tensor(gamma, dtype=dt.dtype, device=dt.device), dt / reference)


def centred(rewards: Tensor, dt: Tensor, harm: Tensor) -> Tensor:
    """r + rho dt, with `harm` rho per hour `(S,)` and rewards, dt `(S, K, B)`.

    The intervals of an episode sum to 96 h, so the undiscounted return shifts by a constant and no policy changes rank.
    Without it every reward is negative and a critic that under-fits the remaining time pays for short decisions: the
    policy burns its budget early and then holds (feasibility-control.md, pitfall 2).
    """
    return rewards + harm.view(-1, 1, 1) * dt


def advantages(rewards: Tensor, values: Tensor, discount: Tensor, valid: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Advantages and lambda-returns of whole episodes.

    Args:
        rewards: `(..., K, B)`, decision before episode.
        values: V(s_k), `(..., K, B)`.
        discount: Discount of each decision, `(..., K, B)`.
        valid: 1 where a decision was taken, 0 after the end of the episode, `(..., K, B)`.
        decay: lambda of GAE.

    Returns:
        `(A, A + V)`, both `(..., K, B)` and 0 where not valid.
    """
    decisions = rewards.shape[-2]
    found = torch.zeros_like(rewards)
    future_advantage = torch.zeros_like(rewards.select(-2, 0))
    future_value = torch.zeros_like(future_advantage)
    for k in range(decisions - 1, -1, -1):
        alive, value, shrink = valid.select(-2, k), values.select(-2, k), discount.select(-2, k)
        delta = rewards.select(-2, k) + shrink * future_value - value
        future_advantage = alive * (delta + shrink * decay * future_advantage)
        future_value = alive * value
        found.select(-2, k).copy_(future_advantage)
    return found, (found + values) * valid


def standardise(values: Tensor, weights: Tensor, floor: float = 1e-6) -> Tensor:
    """`values (P, N)` with weighted mean 0 and standard deviation 1 per patient; 0 where the weight is 0.

    Args:
        values: `(P, N)`.
        weights: `(P, N)`, non-negative, summing to 1 per patient.
        floor: Smallest standard deviation divided by, so that a constant advantage stays 0.
    """
    mean = (values * weights).sum(-1, keepdim=True)
    shifted = values - mean
    spread = (shifted.square() * weights).sum(-1, keepdim=True).sqrt()
    return torch.where(weights > 0, shifted / spread.clamp_min(floor), torch.zeros_like(values))
