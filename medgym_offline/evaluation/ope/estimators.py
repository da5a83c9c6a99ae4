"""Importance-sampling and doubly robust estimates, for P patients at once, and how good they are; tensors float64.

    t_k      time of decision k,  dt_k how long it held,  T length of the episode
    D_k      gamma**t_k,  gamma per unit of time (1: undiscounted)
    rho_k    product over j <= k of pi(a_j|s_j) / mu(a_j|s_j); after an episode's end it keeps its last value
    w_k      rho_k / sum over the patient's episodes of rho_k

    PDIS = mean_e sum_k D_k rho_k r_k                           unbiased; its variance grows with the product
    WIS  = sum_k D_k sum_e w_k r_k                              consistent, bounded by the data
    DR   = mean_e V(s_0) + sum_k D_k sum_e w_k [ r_k + gamma**dt_k V(s_{k+1}) - Q(s_k, a_k) ],   V = 0 at the end

DR with rho_k / E in place of w_k is the unbiased doubly robust estimate; with w_k it is the weighted one, which is what
the audit reports. The discount is a function of time alone: splitting a hold changes no discount that comes after
it. The reward of a hold counts at the hold's start, in truth and estimates alike.

Sources: Precup, Sutton and Singh 2000 (per-decision, weighted); Jiang and Li 2016 (DR); Thomas and Brunskill 2016 (its
weighted form).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "discount_at_start",
    "doubly_robust",
    "effective_sample_size",
    "log_ratios",
    "per_decision",
    "rank_correlation",
    "regret_at",
    "score_estimates",
    "self_normalized",
]


Array = NDArray[np.float64]


def discount_at_start(dt: Tensor, gamma: float) -> Tensor:
    """D_k of holds of length `dt`, (..., K) -> (..., K)."""
    return gamma ** (dt.cumsum(-1) - dt)


def log_ratios(log_target: Tensor, log_behavior: Tensor, valid: Tensor) -> Tensor:
    """log rho_k from the log-probabilities of the decisions, all (P, E, K)."""
    return torch.where(valid, log_target - log_behavior, 0.0).cumsum(-1)


def self_normalized(log_rho: Tensor) -> Tensor:
    """w_k, (P, E, K): sums to 1 over a patient's episodes, without overflow."""
    return torch.softmax(log_rho, 1)


def effective_sample_size(log_rho: Tensor) -> Tensor:
    """1 / sum_e w^2 of the whole episodes' weights, (P, E, K) -> (P,): E if all alike, 1 if one episode decides."""
    return 1.0 / self_normalized(log_rho)[..., -1].square().sum(1)


def per_decision(rewards: Tensor, weights: Tensor, discount: Tensor) -> Tensor:
    """PDIS with plain weights, WIS with normalized ones: (P, E, K) each -> (P,)."""
    return (discount * weights * rewards).sum((1, 2))


def doubly_robust(
    rewards: Tensor, dt: Tensor, valid: Tensor, weights: Tensor, gamma: float, q: Tensor, v: Tensor, v_next: Tensor
) -> Tensor:
    """DR of the module's docstring.

    Args:
        rewards, dt, valid, weights: (P, E, K).
        gamma: Per unit of time.
        q: Q(s_k, a_k) of the logged actions (P, E, K).
        v, v_next: V before and after each decision (P, E, K); `v_next` is 0 where the episode ends.

    Returns:
        (P,).
    """
    error = torch.where(valid, rewards + gamma**dt * v_next - q, 0.0)
    return v[:, :, 0].mean(1) + (discount_at_start(dt, gamma) * weights * error).sum((1, 2))


def rank_correlation(estimates: Array, truth: Array) -> float | None:
    """Spearman's rank correlation of (N,) and (N,); None where it is not defined (one policy, or all equal)."""
    from scipy.stats import spearmanr

    if len(truth) < 2 or np.ptp(estimates) == 0 or np.ptp(truth) == 0:
        return None
    return float(spearmanr(estimates, truth).statistic)


def regret_at(k: int, estimates: Array, truth: Array) -> float:
    """What is lost by taking the best of the k policies that look best: max truth - max truth among those; >= 0."""
    chosen = np.argsort(-estimates, kind="stable")[:k]
    return float(truth.max() - truth[chosen].max())


def score_estimates(estimates: Array, truth: Array, top: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Scores of one estimator.

    Args:
        estimates, truth: (N, P): policies by patients.
        top: The k of regret@k; those above N are left out.

    Returns:
        "absolute_error": of the policies' values (mean over patients), mean over policies; "patient_error": of the
        patients' own values, mean over both; "rank_correlation" and "regret@k" of the policies' values;
        "patient_rank_correlation": mean over the patients for whom it is defined.
    """
    value, true = estimates.mean(1), truth.mean(1)
    own = [rank_correlation(estimates[:, p], truth[:, p]) for p in range(truth.shape[1])]
    defined = [r for r in own if r is not None]
    return {
        "absolute_error": float(np.abs(value - true).mean()),
        "patient_error": float(np.abs(estimates - truth).mean()),
        "rank_correlation": rank_correlation(value, true),
        "patient_rank_correlation": float(np.mean(defined)) if defined else None,
        **{f"regret@{k}": regret_at(k, value, true) for k in top if k <= len(value)},
    }
