"""Cards: what the figures are drawn from, and what the text says of parts, worlds and behaviors."""

from __future__ import annotations

import copy as copying
import shlex
from pathlib import Path

import numpy as np
import pytest

from medgym_offline.datasets import GeneratedDataset, Transitions, dataset_card, load_dataset
from medgym_offline.datasets.card_figures import _hourly, _map, draw_figures
from medgym_offline.datasets.family_card import family_card


def test_hourly_values_are_each_episodes_own_interpolation(rows: Transitions) -> None:
    hours, grid = _hourly(rows, rows.monitored)
    assert hours.tolist() == list(range(0, 97, 4))
    for number, found in enumerate(grid):
        own = rows.select(rows.episode == number)
        np.testing.assert_allclose(found, np.interp(hours, own.time, own.monitored), rtol=1e-6)


def test_the_patient_map_keeps_distances_of_patients_in_a_plane() -> None:
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((7, 2))
    basis, _ = np.linalg.qr(rng.standard_normal((6, 2)))
    place = _map(plane @ basis.T + 3.0)
    gaps = [np.linalg.norm(points[:, None] - points, axis=-1) for points in (plane, place)]
    np.testing.assert_allclose(gaps[0], gaps[1], atol=1e-9)
    assert _map(np.ones((1, 6))).tolist() == [[0.0, 0.0]]


def test_the_same_rows_give_the_same_pictures(
    made_zero: GeneratedDataset, root: Path, tmp_path: Path, real_figures: None
) -> None:
    """Also where there is one decision only."""
    rows = load_dataset(made_zero.id, root=root, progress=False)
    one, again, least = (
        draw_figures(tmp_path / name, part)
        for name, part in (("one", rows), ("again", rows), ("least", rows.select(slice(0, 1))))
    )
    for figure in one:
        same, other = ((tmp_path / name / figure.file).read_bytes() for name in ("again", "least"))
        assert (tmp_path / "one" / figure.file).read_bytes() == same != other
    assert one == again == least


def test_a_part_says_the_command_that_makes_it(made: GeneratedDataset) -> None:
    part = copying.deepcopy(made.manifest) | {"source": "medgym/whole-v0"}
    part["patients"] = [0, 1]
    part["recipe"]["episodes"] = 3
    command = dataset_card(part).split("make it again: `")[1].split("`")[0]
    assert shlex.split(command) == (
        f"medgym-offline generate medgym/whole-v0 --patients 2 --episodes 3 --as {made.id}".split()
    )
    part["patients"] = [1, 3]
    assert "a part of `medgym/whole-v0`: patients 1, 3 of the bank" in dataset_card(part)
    assert f"make it again: `medgym-offline generate {made.id}`" in dataset_card(made.manifest)


@pytest.mark.parametrize(
    ("digest", "world", "sentence"),
    [
        ("builtin:zero", "own", "is built in and learned nothing"),
        ("0" * 64, "own", "was trained in the same simulators"),
        ("0" * 64, "true", "the data come from another world"),
    ],
)
def test_the_limitation_is_that_of_the_behavior(made: GeneratedDataset, digest: str, world: str, sentence: str) -> None:
    manifest = copying.deepcopy(made.manifest)
    manifest["behavior"]["sha256"], manifest["recipe"]["world"] = digest, world
    assert sentence in dataset_card(manifest)


def test_scores_of_another_world_stand_beside_those_of_the_own(made: GeneratedDataset) -> None:
    manifest = copying.deepcopy(made.manifest)
    own = manifest["references"]["returns"]
    there = {name: value - 1.5 for name, value in own.items()}
    manifest["references"]["data_world"] = {"world": "true", "returns": there}
    text = dataset_card(manifest)
    assert "| policy | return, `own` | return, `true` |" in text
    assert f"| zero treatment | {own['zero']:.2f} | {there['zero']:.2f} |" in text
    for line in text.split("## Scores")[1].split("Normalized")[0].strip().splitlines():
        assert not line.startswith("|") or line.count("|") == 4


def test_the_family_lists_datasets_with_and_without_a_manifest(made: GeneratedDataset) -> None:
    text = family_card("medgym", "hf://ORG", {made.id: made.manifest, "medgym/other-v0": None})
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "[`other-v0`](other-v0/README.md)" in text
    assert f"MINARI_REMOTE=hf://ORG minari download {min(made.id, 'medgym/other-v0')}" in text
