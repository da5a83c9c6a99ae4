"""The offline study and GCQL's ablation, on data rolled out from six patients of a shipped bank."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgym_offline.datasets.generation import generate
from medgym_offline.datasets.recipes import find_recipe
from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.errors import MedGymError
from medgym_offline.evaluation import evaluate
from medgym_offline.offline import train
from medgym_offline.online.runs import EngineOptions
from medgym_offline.policies.actor import StackedActor
from medgym_offline.simulators import SimulatorBank, load_simulators
from medgym_offline.stack import StackedMLP
from medgym_offline.studies.ablation import COMPARED, AblationRecipe, load_ablation_recipe, run_ablation
from medgym_offline.studies.ablation_table import ablation_markdown
from medgym_offline.studies.markdown import offline_markdown
from medgym_offline.studies.offline import (
    OfflineStudyRecipe,
    load_offline_recipe,
    load_offline_study,
    run_offline_study,
)
from medgym_offline.studies.offline_page import offline_html
from medgym_offline.studies.offline_tables import support_table, table7
from medgym_offline.studies.offline_units import Source, require_current
from medgym_offline.studies.record import record_study
from medgym_offline.studies.tables import cut
from tests.evaluation.test_report import Page
from tests.rolled import rolled

SMALL = {"updates": 12, "hidden": 8, "batch": 8, "codewords": 4, "candidates": [2, 2, 1]}
RECIPE = OfflineStudyRecipe("test", seeds=2, episodes=2, settings=SMALL)
ABLATION = AblationRecipe(
    "test",
    patients=0,
    seeds=2,
    episodes=2,
    settings=SMALL,
    variants={
        "cql": {"algorithm": "cql", "label": "no guard"},
        "gcql": {"label": "guarded"},
        "states": {"guard": "state", "beta_target": 2.0, "beta_actor": 0.0, "theta_quantile": 0.5},
    },
)


def _source(timing: str) -> Source:
    bank = load_simulators("sepsis-v0").select(range(6))
    width = 4 if timing == "adaptive" else 3

    def actor(patients: tuple[str, ...] | None) -> StackedActor:
        count = 1 if patients is None else len(patients)
        net = StackedMLP(count, (9, 8, width), "tanh", seeds=list(range(count)))
        return StackedActor(net, patients, 4).requires_grad_(False)

    behaviors = {"ind": actor(bank.patients), "pop": actor(None)}
    config = ProcessConfig(timing=timing, decisions=4)  # type: ignore[arg-type]
    data = rolled(bank, behaviors["ind"].act, 6, config, f"medgym/test-{timing}-v0")
    return Source(data, bank, bank.patients, "ind", behaviors)


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return [_source("fixed"), _source("adaptive")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("offline")


@pytest.fixture(scope="module")
def result(sources: list[Source], folder: Path) -> dict[str, Any]:
    return run_offline_study(RECIPE, folder, sources=sources, options=EngineOptions(), progress=False)


@pytest.fixture(scope="module")
def ablation(sources: list[Source], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("ablation")
    return run_ablation(ABLATION, home, sources=sources, options=EngineOptions(), progress=False)


def _timeless(value: Any) -> str:
    """A result without what depends on when and where it was made, as text."""
    text = json.loads(json.dumps(value))
    for row in text["rows"].values():
        row["training"].pop("seconds")
    text["provenance"].pop("command")
    return json.dumps(text, sort_keys=True)


def test_the_table_has_the_rows_of_table_7_at_both_timings(result: dict[str, Any]) -> None:
    rows = list(result["rows"].values())
    for timing in ("fixed", "adaptive"):
        here = [(r["algorithm"], r["scope"]) for r in rows if r["timing"] == timing]
        assert here[:2] == [("trpo-lag", "ind"), ("trpo-lag", "pop")]
        assert here[2:] == [(a, s) for a in RECIPE.algorithms for s in ("ind", "pop")]
    assert {r["seeds"] for r in rows if r["group"] == "table"} == {2}
    assert {r["seeds"] for r in rows if r["group"] == "behaviour"} == {1}


def test_a_score_is_what_evaluate_says_of_a_policy_trained_apart(result: dict[str, Any], sources: list[Source]) -> None:
    for source, algorithm, scope in ((sources[0], "gcql", "ind"), (sources[1], "cql-discrete", "pop")):
        policy = train(algorithm, source.transitions, scope, 1, RECIPE.config(algorithm), progress=False).policy
        again = evaluate(policy, bank=source.bank, episodes=2, dataset=source.transitions)
        row = result["rows"][f"{algorithm}-{scope}-{source.transitions.timing}-k4"]
        assert set(row["scores"]) == set(again.worlds) == {"own", "held-out"}
        for world, found in again.worlds.items():
            for metric, values in row["scores"][world].items():
                assert values[1] == pytest.approx(found.per_patient[metric], abs=2e-6), metric


def test_table_7_recomputed_from_the_scores(result: dict[str, Any]) -> None:
    """Means, gains and win rates by the definitions of the benchmark, as the page's cells show them."""

    def sofa(key: str, metric: str = "sofa_all") -> np.ndarray:
        return np.array(result["rows"][key]["scores"][world][metric])

    for world in result["worlds"]:
        for timing in ("fixed", "adaptive"):
            table = {row[0]: row for row in table7(result, world, timing).rows}
            behaviour = sofa(f"trpo-lag-ind-{timing}-k4").mean()
            for key, row in result["rows"].items():
                if row["timing"] != timing:
                    continue
                _, mean, gain, wins, against, last, safe = table[row["label"]]
                assert mean[0] == f"{sofa(key).mean():.2f}"
                assert last[0] == f"{sofa(key, 'sofa_96h').mean():.2f}"
                assert safe[0] == cut(sofa(key, "safe_hourly").mean())
                if row["scope"] == "ind":
                    pop = sofa(key.replace("-ind-", "-pop-"))
                    assert gain[0] == cut(100 * (pop.mean() - sofa(key).mean()) / pop.mean())
                    better = sofa(key).mean(0) - pop.mean(0)
                    assert wins[0] == cut(100 * np.mean((better < 0) + 0.5 * (better == 0)))
                else:
                    assert (gain, wins) == ("-", "-")
                if row["group"] == "behaviour":
                    assert against == "-"
                else:
                    assert against[0] == cut(100 * (behaviour - sofa(key).mean()) / behaviour)


