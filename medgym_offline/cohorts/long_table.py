"""Source: one long table of any hospital (a row a value), with a second table of stays where times are timestamps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from medgym_offline.cohorts import tables
from medgym_offline.cohorts.names import NUMERIC, accepted_units, conversion, own_variables, typed_attributes
from medgym_offline.cohorts.source import Records, Rejections, completed, event_frame, flags_of, provenance_of
from medgym_offline.cohorts.tables import hours_since
from medgym_offline.diseases.concepts import CohortDefinition
from medgym_offline.errors import CohortError

__all__ = ["LongTable", "dataset_name", "long_records"]

_COLUMNS = ("stay", "time", "variable", "value", "unit")
_DATED = ("admission", "discharge")


class LongTable:
    """A file, or a folder with `events` and perhaps `stays`, as .csv, .tsv (perhaps .gz) or .parquet.

    Events: `stay, time, variable, value, unit`, and `end` for treatments; `subject` may be here or in the stays.
    `time` and `end` are hours since admission, or timestamps if the stays name the `admission`.
    Stays: `stay`, and any of `subject, admission, discharge, los_h, age, sex, weight_kg, died` and diagnoses.
    See docs/cohorts.md for the template.
    """

    layout = "long table"

    def matches(self, path: Path) -> bool:
        """Whether the events have the columns that name a value (by the header)."""
        events, _ = _files(path)
        return events is not None and {"stay", "variable", "value"} <= tables.column_names(events)

    def read(self, path: Path, definition: CohortDefinition) -> Records:
        """Read the table.

        Raises:
            CohortError: a unit is not known for its variable, a time is a timestamp and no admission is known, or a
                column or file cannot be read.
        """
        file, stays_file = _files(path)
        if file is None:
            raise CohortError(f"{path}: no events table; name it events.csv, events.csv.gz or events.parquet")
        events = tables.scan_file(file, _COLUMNS, optional=("subject", "end"))
        optional = ("subject", "sex", *_DATED, *NUMERIC, *flags_of(definition))
        stays = None if stays_file is None else tables.scan_file(stays_file, ("stay",), optional=optional)
        # Of a single file it is the name that tells it from others beside it.
        provenance = {**provenance_of(self.layout, path, (file, stays_file)), "folder": path.name}
        dataset = dataset_name(tables.table_stem(path) or "" if path.is_file() else path.resolve().name)
        return long_records(events, stays, definition, dataset, provenance, str(file), str(stays_file))


def long_records(
    events: pl.LazyFrame | pl.DataFrame,
    stays: pl.LazyFrame | pl.DataFrame | None,
    definition: CohortDefinition,
    dataset: str = "hospital",
    provenance: dict[str, Any] | None = None,
    where: str = "events",
    where_stays: str = "stays",
) -> Records:
    """Records of a long table in memory.

    Args:
        events: stay, time, variable, value, unit and perhaps end and subject, of any type.
        stays: stay and any of the columns of `LongTable`; None: nobody said anything of them.
        definition: Whose variables they are.
        dataset: Prefixes patient ids.
        provenance: For the metadata.
        where: Name of the events in messages.
        where_stays: Name of the stays in messages.

    Raises:
        CohortError: see `LongTable.read`.
    """
    reading = _Reading(definition, where, where_stays)
    described = None if stays is None else reading.stays(_text(stays))
    rows = reading.valued(reading.converted(reading.timed(reading.events(_text(events)), described)))
    stays = _described(rows, described, definition, where)
    return Records(dataset, stays, event_frame(rows), reading.rejections, provenance or {})


def _text(frame: pl.LazyFrame | pl.DataFrame) -> pl.LazyFrame:
    texts = tables.as_text(frame.lazy())
    return texts.with_columns(map(tables.identifier, {"stay", "subject"} & set(texts.collect_schema().names())))


def _files(path: Path) -> tuple[Path | None, Path | None]:
    """The events and the stays of a folder; a single file has its stays in `NAME-stays` beside it, if anywhere."""
    if path.is_file():
        stem = tables.table_stem(path)
        events, beside = path if stem else None, path.with_name(f"{stem}-stays")
    else:
        events, beside = tables.find_table(path / "events"), path / "stays"
    if events is None:
        return None, None
    stays = tables.find_table(beside)
    near = tables.nearly_named(beside) if stays is None else None
    if near is not None and near != events:
        raise CohortError(f"{near}: is it the table of stays? Name it {beside.name}{near.suffix}, or take it away")
    return events, stays


def dataset_name(name: str, otherwise: str = "hospital") -> str:
    """Prefix of patient ids: a name in plain letters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or otherwise


