"""When the people behind a record decided, and what they gave: treatments as steps, and the rule that cuts them.

A decision is a change of the rate in force of any treatment, by more than `tolerance` of the larger of the two rates,
at least `apart` after the decision before it (what changes sooner belongs to that one, and its dose is the mean of
both), or, `longest` after the decision before it, the decision to go on. The first is at admission; none is taken so
late that less than `apart` of the stay, or of the horizon, is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgym_offline.cohorts.cohort import Cohort

__all__ = ["DecisionRule", "Given", "treatments_given"]


@dataclass(frozen=True)
class DecisionRule:
    """The rule; times in hours, as in every cohort.

    Attributes:
        horizon: Nothing after it counts.
        apart: Decisions are at least so far apart. Chosen: 1 h, in which vital signs are charted once.
        longest: After so long without a change the decision was to go on. Chosen: 8 h, a shift.
        tolerance: Smaller relative changes are none. Chosen: 5 %, what a rate moves when a bag's volume is reckoned
            anew; in the open MIMIC demos nineteen of twenty charted steps of a titrated drug are larger.
    """

    horizon: float
    apart: float = 1.0
    longest: float = 8.0
    tolerance: float = 0.05


@dataclass(frozen=True)
class Given:
    """What one stay was given.

    Attributes:
        edges: (E,) times from 0 at which a rate may change.
        rates: (E, U) in force from each edge to the next, in the cohort's units; the last until `end`.
        end: Of the stay, or the horizon if that is sooner.
    """

    edges: np.ndarray
    rates: np.ndarray
    end: float

    def changes(self, tolerance: float) -> np.ndarray:
        """Times at which some rate changes by more than `tolerance` of the larger."""
        before, after = self.rates[:-1], self.rates[1:]
        changed = np.abs(after - before) > tolerance * np.maximum(np.abs(after), np.abs(before))
        return self.edges[1:][changed.any(axis=1)]

    def decisions(self, rule: DecisionRule) -> np.ndarray:
        """(K + 1,) times of the K decisions by `rule`, and the end."""
        candidates = self.changes(rule.tolerance)
        # Hours are kept to a third of a second: what is a whole interval apart must not fail by a last digit.
        apart, times = rule.apart - 1e-6, [0.0]
        while True:
            later = candidates[np.searchsorted(candidates, times[-1] + apart) :]
            following = min([times[-1] + rule.longest, *later[:1].tolist()])
            if following > self.end - apart:
                return np.array([*times, self.end])
            times.append(following)

    def total(self, times: np.ndarray) -> np.ndarray:
        """(len(times), U) integral of the rates from 0 to each of `times`."""
        lengths = np.diff(np.r_[self.edges, self.end])
        sums = np.vstack([np.zeros(self.rates.shape[1]), np.cumsum(self.rates * lengths[:, None], axis=0)])
        at = np.searchsorted(self.edges, times, side="right") - 1
        return np.asarray(sums[at] + self.rates[at] * (times - self.edges[at])[:, None])

    def means(self, times: np.ndarray) -> np.ndarray:
        """(len(times) - 1, U) mean rates between consecutive `times`."""
        return np.asarray(np.diff(self.total(times), axis=0) / np.diff(times)[:, None])


def treatments_given(cohort: Cohort, horizon: float) -> dict[str, Given]:
    """What every stay of a cohort was given until `horizon`, by patient; the background where nothing was charted."""
    treatments = cohort.treatments.sort("time_h")
    rows, none = treatments.partition_by(["patient", "variable"], as_dict=True), treatments.clear()
    found = {}
    for patient, stay in zip(cohort.patients, cohort.stays["los_h"].to_list()):
        end, parts = min(float(stay), horizon), []
        for concept in cohort.definition.treatments:
            own = rows.get((patient, concept.name), none)
            start, stop, value = (own[name].to_numpy() for name in ("time_h", "end_h", "value"))
            parts.append((np.clip(start, 0.0, None), stop, value, concept.background))
        edges = np.unique(np.concatenate([[0.0], *(side for part in parts for side in part[:2])]))
        edges = edges[(edges >= 0.0) & (edges < end)]
        rates = np.stack([_in_force(edges, *part) for part in parts], axis=1)
        found[patient] = Given(edges, rates, end)
    return found


def _in_force(
    times: np.ndarray, start: np.ndarray, stop: np.ndarray, value: np.ndarray, background: float
) -> np.ndarray:
    """Value at `times` of disjoint intervals [start, stop), sorted."""
    if not len(start):
        return np.full(len(times), background)
    at = np.searchsorted(start, times, side="right") - 1
    return np.where((at >= 0) & (times < stop[at]), value[at], background)
