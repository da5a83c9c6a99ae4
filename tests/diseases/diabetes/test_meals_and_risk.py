"""Meals and sensor from an episode's seed; risk, cost and consensus metrics of a path."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgym_offline.diseases.diabetes.meals import meals, readings, served
from medgym_offline.diseases.diabetes.risk import CAP, below, consensus, integral, risk

WEIGHT = np.array([70.0, 35.0])
SEEDS = np.arange(600).reshape(2, 300)


def test_an_episode_does_not_depend_on_its_mates():
    together = meals(SEEDS, WEIGHT)
    alone = meals(SEEDS[1:, 7:8], WEIGHT[1:])
    for field in ("minutes", "grams", "announced_minutes", "announced_grams"):
        a, b = getattr(together, field)[1, 7], getattr(alone, field)[0, 0]
        assert torch.equal(a[: len(b)], b)
    glucose = torch.full((2, 300, 9), 120.0)
    late = readings(glucose[1:, 7:8, 5:], SEEDS[1:, 7:8], np.arange(5, 9))
    assert torch.equal(readings(glucose, SEEDS, np.arange(9))[1:, 7:8, 5:], late)


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
