"""Bad input as hospitals send it: what nobody measured, rows twice or in any order, values that never vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgym_offline.cohorts import Cohort, cohort_card, select_stays
from tests.cohorts.conftest import write_normalized
from tests.cohorts.support import STATES, build_cohort


def test_stays_without_a_variable_are_kept_and_flagged(tmp_path: Path) -> None:
    # Odd stays have neither PaO2 nor bilirubin.
    source = write_normalized(tmp_path / "mimic-iii", stays=4)
    summary = build_cohort([source], tmp_path / "c.parquet", patients=None)
    odd = ("mimic-iii/101", "mimic-iii/103")
    assert summary.stays == 4
    assert summary.flags.absent["pao2"] == summary.flags.absent["bilirubin"] == odd
    assert summary.flags.absent["spo2"] == ()
    assert "pao2: no value in 2 stays, kept (the prior carries it there)" in summary.lines()
    assert summary.to_json()["flags"]["absent"]["pao2"] == odd
    cohort = Cohort.read(tmp_path / "c.parquet")
    assert set(select_stays(cohort, 4, one_per_subject=False).patients) == set(cohort.patients)
    grid = cohort.to_grid()
    column = STATES.index("pao2")
    assert not grid.mask[1, :, column].any()
    assert np.isnan(grid.values[1, :, column]).all()
    card = cohort_card(cohort)
    assert "(the prior carries it there): mimic-iii/101, mimic-iii/103" in card


def test_a_variable_that_never_varies_is_flagged(tmp_path: Path) -> None:
    source = write_normalized(tmp_path / "mimic-iii", stays=4)
    summary = build_cohort([source], tmp_path / "c.parquet")
    # Every stay has three GCS of 12; lactate differs between stays but not within one.
    assert summary.flags.single == {"gcs": 12.0}
    everyone = tuple(f"mimic-iii/{n}" for n in (100, 101, 102, 103))
    assert summary.flags.constant["gcs"] == summary.flags.constant["lactate"] == everyone
    assert summary.flags.constant["spo2"] == summary.flags.constant["bilirubin"] == ()
    assert any(line.startswith("gcs: one value in the whole cohort, 12 points") for line in summary.lines())
    card = cohort_card(Cohort.read(tmp_path / "c.parquet"))
    assert "- gcs: one value in the whole cohort, 12 points" in card
    assert "12/12/12/12/12" in card
