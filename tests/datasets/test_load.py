"""Loading and the flat cache, what is changed beneath them, and what a user of Minari or of another library sees."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from medgym_offline.datasets import COLUMNS, list_datasets, load_dataset, verify
from medgym_offline.datasets.adapters import to_arrow, to_d3rlpy
from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.datasets.rows import check_rows
from medgym_offline.datasets.transitions import content_hash, flat_name, read_flat
from medgym_offline.errors import DatasetError, MissingExtraError
from tests.helpers import refused, write_recipe


@pytest.fixture(autouse=True)
def _here(root, made, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))


def test_its_episodes_are_the_flat_rows(made, rows):
    for episode in minari.load_dataset(made.id):
        own = rows.select(rows.episode == episode.id)
        np.testing.assert_array_equal(episode.observations[:-1], own.observations)
        np.testing.assert_array_equal(episode.observations[1:], own.next_observations)
        for name in ("actions", "rewards", "terminations"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(own, name))
        assert not episode.truncations.any()
        assert episode.terminations.dtype == bool
        shown = {"cost": own.costs, "dt": own.dt, "time": own.time, "sofa": own.severity, "lactate": own.monitored}
        for name, array in shown.items():
            np.testing.assert_array_equal(episode.infos[name][1:], array)
        assert episode.infos["dt"][0] == episode.infos["time"][0] == episode.infos["cost"][0] == 0.0


def test_stored_seed_and_options_replay_every_episode(made):
    """From one recovered environment, whoever the patient was; and three patients side by side."""
    dataset = minari.load_dataset(made.id)
    env = dataset.recover_environment()
    for episode, stored in zip(dataset, dataset.storage.get_episode_metadata(range(12))):
        observation, _ = env.reset(seed=stored["seed"], options=stored["options"])
        for t in range(len(episode)):
            np.testing.assert_allclose(observation, episode.observations[t], atol=1e-4)
            observation, reward, over, _, info = env.step(episode.actions[t])
            assert reward == pytest.approx(episode.rewards[t], rel=1e-3, abs=1e-4)
            for name in ("time", "dt", "cost", "sofa", "lactate"):  # a tick or two: float32
                assert info[name] == pytest.approx(episode.infos[name][t + 1], rel=1e-3, abs=1e-3), name
        np.testing.assert_allclose(observation, episode.observations[-1], atol=1e-4)
        assert over
    chosen = [1, 5, 10]
    stored, three = list(dataset.storage.get_episode_metadata(chosen)), [dataset[episode] for episode in chosen]
    envs = gymnasium.make_vec(env.spec, num_envs=3, vectorization_mode="vector_entry_point")
    options = {name: [one["options"][name] for one in stored] for name in ("patient", "patient_index")}
    first, _ = envs.reset(seed=[one["seed"] for one in stored], options=options)
    second = envs.step(np.array([episode.actions[0] for episode in three]))[0]
    np.testing.assert_allclose([first, second], [[e.observations[step] for e in three] for step in (0, 1)], atol=1e-4)


def test_recover_environment_in_a_fresh_process(made, root, tmp_path):
    """Nothing of this package is imported by hand; the episode is replayed to its end."""
    code = f"""
import minari
dataset = minari.load_dataset({made.id!r})
for evaluation in (False, True):
    env = dataset.recover_environment(eval_env=evaluation)
    env.reset(seed=next(iter(dataset.storage.get_episode_metadata([0])))["seed"])
    total = sum(env.step(action)[1] for action in dataset[0].actions)
    assert abs(total - dataset[0].rewards.sum()) < 1e-2
"""
    environment = os.environ | {"MINARI_DATASETS_PATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_full_length_episode_is_not_truncated(made_zero):
    """K decisions: the time limit Minari's environment carries must not strike on the last."""
    env = minari.load_dataset(made_zero.id).recover_environment()
    env.reset(seed=0)
    for k in range(8):
        *_, terminated, truncated, _ = env.step(np.zeros(3, np.float32))
        assert not truncated
        assert terminated == (k == 7)


def flat_of(copy, made):
    return copy / made.id / flat_name(made.manifest["content_hash"])


def test_arrays_are_mapped_and_writing_never_reaches_the_file(made, copy):
    first = load_dataset(made.id, root=copy, progress=False)
    assert isinstance(first.rewards.base, np.memmap)
    before = float(first.rewards[0])
    first.rewards[0] = 1.0
    assert load_dataset(made.id, root=copy, progress=False).rewards[0] == before


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"no array", None])
def test_a_damaged_flat_cache_is_rebuilt(rows, made, copy, damage):
    file = flat_of(copy, made) / "observations.npy"
    whole = file.read_bytes()
    file.unlink()
    if damage is not None:
        file.write_bytes(damage(whole))
    refused(DatasetError, r"observations\.npy", lambda: read_flat(file.parent))
    again = load_dataset(made.id, root=copy, progress=False)
    np.testing.assert_array_equal(again.observations, rows.observations)
    read_flat(file.parent)


