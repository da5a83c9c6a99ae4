"""Reading delimited tables with any case of column names, as text first, so that a bad cell is counted, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts.schema import LOOKBACK_HOURS, Rejections, require_polars
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "attach",
    "collect",
    "column_names",
    "find_table",
    "hours_since",
    "numbers",
    "scan_file",
    "scan_table",
    "times",
]

_LOOKBACK = max(LOOKBACK_HOURS.values())
_SUFFIXES = (".csv.gz", ".csv")


def find_table(folder: Path, name: str) -> Path | None:
    """The file of table `name` in `folder`, whatever its case and whether or not it is compressed."""
    wanted = {name.lower() + suffix for suffix in _SUFFIXES}
    if not folder.is_dir():
        return None
    found = sorted(p for p in folder.iterdir() if p.name.lower() in wanted and p.is_file())
    return found[0] if found else None


def column_names(path: Path) -> set[str]:
    """Lower-case column names of a .csv, .csv.gz or .parquet file.

    Raises:
        CohortError: an unreadable file.
    """
    return set(_open(path)[1])


def scan_table(folder: Path, name: str, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    """Lazy frame of the named columns of a table, lower case, as text.

    Args:
        folder: Where the table lies.
        name: Table name without suffix.
        columns: Lower-case names wanted; any case in the file.
        optional: Further columns, taken where the file has them.

    Raises:
        CohortError: no such table, a missing column or an unreadable file.
    """
    path = find_table(folder, name)
    if path is None:
        raise CohortError(f"{folder}: table {name}.csv or {name}.csv.gz is missing; put it there")
    return scan_file(path, columns, optional)


def scan_file(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    """As `scan_table`, of one .csv, .csv.gz or .parquet file.

    Raises:
        CohortError: a missing column or an unreadable file.
    """
    pl = require_polars()
    frame, actual = _open(path)
    missing = [column for column in columns if column not in actual]
    if missing:
        raise CohortError(
            f"{path}: column {missing[0]!r} is missing (the file has: {', '.join(sorted(actual))}); "
            "export the table with its original columns"
        )
    wanted = [*columns, *(column for column in optional if column in actual)]
    return frame.select([pl.col(actual[column]).alias(column) for column in wanted])


def _open(path: Path) -> tuple[pl.LazyFrame, dict[str, str]]:
    pl = require_polars()
    try:
        if path.suffix == ".parquet":
            frame = _as_text(pl.scan_parquet(path))
        else:
            frame = pl.scan_csv(path, infer_schema=False)
        return frame, {column.strip().lower(): column for column in frame.collect_schema().names()}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CohortError(f"{path}: cannot be read as a table ({_first_line(error)}); download it again") from error


def _as_text(frame: pl.LazyFrame) -> pl.LazyFrame:
    """A typed frame as if it had been read from text, so that one set of rules judges both."""
    pl = require_polars()
    out = []
    for name, kind in frame.collect_schema().items():
        column = pl.col(name)
        out.append(column.dt.strftime("%Y-%m-%d %H:%M:%S") if kind.is_temporal() else column.cast(pl.String))
    return frame.select(out)


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


def times(*columns: str) -> list[pl.Expr]:
    """Expressions that turn text columns into datetimes (null where a cell is none)."""
    pl = require_polars()
    return [
        pl.coalesce(
            pl.col(column).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="ms"),
            pl.col(column).str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="ms"),
            pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False, time_unit="ms"),
            pl.col(column).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="ms"),
        ).alias(column)
        for column in columns
    ]


def collect(frame: pl.LazyFrame, where: Path | str) -> pl.DataFrame:
    """Run a lazy frame in batches, so that a table larger than memory passes through.

    Args:
        frame: From `scan_table`, filtered.
        where: File or table, for the message.

    Raises:
        CohortError: the file breaks off or is no table.
    """
    pl = require_polars()
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CohortError(f"{where}: cannot be read to its end ({_first_line(error)}); download it again") from error


def attach(
    events: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections, name: str, extra: Sequence[str] = ()
) -> pl.DataFrame:
    """Events with the stay they belong to and hours since its start.

    By stay id where the event has one; otherwise (laboratory) by person and time, from 6 h before admission to
    discharge; an event within both of two stays belongs to both.

    Args:
        events: subject_id, charttime, perhaps icustay_id, and more.
        stays: stay_id, subject, intime, los_h.
        rejections: Rows without a time or a stay are counted here.
        name: What the events are, for the reason.
        extra: Columns to keep besides itemid, value, valuenum.
    """
    pl = require_polars()
    events = rejections.drop(events, pl.col("charttime").is_null(), f"{name}: time is missing or cannot be read")
    events = events.with_row_index("event")
    base = stays.select("stay_id", "intime", "los_h", pl.col("subject").alias("subject_id"))
    hour = hours_since("charttime", "intime")
    unnamed = events.filter(pl.col("icustay_id").is_null()) if "icustay_id" in events.columns else events
    by_time = unnamed.join(base, on="subject_id", how="inner", maintain_order="left")
    placed = by_time.filter((hour >= -_LOOKBACK) & (hour <= pl.col("los_h")))
    if "icustay_id" in events.columns:
        mine = base.drop("subject_id").with_columns(icustay_id="stay_id")
        named = events.join(mine, on="icustay_id", how="inner", maintain_order="left")
        placed = pl.concat([named, placed.select(named.columns)])
    found = placed["event"].n_unique()
    rejections.reject(f"{name}: no ICU stay at that time", events.height - found)
    rejections.repair(f"{name}: within two stays of a person, read for both", placed.height - found)
    placed = placed.with_columns(t_h=hour)
    placed = rejections.drop(placed, pl.col("t_h") < -_LOOKBACK, f"{name}: more than 6 h before admission")
    return placed.select("stay_id", "t_h", *(c for c in ("itemid", "value", "valuenum", *extra) if c in placed.columns))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
