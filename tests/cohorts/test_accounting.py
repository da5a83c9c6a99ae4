"""Nothing wrong silently: in every layout, a row is in the table as it was charted, or counted under a reason."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cohorts.layouts import ALWAYS, LAYOUTS, Charted, at, write
from tests.cohorts.support import DRUGS, RANGES, read_source


@pytest.fixture(params=list(LAYOUTS))
def read(request, tmp_path_factory):
    """Writes what was charted in one layout and reads it."""

    def run(charted, **extra):
        return read_source(write(tmp_path_factory.mktemp("source"), request.param, charted, **extra))

    run.layout = request.param
    return run


def rows(cohort):
    """(variable, start, end, value) of every row."""
    table = cohort.table.select("variable", "time_h", "end_h", "value")
    return [(name, round(a, 3), b and round(b, 3), value) for name, a, b, value in table.iter_rows()]


_MEASURED = ("spo2", "pao2", "bilirubin", "lactate")
_VALUES = st.one_of(
    st.floats(-1e3, 1e3).map(lambda value: f"{value:.6g}"),
    st.sampled_from(["", "off", "0", "nan", "inf", "1e9", "50", "2.5"]),
)
#: Whole hours and a half: never the time of what is always there.
_POINTS = st.lists(
    st.tuples(st.sampled_from(_MEASURED), st.integers(-12, 60).map(lambda hour: hour + 0.5), _VALUES),
    max_size=25,
    unique_by=lambda row: row[:2],
)
_MANY = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_MANY
@given(points=_POINTS)
def test_every_measurement_is_in_the_table_or_counted_once(read, points):
    cohort = read(Charted(points=points))
    assert cohort.table.height + sum(cohort.rejections.rows.values()) == len(points) + len(ALWAYS)
    kept = {(name, hour): value for name, hour, _, value in rows(cohort)}
    wanted = {(name, hour): value for name, hour, value in (*ALWAYS, *points)}
    assert kept == pytest.approx({key: float(wanted[key]) for key in kept}, rel=1e-9)
    # What is left out was out of range or place, or no number.
    for (name, hour), value in wanted.items():
        low, high = RANGES[name]
        inside = 0.0 <= hour <= 48.0
        if inside and value not in ("", "off", "nan", "inf") and low <= float(value) <= high:
            assert (name, hour) in kept


_DOSES = st.lists(
    st.tuples(st.sampled_from(list(DRUGS)), st.integers(0, 300).map(lambda part: part / 100) | st.just(1e-12)),
    max_size=12,
)


@_MANY
@given(doses=_DOSES)
def test_limits_of_doses_hold_in_every_layout(read, doses):
    # An hour each with a pause between, and no two alike, so that none is joined to another.
    hours = [(2.0 * slot, 2.0 * slot + 1.0) for slot in range(len(doses))]
    given_doses = [(drug, *span, repr(share * DRUGS[drug].limit)) for span, (drug, share) in zip(hours, doses)]
    cohort = read(Charted(doses=given_doses))
    wanted = [
        (start, end, float(dose) * DRUGS[drug].factor)
        for drug, start, end, dose in given_doses
        if 1e-9 < float(dose) <= DRUGS[drug].limit
    ]
    kept = [row for name, *row in rows(cohort) if name == "vasopressor"]
    assert kept == [[*span, pytest.approx(dose, abs=1e-8)] for *span, dose in wanted]
    assert sum(cohort.rejections.rows.values()) == len(doses) - len(wanted)
    for drug, share in doses:
        if share > 1.0:
            assert any(reason.startswith(f"{drug}: above") for reason in cohort.rejections.rows)


def test_twenty_litres_of_urine_in_an_hour_are_rejected_and_a_cap_is_counted(read):
    cohort = read(Charted(urine=[(3.0, "150"), (4.0, "19990"), (5.0, "1000"), (6.0, "40"), (7.0, "-50"), (8.0, "")]))
    found = {hour: value for name, hour, _, value in rows(cohort) if name == "urine" and hour <= 6.0}
    # What collected in the hours of the impossible record is not known to be less: the next record spans both.
    assert found == pytest.approx({3.0: 1200.0, 5.0: 5000.0, 6.0: 960.0})
    counts = cohort.rejections
    assert counts.rows["urine: 5000 mL or more in one record"] == 1
    assert counts.repairs["urine: above 5000 mL/day, kept at the cap as censored"] == 1
    assert sum(sum(part.values()) for part in (counts.rows, counts.repairs, counts.doubts)) == 4


ORDER = (10, 1, at(9), at(10))
#: Layout, table, a row that must not reach the table, what its reason says.
FAULTS = [
    ("long table", "events", (1, 9, 10, "insulin", 1, "mg"), "insulin"),
    ("long table", "events", (1, "soon", "", "spo2", 95, "%"), "time"),
    ("long table", "events", (1, 9, "", "norepinephrine", 0.1, "mcg/kg/min"), "without an end"),
    ("long table", "events", (1, 10, 9, "norepinephrine", 0.1, "mcg/kg/min"), "ends before"),
    ("long table", "events", (1, 9, 10, "norepinephrine", 0, "mcg/kg/min"), "nothing given"),
    ("long table", "events", (1, 9, 10, "vasopressor", 21, "mcg/kg/min"), "above 20"),
    ("normalized", "observations", (7, "spo2", 9, 95), "no such stay"),
    ("normalized", "observations", (1, "spo2", "", 95), "time"),
    ("normalized", "observations", (1, "urine", 9, "much"), "not a number"),
    ("normalized", "observations", (1, "fio2", 9, 10), "neither"),
    ("normalized", "vasopressors", (1, "norepinephrine", 9, "", 0.1, 0.1), "without an end"),
    ("normalized", "vasopressors", (1, "norepinephrine", 9, 10, "", ""), "not a number"),
    ("normalized", "fluids", (1, 50, 51, 100), "outside the stay"),
    ("mimic-iii", "CHARTEVENTS", (10, 1, 220277, "soon", 95, 95, ""), "time"),
    ("mimic-iii", "CHARTEVENTS", (10, 7, 220277, at(9), 95, 95, ""), "no ICU stay"),
    ("mimic-iii", "CHARTEVENTS", (10, 1, 220277, at(9), 95, 95, 1), "error"),
    ("mimic-iii", "CHARTEVENTS", (10, 1, 226512, at(9), 400, 400, ""), "weight"),
    ("mimic-iii", "CHARTEVENTS", (10, 1, 220739, at(9), 4, 4, ""), "three components"),
    ("mimic-iii", "LABEVENTS", (10, 50813, at(200), 2, 2), "no ICU stay"),
    ("mimic-iii", "LABEVENTS", (10, 50813, at(9), "high", ""), "no numeric value"),
    ("mimic-iii", "OUTPUTEVENTS", (10, 1, 226559, at(9), -5, ""), "below 0"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(9), 30120, "", "", 9, "mcgkgmin", ""), "above 5"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(9), 30120, "", "", 0.1, "mlhr", ""), "unit"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(9), 30120, 5, "mg", "", "", ""), "without a rate"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(11), 30120, "", "", 0.1, "mcgkgmin", "Stopped"), "stop"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(9), 30018, "", "ml", "", "", ""), "no amount"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(9), 30018, 0, "ml", "", "", ""), "nothing given"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(9), 30018, 5, "mg", "", "", ""), "'mg'"),
    ("mimic-iii", "INPUTEVENTS_CV", (10, 1, at(9), 42273, "", "", 2, "", ""), "42273"),
    ("mimic-iii", "ICUSTAYS", (10, 100, 1, at(0), at(48)), "same stay"),
    *[
        ("mimic-iii" if table.isupper() else "mimic-iv", table, (*ORDER[:2], *row), words)
        for table in ("INPUTEVENTS_MV", "inputevents")
        for row, words in [
            ((at(9), at(10), 229999, 1, "mg", 0.1, "mcg/kg/min", 70, "", "01-Drips", ""), "229999"),
            ((at(9), at(10), 220949, 100, "ml", "", "", 70, "", "02-Fluids (Crystalloids)", ""), "220949"),
            ((at(9), at(10), 220949, 100, "ml", "", "", 70, "", "01-Drips", "02-Fluids (Crystalloids)"), "220949"),
            ((at(9), at(10), 221906, 1, "mg", 0.1, "mcg/kg/min", 70, "Rewritten", "01-Drips", ""), "rewritten"),
            ((at(9), at(10), 221906, 1, "mg", "", "", 70, "", "01-Drips", ""), "no rate"),
            ((at(9), at(10), 221906, 1, "mg", 0, "mcg/kg/min", 70, "", "01-Drips", ""), "nothing given"),
            ((at(9), at(10), 221906, 1, "mg", 0.1, "mL/hour", 70, "", "01-Drips", ""), "unit 'ml/hour'"),
            ((at(9), "", 221906, 1, "mg", 0.1, "mcg/kg/min", 70, "", "01-Drips", ""), "without an end"),
            ((at(9), at(10), 225158, 1, "grams", "", "", 70, "", "03-IV Fluid Bolus", ""), "'grams'"),
            ((at(9), at(10), 221906, 1, "mg", 0, "mcg/kg/min", 400, "", "01-Drips", ""), "weight"),
        ]
    ],
    ("mimic-iv", "chartevents", (10, 1, 223900, at(9), "", 9), "impossible score"),
    ("mimic-iv", "labevents", (10, 99, 50821, "", 80, 80), "time"),
    ("mimic-iv", "outputevents", (10, 1, 226559, at(9), ""), "not a number"),
    ("meds", "events", (10, at(60), "LAB//220277//%", 95), "no ICU stay"),
    ("meds", "events", (10, at(9), "LAB//220277//%", ""), "not a number"),
    ("meds", "events", (10, at(9), "INFUSION_START//229999", 0.1), "229999"),
    ("meds", "events", (10, at(9), "INFUSION_START//221906", 0.1), "without an end"),
    ("meds", "events", (10, at(9), "INFUSION_END//221749", 0.1), "without a start"),
    ("meds", "events", (10, at(9), "SUBJECT_WEIGHT_AT_INFUSION//KG", 400), "weight"),
]


GOOD = Charted(doses=[("epinephrine", 3.0, 4.0, "0.1")], volumes=[(3.0, 4.0, "100")], urine=[(3.0, "100")])


def test_faulty_rows_change_nothing_and_are_counted_each_under_its_reason(read):
    mine = [fault for fault in FAULTS if fault[0] == read.layout]
    extra = {table: [row for _, other, row, _ in mine if other == table] for _, table, *_ in mine}
    clean, faulty = read(GOOD), read(GOOD, **extra)
    assert faulty.table.drop("source", "patient").equals(clean.table.drop("source", "patient"))
    new = Counter(faulty.rejections.rows)
    new.subtract(clean.rejections.rows)
    for words, rows_of_it in Counter(words for *_, words in mine).items():
        assert sum(n for why, n in new.items() if words in why) >= rows_of_it, (words, +new)