@dataclass
class _Reading:
    """One reading of a long table: whose it is, how it is called, and what was counted."""

    definition: CohortDefinition
    where: str
    where_stays: str
    rejections: Rejections = field(default_factory=Rejections)

    def events(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """stay_id, subject, name, unit, time, end and value (text); rows of other variables are counted."""
        written = dict(tables.collect(frame.group_by("variable").len(), self.where).iter_rows())
        own = own_variables(written, self.definition, self.where, self.rejections)
        mine = frame.filter(pl.col("variable").is_in(list(own))).with_columns(pl.col("variable").replace(own))
        events = tables.collect(mine.rename({"stay": "stay_id", "variable": "name"}), self.where)
        events = completed(events, dict.fromkeys(("end", "subject"), pl.String))
        return self.rejections.drop(events, (pl.col("stay_id").is_null(), "events: no id of the stay"))

    def stays(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """stay_id and whatever else the table of stays has, typed."""
        dated = [name for name in _DATED if name in frame.collect_schema().names()]
        stays = tables.typed(frame.rename({"stay": "stay_id"}), self.where_stays, dated, keep_marks=True)
        marks = [f"{name}|time" for name in dated]
        for name, mark in zip(dated, stays.select(marks)):
            self.rejections.doubt(f"stays: {name} without an hour, read as midnight", tables.midnights(mark))
            unread = int((stays[name].is_null() & mark.is_not_null()).sum())
            self.rejections.repair(f"stays: {name} cannot be read, left empty", unread)
        stays = self.rejections.drop(stays.drop(marks), (pl.col("stay_id").is_null(), "stays: no id of the stay"))
        return typed_attributes(stays, flags_of(self.definition), self.where_stays, self.rejections)

    def timed(self, events: pl.DataFrame, stays: pl.DataFrame | None) -> pl.DataFrame:
        """`t_h` and `end_h` in hours since admission."""
        hours = tables.typed(events, self.where, numeric=["time"])
        written = (events["time"].str.strip_chars() != "").fill_null(False)
        if 2 * int((written & hours["time"].is_null()).sum()) <= int(written.sum()):
            out = tables.typed(hours, self.where, numeric=["end"]).rename({"time": "t_h", "end": "end_h"})
        elif stays is None or "admission" not in stays.columns:
            remedy = "add a table of stays with stay and admission (docs/cohorts.md), or give hours since admission"
            raise CohortError(f"{self.where}: column 'time' holds timestamps; {remedy}")
        else:
            dated = tables.typed(events, self.where, ["time", "end"], keep_marks=True)
            alone = tables.midnights(dated["time|time"]) + tables.midnights(dated["end|time"])
            self.rejections.doubt("events: a date without an hour, read as midnight", alone)
            names = (f"{self.where}: column 'time'", f"{self.where_stays}: column 'admission'")
            dated = tables.on_one_clock(dated, "time", stays["admission"], names)
            admitted = stays.select("stay_id", "admission").unique()
            dated = dated.join(admitted, on="stay_id", how="left", maintain_order="left")
            dated = self.rejections.drop(dated, (pl.col("admission").is_null(), "no admission time of the stay"))
            out = dated.with_columns(t_h=hours_since("time", "admission"), end_h=hours_since("end", "admission"))
        name, end = pl.col("name"), pl.col("end_h")
        kinds = {n: concept.gridding for n, concept in self.definition.owner.items()}
        kind = name.replace_strict(kinds, return_dtype=pl.String)
        # Infusions that end before they start are counted by `assemble`; a setting is a point there.
        return self.rejections.drop(
            out,
            (pl.col("t_h").is_null(), "events: time is missing or cannot be read"),
            ((kind == "infusion") & end.is_null(), pl.format("{}: interval without an end", name)),
            ((kind == "held") & (end <= pl.col("t_h")), pl.format("{}: interval ends before it starts", name)),
        )

    def converted(self, events: pl.DataFrame) -> pl.DataFrame:
        """Values in the definition's units (of amounts: theirs), row by row as the unit column says."""
        events = tables.typed(events, self.where, numeric=["value"]).with_columns(pl.col("unit").fill_null(""))
        rows = []
        for name, unit, count in events.group_by("name", "unit").len().sort("name", "unit").iter_rows():
            named = self.definition.readable[name]
            known = conversion(named, unit)
            if known is None:
                odd = f"unit {unit!r}" if unit.strip() else "an empty unit"
                units = ", ".join(accepted_units(named))
                raise CohortError(f"{self.where}: {count} rows of {name!r} have {odd}; convert them to one of: {units}")
            if known.factor != 1.0:
                self.rejections.repair(f"{name}: converted from {unit}", count)
            rows.append((name, unit, known.factor, known.amount))
        schema = {"name": pl.String, "unit": pl.String, "factor": pl.Float64, "amount": pl.Boolean}
        factors = pl.DataFrame(rows, schema=schema, orient="row")
        joined = events.join(factors, on=["name", "unit"], how="left", maintain_order="left")
        return joined.with_columns(value=pl.col("value") * pl.col("factor"))

    def valued(self, events: pl.DataFrame) -> pl.DataFrame:
        """Events with a value, each once: the same number at the same time is the same event, however it is written."""
        name = pl.col("name")
        missing = pl.format("{}: value is missing or not a number", name)
        events = self.rejections.drop(events, (pl.col("value").is_null(), missing))
        keys = ("stay_id", "name", "t_h", "end_h", "value", "amount", "subject")
        events = self.rejections.distinct(events.select(keys), "events")
        for concept in (c for c in self.definition.treatments if c.parts):
            mine = events.filter(name.is_in([concept.name, *(part.name for part in concept.parts)]))
            whole = name == concept.name
            stays = mine.group_by("stay_id").agg(both=whole.any() & (~whole).any(), rows=pl.len())
            words = f"{concept.name}: the stay has drugs by name as well as their equivalents, which add up"
            self.rejections.doubt(words, int(stays.filter("both")["rows"].sum()))
        return events


def _described(
    events: pl.DataFrame, described: pl.DataFrame | None, definition: CohortDefinition, where: str
) -> pl.DataFrame:
    """One row a stay as described; what nobody wrote is null, a length nobody wrote lasts to the last event."""
    last = pl.max_horizontal(pl.col("t_h").max(), pl.col("end_h").max())
    people = pl.col("subject").drop_nulls().unique().sort()
    seen = events.group_by("stay_id").agg(last.alias("last_h"), people.alias("people")).sort("stay_id")
    for stay, who in seen.filter(pl.col("people").list.len() > 1).select("stay_id", "people").iter_rows():
        raise CohortError(f"{where}: stay {stay!r} belongs to {who[0]!r} and to {who[1]!r}; correct the subject")
    seen = seen.with_columns(who=pl.col("people").list.first())
    stays = seen if described is None else described.join(seen, on="stay_id", how="left", maintain_order="left")
    kinds = {"subject": pl.String, "sex": pl.String, **dict.fromkeys(NUMERIC, pl.Float64)}
    kinds |= dict.fromkeys(flags_of(definition), pl.Boolean)
    stays = completed(stays, kinds)
    spent = hours_since("discharge", "admission") if set(_DATED) <= set(stays.columns) else pl.lit(None, pl.Float64)
    subject, los_h = pl.coalesce("subject", "who", "stay_id"), pl.coalesce("los_h", spent, "last_h")
    return stays.with_columns(subject=subject, los_h=los_h).select("stay_id", *kinds).sort("stay_id")
