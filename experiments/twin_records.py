"""Are the twin's records like real ones? Summary statistics of both, side by side.

    python -m experiments.twin_records                   # the summary that is kept beside the twin's
    python -m experiments.twin_records COHORT.parquet    # writes the summary of a real cohort first

Marginals (quantiles of values), rhythm (gaps, values per stay), missingness, treatment patterns, and confounding: the
rank correlation over hours of each treatment with what it is given for, carried forward at most 12 h. Only these
summaries of the real cohort are kept with the project; the records stay where they are.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import spearmanr

from medgym_offline.cohorts import Cohort, GridCohort
from medgym_offline.diseases.scales import Scales
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.twin_bank import twin_cohort
from medgym_offline.files import release_folder, write_json
from medgym_offline.reports.blocks import Table
from medgym_offline.reports.text import markdown
from medgym_offline.simulators.build import read_recipe

__all__ = ["REAL", "summarize"]

REAL = release_folder("generation") / "real-cohort-summary.json"
CONFOUNDING = {
    "vasopressor": ("lactate", "gcs", "urine"),
    "fio2": ("pao2", "spo2", "gcs"),
    "fluids": ("lactate", "urine"),
}
"""Treatment -> variables that its rank correlation is taken with."""
CARRIED_HOURS = 12
_FIVE, _THREE = (5, 25, 50, 75, 95), (25, 50, 75)


def summarize(cohort: Cohort) -> dict[str, Any]:
    """Summary statistics of a cohort's first 96 h, as plain numbers.

    Returns:
        Per variable `value` (q05, 25, 50, 75, 95), `gap` (q25, 50, 75 in hours), `per_stay` (q25, 50, 75), `absent`
        (share of stays) and `between`, the SD of the stays' means in the bank's transform; per treatment `hours` and
        `stays` (shares given it) and `dose` (q05, 25, 50, 75, 95 when given); `confounding` rank correlations.
    """
    grid, definition = cohort.to_grid(), cohort.definition
    plain = Scales((0.0,) * 6, (1.0,) * 6, (1.0,) * 3).normalize(DISEASE, np.nan_to_num(grid.values, nan=1.0))
    window = cohort.observations.filter(pl.col("time_h").is_between(0.0, 96.0))
    gaps = window.select("variable", gap=pl.col("time_h").diff().over("patient", "variable")).drop_nulls()
    variables, treatments = {}, {}
    for column, name in enumerate(definition.observed):
        mask, count = grid.mask[..., column], grid.mask[..., column].sum(1)
        means = (plain[..., column] * mask).sum(1)[count > 1] / count[count > 1]
        variables[name] = {
            "value": _quantiles(grid.values[..., column][mask], _FIVE),
            "gap": _quantiles(gaps.filter(pl.col("variable") == name)["gap"].to_numpy(), _THREE),
            "per_stay": _quantiles(count, _THREE),
            "absent": float((count == 0).mean()),
            "between": float(means.std()),
        }
    for column, concept in enumerate(definition.treatments):
        dose = grid.treatment[..., column]
        given = grid.inside & (dose > concept.background + 1e-9)
        treatments[concept.name] = {
            "hours": float(given.sum() / grid.inside.sum()),
            "stays": float(given.any(1).mean()),
            "dose": _quantiles(dose[given], _FIVE),
        }
    pairs = ((t, v) for t, variables_of in CONFOUNDING.items() for v in variables_of)
    confounding = {f"{t}, {v}": _rank_correlation(cohort, grid, t, v) for t, v in pairs}
    return {"variables": variables, "treatments": treatments, "confounding": confounding}


def _quantiles(values: np.ndarray, at: tuple[int, ...]) -> list[float]:
    return np.percentile(values, at).tolist() if len(values) else []


def _rank_correlation(cohort: Cohort, grid: GridCohort, treatment: str, variable: str) -> float:
    column = cohort.definition.observed.index(variable)
    values, mask = grid.values[..., column], grid.mask[..., column]
    hours = np.arange(values.shape[1])
    last = np.maximum.accumulate(np.where(mask, hours, -1000), 1)
    use = grid.inside & (hours - last <= CARRIED_HOURS)
    carried = np.take_along_axis(values, np.maximum(last, 0), 1)
    dose = grid.treatment[..., cohort.definition.given.index(treatment)]
    return float(spearmanr(dose[use], carried[use]).statistic)


def _shown(value: Any) -> str:
    return "/".join(f"{v:.3g}" for v in value) if isinstance(value, list) else f"{value:.3g}"


def main() -> None:
    """Print every statistic of both cohorts."""
    if sys.argv[1:]:
        write_json(REAL, summarize(Cohort.read(sys.argv[1])))
    recipe = read_recipe(release_folder("generation") / "sepsis-twin-v0.toml")
    real = json.loads(REAL.read_text(encoding="utf-8"))
    twin = summarize(twin_cohort(recipe.patients, recipe.seed, recipe.spread)[0])
    rows = [
        (name, key, _shown(real[part][name][key]), _shown(value))
        for part in ("variables", "treatments")
        for name, statistics in twin[part].items()
        for key, value in statistics.items()
    ]
    rows += [
        (pair, "rank correlation", _shown(real["confounding"][pair]), _shown(value))
        for pair, value in twin["confounding"].items()
    ]
    print(markdown(Table("The real cohort and the twin's records", ("", "statistic", "real", "twin"), rows)))


if __name__ == "__main__":
    main()
