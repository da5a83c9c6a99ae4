"""What a policy sees: deterministic from the seed, blind to what was not measured, the same wherever it is computed."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

import medgym_offline as mgo
from medgym_offline.datasets import Recipe, find_recipe, generate, load_dataset, verify
from medgym_offline.datasets.behaviors import recipe_behavior, resolve_behavior
from medgym_offline.diseases.base import Channel, View
from medgym_offline.envs import DecisionProcess, ProcessConfig, TreatmentEnv, TreatmentVectorEnv, draw_noise
from medgym_offline.envs.rollout import episode_seeds, rollout
from medgym_offline.errors import DatasetError, MedGymError, PolicyError
from medgym_offline.evaluation import evaluate
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.policies import export_onnx, export_torchscript, load_policy, save_policy
from medgym_offline.simulators import load_simulators
from tests.helpers import refused

DISEASES = ("sepsis", "diabetes", "anesthesia", "toy")
VIEWS = ("noisy", "charted")


@functools.cache
def bank_of(disease):
    return load_simulators(mgo.disease(disease).bank).select(3)


def played(bank, view, seeds, actions, decisions=None):
    config = ProcessConfig(disease=bank.disease.name, view=view, decisions=decisions)
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


@pytest.mark.parametrize("disease", DISEASES)
@pytest.mark.parametrize("view", VIEWS)
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


@pytest.mark.parametrize("disease", DISEASES)
def test_nothing_that_was_not_measured_is_seen(disease):
    """State and measurements are exchanged wherever no result is in: the observation stays, to the bit."""
    bank = bank_of(disease)
    seeds, actions = seeds_of(bank), random_actions(bank)
    config = ProcessConfig(disease=disease, view="charted")
    process, noise = DecisionProcess(bank, config), draw_noise(seeds, bank, config)
    episodes = process.start(seeds.shape[1], noise.initial, noise.exogenous, noise.view)
    lens, generator = process.lens, torch.Generator().manual_seed(1)
    assert lens is not None
    at_decisions = [c.component for c in lens.view.channels if c.gap is None]
    unseen = [c.kind != "derived" and c.name not in at_decisions for c in bank.disease.components]
    for k in range(config.decisions):
        shown, table = process.observe(episodes), episodes.view
        assert table is not None
        known = (table[..., :2] <= episodes.time[..., None, None]).all(-1)
        odd = torch.randn(table.shape[:-1], generator=generator)
        other = torch.cat([table[..., :3], torch.where(known, table[..., 3], odd)[..., None]], -1)
        due = (table[..., 0] == episodes.time[..., None]).any(-1)  # a measurement of this very moment is seen
        state = torch.where(torch.tensor(unseen) & ~due[..., None], torch.randn(episodes.x.shape), episodes.x)
        assert torch.equal(process.observe(dataclasses.replace(episodes, x=state, view=other)), shown)
        episodes = process.step(episodes, actions[:, :, k], noise.process[:, :, k]).next


@pytest.mark.parametrize("disease", DISEASES)
@pytest.mark.parametrize("view", VIEWS)
def test_nothing_later_changes_what_was_seen(disease, view):
    bank = bank_of(disease)
    actions, seeds, cut = random_actions(bank), seeds_of(bank), 3
    other = torch.cat([actions[:, :, :cut], random_actions(bank, seed=9)[:, :, cut:]], 2)
    one, two = shown(disease, view)[1].observations, played(bank, view, seeds, other)[1].observations
    assert torch.allclose(one[:, :, : cut + 1], two[:, :, : cut + 1], atol=1e-5)
    assert not torch.equal(one[:, :, cut + 1 :], two[:, :, cut + 1 :])


@pytest.mark.parametrize("disease", DISEASES)
@pytest.mark.parametrize("view", VIEWS)
def test_one_episode_does_not_depend_on_others(disease, view):
    bank = bank_of(disease)
    seeds, actions = seeds_of(bank), random_actions(bank)
    _, together = shown(disease, view)
    _, alone = played(bank.select([1]), view, seeds[1:2, 2:3], actions[1:2, 2:3])
    assert torch.allclose(together.observations[1:2, 2:3], alone.observations, atol=2e-4)


def test_a_result_comes_after_its_delay_and_waiting_buys_it():
    bank = bank_of("toy")
    channel = bank.disease.views["charted"].channels[0]
    process, seen = played(bank, "charted", seeds_of(bank, 40), random_actions(bank, 40))
    table = draw_noise(seeds_of(bank, 40), bank, process.config).view
    assert table is not None
    assert process.lens is not None
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
    from medgym_offline.envs.rollout import dense

    bank = bank_of("toy")
    exact = dataclasses.replace(bank.disease, views={"charted": View((Channel("glucose", gap=2.0, spread=0.2),))})
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


@pytest.fixture(scope="module")
def toy_recipe():
    return Recipe(
        id="medgym/toy-views-v0", description="Uniform.", bank="toy-v0", behavior="random", decisions=6, episodes=3
    )


@pytest.fixture
def stored(toy_recipe):
    generate(toy_recipe, patients=3, output_id="medgym/toy-few-v0", progress=False)
    return "medgym/toy-few-v0"


@pytest.mark.parametrize("view", VIEWS)
def test_environments_and_dataset_show_the_same(view, stored, toy_recipe):
    full = load_dataset(stored, progress=False)
    rows = load_dataset(stored, progress=False, view=view)
    assert (rows.view, rows.identity) == (view, full.identity)
    assert np.array_equal(rows.rewards, full.rewards)
    bank = load_simulators("toy-v0").select(list(full.present_ids))
    seeds = episode_seeds(toy_recipe.seed, "dataset:medgym/toy-views-v0", bank.patients, 3)
    vector = TreatmentVectorEnv(bank=bank, patients=[0, 1, 2], decisions=6, world="own", view=view)
    first, _ = vector.reset(seed=[int(s) for s in seeds[:, 1]])
    env = TreatmentEnv(bank=bank, decisions=6, world="own", view=view)
    for p in range(3):
        own = rows.select(patients=[bank.patients[p]])
        begin, end = own.episode_starts()[1:3]
        observation, _ = env.reset(seed=int(seeds[p, 1]), options={"patient": bank.patients[p]})
        assert np.allclose(first[p], observation, atol=1e-4)
        for i in range(begin, end):
            assert np.allclose(observation, own.observations[i], atol=1e-3)
            observation = env.step(own.actions[i])[0]
            assert np.allclose(observation, own.next_observations[i], atol=1e-3)
    some = [full.select(patients=[patient]) for patient in bank.patients]
    step = np.stack([own.actions[own.episode_starts()[1]] for own in some])
    after = vector.step(step)[0]
    expected = [
        rows.select(patients=[p]).next_observations[own.episode_starts()[1]] for p, own in zip(bank.patients, some)
    ]
    assert np.allclose(after, np.stack(expected), atol=1e-3)


def test_a_view_is_kept_and_made_for_the_patients_asked_for(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGYM_CACHE", str(tmp_path))
    one = load_dataset(stored, patients=1, progress=False, view="charted")
    (file,) = tmp_path.rglob("*.npy")
    written = file.stat().st_mtime_ns
    whole = load_dataset(stored, progress=False, view="charted")
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    assert file.stat().st_mtime_ns == written, "the first patient was not played again"
    assert np.allclose(whole.observations[: len(one)], one.observations, atol=1e-6)


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
        own = seen.select(patients=[patient])
        wish = behavior.policy.act(own.observations[None])[0].clip(-1, 1)
        assert (gap := np.abs(wish - own.actions).mean()) < 0.06, "actions follow what was seen"
        blind = plain.policy.act(full.select(patients=[patient]).observations[None])[0].clip(-1, 1)
        assert np.abs(blind - own.actions).mean() > 1.2 * gap, "and not what was so"
    report = verify("medgym/few-charted-v0")
    assert report.ok, report


class Asks:
    """A policy that says nothing of itself."""

    def act(self, observations):
        return np.tanh(observations[..., :1].repeat(2, -1))


def test_a_policy_is_evaluated_on_what_it_was_trained_on(stored, tmp_path):
    rows = load_dataset(stored, progress=False, view="charted")
    policy = train("bc", rows, "pop", config=OfflineConfig(updates=20, batch=16, hidden=8), progress=False).policy
    path = save_policy(policy, tmp_path / "bc.safetensors")
    again = load_policy(path)
    assert (again.view, again.observation_dim) == ("charted", 5)
    quick = {"bank": load_simulators("toy-v0").select(3), "episodes": 2, "worlds": ("own",)}
    found = evaluate(path, dataset=stored, **quick)
    assert found.protocol["view"] == "charted"
    assert "view" not in found.deviations
    assert "support_distance" in found.metrics
    with pytest.raises(PolicyError, match=r"^policy 'bc' was made for view 'charted' and cannot be .*$"):
        evaluate(path, view="full", **quick)
    with pytest.raises(DatasetError, match="was loaded with view 'full', the policy sees 'charted'"):
        evaluate(path, dataset=load_dataset(stored, progress=False), **quick)
    plain = evaluate(Asks(), **quick)
    blind = evaluate(Asks(), view="charted", **quick)
    assert "view" not in plain.protocol
    assert plain.metrics["return"] != blind.metrics["return"]
    for name in ("zero", "random"):
        scores = [evaluate(name, view=view, **quick).metrics["return"] for view in ("full", "charted")]
        assert scores[0] == scores[1], "policies that look at nothing are the same whatever is shown"


def test_exported_policies_say_what_they_see(stored, tmp_path):
    rows = load_dataset(stored, progress=False, view="charted")
    policy = train("bc", rows, "pop", config=OfflineConfig(updates=2, batch=16, hidden=8), progress=False).policy
    for export, file in ((export_torchscript, "own.pt"), (export_onnx, "own.onnx")):
        found = load_policy(export(policy, tmp_path / file))
        assert (found.view, found.disease, found.observation_dim, found.action_dim) == ("charted", "toy", 5, 2)
    with pytest.raises(PolicyError, match="was made for toy, bank 'sepsis-v0' is of sepsis"):
        evaluate(tmp_path / "own.pt", bank="sepsis-v0", patients=1, episodes=1)
    torch.jit.save(torch.jit.script(torch.nn.Linear(5, 2)), str(tmp_path / "foreign.pt"))
    quick = {"bank": load_simulators("toy-v0").select(2), "episodes": 1, "worlds": ("own",)}
    evaluate(tmp_path / "foreign.pt", view="charted", **quick)
    refused(PolicyError, "fails on 2 observations of 3 columns", lambda: evaluate(tmp_path / "foreign.pt", **quick))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda rows: load_dataset(rows.dataset_id, progress=False, view="chartd"), "did you mean 'charted'"),
        (lambda rows: ProcessConfig(disease="toy", view="chartd"), "did you mean 'charted'"),
        (lambda rows: evaluate("behavior", view="charted", patients=1, episodes=1, bank="sepsis-v0"), "view 'full'"),
        (lambda rows: dataclasses.replace(rows.definition, views={"bad": View((Channel("sugar"),))}), "'sugar'"),
        (lambda rows: dataclasses.replace(rows, view="charted").validate(), "width 3, view 'charted' has 5"),
    ],
)
def test_mistakes_are_one_line(stored, wrong, message):
    rows = load_dataset(stored, progress=False)
    refused(MedGymError, message, lambda: wrong(rows))
