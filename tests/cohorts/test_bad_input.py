"""Bad input as hospitals send it: what nobody measured, rows twice or in any order, values that never vary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medgym_offline.cohorts import Cohort, cohort_card, select_stays
from tests.cohorts.conftest import Row, long_table, write_csv, write_normalized
from tests.cohorts.support import STATES, build_cohort, from_table, observation_flags, read_source


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


def test_no_stay_of_the_cohort_may_have_a_variable(rows: list[Row]) -> None:
    cohort = from_table(long_table([r for r in rows if r[3] != "lactate"]))
    flags = observation_flags(cohort.to_grid())
    assert flags.absent["lactate"] == flags.absent["pao2"] == ("a/1", "a/2")
    assert flags.single == {}
    assert "| lactate | mmol/L | 0 | 0/0/0 | - | - | 2 | 0 |" in cohort_card(cohort)


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


def test_impossible_values_are_rejected_whatever_the_layout(tmp_path: Path) -> None:
    source = write_normalized(tmp_path / "clean" / "mimic-iii", stays=2)
    clean = read_source(source)
    other = write_normalized(tmp_path / "wild" / "mimic-iii", stays=2)
    header, *lines = (other / "observations.csv").read_text().splitlines()
    wild = [
        *[(100, "spo2", 3.3 + n, v) for n, v in enumerate((0, 101, -4, "nan", "inf", ""))],
        *[(100, "lactate", 3.3, v) for v in (0, 400)],
        *[(100, "pao2", 3.3, v) for v in (5, 5000)],
        (100, "gcs", 3.3, 2),
        (100, "fio2", 3.3, 12),
        (100, "lactate", 300, 2),
        (999, "lactate", 3, 2),
    ]
    write_csv(other / "observations.csv", header, [line.split(",") for line in lines] + wild)
    cohort = read_source(other)
    assert cohort.table.equals(clean.table)
    assert cohort.rejections.rows == {
        "spo2: impossible value": 3,
        "spo2: value is missing or not a number": 3,
        "lactate: impossible value": 2,
        "pao2: impossible value": 2,
        "gcs: impossible value": 1,
        "fio2: between 1 and 21, neither a fraction nor a percentage": 1,
        "lactate: after discharge": 1,
        "no such stay in the stays table": 1,
        "unknown variable 'hr'": 60,
    }


def test_the_card_names_the_commands_that_made_it(tmp_path: Path) -> None:
    source = write_normalized(tmp_path / "mimic-iii", stays=4)
    build_cohort([source], tmp_path / "c.parquet", patients=2)
    card = cohort_card(Cohort.read(tmp_path / "c.parquet"))
    assert "medgym-offline cohort build mimic-iii --patients 2 --output c.parquet\n" in card
    assert "medgym-offline cohort card c.parquet\n" in card
    assert str(tmp_path) not in card
