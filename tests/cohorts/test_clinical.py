"""The real open demos: the raw source reproduces the normalized tables, and the cohort looks as was published."""

import numpy as np
import pytest

from medgym_offline.cohorts import Cohort, combine, coverage, select_stays
from medgym_offline.cohorts.mimic import MIMIC_III
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.diseases.sepsis.cohort.normalized import NormalizedTables
from tests.cohorts.support import STATES, build_cohort, read_source

pytestmark = pytest.mark.clinical


def same_stays(published, raw, count):
    """The stays of both sources side by side: the same people, as long, as old and as heavy."""
    joined = published.stays.join(raw.stays, on="stay_id", suffix="_raw")
    assert joined.height == published.stays.height == raw.stays.height == count
    for column in ("subject", "sex"):
        assert (joined[column] == joined[column + "_raw"]).all(), column
    for column, slack in (("los_h", 1e-3), ("age", 0.01), ("weight_kg", 0.05)):
        assert joined[column].is_null().equals(joined[column + "_raw"].is_null().alias(column)), column
        assert (joined[column] - joined[column + "_raw"]).abs().max() < slack, column
    return joined


@pytest.fixture(scope="module")
def demo3(clinical_data):
    return clinical_data / "mimic-iii-demo-1.4"


@pytest.fixture(scope="module")
def both(clinical_data, demo3):
    return combine([read_source(demo3), read_source(clinical_data / "mimic-iv-demo-2.2")])


def test_raw_stays_equal_the_normalized(demo3):
    normalized, raw = NormalizedTables().read(demo3, COHORT), MIMIC_III.read(demo3 / "raw_subset", COHORT)
    joined = same_stays(normalized, raw, 136)
    for column in ("sepsis", "died"):
        assert (joined[column] == joined[column + "_raw"]).all(), column


def test_the_published_cohort_is_reproduced(both):
    """As an independent count found, which allowed several stays of one person."""
    chosen = select_stays(both, 110, one_per_subject=False)
    grid = chosen.to_grid()
    found = coverage(chosen)
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
    inside = grid.inside
    vasopressor, fluids = grid.treatment[..., 1][inside], grid.treatment[..., 2][inside]
    assert (vasopressor > 0).mean() == pytest.approx(0.35, abs=0.01)
    assert np.percentile(vasopressor, 99.5) == pytest.approx(0.751, abs=0.01)
    assert (fluids > 0).mean() == pytest.approx(0.83, abs=0.01)
    assert np.percentile(fluids, 99.5) == pytest.approx(1111, rel=0.01)
    assert fluids.max() == pytest.approx(5038, rel=0.01)


def test_the_release_cohort_has_110_people_once_each(clinical_data, demo3, tmp_path):
    summary = build_cohort([demo3, clinical_data / "mimic-iv-demo-2.2"], tmp_path / "c.parquet", 110)
    assert summary.stays == summary.subjects == 110
    assert "ODbL" in Cohort.read(tmp_path / "c.parquet").metadata["license"]


def test_raw_and_normalized_give_the_same_grid(demo3):
    published, raw = read_source(demo3).to_grid(), read_source(demo3 / "raw_subset").to_grid()
    assert published.patients == raw.patients
    np.testing.assert_array_equal(published.mask, raw.mask)
    same = [column for column, name in enumerate(STATES) if name != "gcs"]
    np.testing.assert_allclose(published.values[..., same], raw.values[..., same], rtol=1e-4)
    for column, slack in enumerate((1e-3, 1e-3)):
        assert np.abs(published.treatment - raw.treatment)[..., column].max() < slack
    more = raw.treatment[..., 2] - published.treatment[..., 2]
    assert more.min() > -1e-2
    # Orders of sodium bicarbonate 8.4 % in mEq, that is mL: the published tables left them out.
    changed = (more > 1e-2).any(axis=1)
    assert 0 < changed.sum() <= 13
    np.testing.assert_allclose(
        published.derived["fluid_balance"][~changed], raw.derived["fluid_balance"][~changed], atol=1e-4
    )