def test_support_is_that_of_the_decisions(result: dict[str, Any], sources: list[Source]) -> None:
    table = {row[0]: row for row in support_table(result, "own", "fixed").rows}
    behaviour = np.mean(result["rows"]["trpo-lag-ind-fixed-k4"]["scores"]["own"]["support_distance"])
    for row in result["rows"].values():
        if row["timing"] == "fixed":
            mean = np.mean(row["scores"]["own"]["support_distance"])
            assert table[row["label"]][1][0] == f"{mean:.2f}"
            if row["group"] == "table":
                assert table[row["label"]][2] == f"{mean / behaviour:.1f}"
    policy = train("dqn", sources[0].transitions, "ind", 0, RECIPE.config("dqn"), progress=False).policy
    other = train("dqn", sources[0].transitions, "ind", 1, RECIPE.config("dqn"), progress=False).policy
    both = [evaluate(p, bank=sources[0].bank, episodes=2, dataset=sources[0].transitions) for p in (policy, other)]
    wanted = np.mean([e.worlds["own"].support["policy"]["quantiles"] for e in both], axis=0)
    assert result["rows"]["dqn-ind-fixed-k4"]["support"]["own"]["policy"] == pytest.approx(wanted, abs=1e-4)


def test_claims_name_rows_and_follow_their_numbers(result: dict[str, Any]) -> None:
    claims = {c["requirement"]: c for c in result["claims"]}
    assert len(claims) == len(result["claims"])
    rows, world = result["rows"], "held-out"

    def mean(key: str, metric: str) -> float:
        return float(np.mean(rows[key]["scores"][world][metric]))

    closer = claims["GCQL-discrete, Ind, adaptive: closer to the data than CQL-discrete"]["worlds"][world]
    a, b = (mean(f"{n}-discrete-ind-adaptive-k4", "support_distance") for n in ("cql", "gcql"))
    assert closer["value"] == pytest.approx(100 * (a - b) / a, abs=1e-3)
    floor = claims["CQL, fixed: Pop beats behaviour cloning"]["worlds"][world]
    a, b = (mean(f"{n}-pop-fixed-k4", "sofa_all") for n in ("bc", "cql"))
    assert floor["value"] == pytest.approx(100 * (a - b) / a, abs=1e-3)
    for claim in claims.values():
        cell = claim["worlds"][world]
        inside = cell["low"] <= claim["null"] <= cell["high"]
        assert (cell["verdict"] == "not shown") == inside
        assert inside or (cell["verdict"] == "holds") == (cell["low"] > claim["null"])


