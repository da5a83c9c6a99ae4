"""Records of people who err, and the reference clinician within a budget of decisions."""

from __future__ import annotations

import functools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.diabetes.clinician import HumanError, Records, Seen, decide, prescription, record
from medgym_offline.diseases.diabetes.meals import meals, readings, served
from medgym_offline.diseases.diabetes.people import published
from medgym_offline.diseases.diabetes.risk import consensus
from medgym_offline.diseases.diabetes.truth import SENSOR, flow, start, truth

NAMES = ("adolescent#003", "adult#005", "child#001")


@functools.cache
def records(names: tuple[str, ...] = NAMES, days: int = 2) -> Records:
    return record(truth(published().select(names)), days=days)


def test_a_persons_records_do_not_depend_on_who_else_is_recorded():
    alone = records((NAMES[2],), 1)
    for name in Records.__dataclass_fields__:
        together, one = getattr(records(), name)[2, :288], getattr(alone, name)[0]
        same = (together == one) | (torch.isnan(together) & torch.isnan(one))
        assert same[:270].all(), name  # the last hours' boluses may belong to meals of the next day


def test_records_hold_what_a_person_does_and_writes_down():
    found = records()
    assert all(getattr(found, name).shape == (3, 576) for name in Records.__dataclass_fields__)
    assert (found.basal >= 0).all()
    assert (found.bolus >= 0).all()
    assert abs(float((found.sensor - found.glucose).mean())) < 15
    per_day = torch.isfinite(found.finger).sum(1) / 2
    assert ((per_day >= 3) & (per_day <= 12)).all()
    tested = torch.isfinite(found.finger)
    assert ((found.finger - found.glucose)[tested].abs() < 0.3 * found.glucose[tested] + 5).all()
    assert consensus(found.glucose)["time_in_range"].mean() > 50
    perfect = prescription(published().select(NAMES))
    errs = prescription(published().select(NAMES), HumanError())
    assert np.allclose(perfect.basal[:, 0], published().select(NAMES).basal)
    assert not torch.equal(perfect.ratio, errs.ratio)


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 24), st.integers(1, 6), st.lists(st.floats(0, 24) | st.just(float("inf")), min_size=2, max_size=2))
def test_the_reference_can_always_cover_what_is_left(hours, decisions, ahead):
    if decisions * 12 < hours or decisions * 0.5 > hours:
        return
    plan = prescription(published().select(["adult#001"]))

    def one(value: float) -> torch.Tensor:
        return torch.full((1, 1), float(value))

    seen = Seen(
        one(200), one(0), one(0.2), torch.tensor([[sorted(ahead)]]), torch.ones(1, 1, 2), one(hours), one(decisions)
    )
    made = decide(plan, seen)
    assert (made.dose >= 0).all()
    left = hours - float(made.hours)
    assert -1e-5 <= left <= 12 * (decisions - 1) + 1e-4
    assert decisions == 1 or 0.5 - 1e-6 <= float(made.hours) <= 12 + 1e-6


def day_of_reference(episodes: int, budget: int = 5, ticks: int = 288) -> torch.Tensor:
    """Glucose of days from 06:00 under :func:`decide`, (30, episodes, ticks + 1)."""
    people = published()
    model, plan = truth(people), prescription(people)
    weight, seeds = model.values["BW"], np.arange(30 * episodes).reshape(30, episodes)
    plate = meals(seeds, people["BW"])
    said = plate.announced_grams / weight[..., None]
    grid = served(plate.minutes, plate.grams, 2 * ticks)
    state, now, board = start(model, episodes), torch.zeros(30, episodes, dtype=torch.long), torch.zeros(30, episodes)
    dosed = torch.zeros_like(said, dtype=torch.bool)
    found = torch.full((30, episodes, 2 * ticks), torch.nan)
    for left in range(budget, 0, -1):
        shown = (state[..., SENSOR] / model.values["Vg"])[..., None]
        reading = readings(shown, seeds, now[..., None].numpy())[..., 0]
        eaten = plate.minutes <= 5 * now[..., None]
        uncovered = torch.where(eaten & ~dosed, said, 0.0).sum(-1)
        dosed |= eaten
        due = (plate.announced_minutes / 60 - now[..., None] / 12).clamp_min(0.0)
        ahead, order = torch.where(dosed, torch.inf, due).sort(-1)
        known = torch.where(torch.isfinite(ahead), said.gather(-1, order), 0.0)[..., :2]
        hours = (ticks - now) / 12
        seen = Seen(reading, board, uncovered, ahead[..., :2], known, hours, torch.full_like(hours, left))
        made = decide(plan, seen)
        dosed.scatter_(-1, order[..., :2], dosed.gather(-1, order[..., :2]) | made.covered)
        length = torch.round(made.hours * 12).long()
        index = (now[..., None] + torch.arange(int(length.max()) + 1)).clamp(max=2 * ticks - 1)
        path = flow(model, state, made.dose, grid.gather(-1, index[..., :-1]), length)
        found.scatter_(-1, index, path.glucose)  # what lies beyond an interval is written again by the next
        board = (board + made.dose[..., 1]) * 0.5 ** (length * 5 / 125)
        state, now = path.state, now + length
    assert (now == ticks).all()
    return found[..., : ticks + 1]


def test_the_reference_is_good_enough_to_be_one():
    glucose = day_of_reference(4)
    found = consensus(glucose)
    assert (found["lbgi"] + found["hbgi"]).mean() < 5.5
    assert found["time_in_range"].mean() > 80
    assert found["time_below_70"].mean() < 6
