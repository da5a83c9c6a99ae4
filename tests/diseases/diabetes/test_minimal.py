"""Records of people who err, the reference clinician, and the learned model: equations, signs, its fit to records."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from medgym_offline.diseases.diabetes.clinician import DAY, Records, decide, prescription, record
from medgym_offline.diseases.diabetes.minimal import PARAMETERS, STATE, derivative, fit, forecast
from medgym_offline.diseases.diabetes.people import published
from medgym_offline.diseases.diabetes.truth import play, start, truth

CENTER = torch.tensor([[p.center for p in PARAMETERS]], dtype=torch.float64)
NAMES = ("adolescent#004", "adult#002", "child#005")
DAYS = 6


def test_the_step_agrees_with_a_general_solver():
    insulin, meal = torch.full((1, 1, 72), 0.0012, dtype=torch.float64), torch.zeros(1, 1, 72, dtype=torch.float64)
    insulin[..., 10], meal[..., 12:15] = 0.06, 0.3
    found = forecast(CENTER, torch.tensor([[140.0]], dtype=torch.float64), insulin, meal, 0)[0, 0]
    x = np.zeros(len(STATE))
    x[0] = 140.0
    for tick in range(72):
        dose, food = insulin[0, 0, tick] / 5, meal[0, 0, tick] / 5

        def slope(_, y, dose=dose, food=food):
            return derivative(torch.from_numpy(y), dose, food, CENTER[0]).numpy()

        x = solve_ivp(slope, (0, 5), x, rtol=1e-9, atol=1e-9).y[:, -1]
        assert abs(float(found[tick + 1]) - x[0]) < 0.05


def test_insulin_lowers_meals_raise_and_both_die_away():
    none = torch.zeros(1, 1, 288, dtype=torch.float64)
    once = none.clone()
    once[..., 0] = 1.0
    g = torch.tensor([[140.0]], dtype=torch.float64)
    rest = forecast(CENTER, g, none, none, 0)
    low, high = forecast(CENTER, g, 0.05 * once, none, 0), forecast(CENTER, g, none, 0.5 * once, 0)
    assert (low[..., 1:] < rest[..., 1:]).all()
    assert (high[..., 1:] > rest[..., 1:]).all()
    assert all(p.lower < p.center < p.upper for p in PARAMETERS)


@functools.cache
def recorded():
    """The patients, their records, and insulin and logged meals per kg of body weight."""
    model = truth(published().select(NAMES))
    found, weight = record(model, days=DAYS), model.values["BW"]
    return model, found, (found.basal / 12 + found.bolus) / weight, found.logged / weight


def test_a_persons_records_do_not_depend_on_who_else_is_recorded():
    alone, together = record(truth(published().select(NAMES[2:])), days=1), recorded()[1]
    for name in Records.__dataclass_fields__:
        ours, one = getattr(together, name)[2, :DAY], getattr(alone, name)[0]
        same = (ours == one) | (torch.isnan(ours) & torch.isnan(one))
        assert same[:270].all(), name  # the last hours' boluses may belong to meals of the next day


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 24), st.integers(1, 6), st.lists(st.floats(0, 24) | st.just(float("inf")), min_size=2, max_size=2))
def test_the_reference_can_always_cover_what_is_left(hours, decisions, ahead):
    if decisions * 12 < hours or decisions * 0.5 > hours:
        return
    plan = prescription(published().select(["adult#001"]))

    def one(value):
        return torch.full((1, 1), float(value))

    meals = torch.tensor([[sorted(ahead)]]), torch.ones(1, 1, 2)
    dose, length = decide(plan, one(200), one(0), one(0.2), *meals, one(hours), one(decisions))
    assert (dose >= 0).all()
    left = hours - float(length)
    assert -1e-5 <= left <= 12 * (decisions - 1) + 1e-4
    assert decisions == 1 or 0.5 - 1e-6 <= float(length) <= 12 + 1e-6


def test_a_forecast_of_many_parameter_sets_is_that_of_each():
    _, found, insulin, meal = recorded()
    given = (found.sensor[:, 100:101], insulin[:, None, 4:150], meal[:, None, 4:150])
    sets = CENTER.float() * torch.tensor([[[0.8], [1.2]]]).expand(3, 2, 1)
    many = forecast(sets, *given, 96)
    for j in range(2):
        torch.testing.assert_close(many[:, j], forecast(sets[:, j], *given, 96))


@pytest.mark.parametrize(("source", "parity", "at_4", "at_23"), [("sensor", 0, 0.75, 0.55), ("finger", 1, 0.5, 0.4)])
def test_the_fit_foresees_random_treatment(source, parity, at_4, at_23):
    model, found, insulin, meal = recorded()
    fitted = fit(getattr(found, source), insulin, meal, parity, iterations=8)
    starts = torch.tensor([DAY * day + 12 * hour for day in range(1, DAYS - 1) for hour in (1, 5, 9, 13, 17)])
    starts = starts[starts // DAY % 2 != parity]
    # The true patients at those times, then basal and bolus redrawn every 2 hours.
    state, last, states = start(model, 1), 0, []
    for t in starts.tolist():
        given = ((found.basal + 12 * found.bolus)[:, None, last:t], found.grams[:, None, last:t])
        state, last = play(model, state, *given).state, t
        states.append(state)
    length, g = 276, torch.Generator().manual_seed(1)
    shape = (len(NAMES), len(starts), 12)
    basal, bolus = 0.03 * torch.rand(shape, generator=g), 0.08 * torch.rand(shape, generator=g)
    random = basal.repeat_interleave(24, -1)[..., :length] / 12
    random[..., ::24] += bolus * (torch.rand(shape, generator=g) < 0.4)
    eaten = found.grams[:, starts[:, None] + torch.arange(length)]
    true = play(model, torch.cat(states, 1), 12 * random * model.values["BW"][..., None], eaten)
    window = starts[:, None] + torch.arange(-96, length)
    inputs = torch.cat([insulin[:, window[:, :96]], random], -1)
    reading = found.sensor[:, starts]
    foreseen = forecast(fitted.parameters, reading, inputs, meal[:, window], 96)
    for tick, least in ((48, at_4), (276, at_23)):
        change = true.glucose[..., tick] - true.glucose[..., 0]
        error = foreseen[..., tick] - true.glucose[..., tick]
        assert 1 - error.square().sum() / (change - change.mean()).square().sum() > least
        persistence = (reading - true.glucose[..., tick]).abs().mean(1)
        assert (error.abs().mean(1) < persistence).all()


def test_an_odd_days_reading_does_not_change_a_fit_to_even_days():
    _, found, insulin, meal = recorded()
    changed = found.sensor.clone()
    changed[:, DAY : 2 * DAY] = 300.0
    a, b = (fit(x[:1], insulin[:1], meal[:1], 0, iterations=2) for x in (found.sensor, changed))
    assert torch.equal(a.parameters, b.parameters)
    assert (a.parameters > 0).all()
