"""Is a synthetic cohort like a real one? Summary statistics of both, side by side.

Marginals (quantiles of values), rhythm (gaps, values per stay), missingness, treatment patterns, and confounding: the
rank correlation over hours of each treatment with what it is given for, carried forward at most 12 h. Only these
summaries of the real cohort are kept with the project; the records stay where they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.frames import pl
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.diseases.sepsis.cohort.definition import COHORT
from medgym_offline.errors import CohortError

__all__ = ["CONFOUNDING", "comparison", "read_summary", "summarize"]

CONFOUNDING = (
    ("vasopressor", "lactate"),
    ("vasopressor", "gcs"),
    ("vasopressor", "urine"),
    ("fio2", "pao2"),
    ("fio2", "spo2"),
    ("fio2", "gcs"),
    ("fluids", "lactate"),
    ("fluids", "urine"),
)
"""Treatment and variable whose rank correlation is compared."""

CARRIED_HOURS = 12


def summarize(cohort: Cohort) -> dict[str, Any]:
    """Summary statistics of a cohort's first 96 h, as plain numbers.

    Returns:
        `stays`; `length` quartiles; per variable `value` (q05, 25, 50, 75, 95), `gap` (q25, 50, 75 in hours),
        `per_stay` (q25, 50, 75), `absent` (share of stays), `between` and `within` SD in the bank's transform; per
        treatment `hours` and `stays` (shares given it), `dose` (q05, 25, 50, 75, 95 when given), `first_day` and
        `later` share of hours; `confounding` rank correlations; `balance` quartiles at the end, litres.
    """
    grid = cohort.to_grid()
    window = cohort.observations.filter(pl.col("time_h").is_between(0.0, 96.0))
    variables = {}
    for column, name in enumerate(COHORT.observed):
        mask = grid.mask[..., column]
        gaps = window.filter(pl.col("variable") == name).select(pl.col("time_h").diff().over("patient"))
        counts = mask.sum(1)
        between, within = _spread(grid, column)
        variables[name] = {
            "unit": COHORT.units[name],
            "value": _quantiles(grid.values[..., column][mask], (5, 25, 50, 75, 95)),
            "gap": _quantiles(gaps.drop_nulls().to_series().to_numpy(), (25, 50, 75)),
            "per_stay": _quantiles(counts, (25, 50, 75)),
            "absent": round(float((counts == 0).mean()), 3),
            "between": between,
            "within": within,
        }
    treatments = {name: _treatment(grid, column, name) for column, name in enumerate(COHORT.given)}
    last = np.maximum(grid.length - 1, 0)
    return {
        "stays": len(cohort),
        "datasets": cohort.metadata.get("datasets", []),
        "length": _quantiles(grid.length, (25, 50, 75)),
        "variables": variables,
        "treatments": treatments,
        "confounding": {f"{t}, {v}": _rank_correlation(grid, t, v) for t, v in CONFOUNDING},
        "balance": _quantiles(grid.derived["fluid_balance"][np.arange(len(grid)), last], (25, 50, 75)),
    }


def _quantiles(values: np.ndarray, at: tuple[int, ...]) -> list[float]:
    return [float(f"{q:.4g}") for q in np.percentile(values, at)] if len(values) else [float("nan")] * len(at)


def _spread(grid: GridCohort, column: int) -> tuple[float, float]:
    """SD of the stays' means and mean SD within a stay, in ln, sqrt or plain units (as the bank transforms)."""
    from medgym_offline.diseases.sepsis import DISEASE as SEPSIS

    identity = type(SEPSIS.default_scales())((0.0,) * 6, (1.0,) * 6, (1.0,) * 3)
    values = identity.normalize(SEPSIS, np.nan_to_num(grid.values, nan=1.0))[..., column]
    seen = grid.mask[..., column]
    count = seen.sum(1)
    some = count > 1
    if not some.any():
        return float("nan"), float("nan")
    mean = (values * seen).sum(1) / np.maximum(count, 1)
    square = (np.square(values - mean[:, None]) * seen).sum(1)
    within = float(np.sqrt(square[some].sum() / (count[some] - 1).sum()))
    return float(f"{mean[some].std():.3g}"), float(f"{within:.3g}")


