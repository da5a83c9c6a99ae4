"""The decision process of diabetes: clock, rewards, meals, sensor, risk and metrics."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.base import Course
from medgym_offline.diseases.diabetes import DISEASE
from medgym_offline.diseases.diabetes.bank import BankRecipe, build
from medgym_offline.diseases.diabetes.clinician import meals, served
from medgym_offline.diseases.diabetes.episodes import carbohydrate
from medgym_offline.diseases.diabetes.people import published
from medgym_offline.diseases.diabetes.risk import CAP, below, consensus, integral, risk
from medgym_offline.diseases.diabetes.truth import start, truth
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.errors import BankError
from medgym_offline.policies import builtin_policy, reset_policy
from medgym_offline.simulators import load_simulators
from tests.diseases.diabetes.decision import flow
from tests.helpers import refused

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


def test_a_bank_is_built_from_records():
    bank = build(BankRecipe("diabetes-small", days=2, patients=2, readings="finger"))
    assert bank.worlds == ("own", "crossfit", "true")
    split = bank.metadata["split"]
    assert sorted([*split["train"], *split["test"]]) == sorted(bank.patients)
    assert torch.isfinite(play(bank.population())[1].rewards).all()
    refused(BankError, "unknown people 'alive'", lambda: BankRecipe("x", people="alive"))


def test_events_are_runs_and_unseen_without_a_decision_inside():
    beyond = np.array([[0, 1, 1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 0, 0, 0]], bool)
    dt, nothing = np.array([[2.0, 1.0, 4.0], [4.0, 1.0, 2.0]]), torch.zeros(0)
    course = Course(DISEASE, DISEASE.default_scales(), np.arange(8.0), 1, nothing, nothing, dt)
    count, unseen = course.events(beyond)
    assert count.tolist() == [3, 1]
    assert unseen.tolist() == [2, 0]


WEIGHT = np.array([70.0, 35.0])
SEEDS = np.arange(600).reshape(2, 300)


def test_meals_are_those_of_a_day_and_announced_with_an_error():
    found = meals(SEEDS, WEIGHT)
    real = torch.isfinite(found.minutes)
    assert (found.minutes[real] % 5 == 0).all()
    assert (found.minutes[real] < 1440).all()
    assert (found.minutes[real] >= 0).all()
    assert ((found.grams > 0) == real).all()
    assert (found.minutes[..., 1:] >= found.minutes[..., :-1])[real[..., 1:]].all()
    early, late = (found.announced_minutes - found.minutes)[real], (found.announced_grams / found.grams)[real].log()
    assert abs(float(early.std()) - 10.0) < 0.7
    assert abs(float(late.std()) - 0.1) < 0.01
    daily = found.grams.sum(-1).mean(-1)
    assert 180 < daily[0] < 210  # .95 (45 + 70 + 80) + .3 (10 + 10 + 10), rounded
    assert abs(float(daily[1] / daily[0]) - 0.5**0.75) < 0.03


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.floats(0, 24), st.sampled_from([24.0, 48.0, 72.0]))
def test_what_is_served_is_what_is_eaten_at_any_hour_and_horizon(seed, hour, hours):
    found = meals(np.array([[seed]]), WEIGHT[:1], hours, hour)
    grid = served(found.minutes, found.grams, int(hours * 12))
    assert torch.allclose(grid.sum(), found.grams.sum())
    assert int((grid > 0).sum()) <= int(torch.isfinite(found.minutes).sum())


def test_risk_is_least_at_its_published_zero_and_clamped():
    values = torch.tensor([0.0, 10.0, 112.5, 600.0, 900.0], dtype=torch.float64)
    found = risk(values)
    assert found[0] == found[1]
    assert found[3] == found[4]
    assert found[2] < 1e-4
    assert float(risk(torch.tensor(29.0))) > CAP > float(risk(torch.tensor(31.0)))
    assert float(risk(torch.tensor(415.0))) > CAP > float(risk(torch.tensor(411.0)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(1, 700), min_size=4, max_size=40), st.data())
def test_integrals_of_parts_add_up_and_metrics_are_shares(values, data):
    path = torch.tensor(values, dtype=torch.float64)
    cut = data.draw(st.integers(1, len(values) - 2))
    for part in (risk, lambda x: (x < 70).double()):
        both = integral(part(path[: cut + 1])) + integral(part(path[cut:]))
        torch.testing.assert_close(integral(part(path)), both)
    found = consensus(path)
    whole = torch.tensor(100.0, dtype=torch.float64)
    torch.testing.assert_close(found["time_in_range"] + found["time_below_70"] + found["time_above_180"], whole)
    assert found["time_below_54"] <= found["time_below_70"]
    assert found["time_above_250"] <= found["time_above_180"]
    hours = (len(values) - 1) / 12
    torch.testing.assert_close(found["lbgi"] + found["hbgi"], integral(risk(path)) / hours)
    torch.testing.assert_close(found["time_below_70"], 100 * integral(below(path, 70.0)) / hours)
    for name, value in consensus(path.numpy()).items():
        np.testing.assert_allclose(value, found[name])
