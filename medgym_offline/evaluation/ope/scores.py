"""How good estimates are: error, rank correlation, regret@k, over a set of policies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["rank_correlation", "regret_at", "score_estimates"]

Array = NDArray[np.float64]


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
