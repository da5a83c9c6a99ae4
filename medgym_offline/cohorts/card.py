"""The cohort card: what is in a cohort, in numbers a reader can check, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.cohorts.validate import ObservationFlags, observation_flags
from medgym_offline.reports.blocks import Table, markdown

__all__ = ["cohort_card"]

_FIVE, _THREE = (5, 25, 50, 75, 95), (25, 50, 75)


def cohort_card(cohort: Cohort, horizon: float = 96.0) -> str:
    """Markdown: counts, units, quartiles, gaps, missingness, treatments, rejections, definitions, license.

    Args:
        cohort: Any cohort.
        horizon: Hours from admission that the statistics cover.
    """
    grid = cohort.to_grid(horizon=horizon)
    flags = observation_flags(grid, cohort.definition)
    counted, notes = cohort.rejections.lines(), cohort.metadata.get("definitions", {})
    sections = [
        _heading(cohort),
        _stays(cohort, grid),
        _observed(cohort, grid, horizon, flags),
        "## Flags\n\n"
        + _list(flags.lines(named=True), "None: every stay has every variable, and every treatment was given."),
        _treated(cohort, grid),
        *_derived(cohort, grid),
        "## Rejected and repaired\n\nCounted over all stays read, before any selection.\n\n"
        + _list(counted, "Nothing."),
        "## Definitions\n\n" + _list(f"{key}: {value}" for key, value in sorted(notes.items())) if notes else "",
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _heading(cohort: Cohort) -> str:
    found = cohort.metadata
    lines = ["# Cohort card", ""]
    if built := found.get("command"):
        shown = f"medgym-offline cohort card {built.split('--output ')[-1]}"
        lines += ["Made by:", "", "```", built, shown, "```", ""]
    lines += [
        f"{len(cohort)} ICU stays of {len(set(cohort.subjects))} people from "
        f"{', '.join(found.get('datasets', [])) or 'unknown'}, for {cohort.definition.disease}.",
        "",
        f"License of the source data: {found.get('license') or 'not stated'}. The table is derived from it and keeps "
        "its license.",
    ]
    for entry in found.get("provenance", []):
        lines.append(f"- {entry.get('dataset')}: {entry.get('layout')} in `{entry.get('folder')}`")
    if chosen := found.get("selection"):
        single = "one stay a person." if chosen["one_stay_per_subject"] else "some people have several stays."
        lines += [
            "",
            f"Chosen from {chosen['considered_stays']} stays, {chosen['eligible_stays']} of them eligible "
            f"({chosen['eligible_subjects']} people); {single} Rule: {chosen['rule']}",
        ]
    return "\n".join(lines)


def _stays(cohort: Cohort, grid: GridCohort) -> str:
    stays, definition = cohort.stays, cohort.definition

    def known(column: str) -> str:
        values = stays[column].drop_nulls()
        return f"{int(values.sum())} of {len(values)}" if len(values) else "unknown"

    counts = stays.group_by("dataset").len().sort("dataset").iter_rows()
    rows = [
        ("stays", f"{len(cohort)} ({', '.join(f'{name} {count}' for name, count in counts)})"),
        ("people", str(len(set(cohort.subjects)))),
        ("length of stay h, quartiles", _quantiles(stays["los_h"].to_numpy(), _THREE)),
        ("stays that fill the whole grid", str(int((grid.length == grid.values.shape[1]).sum()))),
        ("age, quartiles", _quantiles(stays["age"].drop_nulls().to_numpy(), _THREE)),
        ("women", f"{int((stays['sex'] == 'F').sum())} of {len(cohort) - stays['sex'].null_count()}"),
        ("weight kg, quartiles", _quantiles(stays["weight_kg"].drop_nulls().to_numpy(), _THREE)),
        *((diagnosis.label, known(diagnosis.name)) for diagnosis in definition.diagnoses),
        ("died in hospital", known("died")),
    ]
    return markdown(Table("## Stays", ("", ""), rows))


def _observed(cohort: Cohort, grid: GridCohort, horizon: float, flags: ObservationFlags) -> str:
    inside = max(int(grid.inside.sum()), 1)
    window = cohort.observations.filter(pl.col("time_h").is_between(0.0, horizon))
    rows = []
    for column, concept in enumerate(cohort.definition.variables):
        name, mask = concept.name, grid.mask[:, :, column]
        values, of_it = grid.values[:, :, column][mask], window.filter(pl.col("variable") == name)
        gaps = of_it.select(pl.col("time_h").diff().over("patient")).drop_nulls()["time_h"].to_numpy()
        quantiles = (_quantiles(mask.sum(axis=1), _THREE), _quantiles(values, _FIVE), _quantiles(gaps, _FIVE))
        lacking = (str(len(flags.absent[name])), str(len(flags.constant[name])))
        rows.append((name, concept.unit, str(int(mask.sum())), *quantiles, *lacking, _percent(1 - mask.sum() / inside)))
    heads = "variable,unit,hourly values,per stay q25/50/75,value q05/25/50/75/95,gap h q05/25/50/75/95"
    names = (*heads.split(","), "stays without any", "stays where constant", "hours without")
    return markdown(Table(f"## Observations, first {horizon:g} h", names, rows))


def _treated(cohort: Cohort, grid: GridCohort) -> str:
    rows = []
    for column, concept in enumerate(cohort.definition.treatments):
        dose = grid.treatment[:, :, column]
        hours = dose[grid.inside]
        given = grid.inside & (dose > concept.background + 1e-9)
        most = (_number(np.percentile(hours, 99.5)), _number(hours.max())) if len(hours) else ("-", "-")
        with_it = (_percent(given.sum() / max(len(hours), 1)), str(int(given.any(axis=1).sum())))
        rows.append((concept.name, concept.unit, *with_it, _quantiles(dose[given], _FIVE), *most))
    heads = "treatment,unit,hours with,stays with,when on q05/25/50/75/95,p99.5 all hours,max"
    return markdown(Table("## Treatments, mean of each hour", heads.split(","), rows))


def _derived(cohort: Cohort, grid: GridCohort) -> list[str]:
    last = np.maximum(grid.length - 1, 0)
    ends = ((part, grid.derived[part.name][np.arange(len(grid)), last]) for part in cohort.definition.derived)
    return [f"{p.label}, {p.unit}, q05/25/50/75/95: {_quantiles(values, _FIVE)}{p.note}." for p, values in ends]


def _list(lines: Iterable[str], otherwise: str = "") -> str:
    return "\n".join(f"- {line}" for line in lines) or otherwise


def _quantiles(values: np.ndarray, at: Sequence[float]) -> str:
    return "/".join(_number(q) for q in np.percentile(values, at)) if len(values) else "-"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"
