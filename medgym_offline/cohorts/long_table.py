"""Source: one long table of any hospital (a row a value), with a second table of stays where times are timestamps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts.cells import hours_since, midnights, numbers, on_one_clock, settled, times
from medgym_offline.cohorts.drugs import VASOPRESSORS
from medgym_offline.cohorts.events import drop_repeated
from medgym_offline.cohorts.names import own_variables, typed_attributes
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.source import Records, dataset_licence
from medgym_offline.cohorts.tables import collect, column_names, find_table, nearly_named, scan_file, table_stem
from medgym_offline.cohorts.units import DRUGS, accepted_units, conversion
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LongTable"]

_COLUMNS = ("stay", "time", "variable", "value", "unit")
_NUMBERS = ("los_h", "age", "weight_kg")
_FLAGS = ("sepsis", "died")
_INFUSIONS = ("vasopressor", "fluids", *DRUGS)


class LongTable:
    """A file, or a folder with `events` and perhaps `stays`, as .csv, .tsv (perhaps .gz) or .parquet.

    Events: `stay, time, variable, value, unit`, and `end` for treatments; `subject` may be here or in the stays.
    `time` and `end` are hours since ICU admission, or timestamps if the stays name the `admission`.
    Stays: `stay`, and any of `subject, admission, discharge, los_h, age, sex, weight_kg, sepsis, died`.
    See docs/cohorts.md for the template.
    """

    layout = "long table"

    def matches(self, path: Path) -> bool:
        """Whether the events have the columns that name a value (by the header)."""
        events, _ = _files(path)
        return events is not None and {"stay", "variable", "value"} <= column_names(events)

    def read(self, path: Path) -> Records:
        """Read the table.

        Raises:
            CohortError: a unit is not known for its variable, a time is a timestamp and no admission is known, or a
                column or file cannot be read.
        """
        pl = require_polars()
        file, stays_file = _files(path)
        if file is None:
            raise CohortError(f"{path}: no events table; name it events.csv, events.csv.gz or events.parquet")
        rejections = Rejections()
        events = _scan(file, rejections)
        described = None if stays_file is None else _scan_stays(stays_file, rejections)
        events = _timed(events, described, file, stays_file, rejections)
        events = _converted(events, file, rejections)
        events = _valued(events, rejections)
        stays = _stays(events, described, file)
        spans = events.select(
            "stay_id", "variable", "volume", t0_h=pl.col("t_h"), t1_h=pl.col("end_h"), value=pl.col("value")
        )
        fluids = spans.filter(pl.col("variable") == "fluids")
        hours = pl.col("t1_h") - pl.col("t0_h")
        doses = spans.filter(pl.col("variable").is_in(["vasopressor", *DRUGS]))
        equivalents = {name: drug.equivalent for name, drug in VASOPRESSORS.items()}
        factor = pl.col("variable").replace_strict({"vasopressor": 1.0, **equivalents}, return_dtype=pl.Float64)
        rate = (pl.col("variable") == "urine") & ~pl.col("volume")
        observed = events.filter(~pl.col("variable").is_in(_INFUSIONS)).select(
            "stay_id",
            pl.when(rate).then(pl.lit("urine_rate")).otherwise(pl.col("variable")).alias("variable"),
            "t_h",
            "value",
            t1_h=pl.col("end_h"),
        )
        return Records(
            dataset=_dataset(path),
            stays=stays,
            observations=observed,
            vasopressors=doses.select(
                "stay_id", "t0_h", "t1_h", drug="variable", dose="value", neq=pl.col("value") * factor
            ),
            fluids=fluids.select(
                "stay_id",
                "t0_h",
                "t1_h",
                pl.when("volume").then("value").otherwise(pl.col("value") * hours).alias("ml"),
            ),
            rejections=rejections,
            provenance={
                "layout": self.layout,
                "folder": path.name,
                "licence": dataset_licence(path, ""),
                "files": [p.name for p in (file, stays_file) if p is not None],
            },
        )


def _files(path: Path) -> tuple[Path | None, Path | None]:
    """The events and the stays of a folder; a single file has its stays in `NAME-stays` beside it, if anywhere."""
    if path.is_file():
        folder, events, named = path.parent, path if table_stem(path) else None, f"{table_stem(path)}-stays"
    else:
        folder, events, named = path, find_table(path, "events"), "stays"
    if events is None:
        return None, None
    stays = find_table(folder, named)
    near = nearly_named(folder, named) if stays is None else None
    if near is not None and near != events:
        raise CohortError(f"{near}: is it the table of stays? Name it {named}{near.suffix}, or take it away")
    return events, stays


def _dataset(path: Path) -> str:
    """Prefix of patient ids: the name of the file or folder, in plain letters."""
    name = table_stem(path) or "" if path.is_file() else path.resolve().name
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "hospital"


def _scan(file: Path, rejections: Rejections) -> pl.DataFrame:
    """stay_id, subject, variable, unit, time, end and value (text); rows of other variables are counted."""
    pl = require_polars()
    frame = scan_file(file, _COLUMNS, optional=("subject", "end"))
    written = collect(frame.group_by("variable").len(), file)
    own = own_variables(dict(written.iter_rows()), file, rejections)
    mine = frame.filter(pl.col("variable").is_in(list(own))).with_columns(pl.col("variable").replace(own))
    events = collect(mine.rename({"stay": "stay_id"}), file)
    missing = [name for name in ("end", "subject") if name not in events.columns]
    events = events.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    nobody = events["stay_id"].is_null()
    rejections.reject("events: no id of the stay", int(nobody.sum()))
    return events.filter(~nobody)


def _scan_stays(file: Path, rejections: Rejections) -> pl.DataFrame:
    """stay_id and whatever else the table of stays has, typed."""
    pl = require_polars()
    optional = ("subject", "admission", "discharge", "sex", *_NUMBERS, *_FLAGS)
    frame = scan_file(file, ("stay",), optional=optional)
    dated = [name for name in ("admission", "discharge") if name in frame.collect_schema().names()]
    stays = collect(frame.rename({"stay": "stay_id"}).with_columns(times(*dated)), file, keep_marks=True)
    for name in dated:
        mark = stays[f"{name}|time"]
        rejections.doubt(f"stays: {name} without an hour, read as midnight", midnights(mark))
        unread = int((stays[name].is_null() & mark.is_not_null()).sum())
        rejections.repair(f"stays: {name} cannot be read, left empty", unread)
    rejections.reject("stays: no id of the stay", stays["stay_id"].null_count())
    stays = stays.drop(f"{name}|time" for name in dated).filter(pl.col("stay_id").is_not_null())
    return typed_attributes(stays, file, rejections)


def _timed(
    events: pl.DataFrame, stays: pl.DataFrame | None, file: Path, stays_file: Path | None, rejections: Rejections
) -> pl.DataFrame:
    """`t_h` and `end_h` in hours since admission."""
    pl = require_polars()
    hours = settled(events.with_columns(numbers("time")), file)
    written = (events["time"].str.strip_chars() != "").fill_null(False)
    if 2 * int((written & hours["time"].is_null()).sum()) <= int(written.sum()):
        hours = settled(hours.with_columns(numbers("end")), file)
        out = hours.rename({"time": "t_h"}).with_columns(end_h="end")
    elif stays is None or "admission" not in stays.columns:
        raise CohortError(
            f"{file}: column 'time' holds timestamps; add a table of stays with the columns stay and admission "
            "(docs/cohorts.md), or give hours since ICU admission"
        )
    else:
        dated = settled(events.with_columns(times("time", "end")), file, keep_marks=True)
        alone = midnights(dated["time|time"]) + midnights(dated["end|time"])
        rejections.doubt("events: a date without an hour, read as midnight", alone)
        names = (f"{file}: column 'time'", f"{stays_file}: column 'admission'")
        dated = on_one_clock(dated, "time", stays["admission"], names)
        dated = dated.join(
            stays.select("stay_id", "admission").unique(), on="stay_id", how="left", maintain_order="left"
        )
        unknown = dated["admission"].is_null()
        rejections.reject("no admission time of the stay", int(unknown.sum()))
        out = dated.filter(~unknown).with_columns(
            t_h=hours_since("time", "admission"), end_h=hours_since("end", "admission")
        )
    untimed = out["t_h"].is_null()
    rejections.reject("events: time is missing or cannot be read", int(untimed.sum()))
    out = out.filter(~untimed)
    endless = pl.col("variable").is_in(_INFUSIONS) & pl.col("end_h").is_null()
    for name, count in out.filter(endless).group_by("variable").len().sort("variable").iter_rows():
        rejections.reject(f"{name}: interval without an end", count)
    out = out.filter(~endless)
    # Infusions that end before they start are counted by `assemble`; an oxygen setting is a point there.
    backwards = ((pl.col("variable") == "fio2") & (pl.col("end_h") <= pl.col("t_h"))).fill_null(False)
    rejections.reject("fio2: interval ends before it starts", out.select(backwards.sum()).item())
    return out.filter(~backwards)


def _valued(events: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Events with a value, each once: the same number at the same time is the same event, however it is written."""
    pl = require_polars()
    empty = pl.col("value").is_null()
    for name, count in events.filter(empty).group_by("variable").len().sort("variable").iter_rows():
        rejections.reject(f"{name}: value is missing or not a number", count)
    keys = ("stay_id", "variable", "t_h", "end_h", "value", "volume", "subject")
    events = drop_repeated(events.filter(~empty).select(keys), rejections, "events")
    both = (
        events.filter(pl.col("variable").is_in(["vasopressor", *DRUGS]))
        .group_by("stay_id")
        .agg(
            both=(pl.col("variable") == "vasopressor").any() & (pl.col("variable") != "vasopressor").any(),
            rows=pl.len(),
        )
    )
    rejections.doubt(
        "vasopressor: the stay has drugs by name as well as their equivalents, which add up",
        int(both.filter("both")["rows"].sum()),
    )
    return events


