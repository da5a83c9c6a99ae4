"""Intervals and comparisons over (training seed x patient).

Scores are arrays (S, P): S training seeds of one method, P patients. Patients are the strata: a resample draws
patients with replacement and, within each drawn patient, its seeds with replacement, so the interval speaks of new
patients of this cohort and new training runs. With one seed only patients are resampled, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgym_offline.evaluation.protocol import Bootstrap

__all__ = [
    "Interval", "Paired", "Summary", "iqm", "mean_intervals", "paired_difference", "probability_of_improvement",
    "seed_label", "summarize", "worst_decile",
]  # fmt: skip

Array = NDArray[np.floating]
Interval = tuple[float, float]

MINIMUM_SEEDS = 3
_BLOCK = 4_000_000  # resampled numbers held at once


@dataclass(frozen=True)
class Summary:
    """Mean, interquartile mean and worst decile over patients, each with its bootstrap interval."""

    mean: float
    mean_interval: Interval
    iqm: float
    iqm_interval: Interval
    worst_decile: float
    worst_decile_interval: Interval


@dataclass(frozen=True)
class Paired:
    """Paired comparison of a against b over the same patients."""

    difference: float
    """Mean of a - b."""
    difference_interval: Interval
    percent: float
    """Gain of a in per cent of the mean of b: 100 (mean b - mean a) / |mean b| where smaller is better."""
    percent_interval: Interval
    share: float
    """Share of patients where a is better; ties count one half."""
    share_interval: Interval
    probability: float
    """Probability that a run of a beats a run of b on the same patient."""
    probability_interval: Interval
    seeds: tuple[int, int]


def iqm(values: Array) -> Array:
    """Interquartile mean over the last axis: the mean of the middle half, end points weighted by their fraction.

    >>> float(iqm(np.array([0.0, 1.0, 2.0, 100.0])))
    1.5
    """
    ordered = np.sort(values, axis=-1)
    n = ordered.shape[-1]
    # Sorted value i covers the quantile range [i/n, (i+1)/n]; its weight is the overlap with [1/4, 3/4].
    edges = np.arange(n + 1) / n
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0.0, None) * 2.0
    return ordered @ weights


def worst_decile(values: Array, better: int = -1) -> Array:
    """Mean over the worst tenth of the last axis (at least one entry).

    Args:
        values: (..., P).
        better: 1 if larger is better, -1 if smaller is.
    """
    ordered = np.sort(better * values, axis=-1)
    return better * ordered[..., : max(1, math.ceil(0.1 * ordered.shape[-1]))].mean(axis=-1)


def seed_label(seeds: int) -> str:
    """What to print beside an interval that rests on fewer than three training seeds; empty otherwise."""
    if seeds >= MINIMUM_SEEDS:
        return ""
    return f"{seeds} training seed{'s' if seeds > 1 else ''}: the interval speaks of patients, not of retraining"


def summarize(scores: Array, bootstrap: Bootstrap | None = None, better: int = -1) -> Summary:
    """Summary of one method's scores.

    Args:
        scores: (S, P) or (P,): one number per training seed and patient. Seeds are averaged per patient first.
        bootstrap: Settings; the protocol's by default.
        better: Direction of the metric; only the worst decile depends on it.
    """
    scores = _two_axes(scores)
    statistics = (lambda x: x.mean(axis=-1), iqm, lambda x: worst_decile(x, better or -1))
    point = [float(f(scores.mean(axis=0))) for f in statistics]
    mean, middle, worst = zip(point, _intervals([scores], statistics, bootstrap or Bootstrap()))
    return Summary(*mean, *middle, *worst)


def mean_intervals(columns: Array, bootstrap: Bootstrap | None = None) -> list[Interval]:
    """Percentile interval of the mean of every row of `columns`, (M, P) or (M, S, P), from the same drawn runs.

    Each resample is a vector of how often each run was drawn, so all M means are one matrix product.
    """
    settings = bootstrap or Bootstrap()
    values = np.asarray(columns, dtype=float)
    patients, seeds = values.shape[-1], values.shape[1] if values.ndim == 3 else 1
    runs = seeds * patients
    flat = values.reshape(len(values), runs)
    rng = np.random.default_rng(settings.seed)
    means = []
    for size in _blocks(settings, runs):
        drawn = rng.integers(patients, size=(size, patients))
        if seeds > 1:
            drawn = drawn[..., None] + patients * rng.integers(seeds, size=(size, patients, seeds))
        rows = np.arange(size)[:, None] * runs + drawn.reshape(size, -1)
        counts = np.bincount(rows.ravel(), minlength=size * runs).reshape(size, runs)
        means.append(counts @ flat.T / runs)
    return [_percentile(draws, settings.confidence) for draws in np.concatenate(means).T]


def paired_difference(a: Array, b: Array, better: int = -1, bootstrap: Bootstrap | None = None) -> Paired:
    """Compare two methods over the same patients.

    Args:
        a, b: (S, P) or (P,), patients in the same order; the numbers of seeds may differ. Each resample draws the
            same patients for both.
        better: -1 if smaller is better, 1 if larger is.
    """
    first, second = _two_axes(a), _two_axes(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"paired scores need the same patients, got {first.shape[1]} and {second.shape[1]}")
    settings = bootstrap or Bootstrap()

    def difference(x: Array, y: Array) -> Array:
        return (x - y).mean(axis=-1)

    def percent(x: Array, y: Array) -> Array:
        base = y.mean(axis=-1)
        return 100.0 * better * (x.mean(axis=-1) - base) / np.maximum(np.abs(base), 1e-12)

    def share(x: Array, y: Array) -> Array:
        return np.mean((better * (x - y) > 0) + 0.5 * (x == y), axis=-1)

    kinds = (difference, percent, share)
    point = [float(f(first.mean(0), second.mean(0))) for f in kinds]
    one, two, three = zip(point, _intervals([first, second], kinds, settings))
    probability = probability_of_improvement(first, second, better)
    interval = _probability_interval(first, second, better, settings)
    return Paired(*one, *two, *three, probability, interval, (len(first), len(second)))


def probability_of_improvement(a: Array, b: Array, better: int = -1) -> float:
    """Mean over patients of P(run of a beats run of b), ties one half (the Mann-Whitney form)."""
    return float(_wins(_two_axes(a), _two_axes(b), better).mean())


def _wins(a: Array, b: Array, better: int) -> Array:
    """(S, T, P): 1 where run s of a beats run t of b on patient p, a half for a tie."""
    gap = better * (a[:, None, :] - b[None, :, :])
    return (gap > 0) + 0.5 * (gap == 0)


def _probability_interval(a: Array, b: Array, better: int, settings: Bootstrap) -> Interval:
    """Of :func:`probability_of_improvement`: patients are drawn, and for each the runs of either method."""
    wins = _wins(a, b, better)
    rng = np.random.default_rng(settings.seed)
    seeds, others, patients = wins.shape
    draws = []
    for size in _blocks(settings, wins.size):
        chosen = rng.integers(patients, size=(size, patients, 1, 1))
        runs = rng.integers(seeds, size=(size, patients, seeds, 1))
        against = rng.integers(others, size=(size, patients, 1, others))
        draws.append(wins[runs, against, chosen].mean(axis=(1, 2, 3)))
    return _percentile(np.concatenate(draws), settings.confidence)


def _blocks(settings: Bootstrap, width: int) -> list[int]:
    """Numbers of resamples to draw at a time."""
    block = max(1, _BLOCK // width)
    return [min(block, settings.resamples - start) for start in range(0, settings.resamples, block)]


def _intervals(scores: list[Array], statistics: Sequence[Callable[..., Array]], settings: Bootstrap) -> list[Interval]:
    """Intervals of `statistics` of resampled per-patient means: (R, P) per method, the same patients in all."""
    rng = np.random.default_rng(settings.seed)
    patients = scores[0].shape[1]
    draws = []
    for size in _blocks(settings, patients * max(len(s) for s in scores)):
        chosen = rng.integers(patients, size=(size, patients))
        sample = []
        for method in scores:
            if (seeds := len(method)) == 1:
                sample.append(method[0][chosen])
            else:
                runs = rng.integers(seeds, size=(size, patients, seeds))
                sample.append(method[runs, chosen[..., None]].mean(axis=-1))
        draws.append([f(*sample) for f in statistics])
    return [_percentile(np.concatenate(d), settings.confidence) for d in zip(*draws)]


def _percentile(draws: Array, confidence: float) -> Interval:
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _two_axes(scores: Array) -> Array:
    array = np.atleast_2d(np.asarray(scores, dtype=float))
    if array.ndim != 2 or not array.size:
        raise ValueError(f"scores must be (seeds, patients) and not empty, got shape {array.shape}")
    return array
