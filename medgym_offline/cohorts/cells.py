"""Cells of text to numbers and times: what can mean only one thing is read, a column that could mean two is refused.

`numbers` and `times` are expressions, so that a large table streams through them; beside each column they leave a
mark of how its cells were written, and `settled`, which `tables.collect` calls, judges the column by the marks.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from medgym_offline.errors import CohortError

__all__ = ["hours_since", "identifier", "midnights", "numbers", "on_one_clock", "settled", "times"]

_NUMBER, _TIME = "|number", "|time"
_COMMA = r"^[+-]?\d+,\d+$"
_CLOCK = r"\d:?\d{2}(?::?\d{2}(?:\.\d+)?)?"
_ZONE = rf"(?i){_CLOCK}\s*(z|utc|gmt|[+-]\d{{2}}(?::?\d{{2}})?)$"
_DATE = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}$"
_PLAIN = "%Y-%m-%d %H:%M:%S"
_COMPACT = r"^(\d{4})(\d{2})(\d{2})T(\d{2}):?(\d{2}):?(\d{2})"
_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def identifier(column: str) -> pl.Expr:
    """Text column of ids: blanks around them, and the .0 that a table of floats left behind, are no part of them."""
    plain = pl.col(column).str.strip_chars().str.strip_suffix(".0")
    return pl.when(plain != "").then(plain).alias(column)


def numbers(*columns: str) -> list[pl.Expr]:
    """Expressions that turn text columns into floats (null where a cell is no finite number); commas may be decimal."""
    out = []
    for column in columns:
        text = pl.col(column).str.strip_chars()
        comma = text.str.contains(_COMMA)
        value = pl.when(comma).then(text.str.replace(",", ".", literal=True)).otherwise(text)
        value = value.cast(pl.Float64, strict=False)
        point = text.str.contains(".", literal=True) & value.is_finite()
        out.append(pl.when(value.is_finite()).then(value).alias(column))
        out.append(pl.when(comma).then(text).when(point).then(pl.lit(".")).alias(column + _NUMBER))
    return out


def times(*columns: str) -> list[pl.Expr]:
    """Expressions that turn text columns into datetimes (null where a cell is none); with a zone, into UTC.

    Read: 2150-03-01 10:30[:00[.000]], with a T or a blank, with / or . between the parts of the date, 01.03.2150 10:30,
    20500301T103000; each perhaps followed by Z, UTC, GMT or an offset such as +01:00. A date alone is its midnight.
    """
    out = []
    for column in columns:
        text = pl.col(column).str.strip_chars()
        plain = text.str.to_datetime(_PLAIN, strict=False, time_unit="ms")
        # What is not written plainly is looked at closely; a large table has next to none of it.
        odd = pl.when(plain.is_null() & (text != "")).then(text)
        zone = odd.str.extract(_ZONE, 1)
        body = odd.str.head(odd.str.len_chars() - zone.fill_null("").str.len_chars()).str.strip_chars()
        body = (
            body.str.replace(_COMPACT, "$1-$2-$3 $4:$5:$6")
            .str.replace(r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})", "$1-$2-$3")
            .str.replace(r"^(\d{1,2})\.(\d{1,2})\.(\d{4})", "$3-$2-$1")
            .str.replace(r"^([\d-]+)\s*[Tt ]\s*", "$1 ")
        )
        at = pl.coalesce(plain, *(body.str.to_datetime(form, strict=False, time_unit="ms") for form in _FORMATS))
        sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
        minutes = zone.str.extract(r"^[+-](\d{2})", 1).cast(pl.Int64) * 60
        minutes = minutes + zone.str.extract(r"^[+-]\d{2}:?(\d{2})$", 1).cast(pl.Int64).fill_null(0)
        at = at - pl.duration(minutes=(sign * minutes).fill_null(0))
        out += [at.alias(column), odd.alias(column + _TIME)]
    return out


def midnights(marks: pl.Series) -> int:
    """How many times, by the marks that `settled` kept, are a date alone, read as its midnight."""
    return int(marks.str.contains(_DATE).sum())


def settled(frame: pl.DataFrame, where: Path | str, keep_marks: bool = False) -> pl.DataFrame:
    """`frame` with the marks of `numbers` and `times` judged and taken off; times with a zone become typed UTC.

    Args:
        frame: Collected, with marks.
        where: File or table, for messages.
        keep_marks: Leave how each time was written, where not plainly, in columns called "TIME|time".

    Raises:
        CohortError: a column has decimal commas beside points, or commas that may separate thousands; more than half
            of its times are in a form that is not read; times with a zone stand beside times without.
    """
    for mark in (name for name in frame.columns if name.endswith(_NUMBER)):
        _judge_commas(frame[mark], f"{where}: column {mark.removesuffix(_NUMBER)!r}")
    clocks: dict[bool, str] = {}
    timed = [name.removesuffix(_TIME) for name in frame.columns if name.endswith(_TIME)]
    for column in timed:
        marks, known = frame[column + _TIME], frame[column].is_not_null()
        unread = marks.filter(~known).drop_nulls()
        if len(unread) > int(known.sum()):
            raise CohortError(
                f"{where}: column {column!r} has times of a form that is not read ({unread.sort()[0]!r}); write them "
                "as 2150-03-01 10:30:00, followed by Z or an offset such as +01:00 where they have a zone"
            )
        zoned = marks.filter(known).str.contains(_ZONE).fill_null(False)
        for kind in (True, False):
            if int((zoned == kind).sum()):
                clocks.setdefault(kind, column)
    if len(clocks) == 2:
        raise _two_clocks(f"{where}: column {clocks[True]!r}", f"column {clocks[False]!r}")
    if True in clocks:
        frame = frame.with_columns(pl.col(timed).dt.replace_time_zone("UTC"))
    return frame.drop([c for c in frame.columns if c.endswith(_NUMBER) or (c.endswith(_TIME) and not keep_marks)])


def on_one_clock(frame: pl.DataFrame, column: str, origin: pl.Series, names: tuple[str, str]) -> pl.DataFrame:
    """`frame` with its times typed as `origin` is, which they are compared with.

    Args:
        frame: From `settled`: its times are of one kind.
        column: The time that is compared.
        origin: What it is compared with.
        names: Of both, for the message.

    Raises:
        CohortError: one has a time zone and the other has none.
    """
    mine, theirs = (getattr(kind, "time_zone", None) for kind in (frame.schema[column], origin.dtype))
    if mine == theirs:
        return frame
    if frame[column].null_count() < frame.height and origin.null_count() < len(origin):
        first, second = names if mine else names[::-1]
        raise _two_clocks(first, second)
    return frame.with_columns(pl.col(pl.Datetime("ms", mine)).dt.replace_time_zone(theirs))


def hours_since(column: str, origin: str) -> pl.Expr:
    """Hours from datetime column `origin` to datetime column `column`."""
    return (pl.col(column) - pl.col(origin)).dt.total_milliseconds() / 3_600_000.0


def _judge_commas(marks: pl.Series, where: str) -> None:
    written = marks.drop_nulls()
    commas = written.filter(written != ".").sort()
    if commas.is_empty():
        return
    if len(commas) < len(written):
        raise CohortError(f"{where} has decimal commas ({commas[0]!r}) beside decimal points; write points in all")
    if commas.str.contains(r",\d{3}$").all():
        raise CohortError(
            f"{where} has {commas[0]!r}: a decimal comma or thousands? Write it with a point, or without a separator"
        )


def _two_clocks(zoned: str, naive: str) -> CohortError:
    return CohortError(
        f"{zoned} has times with a zone, {naive} times without: they cannot be compared; give both a zone (Z, +01:00), "
        "or neither"
    )