def _converted(events: pl.DataFrame, file: Path, rejections: Rejections) -> pl.DataFrame:
    """Values in the package's unit (volumes in mL), row by row as the unit column says."""
    pl = require_polars()
    events = settled(events.with_columns(numbers("value")), file).with_columns(pl.col("unit").fill_null(""))
    found = events.group_by("variable", "unit").len()
    rows = []
    for variable, unit, count in found.sort("variable", "unit").iter_rows():
        known = conversion(variable, unit)
        if known is None:
            words = f"unit {unit!r}" if unit.strip() else "an empty unit"
            raise CohortError(
                f"{file}: {count} rows of {variable!r} have {words}; convert them to one of: "
                + ", ".join(accepted_units(variable))
            )
        if known.factor != 1.0:
            rejections.repair(f"{variable}: converted from {unit}", count)
        rows.append((variable, unit, known.factor, known.volume))
    schema = {"variable": pl.String, "unit": pl.String, "factor": pl.Float64, "volume": pl.Boolean}
    factors = pl.DataFrame(rows, schema=schema, orient="row")
    return events.join(factors, on=["variable", "unit"], how="left", maintain_order="left").with_columns(
        value=pl.col("value") * pl.col("factor")
    )


def _stays(events: pl.DataFrame, described: pl.DataFrame | None, file: Path) -> pl.DataFrame:
    """One row a stay as described; what nobody wrote is null, a length nobody wrote lasts to the last event."""
    pl = require_polars()
    last = pl.max_horizontal(pl.col("t_h").max(), pl.col("end_h").max())
    people = pl.col("subject").drop_nulls().unique().sort()
    seen = events.group_by("stay_id").agg(last.alias("last_h"), people.alias("people")).sort("stay_id")
    for stay, several in seen.filter(pl.col("people").list.len() > 1).select("stay_id", "people").iter_rows():
        raise CohortError(f"{file}: stay {stay!r} belongs to {several[0]!r} and to {several[1]!r}; correct the subject")
    seen = seen.with_columns(who=pl.col("people").list.first())
    stays = seen if described is None else described.join(seen, on="stay_id", how="left", maintain_order="left")
    kinds = {"subject": pl.String, "sex": pl.String, **dict.fromkeys(_NUMBERS, pl.Float64)}
    kinds |= dict.fromkeys(_FLAGS, pl.Boolean)
    missing = [pl.lit(None, kind).alias(name) for name, kind in kinds.items() if name not in stays.columns]
    stays = stays.with_columns(missing)
    spent = pl.lit(None, pl.Float64)
    if {"admission", "discharge"} <= set(stays.columns):
        spent = hours_since("discharge", "admission")
    return stays.select(
        "stay_id",
        pl.coalesce("subject", "who", "stay_id").alias("subject"),
        pl.coalesce("los_h", spent, "last_h").alias("los_h"),
        "age",
        "sex",
        "weight_kg",
        *_FLAGS,
    ).sort("stay_id")
