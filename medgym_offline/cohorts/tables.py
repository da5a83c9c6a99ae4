"""Reading delimited tables with any case of column names, as text first, so that a bad cell is counted, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts.schema import require_polars
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["find_table", "hours_since", "numbers", "scan_table"]

_SUFFIXES = (".csv.gz", ".csv")


def find_table(folder: Path, name: str) -> Path | None:
    """The file of table `name` in `folder`, whatever its case and whether or not it is compressed."""
    wanted = {name.lower() + suffix for suffix in _SUFFIXES}
    if not folder.is_dir():
        return None
    found = sorted(p for p in folder.iterdir() if p.name.lower() in wanted and p.is_file())
    return found[0] if found else None


def scan_table(folder: Path, name: str, columns: Sequence[str]) -> pl.LazyFrame:
    """Lazy frame of the named columns of a table, lower case, as text.

    Args:
        folder: Where the table lies.
        name: Table name without suffix.
        columns: Lower-case names wanted; any case in the file.

    Raises:
        CohortError: no such table, a missing column or an unreadable file.
    """
    pl = require_polars()
    path = find_table(folder, name)
    if path is None:
        raise CohortError(f"{folder}: table {name}.csv or {name}.csv.gz is missing; put it there")
    try:
        frame = pl.scan_csv(path, infer_schema=False)
        actual = {column.strip().lower(): column for column in frame.collect_schema().names()}
    except pl.exceptions.PolarsError as error:
        raise CohortError(f"{path}: cannot be read as a table ({_first_line(error)}); download it again") from error
    missing = [column for column in columns if column not in actual]
    if missing:
        raise CohortError(
            f"{path}: column {missing[0]!r} is missing (the file has: {', '.join(sorted(actual))}); "
            "export the table with its original columns"
        )
    return frame.select([pl.col(actual[column]).alias(column) for column in columns])


def numbers(*columns: str) -> list[pl.Expr]:
    """Expressions that turn text columns into floats (null where a cell is no finite number)."""
    pl = require_polars()
    out = []
    for column in columns:
        value = pl.col(column).str.strip_chars().cast(pl.Float64, strict=False)
        out.append(pl.when(value.is_finite()).then(value).alias(column))
    return out


def hours_since(column: str, origin: str) -> pl.Expr:
    """Hours from datetime column `origin` to datetime column `column`."""
    pl = require_polars()
    return (pl.col(column) - pl.col(origin)).dt.total_milliseconds() / 3_600_000.0


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
