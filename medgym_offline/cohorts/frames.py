"""The account of rows that did not reach the table as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import polars as pl

__all__ = ["Rejections", "completed", "first_of"]


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

    def add(self, other: Rejections) -> None:
        """Add the counts of `other`."""
        for mine, theirs in ((self.rows, other.rows), (self.repairs, other.repairs), (self.doubts, other.doubts)):
            for reason, count in theirs.items():
                _count(mine, reason, count)
        self.stays.update(other.stays)
        self.files.update(other.files)

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
