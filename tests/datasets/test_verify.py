"""Verification passes what was made and finds what was planted."""

import dataclasses
import json

import h5py
import numpy as np
import pytest

from medgym_offline.datasets import COLUMNS, generate, verify
from medgym_offline.datasets.catalogue import DATA_FILE, read_metadata
from medgym_offline.datasets.load import read_rows
from medgym_offline.datasets.rows import check_rows
from medgym_offline.datasets.transitions import content_hash
from medgym_offline.diseases.sepsis.model import prior_bank
from medgym_offline.files import sha256_file


def failed(checks):
    return [check.name for check in checks if not check.ok]


def test_what_was_made_verifies(made, made_zero, root):
    for dataset in (made, made_zero):
        report = verify(dataset.id, root=root, replay=4, progress=False)
        assert report.ok
        assert {"replay", "behavior", "seeds", "cost", "sofa", "flat cache"} <= {c.name for c in report.checks}
        assert str(report).endswith("verified")
        assert json.loads(json.dumps(report.to_json()))["ok"] is True


@pytest.mark.parametrize("reward", ["paper", "authors"])
def test_the_other_rewards_verify(recipe, tmp_path, reward):
    made = generate(dataclasses.replace(recipe, reward=reward, episodes=2), root=tmp_path, progress=False)
    assert verify(made.id, root=tmp_path, replay=2, progress=False).ok


def _put(array, place, value):
    array[place] = value
    return array


FAULTS = [
    # What d3rlpy's Minari loader does: observations slip against actions.
    ("chain", "observations", lambda c: np.roll(c["observations"], 1, axis=0)),
    ("termination", "terminations", lambda c: np.roll(c["terminations"], 1)),
    ("termination", "terminations", lambda c: _put(c["terminations"], 0, True)),
    ("termination", "terminations", lambda c: np.zeros_like(c["terminations"])),
    ("truncation", "truncations", lambda c: c["terminations"]),
    ("action box", "actions", lambda c: _put(c["actions"], (3, 1), 1.2)),
    ("dt", "dt", lambda c: _put(c["dt"], 4, c["dt"][4] + 1.0)),
    ("time", "time", lambda c: c["time"] - c["dt"]),
    ("cost", "costs", lambda c: np.roll(c["costs"], 1)),
    ("sofa", "severity", lambda c: _put(c["severity"], 7, c["severity"][7] + 0.5)),
    ("lactate", "monitored", lambda c: c["next_observations"][:, 5]),
    ("reward", "rewards", lambda c: -c["rewards"]),
    ("order", "episode", lambda c: c["episode"][::-1]),
    ("order", "patient", lambda c: _put(c["patient"], 1, 3)),
    ("remaining decisions", "observations", lambda c: _put(c["observations"], (slice(None), 8), 1.0)),
    ("remaining time", "next_observations", lambda c: _put(c["next_observations"], np.s_[:, 7], 0.5)),
    ("dt", "actions", lambda c: _put(c["actions"], (slice(None), 3), -c["actions"][:, 3])),
    ("sofa", "actions", lambda c: _put(c["actions"], np.s_[:, :3], (c["actions"][:, :3] + 1) / 2)),
    ("schema", "rewards", lambda c: _put(c["rewards"], 2, np.nan)),
    ("schema", "behavior_log_prob", lambda c: _put(c["behavior_log_prob"], 2, np.inf)),
    ("costs along the path", "costs_path", lambda c: _put(c["costs_path"], 2, -1.0)),
]  # fmt: skip
"""The check that finds it, the column that is spoiled, and how."""


@pytest.mark.parametrize(("expected", "column", "change"), FAULTS)
def test_faults_in_rows_are_found(rows, tiny_bank, expected, column, change):
    columns = {name: np.array(getattr(rows, name)) for name in COLUMNS if getattr(rows, name) is not None}
    columns[column] = change(columns)
    assert expected in failed(check_rows(dataclasses.replace(rows, **columns), tiny_bank))


def _edit(folder, path, edit):
    with h5py.File(folder / DATA_FILE, "r+") as file:
        file[path][...] = edit(file[path][...])


def _rewrite(folder, name, change):
    path = folder / "data" / f"{name}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def _rehash(folder):
    """Forge the checksums, as an attacker or a careless tool would, so that only the meaning can tell."""
    found = content_hash(read_rows(folder, read_metadata(folder))[0])
    _rewrite(folder, "metadata", lambda m: m["medgym"].update(content_hash=found))
    files = {name: folder / name for name in (DATA_FILE, "data/metadata.json")}
    stated = {name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for name, path in files.items()}
    _rewrite(folder, "manifest", lambda m: m.update(content_hash=found, files=stated))


