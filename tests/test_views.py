"""What a policy sees: deterministic from the seed, blind to what was not measured, the same wherever it is computed."""

from __future__ import annotations

import functools
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

import medgym_offline as mgo
from medgym_offline.datasets import Recipe, dataset_info, find_recipe, generate, load_dataset, verify
from medgym_offline.datasets.behaviors import recipe_behavior, resolve_behavior
from medgym_offline.diseases.base import Channel, View
from medgym_offline.envs import DecisionProcess, ProcessConfig, TreatmentEnv, TreatmentVectorEnv, draw_noise
from medgym_offline.envs.rollout import dense, episode_seeds, rollout
from medgym_offline.envs.views import Lens
from medgym_offline.errors import DatasetError, DiseaseError, MedGymError, PolicyError, UnknownNameError
from medgym_offline.evaluation import evaluate
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.policies import export_onnx, export_torchscript, load_policy, save_policy
from medgym_offline.policies.builtin import builtin_policy
from medgym_offline.simulators import load_simulators
from tests.helpers import refused

each_disease = pytest.mark.parametrize("disease", ["sepsis", "diabetes", "anesthesia", "toy"])
each_view = pytest.mark.parametrize("view", ["noisy", "charted"])


@functools.cache
def bank_of(disease):
    return load_simulators(mgo.disease(disease).bank).select(3)


def played(bank, view, seeds, actions):
    config = ProcessConfig(disease=bank.disease.name, view=view)
    numbers = iter(range(config.decisions))
    process = DecisionProcess(bank, config)
    return process, rollout(process, lambda _: actions[:, :, next(numbers)], draw_noise(seeds, bank, config))


@functools.cache
def shown(disease, view):
    """The process and the episodes of random actions."""
    bank = bank_of(disease)
    return played(bank, view, seeds_of(bank), random_actions(bank))


def random_actions(bank, episodes=4, seed=0):
    shape = (len(bank), episodes, bank.disease.process.decisions, bank.disease.action_dim("adaptive"))
    return 2.0 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1.0


def seeds_of(bank, episodes=4):
    return episode_seeds(0, "views", bank.patients, episodes)


@each_disease
@each_view
def test_the_episode_is_the_same_whatever_is_seen(disease, view):
    bank, (_, full), (process, seen) = bank_of(disease), shown(disease, "full"), shown(disease, view)
    for name in ("states", "rewards", "dt", "costs", "severity"):
        assert torch.equal(getattr(full, name), getattr(seen, name)), name
    assert seen.observations.shape[-1] == process.config.observation_dim == len(bank.disease.seen(view))
    assert torch.equal(seen.observations[..., -2:], full.observations[..., -2:])
    assert not torch.equal(seen.observations[..., 0], full.observations[..., 0])
    space = TreatmentEnv(bank=bank, view=view).observation_space
    assert all(space.contains(row) for row in seen.observations.flatten(0, 2).numpy())
    again = played(bank, view, seeds_of(bank), random_actions(bank))[1]
    assert torch.equal(seen.observations, again.observations)


@each_disease
def test_nothing_that_was_not_measured_is_seen(disease):
    """State and measurements are exchanged wherever no result is in: the observation stays, to the bit."""
    bank, process = bank_of(disease), shown(disease, "charted")[0]
    seeds, actions = seeds_of(bank), random_actions(bank)
    noise, generator = draw_noise(seeds, bank, process.config), torch.Generator().manual_seed(1)
    episodes = process.start(seeds.shape[1], noise.initial, noise.exogenous, noise.view)
    at_decisions = [c.component for c in process.lens.view.channels if c.gap is None]
    unseen = [c.kind != "derived" and c.name not in at_decisions for c in bank.disease.components]
    for k in range(process.config.decisions):
        seen, table = process.observe(episodes), episodes.view
        known = (table[..., :2] <= episodes.time[..., None, None]).all(-1)
        odd = torch.randn(table.shape[:-1], generator=generator)
        other = torch.cat([table[..., :3], torch.where(known, table[..., 3], odd)[..., None]], -1)
        due = (table[..., 0] == episodes.time[..., None]).any(-1)  # a measurement of this very moment is seen
        state = torch.where(torch.tensor(unseen) & ~due[..., None], torch.randn(episodes.x.shape), episodes.x)
        assert torch.equal(process.observe(replace(episodes, x=state, view=other)), seen)
        episodes = process.step(episodes, actions[:, :, k], noise.process[:, :, k]).next


