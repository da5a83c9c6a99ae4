"""Which stays make a release cohort: a written coverage rule, applied in code, the same for every source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.errors import CohortError

__all__ = ["Coverage", "coverage", "select_stays"]


@dataclass(frozen=True)
class Coverage:
    """Coverage and severity of each stay, in the order of the grid's patients.

    Attributes:
        eligible: (P,) bool: long enough, and the required variables covered.
        covered: (P,) variables covered.
        severity: (P,) points of the definition's rule.
        rare: (P,) capped number of hourly values of rare variables.
        counts: (P, V) hourly values of each variable.
    """

    eligible: np.ndarray
    covered: np.ndarray
    severity: np.ndarray
    rare: np.ndarray
    counts: np.ndarray


def coverage(cohort: Cohort, grid: GridCohort | None = None) -> Coverage:
    """Coverage and severity of every stay of `cohort` by the rule of its definition (`Selection`)."""
    grid = grid if grid is not None else cohort.to_grid()
    rule, names = cohort.definition.selection, cohort.definition.observed
    counts = grid.mask.sum(axis=1)
    enough = counts >= np.array([rule.fewer.get(name, rule.enough) for name in names])
    severity = np.zeros(len(grid), np.int64) if rule.severity is None else rule.severity(cohort.stays, grid)
    always = enough[:, [names.index(name) for name in rule.required]].all(axis=1)
    rare = np.minimum(counts[:, [names.index(name) for name in rule.rare]], rule.cap).sum(axis=1)
    long = cohort.stays["los_h"].to_numpy() >= rule.minimum_hours
    return Coverage(always & long, enough.sum(axis=1), severity, rare, counts)


def select_stays(cohort: Cohort, patients: int = 110, one_per_subject: bool | None = None) -> Cohort:
    """The `patients` best-covered stays by the rule of the definition.

    Args:
        cohort: Usually several sources combined.
        patients: How many stays.
        one_per_subject: Take each person's best stay only, so that nobody can be in two roles. None: do so when
            enough people are eligible, else fill up with further stays; the metadata record which.

    Raises:
        CohortError: fewer stays are eligible than asked for.
    """
    found, rule = coverage(cohort), cohort.definition.selection
    names, subjects = cohort.patients, cohort.subjects
    ranked = sorted(
        np.flatnonzero(found.eligible).tolist(),
        key=lambda row: (-found.covered[row], -found.severity[row], -found.rare[row], names[row]),
    )
    best: dict[str, int] = {}
    for row in ranked:
        best.setdefault(subjects[row], row)
    single = one_per_subject if one_per_subject is not None else len(best) >= patients
    pool = list(best.values()) if single else ranked
    if patients < 1 or len(pool) < patients:
        raise CohortError(
            f"cohort selection: {patients} stays asked for, {len(pool)} eligible (LOS >= {rule.minimum_hours:g} h with "
            f"{', '.join(rule.required)}{'; one stay a person' if single else ''}); ask for between 1 and {len(pool)} "
            "or add a source"
        )
    chosen = pool[:patients]
    out = cohort.select([names[row] for row in chosen])
    out.metadata["selection"] = {
        "rule": rule.rule,
        "one_stay_per_subject": bool(single),
        "eligible_stays": len(ranked),
        "eligible_subjects": len(best),
        "stays": patients,
        "subjects": len({subjects[row] for row in chosen}),
        "considered_stays": len(cohort),
    }
    return out
