"""Mixes of policies, worlds, and more episodes of a recipe."""

import dataclasses

import numpy as np
import pytest

from medgym_offline.datasets import generate, load_dataset, shards, verify
from medgym_offline.datasets.behaviors import play, process_config, recipe_behavior
from medgym_offline.envs.rollout import episode_seeds
from medgym_offline.simulators import load_simulators


def test_more_episodes_go_on_where_the_dataset_ends(recipe, rows, tmp_path, monkeypatch):
    """Also over several shards of episodes, which are put together patient by patient."""
    monkeypatch.setattr(shards, "SHARD_EPISODES", 3)
    made = generate(recipe, root=tmp_path, episodes=7, output_id="medgym/sepsis-prior-large-v0", progress=False)
    found = load_dataset(made.id, root=tmp_path, progress=False)
    assert made.episodes == 28
    start = found.select(np.isin(found.episode % 7, [0, 1, 2]))
    np.testing.assert_array_equal(start.patient, rows.patient)
    np.testing.assert_array_equal(start.observations, rows.observations)
    assert verify(made.id, root=tmp_path, replay=3, progress=False).ok


def test_a_mix_takes_turns(recipe, tiny_bank, tmp_path):
    """Episode e of every patient is that of policy e mod n alone, in any cut; verification knows it."""
    mix = dataclasses.replace(recipe, behavior="zero + max + random", episodes=4)
    made = generate(mix, root=tmp_path / "mix", progress=False)
    rows = load_dataset(made.id, root=tmp_path / "mix", progress=False)
    for turn, name in enumerate(("zero", "max", "random")):
        alone = generate(dataclasses.replace(mix, behavior=name), root=tmp_path / name, progress=False)
        one = load_dataset(alone.id, root=tmp_path / name, progress=False)
        own = rows.select((rows.episode % 4) % 3 == turn)
        wanted = one.select((one.episode % 4) % 3 == turn)
        np.testing.assert_array_equal(own.actions, wanted.actions)
        np.testing.assert_allclose(own.next_observations, wanted.next_observations, atol=1e-5)
    parts = made.manifest["behavior"]["parts"]
    assert [part["sha256"] for part in parts] == ["builtin:zero", "builtin:max", "builtin:random"]
    report = verify(made.id, root=tmp_path / "mix", replay=4, progress=False)
    assert report.ok, str(report)
    assert "16 episodes of 4 patients" in next(check.detail for check in report.checks if check.name == "behavior")


@pytest.mark.parametrize("world", ["crossfit", "true"])
def test_data_come_from_the_world_that_the_recipe_names(recipe, tmp_path, world):
    twin = dataclasses.replace(recipe, bank="sepsis-twin-v0", world=world, behavior="zero", episodes=2)
    made = generate(twin, root=tmp_path, patients=1, output_id="medgym/part-v0", progress=False)
    rows = load_dataset(made.id, root=tmp_path, progress=False)
    bank = load_simulators("sepsis-twin-v0")
    # First states are charted and common to the fitted worlds: what tells worlds apart is where the same seeds lead.
    seeds = episode_seeds(twin.seed, twin.stream, bank.patients[:1], twin.episodes)
    for name in bank.worlds:
        there = bank.world(name).select([0])
        replayed = play(there, recipe_behavior(twin, bank), process_config(twin, "sepsis"), seeds, twin.perturbation)
        gap = np.abs(replayed.rewards[replayed.valid].numpy() - rows.rewards).max()
        assert (gap < 1e-4) == (name == world), (name, gap)
    assert verify(made.id, root=tmp_path, replay=2, progress=False).ok
    assert made.manifest["env_spec"]["kwargs"]["world"] == world
    there = made.manifest["references"]["data_world"]
    assert there["world"] == world
    assert there["returns"]["behavior"] == there["returns"]["zero"] != made.manifest["references"]["returns"]["zero"]
