"""Verification passes what was made and finds what was planted."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgym_offline.datasets import COLUMNS, GeneratedDataset, Recipe, Transitions, dataset_card, generate, verify
from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.datasets.manifest import statistics_differ
from medgym_offline.datasets.rows import check_rows
from medgym_offline.errors import DatasetError
from medgym_offline.simulators import SimulatorBank

Change = Callable[[dict[str, np.ndarray]], None]


def failed(report_or_checks: object) -> list[str]:
    checks = getattr(report_or_checks, "checks", report_or_checks)
    return [check.name for check in checks if not check.ok]


def test_what_was_made_verifies(made: GeneratedDataset, made_zero: GeneratedDataset, root: Path) -> None:
    for dataset in (made, made_zero):
        report = verify(dataset.id, root=root, replay=4, progress=False)
        assert report.ok, str(report)
        assert {"replay", "behavior", "seeds", "cost", "sofa", "flat cache"} <= {c.name for c in report.checks}
        assert str(report).endswith("verified")
        assert json.loads(json.dumps(report.to_json()))["ok"] is True


@pytest.mark.parametrize("reward", ["paper", "authors"])
def test_the_other_rewards_verify(recipe: Recipe, tiny_bank: SimulatorBank, tmp_path: Path, reward: str) -> None:
    made = generate(dataclasses.replace(recipe, reward=reward, episodes=2), root=tmp_path, progress=False)
    report = verify(made.id, root=tmp_path, replay=2, progress=False)
    assert report.ok, str(report)


def test_rows_pass(rows: Transitions, tiny_bank: SimulatorBank) -> None:
    assert failed(check_rows(rows, tiny_bank)) == []


def _shift(c: dict[str, np.ndarray]) -> None:
    """What d3rlpy's Minari loader does: observations slip against actions."""
    c["observations"] = np.roll(c["observations"], 1, axis=0)


def _swap_last(c: dict[str, np.ndarray]) -> None:
    c["terminations"][:] = np.roll(c["terminations"], 1)


def _early(c: dict[str, np.ndarray]) -> None:
    c["terminations"][0] = True


def _never(c: dict[str, np.ndarray]) -> None:
    c["terminations"][:] = False


def _truncated(c: dict[str, np.ndarray]) -> None:
    c["truncations"][:] = c["terminations"]


def _box(c: dict[str, np.ndarray]) -> None:
    c["actions"][3, 1] = 1.2


def _dt(c: dict[str, np.ndarray]) -> None:
    c["dt"][4] += 1.0


def _time_is_start(c: dict[str, np.ndarray]) -> None:
    c["time"] -= c["dt"]


def _cost(c: dict[str, np.ndarray]) -> None:
    c["costs"][:] = np.roll(c["costs"], 1)


def _sofa(c: dict[str, np.ndarray]) -> None:
    c["severity"][7] += 0.5


def _normalized_lactate(c: dict[str, np.ndarray]) -> None:
    c["monitored"][:] = c["next_observations"][:, 5]


def _reward_sign(c: dict[str, np.ndarray]) -> None:
    c["rewards"] *= -1


def _order(c: dict[str, np.ndarray]) -> None:
    c["episode"][:] = c["episode"][::-1]


def _patient(c: dict[str, np.ndarray]) -> None:
    c["patient"][1] = 3


def _left(c: dict[str, np.ndarray]) -> None:
    c["observations"][:, 8] = 1.0


def _remaining(c: dict[str, np.ndarray]) -> None:
    c["next_observations"][:, 7] = c["observations"][:, 7]


def _interval(c: dict[str, np.ndarray]) -> None:
    c["actions"][:, 3] = -c["actions"][:, 3]


def _unscaled_action(c: dict[str, np.ndarray]) -> None:
    c["actions"][:, :3] = (c["actions"][:, :3] + 1) / 2


def _nan(c: dict[str, np.ndarray]) -> None:
    c["rewards"][2] = np.nan


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_shift, "chain"),
        (_swap_last, "termination"),
        (_early, "termination"),
        (_never, "termination"),
        (_truncated, "truncation"),
        (_box, "action box"),
        (_dt, "dt"),
        (_time_is_start, "time"),
        (_cost, "cost"),
        (_sofa, "sofa"),
        (_normalized_lactate, "lactate"),
        (_reward_sign, "reward"),
        (_order, "order"),
        (_patient, "order"),
        (_left, "remaining decisions"),
        (_remaining, "remaining time"),
        (_interval, "dt"),
        (_unscaled_action, "sofa"),
        (_nan, "schema"),
    ],
)
def test_faults_in_rows_are_found(rows: Transitions, tiny_bank: SimulatorBank, change: Change, expected: str) -> None:
    columns = {name: np.array(getattr(rows, name)) for name in COLUMNS}
    change(columns)
    assert expected in failed(check_rows(dataclasses.replace(rows, **columns), tiny_bank))


