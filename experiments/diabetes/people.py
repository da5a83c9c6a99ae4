"""Real people with type 1 diabetes: who is usable, the bank of them, and how far it foresees their last days.

    python -m experiments.diabetes.people FOLDER_OF_RECORDS           # rows and tables of the forecasts
    python -m experiments.diabetes.people FOLDER_OF_RECORDS --bank    # the bank, under generation/banks

HUPA-UCM: Hidalgo et al., HUPA-UCM Diabetes Dataset, Mendeley Data, doi 10.17632/3hbcscwz44.1, CC BY 4.0. The folder
holds `records.csv.gz`, one row per hour: patient, time_h (h since the person's first midnight), glucose_mgdl (mean of
the hour), bolus_units (U), basal_units_per_5min_mean (U) and carb_input (g, or servings).

Forecasts: the last 3 days of the usable people are held out of the fit. From every hour of those days glucose is
foreseen 1, 2 and 4 h ahead, given the reading of that hour and what was given and eaten, as written down:

    ind         each person's own fit, drawn towards the others
    pop         the population: the center of the hierarchy of those fits, one set of numbers for all
    persistence glucose stays
    usual       each person's mean of the days before

R2 is against a person's mean of the same held-out hours, so 0 is what a constant in hindsight reaches.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import torch
import typer
from pydantic import Field
from torch import Tensor

from experiments.common import plain_table
from medgym_offline.config import configuration, read
from medgym_offline.diseases.diabetes.bank import learn
from medgym_offline.diseases.diabetes.minimal import PARAMETERS, WARM_UP, Fit, fit, forecast
from medgym_offline.errors import BankError, CohortError
from medgym_offline.files import release_folder, write_text
from medgym_offline.simulators import SimulatorBank

HERE = Path(__file__).parent
AHEAD = (1, 2, 4)
HELD_OUT = 72
"""Hours."""
MODELS = ("ind", "pop", "persistence", "usual")
HOUR = 12
"""Ticks of 5 minutes."""
COLUMNS = ("patient", "time_h", "glucose_mgdl", "bolus_units", "basal_units_per_5min_mean", "carb_input")
LICENSE = "CC BY 4.0; changed: fitted coefficients and personal means, no records"
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
    enough = pl.all_horizontal(*(pl.col(name) >= limit for name, limit in least.items()))
    return found.sort("patient").with_columns(used=enough)


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


def build(rule: People, found: Diary) -> SimulatorBank:
    """The bank of the people; an episode starts at each one's median glucose around 06:00."""
    by_hour = found.glucose[:, HOUR // 2 :: HOUR]
    morning = torch.isin(torch.arange(by_hour.shape[1]) % 24, torch.tensor(MORNING))
    start, records = by_hour[:, morning].nanmedian(1).values, (found.glucose, found.insulin, found.meal)
    source = f"{len(found.patients)} people of HUPA-UCM, Hidalgo et al., doi 10.17632/3hbcscwz44.1, hourly"
    about = {"recipe": dataclasses.asdict(rule), "source": source, "license": LICENSE}
    return learn(rule.name, found.patients, found.context, start, records, about)


# -- forecasts ---------------------------------------------------------------------------------------------------------


def before(found: Diary) -> Tensor:
    """Readings (P, T) without the held-out ones."""
    late = torch.arange(found.glucose.shape[1]) >= found.ends[:, None] - HOUR * HELD_OUT
    return found.glucose.masked_fill(late, torch.nan)


def foreseen(found: Diary, fitted: Fit) -> dict[str, Tensor]:
    """Glucose (P, W, 3) at :data:`AHEAD` from W hours of the held-out days, by model; `truth` is what was read."""
    span, warm, count = HOUR * AHEAD[-1], HOUR * WARM_UP, len(found.patients)
    first = torch.arange(0, HOUR * (HELD_OUT - AHEAD[-1]), HOUR) + HOUR // 2
    starts = found.ends[:, None] - HOUR * HELD_OUT + first
    row = torch.arange(count)[:, None]
    window = starts[..., None] + torch.arange(-warm, span)
    given = [x[row[..., None], window] for x in (found.insulin, found.meal)]
    reading, steps = found.glucose[row, starts], HOUR * torch.tensor(AHEAD)
    models = {"ind": fitted.parameters, "pop": fitted.center.expand(count, -1)}
    paths = {name: forecast(model, reading, *given, warm)[..., steps] for name, model in models.items()}
    truth = found.glucose[row[..., None], starts[..., None] + steps]
    usual = before(found).nanmean(1)[:, None, None]
    same = {"persistence": reading[..., None].expand_as(truth), "usual": usual.expand_as(truth)}
    return {**paths, **same, "truth": truth}


def scores(found: Diary, values: dict[str, Tensor]) -> pl.DataFrame:
    """RMSE, mg/dL, and R2 per person, model and hours ahead, over the hours that all models foresee."""
    truth = values["truth"].double().numpy()
    real = np.isfinite(truth) & np.isfinite(values["persistence"].numpy())
    rows = []
    for i, patient in enumerate(found.patients):
        for j, hour in enumerate(AHEAD):
            at = real[i, :, j]
            spread = truth[i, at, j].var()
            for model in MODELS:
                square = float(((values[model][i, at, j].double().numpy() - truth[i, at, j]) ** 2).mean())
                row = {"patient": patient, "model": model, "hours": hour, "forecasts": int(at.sum())}
                rows.append({**row, "rmse": square**0.5, "r2": 1.0 - square / spread})
    return pl.DataFrame(rows)


def wins(rows: pl.DataFrame, other: str, hour: int) -> str:
    """In how many people `ind` has the smaller error, and its median gain."""
    at = rows.filter(pl.col("hours") == hour).sort("patient")
    own, theirs = (at.filter(pl.col("model") == model)["rmse"].to_numpy() for model in ("ind", other))
    return f"{(own < theirs).sum()} of {len(own)}, {np.median(100 * (theirs - own) / theirs):.0f} %"


def markdown(rows: pl.DataFrame, who: pl.DataFrame, fitted: Fit) -> str:
    """The tables."""
    used, left = who.filter("used"), who.filter(~pl.col("used"))
    errors, each = [], []
    for model in MODELS:
        parts = [rows.filter(pl.col("model") == model, pl.col("hours") == hour) for hour in AHEAD]
        errors.append([model, *(x for at in parts for x in (f"{at['rmse'].mean():.1f}", f"{at['r2'].median():.2f}"))])
    for person, numbers in zip(used.iter_rows(named=True), fitted.parameters.tolist()):
        at = rows.filter(pl.col("patient") == person["patient"], pl.col("hours") == AHEAD[-1])
        r2 = [f"{at.filter(pl.col('model') == model)['r2'].item():.2f}" for model in MODELS[:3]]
        days = [f"{person['days']:.1f}", f"{person['meals']:.1f}"]
        each.append([person["patient"], *days, *r2, *(f"{x:.3g}" for x in numbers)])
    over = [[other, *(wins(rows, other, hour) for hour in AHEAD)] for other in MODELS[1:]]
    missing = [
        [p["patient"], f"{p['days']:.1f}", f"{100 * p['basal']:.0f}", f"{p['boluses']:.1f}", str(p["sizes"]),
         f"{p['meals']:.1f}"]
        for p in left.iter_rows(named=True)
    ]  # fmt: skip
    blocks = [
        "# Real people with type 1 diabetes",
        f"Made by `people.py`: {len(used)} of {len(who)} people of HUPA-UCM (CC BY 4.0), hourly records, the last "
        f"{HELD_OUT} hours of each held out.",
        "RMSE, mg/dL, mean over people; R2, median over people.",
        plain_table(["", *(f"{what} {h} h" for h in AHEAD for what in ("RMSE", "R2"))], errors),
        "`ind` has the smaller error in so many people; its median gain:",
        plain_table(["over", *(f"{h} h" for h in AHEAD)], over),
        "## Each person",
        "R2 at 4 h, and what was fitted.",
        plain_table(["", "days", "meals a day", *MODELS[:3], *(p.name for p in PARAMETERS)], each),
        "## Not used",
        plain_table(["", "days", "basal insulin, % of hours", "boluses a day", "their sizes", "meals a day"], missing),
    ]
    return "\n\n".join(blocks) + "\n"


def main(records: Path, bank: bool = False) -> None:
    """Write rows and tables of the forecasts, or the bank, from RECORDS, the folder of records.csv.gz."""
    rule, hours = read(People, release_folder("generation") / "diabetes-hupa-v0.toml"), read_hours(records)
    found = diary(hours, rule)
    if bank:
        build(rule, found).save(release_folder("generation") / "banks" / f"{rule.name}.safetensors")
        return
    fitted = fit(before(found), found.insulin, found.meal)
    rows = scores(found, foreseen(found, fitted))
    rows.write_parquet(HERE / "people.parquet")
    write_text(HERE / "people.md", markdown(rows, usable(hours, rule), fitted))


if __name__ == "__main__":
    typer.run(main)
