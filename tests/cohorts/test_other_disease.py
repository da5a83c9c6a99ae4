"""A disease of two variables, made up here: from a long table in memory to a file and back, with its concepts alone."""

import numpy as np
import polars as pl

from medgym_offline import cohorts
from medgym_offline.cohorts import Cohort
from medgym_offline.diseases.concepts import CohortDefinition, Concept, Part, Selection, Unit
from medgym_offline.diseases.sepsis.cohort import COHORT as SEPSIS
from medgym_offline.errors import CohortError
from tests.cohorts.layouts import at, write
from tests.cohorts.support import held
from tests.helpers import refused

UNITS = {"units": (Unit("mmol/L", 18.016),), "names": ("bloodsugar",)}
GLUCOSE = Concept("glucose", "mg/dL", range=(10.0, 1000.0), usual=(60.0, 300.0), lookback=2.0, **UNITS)
PARTS = (Part("lispro", "U/h", 1.0, 30.0), Part("glargine", "U/h", 0.5, 30.0))
INFUSED = {"gridding": "infusion", "units": (Unit("U", amount=True),), "least_hours": 0.5, "parts": PARTS}
INSULIN = Concept("insulin", "U/h", range=(0.0, 50.0), usual=(0.1, 20.0), **INFUSED)
DIABETES = CohortDefinition("made-up", (GLUCOSE,), (INSULIN,), Selection("long enough", 4.0, required=("glucose",)))
ROWS = [
    ("a", 0.0, None, "Glucose", 180.0, "mg/dL"),
    ("a", 2.0, None, "blood sugar", 10.0, "mmol/L"),
    ("a", 5.0, None, "glucose", 4000.0, "mg/dL"),
    ("a", -3.0, None, "glucose", 100.0, "mg/dL"),
    ("a", 1.0, 3.0, "insulin", 4.0, "U"),
    ("a", 2.0, 4.0, "lispro", 1.0, "U/h"),
    ("a", 6.0, 6.1, "insulin", 3.0, "U"),
    ("a", 6.0, 8.0, "glargine", 40.0, "U/h"),
    ("b", 1.0, None, "glucose", 90.0, "mg/dL"),
    ("b", 2.0, None, "glucose", 95.0, "mg/dL"),
    ("b", 2.0, None, "heart rate", 80.0, "/min"),
]


def records():
    events = pl.DataFrame(ROWS, schema=["stay", "time", "end", "variable", "value", "unit"], orient="row")
    stays = pl.DataFrame({"stay": ["a", "b"], "los_h": [12.0, 3.0], "sex": ["F", None]})
    return cohorts.assemble(cohorts.long_records(events, stays, DIABETES, "clinic"), DIABETES)


def test_a_table_in_memory_becomes_a_cohort_and_comes_back_from_a_file(tmp_path):
    cohort = records()
    assert cohort.patients == ("clinic/a", "clinic/b")
    assert held(cohort, "a") == {
        "glucose": [(0.0, None, 180.0), (2.0, None, 180.16)],
        "insulin": [(1.0, 2.0, 2.0), (2.0, 3.0, 3.0), (3.0, 4.0, 1.0), (6.0, 6.5, 6.0)],
    }
    assert cohort.rejections.rows == {
        "unknown variable 'heart rate'": 1,
        "glargine: above 30 U/h": 1,
        "glucose: impossible value": 1,
        "glucose: negative time (too long before admission)": 1,
    }
    assert list(cohort.stays.columns)[-1] == "died"
    cohort.write(tmp_path / "c.parquet")
    back = Cohort.read(tmp_path / "c.parquet", DIABETES)
    assert back.table.equals(cohort.table)
    assert back.stays.equals(cohort.stays)
    assert (back.metadata, back.rejections) == (cohort.metadata, cohort.rejections)
    assert [p.name for p in tmp_path.iterdir()] == ["c.parquet"]
    grid = back.to_grid(horizon=12.0)
    assert grid.values.shape == (2, 12, 1)
    np.testing.assert_allclose(grid.treatment[0, :8, 0], [0, 2, 3, 1, 0, 0, 3, 0])
    assert grid.derived == {}
    assert cohorts.select_stays(back, 1).patients == ("clinic/a",)
    assert cohorts.observation_flags(grid, DIABETES).untreated == ()
    assert "| insulin | U/h |" in cohorts.cohort_card(back)


def test_raw_tables_are_read_for_the_concepts_that_are_asked_for(tmp_path):
    items = {"laboratory": "50931", "chart": "220621"}
    glucose = Concept("glucose", "mg/dL", (10.0, 1000.0), (60.0, 300.0), items=items)
    insulin = Concept("insulin", "U/h", (0.0, 50.0), (0.1, 20.0), "infusion", items={"input": "223258"})
    definition = CohortDefinition("made-up", (glucose,), (insulin,), Selection("any"))
    meds = [(at(2), "LAB//50931//mg/dL", 150), (at(4), "LAB//220621//mg/dL", 160)]
    meds += [(at(3), "INFUSION_START//223258", 2), (at(5), "INFUSION_END//223258", 4)]
    four = {
        "labevents": [(10, 1, 50931, at(2), "150", 150)],
        "chartevents": [(10, 1, 220621, at(4), "160", 160)],
        "inputevents": [(10, 1, at(3), at(5), 223258, 4, "units", 2.0, "units/hour", 70, "", "01-Drips", "")],
    }
    wanted = {"glucose": [(2.0, None, 150.0), (4.0, None, 160.0)], "insulin": [(3.0, 5.0, 2.0)]}
    for layout, charted in (("mimic-iv", four), ("meds", {"events": [(10, *row) for row in meds]})):
        source = write(tmp_path / layout, layout, **charted)
        assert held(cohorts.read_source(source, definition)) == wanted


def test_a_file_of_another_or_an_unknown_disease_is_refused_in_one_line(tmp_path):
    path = tmp_path / "c.parquet"
    records().write(path)
    refused(CohortError, r"c\.parquet: disease 'made-up' is not known here", lambda: Cohort.read(path))
    refused(CohortError, "a cohort of disease 'made-up', not of 'sepsis'", lambda: Cohort.read(path, SEPSIS))
    other = Cohort.from_table(records().table.with_columns(variable=pl.lit("spo2")), SEPSIS)
    refused(CohortError, "a cohort of 'made-up' and one of 'sepsis'", lambda: cohorts.combine([records(), other]))
