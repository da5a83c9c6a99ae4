"""Finding and reading tables with any case of names, as text first, so that a bad cell is counted, not guessed.

Cells of text to numbers and times: what can mean only one thing is read, a column that could mean two is refused.

`_numbers` and `_times` are expressions, so that a large table streams through them; beside each column they leave a
mark of how its cells were written, and `_settled`, which `typed` calls, judges the column by the marks.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from medgym_offline.errors import CohortError

__all__ = [
    "as_text", "collect", "column_names", "find_table", "hours_since", "identifier", "midnights", "nearly_named",
    "on_one_clock", "only_file", "read_table", "scan_file", "scan_table", "table_files", "table_stem", "typed",
    "unread_files",
]  # fmt: skip

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


def _numbers(*columns: str) -> list[pl.Expr]:
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


def _times(*columns: str) -> list[pl.Expr]:
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
    """How many times, by the marks that `_settled` kept, are a date alone, read as its midnight."""
    return int(marks.str.contains(_DATE).sum())


def _settled(frame: pl.DataFrame, where: Path | str, keep_marks: bool = False) -> pl.DataFrame:
    """`frame` with the marks of `_numbers` and `_times` judged and taken off; times with a zone become typed UTC.

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
            remedy = "write them as 2150-03-01 10:30:00, followed by Z or an offset such as +01:00 if they have a zone"
            first = unread.sort()[0]
            raise CohortError(f"{where}: column {column!r} has times of a form that is not read ({first!r}); {remedy}")
        zoned = marks.filter(known).str.contains(_ZONE).fill_null(False)
        for kind in zoned.unique():
            clocks.setdefault(kind, column)
    if len(clocks) == 2:
        raise _two_clocks(f"{where}: column {clocks[True]!r}", f"column {clocks[False]!r}")
    if True in clocks:
        frame = frame.with_columns(pl.col(timed).dt.replace_time_zone("UTC"))
    return frame.drop([c for c in frame.columns if c.endswith(_NUMBER) or (c.endswith(_TIME) and not keep_marks)])


def on_one_clock(frame: pl.DataFrame, column: str, origin: pl.Series, names: tuple[str, str]) -> pl.DataFrame:
    """`frame` with its times typed as `origin` is, which they are compared with.

    Args:
        frame: From `_settled`: its times are of one kind.
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
        raise CohortError(f"{where} has {commas[0]!r}: a decimal comma or thousands? Write a point, or no separator")


def _two_clocks(zoned: str, naive: str) -> CohortError:
    return CohortError(f"{zoned} has times with a zone, {naive} without: give both a zone (Z, +01:00), or neither")


_SUFFIX = re.compile(r"\.(csv|csv\.gz|tsv|tsv\.gz|parquet)$", re.IGNORECASE)
#: What stands beside tables and is none.
_ABOUT = re.compile(r"^\.|^(licen[cs]e|readme|notice|changelog)|sums(\.txt)?$|\.(md|html|pdf)$", re.IGNORECASE)
_IDS = re.compile(r"^(stay|subject|itemid|orderid)$|_id$")
_SEPARATORS = (",", ";", "\t", "|")
_HEAD_BYTES = 65_536


def table_stem(path: Path) -> str | None:
    """Lower-case name of a table's file without its suffix; None for a file that is no table."""
    return _SUFFIX.sub("", path.name).lower() if _SUFFIX.search(path.name) else None


def table_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each table of a folder, by `table_stem`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        stem = table_stem(path)
        if stem is not None and path.is_file():
            found.setdefault(stem, []).append(path)
    return found


def only_file(files: Sequence[Path]) -> Path:
    """The one file of a table.

    Raises:
        CohortError: there are two (.csv and .parquet, or a name in two cases).
    """
    if len(files) > 1:
        names = " and ".join(file.name for file in files)
        raise CohortError(f"{files[0].parent}: {names} are one table in two files, and would count twice; keep one")
    return files[0]


def find_table(table: Path) -> Path | None:
    """The file of `table`, a folder / name of any case, whatever its suffix (.csv, .csv.gz, .tsv, .tsv.gz, .parquet).

    Raises:
        CohortError: there are two.
    """
    files = table_files(table.parent).get(table.name.lower())
    return only_file(files) if files else None


def nearly_named(table: Path) -> Path | None:
    """A table beside `table` whose name is not the same but nearly."""
    files, name = table_files(table.parent), table.name.lower()
    near = difflib.get_close_matches(name, [stem for stem in files if stem != name], n=1, cutoff=0.8)
    return files[near[0]][0] if near else None


def unread_files(folder: Path, read: Iterable[str]) -> list[str]:
    """Files beside those that were `read` (relative to `folder`) which may hold data: all but licenses and the like."""
    done = {folder / name for name in read}
    places = {folder, *(path.parent for path in done)}
    beside = (path for place in places for path in place.iterdir() if path.is_file() and path not in done)
    return sorted(path.relative_to(folder).as_posix() for path in beside if not _ABOUT.search(path.name))


def column_names(path: Path) -> set[str]:
    """Lower-case column names of a table's file.

    Raises:
        CohortError: an unreadable file.
    """
    return set(_open(path)[1])


