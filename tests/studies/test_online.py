"""The study from end to end on two patients: its numbers, its resumption, its page, its command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgym_offline.errors import MedGymError
from medgym_offline.evaluation import evaluate
from medgym_offline.evaluation.protocol import load_protocol
from medgym_offline.online.runs import EngineOptions
from medgym_offline.policies import load_policy
from medgym_offline.simulators import SimulatorBank
from medgym_offline.studies.baselines import wrong_patient
from medgym_offline.studies.cases import model_errors
from medgym_offline.studies.markdown import online_markdown
from medgym_offline.studies.online import RESULT, load_study, run_online_study
from medgym_offline.studies.page import study_html
from medgym_offline.studies.tables import main_table
from tests.evaluation.test_report import Page
from tests.studies.conftest import RECIPE


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal but for the command that was typed and the version of the code."""

    def told(value: dict[str, Any]) -> Any:
        text = json.dumps(value, sort_keys=True)
        return re.sub(r'"(code|command)": "[^"]*"', "", text)

    return told(a) == told(b)


def test_every_row_is_there_with_intervals_around_means(result: dict[str, Any]) -> None:
    groups = [row["group"] for row in result["rows"].values()]
    assert groups.count("table") == 8
    assert groups.count("release") == 6
    names = {row["scope"] for row in result["rows"].values() if row["group"] == "baseline"}
    assert names == {"zero", "max", "random", "clinician", "cohort-constant", "patient-constant", "wrong-patient"}
    for row in result["rows"].values():
        for world in result["worlds"]:
            for found in row["statistics"]["table"][world].values():
                assert found["low"] - 1e-9 <= found["mean"] <= found["high"] + 1e-9
            values = row["per_patient"][world]["sofa_all"]
            assert np.mean(values) == pytest.approx(row["statistics"]["table"][world]["sofa_all"]["mean"], abs=1e-5)


def test_a_row_is_what_evaluate_says_of_its_policy(result: dict[str, Any], folder: Path, two: SimulatorBank) -> None:
    key = "trpo-lag-ind-scratch-adaptive-k4"
    policy = load_policy(folder / "policies" / f"{key}-0.safetensors")
    again = evaluate(policy, bank=two.with_backend("map"), episodes=RECIPE.episodes, decisions=4)
    for world in result["worlds"]:
        kept = result["rows"][key]["per_patient"][world]["sofa_all"]
        assert kept == pytest.approx(again.worlds[world].per_patient["sofa_all"], abs=1e-5)


def test_pairs_are_the_percentages_of_the_benchmark(result: dict[str, Any]) -> None:
    kinds = {p["kind"] for p in result["pairs"]}
    assert kinds == {"PopInd", "FixAdap", "DrInd"}
    for p in result["pairs"]:
        a, b = (
            np.array(result["rows"][p[side]]["per_patient"][p["world"]]["sofa_all"]) for side in ("reference", "method")
        )
        assert p["percent"] == pytest.approx(100 * (a.mean() - b.mean()) / a.mean(), abs=1e-3)
        assert p["share"] == pytest.approx(np.mean((b < a) + 0.5 * (a == b)))
        reference, method = result["rows"][p["reference"]], result["rows"][p["method"]]
        differ = {n for n in ("algorithm", "scope", "timing", "decisions") if reference[n] != method[n]}
        assert differ == ({"timing"} if p["kind"] == "FixAdap" else {"scope"})


def test_claims_name_rows_and_follow_their_numbers(result: dict[str, Any]) -> None:
    claims = {c["requirement"]: c for c in result["claims"]}
    assert len(claims) == len(result["claims"])
    assert {c["verdict"] for c in result["claims"]} == {"too few"}  # two patients show nothing
    one = claims["release Ind, fixed beats the clinicians' doses"]
    rows, world = result["rows"], one["headline"]
    a, b = (
        rows[k]["statistics"]["release"][world]["sofa_all"]["mean"]
        for k in ("clinician-fixed-k4", "release-ind-fixed-k4")
    )
    assert one["worlds"][world]["value"] == pytest.approx(100 * (a - b) / a)
    safer = claims["TRPO-Lag, Ind, fixed: higher Safe % than TRPO"]["worlds"]["own"]
    assert safer["value"] == pytest.approx(safer["lagrangian"] - safer["base"])
    near = claims["TRPO-Lag, Pop, adaptive: stays near its limit"]
    assert near["null"] == pytest.approx(1.1 * RECIPE.safe_limit)
    cost = rows["trpo-lag-pop-adaptive-k4"]["statistics"]["table"]["own"]["cost_mean"]["mean"]
    assert near["worlds"]["own"]["value"] == pytest.approx(cost)
    assert any(c["group"] == "Timing" and "K = 3" in c["requirement"] for c in result["claims"])


def test_a_finished_study_is_read_not_made_again(result: dict[str, Any], folder: Path, two: SimulatorBank) -> None:
    kept = {p: p.stat().st_mtime_ns for p in (folder / "work").rglob("*.safetensors")}
    again = run_online_study(RECIPE, folder, bank=two, options=EngineOptions(), progress=False)
    assert same(result, again)
    assert kept == {p: p.stat().st_mtime_ns for p in (folder / "work").rglob("*.safetensors")}
    assert same(again, load_study(folder))


def test_another_recipe_is_refused_in_the_same_folder(result: dict[str, Any], folder: Path, two: SimulatorBank) -> None:
    with pytest.raises(MedGymError, match=r"recipe.episodes: 2 -> 3.*--fresh"):
        run_online_study(replace(RECIPE, episodes=3), folder, bank=two, progress=False)


