"""Severity, cost and metrics of a glucose path.

Paths are (..., T + 1) values at ticks, both ends included; integrals are trapezoids, so those of two intervals that
follow one another add up to that of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.diseases.diabetes.truth import TICK

__all__ = ["CAP", "LOW", "VERY_LOW", "Consensus", "below", "consensus", "integral", "mean", "risk"]

LOW, VERY_LOW, HIGH, VERY_HIGH = 70.0, 54.0, 180.0, 250.0
"""Limits of the international consensus, mg/dL (Battelino et al., Diabetes Care 42:1593, 2019)."""
CAP = 60.0
"""Risk at which a reward, not a metric, is cut: reached below 30 and above 413 mg/dL (chosen: one lethal hour must not
outweigh a day)."""
FLOOR, CEILING = 10.0, 600.0
"""Glucose is clamped to these before the risk, mg/dL; the model has no counter-regulation and can reach 0."""


def _symmetric(glucose: Tensor) -> Tensor:
    return 1.509 * (torch.log(glucose.clamp(FLOOR, CEILING)) ** 1.084 - 5.381)


def risk(glucose: Tensor) -> Tensor:
    """Risk of glucose in mg/dL, 0 at 112.5 (Kovatchev et al., Diabetes Care 20:1655, 1997): 10 f^2, elementwise.

    f = 1.509 (log(glucose)^1.084 - 5.381), of glucose clamped to 10..600 mg/dL.
    """
    return 10.0 * _symmetric(glucose) ** 2


def integral(values: Tensor, inside: Tensor | None = None, tick: float = TICK / 60.0) -> Tensor:
    """Trapezoids of (..., T + 1) values at ticks of `tick` hours, over the ticks whose end is inside: (...)."""
    pairs = 0.5 * (values[..., 1:] + values[..., :-1])
    if inside is not None:
        pairs = torch.where(inside[..., 1:], pairs, 0.0)
    return tick * pairs.sum(-1)


def mean(values: Tensor, inside: Tensor | None = None) -> Tensor:
    """Mean over time of (..., T + 1) values; NaN for an interval of no length."""
    return integral(values, inside) / integral(torch.ones_like(values), inside)


def below(path: Tensor, limit: float, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cost of low glucose: 1 where the interval ends below `limit`, else 0; and its hours below `limit`, both (...)."""
    low = (path < limit).to(path.dtype)
    if inside is None:
        return low[..., -1], integral(low)
    last = inside.sum(-1, keepdim=True) - 1
    return low.gather(-1, last)[..., 0], integral(low, inside)


@dataclass(frozen=True)
class Consensus:
    """Metrics of the international consensus (Battelino et al., 2019) and the two halves of the risk, each (...).

    Attributes:
        in_range: Per cent of time at 70..180 mg/dL; goal above 70.
        low, very_low: Per cent below 70 (goal below 4) and 54 (goal below 1).
        high, very_high: Per cent above 180 (goal below 25) and 250 (goal below 5).
        mean: Mean glucose, mg/dL.
        variation: Coefficient of variation, per cent; goal at most 36.
        low_risk, high_risk: Mean risk of low and of high glucose (LBGI, HBGI); their sum is the mean risk.
    """

    in_range: Tensor
    low: Tensor
    very_low: Tensor
    high: Tensor
    very_high: Tensor
    mean: Tensor
    variation: Tensor
    low_risk: Tensor
    high_risk: Tensor


def consensus(path: Tensor, inside: Tensor | None = None) -> Consensus:
    """Consensus metrics of glucose paths (..., T + 1), mg/dL."""

    def share(where: Tensor) -> Tensor:
        return 100.0 * mean(where.to(path.dtype), inside)

    average = mean(path, inside)
    spread = mean((path - average[..., None]) ** 2, inside).sqrt()
    f = _symmetric(path)
    return Consensus(
        share((path >= LOW) & (path <= HIGH)),
        share(path < LOW),
        share(path < VERY_LOW),
        share(path > HIGH),
        share(path > VERY_HIGH),
        average,
        100.0 * spread / average,
        mean(10.0 * f.clamp(max=0.0) ** 2, inside),
        mean(10.0 * f.clamp(min=0.0) ** 2, inside),
    )