def test_a_fault_names_the_row(rows: Transitions, tiny_bank: SimulatorBank) -> None:
    sofa = np.array(rows.severity)
    sofa[7] += 0.5
    check = next(c for c in check_rows(dataclasses.replace(rows, severity=sofa), tiny_bank) if not c.ok)
    assert "in 1 of" in check.detail
    assert f"row 7 (episode {rows.episode[7]})" in check.detail


def _rehash(folder: Path) -> None:
    """Forge the checksums, as an attacker or a careless tool would, so that only the meaning can tell."""
    from medgym_offline.datasets.flat import ContentHash
    from medgym_offline.datasets.load import read_columns, read_metadata
    from medgym_offline.files import sha256_file

    metadata = read_metadata(folder)
    columns, _ = read_columns(folder / DATA_FILE, metadata)
    content = ContentHash()
    content.update(columns)
    ours = metadata["medgym"]
    found = content.hexdigest(patients=ours["patients"], timing=ours["timing"], decisions=ours["decisions"])
    manifest = json.loads((folder / "data" / "manifest.json").read_text())
    ours["content_hash"] = manifest["content_hash"] = found
    (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    (folder / "data" / "manifest.json").write_text(json.dumps(manifest))


def _edit(folder: Path, path: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    import h5py

    with h5py.File(folder / DATA_FILE, "r+") as file:
        file[path][...] = edit(file[path][...])


def test_a_changed_number_breaks_the_checksum_and_the_content_hash(made: GeneratedDataset, copy: Path) -> None:
    _edit(copy / made.id, "episode_11/rewards", lambda a: a * 1.01)
    found = failed(verify(made.id, root=copy, replay=2, progress=False))
    assert {"sha256 main_data.hdf5", "content hash", "flat cache", "replay"} <= set(found)


@pytest.mark.parametrize(
    ("path", "edit", "expected"),
    [
        ("episode_0/rewards", lambda a: a * 1.01, {"replay"}),
        ("episode_0/observations", lambda a: a + np.float32(0.02), {"replay"}),
        ("episode_11/actions", lambda a: a * np.float32(0.99), {"replay", "behavior"}),
        ("episode_0/infos/time", lambda a: a * np.float32(0.5), {"time"}),
    ],
)
def test_forged_checksums_do_not_hide_a_change(
    made: GeneratedDataset, copy: Path, path: str, edit: Callable[[np.ndarray], np.ndarray], expected: set[str]
) -> None:
    _edit(copy / made.id, path, edit)
    _rehash(copy / made.id)
    report = verify(made.id, root=copy, replay=2, progress=False)
    found = set(failed(report))
    assert expected <= found, str(report)
    assert not found & {"content hash", "sha256 main_data.hdf5"}


def test_a_wrong_seed_and_a_wrong_patient(made: GeneratedDataset, copy: Path) -> None:
    import h5py

    with h5py.File(copy / made.id / DATA_FILE, "r+") as file:
        file["episode_0"].attrs.modify("seed", np.int64(5))
        file["episode_4"].attrs.modify("options/patient_index", np.int64(0))
    found = failed(verify(made.id, root=copy, replay=2, progress=False))
    assert {"seeds", "replay"} <= set(found)


def test_files_that_are_missing_truncated_or_no_json(made: GeneratedDataset, copy: Path) -> None:
    file = copy / made.id / DATA_FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    report = verify(made.id, root=copy, replay=2, progress=False)
    assert {"sha256 main_data.hdf5", "readable"} <= set(failed(report))
    file.unlink()
    assert {"sha256 main_data.hdf5", "readable"} <= set(failed(verify(made.id, root=copy, replay=2, progress=False)))
    file.write_bytes(whole)
    manifest = copy / made.id / "data" / "manifest.json"
    manifest.write_text("{")
    assert failed(verify(made.id, root=copy, replay=2, progress=False)) == ["readable"]
    manifest.unlink()
    report = verify(made.id, root=copy, replay=2, progress=False)
    assert "manifest.json: there is no such file" in report.faults[0].detail


@pytest.mark.parametrize(
    ("name", "expected"), [("infos/sofa", "'sofa' is missing"), ("rewards", "'rewards' is missing")]
)
def test_a_missing_array_is_named(made: GeneratedDataset, copy: Path, name: str, expected: str) -> None:
    import h5py

    with h5py.File(copy / made.id / DATA_FILE, "r+") as file:
        del file[f"episode_3/{name}"]
    report = verify(made.id, root=copy, replay=2, progress=False)
    assert f"episode_3: {expected}" in next(c.detail for c in report.faults if c.name == "readable")


def test_metadata_that_disagrees(made: GeneratedDataset, copy: Path) -> None:
    path = copy / made.id / "data" / "metadata.json"
    values = json.loads(path.read_text())
    values["total_steps"] += 1
    values["env_spec"] = values["env_spec"].replace("prior/0", "prior/1")
    path.write_text(json.dumps(values))
    report = verify(made.id, root=copy, replay=2, progress=False)
    assert {"sha256 metadata.json", "metadata"} <= set(failed(report))
    assert "total_steps, env_spec" in next(c.detail for c in report.checks if c.name == "metadata")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("patients", lambda m: m["patients"].pop()),
        ("episode_steps.max", lambda m: m["episode_steps"].update(max=99)),
        ("episode_returns.mean", lambda m: m["episode_returns"].update(mean=0.0)),
        ("columns.dt.mean", lambda m: m["columns"]["dt"].update(mean=1.0)),
        ("columns.actions.max", lambda m: m["columns"]["actions"].update(max=[1.0, 1.0])),
        ("columns", lambda m: m["columns"].pop("severity")),
    ],
)
def test_numbers_that_are_not_those_of_the_rows(
    made: GeneratedDataset, copy: Path, name: str, change: Callable[[dict[str, object]], object]
) -> None:
    path = copy / made.id / "data" / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    report = verify(made.id, root=copy, replay=0, progress=False)
    assert failed(report) == (["identity"] if name == "patients" else []) + ["statistics"]
    assert f"the manifest's {name} is not that of the rows" in report.faults[-1].detail


