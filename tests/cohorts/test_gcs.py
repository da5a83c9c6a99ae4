"""The coma scale from its components, with and without a tube in the way of the verbal response."""

import itertools

import polars as pl
import pytest

from tests.cohorts.layouts import at, write
from tests.cohorts.support import held, read_source, write_csv

EYE, MOTOR = ("Spontaneously", 4.0), ("Obeys Commands", 6.0)
TUBE, MUTE = ("No Response-ETT", 1.0), ("No Response", 1.0)
REPAIR = "gcs: verbal score of an intubated patient, predicted from eye and motor"


def read_sets(folder, layout, sets):
    """Sets of (hour, eye, verbal, motor), each a text and a number; "carevue" is MIMIC-III of the older items."""
    items = (184, 723, 454) if layout == "carevue" else (220739, 223900, 223901)
    rows = [(item, at(hour), *part) for hour, *parts in sets for item, part in zip(items, parts)]
    if layout == "mimic-iv":
        write(folder, layout, chartevents=[(10, 1, *row) for row in rows])
    elif layout == "carevue":
        write(folder, "mimic-iii", CHARTEVENTS=[(10, 1, *row, "") for row in rows])
    else:
        events = pl.read_csv(write(folder, layout) / "events.csv", infer_schema=False).rows()
        events = [(*row, "") for row in events]
        events += [(10, when, f"LAB//{item}//UNK", number, text) for item, when, text, number in rows]
        write_csv(folder / "events.csv", "subject_id,time,code,numeric_value,text_value", events)
    return read_source(folder)


@pytest.mark.parametrize("layout", ["mimic-iv", "meds", "carevue"])
def test_awake_and_intubated_is_fifteen_and_counted(tmp_path, layout):
    tube = ("1.0 ET/Trach", 1.0) if layout == "carevue" else TUBE
    sets = [
        (3, EYE, tube, MOTOR),
        (4, EYE, MUTE, MOTOR),
        (5, ("None", 1.0), tube, ("No response", 1.0)),
        (6, EYE, ("Oriented", 5.0), MOTOR),
    ]
    cohort = read_sets(tmp_path, layout, sets)
    # A mute patient without a tube keeps the 1; one without any response is a 3 with a tube as well.
    assert held(cohort)["gcs"] == [(3.0, None, 15.0), (4.0, None, 11.0), (5.0, None, 3.0), (6.0, None, 15.0)]
    assert cohort.rejections.repairs[REPAIR] == 2


def test_the_prediction_is_whole_in_range_and_grows_with_its_components(tmp_path):
    pairs = list(itertools.product(range(1, 5), range(1, 7)))
    hours = {pair: 1.0 + hour for hour, pair in enumerate(pairs)}
    sets = [(hours[e, m], ("", float(e)), TUBE, ("", float(m))) for e, m in pairs]
    table = read_sets(tmp_path, "mimic-iv", sets).table.filter(pl.col("variable") == "gcs")
    found = dict(table.select("time_h", "value").iter_rows())
    verbal = {(e, m): found[hours[e, m]] - e - m for e, m in pairs}
    for (eye, motor), score in verbal.items():
        assert score in (1.0, 2.0, 3.0, 4.0, 5.0)
        # Meredith et al. 1998: within half a point of the regression, as far as the scale goes.
        assert abs(score - min(max(-0.3756 + 0.5713 * motor + 0.4233 * eye, 1.0), 5.0)) <= 0.5
        if eye < 4:
            assert verbal[eye + 1, motor] >= score
        if motor < 6:
            assert verbal[eye, motor + 1] >= score


def test_without_the_words_a_verbal_score_of_one_is_doubted(tmp_path):
    components = [(220739, 4), (223900, 1), (223901, 6)]
    events = [(10, at(3), f"LAB//{item}//UNK", value) for item, value in components]
    cohort = read_source(write(tmp_path, "meds", events=events))
    assert held(cohort)["gcs"] == [(3.0, None, 11.0)]
    assert sum(cohort.rejections.doubts.values()) == 1
