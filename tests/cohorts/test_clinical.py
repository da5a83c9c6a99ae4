"""The real open demos: raw tables and MEDS reproduce the published ones, and the cohort looks as was published."""

import numpy as np
import polars as pl
import pytest

from medgym_offline.cohorts import Cohort, combine, coverage, select_stays
from medgym_offline.cohorts.meds import MedsEvents
from medgym_offline.cohorts.mimic import MIMIC_III
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.diseases.sepsis.cohort.normalized import NormalizedTables
from tests.cohorts.support import DRUGS, RANGES, STATES, build_cohort, read_source

pytestmark = pytest.mark.clinical


def same_stays(published, raw, count):
    """The stays of both sources side by side: the same people, as long, as old and as heavy."""
    joined = published.stays.join(raw.stays, on="stay_id", suffix="_raw")
    assert joined.height == published.stays.height == raw.stays.height == count
    assert joined.select("subject", "sex").rows() == joined.select("subject_raw", "sex_raw").rows()
    for column, slack in (("los_h", 1e-3), ("age", 0.01), ("weight_kg", 0.05)):
        assert joined[column].is_null().equals(joined[column + "_raw"].is_null().alias(column)), column
        assert (joined[column] - joined[column + "_raw"]).abs().max() < slack, column
    return joined


@pytest.fixture(scope="module")
def demo3(clinical_data):
    return clinical_data / "mimic-iii-demo-1.4"


def test_raw_stays_equal_the_normalized(demo3):
    normalized, raw = NormalizedTables().read(demo3, COHORT), MIMIC_III.read(demo3 / "raw_subset", COHORT)
    joined = same_stays(normalized, raw, 136)
    assert joined.select("sepsis", "died").rows() == joined.select("sepsis_raw", "died_raw").rows()


def test_the_published_cohort_is_reproduced(clinical_data, demo3):
    """As an independent count found, which allowed several stays of one person."""
    both = combine([read_source(demo3), read_source(clinical_data / "mimic-iv-demo-2.2")])
    chosen = select_stays(both, 110, one_per_subject=False)
    grid = chosen.to_grid()
    found, inside = coverage(chosen), grid.inside
    assert np.bincount(found.covered).tolist() == [0, 0, 0, 0, 0, 49, 61]
    assert len(set(chosen.subjects)) == 90
    assert sum(p.startswith("mimic-iii/") for p in chosen.patients) == 46
    assert (grid.length == 96).sum() == 60
    assert (grid.treatment[:, :, 1] > 0).any(axis=1).sum() == 74
    assert chosen.stays["died"].sum() == 28
    assert (~grid.mask.any(axis=1)).sum(axis=0).tolist() == [0, 13, 25, 0, 0, 3]
    counts = dict(zip(STATES, grid.mask.sum(axis=(0, 1))))
    published = {"spo2": 7945, "pao2": 835, "bilirubin": 278, "gcs": 2134, "urine": 5494, "lactate": 680}
    for variable, count in published.items():
        assert counts[variable] == pytest.approx(count, rel=0.015), variable
    vasopressor, fluids = grid.treatment[..., 1][inside], grid.treatment[..., 2][inside]
    assert (vasopressor > 0).mean() == pytest.approx(0.35, abs=0.01)
    assert np.percentile(vasopressor, 99.5) == pytest.approx(0.751, abs=0.01)
    assert (fluids > 0).mean() == pytest.approx(0.83, abs=0.01)
    assert np.percentile(fluids, 99.5) == pytest.approx(1111, rel=0.01)
    assert fluids.max() == pytest.approx(5038, rel=0.01)


def test_the_release_cohort_has_110_people_once_each(clinical_data, demo3, tmp_path):
    summary = build_cohort([demo3, clinical_data / "mimic-iv-demo-2.2"], tmp_path / "c.parquet", patients=110)
    assert summary.stays == summary.subjects == 110
    assert "ODbL" in Cohort.read(tmp_path / "c.parquet").metadata["license"]


def test_raw_and_normalized_give_the_same_grid(demo3):
    published, raw = read_source(demo3).to_grid(), read_source(demo3 / "raw_subset").to_grid()
    assert published.patients == raw.patients
    np.testing.assert_array_equal(published.mask, raw.mask)
    same = np.array(STATES) != "gcs"
    np.testing.assert_allclose(published.values[..., same], raw.values[..., same], rtol=1e-4)
    more = raw.treatment - published.treatment
    assert np.abs(more[..., :2]).max() < 1e-3
    assert more[..., 2].min() > -1e-2
    # Orders of sodium bicarbonate 8.4 % in mEq, that is mL: the published tables left them out.
    changed = (more[..., 2] > 1e-2).any(axis=1)
    assert 0 < changed.sum() <= 13
    left, right = (grid.derived["fluid_balance"][~changed] for grid in (published, raw))
    np.testing.assert_allclose(left, right, atol=1e-4)


@pytest.fixture(scope="module")
def pair(clinical_data):
    folder = clinical_data / "mimic-iv-demo-2.2"
    return NormalizedTables().read(folder, COHORT), MedsEvents().read(folder / "meds_events_subset.csv.gz", COHORT)


def test_meds_stays_equal_the_published(pair):
    joined = same_stays(*pair, 140)
    # Three people died in the ICU whose hospital discharge is stamped with the midnight before they left it; the
    # published tables looked for a discharge after the stay and found none. MEDS_DEATH confirms all three.
    for flag, stays in (("died", {"10007818_1", "10037861_1", "10038081_1"}), ("sepsis", {"10007818_1", "10037861_1"})):
        differ = joined.filter(pl.col(flag) != pl.col(flag + "_raw"))
        assert set(differ["stay_id"]) == stays
        assert differ[flag + "_raw"].all()


COUNTS = {"spo2": 13554, "pao2": 624, "bilirubin": 323, "gcs": 3246, "urine": 7325, "lactate": 617, "fio2": 1744}


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
