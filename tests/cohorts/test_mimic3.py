"""The raw MIMIC-III source on hand-made tables: every rule has a row that needs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from medgym_offline.cohorts import Cohort
from medgym_offline.cohorts.mimic import MIMIC_III
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.errors import CohortError
from tests.cohorts.support import build_cohort, read_source


def values(cohort: Cohort, patient: str, variable: str) -> list[tuple[float, float | None, float]]:
    mine = cohort.table.filter((pl.col("patient") == patient) & (pl.col("variable") == variable))
    return [tuple(row) for row in mine.select("time_h", "end_h", "value").iter_rows()]


def approx(rows: list[tuple[float, float | None, float]]) -> list[object]:
    return [tuple(v if v is None else pytest.approx(v, abs=1e-4) for v in row) for row in rows]


@pytest.fixture
def cohort(raw_folder: Path) -> Cohort:
    return read_source(raw_folder)


def test_stays(cohort: Cohort) -> None:
    assert cohort.patients == ("mimic-iii/1", "mimic-iii/2")
    assert cohort.subjects == ("mimic-iii/10", "mimic-iii/20")
    first, second = cohort.stays.to_dicts()
    assert (first["los_h"], first["sex"], first["weight_kg"], first["sepsis"], first["died"]) == (
        30.0,
        "F",
        50.0,
        True,
        True,
    )
    assert first["age"] == pytest.approx(60.0, abs=0.01)
    # Dates of birth of the oldest are shifted by centuries; the weight comes from the infusion orders.
    assert (second["age"], second["weight_kg"], second["sepsis"], second["died"]) == (91.4, 70.0, False, False)


def test_observations(cohort: Cohort) -> None:
    one, two = "mimic-iii/1", "mimic-iii/2"
    assert values(cohort, one, "spo2") == [(1.0, None, 95.0)]
    assert values(cohort, two, "spo2") == [(1.0, None, 98.0)]
    assert values(cohort, one, "gcs") == [(2.0, None, 13.0)]
    assert values(cohort, two, "gcs") == [(4.0, None, 15.0)]
    assert values(cohort, one, "pao2") == [(-1.0, None, 80.0)]
    assert values(cohort, two, "pao2") == [(6.0, None, 150.0)]
    assert values(cohort, one, "lactate") == [(2.0, None, 4.5)]
    assert values(cohort, two, "bilirubin") == [(5.0, None, 1.2)]
    assert values(cohort, one, "urine") == approx([(2.0, None, 1200.0), (3.5, None, 80.0 * 24 / 1.5)])
    assert values(cohort, two, "urine") == approx([(1.0, None, 1440.0), (2.0, None, 0.0)])


def test_treatments(cohort: Cohort) -> None:
    one, two = "mimic-iii/1", "mimic-iii/2"
    assert values(cohort, one, "fio2") == [(1.0, 4.0, 50.0), (4.0, 16.0, 40.0)]
    assert values(cohort, two, "fio2") == [(2.0, 14.0, 60.0)]
    # CareVue points: the last record of an item holds an hour; 30047 in mcg/min is divided by 50 kg; a stop ends 30120.
    vasopressor = [(1.0, 2.0, 0.2), (2.0, 4.0, 0.1), (10.0, 11.0, 0.04 * 2.5)]
    assert values(cohort, one, "vasopressor") == approx(vasopressor)
    # MetaVision intervals: norepinephrine 0.1 and phenylephrine 1.0 (a tenth) overlap for an hour.
    assert values(cohort, two, "vasopressor") == approx([(1.0, 2.0, 0.1), (2.0, 3.0, 0.2), (3.0, 4.0, 0.1)])
    assert values(cohort, one, "fluids") == approx([(4.0, 5.0, 100.0), (5.0, 5.5, 120.0)])
    # 50 mEq of sodium bicarbonate 8.4 % are 50 mL, beside saline from hour 8 on.
    assert values(cohort, two, "fluids") == approx([(6.0, 8.0, 100.0), (8.0, 10.0, 125.0), (12.0, 12.25, 1000.0)])


def test_every_row_left_out_is_counted(cohort: Cohort) -> None:
    assert cohort.rejections.rows == {
        "chart: marked as an error": 1,
        "chart: no numeric value": 1,
        "gcs: not all three components charted at the time": 1,
        "pao2: venous or mixed specimen": 1,
        "vasopressor: order rewritten by another": 1,
        "norepinephrine: above 5 mcg/kg/min (in mcg/min?)": 1,
        "laboratory: no ICU stay at that time": 2,
        "fio2: between 1 and 21, neither a fraction nor a percentage": 1,
        "spo2: impossible value": 1,
    }
    assert cohort.rejections.repairs["fio2: a fraction, multiplied by 100"] == 1


@pytest.mark.parametrize(("lower", "suffix"), [(True, ".csv"), (True, ".csv.gz"), (False, ".csv")])
def test_case_and_compression_do_not_matter(
    cohort: Cohort, mimic3_writer: Callable[..., Path], tmp_path: Path, lower: bool, suffix: str
) -> None:
    other = read_source(mimic3_writer(tmp_path / "other" / "mimic-iii", lower=lower, suffix=suffix))
    assert other.table.equals(cohort.table)
    assert other.stays.equals(cohort.stays)


def test_row_order_does_not_matter(cohort: Cohort, raw_folder: Path) -> None:
    for path in raw_folder.iterdir():
        pl.read_csv(path, infer_schema=False).reverse().write_csv(path.with_name(path.name[: -len(".gz")]))
        path.unlink()
    assert read_source(raw_folder).table.equals(cohort.table)


def test_build_detects_the_layout(raw_folder: Path, tmp_path: Path) -> None:
    summary = build_cohort([raw_folder], tmp_path / "cohort.parquet")
    assert summary.layouts == {str(raw_folder): "raw MIMIC-III tables"}
    assert summary.stays == summary.subjects == 2
    assert summary.rows["vasopressor"] == 6
    assert Cohort.read(tmp_path / "cohort.parquet").patients == ("mimic-iii/1", "mimic-iii/2")


def test_a_missing_table_or_column_is_named(raw_folder: Path) -> None:
    labs = raw_folder / "LABEVENTS.csv.gz"
    pl.read_csv(labs, infer_schema=False).drop("VALUENUM").write_csv(raw_folder / "LABEVENTS.csv")
    labs.unlink()
    with pytest.raises(CohortError, match=r"LABEVENTS.csv: column 'valuenum' is missing.*original columns"):
        read_source(raw_folder)
    (raw_folder / "LABEVENTS.csv").unlink()
    with pytest.raises(CohortError, match=r"table LABEVENTS.csv or LABEVENTS.csv.gz is missing; put it there"):
        read_source(raw_folder)


@pytest.mark.parametrize("name", ["CHARTEVENTS", "ICUSTAYS"])
def test_a_truncated_table_is_an_error(raw_folder: Path, name: str) -> None:
    path = raw_folder / f"{name}.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CohortError, match=rf"{name}.*cannot be read.*download it again"):
        read_source(raw_folder)


def test_one_person_in_two_stays_keeps_one_subject(raw_folder: Path) -> None:
    icu = raw_folder / "ICUSTAYS.csv.gz"
    table = pl.read_csv(icu, infer_schema=False).with_columns(SUBJECT_ID=pl.lit("10"))
    table.write_csv(raw_folder / "ICUSTAYS.csv")
    icu.unlink()
    records = MIMIC_III.read(raw_folder, COHORT)
    assert records.stays["subject"].to_list() == ["10", "10"]
    # A laboratory value has no stay id: within both stays of the person, it belongs to both.
    assert records.events.filter(pl.col("name") == "lactate")["stay_id"].to_list() == ["1", "2"]