@each_disease
@each_view
def test_nothing_later_changes_what_was_seen(disease, view):
    bank, cut = bank_of(disease), 3
    other = torch.cat([random_actions(bank)[:, :, :cut], random_actions(bank, seed=9)[:, :, cut:]], 2)
    one, two = shown(disease, view)[1].observations, played(bank, view, seeds_of(bank), other)[1].observations
    assert torch.allclose(one[:, :, : cut + 1], two[:, :, : cut + 1], atol=1e-5)
    assert not torch.equal(one[:, :, cut + 1 :], two[:, :, cut + 1 :])


@each_disease
def test_times_and_errors_depend_on_the_seed_alone(disease):
    process = mgo.disease(disease).process
    few = Lens(ProcessConfig(disease=disease, view="charted"))
    drawn = few.draw(5)
    many = Lens(ProcessConfig(disease=disease, view="charted", decisions=process.decisions + 3))
    for channel, short, long in zip(few.view.channels, few._slots, many._slots):
        assert np.array_equal(drawn[short], many.draw(5)[long][: short.stop - short.start]), channel
        assert channel.gap is None or drawn[short, 0].max() > process.horizon, "slots last for the whole episode"
    assert not np.array_equal(drawn, few.draw(6))
    assert (drawn[np.isfinite(drawn[:, 0]), 0] >= 0).all()


@each_disease
@each_view
def test_one_episode_does_not_depend_on_others(disease, view):
    bank, together = bank_of(disease), shown(disease, view)[1]
    _, alone = played(bank.select([1]), view, seeds_of(bank)[1:2, 2:3], random_actions(bank)[1:2, 2:3])
    assert torch.allclose(together.observations[1:2, 2:3], alone.observations, atol=2e-4)


def test_a_result_comes_after_its_delay_and_waiting_buys_it():
    bank = bank_of("toy")
    channel = bank.disease.views["charted"].channels[0]
    process, seen = played(bank, "charted", seeds_of(bank, 40), random_actions(bank, 40))
    table = draw_noise(seeds_of(bank, 40), bank, process.config).view
    time = torch.cat([torch.zeros_like(seen.time[..., :1]), seen.time], -1)
    taken, result = table[..., 0], table[..., 1]
    there = (result[:, :, None] <= time[..., None] + 1e-6) & (taken[:, :, None] <= time[..., None] + 1e-6)
    latest = torch.where(there, taken[:, :, None], -1.0).amax(-1)
    known = there.any(-1)
    assert torch.equal(seen.observations[..., -3] == 1.0, known)
    age = (time - latest) / process.config.horizon
    assert torch.allclose(seen.observations[..., -4][known], age[known], atol=1e-5)
    assert (seen.observations[..., 0][~known] == 0.0).all()
    assert (age[known] * process.config.horizon >= channel.delay - 1e-4).all()
    assert 0.05 < float(torch.isinf(result).float().mean()) < 0.2, "a tenth of the measurements gives no value"