def test_an_interrupted_study_ends_in_the_same_place(
    result: dict[str, Any], folder: Path, sources: list[Source], tmp_path: Path
) -> None:
    """Some units are missing and one is half a file, as after a kill; what is there is read, not made again."""
    shutil.copytree(folder / "work", tmp_path / "work")
    units = sorted((tmp_path / "work" / "units").rglob("*.safetensors"))
    assert len(units) == 2 * (2 + 2 * 14)
    for unit in units[::2]:
        unit.unlink()
    units[1].write_bytes(units[1].read_bytes()[:100])
    kept = {unit: unit.stat().st_mtime_ns for unit in units[3::2]}
    again = run_offline_study(RECIPE, tmp_path, sources=sources, options=EngineOptions(), progress=False)
    assert _timeless(again) == _timeless(result)
    assert all(unit.stat().st_mtime_ns == when for unit, when in kept.items())
    assert _timeless(load_offline_study(tmp_path)) == _timeless(result)


def test_another_recipe_is_refused_in_the_same_folder(
    result: dict[str, Any], folder: Path, sources: list[Source]
) -> None:
    with pytest.raises(MedGymError, match=r"recipe.episodes: 2 -> 3.*--fresh"):
        run_offline_study(replace(RECIPE, episodes=3), folder, sources=sources, progress=False)


def test_datasets_that_do_not_belong_together_are_refused(sources: list[Source], tmp_path: Path) -> None:
    fixed = sources[0]
    for wrong, words in (
        ([fixed, fixed], "one timing each"),
        ([fixed, replace(sources[1], patients=fixed.patients[:3])], "make a study of each"),
        ([replace(fixed, behavior="clinician")], "'clinician'"),
    ):
        with pytest.raises(MedGymError, match=words):
            run_offline_study(RECIPE, tmp_path, sources=wrong, progress=False)
    assert not list(tmp_path.iterdir())


def test_departures_are_told(result: dict[str, Any]) -> None:
    text = " ".join(result["departures"])
    for words in ("2 episodes", "2 training seeds", "too narrow"):
        assert words in text


def test_the_page_is_whole_reaches_nowhere_and_says_what_the_result_says(result: dict[str, Any], folder: Path) -> None:
    pytest.importorskip("matplotlib")
    text = offline_html(result)
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
    assert len(figures) == 1 + 4 * 4  # win rates; scores, curves, spreads and support of two timings in two worlds
    assert all(a["aria-label"] for a in figures)
    assert offline_html(load_offline_study(folder)) == text


def test_the_markdown_has_the_numbers_of_the_page(result: dict[str, Any]) -> None:
    text = offline_markdown(result)
    for world in result["worlds"]:
        for timing in ("fixed", "adaptive"):
            for table in (table7(result, world, timing), support_table(result, world, timing)):
                assert f"**{table.caption}**" in text
                for name, (value, interval), *_ in table.rows[1:]:
                    assert f"| {name} | {value} ({interval}) |" in text
    for claim in result["claims"]:
        assert text.count(f"| {claim['requirement']} | {claim['verdict']} |") == 1
    assert {line.count("|") for line in text.split("## What is claimed")[1].splitlines() if line[:1] == "|"} == {6}


