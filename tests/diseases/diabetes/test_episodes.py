"""The decision process of diabetes: its clock, rewards, seeds, spaces and worlds."""

import functools

import numpy as np
import pytest
import torch

from medgym_offline.diseases.base import Course
from medgym_offline.diseases.diabetes import DISEASE
from medgym_offline.diseases.diabetes.bank import BankRecipe, build
from medgym_offline.diseases.diabetes.episodes import carbohydrate
from medgym_offline.diseases.diabetes.meals import served
from medgym_offline.diseases.diabetes.people import published
from medgym_offline.diseases.diabetes.risk import CAP, risk
from medgym_offline.diseases.diabetes.truth import start, truth
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.errors import BankError
from medgym_offline.policies import builtin_policy, reset_policy
from medgym_offline.simulators import load_simulators
from tests.diseases.diabetes.decision import flow

NAMES = ("adolescent#003", "adult#007", "child#001")
GRID = torch.arange(289) / 12


@functools.cache
def three():
    return load_simulators("diabetes-v0").select(NAMES)


def play(bank, timing="adaptive", name="random", episodes=3, seed=0, **settings):
    config = ProcessConfig(timing=timing, disease="diabetes", path_costs=True, **settings)
    seeds = episode_seeds(seed, "test", bank.patients, episodes)
    policy = builtin_policy(name, bank, timing, config.decisions)
    reset_policy(policy, seeds)
    process = DecisionProcess(bank, config)
    return process, rollout(process, policy.act, draw_noise(seeds, bank, config))


@pytest.mark.parametrize("world", ["own", "crossfit", "true"])
@pytest.mark.parametrize("timing", ["adaptive", "fixed"])
def test_the_clock_fills_the_day_in_ticks_and_rewards_are_the_integral_of_risk(world, timing):
    bank = three().world(world)
    process, played = play(bank, timing)
    ticks = played.dt.double() * 12
    assert float((ticks - ticks.round()).abs().max()) < 1e-4
    assert (ticks.round().sum(-1) == 288).all()
    assert played.valid.sum(-1).max() <= 5
    assert (ticks.round()[played.valid] >= 6).all()
    glucose = bank.monitored(dense(process, played, GRID)[0]).double()

    def hours(values):
        return ((values[..., 1:] + values[..., :-1]) / 2).sum(-1) / 12

    # Float32 sums of up to 60 points an hour; the cap is in the reward alone.
    torch.testing.assert_close(
        played.rewards.sum(-1).double(), -0.1 * hours(risk(glucose).clamp(max=CAP)), rtol=1e-4, atol=1e-3
    )
    low = torch.stack([hours((glucose < limit).double()) for limit in (70, 54)], -1)
    torch.testing.assert_close(played.costs_path.sum(2).double(), low, rtol=1e-4, atol=1e-3)
    assert torch.equal(played.costs > 0, (played.monitored < 70) & played.valid)


def test_worlds_share_the_events_and_the_first_state_that_is_seen():
    own, true = (play(three().world(world)) for world in ("own", "true"))
    assert torch.equal(own[1].exogenous, true[1].exogenous)
    torch.testing.assert_close(own[1].observations[:, :, 0], true[1].observations[:, :, 0])


def test_a_published_patient_in_the_process_is_the_published_model():
    bank = three().world("true")
    process, played = play(bank, noise=False)
    glucose = bank.monitored(dense(process, played, GRID)[0])
    model = truth(published().select(NAMES))
    _, minutes, grams = carbohydrate(played.exogenous)
    grid = served(minutes, grams * model.values["BW"][..., None], 288)
    dose = bank.denormalize_treatment(played.treatments)
    for patient, episode in ((0, 0), (2, 1)):
        alone = truth(published().select([NAMES[patient]]))
        state, at = start(alone, 1), 0
        for k in range(int(played.valid[patient, episode].sum())):
            n = int(torch.round(played.dt[patient, episode, k] * 12))
            found = flow(
                alone, state, dose[patient, episode, k][None, None], grid[patient, episode, at : at + n][None, None]
            )
            assert float((found.glucose[0, 0] - glucose[patient, episode, at : at + n + 1]).abs().max()) < 0.05
            state, at = found.state, at + n


def test_what_is_seen_is_bounded_and_says_what_a_person_knows():
    bank = three().world("true")
    _, played = play(bank, name="clinician", episodes=8)
    columns = {f.name: i for i, f in enumerate(bank.disease.observation)}
    assert len(columns) == 17
    seen = played.observations
    assert torch.isfinite(seen).all()
    assert float(seen.abs().max()) <= 5
    sensor = 140 + 60 * seen[..., 1:, 0]
    assert float((sensor - played.monitored)[played.valid].abs().mean()) < 12
    last = played.valid.roll(-1, 2)
    last[..., -1] = False
    torch.testing.assert_close(
        (4 * (seen[..., 1:, columns["since last decision"]] + 1))[last], played.dt[last], atol=1e-4, rtol=0
    )
    bolus = bank.denormalize_treatment(played.treatments)[..., 1]
    torch.testing.assert_close(seen[..., 1:, columns["last bolus"]][last], 10 * bolus[last], atol=1e-4, rtol=1e-4)
    told = bank.context.clone()
    told[:, 1] = 0.6 * told[:, 0] * np.e
    _, informed = play(bank.replace(context=told), name="clinician", episodes=8)
    assert (seen[..., columns["daily insulin"]] == 0).all()
    torch.testing.assert_close(informed.observations[..., columns["daily insulin"]], torch.full_like(seen[..., 0], 2.0))


def test_the_clinician_is_a_reference():
    bank = load_simulators("diabetes-v0").world("true")
    process, played = play(bank, name="clinician", episodes=4)
    glucose = bank.monitored(dense(process, played, GRID)[0])
    assert float(risk(glucose).mean()) < 5.5
    assert float((glucose < 70).float().mean()) < 0.05


def test_a_bank_is_built_from_records_and_comes_back_from_its_file(tmp_path):
    bank = build(BankRecipe("diabetes-small", days=2, patients=2, readings="finger"))
    bank.save(tmp_path / "small.safetensors")
    again = load_simulators(tmp_path / "small.safetensors")
    assert again.worlds == ("own", "crossfit", "true")
    assert again.content_hash == bank.content_hash
    split = again.metadata["split"]
    assert sorted([*split["train"], *split["test"]]) == sorted(bank.patients)
    for world in (*again.worlds, "population"):
        one, other = (b.population() if world == "population" else b.world(world) for b in (bank, again))
        assert torch.equal(play(one)[1].rewards, play(other)[1].rewards)
    with pytest.raises(BankError, match="unknown people 'alive'"):
        BankRecipe("x", people="alive")


def test_events_are_runs_and_unseen_without_a_decision_inside():
    beyond = np.array([[0, 1, 1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0]], bool)
    dt, nothing = np.array([[2.0, 1.0, 4.0], [4.0, 1.0, 2.0]]), torch.zeros(0)
    course = Course(DISEASE, DISEASE.default_scales(), np.arange(8.0), 1, nothing, nothing, dt)
    count, unseen = course.events(beyond)
    assert count.tolist() == [3, 1]
    assert unseen.tolist() == [2, 0]
