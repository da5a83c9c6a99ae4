"""What a user of Minari sees, through Minari's own code."""

import os
import subprocess
import sys

import gymnasium
import minari
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _here(root, made, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))


def test_its_episodes_are_the_flat_rows(made, rows):
    for episode in minari.load_dataset(made.id):
        own = rows.select(rows.episode == episode.id)
        np.testing.assert_array_equal(episode.observations[:-1], own.observations)
        np.testing.assert_array_equal(episode.observations[1:], own.next_observations)
        for name, array in (("actions", own.actions), ("rewards", own.rewards), ("terminations", own.terminations)):
            np.testing.assert_array_equal(getattr(episode, name), array)
        assert not episode.truncations.any()
        assert episode.terminations.dtype == bool
        for name, array in (("cost", own.costs), ("dt", own.dt), ("time", own.time), ("sofa", own.severity)):
            assert episode.infos[name].shape == (len(episode) + 1,)
            np.testing.assert_array_equal(episode.infos[name][1:], array)
        np.testing.assert_array_equal(episode.infos["lactate"][1:], own.monitored)
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
            assert info["time"] == pytest.approx(episode.infos["time"][t + 1], abs=1e-4)  # a tick or two: float32
        np.testing.assert_allclose(observation, episode.observations[-1], atol=1e-4)
        assert over
    chosen = [1, 5, 10]
    stored_all = list(dataset.storage.get_episode_metadata(chosen))
    envs = gymnasium.make_vec(env.spec, num_envs=3, vectorization_mode="vector_entry_point")
    options = {name: [one["options"][name] for one in stored_all] for name in ("patient", "patient_index")}
    observations, _ = envs.reset(seed=[one["seed"] for one in stored_all], options=options)
    np.testing.assert_allclose(observations, [dataset[e].observations[0] for e in chosen], atol=1e-4)
    observations = envs.step(np.array([dataset[e].actions[0] for e in chosen]))[0]
    np.testing.assert_allclose(observations, [dataset[e].observations[1] for e in chosen], atol=1e-4)


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