@pytest.fixture
def verified(made, copy):
    """What verification says of the copy that the test may damage."""
    return lambda replay=0: verify(made.id, root=copy, replay=replay, progress=False).checks


def test_a_changed_number_breaks_the_checksum_and_the_content_hash(made, copy, verified):
    _edit(copy / made.id, "episode_11/rewards", lambda a: a * 1.01)
    assert {"sha256 main_data.hdf5", "content hash", "flat cache", "replay"} <= set(failed(verified(2)))


EDITS = [
    ("episode_0/rewards", lambda a: a * 1.01, "replay"),
    ("episode_0/observations", lambda a: a + np.float32(0.02), "replay"),
    ("episode_11/actions", lambda a: a * np.float32(0.99), "behavior"),
    ("episode_0/infos/time", lambda a: a * np.float32(0.5), "time"),
    ("episode_0/infos/behavior_log_prob", lambda a: np.full_like(a, np.nan), "behavior"),
    ("episode_0/infos/behavior_log_prob", np.zeros_like, "behavior"),
]


@pytest.mark.parametrize(("path", "edit", "expected"), EDITS)
def test_forged_checksums_do_not_hide_a_change(made, copy, verified, path, edit, expected):
    _edit(copy / made.id, path, edit)
    _rehash(copy / made.id)
    found = set(failed(verified(2)))
    assert expected in found
    assert not found & {"content hash", "sha256 main_data.hdf5"}


def test_a_wrong_seed_and_a_wrong_patient(made, copy, verified):
    with h5py.File(copy / made.id / DATA_FILE, "r+") as file:
        file["episode_0"].attrs.modify("seed", np.int64(5))
        file["episode_4"].attrs.modify("options/patient_index", np.int64(0))
    assert {"seeds", "replay"} <= set(failed(verified(2)))


def test_files_that_are_missing_truncated_or_no_json(made, copy, verified):
    file, manifest = copy / made.id / DATA_FILE, copy / made.id / "data" / "manifest.json"
    whole = file.read_bytes()
    for spoil in (lambda: file.write_bytes(whole[: len(whole) // 2]), file.unlink):
        spoil()
        assert {"sha256 main_data.hdf5", "readable"} <= set(failed(verified()))
    file.write_bytes(whole)
    manifest.write_text("{")
    assert failed(verified()) == ["readable"]
    manifest.unlink()
    assert "manifest.json: there is no such file" in verified()[0].detail


def test_metadata_that_disagrees(made, copy, verified):
    def change(m):
        m.update(total_steps=m["total_steps"] + 1, env_spec=m["env_spec"].replace("prior/0", "prior/1"))

    _rewrite(copy / made.id, "metadata", change)
    checks = verified()
    assert {"sha256 metadata.json", "metadata"} <= set(failed(checks))
    assert "total_steps, env_spec" in next(c.detail for c in checks if c.name == "metadata")


STATED = [
    ("patients", lambda m: m["patients"].pop()),
    ("episode_steps.max", lambda m: m["episode_steps"].update(max=99)),
    ("episode_returns.mean", lambda m: m["episode_returns"].update(mean=0.0)),
    ("columns.dt.mean", lambda m: m["columns"]["dt"].update(mean=1.0)),
    ("columns.actions.max", lambda m: m["columns"]["actions"].update(max=[1.0, 1.0])),
    ("columns", lambda m: m["columns"].pop("severity")),
]


@pytest.mark.parametrize(("name", "change"), STATED)
def test_numbers_that_are_not_those_of_the_rows(made, copy, verified, name, change):
    _rewrite(copy / made.id, "manifest", change)
    checks = verified()
    assert failed(checks) == (["identity"] if name == "patients" else []) + ["statistics"]
    assert f"the manifest's {name} is not that of the rows" in str(checks)


def test_another_bank_under_the_same_name(made, copy, verified, tmp_path):
    prior_bank(patients=4, seed=1).save(tmp_path / "b.safetensors")
    _rewrite(copy / made.id, "manifest", lambda m: m["recipe"].update(bank=str(tmp_path / "b.safetensors")))
    assert "bank" in failed(verified())
