"""The MEDS source: on a hand-made file, and on the real demo, whose published tables it reproduces."""

import numpy as np
import polars as pl
import pytest

from medgym_offline.cohorts.meds import MedsEvents
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.diseases.sepsis.cohort.normalized import NormalizedTables
from tests.cohorts.layouts import RICH, at, write
from tests.cohorts.support import DRUGS, RANGES, build_cohort
from tests.cohorts.test_clinical import same_stays

#: A second stay on the ICU; the hospital stay ends at a midnight, hours before the person died in the bed.
HISTORY = [
    (-2, "HOSPITAL_ADMISSION//URGENT//TRANSFER", ""), (-2, "GENDER//F", ""), (2, "SUBJECT_WEIGHT_AT_INFUSION//KG", 64),
    (48, "ICU_ADMISSION//SICU", ""), (50, "LAB//220277//%", 91), (51, "LAB//220277//%", 92),
    (72, "HOSPITAL_DISCHARGE//DIED", ""), (72, "DIAGNOSIS//ICD//10//A419", ""), (92, "ICU_DISCHARGE//SICU", ""),
]  # fmt: skip


@pytest.fixture
def source(tmp_path):
    rows = [(10, at(hour), code, value) for hour, code, value in HISTORY]
    return write(tmp_path / "h", "meds", RICH, events=rows)


def test_stays_are_pairs_of_admission_and_discharge(source):
    first, second = MedsEvents().read(source, COHORT).stays.to_dicts()
    assert (first["stay_id"], second["stay_id"]) == ("10_1", "10_2")
    assert (first["los_h"], second["los_h"]) == (48.0, 44.0)
    assert (first["subject"], first["sex"], first["weight_kg"]) == ("10", "F", 64.0)
    assert first["age"] == pytest.approx(60.0, abs=0.01)
    # One hospital stay, which both ICU stays belong to; its end and codes are stamped before the second one's.
    assert all(stay[flag] for stay in (first, second) for flag in ("sepsis", "died"))


def test_parquet_shards_with_the_standards_names_and_types_read_the_same(source, tmp_path):
    typed = pl.read_csv(source / "events.csv", schema_overrides={"value": pl.Float32}, try_parse_dates=True)
    shards = tmp_path / "meds" / "data" / "train"
    shards.mkdir(parents=True)
    for part in range(2):
        shard = typed.gather_every(2, part).rename({"value": "numeric_value"})
        shard.sort("subject_id", "time", maintain_order=True).write_parquet(shards / f"{part}.parquet")
    again, records = (MedsEvents().read(folder, COHORT) for folder in (tmp_path / "meds", source))
    assert again.stays.equals(records.stays)
    left, right = (r.events.drop("total", "end_h").sort(pl.all()) for r in (again, records))
    assert left.drop("value").equals(right.drop("value"))
    assert left["value"].to_numpy() == pytest.approx(right["value"].to_numpy(), rel=1e-6)
    typed.write_parquet(tmp_path / "one.parquet")
    for path in (tmp_path / "meds", tmp_path / "one.parquet"):
        summary = build_cohort([path], tmp_path / "c.parquet")
        assert (summary.layouts, summary.stays) == ({str(path): "MEDS events of MIMIC-IV"}, 2)


@pytest.fixture(scope="module")
def pair(clinical_data):
    folder = clinical_data / "mimic-iv-demo-2.2"
    return NormalizedTables().read(folder, COHORT), MedsEvents().read(folder / "meds_events_subset.csv.gz", COHORT)


@pytest.mark.clinical
def test_meds_stays_equal_the_published(pair):
    joined = same_stays(*pair, 140)
    # Three people died in the ICU whose hospital discharge is stamped with the midnight before they left it; the
    # published tables looked for a discharge after the stay and found none. MEDS_DEATH confirms all three.
    for flag, stays in (("died", {"10007818_1", "10037861_1", "10038081_1"}), ("sepsis", {"10007818_1", "10037861_1"})):
        differ = joined.filter(pl.col(flag) != pl.col(flag + "_raw"))
        assert set(differ["stay_id"]) == stays
        assert differ[flag + "_raw"].all()


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
    # Charting times of the published tables have four decimals; a match may be off by rounding.
    nearest = {"on": "t_h", "by": "stay_id", "strategy": "nearest", "tolerance": 2e-4, "check_sortedness": False}
    both = published.sort("t_h", "value").join_asof(meds.sort("t_h", "value"), suffix="_meds", **nearest)
    assert published.height == both["value_meds"].count() == count
    # The published tables left the laboratory's FiO2 (50816) out; 133 of its times are nowhere in them.
    assert meds.height == count + (133 if variable == "fio2" else 0)
    assert (both["value"] - both["value_meds"]).abs().max() < 1e-3


@pytest.mark.clinical
@pytest.mark.parametrize(("names", "count", "slack"), [(list(DRUGS), 1689, 2e-5), (["fluids"], 5160, 1e-3)])
def test_meds_treatments_equal_the_published(pair, names, count, slack):
    by_name = pl.col("name").replace_strict
    factor = by_name({name: drug.factor for name, drug in DRUGS.items()}, default=1.0)
    share = pl.coalesce("total", pl.col("value") * factor)
    left, right = (r.events.filter(pl.col("name").is_in(names)).with_columns(share=share) for r in pair)
    # Two doses that cannot be are still in the records; `assemble` turns them away for every source.
    limit = by_name({name: drug.limit for name, drug in DRUGS.items()}, default=np.inf)
    right = right.filter(pl.col("value").is_null() | (pl.col("value") <= limit))
    assert left.height == right.height == count
    exposure = [((t["end_h"] - t["t_h"]) * t["share"]).sum() for t in (left, right)]
    # Of orders of one item that end at one minute, the published tables paired volumes by the order of rows.
    assert exposure[1] == pytest.approx(exposure[0], rel=slack)
    assert right["share"].sum() == pytest.approx(left["share"].sum(), rel=2e-5)