def test_a_record_makes_the_same_page_and_is_the_same_file_again(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page, data = record_study(result, offline_markdown(result), tmp_path / "kept")
    first = data.read_bytes()
    found = load_offline_study(data)
    assert offline_markdown(found) == offline_markdown(result) == page.read_text()
    assert offline_html(found) == offline_html(result)
    row, whole = next((found["rows"][k], r) for k, r in result["rows"].items() if r["group"] == "table")
    assert row["scores"]["own"] == {"sofa_all": whole["scores"]["own"]["sofa_all"]}
    record_study(found, offline_markdown(found), tmp_path / "kept")
    assert data.read_bytes() == first
    for text in (first[:100], b"no gzip", gzip.compress(b"[]"), gzip.compress(b"no json")):
        data.write_bytes(text)
        with pytest.raises(MedGymError, match=r"kept\.json\.gz: not the result of an offline study"):
            load_offline_study(data)
    with pytest.raises(MedGymError, match=r"cannot read the result"):
        load_offline_study(tmp_path / "nowhere.json.gz")


def test_a_study_of_one_scope_and_dataset_still_makes_a_page(sources: list[Source], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    recipe = replace(RECIPE, algorithms=("cql",), scopes=("pop",), seeds=1)
    source = replace(sources[0], behaviors={"ind": sources[0].behaviors["ind"]})
    found = run_offline_study(recipe, tmp_path, sources=[source], progress=False)
    assert {p["kind"] for p in found["pairs"]} == {"BehaviorMethod", "BehaviorSupport"}
    assert Page(offline_html(found)).open == []
    assert "| CQL" in offline_markdown(found)


def test_ablation_recomputed_from_the_scores(ablation: dict[str, Any]) -> None:
    assert [d["timing"] for d in ablation["datasets"]] == ["fixed", "adaptive"]
    for dataset in ablation["datasets"]:
        by_name = {v["name"]: v for v in dataset["variants"]}
        assert list(by_name) == ["cql", "gcql", "states"]
        assert set(by_name["states"]["against"]) == {"cql", "gcql"}
        for world in dataset["worlds"]:
            for metric in COMPARED:
                a, b = (np.array(by_name[n]["scores"][world][metric]) for n in ("cql", "states"))
                assert a.shape == (2, 6)
                found = by_name["states"]["against"]["cql"][world][metric]
                assert found["difference"] == pytest.approx(b.mean() - a.mean(), abs=1e-4)
                low, high = found["difference_interval"]
                sign = 1 if metric in ("return", "safe_hourly") else -1
                wanted = "not shown"
                if low > 0 or high < 0:
                    wanted = "better" if sign * low > 0 else "worse"
                assert found["verdict"] == wanted
                statistic = by_name["states"]["statistics"][world][metric]
                assert statistic["mean"] == pytest.approx(b.mean(), abs=1e-4)
                assert statistic["low"] <= statistic["mean"] <= statistic["high"]
        # Half of the rows lie outside a ball whose radius is their median distance.
        assert by_name["cql"]["outside_share"] is None
        assert by_name["states"]["outside_share"] == pytest.approx(0.5, abs=0.03)


def test_ablation_trains_what_a_variant_says(ablation: dict[str, Any], sources: list[Source]) -> None:
    source = sources[1]
    policy = train("gcql", source.transitions, "ind", 1, ABLATION.config("states"), progress=False).policy
    again = evaluate(policy, bank=source.bank, episodes=2, dataset=source.transitions).worlds["own"].per_patient
    for metric in COMPARED:
        kept = ablation["datasets"][1]["variants"][2]["scores"]["own"][metric][1]
        assert kept == pytest.approx(again[metric], abs=2e-6)


def test_ablation_in_words(ablation: dict[str, Any]) -> None:
    text = ablation_markdown(ablation)
    for dataset in ablation["datasets"]:
        assert dataset["dataset"] in text
        for variant in dataset["variants"]:
            mean = variant["statistics"]["held-out"]["sofa_all"]["mean"]
            assert f"| {variant['label']} | {mean:.3f} (" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2 * 2 * 3  # datasets, worlds; scores, against CQL, against the default
    for table in tables:
        assert len({line.count("|") for line in table.strip().split("\n")}) == 1


def test_ablation_goes_on_where_it_was(sources: list[Source], tmp_path: Path) -> None:
    recipe = replace(ABLATION, seeds=1)
    first = run_ablation(recipe, tmp_path, sources=sources[:1], progress=False)
    units = sorted((tmp_path / "work" / "units").rglob("*.safetensors"))
    assert len(units) == 3
    units[0].unlink()
    kept = units[1].stat().st_mtime_ns
    again = run_ablation(recipe, tmp_path, sources=sources[:1], progress=False)
    assert units[1].stat().st_mtime_ns == kept
    for a, b in zip(first["datasets"][0]["variants"], again["datasets"][0]["variants"]):
        assert a["scores"] == b["scores"]
    with pytest.raises(MedGymError, match=r"recipe\.episodes: 2 -> 1"):
        run_ablation(replace(recipe, episodes=1), tmp_path, sources=sources[:1], progress=False)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("datasets = []", "datasets is"),
        ('datasets = "medgym/sepsis-ind-v0"', "datasets is 'medgym"),
        ('algorithms = ["cql", "cql"]', "without repetition"),
        ('algorithms = ["cqll"]', "did you mean 'cql'"),
        ('scopes = ["dr"]', "'dr'"),
        ("seeds = 0", "seeds is 0"),
        ("patients = true", "patients is True"),
        ('profile = "slow"', "'slow'"),
        ("settings = 3", "settings is 3"),
        ("[settings]\nupdats = 3", "'updats'"),
        ("[settings]\nupdates = 0", "updates is 0"),
        ('[settings]\nupdates = "x"', "wrong type"),
        ("[algorithm_settings.cqll]", "'cqll'"),
        ("[algorithm_settings.cql]\ntheta = -1.0", "theta is -1.0"),
        ("seed = 3\nepisode = 4", "did you mean 'episodes'"),
    ],
)
def test_a_mistake_in_an_offline_recipe_is_named_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(MedGymError) as raised:
        load_offline_recipe(file)
    assert named in str(raised.value)
    assert "mine.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "variants is"),
        ("[variants.cql]\n[variants.gcql]\nguard = 'state'", "set beta_target"),
        ("[variants.cql]\n[variants.gcql]\nthetta = 0.5", "did you mean 'theta'"),
        ("[variants.cql]\nalgorithm = 'cqll'\n[variants.gcql]", "'cqll'"),
        ("default = 'x'\n[variants.cql]\n[variants.gcql]", "'x'"),
        ("reference = 'x'\n[variants.cql]\n[variants.gcql]", "'x'"),
        ("[variants]\ncql = 3\ngcql = 4", "variants.cql is 3"),
    ],
)
def test_a_mistake_in_an_ablation_is_named_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(MedGymError) as raised:
        load_ablation_recipe(file)
    assert named in str(raised.value)
    assert "mine.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_shipped_recipes_are_valid() -> None:
    for name in ("study-offline", "study-offline-quick", "study-offline-twin"):
        recipe = load_offline_recipe(name)
        assert recipe.algorithms == RECIPE.algorithms
        assert len(recipe.datasets) == 2
    longer = load_offline_recipe("study-offline-pop")
    assert longer.scopes == ("pop",)
    assert longer.config("cql") == replace(load_offline_recipe("study-offline").config("cql"), updates=10_000)
    ablation = load_ablation_recipe("ablation-gcql")
    assert ablation.seeds >= 5
    assert len(ablation.datasets) == 2
    assert ablation.config("gcql") == load_offline_recipe("study-offline").config("gcql")  # the default is what ships
    assert ablation.algorithm(ablation.reference) == "cql"
    with pytest.raises(MedGymError, match="study-offline-quick"):
        load_offline_recipe("study-offline-quik")


