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

from experiments.common import plain_table
from medgym_offline.cohorts import Cohort
from medgym_offline.diseases.scales import Scales
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.twin_bank import twin_cohort
from medgym_offline.files import release_folder, write_json
from medgym_offline.simulators.build import read_recipe

REAL = release_folder("generation") / "real-cohort-summary.json"
CONFOUNDING = {
    "vasopressor": ("lactate", "gcs", "urine"),
    "fio2": ("pao2", "spo2", "gcs"),
    "fluids": ("lactate", "urine"),
}
"""Treatment -> variables that its rank correlation is taken with."""
CARRIED_HOURS = 12
_FIVE, _THREE = (5, 25, 50, 75, 95), (25, 50, 75)


def summarize(cohort: Cohort) -> dict[str, dict[str, Any]]:
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
    found: dict[str, dict[str, Any]] = {"variables": {}, "treatments": {}, "confounding": {}}
    carried, recent, hours = {}, {}, np.arange(grid.values.shape[1])
    for column, name in enumerate(definition.observed):
        values, mask = grid.values[..., column], grid.mask[..., column]
        count = mask.sum(1)
        found["variables"][name] = {
            "value": _quantiles(values[mask], _FIVE),
            "gap": _quantiles(gaps.filter(variable=name)["gap"].to_numpy(), _THREE),
            "per_stay": _quantiles(count, _THREE),
            "absent": float((count == 0).mean()),
            "between": float(((plain[..., column] * mask).sum(1)[count > 1] / count[count > 1]).std()),
        }
        last = np.maximum.accumulate(np.where(mask, hours, -1000), 1)
        carried[name] = np.take_along_axis(values, np.maximum(last, 0), 1)
        recent[name] = grid.inside & (hours - last <= CARRIED_HOURS)
    for column, concept in enumerate(definition.treatments):
        dose = grid.treatment[..., column]
        given = grid.inside & (dose > concept.background + 1e-9)
        found["treatments"][concept.name] = {
            "hours": float(given.sum() / grid.inside.sum()),
            "stays": float(given.any(1).mean()),
            "dose": _quantiles(dose[given], _FIVE),
        }
        for name in CONFOUNDING[concept.name]:
            use = recent[name]
            found["confounding"][f"{concept.name}, {name}"] = float(spearmanr(dose[use], carried[name][use]).statistic)
    return found


def _quantiles(values: np.ndarray, at: tuple[int, ...]) -> list[float]:
    return np.percentile(values, at).tolist() if len(values) else []


def main() -> None:
    """Print every statistic of both cohorts."""
    if sys.argv[1:]:
        write_json(REAL, summarize(Cohort.read(sys.argv[1])))
    recipe = read_recipe(release_folder("generation") / "sepsis-twin-v0.toml")
    real = json.loads(REAL.read_text(encoding="utf-8"))
    twin = summarize(twin_cohort(recipe.patients, recipe.seed, recipe.spread)[0])
    rows = []
    for part, name in ((part, name) for part, names in twin.items() for name in names):
        both = (summary[part][name] for summary in (real, twin))
        one, other = (of if isinstance(of, dict) else {"rank correlation": of} for of in both)
        for key in other:
            cells = ("/".join(f"{v:.3g}" for v in np.atleast_1d(of[key])) for of in (one, other))
            rows.append([name, key, *cells])
    print(plain_table(["The real cohort and the twin's records", "statistic", "real", "twin"], rows))


if __name__ == "__main__":
    main()
