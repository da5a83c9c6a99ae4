"""Per-patient tables, subgroups, transfer, repeatability, and evaluations that go on after an interruption."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

import medgym_offline.evaluation.evaluator as evaluator
from medgym_offline.errors import PolicyError, ProtocolError
from medgym_offline.evaluation import Evaluation, evaluate, print_evaluations, write_report
from medgym_offline.evaluation.console import transfer_lines
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import mean_intervals
from medgym_offline.evaluation.subgroups import patient_facts, subgroup_members, subgroup_rows
from medgym_offline.evaluation.tables import write_patient_tables
from medgym_offline.evaluation.transfer import partner_shifts
from medgym_offline.policies import StackedActor, save_policy
from medgym_offline.simulators import SimulatorBank
from medgym_offline.stack import StackedMLP

from .conftest import Constant


def test_facts_are_those_of_the_first_states(tiny_bank: SimulatorBank) -> None:
    facts = patient_facts(tiny_bank)
    first = tiny_bank.denormalize(tiny_bank.initial_state()[:, None])[:, 0]
    assert facts["patient"] == list(tiny_bank.patients)
    assert facts["initial_lactate"] == pytest.approx(first[:, 5].tolist(), abs=1e-3)
    assert facts["source"] == [p.split("/")[0] for p in tiny_bank.patients]


def test_groups_cover_everybody_once_per_kind_and_rows_are_means() -> None:
    g = np.random.default_rng(0)
    facts = {
        "patient": [f"a/{i}" for i in range(40)],
        "source": ["a"] * 25 + ["b"] * 15,
        "initial_lactate": list(g.uniform(0.5, 8, 40)),
        "initial_sofa": list(g.uniform(0, 12, 40)),
    }
    columns = {"sofa_all": g.uniform(0, 12, 40), "safe_hourly": g.uniform(0, 100, 40)}
    members = subgroup_members(facts, columns["sofa_all"])
    for kind in ("initial lactate", "initial SOFA", "data source"):
        assert (np.sum([m for (by, _), m in members.items() if by == kind], axis=0) == 1).all()
    worst = members["outcome", "worst decile of SOFA (all)"]
    assert worst.sum() == 4
    assert columns["sofa_all"][worst].min() >= columns["sofa_all"][~worst].max()
    settings = Bootstrap(resamples=400)
    for row in subgroup_rows(facts, columns, settings):
        inside = members[row["by"], row["group"]]
        assert row["patients"] == inside.sum()
        for name, values in columns.items():
            assert row[name][0] == pytest.approx(values[inside].mean())
            assert row[name][1:] == pytest.approx(mean_intervals(values[inside][None], settings)[0])


def test_a_group_of_one_has_no_interval() -> None:
    facts = {"patient": ["a"], "source": ["x"], "initial_lactate": [3.0], "initial_sofa": [5.0]}
    for row in subgroup_rows(facts, {"sofa_all": np.array([4.0])}, Bootstrap(resamples=10)):
        assert row["sofa_all"] == [4.0, None, None]


def test_results_hold_subgroups_of_every_world(results: dict[str, Evaluation], tmp_path: Path) -> None:
    found = results["near-ind"]
    for result in found.worlds.values():
        assert sum(r["patients"] for r in result.subgroups if r["by"] == "initial lactate") == 4
    again = Evaluation.from_json(found.to_json())
    assert again.patients == found.patients
    assert again.worlds["own"].subgroups == found.worlds["own"].subgroups


def test_tables_hold_every_patient_and_metric(results: dict[str, Evaluation], tmp_path: Path) -> None:
    found = results["near-ind"]
    written = write_patient_tables(found, tmp_path)
    rows = list(csv.DictReader((tmp_path / "patients.csv").open(encoding="utf-8")))
    assert [(r["world"], r["patient"]) for r in rows] == [
        (w, p) for w in found.worlds for p in found.patients["patient"]
    ]
    for row in rows:
        result = found.worlds[row["world"]]
        place = list(result.per_patient["patient"]).index(row["patient"])
        for name, values in result.per_patient.items():
            if name != "patient":
                assert float(row[name]) == values[place]
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(written[1]).to_pydict()
    assert table["sofa_all"] == [float(r["sofa_all"]) for r in rows]
    assert table["initial_lactate"] == [float(r["initial_lactate"]) for r in rows]


def test_shifts_are_distinct_and_never_the_patient() -> None:
    for patients in (2, 5, 110):
        for partners in (1, 3, 8, 500):
            shifts = partner_shifts(patients, partners)
            assert len(set(shifts)) == len(shifts) == min(partners, patients - 1)
            assert min(shifts) >= 1
            assert max(shifts) < patients


def test_transfer_is_the_other_policy_on_this_simulator(tiny_bank: SimulatorBank, treatments: np.ndarray) -> None:
    """Entry (s, j) equals an evaluation in which patient j simply has that other patient's treatment."""
    policy = Constant(treatments, tiny_bank.patients)
    found = evaluate(policy, bank=tiny_bank, episodes=2, worlds=("own",), transfer=2).worlds["own"]
    matrix = found.transfer
    assert matrix["partners"] == 2
    for whose, scores in zip(matrix["policies"], matrix["scores"]):
        swapped = Constant(treatments[[tiny_bank.patients.index(p) for p in whose]], tiny_bank.patients)
        direct = evaluate(swapped, bank=tiny_bank, episodes=2, worlds=("own",)).per_patient["sofa_all"]
        assert scores == pytest.approx(direct.tolist(), abs=1e-4)
        assert all(p != q for p, q in zip(whose, tiny_bank.patients))
    own, others = found.per_patient["sofa_all"], np.mean(matrix["scores"], axis=0)
    assert matrix["difference"] == pytest.approx((own - others).mean(), abs=1e-4)
    assert matrix["share"] == pytest.approx((own < others).mean())