@pytest.mark.parametrize("study", ["offline", "gcql"])
@pytest.mark.parametrize(
    ("arguments", "named"), [(["--recipe", "nowhere.toml"], "nowhere.toml"), (["--device", "tpu"], "tpu")]
)
def test_the_commands_name_a_mistake_in_one_line(
    study: str, arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from medgym_offline.cli import main

    with pytest.raises(SystemExit) as end:
        main(["study", study, "--output", str(tmp_path / "x"), *arguments])
    assert end.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert named in lines[0]
    assert not (tmp_path / "x").exists()


def test_data_of_another_bank_or_behaviour_are_refused(tiny_bank: SimulatorBank) -> None:
    made = generate("medgym/sepsis-ind-fixed-v0", patients=1, episodes=2, output_id="medgym/mine-v0", progress=False)
    recipe, bank = find_recipe("medgym/sepsis-ind-fixed-v0"), load_simulators("sepsis-v0")
    require_current(made.id, recipe, bank)
    with pytest.raises(MedGymError, match=r"bank sepsis-v0 .* medgym-offline generate medgym/mine-v0"):
        require_current(made.id, replace(recipe, behavior="zero"), tiny_bank)
    with pytest.raises(MedGymError, match="behavior ind "):
        require_current(made.id, replace(recipe, behavior="pop"), bank)
