"""The tables of a study's page as Markdown, from its result alone: recorded in `evaluation/`, quoted in the docs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medgym_offline.evaluation.report_tables import Table
from medgym_offline.studies import offline_tables, tables

__all__ = ["markdown_table", "offline_markdown", "online_markdown"]

Result = Mapping[str, Any]


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column left-aligned, the others right-aligned.

    >>> print(markdown_table(["a", "b"], [["x", "1"]]))
    | a | b |
    |:-|-:|
    | x | 1 |
    """
    lines = [heads, *rows]
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([text[0], "|:-|" + "-:|" * (len(heads) - 1), *text[1:]])


def offline_markdown(result: Result) -> str:
    """Table 7 and support distances in every world, claims, training and provenance of an offline study."""
    worlds, timings = tables.worlds_by_weight(result), result["timings"]
    shown = [offline_tables.table7(result, w, t) for w in worlds for t in timings]
    shown += [offline_tables.support_table(result, w, t) for w in worlds for t in timings]
    shown += [offline_tables.training_cost_table(result)]
    return _page("Offline study", result, offline_tables.offline_lead(result), shown, offline_tables.offline_provenance)


def online_markdown(result: Result) -> str:
    """The table in every world, all worlds side by side, budgets, safety, timing, claims and provenance."""
    worlds = tables.worlds_by_weight(result)
    shown = [tables.main_table(result, w) for w in worlds]
    shown += [tables.world_table(result), tables.win_table(result), tables.safety_table(result)]
    if result["recipe"]["budget_decisions"] and len(result["recipe"]["timings"]) > 1:
        shown.append(tables.budget_table(result))
    if result["ceilings"] is not None:
        shown.append(tables.ceiling_table(result))
    shown += [tables.timing_table(result, worlds[0]), tables.training_table(result)]
    return _page("Online study", result, tables.lead(result), shown, tables.provenance)


def _page(kind: str, result: Result, lead: str, shown: Sequence[Table], provenance: Any) -> str:
    parts = [f"# {kind} of {result['provenance']['bank']}", f"    {result['provenance']['command']}", lead]
    parts += [f"Read with care: {'; '.join(result['departures'])}."] if result["departures"] else []
    parts += ["## Tables", *(_table(table) for table in shown), "## What is claimed", _claims(result)]
    parts += ["## Provenance", "\n".join(f"- {name}: {value}" for name, value in provenance(result))]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    rows = [[tables.cell_text(cell) for cell in row] for row in table.rows]
    return f"**{table.caption}**\n\n{markdown_table(table.heads, rows)}"


def _claims(result: Result) -> str:
    worlds = tables.worlds_by_weight(result)
    rows = []
    for claim in result["claims"]:
        cells = [tables.cell_text(tables.claim_cell(claim["worlds"].get(w), claim["measure"])) for w in worlds]
        rows.append([claim["requirement"], claim["verdict"], *cells, claim["measure"]])
    return markdown_table(["What must hold", "Verdict", *worlds, "Measure"], rows)
