"""The cohort card: what is in a cohort, in numbers a reader can check, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.flags import ObservationFlags, observation_flags
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.cohorts.schema import ROOM_AIR, STATES, TREATMENTS, UNITS, require_polars

if TYPE_CHECKING:
    import polars as pl

__all__ = ["cohort_card"]


def cohort_card(cohort: Cohort, horizon: float = 96.0) -> str:
    """Markdown: counts, units, quartiles, gaps, missingness, treatments, rejections, definitions, licence.

    Args:
        cohort: Any cohort.
        horizon: Hours from admission that the statistics cover.
    """
    grid = cohort.to_grid(horizon=horizon)
    flags = observation_flags(grid)
    sections = [
        _heading(cohort),
        _stays(cohort, grid),
        _observed(cohort, grid, horizon, flags),
        _flagged(flags),
        _treated(grid),
        _rejected(cohort),
        _definitions(cohort),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _heading(cohort: Cohort) -> str:
    datasets = ", ".join(cohort.metadata.get("datasets", [])) or "unknown"
    lines = [
        "# Cohort card",
        "",
        *_commands(cohort),
        f"{len(cohort)} ICU stays of {len(set(cohort.subjects))} people from {datasets}.",
        "",
        f"Licence of the source data: {cohort.metadata.get('licence') or 'not stated'}. The table is derived from it "
        "and keeps its licence.",
    ]
    for entry in cohort.metadata.get("provenance", []):
        lines.append(f"- {entry.get('dataset')}: {entry.get('layout')} in `{entry.get('folder')}`")
    selection = cohort.metadata.get("selection")
    if selection:
        lines += [
            "",
            f"Chosen from {selection['considered_stays']} stays, {selection['eligible_stays']} of them eligible "
            f"({selection['eligible_subjects']} people); "
            + ("one stay a person." if selection["one_stay_per_subject"] else "some people have several stays.")
            + f" Rule: {selection['rule']}",
        ]
    return "\n".join(lines)


def _commands(cohort: Cohort) -> list[str]:
    built = cohort.metadata.get("command")
    if not built:
        return []
    table = built.split("--output ")[-1]
    return ["Made by:", "", "```", built, f"medgym-offline cohort card {table}", "```", ""]


def _stays(cohort: Cohort, grid: GridCohort) -> str:
    stays = cohort.stays
    total = len(cohort)

    def known(column: str) -> str:
        values = stays[column].drop_nulls()
        return f"{int(values.sum())} of {len(values)}" if len(values) else "unknown"

    women = int((stays["sex"] == "F").sum())
    by_source = ", ".join(
        f"{name} {count}" for name, count in stays.group_by("dataset").len().sort("dataset").iter_rows()
    )
    rows = [
        ("stays", f"{total} ({by_source})"),
        ("people", str(len(set(cohort.subjects)))),
        ("length of stay h, quartiles", _quantiles(stays["los_h"].to_numpy(), (25, 50, 75))),
        ("stays that fill the whole grid", str(int((grid.length == grid.values.shape[1]).sum()))),
        ("age, quartiles", _quantiles(stays["age"].drop_nulls().to_numpy(), (25, 50, 75))),
        ("women", f"{women} of {total - stays['sex'].null_count()}"),
        ("weight kg, quartiles", _quantiles(stays["weight_kg"].drop_nulls().to_numpy(), (25, 50, 75))),
        ("sepsis by explicit ICD code", known("sepsis")),
        ("died in hospital", known("died")),
        ("with any vasopressor", str(int((grid.treatment[:, :, 1] > 0).any(axis=1).sum()))),
    ]
    return "## Stays\n\n" + _table(("", ""), rows)


def _observed(cohort: Cohort, grid: GridCohort, horizon: float, flags: ObservationFlags) -> str:
    pl = require_polars()
    inside = grid.inside.sum()
    window = cohort.observations.filter(pl.col("time_h").is_between(0.0, horizon))
    rows = []
    for column, name in enumerate(STATES):
        mask = grid.mask[:, :, column]
        values = grid.values[:, :, column][mask]
        counts = mask.sum(axis=1)
        rows.append(
            (
                name,
                UNITS[name],
                str(int(mask.sum())),
                _quantiles(counts, (25, 50, 75)),
                _quantiles(values, (5, 25, 50, 75, 95)),
                _quantiles(_gaps(window, name), (5, 25, 50, 75, 95)),
                str(len(flags.absent[name])),
                str(len(flags.constant[name])),
                f"{100.0 * (1.0 - mask.sum() / max(int(inside), 1)):.0f} %",
            )
        )
    names = (
        "variable",
        "unit",
        "hourly values",
        "per stay q25/50/75",
        "value q05/25/50/75/95",
        "gap h q05/25/50/75/95",
        "stays without any",
        "stays where constant",
        "hours without",
    )
    return f"## Observations, first {horizon:g} h\n\n" + _table(names, rows)


def _flagged(flags: ObservationFlags) -> str:
    lines = [f"- {line}" for line in flags.lines(named=True)]
    return "## Flags\n\n" + (
        "\n".join(lines) if lines else "None: every stay has every variable, and every treatment was given."
    )


def _gaps(window: pl.DataFrame, name: str) -> np.ndarray:
    pl = require_polars()
    gaps = window.filter(pl.col("variable") == name).select(pl.col("time_h").diff().over("patient"))
    return gaps.drop_nulls().to_series().to_numpy()


def _treated(grid: GridCohort) -> str:
    inside = grid.inside
    rows = []
    for column, name in enumerate(TREATMENTS):
        dose = grid.treatment[:, :, column]
        given = inside & (dose > (ROOM_AIR + 1e-9 if name == "fio2" else 0.0))
        hours = dose[inside]
        rows.append(
            (
                name,
                UNITS[name],
                f"{100.0 * given.sum() / max(int(inside.sum()), 1):.0f} %",
                str(int(given.any(axis=1).sum())),
                _quantiles(dose[given], (5, 25, 50, 75, 95)),
                _number(np.percentile(hours, 99.5)) if len(hours) else "-",
                _number(hours.max()) if len(hours) else "-",
            )
        )
    last = np.maximum(grid.length - 1, 0)
    balance = grid.fluid_balance[np.arange(len(grid)), last]
    names = ("treatment", "unit", "hours with", "stays with", "when on q05/25/50/75/95", "p99.5 all hours", "max")
    text = "## Treatments, mean of each hour\n\n" + _table(names, rows)
    return text + (
        f"\n\nCharted fluid balance at the end of the window, litres, q05/25/50/75/95: "
        f"{_quantiles(balance, (5, 25, 50, 75, 95))} (oral and enteral intake and plain dextrose are not in the fluid "
        "items of MIMIC, so it runs low there)."
    )


def _rejected(cohort: Cohort) -> str:
    lines = cohort.rejections.lines()
    return "## Rejected and repaired\n\nCounted over all stays read, before any selection.\n\n" + (
        "\n".join(f"- {line}" for line in lines) if lines else "Nothing."
    )


def _definitions(cohort: Cohort) -> str:
    found = cohort.metadata.get("definitions", {})
    return (
        "## Definitions\n\n" + "\n".join(f"- {key}: {value}" for key, value in sorted(found.items())) if found else ""
    )


def _quantiles(values: np.ndarray, at: Sequence[float]) -> str:
    if len(values) == 0:
        return "-"
    return "/".join(_number(q) for q in np.percentile(values, at))


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
