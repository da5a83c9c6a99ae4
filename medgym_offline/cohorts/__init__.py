"""Clinical time series -> one validated cohort table -> a grid the simulators are fitted on.

    cohort = combine([read_source(folder) for folder in folders])
    grid = select_stays(cohort, patients=110).to_grid()

Reading needs the extra `cohort` (polars, pyarrow); importing this package needs neither.
"""

from __future__ import annotations

from medgym_offline.cohorts.assemble import assemble
from medgym_offline.cohorts.build import SOURCES, CohortSummary, build_cohort, detect_source, read_source
from medgym_offline.cohorts.card import cohort_card
from medgym_offline.cohorts.cohort import Cohort, combine
from medgym_offline.cohorts.flags import ObservationFlags, observation_flags
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.cohorts.schema import COLUMNS, STATES, TREATMENTS, UNITS, VARIABLES, Rejections
from medgym_offline.cohorts.selection import SELECTION_RULE, Coverage, coverage, select_stays
from medgym_offline.cohorts.source import CohortSource, Records
from medgym_offline.cohorts.validate import validate

__all__ = [
    "COLUMNS",
    "SELECTION_RULE",
    "SOURCES",
    "STATES",
    "TREATMENTS",
    "UNITS",
    "VARIABLES",
    "Cohort",
    "CohortSource",
    "CohortSummary",
    "Coverage",
    "GridCohort",
    "ObservationFlags",
    "Records",
    "Rejections",
    "assemble",
    "build_cohort",
    "cohort_card",
    "combine",
    "coverage",
    "detect_source",
    "observation_flags",
    "read_source",
    "select_stays",
    "validate",
]