def _treatment(grid: GridCohort, column: int, name: str) -> dict[str, Any]:
    inside, dose = grid.inside, grid.treatment[..., column]
    given = inside & (dose > COHORT.concepts[name].background + 1e-9)
    day = np.arange(dose.shape[1])[None] < 24
    return {
        "unit": COHORT.units[name],
        "hours": round(float(given.sum() / max(1, inside.sum())), 3),
        "stays": round(float(given.any(1).mean()), 3),
        "dose": _quantiles(dose[given], (5, 25, 50, 75, 95)),
        "first_day": round(float((given & day).sum() / max(1, (inside & day).sum())), 3),
        "later": round(float((given & ~day).sum() / max(1, (inside & ~day).sum())), 3),
    }


def _rank_correlation(grid: GridCohort, treatment: str, variable: str) -> float:
    from scipy.stats import spearmanr

    column = COHORT.observed.index(variable)
    values, mask = grid.values[..., column], grid.mask[..., column]
    hours = np.arange(values.shape[1])
    last = np.maximum.accumulate(np.where(mask, hours, -1000), 1)
    use = grid.inside & (hours - last <= CARRIED_HOURS)
    carried = np.take_along_axis(values, np.maximum(last, 0), 1)
    dose = grid.treatment[..., COHORT.given.index(treatment)]
    if use.sum() < 10 or np.ptp(dose[use]) == 0:
        return float("nan")
    return round(float(spearmanr(dose[use], carried[use]).statistic), 3)


def read_summary(path: str | Path) -> dict[str, Any]:
    """A summary written before (JSON).

    Raises:
        CohortError: No such file, or not a summary.
    """
    try:
        summary = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CohortError(
            f"{path}: not a readable summary ({error}); write one with `compare COHORT.parquet`"
        ) from None
    if not isinstance(summary, dict) or "variables" not in summary:
        raise CohortError(f"{path}: no summary of a cohort (no `variables`); write one with `compare COHORT.parquet`")
    return summary


def comparison(real: dict[str, Any], synthetic: dict[str, Any]) -> str:
    """Markdown tables of two summaries, real first in every cell."""

    def cells(part: str, names: tuple[str, ...], keys: tuple[str, ...]) -> list[str]:
        out = []
        for name in names:
            pair = (real[part][name], synthetic[part][name])
            shown = (" · ".join(_show(p[k]) for p in pair) for k in keys)
            out.append(f"| {name} ({pair[0]['unit']}) | " + " | ".join(shown) + " |")
        return out

    def table(heads: tuple[str, ...]) -> list[str]:
        return ["| " + " | ".join(("real · twin", *heads)) + " |", "|" + "---|" * (len(heads) + 1)]

    heads = ("value q05/25/50/75/95", "gap h q25/50/75", "values per stay q25/50/75", "stays without")
    lines = table((*heads, "SD between stays", "SD within"))
    lines += cells("variables", COHORT.observed, ("value", "gap", "per_stay", "absent", "between", "within"))
    lines += [
        "",
        *table(("share of stays", "of hours", "of the first day", "of later", "dose when on q05/25/50/75/95")),
    ]
    lines += cells("treatments", COHORT.given, ("stays", "hours", "first_day", "later", "dose"))
    lines += ["", *table(("rank correlation over hours",))]
    for key, value in real["confounding"].items():
        lines.append(f"| {key} | {value:+.2f} · {synthetic['confounding'][key]:+.2f} |")
    for key, words in (("length", "hours on the grid q25/50/75"), ("balance", "balance at the end L q25/50/75")):
        lines.append(f"| {words} | {_show(real[key])} · {_show(synthetic[key])} |")
    return "\n".join(lines)


def _show(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}" for v in value)
    return f"{value:.3g}"
