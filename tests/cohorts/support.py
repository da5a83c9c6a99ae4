"""The public functions with the definition of sepsis, which these tests read."""

import polars as pl

from medgym_offline import cohorts
from medgym_offline.cohorts import Cohort
from medgym_offline.diseases.sepsis.cohort import COHORT

STATES = COHORT.observed
RANGES = {name: concept.range for name, concept in COHORT.concepts.items()}
DRUGS = {part.name: part for part in COHORT.concepts["vasopressor"].parts}


def read_source(path):
    return cohorts.read_source(path, COHORT)


def build_cohort(paths, output, patients=None):
    return cohorts.build_cohort(paths, output, COHORT, patients)


def detect_source(path):
    return cohorts.detect_source(path, COHORT)


def from_table(table, stays=None, metadata=None):
    return Cohort.from_table(table, COHORT, stays, metadata)


def validate(table, where="table"):
    return cohorts.validate(table, COHORT, where)


def given(records, names):
    """Infusions of the named drugs or fluids, with `share`: the value in the treatment's unit."""
    factors = {name: DRUGS[name].factor if name in DRUGS else 1.0 for name in names}
    mine = records.events.filter(pl.col("name").is_in(names))
    factor = pl.col("name").replace_strict(factors, return_dtype=pl.Float64)
    return mine.with_columns(share=pl.coalesce("total", pl.col("value") * factor))