def test_another_bank_under_the_same_name(made: GeneratedDataset, copy: Path, tmp_path: Path) -> None:
    from medgym_offline.diseases.sepsis.prior import prior_bank

    other = tmp_path / "other.safetensors"
    prior_bank(patients=4, seed=1).save(other)
    path = copy / made.id / "data" / "manifest.json"
    values = json.loads(path.read_text())
    values["recipe"]["bank"] = str(other)
    path.write_text(json.dumps(values))
    assert "bank" in failed(verify(made.id, root=copy, replay=2, progress=False))


def test_what_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="did you mean"):
        verify("medgym/sepsis-inf-v0", root=tmp_path)
    with pytest.raises(DatasetError, match="not on this machine"):
        verify("medgym/sepsis-ind-v0", root=tmp_path)


def test_the_card_states_what_the_manifest_holds(made: GeneratedDataset) -> None:
    text = dataset_card(made.manifest)
    assert text.startswith("---\nlicense: odbl\n")
    front = text.split("---")[1]
    assert "- reinforcement-learning" in front
    for fact in (made.manifest["identity"], str(made.steps), "mmol/L", "Limitations", "Citation", "MIMIC-III"):
        assert fact in text
    for name in ("random", "zero", "behavior", "expert"):
        assert f"{made.manifest['references']['returns'][name]:.2f}" in text
    card, figures = (made.path / "README.md").read_text(), sorted((made.path / "figures").glob("*.png"))
    shown = re.findall(r"\]\(figures/([a-z]+\.png)\)", card)
    assert sorted(shown) == [f.name for f in figures]
    # Without its figures the card is made of the manifest alone.
    assert re.sub(r"\n## Figures\n.*?(?=\n## )", "", card, flags=re.DOTALL) == text


def test_column_statistics_compare_within_tolerance(made: GeneratedDataset, made_zero: GeneratedDataset) -> None:
    one = made.manifest["columns"]
    near = json.loads(json.dumps(one))
    near["dt"]["mean"] += 1e-4
    assert statistics_differ(one, near) == []
    near["dt"]["mean"] += 1.0
    assert statistics_differ(one, near) == ["dt"]