def scan_table(table: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    """Lazy frame of the named columns of a table, lower case, as text.

    Args:
        table: Folder / name without suffix.
        columns: Lower-case names wanted; any case in the file.
        optional: Further columns, taken where the file has them.

    Raises:
        CohortError: no such table, a missing column or an unreadable file.
    """
    path, name = find_table(table), table.name
    if path is None:
        near = nearly_named(table)
        hint = "put it there" if near is None else f"is it {near.name}? Rename that"
        raise CohortError(f"{table.parent}: table {name}.csv or {name}.csv.gz is missing; {hint}")
    return scan_file(path, columns, optional)


def scan_file(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    """As `scan_table`, of one file. Ids lose blanks around them and the .0 of a table of floats.

    Raises:
        CohortError: a missing column or an unreadable file.
    """
    frame, actual = _open(path)
    missing = [column for column in columns if column not in actual]
    if missing:
        held = f"the file has: {', '.join(sorted(actual))}"
        raise CohortError(f"{path}: column {missing[0]!r} is missing ({held}); export it with its original columns")
    wanted = [*columns, *(column for column in optional if column in actual)]
    named = frame.select([pl.col(actual[column]).alias(column) for column in wanted])
    return named.with_columns(identifier(column) for column in wanted if _IDS.search(column))


def _open(path: Path) -> tuple[pl.LazyFrame, dict[str, str]]:
    try:
        if path.suffix.lower() == ".parquet":
            frame = as_text(pl.scan_parquet(path, glob=False))
        else:
            frame = pl.scan_csv(path, infer_schema=False, glob=False, separator=_separator(path))
        names = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        raise CohortError(f"{path}: cannot be read as a table ({_first_line(error)}); download it again") from error
    actual: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"_duplicated_\d+$", "", name).strip().lower()
        if plain in actual:
            raise CohortError(f"{path}: two columns are called {plain!r}; rename or remove one")
        actual[plain] = name
    return frame, actual


def _separator(path: Path) -> str:
    """What separates the names in the first line: the sign that occurs most often outside quotes.

    Raises:
        CohortError: the file is not UTF-8.
    """
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise _not_unicode(path, "UTF-16")
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        raise _not_unicode(path, "WINDOWS-1252") from None
    line = re.sub(r'"[^"]*"', "", text.splitlines()[0]) if text.strip() else ""
    return max(_SEPARATORS, key=line.count)


def _not_unicode(path: Path | str, encoding: str) -> CohortError:
    also = " or Latin-1" if encoding == "WINDOWS-1252" else ""
    remedy = f"save it as UTF-8, for example with: iconv -f {encoding} -t UTF-8"
    return CohortError(f"{path}: the text is not UTF-8 but perhaps {encoding}{also}; {remedy}")


def as_text(frame: pl.LazyFrame) -> pl.LazyFrame:
    """A typed frame as if it had been read from text, so that one set of rules judges both."""
    out = []
    for name, kind in frame.collect_schema().items():
        column = pl.col(name)
        if isinstance(kind, pl.Datetime):
            zoned = kind.time_zone is not None
            time = column.dt.convert_time_zone("UTC") if zoned else column
            out.append(time.dt.strftime("%Y-%m-%d %H:%M:%S%.fZ" if zoned else "%Y-%m-%d %H:%M:%S%.f"))
        elif isinstance(kind, pl.Duration):
            out.append((column.dt.total_milliseconds() / 3_600_000.0).cast(pl.String))
        elif kind.is_float():
            whole = (column == column.round()) & (column.abs() < 2**53)
            integer = column.cast(pl.Int64, strict=False).cast(pl.String)
            out.append(pl.when(whole).then(integer).otherwise(column.cast(pl.String)).alias(name))
        elif kind.is_nested() or kind == pl.Binary:
            continue  # No column of any layout; naming it as one that is wanted says that it is missing.
        else:
            out.append(column.cast(pl.String))
    return frame.select(out)


def collect(frame: pl.LazyFrame, where: Path | str) -> pl.DataFrame:
    """Run a lazy frame in batches, so that a table larger than memory passes through.

    Args:
        frame: From `scan_table`, filtered.
        where: File or table, for the message.

    Raises:
        CohortError: the file breaks off or is no table.
    """
    try:
        return frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = _first_line(error)
        if "utf-8" in reason.lower():
            raise _not_unicode(where, "WINDOWS-1252") from error
        if "more fields" in reason:
            remedy = "put cells that hold the separator (a decimal comma?) in quotes"
            raise CohortError(f"{where}: a row has more cells than the header has names; {remedy}") from error
        raise CohortError(f"{where}: cannot be read to its end ({reason}); download it again") from error


def typed(
    frame: pl.LazyFrame | pl.DataFrame,
    where: Path | str,
    dated: Sequence[str] = (),
    numeric: Sequence[str] = (),
    keep_marks: bool = False,
) -> pl.DataFrame:
    """Collect a frame of text with its `dated` columns as times and its `numeric` ones as floats, and judge its cells.

    Args:
        frame: Lazy from `scan_table`, or what is collected of one already.
        where: File or table, for messages.
        dated: Columns of times.
        numeric: Columns of numbers.
        keep_marks: See `_settled`.

    Raises:
        CohortError: see `collect`; or a column's cells can mean two things (`_settled`).
    """
    found = collect(frame.lazy().with_columns(*_times(*dated), *_numbers(*numeric)), where)
    return _settled(found, where, keep_marks)


def read_table(
    table: Path, columns: Sequence[str], dated: Sequence[str] = (), numeric: Sequence[str] = ()
) -> pl.DataFrame:
    """A whole table of text: `scan_table` of its `columns` and those that are `dated` or `numeric`, then `typed`."""
    return typed(scan_table(table, (*columns, *dated, *numeric)), table, dated, numeric)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