def test_transfer_on_the_console_warns_where_worlds_disagree(tiny_bank: SimulatorBank, treatments: np.ndarray) -> None:
    found = evaluate(Constant(treatments, tiny_bank.patients), bank=tiny_bank, episodes=1, transfer=1)
    for world, percent in zip(found.worlds, (3.0, -2.0)):
        found.worlds[world].transfer.update(percent=percent, percent_interval=[percent - 1, percent + 1])
    lines = transfer_lines(found)
    assert lines[0] == "Own policy over others' (1 each), own: +3.0 % [+2.0, +4.0]"
    assert lines[-1].startswith("! worlds disagree in sign")
    stream = io.StringIO()
    print_evaluations(found, Console(file=stream, width=80))
    assert all(line in stream.getvalue() for line in lines)
    found.worlds["held-out"].transfer["percent"] = 2.0
    assert not any(line.startswith("!") for line in transfer_lines(found))


def test_one_policy_for_all_has_nothing_to_exchange(tiny_bank: SimulatorBank, treatments: np.ndarray) -> None:
    with pytest.raises(PolicyError, match="one for all patients"):
        evaluate(Constant(treatments.mean(0)), bank=tiny_bank, episodes=1, worlds=("own",), transfer=1)
    one = tiny_bank.select([0])
    with pytest.raises(ProtocolError, match="two patients"):
        evaluate(Constant(treatments[:1], one.patients), bank=one, episodes=1, worlds=("own",), transfer=1)


class _Counts:
    """Answers by how often it was asked."""

    timing = "fixed"

    def __init__(self) -> None:
        self.asked = 0

    def act(self, observations: Tensor) -> Tensor:
        self.asked += 1
        return torch.full((*observations.shape[:2], 3), 0.01 * self.asked).clamp(max=1.0)


class _First:
    """Answers everybody as the first episode of the batch."""

    timing = "fixed"

    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(observations[:, :1, :3]).expand(*observations.shape[:2], 3)


class _Batch:
    """Answers relative to the batch: a batch norm left in training mode."""

    timing = "fixed"

    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(observations[..., :3] - observations[..., :3].mean(1, keepdim=True))


class _Place:
    """Answers by the place of the patient in the batch."""

    timing = "fixed"

    def act(self, observations: Tensor) -> Tensor:
        place = torch.arange(len(observations)) / 10.0
        return place[:, None, None].expand(*observations.shape[:2], 3)


