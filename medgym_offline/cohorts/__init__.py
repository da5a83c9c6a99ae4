"""Clinical time series -> one validated cohort table -> a grid the simulators are fitted on.

    cohort = combine([read_source(folder, definition) for folder in folders])
    grid = select_stays(cohort, patients=110).to_grid()

What is read, and what it means, is a `CohortDefinition` (`medgym_offline.diseases.concepts`), which each disease has;
this package knows no disease.
"""

from __future__ import annotations

from medgym_offline.cohorts.assemble import assemble
from medgym_offline.cohorts.build import build_cohort, coverage, detect_source, read_source, select_stays
from medgym_offline.cohorts.card import cohort_card
from medgym_offline.cohorts.cohort import Cohort, combine, definition_named
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.cohorts.long_table import long_records
from medgym_offline.cohorts.validate import never_given, observation_flags, validate

__all__ = [
    "Cohort", "GridCohort", "assemble", "build_cohort", "cohort_card", "combine", "coverage", "definition_named",
    "detect_source", "long_records", "never_given", "observation_flags", "read_source", "select_stays", "validate",
]  # fmt: skip
