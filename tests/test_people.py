"""Splits of people, and what is learned for people whom nobody trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.people.draw import text
from medgym_offline import load_dataset, load_simulators
from medgym_offline.datasets import generate
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.diseases.diabetes.people import interpolated, published, splits
from medgym_offline.errors import BankError, MedGymError, UnknownNameError
from medgym_offline.evaluation import evaluate
from medgym_offline.files import release_folder
from medgym_offline.leaderboard import submit, verify_submission
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.patients import people_hash
from medgym_offline.policies import save_policy
from medgym_offline.simulators import SimulatorBank, list_banks
from medgym_offline.simulators.splits import drawn
from tests.leaderboard.workshop import refused

QUICK = OfflineConfig(updates=3, batch=8, hidden=8)
TOY = "medgym/toy-random-v0"


@pytest.fixture(scope="module")
def _toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    recipe = Recipe(id=TOY, description="Random.", bank="toy-v0", behavior="random", decisions=6, episodes=6)
    generate(recipe, root=root, progress=False)
    return root


@pytest.fixture
def toy(_toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six people of the toy disease, and random decisions for them."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(_toy))


# -- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_banks())
def test_every_bank_has_two_sides_and_nobody_is_on_both(name: str) -> None:
    bank = load_simulators(name)
    train_people, test_people = bank.people("train"), bank.people("test")
    assert not set(train_people) & set(test_people)
    assert {*train_people, *test_people} == set(bank.patients)
    expected = {"diabetes-v0": 12, "diabetes-hupa-v0": 5, "toy-v0": 2}
    assert len(test_people) == expected.get(name, 30)
    # A selection keeps its sides.
    assert bank.select(list(test_people[:2])).split == {"train": (), "test": test_people[:2]}


def test_the_draw_is_the_one_of_the_file_and_nobody_moves_with_others() -> None:
    assert text() == (release_folder("generation") / "splits.toml").read_text()
    people = [f"p{i}" for i in range(20)]
    whole, fewer = drawn(people, 5, 0), drawn(people[::-1], 5, 0)
    assert set(whole["test"]) == set(fewer["test"])
    assert drawn(people, 5, 1) != whole
    assert set(drawn(people, 6, 0)["test"]) > set(whole["test"])


def test_an_interpolated_patient_is_on_the_side_of_both_parents() -> None:
    people, sides = interpolated()
    table = np.log(published().values)
    for name, row in zip(people.names, np.log(people.values)):
        pool = [i for i, parent in enumerate(published().names) if splits()[parent] == sides[name]]
        # On a straight line between two of its own side: the nearest pair leaves nothing.
        best = min(_distance_to_line(row, table[i], table[j]) for i in pool for j in pool if i < j)
        assert best < 1e-9, name


def _distance_to_line(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    share = float((x - a) @ (b - a) / ((b - a) @ (b - a)))
    return float(np.abs(x - a - share * (b - a)).max())


def test_a_bank_without_a_split_says_so_in_one_line(tiny_bank: SimulatorBank) -> None:
    with pytest.raises(BankError, match="has no split of its people") as found:
        tiny_bank.people("test")
    assert "\n" not in str(found.value)
    with pytest.raises(UnknownNameError, match="split"):
        load_simulators("toy-v0").people("both")
    own = tiny_bank.replace(metadata={"split": {"train": tiny_bank.patients[:3], "test": tiny_bank.patients[2:]}})
    with pytest.raises(BankError, match="no split"):
        own.people("test")  # the third is on both sides
    assert "error: " in refused("eval", "--policy", "zero", "--bank", "toy-v0", "--split", "both", "--episodes", "1")


@pytest.mark.usefixtures("toy")
def test_a_dataset_and_an_evaluation_of_one_side() -> None:
    bank = load_simulators("toy-v0")
    rows = load_dataset(TOY, split="train", progress=False)
    assert (rows.present_ids, rows.split) == (bank.people("train"), "train")
    assert load_dataset(TOY, progress=False).split == ""
    one = load_dataset(TOY, 1, split="test", progress=False)
    assert one.present_ids == bank.people("test")[:1]
    found = evaluate("zero", bank=bank, split="test", episodes=2)
    assert tuple(found.per_patient["patient"]) == bank.people("test")
    alone = evaluate("zero", bank=bank, patients=list(bank.people("test")), episodes=2)
    assert (found.per_patient["return"] == alone.per_patient["return"]).all()
    assert found.deviations["split"] == {"protocol": None, "used": "test"}
    assert "patients" not in found.deviations
    assert evaluate("zero", bank=bank, split="test", patients=1, episodes=2).deviations["patients"]["protocol"] == 2


# -- entries on new people ---------------------------------------------------------------------------------------------


def _result(home: Path, scope: str, split: str | None, **settings: object) -> Path:
    """A policy learned on one side (None: on everybody), scored on the test people, kept as `eval --output` does."""
    from medgym_offline.commands.judge import keep

    rows = load_dataset(TOY, split=split, progress=False)
    policy = train("bc", rows, scope, config=QUICK, progress=False).policy
    file = save_policy(policy, home / "policy.safetensors")
    found = evaluate(
        str(file), bank="toy-v0", split="test", episodes=2, dataset=TOY, worlds=("own", "true"), **settings
    )
    keep(found, str(file), home / "result")
    return home / "result"


@pytest.mark.usefixtures("toy")
def test_an_entry_on_new_people_is_one_of_policies_that_never_saw_them(tmp_path: Path) -> None:
    made = submit([_result(tmp_path / "a", "pop", "train")], "New", tmp_path / "submission")
    assert made.entry.split == "test"
    assert made.entry.id.endswith("-test")
    assert made.entry.policies[0].training["people"] == {
        "split": "train",
        "sha256": people_hash(load_simulators("toy-v0").people("train")),
    }


@pytest.mark.parametrize(
    ("scope", "split", "why"),
    [("pop", None, "does not say"), ("pop", "test", "does not say"), ("ind", "test", "oracle")],
)
@pytest.mark.usefixtures("toy")
def test_a_policy_that_saw_test_people_is_refused(tmp_path: Path, scope: str, split: str | None, why: str) -> None:
    with pytest.raises(MedGymError, match=why) as found:
        submit([_result(tmp_path, scope, split)], "New", tmp_path / "submission")
    assert "\n" not in str(found.value)


def test_what_learned_from_nobody_needs_no_record(tmp_path: Path) -> None:
    from medgym_offline.commands.judge import keep

    keep(evaluate("zero", bank="toy-v0", split="test", episodes=2), "zero", tmp_path / "zero")
    assert submit([tmp_path / "zero"], "Nothing", tmp_path / "fine").entry.scope == "baseline"


@pytest.mark.usefixtures("toy")
def test_verification_asks_who_the_train_people_are(tmp_path: Path) -> None:
    made = submit([_result(tmp_path / "a", "pop", "train")], "New", tmp_path / "submission")
    path = made.folder / "entry.json"
    values = json.loads(path.read_text())
    values["policies"][0]["training"]["people"]["sha256"] = people_hash(["toy/0"])
    path.write_text(json.dumps(values))
    with pytest.raises(MedGymError, match="learned from other people"):
        verify_submission(made.folder, progress=False)
