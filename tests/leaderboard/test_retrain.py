"""`leaderboard verify --retrain`: policies whose files do not travel are trained again from what they record."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgym_offline.evaluation import Evaluation
from medgym_offline.files import cache_folder
from medgym_offline.leaderboard import build_page, read_board, read_submission
from medgym_offline.leaderboard.comparison import FRESH_METRICS, Row, rows_of, training_rows
from medgym_offline.policies import StackedActor, load_policy, save_policy
from tests.leaderboard.test_submission import change
from tests.leaderboard.workshop import DATASET, Workshop, refused, run


@pytest.fixture
def folder(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submission of two seeds without its policy files, and a cache that has none."""
    monkeypatch.setenv("MEDGYM_CACHE", str(tmp_path / "cache"))
    target = tmp_path / "submission"
    assert run("submit", shop.result(0), shop.result(1), "--name", "My Method", "--output", target).code == 0
    shutil.rmtree(target / "policies")
    return target


def nudged(shop: Workshop, scope: str, seeds: int, output: Path) -> Path:
    """A submission of policies as another CPU would have trained them: every weight a little off."""
    results = []
    for seed in range(seeds):
        policy = load_policy(shop.policy(seed, scope))
        assert isinstance(policy, StackedActor)
        with torch.no_grad():
            for weight in policy.net.parameters():
                weight *= 1 + 1e-6
        file = save_policy(policy, Path(f"other-{scope}-{seed}.safetensors"))
        results.append(Path(f"other-{scope}-{seed}"))
        evaluate = shop.evaluate("--policy", file, "--dataset", DATASET, "--worlds", "own,held-out")
        assert run(*evaluate, "--output", results[-1]).code == 0
    assert run("submit", *results, "--name", "Other", "--output", output).code == 0
    shutil.rmtree(output / "policies")
    return output


def test_training_again_gives_the_same_bytes_and_needs_no_file(folder: Path, shop: Workshop) -> None:
    line = refused("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh")
    assert "--retrain" in line
    assert run("leaderboard", "verify", folder, "--bank", shop.bank, "--retrain", "--file", "board.json").code == 0
    (entry,) = read_board("board.json")
    assert entry["verification"]["retrained"] == "same bytes"
    (page,) = (build_page([entry], "site").parent / "entries").glob("*.html")
    assert "policies trained again: same bytes" in page.read_text("utf-8")
    # What was trained is kept: from now on the entry is verified as if its files had come with it.
    kept = read_submission(folder).policies
    assert [p.parent for p in kept if isinstance(p, Path)] == [cache_folder() / "policies"] * 2
    assert [p.read_bytes() for p in kept if isinstance(p, Path)] == [shop.policy(n).read_bytes() for n in (0, 1)]
    assert run("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh", "--file", "other.json").code == 0
    other = read_board("other.json")
    assert "retrained" not in other[0]["verification"]
    assert "trained again" not in (build_page(other, "other").parent / "entries" / page.name).read_text("utf-8")


def test_a_false_number_is_refused_after_training_again(folder: Path, shop: Workshop) -> None:
    change(folder, lambda e: e["runs"][1]["own"].update({"return": e["runs"][1]["own"]["return"] + 2}))
    done = run("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh", "--retrain", "--file", "b.json")
    assert done.code == 1
    assert "fault: own return (run 2)" in done.out
    assert not Path("b.json").exists()


