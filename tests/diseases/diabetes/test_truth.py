"""The published truth: golden numbers of another implementation, rest, conservation, stacks; its function."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.diabetes import simulate
from medgym_offline.diseases.diabetes.people import find, interpolated, published
from medgym_offline.diseases.diabetes.truth import GUT, INSULIN, PLASMA, absorb, play, start, truth
from medgym_offline.errors import MedGymError, UnknownNameError
from tests.diseases.diabetes.decision import flow
from tests.helpers import refused

GOLDEN = Path(__file__).with_name("golden")


def some(count, ticks, seed=0, dtype=torch.float64):
    """Random doses and meals of three episodes."""
    g = torch.Generator().manual_seed(seed)
    dose = torch.rand(count, 3, 2, generator=g, dtype=torch.float64) * torch.tensor([0.03, 0.1])
    meal = 60 * torch.rand(count, 3, ticks, generator=g, dtype=torch.float64)
    meal = meal * (torch.rand(count, 3, ticks, generator=g) < 0.03)
    return dose.to(dtype), meal.to(dtype)


@pytest.mark.parametrize(("tick", "dtype"), [(5, torch.float32), (5, torch.float64), (1, torch.float64)])
def test_all_patients_agree_with_another_implementation(tick, dtype):
    with open(GOLDEN / "inputs.csv", newline="") as file, gzip.open(GOLDEN / "glucose.csv.gz", "rt") as paths:
        inputs, glucose = list(csv.DictReader(file)), list(csv.DictReader(paths))
    expected = [[float(r["glucose_mgdl"]) for r in glucose if r["patient"] == name] for name in published().names]
    model = truth(published(), tick, dtype)
    infusion, served = torch.zeros(2, 30, 1, 1440 // tick, dtype=dtype)
    for row in inputs:
        patient, at = published().names.index(row["patient"]), int(row["minute"]) // tick
        if row["input"] == "meal_g":
            served[patient, 0, at] += float(row["value"])
        elif row["input"] == "basal_U_per_h":
            infusion[patient, 0, at:] += float(row["value"])
        else:
            infusion[patient, 0, at : at + 5 // tick] += 12 * float(row["value"])
    found = play(model, start(model, 1), infusion, served).glucose[:, 0, :: 5 // tick]
    error = np.abs(found.numpy() - expected)
    assert error.max() < 1.0
    assert np.quantile(error, 0.99) < 0.25


def test_the_basal_infusion_holds_every_patient_at_rest():
    people = find([*published().names, *interpolated()[0].names])
    model = truth(people, dtype=torch.float64)
    dose = torch.zeros(len(people), 1, 2, dtype=torch.float64)
    dose[:, 0, 0] = torch.from_numpy(people.basal)
    path = flow(model, start(model, 1), dose, torch.zeros(len(people), 1, 288, dtype=torch.float64))
    basal = torch.from_numpy(people["Gb"])[:, None, None]
    assert (path.glucose - basal).abs().max() < 1e-7
    assert (path.sensor - basal).abs().max() < 1e-7


def test_intervals_compose():
    model = truth(published().select(["adult#003", "child#002"]))
    dose, served = some(2, 60, dtype=torch.float32)
    whole = flow(model, start(model, 3), dose, served)
    first = flow(model, start(model, 3), dose, served[..., :25])
    rest = flow(model, first.state, dose * torch.tensor([1.0, 0.0]), served[..., 25:])
    assert torch.equal(whole.state, rest.state)
    assert torch.equal(whole.glucose, torch.cat([first.glucose, rest.glucose[..., 1:]], -1))
    torch.testing.assert_close(whole.glucose[..., -1], whole.state[..., PLASMA] / model.values["Vg"])


def test_glucose_that_was_eaten_is_somewhere():
    model = truth(published(), dtype=torch.float64)
    _, served = some(30, 120)
    states, gut = absorb(model, start(model, 3).movedim(-1, 0)[GUT], served)
    appeared = gut.means.sum(0) * model.tick / model.values["appearing"]
    held = states[-1, :4].sum(0)
    torch.testing.assert_close(appeared + held, 1000 * served.sum(-1), rtol=1e-10, atol=1e-6)


def test_insulin_is_linear_in_the_dose():
    model = truth(published(), dtype=torch.float64)
    none = torch.zeros(30, 3, 40, dtype=torch.float64)
    a, b = (some(30, 40, seed)[0] for seed in (1, 2))
    insulin = [flow(model, start(model, 3), dose, none).state[..., INSULIN] for dose in (a, b, a + b, 0 * a)]
    torch.testing.assert_close(insulin[0] + insulin[1], insulin[2] + insulin[3], rtol=1e-10, atol=1e-9)


def test_insulin_lowers_and_meals_raise_glucose_of_everyone():
    people = find([*published().names, *interpolated()[0].names])
    model = truth(people)
    dose = torch.zeros(len(people), 1, 2)
    dose[..., 0] = torch.from_numpy(people.basal)[:, None]
    nothing = torch.zeros(len(people), 1, 48)
    meal = nothing.clone()
    meal[..., 0] = 50.0
    rest, fed = (flow(model, start(model, 1), dose, food).glucose for food in (nothing, meal))
    dosed = flow(model, start(model, 1), dose + torch.tensor([0.0, 0.08]), nothing).glucose
    assert (fed.amax(-1) > rest.amax(-1) + 30).all()
    assert (dosed[..., -1] < rest[..., -1] - 10).all()


NAME = "adult#004"


def test_samples_are_those_of_a_finer_grid():
    inputs = {"basal": [(0, 1.0)], "boluses": [(7, 2.0)], "meals": [(13, 40)], "minutes": 90}
    fine = simulate(NAME, **inputs, every=1)
    assert fine.shape == (91,)
    for every in (5, 7, 90):
        assert np.array_equal(simulate(NAME, **inputs, every=every), fine[::every])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 30), st.integers(1, 40), st.floats(1, 90), st.floats(0.5, 8))
def test_later_inputs_move_the_day_by_as_much(minute, delay, grams, units):
    day = {"basal": [(0, 0.9)], "minutes": 80, "every": 1}
    quiet, times = simulate(NAME, **day), (minute, minute + delay)
    early, late = (simulate(NAME, boluses=[(at, units)], meals=[(at, grams)], **day) for at in times)
    for moved, at in zip((early, late), times):
        assert np.array_equal(moved[: at + 1], quiet[: at + 1])
    assert not np.array_equal(early, late)


amounts = st.one_of(st.floats(max_value=-1e-9), st.just(float("nan")), st.just(float("inf")), st.just("1"), st.none())
minutes = st.one_of(st.integers(max_value=-1), st.integers(min_value=60), st.just(2.5), st.just("3"), st.none())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["basal", "boluses", "meals"]),
    st.one_of(st.tuples(st.just(3), amounts), st.tuples(minutes, st.just(1.0))),
)
def test_bad_entries_are_one_line_that_names_the_field(field, entry):
    refused(MedGymError, rf"^{field}\[1\]: ", lambda: simulate(NAME, **{field: [(0, 1.0), entry]}, minutes=60))


@pytest.mark.parametrize(
    ("field", "value"),
    [("every", 0.5), ("every", 0), ("every", 61), ("every", -5), ("minutes", 0), ("minutes", 1.5), ("minutes", "60")],
)
def test_bad_clocks_are_one_line_that_names_the_field(field, value):
    refused(MedGymError, f"^{field}: ", lambda: simulate(NAME, **{"minutes": 60, field: value}))


@pytest.mark.parametrize("name", ["adult#011", "adult001", "stay-30001", ""])
def test_a_patient_of_another_table_is_unknown(name):
    refused(UnknownNameError, "patient of type 1 diabetes", lambda: simulate(name))


@pytest.mark.parametrize("tick", [0, 0.5, 6])
def test_a_tick_that_is_no_whole_number_of_internal_steps(tick):
    refused(MedGymError, r"^tick: .* internal steps from 1 to 5", lambda: truth(published(), tick=tick))
