"""The MEDS source: on a hand-made file, and on the real demo, whose published tables it reproduces."""

import polars as pl
import pytest

from medgym_offline.cohorts.meds import MedsEvents
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.diseases.sepsis.cohort.normalized import NormalizedTables
from tests.cohorts.support import DRUGS, RANGES, build_cohort, detect_source, given

EVENTS: list[tuple[str, str, str, float | None]] = [
    ("7", "2120-01-01 00:00:00", "MEDS_BIRTH", None),
    ("7", "2180-01-01 08:00:00", "HOSPITAL_ADMISSION//URGENT//TRANSFER", None),
    ("7", "2180-01-01 10:00:00", "ICU_ADMISSION//MICU", None),
    ("7", "2180-01-01 09:00:00", "LAB//50813//mmol/L", 4.0),
    ("7", "2180-01-01 11:00:00", "LAB//220277//%", 95.0),
    ("7", "2180-01-01 11:00:00", "LAB//220045//bpm", 80.0),
    ("7", "2180-01-01 12:00:00", "LAB//220739//UNK", 4.0),
    ("7", "2180-01-01 12:00:00", "LAB//223900//UNK", 5.0),
    ("7", "2180-01-01 12:00:00", "LAB//223901//UNK", 6.0),
    ("7", "2180-01-01 12:00:00", "LAB//50821//mm Hg", 40.0),
    ("7", "2180-01-01 12:05:00", "LAB//220224//mmHg", 88.0),
    ("7", "2180-01-01 12:00:00", "SUBJECT_FLUID_OUTPUT//226559//ml", 200.0),
    ("7", "2180-01-01 12:00:00", "SUBJECT_FLUID_OUTPUT//227488//ml", 100.0),
    ("7", "2180-01-01 12:00:00", "INFUSION_START//221906", 0.1),
    ("7", "2180-01-01 12:00:00", "SUBJECT_WEIGHT_AT_INFUSION//KG", 64.0),
    ("7", "2180-01-01 13:00:00", "INFUSION_START//222315", 2.4),
    ("7", "2180-01-01 14:00:00", "INFUSION_END//221906", 1.0),
    ("7", "2180-01-01 14:00:00", "INFUSION_START//221906", 0.2),
    ("7", "2180-01-01 15:00:00", "INFUSION_END//221906", 1.0),
    ("7", "2180-01-01 15:00:00", "INFUSION_END//222315", 4.8),
    ("7", "2180-01-01 16:00:00", "INFUSION_START//225158", None),
    ("7", "2180-01-01 18:00:00", "INFUSION_END//225158", 500.0),
    ("7", "2180-01-01 19:00:00", "INFUSION_START//225158", None),
    ("7", "2180-01-02 10:00:00", "ICU_DISCHARGE//MICU", None),
    ("7", "2180-01-02 10:00:00", "ICU_ADMISSION//SICU", None),
    ("7", "2180-01-02 12:00:00", "LAB//220277//%", 91.0),
    ("7", "2180-01-02 13:00:00", "LAB//220277//%", 92.0),
    # Stamped with midnight, hours before the person died in the bed.
    ("7", "2180-01-03 00:00:00", "HOSPITAL_DISCHARGE//DIED", None),
    ("7", "2180-01-03 00:00:00", "DIAGNOSIS//ICD//10//A419", None),
    ("7", "2180-01-03 20:00:00", "ICU_DISCHARGE//SICU", None),
    ("7", "2180-01-01 08:00:00", "GENDER//F", None),
]


def table():
    return pl.DataFrame(EVENTS, schema=["subject_id", "time", "code", "value"], orient="row")


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "events.csv"
    table().write_csv(path)
    return MedsEvents().read(path, COHORT)


def test_stays_are_pairs_of_admission_and_discharge(records):
    first, second = records.stays.to_dicts()
    assert (first["stay_id"], second["stay_id"]) == ("7_1", "7_2")
    assert (first["los_h"], second["los_h"]) == (24.0, 34.0)
    assert (first["subject"], first["sex"], first["weight_kg"]) == ("7", "F", 64.0)
    assert first["age"] == pytest.approx(60.0, abs=0.01)
    # One hospital stay, which both ICU stays belong to; its end and codes are stamped before the second one's.
    assert all(stay[flag] for stay in (first, second) for flag in ("sepsis", "died"))


