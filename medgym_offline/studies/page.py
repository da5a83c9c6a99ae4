"""The page of an online study: tables and figures from its result, one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgym_offline.evaluation.report import page_template
from medgym_offline.evaluation.report_tables import Table
from medgym_offline.files import write_text
from medgym_offline.studies import figures, tables

__all__ = [
    "VERDICTS",
    "claim_groups",
    "shown_figure",
    "study_html",
    "verdict_counts",
    "write_study_page",
]

VERDICTS = {"holds": "yes", "does not hold": "no", "not shown": "open", "too few": "open"}
"""Verdict -> the mark that the page shows beside it."""


def write_study_page(result: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a study's result to `path`, atomically.

    Args:
        result: What `run_online_study` or `load_study` returned.
        path: HTML file.

    Raises:
        MissingExtraError: If matplotlib or jinja2 is not installed (extra `report`).
    """
    write_text(path, study_html(result))
    return Path(path)


def shown_figure(figure: figures.Figure, caption: str = "") -> dict[str, Any]:
    """A figure as the template's macro takes it."""
    from markupsafe import Markup

    return {"title": figure.title, "svg": Markup(figure.svg), "description": figure.description, "caption": caption}


def claim_groups(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Claims in groups, cells as texts."""
    groups: dict[str, list[dict[str, Any]]] = {}
    worlds = tables.worlds_by_weight(result)
    for claim in result["claims"]:
        cells = [tables.claim_cell(claim["worlds"].get(w), claim["measure"]) for w in worlds]
        row = {"requirement": claim["requirement"], "measure": claim["measure"], "note": claim["note"], "cells": cells}
        row |= {"verdict": claim["verdict"], "mark": VERDICTS[claim["verdict"]]}
        groups.setdefault(claim["group"], []).append(row)
    return [{"name": name, "rows": rows} for name, rows in groups.items()]


def _cases(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    head = result["headline_world"]
    return [
        {
            "text": f"Patient {case['patient']}: mean SOFA {case['severity']:.2f} under the clinicians' doses, own "
            f"world (more severe than {case['percentile']:.0f} % of the patients). {case['episodes']} episodes.",
            "figure": shown_figure(figures.case_figure(case, head, result["rows"], number)),
            "table": tables.case_table(case, result),
        }
        for number, case in enumerate(result["cases"])
    ]


def verdict_counts(result: Mapping[str, Any]) -> dict[str, int]:
    """How many claims have each verdict."""
    return {v: sum(c["verdict"] == v for c in result["claims"]) for v in VERDICTS}


def study_html(result: Mapping[str, Any]) -> str:
    """The page of :func:`write_study_page` as text."""
    template = page_template("study.html.j2", Path(__file__).parent)
    head, recipe = result["headline_world"], result["recipe"]
    by_weight = tables.worlds_by_weight(result)
    budgets = bool(recipe["budget_decisions"])
    both = len(recipe["timings"]) > 1
    win, ceiling = figures.win_rate_figure(result), figures.ceiling_figure(result)
    ceiling_table: Table | None = None if result["ceilings"] is None else tables.ceiling_table(result)
    return template.render(
        title=f"Online study of {result['provenance']['bank']}",
        lead=tables.lead(result),
        departures=result["departures"],
        headline=head,
        worlds=by_weight,
        counts=verdict_counts(result),
        claims=claim_groups(result),
        main=tables.main_table(result, head),
        other_tables=[tables.main_table(result, w) for w in by_weight[1:]],
        paper=recipe["individual"] == "ind-scratch",
        world_table=tables.world_table(result),
        world_figure=shown_figure(figures.world_figure(result)),
        budget_figures=[shown_figure(figures.budget_figure(result, w)) for w in by_weight] if budgets else [],
        budget_curve=shown_figure(figures.budget_curves(result, head)) if budgets else None,
        budget_table=tables.budget_table(result) if budgets and both else None,
        spreads=[shown_figure(figures.distribution_figure(result, w, t)) for w in by_weight for t in recipe["timings"]],
        wins=None if win is None else shown_figure(win, "Line: 50 %. Bars: intervals over patients."),
        win_table=tables.win_table(result),
        safety=[shown_figure(f) for f in figures.curve_pair(result, head)]
        + [
            shown_figure(
                figures.trade_off_figure(result, head), "Filled: Ind, open: Pop. Circle: adaptive, square: fixed."
            )
        ],
        safety_table=tables.safety_table(result),
        cases=_cases(result),
        ceiling=None if ceiling is None else shown_figure(ceiling, "One dot per patient; bar: the median."),
        ceiling_table=ceiling_table,
        timing_table=tables.timing_table(result, head),
        training_table=tables.training_table(result),
        provenance=tables.provenance(result),
        settings=tables.settings(result),
    )
