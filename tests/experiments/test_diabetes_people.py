"""Real people with type 1 diabetes: who is usable, records on ticks, and forecasts that see nothing later."""

from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from experiments.diabetes import people
from experiments.diabetes.people import COLUMNS, HOUR, People, diary, read_hours
from medgym_offline import MedGymError
from medgym_offline.diseases.diabetes.minimal import PARAMETERS, Fit
from tests.helpers import refused

RULE = People(name="few", least_days=5.0)
DAYS = 6


def person(name, serving=1.0, first=7, **other):
    """Days of hourly records from the first midnight's hour `first` on: a meal and a bolus at 8, 13 and 19 h."""
    hours = np.arange(first, 24 * DAYS)
    meal = np.isin(hours % 24, (8, 13, 19))
    rows = {
        "patient": name,
        "time_h": hours,
        "glucose_mgdl": 140.0 + 30.0 * np.sin(hours / 3.0),
        "bolus_units": meal * (4.0 + hours % 24 / 4.0),
        "basal_units_per_5min_mean": np.full(len(hours), 0.05),
        "carb_input": meal * 60.0 / serving,
        **other,
    }
    return pl.DataFrame(rows).with_columns(pl.col(COLUMNS[2:]).cast(pl.Float64))


def test_ticks_hold_what_the_hours_held_and_units_are_each_persons_own():
    table = pl.concat([person("grams"), person("servings", 10.0)])
    found = diary(table, RULE)
    one = table.filter(pl.col("patient") == "grams")
    begun = HOUR * one["time_h"][0]
    given = one["bolus_units"].sum() + HOUR * one["basal_units_per_5min_mean"].sum()
    assert float(RULE.weight * found.insulin[0, begun:].sum()) == pytest.approx(given, rel=1e-5)
    assert float(RULE.weight * found.meal[0].sum()) == pytest.approx(one["carb_input"].sum(), rel=1e-5)
    assert torch.equal(found.meal[0], found.meal[1])
    assert torch.equal(found.context[0], found.context[1])
    read_at = found.glucose[0].isfinite().nonzero()[:, 0]
    assert (read_at % HOUR == HOUR // 2).all()
    assert np.allclose(found.glucose[0, read_at], one["glucose_mgdl"])
    assert found.ends.tolist() == [HOUR * 24 * DAYS] * 2


def test_held_out_readings_change_no_fit_and_later_ones_no_forecast():
    found = diary(person("one"), RULE)
    late = found.ends[0] - HOUR * people.HELD_OUT
    assert not people.before(found)[:, late:].isfinite().any()
    assert people.before(found)[:, :late].isfinite().any()
    center = torch.tensor([[p.center for p in PARAMETERS]])
    fitted = Fit(center, center[0], center[0], center[0, :1])
    values = people.foreseen(found, fitted)
    assert torch.equal(values["ind"], values["pop"])
    at = HOUR * people.HELD_OUT // 2 + late + HOUR // 2
    found.glucose[:, at] = 300.0
    changed, hour = people.foreseen(found, fitted), people.HELD_OUT // 2
    for model in people.MODELS:
        same = torch.arange(values[model].shape[1]) != hour
        assert torch.equal(changed[model][:, same], values[model][:, same])
    assert torch.equal(changed["usual"], values["usual"])
    assert (changed["truth"][0, hour - 4, 2], changed["persistence"][0, hour, 0]) == (300.0, 300.0)
    rows = people.scores(found, {**values, "ind": values["truth"]}).filter(pl.col("model") == "ind")
    assert rows["rmse"].max() == 0.0
    assert rows["r2"].min() == 1.0


def test_wrong_records_are_one_line(tmp_path):
    refused(MedGymError, "no such file", lambda: read_hours(tmp_path))
    wrong = person("a", bolus_units=np.full(24 * DAYS - 7, -1.0))
    for table, said in ((person("a").drop("carb_input"), "'carb_input' is missing"), (wrong, "a negative amount")):
        (tmp_path / "records.csv.gz").write_bytes(table.write_csv().encode())
        refused(MedGymError, said, partial(read_hours, tmp_path))
