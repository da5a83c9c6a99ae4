"""One record in every layout, and what MIMIC's tables alone have: items, drugs, units, specimens, stays, coma scale."""

import itertools

import polars as pl
import pytest

from medgym_offline.errors import CohortError
from tests.cohorts.layouts import LAYOUTS, RICH, RICH_ROWS, Charted, at, write
from tests.cohorts.support import DRUGS, build_cohort, held, read_source, write_csv
from tests.helpers import refused

RAW = pytest.mark.parametrize("layout", ["mimic-iii", "mimic-iv"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_record_is_the_same_in_every_layout(tmp_path, layout):
    folder = write(tmp_path / "h", layout, RICH)
    assert held(read_source(folder)) == RICH_ROWS
    summary = build_cohort([folder], tmp_path / "c.parquet")
    assert summary.rejections.rows == {}
    assert (summary.stays, summary.rows["vasopressor"]) == (1, 4)
    assert (layout in next(iter(summary.layouts.values())).lower()) or layout == "normalized"


#: Item, rate, unit, equivalent dose at 70 kg; the items as d_items of MIMIC-IV 3.1 names them.
ORDERS = [
    *[(item, 0.5, "mcg/kg/min", 0.5) for item in (221906, 221289, 229617)],
    *[(item, 0.5, "mcg/kg/min", 0.05) for item in (221749, 229630, 229631, 229632, 229789)],
    (221662, 6.0, "mcg/kg/min", 0.06),
    (222315, 2.4, "units/hour", 0.1),
    (222315, 0.04, "units/min", 0.1),
    (222315, 2.4, "units/min", 0.1),  # nobody gets that by the minute
    (221906, 14.0, "mcg/min", 0.2),
    (221749, 140.0, "mcg/min", 0.2),
    (221906, 0.0003, "mg/kg/min", 0.3),
]
FLUIDS = [(225158, 100, "ml", 100.0), (225943, 0.1, "L", 100.0), (220995, 50, "mEq", 50.0)]


@RAW
def test_items_and_units_of_orders(tmp_path, layout):
    table = []
    for slot, (item, rate, unit, _) in enumerate(ORDERS):
        table.append((10, 1, at(2 * slot), at(2 * slot + 1), item, 1, "mg", rate, unit, 70, "", "01-Drips", ""))
    for slot, (item, amount, unit, _) in enumerate(FLUIDS):
        table.append((10, 1, at(2 * slot), at(2 * slot + 1), item, amount, unit, "", "", 70, "", "", ""))
    found = held(read_source(write(tmp_path / "h", layout, INPUTEVENTS_MV=table, inputevents=table)))
    for name, wanted in (("vasopressor", ORDERS), ("fluids", FLUIDS)):
        assert found[name] == [(2.0 * n, 2.0 * n + 1.0, value) for n, (*_, value) in enumerate(wanted)]


def test_points_of_carevue_hold_stop_and_were_given_since_the_last(tmp_path):
    points = [
        (1, 30047, "", "", 10, "mcgmin", ""),  # at 50 kg: 0.2
        (2, 30120, "", "", 0.1, "mcgkgmin", ""),
        (4, 30120, "", "", "", "", "Stopped"),
        (10, 30051, "", "", 2.4, "Umin", ""),  # really U/h
        (14, 30120, "", "", 0.1, "mcgkgmin", ""),
        (20, 30120, "", "", 0.2, "mcgkgmin", ""),
        (5, 30018, 100, "ml", "", "", ""),
        (5.5, 30018, 60, "ml", "", "", ""),
    ]
    rows = [(10, 1, at(hour), *row) for hour, *row in points]
    weights = [(10, 1, 762, at(0), 50, 50, "")]
    cohort = read_source(write(tmp_path / "h", "mimic-iii", INPUTEVENTS_CV=rows, CHARTEVENTS=weights))
    # The last record of an item holds an hour, any other four hours at most.
    drug = [(1.0, 2.0, 0.2), (2.0, 4.0, 0.1), (10.0, 11.0, 0.1), (14.0, 18.0, 0.1), (20.0, 21.0, 0.2)]
    found = held(cohort)
    assert (found["vasopressor"], found["fluids"]) == (drug, [(4.0, 5.0, 100.0), (5.0, 5.5, 120.0)])
    assert cohort.stays["weight_kg"].to_list() == [50.0]


def test_venous_and_mixed_gases_are_dropped(tmp_path):
    labs = [(50800, 3, "VEN"), (50821, 3, 35), (50800, 6, "ART"), (50800, 6, "MIX"), (50821, 6, 150)]
    # Another sample of the same minute, and of unknown blood, is another specimen.
    gases = [(1, 52033, 6, "ART."), (1, 50821, 6, 150), (2, 52033, 8, "VEN."), (2, 50821, 8, 38), (3, 50821, 9, 91)]
    three, four = (
        [(10, *key, item, at(hour), value, "" if isinstance(value, str) else value) for *key, item, hour, value in rows]
        for rows in (labs, gases)
    )
    old = read_source(write(tmp_path / "3", "mimic-iii", LABEVENTS=three))
    new = read_source(write(tmp_path / "4", "mimic-iv", labevents=four))
    for cohort, wanted in ((old, [(6.0, None, 150.0)]), (new, [(6.0, None, 150.0), (9.0, None, 91.0)])):
        assert held(cohort)["pao2"] == wanted
        assert cohort.rejections.rows == {"pao2: venous or mixed specimen": 1}


CODES = [
    ((("99592", 9), ("4019", 9)), True),
    ((("0389", 9),), False),  # septicaemia without the explicit code
    ((("A419", 9),), False),  # no code of version 9
    ((("R6521", 10),), True),
]


@RAW
@pytest.mark.parametrize(("codes", "sepsis"), CODES)
def test_stays(tmp_path, layout, codes, sepsis):
    folder = write(tmp_path / "h", layout, Charted(doses=RICH.doses, codes=codes, died=True))
    (stay,) = read_source(folder).stays.to_dicts()
    assert (stay["subject"], stay["los_h"], stay["sex"], stay["died"]) == (f"{layout}/10", 48.0, "F", True)
    assert stay["sepsis"] is (sepsis and (layout == "mimic-iv" or codes[0][1] == 9))
    assert stay["weight_kg"] == 70.0  # of its orders: nobody charted one
    assert stay["age"] == pytest.approx(60.0, abs=0.3)


def test_ages_over_89_are_shifted_by_centuries_and_read_as_the_median(tmp_path):
    cohort = read_source(write(tmp_path / "h", "mimic-iii", Charted(born=1850)))
    assert cohort.stays["age"].to_list() == [91.4]
    assert cohort.rejections.repairs == {"age: over 89 and shifted, set to 91.4": 1}


COLUMNS = [("mimic-iii", "LABEVENTS", "valuenum"), ("mimic-iv", "labevents", "specimen_id")]


@pytest.mark.parametrize(("layout", "table", "column"), COLUMNS)
def test_a_missing_table_or_column_is_named(tmp_path, layout, table, column):
    folder = write(tmp_path / "h", layout, RICH)
    file = folder / f"{table}.csv"
    pl.read_csv(file, infer_schema=False).drop(column).write_csv(file)
    refused(CohortError, rf"{table}.csv: column '{column}' is missing.*original columns", lambda: read_source(folder))
    short = file.rename(folder / f"{table[:-1]}.csv")
    refused(CohortError, rf"table {table}.* is missing; is it {table[:-1]}\.csv\?", lambda: read_source(folder))
    short.unlink()
    refused(CohortError, rf"table {table}.csv or {table}.csv.gz is missing; put it there", lambda: read_source(folder))


def test_folders_of_the_release_are_found_and_the_license_is_the_full_one(tmp_path):
    flat = write(tmp_path / "h", "mimic-iv", RICH)
    for place, names in (("icu", ("icustays", "chartevents", "outputevents", "inputevents")), ("hosp", ())):
        (flat / place).mkdir()
        for file in [f for f in flat.glob("*.csv") if not names or f.stem in names]:
            file.rename(flat / place / file.name)
    cohort = read_source(flat)
    assert held(cohort) == RICH_ROWS
    (entry,) = cohort.metadata["provenance"]
    assert "icu/icustays.csv" in entry["files"]
    assert "Credentialed" in entry["license"]


#: Name as it may be written, drug, units of norepinephrine that one of it is worth.
SYNONYMS = [
    ("Noradrenaline", "norepinephrine", 1.0),
    ("NOREPINEPHRINE BITARTRATE", "norepinephrine", 1.0),
    ("noradrénaline", "norepinephrine", 1.0),
    ("adrenaline", "epinephrine", 1.0),
    ("Neo-Synephrine", "phenylephrine", 0.1),
    ("dopamine HCl", "dopamine", 0.01),
    ("Argipressin", "vasopressin", 2.5),
]


def test_a_synonym_is_the_drug(tmp_path):
    rows = [(1, 3 * n, 3 * n + 1, name, 0.1, DRUGS[drug].unit) for n, (name, drug, _) in enumerate(SYNONYMS)]
    cohort = read_source(write(tmp_path, "long table", events=rows))
    wanted = [(3.0 * n, 3.0 * n + 1.0, 0.1 * worth) for n, (*_, worth) in enumerate(SYNONYMS)]
    assert held(cohort)["vasopressor"] == wanted
    assert sum(cohort.rejections.repairs.values()) == len(SYNONYMS)


def test_labels_tell_unlisted_vasopressors_from_other_drugs(tmp_path):
    rest = (1, "mg", 1.0, "mcg/kg/min", 70, "", "01-Drips", "")
    orders = [(10, 1, at(3), at(5), item, *rest) for item in (229991, 229992, 229992, 229993)]
    write(tmp_path, "mimic-iv", inputevents=orders)
    labels = [(229991, "Norepinephrine (32/250)"), (229992, "Angiotensin II (Giapreza)"), (229993, "Propofol")]
    write_csv(tmp_path / "d_items.csv", "itemid,label", labels)
    cohort = read_source(tmp_path)
    counts = {why: n for why, n in cohort.rejections.rows.items() if "not in the list" in why}
    assert sorted(counts.values()) == [1, 2]
    assert all(any(str(item) in why and label in why for why in counts) for item, label in labels[:2])
    assert not any("229993" in why for why in counts)


#: Components of the coma scale, text and number; with and without a tube in the way of the verbal response.
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
    sets = [(1.0 + hour, ("", float(e)), TUBE, ("", float(m))) for hour, (e, m) in enumerate(pairs)]
    table = read_sets(tmp_path, "mimic-iv", sets).table.filter(pl.col("variable") == "gcs")
    verbal = {(e, m): score - e - m for (e, m), score in zip(pairs, table["value"])}
    assert table["time_h"].to_list() == [hour for hour, *_ in sets]
    for (eye, motor), score in verbal.items():
        assert score in (1.0, 2.0, 3.0, 4.0, 5.0)
        # Meredith et al. 1998: within half a point of the regression, as far as the scale goes.
        assert abs(score - min(max(-0.3756 + 0.5713 * motor + 0.4233 * eye, 1.0), 5.0)) <= 0.5
        assert verbal.get((eye + 1, motor), 5.0) >= score
        assert verbal.get((eye, motor + 1), 5.0) >= score


def test_without_the_words_a_verbal_score_of_one_is_doubted(tmp_path):
    components = [(220739, 4), (223900, 1), (223901, 6)]
    events = [(10, at(3), f"LAB//{item}//UNK", value) for item, value in components]
    cohort = read_source(write(tmp_path, "meds", events=events))
    assert held(cohort)["gcs"] == [(3.0, None, 11.0)]
    assert sum(cohort.rejections.doubts.values()) == 1
