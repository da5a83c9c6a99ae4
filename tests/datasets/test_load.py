from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from medgym_offline.datasets import COLUMNS, GeneratedDataset, Recipe, Transitions, list_datasets, load_dataset, verify
from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.datasets.flat import ContentHash, FlatWriter, flat_name, read_flat
from medgym_offline.datasets.hdf5 import EpisodeWriter
from medgym_offline.diseases import disease
from medgym_offline.errors import DatasetError, UnknownNameError


def flat_of(copy: Path, made: GeneratedDataset) -> Path:
    return copy / made.id / flat_name(made.manifest["content_hash"])


def test_patients_by_number_id_and_index(rows: Transitions, made: GeneratedDataset, root: Path) -> None:
    def load(patients: object) -> Transitions:
        return load_dataset(made.id, patients, root=root, progress=False)  # type: ignore[arg-type]

    assert load(2).present.tolist() == [0, 1]
    assert load("prior/3").present_ids == ("prior/3",)
    assert load([3, "prior/0"]).present.tolist() == [0, 3]
    assert len(load(4)) == len(rows)
    for wrong in (0, 5, [4], ["prior/7"]):
        with pytest.raises((DatasetError, UnknownNameError)):
            load(wrong)


def test_arrays_are_mapped_and_writing_never_reaches_the_file(made: GeneratedDataset, copy: Path) -> None:
    first = load_dataset(made.id, root=copy, progress=False)
    assert isinstance(first.rewards.base, np.memmap)
    before = float(first.rewards[0])
    first.rewards[0] = 1.0
    assert load_dataset(made.id, root=copy, progress=False).rewards[0] == before


def test_the_flat_cache_is_rebuilt_from_the_hdf5_file(rows: Transitions, made: GeneratedDataset, copy: Path) -> None:
    shutil.rmtree(flat_of(copy, made))
    again = load_dataset(made.id, root=copy, progress=False)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(rows, name))
    assert flat_of(copy, made).is_dir()


@pytest.mark.parametrize("damage", ["truncate", "delete", "garbage"])
def test_a_damaged_flat_cache_is_rebuilt(rows: Transitions, made: GeneratedDataset, copy: Path, damage: str) -> None:
    file = flat_of(copy, made) / "observations.npy"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "delete":
        file.unlink()
    else:
        file.write_bytes(b"no array")
    with pytest.raises(DatasetError, match=r"observations\.npy"):
        read_flat(file.parent)
    again = load_dataset(made.id, root=copy, progress=False)
    np.testing.assert_array_equal(again.observations, rows.observations)
    read_flat(flat_of(copy, made))


def test_a_locked_hdf5_file_is_not_called_damaged(made: GeneratedDataset, copy: Path) -> None:
    """Another program has it open for writing: flock is what HDF5 locks with."""
    fcntl = pytest.importorskip("fcntl")
    shutil.rmtree(flat_of(copy, made))
    with open(copy / made.id / DATA_FILE, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match=r"main_data\.hdf5: .*lock.*HDF5_USE_FILE_LOCKING=FALSE") as caught:
            load_dataset(made.id, root=copy, progress=False)
    assert "\n" not in str(caught.value)
    assert "regenerate" not in str(caught.value)
    assert len(load_dataset(made.id, root=copy, progress=False)) == made.steps


