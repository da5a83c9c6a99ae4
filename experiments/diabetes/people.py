"""How far simulators of real people with type 1 diabetes foresee their last days.

    python -m experiments.diabetes.people FOLDER_OF_RECORDS

The usable people of HUPA-UCM (`hupa.py`, `generation/diabetes-hupa-v0.toml`). Their last 3 days are held out of the
fit. From every hour of those days glucose is foreseen 1, 2 and 4 h ahead, given the reading of that hour and what was
given and eaten, as written down:

    ind         each person's own fit, drawn towards the others
    pop         the population: the center of the hierarchy of those fits, one set of numbers for all
    persistence glucose stays
    usual       each person's mean of the days before

R2 is against a person's mean of the same held-out hours, so 0 is what a constant in hindsight reaches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from experiments.common import plain_table
from experiments.diabetes.hupa import HOUR, Diary, People, diary, read_hours, usable
from medgym_offline.config import read
from medgym_offline.diseases.diabetes.minimal import PARAMETERS, WARM_UP, Fit, fit, forecast
from medgym_offline.files import write_text

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "generation" / "diabetes-hupa-v0.toml"
AHEAD = (1, 2, 4)
HELD_OUT = 72
"""Hours."""
MODELS = ("ind", "pop", "persistence", "usual")


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
    everyone = fitted.center.expand(count, -1)
    paths = {
        name: forecast(parameters, reading, *given, warm)[..., steps]
        for name, parameters in (("ind", fitted.parameters), ("pop", everyone))
    }
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


def main() -> None:
    """Write the rows and the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", type=Path, help="Folder of records.csv.gz.")
    rule, hours = read(People, RECIPE), read_hours(parser.parse_args().records)
    found = diary(hours, rule)
    fitted = fit(before(found), found.insulin, found.meal)
    rows = scores(found, foreseen(found, fitted))
    rows.write_parquet(HERE / "people.parquet")
    write_text(HERE / "people.md", markdown(rows, usable(hours, rule), fitted))


if __name__ == "__main__":
    main()
