"""Vasopressors by name and by item id: what is read as which drug, and what is counted because nobody knows it."""

import polars as pl
import pytest

from tests.cohorts.conftest import write_csv
from tests.cohorts.layouts import LAYOUTS, Charted, at
from tests.cohorts.support import DRUGS, read_source

EQUIVALENT = {"norepinephrine": 1.0, "epinephrine": 1.0, "phenylephrine": 0.1, "dopamine": 0.01, "vasopressin": 2.5}


def vasopressor(folder):
    table = read_source(folder).table.filter(pl.col("variable") == "vasopressor")
    return [tuple(row) for row in table.select("time_h", "end_h", "value").iter_rows()]


def order(item, rate, unit):
    return (10, 1, at(3), at(5), item, 1, "mg", rate, unit, 70, "", "01-Drips", "")


def test_labels_tell_unlisted_vasopressors_from_other_drugs(tmp_path):
    orders = [order(item, 1.0, "mcg/kg/min") for item in (229991, 229992, 229992, 229993)]
    LAYOUTS["mimic-iv"](tmp_path, Charted(extra={"inputevents": orders}))
    labels = [(229991, "Norepinephrine (32/250)"), (229992, "Angiotensin II (Giapreza)"), (229993, "Propofol")]
    write_csv(tmp_path / "d_items.csv", "itemid,label", labels)
    cohort = read_source(tmp_path)
    counts = {why: n for why, n in cohort.rejections.rows.items() if "not in the list" in why}
    assert sorted(counts.values()) == [1, 2]
    assert all(any(str(item) in why and label in why for why in counts) for item, label in labels[:2])
    assert not any("229993" in why for why in counts)


@pytest.mark.parametrize(
    ("name", "drug"),
    [
        ("Noradrenaline", "norepinephrine"),
        ("NOREPINEPHRINE BITARTRATE", "norepinephrine"),
        ("noradrénaline", "norepinephrine"),
        ("adrenaline", "epinephrine"),
        ("Neo-Synephrine", "phenylephrine"),
        ("dopamine HCl", "dopamine"),
        ("Argipressin", "vasopressin"),
    ],
)
def test_a_synonym_is_the_drug(tmp_path, name, drug):
    unit = DRUGS[drug].unit
    LAYOUTS["long table"](tmp_path, Charted(extra={"events": [(1, 3, 5, name, 0.1, unit)]}))
    assert vasopressor(tmp_path) == [(3.0, 5.0, pytest.approx(0.1 * EQUIVALENT[drug]))]
    assert sum(read_source(tmp_path).rejections.repairs.values()) == 1
