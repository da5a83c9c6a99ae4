"""Verification: claims are compared with what the policies do when they are run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgym_offline.errors import SubmissionError
from medgym_offline.evaluation import Evaluation
from medgym_offline.files import code_version, sha256_file
from medgym_offline.leaderboard import VerificationReport, read_board, verify_submission
from medgym_offline.leaderboard.comparison import FRESH_METRICS, Row, fresh_rows, tolerance
from medgym_offline.leaderboard.verify import _fresh_seed
from medgym_offline.policies import load_policy
from tests.leaderboard.test_submission import change
from tests.leaderboard.workshop import DATASET, Workshop, refused, run


@pytest.fixture
def folder(shop: Workshop, tmp_path: Path) -> Path:
    """A good submission of two seeds."""
    target = tmp_path / "submission"
    done = run("submit", shop.result(0), shop.result(1), "--name", "My Method", "--output", target)
    assert done.code == 0, done.err
    return target


def test_an_honest_submission_is_accepted_and_recorded(folder: Path, shop: Workshop) -> None:
    assert run("leaderboard", "add", folder, "--file", "board.json").code == 0
    done = run("leaderboard", "verify", folder, "--bank", shop.bank, "--file", "board.json", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["accepted"] is True
    assert report["faults"] == []
    assert {row["check"] for row in report["rows"]} >= {"mean", "interval", "run 1", "run 2", "fresh seeds run 2"}
    (entry,) = read_board("board.json")
    record = entry["verification"]
    assert record["result_hash"] == report["result_hash"]
    assert record["version"] == report["version"] == code_version()
    assert record["fresh_seeds"] is True
    assert 0 <= record["largest_deviation"] < 1
    assert verify_submission(folder, shop.bank, fresh=False, progress=False).result_hash == report["result_hash"]


@pytest.mark.parametrize(
    "edit",
    [
        lambda e: e["metrics"]["own"].update(sofa_all=e["metrics"]["own"]["sofa_all"] - 0.5),
        lambda e: e["metrics"]["held-out"].update(safe_hourly=e["metrics"]["held-out"]["safe_hourly"] + 5),
        lambda e: e["runs"][1]["own"].update({"return": e["runs"][1]["own"]["return"] + 2}),
        lambda e: e["metrics"]["own"].update(support_distance=0.1),
        lambda e: e["intervals"]["own"].update(sofa_all=[0.0, 1.0]),
        lambda e: e["intervals"]["own"].pop("return"),
        lambda e: e["metrics"]["own"].update(invented=1.0),
        lambda e: e["runs"].pop(),
        lambda e: e["curves"]["own"]["sofa"].__setitem__(3, 1.0),
        lambda e: e["curves"]["own"]["lactate"].pop(),
        lambda e: e["curves"].pop("held-out"),
    ],
)
def test_false_numbers_are_refused(folder: Path, shop: Workshop, edit: Callable[[dict[str, Any]], object]) -> None:
    change(folder, edit)
    done = run("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh", "--file", "board.json")
    assert done.code == 1
    assert "refused" in done.out
    assert not Path("board.json").exists()


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda e: e["bank"].update(content_hash="0" * 64), "bank"),
        (lambda e: e["protocol"].update(hash="0" * 64), "protocol"),
        (lambda e: e["protocol"]["settings"].update(critical_hour=0.0), "critical_hour"),
        (lambda e: e["protocol"].update(deviations={}), "deviations"),
        (lambda e: e["protocol"]["settings"].update(version=7), "version"),
        (lambda e: e["dataset"].update(identity="0" * 64), "made by other means"),
        (lambda e: e.update(seeds=[5, 6]), "seeds"),
        (lambda e: e["policies"][0]["training"].update(updates=10**9), "policies"),
    ],
)
def test_another_protocol_bank_or_history_is_refused(
    folder: Path, shop: Workshop, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    change(folder, edit)
    assert reason in refused("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh")


def test_a_policy_swapped_together_with_its_sha256_is_refused(folder: Path, shop: Workshop) -> None:
    """The entry's numbers are those of the first policy; the folder is consistent, and holds another one."""
    assert run("train", "dqn", "--dataset", DATASET, "--updates", "40", "--seeds", "1", "-o", "other").code == 0
    (other,) = Path("other").glob("*.safetensors")
    entry = json.loads((folder / "entry.json").read_text())
    target = folder / entry["policies"][0]["file"]
    target.write_bytes(other.read_bytes())

    def claim(entry: dict[str, Any]) -> None:
        entry["policies"][0].update(sha256=sha256_file(target), bytes=target.stat().st_size)

    change(folder, claim)
    assert "policies" in refused("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh")

    def claim_all(entry: dict[str, Any]) -> None:
        named = target.with_name(f"{target.stem.rpartition('-')[0]}-{sha256_file(target)[:8]}.safetensors")
        target.rename(named)
        training = load_policy(named).provenance
        entry["policies"][0].update(file=f"policies/{named.name}", training=dict(training))

    change(folder, claim_all)
    done = run("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh", "--file", "board.json")
    assert done.code == 1
    assert "refused" in done.out, done.err
    assert "fault: own" in done.out
    assert not Path("board.json").exists()


def test_a_refused_report_has_no_record() -> None:
    report = VerificationReport("x", (Row("mean", "own", "sofa_all", 3.0, 4.0, 0.1),), (), "0" * 64, True)
    assert not report.accepted
    with pytest.raises(SubmissionError, match="refused"):
        _ = report.record


def test_built_in_policies_verify_too(shop: Workshop) -> None:
    evaluate = shop.evaluate("--policy", "random", "--timing", "adaptive", "--dataset", DATASET, "--output", "result")
    assert run(*evaluate).code == 0
    assert run("submit", "result", "--name", "Random", "--output", "s").code == 0
    assert run("leaderboard", "verify", "s", "--bank", shop.bank).code == 0


def test_rows_hold_within_their_tolerance_only() -> None:
    assert Row("mean", "own", "sofa_all", 3.0, 3.01, 0.02).ok
    assert not Row("mean", "own", "sofa_all", 3.0, 3.03, 0.02).ok
    assert not Row("mean", "own", "sofa_all", float("nan"), 3.0, 0.02).ok
    assert tolerance("sofa_all", 4.0) == pytest.approx(0.0025)
    assert tolerance("safe_hourly", 80.0) == pytest.approx(0.09)


def test_fresh_seeds_follow_from_the_policies(folder: Path) -> None:
    entry = json.loads((folder / "entry.json").read_text())
    first = _fresh_seed(entry)
    assert first == _fresh_seed(entry) != entry["protocol"]["settings"]["seed"]
    entry["policies"][0]["sha256"] = "0" * 64
    assert _fresh_seed(entry) != first


def test_fresh_seeds_accept_noise_and_refuse_a_shift(shop: Workshop) -> None:
    """Honest entries of pure noise pass; one whose runs were better on the claimed seeds does not."""
    result = Evaluation.from_json(shop.result(0) / "result.json")
    world, patients = result.worlds["own"], 30
    rng = np.random.default_rng(0)

    def like(shift: float) -> list[Evaluation]:
        columns = {m: rng.normal(5.0 + shift, 0.3, patients) for m in FRESH_METRICS}
        columns["patient"] = np.array([str(p) for p in range(patients)])
        return [replace(result, worlds={"own": replace(world, per_patient=columns)}) for _ in range(2)]

    honest = [all(row.ok for row in fresh_rows(like(0.0), like(0.0))) for _ in range(300)]
    assert all(honest)
    assert not any(all(row.ok for row in fresh_rows(like(-1.0), like(0.0))) for _ in range(50))