def test_a_value_is_that_of_the_path_at_its_time():
    """Without error and delay, what is shown is what the dense path was at the time that the age says."""
    bank = bank_of("toy")
    exact = replace(bank.disease, views={"charted": View((Channel("glucose", gap=2.0, spread=0.2),))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessConfig, "definition", property(lambda self: exact))
        process, seen = played(bank, "charted", seeds_of(bank), random_actions(bank))
    time = torch.cat([torch.zeros_like(seen.time[..., :1]), seen.time], -1)
    horizon, checked = process.config.horizon, 0
    for p, b, k in np.ndindex(*time.shape):
        if seen.observations[p, b, k, -3] == 1.0:
            at = float(time[p, b, k] - horizon * seen.observations[p, b, k, -4])
            state = dense(process, seen, torch.tensor([at]))[0][p, b, 0, 0]
            assert abs(float(state - seen.observations[p, b, k, 0])) < 2e-3
            checked += 1
    assert checked > 20


TOY = Recipe("medgym/toy-views-v0", "Uniform.", "toy-v0", "random", decisions=6, episodes=3)


@pytest.fixture
def stored():
    return generate(TOY, patients=3, output_id="medgym/toy-few-v0", progress=False).id


@each_view
def test_environments_and_dataset_show_the_same(view, stored):
    full, rows = load_dataset(stored, progress=False), load_dataset(stored, progress=False, view=view)
    assert (rows.view, rows.identity) == (view, full.identity)
    assert np.array_equal(rows.rewards, full.rewards)
    bank = load_simulators("toy-v0").select(list(full.present_ids))
    seeds = episode_seeds(TOY.seed, "dataset:medgym/toy-views-v0", bank.patients, 3)
    vector = TreatmentVectorEnv(bank=bank, patients=[0, 1, 2], decisions=6, world="own", view=view)
    first, _ = vector.reset(seed=[int(s) for s in seeds[:, 1]])
    env = TreatmentEnv(bank=bank, decisions=6, world="own", view=view)
    steps, expected = [], []
    for p, patient in enumerate(bank.patients):
        own = rows.select(patients=[patient])
        begin, end = own.episode_starts()[1:3]
        observation, _ = env.reset(seed=int(seeds[p, 1]), options={"patient": patient})
        assert np.allclose(first[p], observation, atol=1e-4)
        for i in range(begin, end):
            assert np.allclose(observation, own.observations[i], atol=1e-3)
            observation = env.step(own.actions[i])[0]
            assert np.allclose(observation, own.next_observations[i], atol=1e-3)
        steps.append(own.actions[begin])
        expected.append(own.next_observations[begin])
    assert np.allclose(vector.step(np.stack(steps))[0], np.stack(expected), atol=1e-3)


def test_a_view_is_kept_and_made_for_the_patients_asked_for(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGYM_CACHE", str(tmp_path))
    one = load_dataset(stored, patients=1, progress=False, view="charted")
    (file,) = tmp_path.rglob("*.npy")
    written = file.stat().st_mtime_ns
    whole = load_dataset(stored, progress=False, view="charted")
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    assert file.stat().st_mtime_ns == written, "the first patient was not played again"
    assert np.allclose(whole.observations[: len(one)], one.observations, atol=1e-6)


def gap(policy, rows):
    """Mean distance of a policy's actions from those of the rows."""
    return np.abs(policy.act(rows.observations[None])[0].clip(-1, 1) - rows.actions).mean()


def test_a_behavior_may_see_less_than_what_is_stored():
    """Rows are `full`; the actions are those of a rule that saw the last fingerstick."""
    options = {"decisions": 5, "episodes": 3, "world": "true", "view": "charted", "perturbation": 0.05}
    recipe = Recipe("medgym/diabetes-blind-v0", "Blind.", "diabetes-v0", "clinician", **options)
    generate(recipe, patients=2, output_id=recipe.id, progress=False)
    full, seen = (load_dataset(recipe.id, progress=False, view=v) for v in ("full", "charted"))
    assert full.observation_dim == mgo.disease("diabetes").observation_dim
    bank = load_simulators("diabetes-v0").world("true").select(list(full.present_ids))
    policy = builtin_policy("clinician", bank, decisions=5, view="charted")
    for patient in full.present_ids:
        assert gap(policy.select([patient]), seen.select(patients=[patient])) < 0.1, "actions follow what was seen"
    assert verify(recipe.id).ok


@pytest.mark.parametrize("name", ["sepsis", "diabetes", "anesthesia"])
def test_every_disease_has_a_dataset_whose_behavior_sees_what_is_charted(name):
    recipe = find_recipe(f"medgym/{name}-charted-v0")
    assert recipe.view == "charted"
    assert dataset_info(recipe.id).episodes


def test_a_shipped_policy_takes_what_is_charted_for_the_state():
    """Its values alone: ages and masks change nothing, and the actions are those of the policy of view "full"."""
    recipe, bank = find_recipe("medgym/sepsis-charted-v0"), load_simulators("sepsis-v0").select(3)
    behavior = recipe_behavior(recipe, bank)
    plain = resolve_behavior(recipe.behavior, bank, "adaptive", recipe.decisions)
    assert (behavior.digest, behavior.policy.view) == (plain.digest, "charted")
    seen = torch.randn(3, 5, behavior.policy.observation_dim, generator=torch.Generator().manual_seed(0))
    values = torch.cat([seen[..., :7], seen[..., -2:]], -1)
    torch.testing.assert_close(behavior.policy.act(seen), plain.policy.act(values))
    generate(recipe, patients=2, episodes=3, output_id="medgym/few-charted-v0", progress=False)
    full, seen = (load_dataset("medgym/few-charted-v0", progress=False, view=v) for v in ("full", "charted"))
    for patient in full.present_ids:
        followed = gap(behavior.policy, seen.select(patients=[patient]))
        assert followed < 0.06, "actions follow what was seen"
        assert gap(plain.policy, full.select(patients=[patient])) > 1.2 * followed, "and not what was so"
    assert verify("medgym/few-charted-v0").ok


class Asks:
    """A policy that says nothing of itself."""

    def act(self, observations):
        return np.tanh(observations[..., :1].repeat(2, -1))


def cloned(stored, updates):
    rows = load_dataset(stored, progress=False, view="charted")
    return train("bc", rows, "pop", config=OfflineConfig(updates=updates, batch=16, hidden=8), progress=False).policy


def test_a_policy_is_evaluated_on_what_it_was_trained_on(stored, tmp_path):
    path = save_policy(cloned(stored, 20), tmp_path / "bc.safetensors")
    again = load_policy(path)
    assert (again.view, again.observation_dim) == ("charted", 5)
    quick = {"bank": load_simulators("toy-v0").select(3), "episodes": 2, "worlds": ("own",)}
    found = evaluate(path, dataset=stored, **quick)
    assert found.protocol["view"] == "charted"
    assert "view" not in found.deviations
    assert "support_distance" in found.metrics
    words = r"^policy 'bc' was made for view 'charted' and cannot be .*$"
    refused(PolicyError, words, lambda: evaluate(path, view="full", **quick))
    words, full = "was loaded with view 'full', the policy sees 'charted'", load_dataset(stored, progress=False)
    refused(DatasetError, words, lambda: evaluate(path, dataset=full, **quick))
    plain, blind = evaluate(Asks(), **quick), evaluate(Asks(), view="charted", **quick)
    assert "view" not in plain.protocol
    assert plain.metrics["return"] != blind.metrics["return"]
    for name in ("zero", "random"):
        scores = [evaluate(name, view=view, **quick).metrics["return"] for view in ("full", "charted")]
        assert scores[0] == scores[1], "policies that look at nothing are the same whatever is shown"


def test_exported_policies_say_what_they_see(stored, tmp_path):
    policy = cloned(stored, 2)
    for export, file in ((export_torchscript, "own.pt"), (export_onnx, "own.onnx")):
        found = load_policy(export(policy, tmp_path / file))
        assert (found.view, found.disease, found.observation_dim, found.action_dim) == ("charted", "toy", 5, 2)
    other = functools.partial(evaluate, tmp_path / "own.pt", bank="sepsis-v0", patients=1, episodes=1)
    refused(PolicyError, "was made for toy, bank 'sepsis-v0' is of sepsis", other)
    torch.jit.save(torch.jit.script(torch.nn.Linear(5, 2)), str(tmp_path / "foreign.pt"))
    quick = {"bank": load_simulators("toy-v0").select(2), "episodes": 1, "worlds": ("own",)}
    evaluate(tmp_path / "foreign.pt", view="charted", **quick)
    refused(PolicyError, "fails on 2 observations of 3 columns", lambda: evaluate(tmp_path / "foreign.pt", **quick))


def test_mistakes_are_one_line(stored):
    bank, rows = bank_of("toy"), load_dataset(stored, progress=False)
    process = DecisionProcess(bank, ProcessConfig(disease="toy", view="noisy"))
    views = {"bad": View((Channel("sugar"),))}
    blind = functools.partial(evaluate, "behavior", view="charted", bank="sepsis-v0", patients=1, episodes=1)
    meant, lacks = "did you mean 'charted'", "views 'bad', channel 'sugar': each channel measures a component"
    for error, words, action in (
        (UnknownNameError, meant, lambda: load_dataset(stored, progress=False, view="chartd")),
        (MedGymError, meant, lambda: ProcessConfig(disease="toy", view="chartd")),
        (MedGymError, meant, lambda: gymnasium.make("medgym/Diabetes-v0", view="chartd")),
        (MedGymError, meant, lambda: evaluate("zero", bank=bank, view="chartd", episodes=1)),
        (MedGymError, meant, lambda: generate(replace(TOY, view="chartd"), progress=False)),
        (PolicyError, r"behavior.*made for view 'full'.*under view 'charted'", blind),
        (MedGymError, "needs the episodes' measurements", lambda: process.observe(process.start(1))),
        (DiseaseError, lacks, lambda: replace(bank.disease, views=views)),
        (DatasetError, "observations have width 3, view 'charted' has 5", replace(rows, view="charted").validate),
    ):
        refused(error, words, action)