def test_a_locked_hdf5_file_is_not_called_damaged(made, copy):
    """Another program has it open for writing: flock is what HDF5 locks with."""
    fcntl = pytest.importorskip("fcntl")
    shutil.rmtree(flat_of(copy, made))
    load = partial(load_dataset, made.id, root=copy, progress=False)
    with open(copy / made.id / DATA_FILE, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Not "regenerate": nothing is damaged.
        refused(DatasetError, r"^(?!.*regenerate).*main_data\.hdf5: .*lock.*HDF5_USE_FILE_LOCKING=FALSE", load)
    assert len(load()) == made.steps


def test_episodes_added_through_minari_are_noticed(made, copy, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(copy))
    dataset = minari.load_dataset(made.id)
    names = ("observations", "actions", "rewards", "terminations", "truncations", "infos")
    dataset.update_dataset_from_buffer([EpisodeBuffer(seed=1, **{name: getattr(dataset[0], name) for name in names})])
    assert minari.load_dataset(made.id).total_episodes == 13
    words = r"Minari \(13 episodes now\): read it with minari"
    refused(DatasetError, words, lambda: load_dataset(made.id, progress=False))
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


def test_the_content_hash_sees_every_bit(rows):
    rewards = np.array(rows.rewards)
    rewards[5] = np.nextafter(rewards[5], np.float32(0))
    others = [dataclasses.replace(rows, **change) for change in ({"rewards": rewards}, {"decisions": 10})]
    copied = dataclasses.replace(rows, rewards=np.array(rows.rewards), dataset_id="medgym/copy-v0")
    assert content_hash(copied) == content_hash(rows)
    assert len({content_hash(some) for some in (rows, *others)}) == 3


def test_arrow(rows, tiny_bank):
    pytest.importorskip("pyarrow")
    table = to_arrow(rows)
    columns = {name: np.array(table[name].to_pylist()).astype(COLUMNS[name]) for name in COLUMNS}
    for name, column in columns.items():
        np.testing.assert_array_equal(column, getattr(rows, name))
    assert [c for c in check_rows(dataclasses.replace(rows, **columns), tiny_bank) if not c.ok] == []
    assert table["patient_id"].to_pylist() == [rows.patients[i] for i in rows.patient]
    meaning = json.loads(table.schema.metadata[b"medgym"])
    assert (meaning["identity"], tuple(meaning["patients"])) == (rows.identity, rows.patients)


def test_d3rlpy(rows):
    """Through d3rlpy's own picker: in every episode, not only the first, a transition is a row."""
    pytest.importorskip("sklearn")
    pytest.importorskip("d3rlpy")
    found = to_d3rlpy(rows)
    assert (len(found.episodes), found.transition_count, found.dataset_info.action_size) == (12, len(rows), 4)
    steps = [(e, step) for e, episode in enumerate(found.episodes) for step in range(episode.transition_count)]
    assert [e for e, _ in steps] == rows.episode.tolist()
    for row, (e, step) in enumerate(steps):
        seen = found.transition_picker(found.episodes[e], step)
        np.testing.assert_array_equal(seen.observation, rows.observations[row])
        np.testing.assert_array_equal(seen.action, rows.actions[row])
        assert (float(seen.reward[0]), seen.terminal) == (rows.rewards[row], float(rows.terminations[row]))
        if not rows.terminations[row]:
            np.testing.assert_array_equal(seen.next_observation, rows.next_observations[row])


def test_d3rlpy_is_not_given_what_it_would_misread(rows):
    whole, first_end = np.arange(len(rows)), int(np.flatnonzero(rows.terminations)[0])
    assert first_end >= 2
    for chosen in (whole[:-1], np.delete(whole, first_end - 1), whole[::-1]):
        with pytest.raises(DatasetError, match=r"row \d+ \(episode \d+\) is neither"):
            to_d3rlpy(rows.select(chosen))
    with pytest.raises(DatasetError, match="no rows"):
        to_d3rlpy(rows.select(whole[:0]))


@pytest.mark.parametrize(("package", "make"), [("pyarrow", to_arrow), ("d3rlpy", to_d3rlpy)])
def test_a_missing_package_is_named_with_its_extra(rows, monkeypatch, package, make):
    monkeypatch.setitem(sys.modules, package, None)
    refused(MissingExtraError, rf"needs {package}; install it with: pip install", lambda: make(rows))