class _Cohort:
    """Answers relative to the other patients."""

    timing = "fixed"

    def act(self, observations: Tensor) -> Tensor:
        return torch.tanh(observations[..., :3] - observations[..., :3].mean(0, keepdim=True))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (_Counts(), "when asked again"),
        (_First(), "episodes in another order"),
        (_Batch(), "an episode alone differently"),
        (_Place(), "patients in another order"),
        (_Cohort(), "a patient alone differently"),
    ],
)
def test_policies_that_depend_on_the_batch_are_refused(policy: object, message: str, tiny_bank: SimulatorBank) -> None:
    with pytest.raises(PolicyError, match=message):
        evaluate(policy, bank=tiny_bank, episodes=2, worlds=("own",))


def test_a_policy_may_draw_random_numbers_that_belong_to_its_episodes(tiny_bank: SimulatorBank) -> None:
    evaluate("random", bank=tiny_bank, episodes=1, worlds=("own",))


def test_an_interrupted_evaluation_goes_on(
    tiny_bank: SimulatorBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, score, scored = tmp_path / "partial", evaluator.score_world, []

    def fails_in_the_second(bound, bank, *rest):
        if scored:
            raise KeyboardInterrupt
        scored.append(bank.current_world)
        return score(bound, bank, *rest)

    monkeypatch.setattr(evaluator, "score_world", fails_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate("max", bank=tiny_bank, episodes=2, partial=folder)
    assert len(list(folder.iterdir())) == 1

    def counts(bound, bank, *rest):
        scored.append(bank.current_world)
        return score(bound, bank, *rest)

    monkeypatch.setattr(evaluator, "score_world", counts)
    evaluate("max", bank=tiny_bank, episodes=3, partial=folder)  # other settings: nothing kept is used
    evaluate("zero", bank=tiny_bank, episodes=2, partial=folder)  # another policy of the same class: nor here
    assert scored == ["own", *2 * ["own", "held-out"]]
    found = evaluate("max", bank=tiny_bank, episodes=2, partial=folder)
    assert scored == ["own", *2 * ["own", "held-out"], "held-out"]
    assert not folder.exists()
    assert found.to_json() == evaluate("max", bank=tiny_bank, episodes=2).to_json()


def test_a_folder_has_a_hash_of_its_content(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    """Otherwise a retrained folder of the same name would go on from the results of the old one."""

    def found(seed: int) -> str:
        net = StackedMLP(len(tiny_bank), (9, 4, 3), seeds=range(seed, seed + len(tiny_bank)))
        policy = StackedActor(net, tiny_bank.patients, 20)
        for patient in tiny_bank.patients:
            save_policy(policy.select([patient]), tmp_path / "ind" / f"{patient.replace('/', '__')}.safetensors")
        return evaluate(tmp_path / "ind", bank=tiny_bank, episodes=1, worlds=("own",)).policy["sha256"]

    assert found(0) == found(0) != found(1)


def test_a_broken_partial_file_counts_as_not_finished(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    wanted = evaluate("zero", bank=tiny_bank, episodes=1, worlds=("own",))
    kept = evaluator.PartialResults(tmp_path, {"a": 1})
    kept.save("own", wanted.worlds["own"])
    assert kept.load("own") is not None
    assert evaluator.PartialResults(tmp_path, {"a": 2}).load("own") is None
    next(tmp_path.iterdir()).write_text("{", encoding="utf-8")
    assert kept.load("own") is None


def test_report_shows_subgroups_transfer_and_figures_as_files(
    tiny_bank: SimulatorBank, treatments: np.ndarray, results: dict[str, Evaluation], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    policy = Constant(treatments, tiny_bank.patients)
    moved = evaluate(policy, bank=tiny_bank, episodes=3, transfer=1, name="moved")
    page = write_report({**results, "moved": moved}, tmp_path / "report.html", figures=tmp_path / "figures").read_text()
    assert "initial lactate: " in page
    assert "Own better in" in page
    assert "moved: own policy against others" in page
    assert "Support distance over the episode" in page
    files = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert {"support-distance.svg", "support-distance-over-the-episode.svg"} <= set(files)
    for name in files:
        text = (tmp_path / "figures" / name).read_text(encoding="utf-8")
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "--ink: #1a1d21" in text
