"""Schedules, severity, costs, records and the learned law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.anesthesia.clinician import Records, Seen, record_operations, reference_behavior
from medgym_offline.diseases.anesthesia.fit import Fit, fit_surrogate, predicted_readings, score_surrogate
from medgym_offline.diseases.anesthesia.flow import LIMITS, flow
from medgym_offline.diseases.anesthesia.patients import Patients, load_patients
from medgym_offline.diseases.anesthesia.severity import costs, operation_metrics, severity, severity_parts
from medgym_offline.diseases.anesthesia.stimulation import END, INCISION, INTUBATION, Schedule, draw_schedule, window
from medgym_offline.diseases.anesthesia.surrogate import Noise, Surrogate, learned_disturbance
from medgym_offline.diseases.anesthesia.truth import published
from medgym_offline.errors import ProtocolError

SEEDS = np.arange(40).reshape(8, 5)


# Schedules


def test_an_operation_depends_on_its_seed_alone() -> None:
    many, alone = draw_schedule(SEEDS, announcement_error=3.0), draw_schedule(SEEDS[3:4, 2:3], announcement_error=3.0)
    for name in ("events", "announced", "stimulation"):
        assert torch.equal(getattr(many, name)[3, 2], getattr(alone, name)[0, 0])


def test_events_come_in_order_and_leave_time_to_wake_up() -> None:
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


def test_what_is_announced_is_corrected_by_what_happens() -> None:
    events = torch.tensor([[[20, 60, 200]]])
    schedule = Schedule(events, events + torch.tensor([-8, 8, 0]), torch.zeros(1, 1, 480))
    assert schedule.minutes_to(0).tolist() == [[[3.0, 17.0, 50.0]]]
    assert schedule.minutes_to(16).tolist() == [[[0.0, 13.0, 46.0]]]
    assert schedule.minutes_to(torch.tensor([[64]])).tolist() == [[[-11.0, -1.0, 34.0]]]


@given(st.integers(0, 500), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_windows_are_what_slices_are(start: int, length: int) -> None:
    values = torch.randn(2, 3, 480, 2)
    padded = torch.cat([values, values[:, :, -1:].expand(-1, -1, 100, -1)], 2)
    assert torch.equal(window(values, start, length), padded[:, :, [min(i, 479) for i in range(start, start + length)]])
    each = torch.randint(0, 480, (2, 3))
    found = window(values, each, length)
    assert all(torch.equal(found[i, j], padded[i, j, each[i, j] :][:length]) for i in range(2) for j in range(3))


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ProtocolError, match="360"):
        draw_schedule(SEEDS, 100)
    with pytest.raises(ProtocolError, match="negative"):
        draw_schedule(SEEDS, announcement_error=-1.0)


# Severity, costs, metrics


def _path(bis: list[float], pressure: list[float]) -> torch.Tensor:
    return torch.tensor([bis, pressure, [0.0] * len(bis)]).T


def test_severity_and_costs_by_hand() -> None:
    path = _path([30.0, 75.0, 60.0, 60.0], [80.0, 60.0, 120.0, 50.0])
    surgery, after = torch.tensor([True, True, True, False]), torch.tensor([False, False, False, True])
    expected = torch.tensor([[1.0, 0.0, 0.0], [1.5, 0.0, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 1.5]])
    torch.testing.assert_close(severity_parts(path, surgery, after), expected)
    torch.testing.assert_close(severity(path, surgery, after), expected.sum(-1))
    found = costs(path, surgery)
    assert found.end.tolist() == [15.0, 0.0]
    assert found.path.tolist() == [5.0, 3.75]
    assert found.peak.tolist() == [15.0, 15.0]
    found = costs(path, surgery, torch.tensor([True, True, False, False]))
    assert found.end.tolist() == [5.0, 15.0]
    assert found.peak.tolist() == [5.0, 15.0]


def test_metrics_by_hand() -> None:
    surgery = torch.tensor([True] * 4 + [False] * 4)
    path = _path([40.0, 60.0, 60.0, 70.0, 70.0, 79.0, 85.0, 70.0], [63.0, 67.0] * 4)
    found = operation_metrics(path, surgery, ~surgery)
    assert float(found.share_in_range) == 0.75
    assert float(found.low_pressure) == 1.0
    assert float(found.low_pressure_share) == 0.5
    assert float(found.minutes_to_awakening) == 0.5
    # Errors -20, 20, 20, 40 %: torch's median is the lower middle one.
    assert (float(found.mdpe), float(found.mdape), float(found.wobble)) == (20.0, 20.0, 0.0)


# The anesthetist


@pytest.fixture(scope="module")
def people() -> Patients:
    return load_patients().select(range(12))


@pytest.fixture(scope="module")
def records(people: Patients) -> Records:
    return record_operations(people, 2)


@pytest.fixture(scope="module")
def random_records(people: Patients) -> Records:
    return record_operations(people, 2, treatment="random")


def test_a_record_does_not_depend_on_its_batch(people: Patients, records: Records) -> None:
    alone = record_operations(people.select([5]), 1)
    for name in ("bis", "pressure", "pressure_known", "path"):
        assert torch.equal(getattr(records, name)[5, :1], getattr(alone, name)[0])
    for name, dose in vars(records.doses).items():
        assert torch.equal(dose[5, :1], getattr(alone.doses, name)[0])


def test_records_look_like_anesthesia(records: Records, random_records: Records) -> None:
    for made in (records, random_records):
        for name, dose in vars(made.doses).items():
            low, high = LIMITS[name]
            assert low <= dose.min() <= dose.max() <= high
    found = operation_metrics(records.path, records.schedule.surgery, records.schedule.after)
    assert 0.45 < found.share_in_range.mean() < 0.8
    assert found.low_pressure.mean() < 2.0
    gaps = records.pressure_known.float().sum() / records.bis_known.float().sum()
    assert 1 / 5.5 < gaps < 1 / 2.8
    assert records.operations([1]).bis.shape == (12, 1, 150)


@pytest.mark.parametrize("decisions", [2, 5, 6, 20])
def test_the_reference_behavior_uses_its_decisions_to_reach_the_end(people: Patients, decisions: int) -> None:
    law, schedule = published(people), draw_schedule(np.arange(36).reshape(12, 3))
    state, shift = law.initial_state(3), schedule.disturbance()
    now, harm = torch.zeros(12, 3, dtype=torch.long), torch.zeros(12, 3)
    for k in range(decisions):
        if (now == 480).all():
            break
        left = torch.full((12, 3), decisions - k)
        seen = Seen(state[..., 2], state[..., 3], now / 4, left, schedule.minutes_to(now))
        doses, wait = reference_behavior(seen)
        ticks = (wait * 4).round().long()
        assert ((ticks >= 4) | (now + ticks == 480)).all()
        assert (ticks <= 240).all()
        longest = int(ticks.max())
        state, path = flow(law, state, doses, ticks, window(shift, now, longest))
        live = torch.arange(longest) < ticks[..., None]
        part = severity(path, window(schedule.surgery, now, longest), window(schedule.after, now, longest))
        harm += (part * live).sum(-1) / 480
        now = now + ticks
    assert (now == 480).all()
    if decisions >= 5:
        assert harm.mean() < 1.2


# The learned law


@pytest.fixture(scope="module")
def fitted(people: Patients, records: Records) -> Fit:
    return fit_surrogate(people, records.operations([0]), iterations=60)


def test_the_fit_predicts_as_the_simulator_plays(fitted: Fit, records: Records) -> None:
    law, schedule = fitted.individual, records.schedule
    shift, state, shown = learned_disturbance(law, schedule), law.initial_state(2), []
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


def test_individual_simulators_know_their_patients(fitted: Fit, random_records: Records) -> None:
    bis, pressure = score_surrogate(fitted.individual, random_records)
    assert bis.r2 >= 0.65
    assert pressure.r2 >= 0.70
    assert min(bis.better, pressure.better) >= 0.9
    center, _ = score_surrogate(fitted.center, random_records)
    assert bis.error < 0.75 * center.error
    assert fitted.losses[-1] < fitted.losses[0] / 3


def test_unexplained_noise_belongs_to_the_operation(fitted: Fit) -> None:
    law = fitted.individual
    seeds, noise = np.arange(24).reshape(12, 2), Noise(5.0, 0.7, 4.0, 0.9)
    schedule = draw_schedule(seeds)
    plain, shift = learned_disturbance(law, schedule), learned_disturbance(law, schedule, noise, seeds)
    again = learned_disturbance(law, schedule, noise, seeds)
    assert torch.equal(shift, again)
    added = shift - plain
    assert not added[schedule.after].any()
    during = added[~schedule.after]
    assert during.std(0).tolist() == pytest.approx([5.0, 4.0], rel=0.15)
    assert (schedule.events[..., INTUBATION] < schedule.events[..., INCISION]).all()
    assert (schedule.events[..., END] < 480).all()
    alone = Surrogate({k: v[3:4] for k, v in law.value.items()}, law.lag[3:4])
    single = draw_schedule(seeds[3:4, 1:])
    assert torch.equal(learned_disturbance(alone, single, noise, seeds[3:4, 1:])[0, 0], shift[3, 1])
