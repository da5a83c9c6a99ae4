"""The Lagrange multiplier of the safety constraint, one per policy.

    maximise E[return]  subject to  E[cost per decision] <= limit

    A_pen  = (A_r - lambda A_c) / (1 + lambda)
    lambda <- clip(lambda + rate (mean cost - limit), 0, ceiling)

Both advantages are standardised first, so that one multiplier means the same for every patient whatever the scale of
its rewards. The ceiling keeps a patient whose limit is out of reach (lactate high whatever is done) from being
trained on cost alone: at lambda = 1 the two count equally.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["penalised", "update_multiplier"]


def penalised(reward_advantage: Tensor, cost_advantage: Tensor, multiplier: Tensor) -> Tensor:
    """(A_r - lambda A_c) / (1 + lambda) for advantages `(P, N)` and `multiplier (P,)`."""
    weight = multiplier.unsqueeze(-1)
    return (reward_advantage - weight * cost_advantage) / (1.0 + weight)


def update_multiplier(
    multiplier: Tensor, mean_cost: Tensor, limit: float, rate: float, ceiling: float = float("inf")
) -> Tensor:
    """lambda after one update, `(P,)`, from the mean cost per decision `(P,)`."""
    return (multiplier + rate * (mean_cost - limit)).clamp(0.0, ceiling)
