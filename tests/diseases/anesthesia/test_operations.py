"""Drawn patients, schedules, phases, severity, costs, records and the learned law."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import medgym_offline as mgo
from medgym_offline.diseases.anesthesia import DISEASE
from medgym_offline.diseases.anesthesia import bank as bank_module
from medgym_offline.diseases.anesthesia.clinician import record_operations
from medgym_offline.diseases.anesthesia.flow import flow
from medgym_offline.diseases.anesthesia.patients import VARIANCES, Patients, draw_patients, load_patients
from medgym_offline.diseases.anesthesia.severity import awareness, hypotension, phase_of, severity_parts
from medgym_offline.diseases.anesthesia.stimulation import Schedule, draw_schedule, operation_numbers, schedule_of
from medgym_offline.diseases.anesthesia.surrogate import fit_surrogate, predicted_readings
from medgym_offline.diseases.base import Course
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.errors import DiseaseError, MedGymError, UnknownNameError
from medgym_offline.policies import builtin_policy
from tests.helpers import refused

SEEDS = np.arange(40).reshape(8, 5)


# Schedules


def test_events_come_in_order_and_leave_time_to_wake_up():
    for long, ticks in ((False, 480), (True, 600)):
        schedule = draw_schedule(SEEDS, ticks, long=long)
        tube, cut, end = schedule.events.unbind(-1)
        assert ((tube >= 20) & (tube <= 36)).all()
        assert ((cut >= tube + 40) & (cut < end) & (end <= ticks - 60)).all()
        assert torch.equal(schedule.announced, schedule.events)
        assert (schedule.phases.sum(-1) <= 1).all()
        assert not schedule.stimulation[~schedule.surgery].any()
        assert (schedule.surgery.sum(-1) == end - tube).all()
        assert (schedule.after.sum(-1) == ticks - end).all()


def test_phase_and_events_agree_along_the_path():
    bank = mgo.load_simulators("anesthesia-v0").world("true").select(range(4))
    process = DecisionProcess(bank, ProcessConfig(disease="anesthesia"))
    noise = draw_noise(episode_seeds(0, "test", bank.patients, 2), bank, process.config)
    played = rollout(process, builtin_policy("clinician", bank, "adaptive", process.config.decisions).act, noise)
    times = torch.arange(0.0, 120.25, 0.25)
    states, _ = dense(process, played, times)
    tube, _, end = (played.exogenous[..., i, None] for i in range(3))
    expected = ((times > tube) & (times <= end)).float() + 2.0 * (times > end)
    physical = bank.denormalize(states)
    torch.testing.assert_close(physical[..., DISEASE.column("phase")], expected)
    bis, surgical = (physical[..., DISEASE.column(name)] for name in ("bis_now", "surgical_bis"))
    torch.testing.assert_close(surgical, bis * (expected == 1.0), rtol=1e-4, atol=1e-4)


def test_what_is_announced_is_corrected_by_what_happens():
    events = torch.tensor([[[20, 60, 200]]])
    schedule = Schedule(events, events + torch.tensor([-8, 8, 0]), torch.zeros(1, 1, 480))
    assert schedule.minutes_to(0).tolist() == [[[3.0, 17.0, 50.0]]]
    assert schedule.minutes_to(16).tolist() == [[[0.0, 13.0, 46.0]]]
    assert schedule.minutes_to(torch.tensor([[64]])).tolist() == [[[-11.0, -1.0, 34.0]]]


@given(st.integers(0, 400), st.integers(1, 79))
@settings(max_examples=25, deadline=None)
def test_a_schedule_from_later_on_is_the_rest_of_the_whole(start, length):
    numbers = torch.tensor(np.stack([[operation_numbers(np.random.default_rng(i), 480, 2.0)] for i in range(3)]))
    whole, later = schedule_of(numbers), schedule_of(numbers, length, torch.full((3, 1), start))
    part = slice(start, start + length)
    for name in ("stimulation", "surgery", "after", "phases"):
        assert torch.equal(getattr(later, name), getattr(whole, name)[:, :, part])
    assert torch.equal(later.minutes_to(0), whole.minutes_to(start))


# Severity, costs, metrics


def test_severity_and_costs_by_hand():
    bis, pressure = torch.tensor([30.0, 75.0, 60.0, 60.0]), torch.tensor([80.0, 60.0, 120.0, 50.0])
    surgery = torch.tensor([True, True, True, False])
    expected = torch.tensor([[1.0, 0.0, 0.0], [1.5, 0.0, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 1.5]])
    phase = phase_of(surgery, ~surgery)
    torch.testing.assert_close(severity_parts(bis, pressure, phase), expected)
    np.testing.assert_allclose(severity_parts(bis.numpy(), pressure.numpy(), phase.numpy()), expected.numpy())
    assert hypotension(pressure).tolist() == [0.0, 5.0, 0.0, 15.0]
    assert awareness(bis * surgery).tolist() == [0.0, 15.0, 0.0, 0.0]


def _metrics(bis, pressure, surgery):
    state = torch.zeros(len(bis), DISEASE.state_dim)
    bis, pressure, phase = torch.tensor(bis), torch.tensor(pressure), phase_of(surgery, ~surgery)
    columns = {"bis_now": bis, "surgical_bis": bis * surgery, "pressure": pressure, "phase": phase}
    for name, value in columns.items():
        state[:, DISEASE.column(name)] = value
    scales, times = DISEASE.default_scales(), np.arange(len(bis)) * 0.25
    course = Course(DISEASE, scales, times, 4, scales.normalize(DISEASE, state), torch.zeros(1, 3), np.ones(1))
    return {m.name: float(m.compute(course)) for m in DISEASE.metrics if m.compute is not None}


def test_metrics_by_hand():
    surgery = torch.tensor([True] * 5 + [False] * 4)
    found = _metrics([50.0, 40.0, 60.0, 60.0, 70.0, 70.0, 79.0, 85.0, 70.0], [67.0, *[63.0, 67.0] * 4], surgery)
    # Errors 0, -20, 20, 20, 40 %; pressure is read after the start; one decides at the start and after a minute.
    expected = {"bis_in_range": 80.0, "low_pressure": 1.0, "low_pressure_share": 50.0, "awakening": 0.5}
    expected |= {"low_events": 4.0, "low_unseen": 4.0, "light_events": 1.0, "light_unseen": 0.0}
    assert found == pytest.approx({**expected, "mdpe": 20.0, "mdape": 20.0, "wobble": 20.0}, abs=1e-4)


# The anesthetist


@pytest.fixture(scope="module")
def people():
    return load_patients().select(range(12))


@pytest.fixture(scope="module")
def records(people):
    return record_operations(people, range(2))


def test_a_record_does_not_depend_on_its_batch(people, records):
    alone = record_operations(people.select([5]), [0])
    for name in ("bis", "pressure", "pressure_known", "path"):
        assert torch.equal(getattr(records, name)[5, :1], getattr(alone, name)[0])
    assert all(torch.equal(dose[5, :1], vars(alone.doses)[name][0]) for name, dose in vars(records.doses).items())


# The learned law


@pytest.fixture(scope="module")
def fitted(people):
    return fit_surrogate(people, record_operations(people, [0]), iterations=60)


def test_the_fit_predicts_as_the_simulator_plays(fitted, records):
    law, schedule = fitted.individual, records.schedule
    shift, state, shown = law.disturbance(schedule), law.initial_state(2), []
    for tick in range(schedule.ticks):
        state, _ = flow(law, state, records.doses.at(tick), 1, shift[:, :, tick : tick + 1])
        if tick % 4 == 3:
            shown.append(state[..., 2:4])
    bis, pressure = predicted_readings(law, records)
    inside = (bis < 100) & (bis > 0)
    played = torch.stack(shown, 2)
    torch.testing.assert_close(played[..., 1], pressure, rtol=1e-3, atol=0.05)
    # The simulator keeps BIS within 0..100, the fit need not.
    assert ((played[..., 0] - bis).abs()[inside] < 0.05).float().mean() > 0.99


def test_unexplained_noise_belongs_to_the_minute_and_ends_with_surgery(fitted):
    law = replace(fitted.individual, noise=torch.tensor([5.0, 0.7, 4.0, 0.9]).expand(12, 4))
    draws = torch.randn(12, 40, 120, 2, generator=torch.Generator().manual_seed(0))
    schedule = draw_schedule(np.arange(480).reshape(12, 40))
    added = law.disturbance(schedule, draws) - law.disturbance(schedule)
    assert not added[schedule.after].any()
    during = added[~schedule.after]
    assert during.std(0).tolist() == pytest.approx([5.0, 4.0], rel=0.15)
    minutes = added[:, :, :80].unflatten(2, (20, 4))
    torch.testing.assert_close(minutes, minutes[:, :, :, :1].expand_as(minutes), rtol=1e-4, atol=1e-4)
    pairs = torch.stack([minutes[:, :, 5, 0], minutes[:, :, 6, 0]])
    for k, expected in ((0, 0.7), (1, 0.9)):
        assert float(torch.corrcoef(pairs[..., k].reshape(2, -1))[0, 1]) == pytest.approx(expected, abs=0.08)
    # A later start goes on with the same noise.
    numbers = torch.zeros(12, 40, 17)
    numbers[..., :6] = torch.cat([schedule.events, schedule.events], -1) / 4
    later = schedule_of(numbers, 30, torch.full((12, 40), 50))
    rest = law.disturbance(later, draws, torch.full((12, 40), 50)) - law.disturbance(later)
    assert torch.allclose(rest, added[:, :, 50:80], atol=1e-4)


def test_a_patient_is_the_same_in_a_draw_of_any_size():
    few, many = draw_patients(3, seed=5), draw_patients(40, seed=5)
    np.testing.assert_array_equal(few.deviations, many.deviations[:3])
    np.testing.assert_array_equal(few.weight, many.weight[:3])
    assert few.ids == many.ids[:3]


def test_deviations_have_the_published_variances():
    people, names = draw_patients(2000, seed=3), list(VARIANCES)
    # Within the 99.9 % interval of the variance of 2000 normal draws, for 17 parameters.
    low, high = stats.chi2.ppf([0.0005, 0.9995], 1999) / 1999
    ratio = people.deviations.var(0) / list(VARIANCES.values())
    assert ((ratio > low) & (ratio < high)).all()
    block = [names.index(n) for n in ("stroke_volume", "resistance", "heart_rate")]
    covariance = np.cov(people.deviations[:, block].T)[[0, 1, 0], [1, 2, 2]]
    assert (np.abs(covariance - [-0.0244, -0.0233, 0.0]) < [0.004, 0.004, 0.003]).all()


def test_unknown_patients_and_impossible_ones_are_refused():
    people, old = load_patients(), [np.array([x]) for x in (99.0, 70.0, 170.0)]
    refused(UnknownNameError, "surgical/01", lambda: people.select(["surgical/01"]))
    refused(UnknownNameError, "110", lambda: people.select([110]))
    refused(MedGymError, "18 to 88", lambda: Patients(("old",), *old, *(np.zeros((1, 17)),) * 3))
    refused(DiseaseError, "recorded operations", lambda: DISEASE.load_model().initial_raw(0))


def test_a_bank_is_built_of_the_people_asked_for(people, monkeypatch):
    monkeypatch.setattr(bank_module, "fit_surrogate", partial(fit_surrogate, iterations=20))
    built = bank_module.build_anesthesia(people.select([3, 11]), name="small")
    assert (built.patients, built.worlds) == ((people.ids[3], people.ids[11]), ("own", "crossfit", "true"))