def test_weights_with_other_last_bits_are_judged_by_the_noise_of_training(
    shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDGYM_CACHE", str(tmp_path / "cache"))
    other = nudged(shop, "ind", 2, tmp_path / "other")
    arguments = ("leaderboard", "verify", other, "--bank", shop.bank, "--no-fresh", "--retrain")
    done = run(*arguments, "--file", "board.json")
    assert done.code == 0, done.out + done.err
    assert "trained again: within the noise of training" in done.out
    assert "recorded on board.json" in done.out
    assert read_board("board.json")[0]["verification"]["retrained"] == "within the noise of training"
    assert not (cache_folder() / "policies").exists()
    honest = (other / "entry.json").read_text("utf-8")
    lies: dict[str, Callable[[dict[str, Any]], object]] = {
        "held-out sofa_all (trained again, run 1)": lambda e: e["runs"][0]["held-out"].update(sofa_all=-100.0),
        "own support_distance (trained again, mean)": lambda e: e["metrics"]["own"].update(support_distance=-100.0),
        "own sofa_all (trained again, interval)": lambda e: e["intervals"]["own"].update(sofa_all=[-100.0, 0.0]),
        "own lactate_mean (trained again, curve)": lambda e: e["curves"]["own"]["lactate"].__setitem__(3, -100.0),
        "own return_worst_decile (trained again, run 2)": lambda e: e["runs"][1]["own"].update(
            return_worst_decile=1000.0
        ),
    }
    for fault, lie in lies.items():
        (other / "entry.json").write_text(honest, encoding="utf-8")
        change(other, lie)
        done = run(*arguments)
        assert done.code == 1
        assert f"fault: {fault}" in done.out, done.out

    for scope, seeds in (("ind", 1), ("pop", 1)):
        alone = nudged(shop, scope, seeds, tmp_path / scope)
        assert "verify with the policy files" in refused(
            "leaderboard", "verify", alone, "--bank", shop.bank, "--no-fresh", "--retrain"
        )


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda e: e["policies"][0]["training"].pop("seed"), "no seed"),
        (lambda e: e["policies"][0]["training"].update(seed=True), "no seed"),
        (lambda e: e["policies"][1]["training"].update(config=[]), "no config"),
        (lambda e: e["policies"][0]["training"].update(algorithm="d3rlpy-cql"), "this package's own"),
        (lambda e: e["policies"][0]["training"].update(update=50), "checkpoint"),
        (lambda e: e["policies"][0]["training"]["config"].update(invented=1), "invented"),
        (lambda e: e["policies"][0]["training"]["config"].update(hidden=-1), "config"),
        (lambda e: e["policies"][0]["training"].update(identity="0" * 64), "made by other means"),
        (lambda e: e["policies"][0]["training"].update(dataset="medgym/nowhere-v0"), "nowhere"),
        (lambda e: e["policies"][0].update(file="policies/../../x.safetensors"), "refused"),
    ],
)
def test_what_cannot_be_trained_again_is_refused_with_the_reason(
    folder: Path, shop: Workshop, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    change(folder, edit)
    assert reason in refused("leaderboard", "verify", folder, "--bank", shop.bank, "--retrain")


def test_a_built_in_was_not_trained(shop: Workshop) -> None:
    evaluate = shop.evaluate("--policy", "zero", "--timing", "adaptive", "--dataset", DATASET, "--output", "result")
    assert run(*evaluate).code == 0
    assert run("submit", "result", "--name", "Zero", "--output", "s").code == 0
    assert "was not trained" in refused("leaderboard", "verify", "s", "--bank", shop.bank, "--retrain")


def test_the_noise_of_training_accepts_other_seeds_and_refuses_a_shift(shop: Workshop) -> None:
    """Trainings that differ as seeds do pass; a claim that is better than they are does not."""
    result = Evaluation.from_json(shop.result(0) / "result.json")
    world, patients = result.worlds["own"], 60
    rng = np.random.default_rng(1)

    def rows(shift: float) -> bool:
        level = {m: rng.normal(5.0, 2.0, patients) for m in FRESH_METRICS}  # patients differ more than seeds do
        trained = [
            {m: level[m] + rng.normal(0.0, 0.5, patients) for m in FRESH_METRICS} | {"patient": np.arange(patients)}
            for _ in range(6)
        ]
        again = [replace(result, worlds={"own": replace(world, per_patient=columns)}) for columns in trained[:3]]
        means = [
            [{"own": {m: float(c[m].mean()) for m in FRESH_METRICS}} for c in part]
            for part in (trained[:3], trained[3:])
        ]
        pairs = [row for n, (b, a) in enumerate(zip(*means)) for row in rows_of(f"run {n}", a, b)]
        found = training_rows([replace(row, claimed=row.claimed + shift) for row in pairs], again)
        assert len(found) == 3 * len(FRESH_METRICS)
        return all(row.ok for row in found)

    assert all(rows(0.0) for _ in range(300))
    assert not any(rows(-0.8) for _ in range(50))


def test_parts_of_the_patients_get_the_room_that_their_number_asks_for(shop: Workshop) -> None:
    """A tenth of the patients have the noise of a mean times the square root of ten, and so on."""
    runs = [Evaluation.from_json(shop.result(n) / "result.json") for n in (0, 1)]
    names = ("return", "return_iqm", "return_worst_decile")
    rows = [Row(check, "own", name, 0.0, 0.0, 1.0) for name in names for check in ("run 1", "curve")]
    room = [row.tolerance - 1.0 for row in training_rows(rows, runs)]
    assert room[0] > 0
    assert room == pytest.approx([room[0] * f for part in (1, 2, 10) for f in (part**0.5, 2 * part**0.5)])
