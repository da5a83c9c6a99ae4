"""The MEDS source, on a hand-made file."""

import polars as pl
import pytest

from medgym_offline.cohorts.meds import MedsEvents
from medgym_offline.diseases.sepsis.cohort import COHORT
from tests.cohorts.layouts import RICH, at, write
from tests.cohorts.support import build_cohort

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
    stays = MedsEvents().read(source, COHORT).stays
    # One hospital stay, which both ICU stays belong to; its end and codes are stamped before the second one's.
    assert stays.select("stay_id", "los_h", "subject", "sex", "weight_kg", "sepsis", "died").rows() == [
        ("10_1", 48.0, "10", "F", 64.0, True, True),
        ("10_2", 44.0, "10", "F", None, True, True),
    ]
    assert stays["age"][0] == pytest.approx(60.0, abs=0.01)


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