def test_a_file_that_cannot_be_locked_for_writing_names_the_lock(tmp_path: Path) -> None:
    fcntl, path = pytest.importorskip("fcntl"), tmp_path / "main_data.hdf5"
    with open(path, "w+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="HDF5_USE_FILE_LOCKING"), EpisodeWriter(path, ("a",), disease("sepsis")):
            pass


def test_episodes_added_through_minari_are_noticed(
    made: GeneratedDataset, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(copy))
    dataset = minari.load_dataset(made.id)
    names = ("observations", "actions", "rewards", "terminations", "truncations", "infos")
    added = EpisodeBuffer(seed=1, **{name: getattr(dataset[0], name) for name in names})
    dataset.update_dataset_from_buffer([added])
    assert minari.load_dataset(made.id).total_episodes == 13
    with pytest.raises(DatasetError, match=r"Minari \(13 episodes now\): read it with minari") as caught:
        load_dataset(made.id, progress=False)
    assert "\n" not in str(caught.value)
    assert not verify(made.id, progress=False).ok


def test_rows_changed_in_place_are_noticed_beside_a_whole_flat_cache(made: GeneratedDataset, copy: Path) -> None:
    path = copy / made.id / DATA_FILE
    with h5py.File(path, "a") as file:
        reward = file["episode_0/rewards"][0]
        file["episode_0/rewards"][0] = reward - 1.0
    with pytest.raises(DatasetError, match="content hash"):
        load_dataset(made.id, root=copy, progress=False)
    with h5py.File(path, "a") as file:
        file["episode_0/rewards"][0] = reward
    assert load_dataset(made.id, root=copy, progress=False).rewards[0] == reward


@pytest.mark.parametrize("keep_flat", [True, False])
def test_a_truncated_hdf5_file_is_one_clear_line(made: GeneratedDataset, copy: Path, keep_flat: bool) -> None:
    file = copy / made.id / DATA_FILE
    file.write_bytes(file.read_bytes()[:20_000])
    if not keep_flat:
        shutil.rmtree(flat_of(copy, made))
    with pytest.raises(DatasetError, match=r"main_data\.hdf5: 20000 bytes.*regenerate") as caught:
        load_dataset(made.id, root=copy, progress=False)
    assert "\n" not in str(caught.value)


def test_an_hdf5_file_of_the_right_size_that_is_none(made: GeneratedDataset, copy: Path) -> None:
    file = copy / made.id / DATA_FILE
    file.write_bytes(bytes(file.stat().st_size))
    shutil.rmtree(flat_of(copy, made))
    with pytest.raises(DatasetError, match="not a readable HDF5 file") as caught:
        load_dataset(made.id, root=copy, progress=False)
    assert "\n" not in str(caught.value)


def test_an_unknown_id_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="did you mean 'medgym/sepsis-ind-v0'"):
        load_dataset("medgym/sepsis-ind", root=tmp_path)
    with pytest.raises(DatasetError, match=r"not on this machine.*medgym-offline generate"):
        load_dataset("medgym/sepsis-ind-v0", root=tmp_path, generate=False)


def test_an_absent_dataset_is_generated(
    recipe: Recipe,
    rows: Transitions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fields = "\n".join(f"{k} = {json.dumps(v)}" for k, v in recipe.to_json().items())
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "sepsis-prior-v0.toml").write_text(fields)
    for module in ("recipes", "catalogue", "trust"):
        monkeypatch.setattr(f"medgym_offline.datasets.{module}.release_folder", lambda name: tmp_path / "recipes")
    assert [info.steps for info in list_datasets(tmp_path / "root")] == [None]
    found = load_dataset(recipe.id, root=tmp_path / "root")
    assert found.identity == rows.identity
    assert "generating it from its recipe" in capsys.readouterr().err
    assert [info.steps for info in list_datasets(tmp_path / "root")] == [len(rows)]
    # The same dataset, after the recipe was changed.
    (tmp_path / "recipes" / "sepsis-prior-v0.toml").write_text(fields.replace('"seed": 7', "").replace("= 7", "= 9"))
    with pytest.warns(UserWarning, match="recipe field seed"):
        load_dataset(recipe.id, root=tmp_path / "root", progress=False)


def test_listing_imports_neither_torch_nor_h5py(tmp_path: Path) -> None:
    code = (
        "import sys, medgym_offline as mgo; found = mgo.list_datasets();"
        "print([i.id for i in found], [m for m in ('torch', 'h5py', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "medgym/sepsis-ind-v0" in done.stdout
    assert done.stdout.strip().endswith("[]")


def columns_of(rows: Transitions) -> dict[str, np.ndarray]:
    return {name: np.array(getattr(rows, name)) for name in COLUMNS}


def digest(*parts: dict[str, np.ndarray], **meaning: object) -> str:
    content = ContentHash()
    for part in parts:
        content.update(part)
    return content.hexdigest(**meaning)


def test_the_content_hash_does_not_depend_on_blocks(rows: Transitions) -> None:
    whole = columns_of(rows)
    halves = [{name: array[part] for name, array in whole.items()} for part in (slice(0, 17), slice(17, None))]
    assert digest(whole) == digest(*halves)


def test_the_content_hash_sees_every_bit(rows: Transitions) -> None:
    whole = columns_of(rows)
    other = whole | {"rewards": whole["rewards"].copy()}
    other["rewards"][5] = np.nextafter(other["rewards"][5], np.float32(0))
    assert digest(other) != digest(whole)
    assert digest(whole, decisions=20) != digest(whole, decisions=10)


def test_flat_files_written_in_blocks_are_plain_numpy_files(rows: Transitions, tmp_path: Path) -> None:
    whole = columns_of(rows)
    with FlatWriter(tmp_path / "flat") as writer:
        for part in (slice(0, 9), slice(9, 40), slice(40, None)):
            writer.write({name: array[part] for name, array in whole.items()})
    for name, array in read_flat(tmp_path / "flat").items():
        np.testing.assert_array_equal(array, whole[name])
        np.testing.assert_array_equal(np.load(tmp_path / "flat" / f"{name}.npy"), whole[name])
