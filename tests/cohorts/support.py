"""The public functions with the definition of sepsis, which these tests read; tables written and what was read."""

import csv
from functools import partial

import polars as pl
import pytest

from medgym_offline import cohorts
from medgym_offline.diseases.sepsis.cohort import COHORT

STATES = COHORT.observed
RANGES = {name: concept.range for name, concept in COHORT.concepts.items()}
DRUGS = {part.name: part for part in COHORT.concepts["vasopressor"].parts}

read_source = partial(cohorts.read_source, definition=COHORT)
build_cohort = partial(cohorts.build_cohort, definition=COHORT)


def write_csv(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header.split(","), *rows])


def held(cohort, stay=""):
    """Variable -> (start, end, value) of the stays whose number ends so, to rounding."""
    mine = cohort.table.filter(pl.col("patient").str.ends_with("/" + stay) | (stay == ""))
    found = {}
    for name, *numbers in mine.select("variable", "time_h", "end_h", "value").iter_rows():
        near = (number if number is None else pytest.approx(number, rel=1e-6, abs=1e-5) for number in numbers)
        found.setdefault(name, []).append(tuple(near))
    return found
