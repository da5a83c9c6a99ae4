"""Which stays make a release cohort: a written coverage rule, applied in code, the same for every source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.cohorts.schema import STATES
from medgym_offline.errors import CohortError

__all__ = ["SELECTION_RULE", "Coverage", "coverage", "select_stays"]

MIN_LOS_HOURS = 24.0
#: Values of one rare variable beyond which more do not make a stay rank higher.
COUNT_CAP = 10

SELECTION_RULE = (
    "Eligible: length of stay >= 24 h; window: the first min(96, floor(LOS)) hours on an hourly grid. "
    "Coverage c: how many of the six variables have >= 2 hourly values (bilirubin >= 1). "
    "Severity s: [sepsis ICD] + [any vasopressor] + [max lactate >= 2] + [max lactate >= 4]. "
    "SpO2, GCS and urine must be covered. Order: c down, s down, number of PaO2 + bilirubin + lactate values "
    f"(each capped at {COUNT_CAP}) down, stay id up; take the first N."
)


@dataclass(frozen=True)
class Coverage:
    """Coverage and severity of each stay, in the order of the grid's patients.

    Attributes:
        eligible: (P,) bool: long enough, and SpO2, GCS and urine covered.
        covered: (P,) variables covered, 0..6.
        severity: (P,) 0..4.
        rare: (P,) capped number of hourly PaO2, bilirubin and lactate values.
        counts: (P, 6) hourly values of each variable.
    """

    eligible: np.ndarray
    covered: np.ndarray
    severity: np.ndarray
    rare: np.ndarray
    counts: np.ndarray


def coverage(cohort: Cohort, grid: GridCohort | None = None) -> Coverage:
    """Coverage and severity of every stay of `cohort` (see `SELECTION_RULE`)."""
    grid = grid if grid is not None else cohort.to_grid()
    counts = grid.mask.sum(axis=1)
    need = np.array([1 if name == "bilirubin" else 2 for name in STATES])
    enough = counts >= need
    columns = {name: i for i, name in enumerate(STATES)}
    lactate = np.where(grid.mask[:, :, columns["lactate"]], grid.values[:, :, columns["lactate"]], -np.inf)
    highest = lactate.max(axis=1)
    sepsis = np.array([bool(flag) for flag in cohort.stays["sepsis"].to_list()], dtype=np.int64)
    vasopressor = (grid.treatment[:, :, 1] > 0).any(axis=1)
    severity = sepsis + vasopressor + (highest >= 2.0) + (highest >= 4.0)
    always = enough[:, [columns["spo2"], columns["gcs"], columns["urine"]]].all(axis=1)
    rare = np.minimum(counts[:, [columns["pao2"], columns["bilirubin"], columns["lactate"]]], COUNT_CAP).sum(axis=1)
    long = cohort.stays["los_h"].to_numpy() >= MIN_LOS_HOURS
    return Coverage(always & long, enough.sum(axis=1), severity, rare, counts)


def select_stays(cohort: Cohort, patients: int = 110, one_per_subject: bool | None = None) -> Cohort:
    """The `patients` best-covered stays by `SELECTION_RULE`.

    Args:
        cohort: Usually several sources combined.
        patients: How many stays.
        one_per_subject: Take each person's best stay only, so that nobody can be in two roles. None: do so when
            enough people are eligible, else fill up with further stays; the metadata record which.

    Raises:
        CohortError: fewer stays are eligible than asked for.
    """
    found = coverage(cohort)
    names = cohort.patients
    ranked = sorted(
        np.flatnonzero(found.eligible).tolist(),
        key=lambda row: (-found.covered[row], -found.severity[row], -found.rare[row], names[row]),
    )
    subjects = cohort.subjects
    first: list[int] = []
    seen: set[str] = set()
    for row in ranked:
        if subjects[row] not in seen:
            seen.add(subjects[row])
            first.append(row)
    single = one_per_subject if one_per_subject is not None else len(first) >= patients
    pool = first if single else ranked
    if patients < 1 or len(pool) < patients:
        raise CohortError(
            f"cohort selection: {patients} stays asked for, {len(pool)} eligible (LOS >= 24 h with SpO2, GCS and urine"
            f"{', one stay a person' if single else ''}); ask for between 1 and {len(pool)} or add a source"
        )
    chosen = pool[:patients]
    out = cohort.select([names[row] for row in chosen])
    people = {subjects[row] for row in chosen}
    out.metadata["selection"] = {
        "rule": SELECTION_RULE,
        "one_stay_per_subject": bool(single),
        "eligible_stays": len(ranked),
        "eligible_subjects": len(first),
        "stays": patients,
        "subjects": len(people),
        "considered_stays": len(cohort),
    }
    return out