def test_parquet_shards_with_the_standards_names_and_types_read_the_same(records, tmp_path):
    typed = table().with_columns(
        pl.col("subject_id").cast(pl.Int64), pl.col("time").str.to_datetime(), pl.col("value").cast(pl.Float32)
    )
    folder = tmp_path / "meds"
    (folder / "data" / "train").mkdir(parents=True)
    for part in range(2):
        shard = typed.gather_every(2, part).rename({"value": "numeric_value"})
        shard.sort("subject_id", "time", maintain_order=True).write_parquet(
            folder / "data" / "train" / f"{part}.parquet"
        )
    assert detect_source(folder).layout == "MEDS events of MIMIC-IV"
    again = MedsEvents().read(folder, COHORT)
    assert again.stays.equals(records.stays)
    left, right = (r.events.drop("total", "end_h").sort(pl.all()) for r in (again, records))
    assert left.drop("value").equals(right.drop("value"))
    assert left["value"].to_numpy() == pytest.approx(right["value"].to_numpy(), rel=1e-6)
    one = tmp_path / "one.parquet"
    typed.write_parquet(one)
    summary = build_cohort([one], tmp_path / "c.parquet")
    assert summary.layouts == {str(one): "MEDS events of MIMIC-IV"}
    assert summary.stays == 2


@pytest.fixture(scope="module")
def pair(clinical_data):
    folder = clinical_data / "mimic-iv-demo-2.2"
    return NormalizedTables().read(folder, COHORT), MedsEvents().read(folder / "meds_events_subset.csv.gz", COHORT)


#: Charting times of the published tables have four decimals; a match may be off by rounding.
_CLOSE = 2e-4


def matched(left, right, column, value):
    """Rows of `left` with the nearest row of the same stay in `right`, where that is within rounding."""
    a, b = left.sort(column, value), right.sort(column, value).rename({value: "found"})
    joined = a.join_asof(b, on=column, by="stay_id", strategy="nearest", tolerance=_CLOSE, check_sortedness=False)
    return joined.filter(pl.col("found").is_not_null())


@pytest.mark.clinical
def test_meds_stays_equal_the_published(pair):
    published, meds = pair
    joined = published.stays.join(meds.stays, on="stay_id", suffix="_meds")
    assert joined.height == published.stays.height == meds.stays.height == 140
    assert (joined["subject"] == joined["subject_meds"]).all()
    assert (joined["sex"] == joined["sex_meds"]).all()
    for column, slack in (("los_h", 1e-3), ("age", 0.01), ("weight_kg", 0.05)):
        assert joined[column].is_null().equals(joined[column + "_meds"].is_null().alias(column)), column
        assert (joined[column] - joined[column + "_meds"]).abs().max() < slack, column
    # Three people died in the ICU whose hospital discharge is stamped with the midnight before they left it; the
    # published tables looked for a discharge after the stay and found none. MEDS_DEATH confirms all three.
    for flag, stays in (("died", {"10007818_1", "10037861_1", "10038081_1"}), ("sepsis", {"10007818_1", "10037861_1"})):
        differ = joined.filter(pl.col(flag) != pl.col(flag + "_meds"))
        assert set(differ["stay_id"]) == stays
        assert differ[flag + "_meds"].all()


COUNTS = {"spo2": 13554, "pao2": 624, "bilirubin": 323, "gcs": 3246, "urine": 7325, "lactate": 617, "fio2": 1744}


@pytest.mark.clinical
@pytest.mark.parametrize(("variable", "count"), COUNTS.items())
def test_meds_observations_equal_the_published(pair, variable, count):
    published, meds = (r.events.filter(pl.col("name") == variable) for r in pair)
    value = pl.col("value")
    if variable == "fio2":
        meds = meds.with_columns(value=pl.when(value <= 1).then(value * 100).otherwise(value))
    if variable != "urine":
        meds = meds.filter(value.is_between(*RANGES[variable]))
    # The published tables hold the sum of what was charted at one minute.
    meds = meds.group_by("stay_id", "t_h").agg(value.sum() if variable == "urine" else value.mean())
    both = matched(published.select("stay_id", "t_h", "value"), meds, "t_h", "value")
    assert published.height == both.height == count
    # The published tables left the laboratory's FiO2 (50816) out; 133 of its times are nowhere in them.
    assert meds.height == count + (133 if variable == "fio2" else 0)
    assert (both["value"] - both["found"]).abs().max() < 1e-3


@pytest.mark.clinical
def test_meds_treatments_equal_the_published(pair):
    for name, names, count in (("vasopressors", list(DRUGS), 1689), ("fluids", ["fluids"], 5160)):
        left, right = (given(r, names) for r in pair)
        if name == "vasopressors":
            # Two doses that cannot be are still in the records; `assemble` turns them away for every source.
            limits = {drug: entry.limit for drug, entry in DRUGS.items()}
            right = right.filter(pl.col("value") <= pl.col("name").replace_strict(limits, return_dtype=pl.Float64))
        assert left.height == right.height == count
        exposure = [((t["end_h"] - t["t_h"]) * t["share"]).sum() for t in (left, right)]
        # Of orders of one item that end at one minute, the published tables paired volumes by the order of rows.
        assert exposure[1] == pytest.approx(exposure[0], rel=2e-5 if name == "vasopressors" else 1e-3)
        assert right["share"].sum() == pytest.approx(left["share"].sum(), rel=2e-5)
