"""Real people with type 1 diabetes: who of HUPA-UCM is usable, their records on ticks, and the bank of them.

    python -m experiments.diabetes.hupa generation/diabetes-hupa-v0.toml FOLDER [--output FOLDER]

HUPA-UCM: Hidalgo et al., HUPA-UCM Diabetes Dataset, Mendeley Data, doi 10.17632/3hbcscwz44.1, CC BY 4.0. FOLDER
holds `records.csv.gz`, one row per hour: patient, time_h (h since the person's first midnight), glucose_mgdl (mean of
the hour), bolus_units (U), basal_units_per_5min_mean (U) and carb_input (g, or servings).
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from medgym_offline.config import configuration, read
from medgym_offline.diseases.diabetes.bank import learn
from medgym_offline.errors import BankError, CohortError
from medgym_offline.simulators import SimulatorBank

HOUR = 12
"""Ticks of 5 minutes."""
COLUMNS = ("patient", "time_h", "glucose_mgdl", "bolus_units", "basal_units_per_5min_mean", "carb_input")
MORNING = (5, 6, 7)
"""Hours of the day whose median glucose is where an episode starts."""
CORRECTION = 1800.0
"""Correction factor (mg/dL per U) times daily insulin (U): the rule of 1800 (Walsh and Roberts, Pumping Insulin)."""


@configuration("recipe", BankError)
class People:
    """Who is usable, and in which units; `generation/diabetes-hupa-v0.toml` says what each entry means."""

    name: str
    least_days: Annotated[float, Field(gt=0)] = 7.0
    least_glucose: Annotated[float, Field(ge=0, le=1)] = 0.9
    least_basal: Annotated[float, Field(ge=0, le=1)] = 0.8
    least_boluses: Annotated[float, Field(ge=0)] = 2.0
    least_meals: Annotated[float, Field(ge=0)] = 1.0
    weight: Annotated[float, Field(gt=0)] = 70.0
    most_servings: Annotated[float, Field(gt=0)] = 20.0
    serving: Annotated[float, Field(gt=0)] = 10.0


@dataclass(frozen=True)
class Diary:
    """Records of P people at ticks of 5 minutes from each one's first midnight, (P, T).

    Attributes:
        patients: P ids.
        glucose: Mean of an hour at its middle, mg/dL; NaN elsewhere.
        insulin: Basal and bolus, U/kg in each tick; an hour's sum is spread over it, since nothing finer is known.
            Before the first record a person is taken to have had the mean of all.
        meal: Carbohydrate, g/kg in each tick, spread likewise.
        ends: Ticks of each person, (P,); later ones are empty.
        context: What is known of each, as `episodes.CONTEXT`, (P, 5): the basal rate is the mean, the carbohydrate
            ratio the median of hours with a meal and a bolus, the correction factor by the rule of 1800.
    """

    patients: tuple[str, ...]
    glucose: Tensor
    insulin: Tensor
    meal: Tensor
    ends: Tensor
    context: Tensor


def usable(hours: pl.DataFrame, rule: People) -> pl.DataFrame:
    """One row per person: days, share of hours with glucose and with basal insulin, boluses and meals a day, `used`."""
    days = (pl.col("time_h").max() - pl.col("time_h").min() + 1) / 24
    bolus, glucose = pl.col("bolus_units"), pl.col("glucose_mgdl")
    found = hours.group_by("patient").agg(
        days=days,
        glucose=glucose.is_not_null().sum() / (24 * days),
        basal=(pl.col("basal_units_per_5min_mean") > 0).sum() / (24 * days),
        boluses=(bolus > 0).sum() / days,
        sizes=bolus.filter(bolus > 0).n_unique(),
        meals=(pl.col("carb_input") > 0).sum() / days,
    )
    least = {"days": rule.least_days, "glucose": rule.least_glucose, "basal": rule.least_basal, "sizes": 2}
    least |= {"boluses": rule.least_boluses, "meals": rule.least_meals}
    return found.sort("patient").with_columns(
        used=pl.all_horizontal(*(pl.col(name) >= limit for name, limit in least.items()))
    )


def read_hours(folder: str | Path) -> pl.DataFrame:
    """The records of all people, by the hour; one line for a file that is missing or another."""
    path = Path(folder) / "records.csv.gz"
    if not path.is_file():
        raise CohortError(f"{path}: no such file; give the folder of the hourly HUPA-UCM records")
    hours = pl.read_csv(path, schema_overrides=dict.fromkeys(COLUMNS[2:], pl.Float64))
    if missing := [name for name in COLUMNS if name not in hours.columns]:
        raise CohortError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(hours.columns)}")
    for name in COLUMNS[3:]:
        if (hours[name].fill_null(0.0) < 0).any():
            raise CohortError(f"{path}: {name} has a negative amount; correct the row or leave it out")
    return hours.select(COLUMNS).sort("patient", "time_h")


def diary(hours: pl.DataFrame, rule: People) -> Diary:
    """The usable people on ticks."""
    names = usable(hours, rule).filter("used")["patient"].to_list()
    if not names:
        raise CohortError("nobody's records are usable by the recipe's rule; lower its least_... entries")
    total = HOUR * (1 + max(hours.filter(pl.col("patient").is_in(names))["time_h"]))
    glucose = np.full((len(names), total), np.nan)
    insulin, meal = np.zeros_like(glucose), np.zeros_like(glucose)
    ends, context = [], []
    for i, name in enumerate(names):
        rows = hours.filter(pl.col("patient") == name)
        tick = HOUR * rows["time_h"].to_numpy()
        within = tick[:, None] + np.arange(HOUR)
        bolus, basal, food = (rows[column].fill_null(0.0).to_numpy() for column in COLUMNS[3:])
        eaten = food * (1.0 if np.median(food[food > 0]) > rule.most_servings else rule.serving)
        glucose[i, tick + HOUR // 2] = rows["glucose_mgdl"].to_numpy()
        given = bolus / HOUR + basal
        insulin[i, : tick[0]] = given.mean() / rule.weight
        insulin[i, within] = given[:, None] / rule.weight
        meal[i, within] = eaten[:, None] / (HOUR * rule.weight)
        both = (bolus > 0) & (eaten > 0)
        ratio = float(np.median(eaten[both] / bolus[both]))
        correction = CORRECTION * rule.weight / (24 * HOUR * given.mean())
        context.append([rule.weight, 0.0, HOUR * basal.mean() / rule.weight, ratio, correction])
        ends.append(int(tick[-1]) + HOUR)
    tables = (torch.from_numpy(x).float() for x in (glucose, insulin, meal))
    return Diary(tuple(names), *tables, torch.tensor(ends), torch.tensor(context).float())


def build(rule: People, folder: str | Path) -> SimulatorBank:
    """The bank of the usable people; an episode starts at each one's median glucose around 06:00."""
    found = diary(read_hours(folder), rule)
    by_hour = found.glucose[:, HOUR // 2 :: HOUR]
    morning = torch.isin(torch.arange(by_hour.shape[1]) % 24, torch.tensor(MORNING))
    return learn(
        rule.name,
        found.patients,
        found.context,
        by_hour[:, morning].nanmedian(1).values,
        (found.glucose, found.insulin, found.meal),
        {
            "recipe": dataclasses.asdict(rule),
            "source": f"{len(found.patients)} people of HUPA-UCM, Hidalgo et al., doi 10.17632/3hbcscwz44.1, hourly",
            "license": "CC BY 4.0; changed: fitted coefficients and personal means, no records",
        },
    )


def main() -> None:
    """Build the bank and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("records", type=Path, help="Folder of records.csv.gz.")
    parser.add_argument("--output", type=Path, default=Path("generation/banks"), help="Folder.")
    options = parser.parse_args()
    bank = build(read(People, options.recipe), options.records)
    path = options.output / f"{bank.name}.safetensors"
    bank.save(path)
    print(f"wrote {path}: {len(bank)} patients, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
