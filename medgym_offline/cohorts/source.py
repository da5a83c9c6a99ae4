"""The seam between a hospital's files and the cohort: a source reads its layout into `Records`, nothing more.

To add a layout, write one file with a class that satisfies :class:`CohortSource` and name it in
`medgym_offline.cohorts.build.SOURCES`, or in the `sources` of a disease's `CohortDefinition`. Rates, sums over drugs,
carrying forward, clipping and validation are shared and happen later (`assemble`), so that two sources cannot disagree.

:class:`Rejections` is the account of rows that did not reach the table as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from medgym_offline.diseases.concepts import CohortDefinition

__all__ = ["CohortSource", "Records", "Rejections", "completed", "event_frame", "first_of", "flags_of", "provenance_of"]


@dataclass
class Rejections:
    """What did not reach the table as it was: every such row, stay and file is counted here under a reason.

    Attributes:
        rows: Rows rejected, by reason.
        repairs: Rows changed and kept, by reason.
        doubts: Rows kept as they are that may not mean what they say, by reason.
        stays: Stays rejected whole, id -> reason.
        files: Files not read, name -> reason.
    """

    rows: dict[str, int] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)
    doubts: dict[str, int] = field(default_factory=dict)
    stays: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def reject(self, reason: str, count: int) -> None:
        """Count `count` rows rejected for `reason` (nothing when zero)."""
        _count(self.rows, reason, count)

    def repair(self, reason: str, count: int) -> None:
        """Count `count` rows repaired for `reason` (nothing when zero)."""
        _count(self.repairs, reason, count)

    def doubt(self, reason: str, count: int) -> None:
        """Count `count` rows kept, but doubted for `reason` (nothing when zero)."""
        _count(self.doubts, reason, count)

    def drop(self, frame: pl.DataFrame, *checks: tuple[pl.Expr, str | pl.Expr]) -> pl.DataFrame:
        """`frame` without the rows where a check holds (null: it does not), each counted under the first that does.

        Args:
            frame: Any frame.
            checks: Condition over its columns, and the reason: text, or an expression of text where it differs.
        """
        for bad, reason in checks:
            hit = bad.fill_null(False)
            words = pl.lit(reason) if isinstance(reason, str) else reason
            for text, count in frame.filter(hit).group_by(words.alias("reason")).len().sort("reason").iter_rows():
                self.reject(text, count)
            frame = frame.filter(~hit)
        return frame

    def distinct(self, frame: pl.DataFrame, name: str, tolerated: float = 0.0) -> pl.DataFrame:
        """Rows that are the same in every column count once: twice the row must not be twice the amount.

        Args:
            frame: With the row's own id, where the table has one.
            name: What the rows are, for the reason.
            tolerated: Share of repeated rows up to which each is taken for an event of its own, and doubted.
        """
        kept = frame.unique(maintain_order=True)
        repeated = frame.height - kept.height
        if repeated <= tolerated * frame.height:
            self.doubt(f"{name}: the same row again, so few that each counts as an event of its own", repeated)
            return frame
        self.reject(f"{name}: the same row again", repeated)
        return kept

    def add(self, *others: Rejections) -> Rejections:
        """This account, with the counts of `others` added."""
        for other in others:
            for mine, theirs in ((self.rows, other.rows), (self.repairs, other.repairs), (self.doubts, other.doubts)):
                for reason, count in theirs.items():
                    _count(mine, reason, count)
            self.stays.update(other.stays)
            self.files.update(other.files)
        return self

    def lines(self) -> list[str]:
        """One line a reason, largest first; stays and files after rows, at most ten of each named."""
        out = [
            f"{count} rows {words}: {why}"
            for words, reasons in (("doubted", self.doubts), ("rejected", self.rows), ("repaired", self.repairs))
            for why, count in sorted(reasons.items(), key=lambda item: -item[1])
        ]
        for words, named in (("stays rejected", self.stays), ("files not read", self.files)):
            by_reason: dict[str, list[str]] = {}
            for name, why in sorted(named.items()):
                by_reason.setdefault(why, []).append(name)
            out += [f"{len(names)} {words}: {why}: {first_of(names)}" for why, names in by_reason.items()]
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Rejections:
        """From the plain dictionaries of a table's metadata."""
        return cls(**{part.name: dict(data.get(part.name, {})) for part in fields(cls)})


