"""How often a cohort's variables were measured: where the times of the view "charted" come from (`docs/views.md`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.frames import pl

__all__ = ["HORIZON", "Rhythm", "rhythm", "rhythm_of"]

HORIZON = 96.0
"""Hours of a stay that count."""
_NORMAL_IQR = 1.349  # quartiles of a normal lie this many SD apart; logarithms have heavier tails, which quartiles skip


@dataclass(frozen=True)
class Rhythm:
    """Of one variable; `gap`, `spread`, `between` and `never` as of :class:`~medgym_offline.diseases.views.Channel`.

    Attributes:
        gaps: Quartiles of all gaps, hours.
        daily: Quartiles over stays of the measurements a day.
    """

    gap: float
    spread: float
    between: float
    never: float
    gaps: tuple[float, ...]
    daily: tuple[float, ...]


def rhythm(cohort: Cohort) -> dict[str, Rhythm]:
    """Rhythm of every observed variable over the first 96 h of each stay."""
    hours = dict(cohort.stays.select("patient", pl.col("los_h").clip(upper_bound=HORIZON)).iter_rows())
    window = cohort.observations.filter(pl.col("time_h").is_between(0.0, HORIZON))
    found = {}
    for name in cohort.definition.observed:
        times = window.filter(pl.col("variable") == name).group_by("patient", maintain_order=True).agg("time_h")
        stays = [hours[patient] for patient in times["patient"]]
        found[name] = rhythm_of([np.unique(row) for row in times["time_h"]], stays, len(hours))
    return found


def rhythm_of(times: list[np.ndarray], hours: list[float], stays: int) -> Rhythm:
    """Rhythm of a variable from its times (ascending, h) in the stays that have any."""
    counts = np.array([len(t) for t in times])
    logs = [np.log(np.diff(t)) for t in times if len(t) > 2]
    spread = _deviation(np.concatenate([row - row.mean() for row in logs]))
    rate = np.log(counts / np.array(hours))
    # A median: gaps whose logarithm is normal have a mean above it.
    gap = float(np.exp(-np.median(rate) - spread**2 / 2))
    gaps = np.concatenate([np.diff(t) for t in times])
    never = 1.0 - len(times) / stays
    return Rhythm(gap, spread, _deviation(rate), never, _quartiles(gaps), _quartiles(24.0 * np.exp(rate)))


def _quartiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.percentile(values, (25, 50, 75)))


def _deviation(values: np.ndarray) -> float:
    low, _, high = _quartiles(values)
    return (high - low) / _NORMAL_IQR
