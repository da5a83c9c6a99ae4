"""Columns along the path, mixes of policies, worlds, and more episodes of a recipe."""

import dataclasses

import numpy as np
import pytest
import torch

from medgym_offline.datasets import Recipe, Transitions, generate, load_dataset, shards, verify
from medgym_offline.datasets.behaviors import action_log_prob, play, process_config, recipe_behavior
from medgym_offline.datasets.shards import play_shard
from medgym_offline.envs.process import DecisionProcess
from medgym_offline.envs.rollout import dense, episode_seeds
from medgym_offline.policies.protocol import clipped_normal_log_prob
from medgym_offline.simulators import load_simulators

PATIENTS = 3


def made(behavior, perturbation):
    """Rows of three diabetes patients as generation makes them; their bank, behavior, rollout and process."""
    sizes = {"decisions": 5, "episodes": 4, "perturbation": perturbation, "seed": 3, "world": "true"}
    recipe = Recipe("medgym/diabetes-columns-v0", "for a test", "diabetes-v0", behavior, **sizes)
    config, patients = process_config(recipe, "diabetes"), list(range(PATIENTS))
    bank = load_simulators(recipe.bank).world(recipe.world).select(patients)
    acts = recipe_behavior(recipe, bank).select(bank.patients)
    seeds = episode_seeds(recipe.seed, recipe.stream, bank.patients, recipe.episodes)
    rows = play_shard(bank, acts, recipe, seeds, patients).columns
    found = Transitions(**rows, patients=bank.patients, decisions=5, disease="diabetes").validate()
    return found, bank, acts, play(bank, acts, config, seeds, perturbation), config


def test_costs_along_the_path_are_integrals_and_maxima_of_the_rate():
    rows, bank, _, played, config = made("ind", 0.05)
    process = DecisionProcess(bank.to(torch.float64), config)
    step = 1 / 12  # the path is known every five minutes
    states, _ = dense(process, played, torch.arange(0, 288 + 1, dtype=torch.float64) * step)
    rate = bank.disease.cost.rate(bank.denormalize(states)[..., bank.disease.monitored])
    whole = ((rate[..., 1:] + rate[..., :-1]) / 2 * step).sum(-1).numpy()
    per_episode = np.add.reduceat(rows.costs_path[:, 0].astype(float), rows.episode_starts())
    np.testing.assert_allclose(per_episode, whole.reshape(-1), rtol=0.02, atol=0.05)
    peaks = np.maximum.reduceat(rows.costs_peak[:, 0].astype(float), rows.episode_starts())
    np.testing.assert_allclose(peaks, rate.amax(-1).numpy().reshape(-1), rtol=1e-3, atol=1e-3)


def test_log_probabilities_are_those_of_who_played():
    rows, bank, acts, *_ = made("random + ind", 0.2)
    own = torch.as_tensor(rows.observations)[None]
    for number, part in enumerate(acts.parts):
        mine = rows.episode % 2 == number
        if part.name == "random":
            edge = np.abs(rows.actions[mine]).max(1) == 1.0
            assert (rows.behavior_log_prob[mine][~edge] <= rows.actions.shape[1] * np.log(0.5) + 1e-5).all()
            continue
        for p in range(PATIENTS):
            some = mine & (rows.patient == p)
            mean = part.for_patients([bank.patients[p]]).act(own[:, some])[0]
            wanted = clipped_normal_log_prob(torch.as_tensor(rows.actions[some]), mean, 0.2)
            np.testing.assert_allclose(rows.behavior_log_prob[some], wanted.numpy(), rtol=1e-3, atol=1e-3)


def test_importance_weights_of_a_known_policy_average_to_one_and_to_its_mean_action():
    """Of the first decision, under a uniform behavior: E[w] = 1 and E[w a] = E_pi[a], pi a clipped normal."""
    recipe = Recipe("medgym/toy-weights-v0", "for a test", "toy-v0", "random", decisions=4, episodes=400, seed=1)
    bank = load_simulators(recipe.bank).world(recipe.world).select([0])
    behavior = recipe_behavior(recipe, bank)
    seeds = episode_seeds(1, recipe.stream, bank.patients, 4000)
    played = play(bank, behavior, process_config(recipe, bank.disease.name), seeds, 0.1)
    actions = played.actions[0, :, 0]
    mean, sigma = torch.tensor([0.8] + [0.1] * (actions.shape[1] - 1)), 0.4
    behaved = action_log_prob(played, behavior, 0.1)[0, :, 0]
    weights = torch.exp(clipped_normal_log_prob(actions, mean.expand_as(actions), sigma) - behaved)
    normal = np.random.default_rng(0).normal(mean.numpy(), sigma, (200_000, len(mean))).clip(-1, 1)
    assert float(weights.mean()) == pytest.approx(1.0, abs=0.08)
    found = (weights[:, None] * actions.double()).mean(0)
    assert found.numpy() == pytest.approx(normal.mean(0), abs=0.08)


def test_an_action_without_noise_has_no_probability():
    rows = made("clinician", 0.0)[0]
    assert np.isnan(rows.behavior_log_prob).all()
    uniform = made("random", 0.0)[0]
    np.testing.assert_allclose(uniform.behavior_log_prob, -uniform.actions.shape[1] * np.log(2.0), rtol=1e-6)


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
        own, wanted = (every.select((every.episode % 4) % 3 == turn) for every in (rows, one))
        np.testing.assert_array_equal(own.actions, wanted.actions)
        np.testing.assert_allclose(own.next_observations, wanted.next_observations, atol=1e-5)
    parts = [part["sha256"] for part in made.manifest["behavior"]["parts"]]
    assert parts == ["builtin:zero", "builtin:max", "builtin:random"]
    report = verify(made.id, root=tmp_path / "mix", replay=4, progress=False)
    assert report.ok
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
    references = made.manifest["references"]
    there = references["data_world"]
    assert made.manifest["env_spec"]["kwargs"]["world"] == there["world"] == world
    assert there["returns"]["behavior"] == there["returns"]["zero"] != references["returns"]["zero"]