def test_fresh_deletes_a_study_and_nothing_else(two: SimulatorBank, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE, algorithms=("trpo",), timings=("fixed",), budget_decisions=(), ceiling_steps=0, case_percentiles=()
    )
    mine = tmp_path / "work" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    first = run_online_study(recipe, tmp_path, bank=two, fresh=True, progress=False)
    assert mine.exists()
    stale = tmp_path / "policies" / "ppo-pop-fixed-k4-0.safetensors"
    stale.write_bytes(b"")
    again = run_online_study(replace(recipe, seed=1), tmp_path, bank=two, fresh=True, progress=False)
    assert not stale.exists()
    assert again["provenance"]["training_seeds"] == [1]
    key = "trpo-pop-fixed-k4"
    assert first["rows"][key]["per_patient"] != again["rows"][key]["per_patient"]
    kept = load_policy(tmp_path / "policies" / f"{key}-0.safetensors")
    assert kept.provenance["seed"] == 1  # type: ignore[attr-defined]


_STUDY = """
import sys
from pathlib import Path
from medgym_offline.online.runs import EngineOptions
from medgym_offline.simulators import load_simulators
from medgym_offline.studies.online import run_online_study
from tests.studies.conftest import RECIPE
if __name__ == "__main__":
    bank = load_simulators("sepsis-v0").select([0, 1])
    run_online_study(RECIPE, Path(sys.argv[1]), bank=bank, options=EngineOptions("process", 1), progress=False)
"""


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_in_the_same_place(result: dict[str, Any], tmp_path: Path) -> None:
    """Killed with all its workers once it has scored something; the engine differs from the reference's too."""
    out, script = tmp_path / "study", tmp_path / "go.py"
    script.write_text(_STUDY)
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(out)]
    with subprocess.Popen(command, env=env, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while len(list((out / "work" / "scores").rglob("*.safetensors"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (out / RESULT).exists()
    before = {p: p.stat().st_mtime_ns for p in (out / "work").rglob("*.safetensors")}
    subprocess.run(command, env=env, check=True, timeout=240)
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())
    assert same(result, load_study(out))


def test_wrong_patients_never_get_their_own_policy(folder: Path, result: dict[str, Any]) -> None:
    actor = load_policy(folder / "policies" / "release-ind-adaptive-k4-0.safetensors")
    ids = tuple(result["patients"]["release"])
    other = wrong_patient(actor, ids)  # type: ignore[arg-type]
    assert other.patients == ids
    for place, patient in enumerate(ids):
        mine, given = actor.select([patient]).net.state_dict(), other.select([patient]).net.state_dict()  # type: ignore[attr-defined]
        donor = actor.select([ids[(place + 1) % 2]]).net.state_dict()  # type: ignore[attr-defined]
        assert all(bool((given[n] == donor[n]).all()) for n in donor)
        assert any(not bool((given[n] == mine[n]).all()) for n in mine)


def test_the_model_error_of_a_world_against_itself_is_zero(two: SimulatorBank) -> None:
    for errors in model_errors(two, "own").values():
        assert errors["ind"] == 0.0
        assert errors["pop"] > 0.0


def test_behaviours_of_another_bank_are_refused(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    with pytest.raises(MedGymError, match="behavio"):
        run_online_study(replace(RECIPE, behaviors="shipped"), tmp_path, bank=tiny_bank, progress=False)


def test_departures_from_a_full_study_are_told(result: dict[str, Any]) -> None:
    text = " ".join(result["departures"])
    for words in ("2 episodes", str(load_protocol().episodes), "1 training seed", "too narrow"):
        assert words in text


def test_the_page_is_whole_reaches_nowhere_and_says_what_the_result_says(result: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    text = study_html(result)
    page = Page(text)
    assert page.open == []
    assert not re.search(r"(?:src|href)=\"(?!#)|url\((?!#)|@import|https?://", text)
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    shown = " ".join(page.text)
    for claim in result["claims"]:
        assert claim["requirement"] in shown
    for row in result["rows"].values():
        assert row["label"] in shown
    assert "prefers-color-scheme: dark" in text
    figures = [a for t, a in page.tags if t == "div" and a.get("role") == "img"]
    assert len(figures) >= 10
    assert all(a["aria-label"] for a in figures)
    assert study_html(json.loads(json.dumps(result))) == text


def test_the_markdown_has_the_numbers_of_the_page(result: dict[str, Any]) -> None:
    text = online_markdown(result)
    for world in result["worlds"]:
        table = main_table(result, world)
        assert f"**{table.caption}**" in text
        for name, (value, interval), *_ in table.rows:
            assert f"| {name} | {value} ({interval}) |" in text
    for claim in result["claims"]:
        assert f"| {claim['requirement']} | {claim['verdict']} |" in text


def test_one_timing_without_budgets_and_ceilings_still_makes_a_page(two: SimulatorBank, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    recipe = replace(
        RECIPE, algorithms=("trpo",), timings=("fixed",), budget_decisions=(), ceiling_steps=0, case_percentiles=()
    )
    found = run_online_study(recipe, tmp_path, bank=two, progress=False)
    assert found["ceilings"] is None
    assert found["cases"] == []
    assert {c["group"] for c in found["claims"]} == {"Individual policies", "Individual policies of the table"}
    assert Page(study_html(found)).open == []
    assert online_markdown(found).startswith("# Online study of")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--recipe", "nowhere.toml"], "nowhere.toml"),
        (["--bank", "sepsis-v9"], "sepsis-v9"),
        (["--device", "tpu"], "tpu"),
        (["--engine", "threads"], "threads"),
    ],
)
def test_the_command_names_a_mistake_in_one_line(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from medgym_offline.cli import main

    with pytest.raises(SystemExit) as end:
        main(["study", "online", "--recipe", "study-online-quick", "--output", str(tmp_path / "x"), *arguments])
    assert end.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "x").exists()
