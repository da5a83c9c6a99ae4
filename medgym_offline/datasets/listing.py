"""Datasets side by side: the table of `medgym-offline list`, of the README and of the documentation."""

from __future__ import annotations

from collections.abc import Iterable

from medgym_offline.datasets.catalogue import DatasetInfo

__all__ = ["COLUMNS", "listing_row", "listing_table", "normalized_score"]

COLUMNS = ("id", "policy", "timing", "episodes", "decisions", "MB", "random", "behavior", "expert", "score")
"""Columns of a listing: returns are means per episode, `score` is the behavior's normalized score."""


def normalized_score(returns: dict[str, float], key: str) -> float | None:
    """100 (return - random) / (expert - random) of one of the reference returns; None where that is not defined."""
    if not {key, "random", "expert"} <= returns.keys() or returns["expert"] == returns["random"]:
        return None
    return 100.0 * (returns[key] - returns["random"]) / (returns["expert"] - returns["random"])


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def listing_row(info: DatasetInfo) -> tuple[str, ...]:
    """Cells of one dataset, in the order of `COLUMNS`; empty where nothing is known."""
    returns = info.reference_returns
    parts = info.behavior.split(" + ")
    return (
        info.id,
        info.behavior if len(parts) == 1 else f"mix of {len(parts)}",
        info.timing,
        _number(info.episodes, ","),
        _number(info.steps, ","),
        _number(None if info.size is None else info.size / 1e6, ".1f"),
        *(_number(returns.get(key), ".1f") for key in ("random", "behavior", "expert")),
        _number(normalized_score(returns, "behavior"), ".0f"),
    )


def listing_table(infos: Iterable[DatasetInfo]) -> str:
    """A markdown table of the datasets that have a manifest, one line each."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "-|" * 3 + "-:|" * (len(COLUMNS) - 3)]
    for info in infos:
        if info.episodes is not None:
            name, *cells = listing_row(info)
            lines.append("| " + " | ".join((f"`{name}`", *cells)) + " |")
    return "\n".join(lines)
