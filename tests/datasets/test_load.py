import shutil

import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from medgym_offline.datasets import COLUMNS, list_datasets, load_dataset, verify
from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.datasets.flat import ContentHash, flat_name, read_flat
from medgym_offline.errors import DatasetError
from tests.datasets.conftest import write_recipe
from tests.helpers import refused


def flat_of(copy, made):
    return copy / made.id / flat_name(made.manifest["content_hash"])


def test_arrays_are_mapped_and_writing_never_reaches_the_file(made, copy):
    first = load_dataset(made.id, root=copy, progress=False)
    assert isinstance(first.rewards.base, np.memmap)
    before = float(first.rewards[0])
    first.rewards[0] = 1.0
    assert load_dataset(made.id, root=copy, progress=False).rewards[0] == before


@pytest.mark.parametrize("damage", ["truncate", "delete", "garbage"])
def test_a_damaged_flat_cache_is_rebuilt(rows, made, copy, damage):
    file = flat_of(copy, made) / "observations.npy"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "delete":
        file.unlink()
    else:
        file.write_bytes(b"no array")
    refused(DatasetError, r"observations\.npy", lambda: read_flat(file.parent))
    again = load_dataset(made.id, root=copy, progress=False)
    np.testing.assert_array_equal(again.observations, rows.observations)
    read_flat(flat_of(copy, made))


def test_a_locked_hdf5_file_is_not_called_damaged(made, copy):
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


def test_episodes_added_through_minari_are_noticed(made, copy, monkeypatch):
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


def test_rows_changed_in_place_are_noticed_beside_a_whole_flat_cache(made, copy):
    path = copy / made.id / DATA_FILE
    with h5py.File(path, "a") as file:
        reward = file["episode_0/rewards"][0]
        file["episode_0/rewards"][0] = reward - 1.0
    refused(DatasetError, "content hash", lambda: load_dataset(made.id, root=copy, progress=False))
    with h5py.File(path, "a") as file:
        file["episode_0/rewards"][0] = reward
    assert load_dataset(made.id, root=copy, progress=False).rewards[0] == reward


def test_an_absent_dataset_is_generated(recipe, rows, release, tmp_path, capsys):
    (release / "sepsis-prior-v0.manifest.json").unlink()
    assert [info.steps for info in list_datasets(tmp_path / "root")] == [None]
    found = load_dataset(recipe.id, root=tmp_path / "root")
    assert found.identity == rows.identity
    assert "generating it from its recipe" in capsys.readouterr().err
    assert [info.steps for info in list_datasets(tmp_path / "root")] == [len(rows)]
    # The same dataset, after the recipe was changed.
    write_recipe(release / "sepsis-prior-v0.toml", recipe, seed=9)
    with pytest.warns(UserWarning, match="recipe field seed"):
        load_dataset(recipe.id, root=tmp_path / "root", progress=False)


def columns_of(rows):
    return {name: np.array(getattr(rows, name)) for name in COLUMNS}


def digest(*parts, **meaning):
    content = ContentHash()
    for part in parts:
        content.update(part)
    return content.hexdigest(**meaning)


def test_the_content_hash_does_not_depend_on_blocks(rows):
    whole = columns_of(rows)
    halves = [{name: array[part] for name, array in whole.items()} for part in (slice(0, 17), slice(17, None))]
    assert digest(whole) == digest(*halves)


def test_the_content_hash_sees_every_bit(rows):
    whole = columns_of(rows)
    other = whole | {"rewards": whole["rewards"].copy()}
    other["rewards"][5] = np.nextafter(other["rewards"][5], np.float32(0))
    assert digest(other) != digest(whole)
    assert digest(whole, decisions=20) != digest(whole, decisions=10)
