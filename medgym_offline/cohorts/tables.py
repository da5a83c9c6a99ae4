"""Finding and reading tables with any case of names, as text first, so that a bad cell is counted, not guessed."""

from __future__ import annotations

import codecs
import difflib
import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from medgym_offline.cohorts.cells import identifier, numbers, settled, times
from medgym_offline.errors import CohortError

__all__ = [
    "as_text",
    "collect",
    "column_names",
    "find_table",
    "nearly_named",
    "only_file",
    "scan_file",
    "scan_table",
    "table_files",
    "table_stem",
    "typed",
    "unread_files",
]

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
        raise CohortError(
            f"{files[0].parent}: {' and '.join(file.name for file in files)} are one table in two files, and would "
            "count twice; keep one of them there"
        )
    return files[0]


def find_table(folder: Path, name: str) -> Path | None:
    """The file of table `name` in `folder`, whatever its case and suffix (.csv, .csv.gz, .tsv, .tsv.gz, .parquet).

    Raises:
        CohortError: there are two.
    """
    files = table_files(folder).get(name.lower())
    return only_file(files) if files else None


def nearly_named(folder: Path, name: str) -> Path | None:
    """A table of `folder` whose name is not `name` but nearly."""
    files = table_files(folder)
    near = difflib.get_close_matches(name.lower(), [stem for stem in files if stem != name.lower()], n=1, cutoff=0.8)
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
        near = nearly_named(folder, name)
        hint = "put it there" if near is None else f"is it {near.name}? Rename that"
        raise CohortError(f"{folder}: table {name}.csv or {name}.csv.gz is missing; {hint}")
    return scan_file(path, columns, optional)


def scan_file(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    """As `scan_table`, of one file. Ids lose blanks around them and the .0 of a table of floats.

    Raises:
        CohortError: a missing column or an unreadable file.
    """
    frame, actual = _open(path)
    missing = [column for column in columns if column not in actual]
    if missing:
        raise CohortError(
            f"{path}: column {missing[0]!r} is missing (the file has: {', '.join(sorted(actual))}); "
            "export the table with its original columns"
        )
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
    return CohortError(
        f"{path}: the text is not UTF-8 but perhaps {encoding}{also}; save it as UTF-8, for example with: "
        f"iconv -f {encoding} -t UTF-8"
    )


def as_text(frame: pl.LazyFrame) -> pl.LazyFrame:
    """A typed frame as if it had been read from text, so that one set of rules judges both."""
    out = []
    for name, kind in frame.collect_schema().items():
        column = pl.col(name)
        if isinstance(kind, pl.Datetime):
            if kind.time_zone is not None:
                out.append(column.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%d %H:%M:%S%.fZ"))
            else:
                out.append(column.dt.strftime("%Y-%m-%d %H:%M:%S%.f"))
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


def collect(frame: pl.LazyFrame, where: Path | str, keep_marks: bool = False) -> pl.DataFrame:
    """Run a lazy frame in batches, so that a table larger than memory passes through, and judge its cells.

    Args:
        frame: From `scan_table`, filtered.
        where: File or table, for the message.
        keep_marks: See `cells.settled`.

    Raises:
        CohortError: the file breaks off or is no table, or a column's cells can mean two things (`cells.settled`).
    """
    try:
        found = frame.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = _first_line(error)
        if "utf-8" in reason.lower():
            raise _not_unicode(where, "WINDOWS-1252") from error
        if "more fields" in reason:
            raise CohortError(
                f"{where}: a row has more cells than the header has names; put cells that hold the separator (a "
                "decimal comma?) in quotes"
            ) from error
        raise CohortError(f"{where}: cannot be read to its end ({reason}); download it again") from error
    return settled(found, where, keep_marks)


def typed(
    frame: pl.LazyFrame, where: Path | str, dated: Sequence[str] = (), numeric: Sequence[str] = ()
) -> pl.DataFrame:
    """Collect a frame of text with its `dated` columns as times and its `numeric` ones as floats; see `collect`."""
    return collect(frame.with_columns(*times(*dated), *numbers(*numeric)), where)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
