"""Severity of an operation's state, its costs between decisions, and the metrics of the field.

All functions take paths as `flow` returns them: (..., T, 3) BIS, mean arterial pressure (mmHg), effect-site
concentration after each tick of 15 s, and booleans (..., T) that say where surgery is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.diseases.anesthesia.flow import TICK_SECONDS

__all__ = ["COSTS", "PARTS", "Costs", "Metrics", "costs", "operation_metrics", "severity", "severity_parts"]

PARTS = ("depth", "awakening", "pressure")
COSTS = ("hypotension", "awareness")
"""mmHg below 65; BIS points above 60 from intubation to the end of surgery. Learners constrain the first."""

BIS_RANGE = (40.0, 60.0)
"""The range the monitor's maker recommends for general anesthesia, and the trials of awareness used (Avidan 2008)."""
AWAKE_BIS = 80.0
PRESSURE_RANGE = (65.0, 110.0)
"""65 mmHg: below it organs are injured (Salmasi et al., Anesthesiology 126:47, 2017). 110: chosen."""
TARGET_BIS = 50.0
_MINUTES = TICK_SECONDS / 60.0


def _below(value: Tensor, level: float) -> Tensor:
    return (level - value).clamp_min(0.0)


def severity_parts(path: Tensor, surgery: Tensor, after: Tensor) -> Tensor:
    """(..., T, 3) parts of the severity, in the order of `PARTS`.

    10 BIS points outside 40..60 during surgery count 1, so do 20 points below 80 after its end (a late awakening) and
    10 mmHg outside 65..110 at any time (weights chosen: each about as large in ordinary care).

    Args:
        path: (..., T, 3).
        surgery, after: (..., T) booleans: from intubation to the end of surgery; after its end.
    """
    bis, pressure = path[..., 0], path[..., 1]
    depth = ((bis - TARGET_BIS).abs() - 10.0).clamp_min(0.0) / 10.0 * surgery
    awakening = _below(bis, AWAKE_BIS) / 20.0 * after
    circulation = (_below(pressure, PRESSURE_RANGE[0]) + _below(-pressure, -PRESSURE_RANGE[1])) / 10.0
    return torch.stack([depth, awakening, circulation], -1)


def severity(path: Tensor, surgery: Tensor, after: Tensor) -> Tensor:
    """(..., T) the sum of the parts; its mean over time is an operation's harm."""
    return severity_parts(path, surgery, after).sum(-1)


@dataclass(frozen=True)
class Costs:
    """(..., 2) in the order of `COSTS`: at the end of the decision, integral over its path (minutes x unit), worst."""

    end: Tensor
    path: Tensor
    peak: Tensor


def costs(path: Tensor, surgery: Tensor, live: Tensor | None = None) -> Costs:
    """Costs of a decision.

    Args:
        path: (..., T, 3); after the decision's end it must repeat its last value, as `flow` does.
        surgery: (..., T).
        live: (..., T) booleans, the ticks that belong to the decision; None is all.
    """
    low = _below(path[..., 1], PRESSURE_RANGE[0])
    aware = _below(-path[..., 0], -BIS_RANGE[1]) * surgery
    excess = torch.stack([low, aware], -1)
    live = torch.ones_like(surgery) if live is None else live
    last = (live.long().sum(-1) - 1).clamp_min(0)[..., None, None].expand(*excess.shape[:-2], 1, 2)
    counted = excess * live[..., None]
    return Costs(excess.gather(-2, last).squeeze(-2), counted.sum(-2) * _MINUTES, counted.amax(-2))


@dataclass(frozen=True)
class Metrics:
    """Of whole operations, each of the leading shape.

    Attributes:
        share_in_range: Share of surgery with BIS in 40..60.
        low_pressure: Time-weighted average depth below 65 mmHg, mmHg.
        low_pressure_share: Share of the operation below 65 mmHg.
        minutes_to_awakening: From the end of surgery to BIS above 80; the rest of the operation where it never is.
        mdpe, mdape, wobble: Varvel et al., J Pharmacokinet Biopharm 20:63 (1992), per cent, of BIS against 50 in
            surgery: median of the errors, of their sizes, and of their distances from that median.
    """

    share_in_range: Tensor
    low_pressure: Tensor
    low_pressure_share: Tensor
    minutes_to_awakening: Tensor
    mdpe: Tensor
    mdape: Tensor
    wobble: Tensor


def operation_metrics(path: Tensor, surgery: Tensor, after: Tensor) -> Metrics:
    """The metrics of operations (..., T, 3) with the booleans of `severity_parts`."""
    bis, pressure = path[..., 0], path[..., 1]
    inside = ((bis >= BIS_RANGE[0]) & (bis <= BIS_RANGE[1]) & surgery).sum(-1) / surgery.sum(-1).clamp_min(1)
    low = _below(pressure, PRESSURE_RANGE[0])
    asleep = after & (((bis > AWAKE_BIS) & after).cumsum(-1) == 0)
    error = torch.where(surgery, 100.0 * (bis - TARGET_BIS) / TARGET_BIS, torch.nan)
    mdpe = error.nanmedian(-1).values
    mdape = error.abs().nanmedian(-1).values
    wobble = (error - mdpe[..., None]).abs().nanmedian(-1).values
    awakening = asleep.sum(-1) * _MINUTES
    return Metrics(inside, low.mean(-1), (low > 0).float().mean(-1), awakening, mdpe, mdape, wobble)