def completed(frame: pl.DataFrame, kinds: Mapping[str, Any]) -> pl.DataFrame:
    """`frame` with every column of `kinds` (name -> type), null where it has none of that name."""
    return frame.with_columns(pl.lit(None, kind).alias(n) for n, kind in kinds.items() if n not in frame.columns)


def first_of(names: Sequence[str], most: int = 10) -> str:
    """Names in one line: the first `most`, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _count(counts: dict[str, int], reason: str, count: int) -> None:
    if count:
        counts[reason] = counts.get(reason, 0) + int(count)


_MIMIC = (
    "the open demo under ODbL 1.0; the full database under the PhysioNet Credentialed Health Data License (never "
    "redistribute the table)"
)
_LICENSES = {"mimic-iii": f"MIMIC-III: {_MIMIC}", "mimic-iv": f"MIMIC-IV: {_MIMIC}"}


@dataclass(frozen=True)
class Records:
    """Clinical events of many stays on one clock per stay: hours since admission.

    Attributes:
        dataset: Name that prefixes patient ids, for example "mimic-iii".
        stays: stay_id, subject (str), los_h, age (years), sex ("F" or "M"), weight_kg, died (bool) and the definition's
            diagnoses (bool).
        events: One row an observation or treatment: stay_id, name (of a concept or of one of its parts), t_h, end_h
            (null where nobody said), value (in the unit of the name), amount (bool: the value is a total, of the record
            or over the interval) and total (of a part: its share in the unit of the concept, where the source has it).
            `event_frame` fills in what a source has not.
        rejections: Rows the source itself turned away, by reason.
        provenance: What was read and how (JSON-able).
    """

    dataset: str
    stays: pl.DataFrame
    events: pl.DataFrame
    rejections: Rejections = field(default_factory=Rejections)
    provenance: dict[str, Any] = field(default_factory=dict)


class CohortSource(Protocol):
    """One layout of clinical files."""

    @property
    def layout(self) -> str:
        """Its name, in summaries and provenance."""

    def matches(self, path: Path) -> bool:
        """Whether the folder or file at `path` has this layout (by names only; reads nothing large)."""

    def read(self, path: Path, definition: CohortDefinition) -> Records:
        """Read what the definition names.

        Raises:
            CohortError: a file or column is missing; names it and the remedy.
        """


def flags_of(definition: CohortDefinition) -> tuple[str, ...]:
    """Yes-or-no attributes of a stay."""
    return (*(diagnosis.name for diagnosis in definition.diagnoses), "died")


def event_frame(*parts: pl.DataFrame) -> pl.DataFrame:
    """Events of `parts`, with every column that `Records` asks for."""
    columns = {"stay_id": pl.String, "name": pl.String, "t_h": pl.Float64, "end_h": pl.Float64, "value": pl.Float64}
    kinds = {**columns, "amount": pl.Boolean, "total": pl.Float64}
    full = [completed(part, kinds).select(*kinds).with_columns(pl.col("amount").fill_null(False)) for part in parts]
    return pl.concat([pl.DataFrame(schema=kinds), *full])


def provenance_of(layout: str, path: Path, files: Iterable[Path | None], dataset: str = "") -> dict[str, Any]:
    """What was read: layout, folder, license, and the files that there are of `files`; plain values."""
    folder = path.parent if path.is_file() else path
    names = [file.relative_to(folder).as_posix() for file in files if file is not None]
    return {"layout": layout, "folder": folder.name, "license": _license(folder, dataset), "files": names}


def _license(path: Path, dataset: str) -> str:
    """License of the data at `path`: the title of a LICENSE.txt beside it or one level up, else what is known."""
    for folder in (path, path.parent):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file.is_file() and file.name.lower() in ("license", "license.txt", "licence", "licence.txt"):
                text = file.read_text(encoding="utf-8", errors="replace")[:400]
                if any(words in text for words in ("Open Database License", "ODbL", "ODC Open Database")):
                    return "ODC Open Database License v1.0 (ODbL)"
                first = next((line.strip() for line in text.splitlines() if line.strip()), "")
                if first:
                    return first[:200]
    return _LICENSES.get(dataset, "not stated: the license of the source data applies")
