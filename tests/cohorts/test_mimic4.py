"""The raw MIMIC-IV source on hand-made tables in its layout: every rule has a row that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from medgym_offline.cohorts import Cohort
from medgym_offline.errors import CohortError
from tests.cohorts.conftest import write_csv
from tests.cohorts.support import build_cohort, detect_source, read_source

CHART = "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,warning"
INPUT = (
    "subject_id,hadm_id,stay_id,caregiver_id,starttime,endtime,storetime,itemid,amount,amountuom,rate,rateuom,orderid,"
    "linkorderid,patientweight,statusdescription"
)
OUTPUT = "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valueuom"
LAB = (
    "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,valuenum,valueuom,"
    "ref_range_lower,ref_range_upper,flag,priority,comments"
)


def at(hour: float) -> str:
    day, rest = divmod(round(hour * 60) + 10 * 60, 24 * 60)
    return f"2180-07-{2 + day:02d} {rest // 60:02d}:{rest % 60:02d}:00"


def write_mimic4(folder: Path, suffix: str = ".csv.gz", flat: bool = False) -> Path:
    """Stay 31 (subject 10, 40 h, ICD-10 sepsis, died) and stay 32 (subject 20, 30 h, ICD-9 codes, none of sepsis)."""
    icu, hosp = (folder, folder) if flat else (folder / "icu", folder / "hosp")
    for place in (icu, hosp):
        place.mkdir(parents=True, exist_ok=True)

    def put(place: Path, name: str, header: str, rows: Sequence[Sequence[object]]) -> None:
        write_csv(place / (name + suffix), header, rows)

    put(
        icu,
        "icustays",
        "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
        [(10, 100, 31, "MICU", "MICU", at(0), at(40), 1.67), (20, 200, 32, "SICU", "SICU", at(0), at(30), 1.25)],
    )
    put(
        hosp,
        "patients",
        "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
        [(10, "F", 60, 2178, "2011 - 2013", ""), (20, "M", 91, 2180, "2011 - 2013", "")],
    )
    put(
        hosp,
        "admissions",
        "subject_id,hadm_id,admittime,dischtime,deathtime,hospital_expire_flag",
        [(10, 100, at(-5), at(60), "", 1), (20, 200, at(-5), at(60), "", 0)],
    )
    put(
        hosp,
        "diagnoses_icd",
        "subject_id,hadm_id,seq_num,icd_code,icd_version",
        # 0389 is septicaemia without the explicit code, and A41 of version 9 is no ICD-10 code.
        [(10, 100, 1, "R6521", 10), (20, 200, 1, "0389", 9), (20, 200, 2, "A419", 9)],
    )
    chart: list[tuple[object, ...]] = []

    def charted(stay: int, hour: float, item: int, value: object) -> None:
        subject = 10 if stay == 31 else 20
        number = value if isinstance(value, (int, float)) else ""
        chart.append((subject, 100, stay, 1, at(hour), at(hour), item, value, number, "", 0))

    charted(31, 1, 220277, 96)
    charted(31, 2, 220277, 0)  # an artefact
    charted(31, 1, 223835, 0.5)  # a fraction
    charted(31, 5, 223835, 40)
    charted(31, 3, 220045, 80)  # an item nobody reads
    for item, value in ((220739, 3), (223900, 1), (223901, 5)):
        charted(31, 4, item, value)
    charted(31, 6, 220739, 3)  # one component alone
    charted(31, 0, 226512, 50)
    charted(31, 3, 220224, 300)  # the chart's copy of a blood gas
    charted(31, 3, 225668, 9)  # ... and of lactate
    charted(32, 2, 220277, 98)
    charted(32, 3, 220277, "off")
    put(icu, "chartevents", CHART, chart)
    labs: list[tuple[object, ...]] = []

    def lab(subject: int, specimen: int, item: int, hour: float, value: object) -> None:
        number = value if isinstance(value, (int, float)) else ""
        row = (len(labs), subject, "", specimen, item, "", at(hour), at(hour), value, number, "", "", "", "", "", "")
        labs.append(row)

    lab(10, 1, 50821, 3, 82)
    lab(10, 1, 52033, 3, "ART.")
    lab(10, 2, 50821, 8, 38)  # venous: the words end with a full stop here
    lab(10, 2, 52033, 8, "VEN.")
    lab(10, 3, 50821, 8, 91)  # another sample of the same minute, of unknown blood
    lab(10, 4, 50813, -1, 4.5)
    lab(10, 5, 50885, 12, 1.4)
    lab(20, 6, 50813, 2, 1.1)
    lab(99, 7, 50813, 2, 7.7)  # a person who was never in the ICU
    put(hosp, "labevents", LAB, labs)
    urine = [(10, 100, 31, 1, at(h), at(h), item, ml, "mL") for h, item, ml in ((2, 226559, 100), (3, 226560, 50))]
    urine += [(10, 100, 31, 1, at(4), at(4), 226559, 300, "mL"), (10, 100, 31, 1, at(4), at(4), 227488, 200, "mL")]
    put(icu, "outputevents", OUTPUT, [*urine, urine[0]])  # the first row twice
    orders: list[tuple[object, ...]] = []

    def order(
        stay: int,
        start: float,
        end: float,
        item: int,
        amount: object,
        unit: str,
        rate: object,
        per: str,
        status: str = "FinishedRunning",
    ) -> None:
        subject = 10 if stay == 31 else 20
        times = (at(start), at(end), at(start))
        row = (subject, 100, stay, 1, *times, item, amount, unit, rate, per, len(orders), len(orders), 60, status)
        orders.append(row)

    order(31, 1, 3, 221906, 5, "mg", 0.1, "mcg/kg/min")
    order(31, 2, 4, 222315, 5, "units", 2.4, "units/hour")
    order(31, 5, 6, 221749, 5, "mg", 60, "mcg/min")  # 60 / 50 kg / 10
    order(31, 6, 7, 221906, 5, "mg", 0.0002, "mg/kg/min")
    order(31, 8, 9, 221906, 5, "mg", 0.3, "mcg/kg/min", "Rewritten")
    order(31, 9, 10, 221906, 5, "mg", 0.3, "drops/h")
    order(32, 1, 5, 225158, 400, "ml", "", "")
    order(32, 6, 6, 225943, 100, "ml", "", "")  # a push
    order(32, 7, 8, 220995, 50, "mEq", "", "")  # sodium bicarbonate 8.4 %: a mL each
    order(32, 7, 8, 227531, 50, "grams", "", "")
    put(icu, "inputevents", INPUT, [*orders, orders[6]])  # an order exported twice
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mimic4(tmp_path / "mimic-iv-tables")


@pytest.fixture
def cohort(folder: Path) -> Cohort:
    return read_source(folder)


def rows(cohort: Cohort, stay: int, variable: str) -> list[object]:
    mine = cohort.table.filter((pl.col("patient") == f"mimic-iv/{stay}") & (pl.col("variable") == variable))
    found = mine.select("time_h", "end_h", "value").iter_rows()
    return [tuple(v if v is None else pytest.approx(v, abs=1e-4) for v in row) for row in found]


def test_stays(cohort: Cohort) -> None:
    assert cohort.patients == ("mimic-iv/31", "mimic-iv/32")
    assert cohort.subjects == ("mimic-iv/10", "mimic-iv/20")
    first, second = cohort.stays.to_dicts()
    assert (first["los_h"], first["sex"], first["weight_kg"]) == (40.0, "F", 50.0)
    assert (first["sepsis"], first["died"]) == (True, True)
    assert (second["sepsis"], second["died"]) == (False, False)
    assert second["weight_kg"] == 60.0  # from its orders: nobody charted one
    # 60 in 2178, two and a half years later; over 89 everybody is 91.
    assert first["age"] == pytest.approx(62.5, abs=0.01)
    assert second["age"] == pytest.approx(91.5, abs=0.01)


def test_observations(cohort: Cohort) -> None:
    assert rows(cohort, 31, "spo2") == [(1.0, None, 96.0)]
    assert rows(cohort, 31, "gcs") == [(4.0, None, 9.0)]
    assert rows(cohort, 31, "pao2") == [(3.0, None, 82.0), (8.0, None, 91.0)]
    assert rows(cohort, 31, "lactate") == [(-1.0, None, 4.5)]
    assert rows(cohort, 31, "bilirubin") == [(12.0, None, 1.4)]
    assert rows(cohort, 32, "spo2") == [(2.0, None, 98.0)]
    # 100 mL in the two hours since admission, 50 in one, then 300 less 200 of irrigant.
    assert rows(cohort, 31, "urine") == [(2.0, None, 1200.0), (3.0, None, 1200.0), (4.0, None, 2400.0)]


def test_treatments(cohort: Cohort) -> None:
    assert rows(cohort, 31, "fio2") == [(1.0, 5.0, 50.0), (5.0, 17.0, 40.0)]
    # Norepinephrine .1 and vasopressin 2.4 U/h = .04 U/min * 2.5; phenylephrine 60 / 50 kg / 10; .0002 mg = .2 mcg.
    assert rows(cohort, 31, "vasopressor") == [
        (1.0, 2.0, 0.1),
        (2.0, 3.0, 0.2),
        (3.0, 4.0, 0.1),
        (5.0, 6.0, 0.12),
        (6.0, 7.0, 0.2),
    ]
    assert rows(cohort, 32, "fluids") == [(1.0, 5.0, 100.0), (6.0, 6.25, 400.0), (7.0, 8.0, 50.0)]


def test_what_was_turned_away_is_counted(cohort: Cohort) -> None:
    assert cohort.rejections.rows == {
        "spo2: impossible value": 1,
        "gcs: not all three components charted at the time": 1,
        "chart: no numeric value": 1,
        "pao2: venous or mixed specimen": 1,
        "vasopressor: order rewritten by another": 1,
        "norepinephrine: unit 'drops/h' unknown": 1,
        "fluids: unit 'grams' unknown": 1,
        "fluids: the same row again": 1,
        "urine: the same row again": 1,
    }


def test_one_folder_plain_files_and_any_order_of_rows_give_the_same(cohort: Cohort, tmp_path: Path) -> None:
    flat = write_mimic4(tmp_path / "flat", suffix=".csv", flat=True)
    for name in ("chartevents", "inputevents", "labevents", "outputevents"):
        table = pl.read_csv(flat / f"{name}.csv", infer_schema=False)
        table.sample(fraction=1.0, shuffle=True, seed=3).write_csv(flat / f"{name}.csv")
    again = read_source(flat)
    assert again.table.drop("source").equals(cohort.table.drop("source"))
    assert again.stays.equals(cohort.stays)
    assert again.rejections.rows == cohort.rejections.rows


def test_detected_built_and_documented(folder: Path, tmp_path: Path) -> None:
    assert detect_source(folder).layout == "raw MIMIC-IV tables"
    summary = build_cohort([folder], tmp_path / "c.parquet")
    assert summary.layouts == {str(folder): "raw MIMIC-IV tables"}
    provenance = Cohort.read(tmp_path / "c.parquet").metadata["provenance"][0]
    assert provenance["files"][0] == "icu/icustays.csv.gz"
    assert "Credentialed" in provenance["licence"]


def test_a_missing_table_or_column_is_named(folder: Path) -> None:
    labs = folder / "hosp" / "labevents.csv.gz"
    pl.read_csv(labs, infer_schema=False).drop("specimen_id").write_csv(folder / "hosp" / "labevents.csv")
    labs.unlink()
    with pytest.raises(CohortError, match=r"labevents.csv: column 'specimen_id' is missing"):
        read_source(folder)
    (folder / "hosp" / "labevents.csv").unlink()
    with pytest.raises(CohortError, match=r"hosp: table labevents.csv or labevents.csv.gz is missing; put it there"):
        read_source(folder)
