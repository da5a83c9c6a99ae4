"""What a user can get wrong: one line that names it, exit code 1, no traceback."""

from __future__ import annotations

from pathlib import Path

from tests.leaderboard.workshop import DATASET, Workshop, refused, run


def test_unknown_names_suggest_the_nearest(shop: Workshop) -> None:
    zero = shop.evaluate("--policy", "zero")
    assert "prior/0" in refused(*zero, "--patients", "prior/00")
    assert "adaptive" in refused(*zero, "--timing", "adaptiv")
    assert "crossfit" in refused(*zero, "--worlds", "heldout")
    assert "clinician" in refused(*shop.evaluate("--policy", "clinican"))
    assert "medgym/sepsis-ind-v0" in refused("info", "medgym/sepsis-in-v0")
    assert "medgym/sepsis-ind-v0" in refused("verify", "medgym/sepsis-in-v0")
    assert "medgym/sepsis-ind-v0" in refused("generate", "medgym/sepsis-in-v0")
    assert "medgym/sepsis-ind-v0" in refused("download", "medgym/sepsis-in-v0")
    assert DATASET in refused("train", "cql", "--dataset", "medgym/workshp-v0", "--output", "x")
    assert "gcql" in refused("train", "gccql", "--dataset", DATASET, "--output", "x")
    assert "ind" in refused("train", "cql", "--dataset", DATASET, "--scope", "idn", "--output", "x")
    assert "no-such-bank" in refused("simulators", "info", "no-such-bank")


def test_numbers_out_of_range(shop: Workshop) -> None:
    assert "96" in refused(*shop.evaluate("--policy", "zero", "--decisions", "2"))
    assert "1 to 3" in refused(*shop.evaluate("--policy", "zero", "--patients", "4"))
    assert "1 to 3" in refused(*shop.evaluate("--policy", "zero", "--patients", "0"))
    assert "nobody" in refused(*shop.evaluate("--policy", "zero", "--patients", ","))


def test_a_policy_for_another_timing_or_without_the_patients(shop: Workshop) -> None:
    assert "timing" in refused(*shop.evaluate("--policy", shop.policy(), "--timing", "fixed"))
    done = run("train", "dqn", "--dataset", DATASET, "--updates", "1", "--patients", "1", "--output", "one")
    assert done.code == 0, done.err
    assert "prior/2" in refused(*shop.evaluate("--policy", "one/dqn-ind-seed0.safetensors"))


def test_results_that_are_none(shop: Workshop, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert "other.json" in refused("report", other, "--output", "r.html")
    assert "absent.json" in refused("report", "absent.json", "--output", "r.html")
    assert "absent" in refused("submit", "absent", "--name", "X", "--output", "s")


def test_a_folder_that_cannot_be_written(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "file" in refused(
        *shop.evaluate("--policy", "zero", "--patients", "1", "--output", tmp_path / "file" / "out")
    )
