"""Source: one long table of any hospital (a row a value), with a second table of stays where times are timestamps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts.drugs import VASOPRESSORS, drug_named
from medgym_offline.cohorts.events import drop_repeated
from medgym_offline.cohorts.schema import VARIABLES, Rejections, require_polars
from medgym_offline.cohorts.source import Records, dataset_licence
from medgym_offline.cohorts.tables import collect, column_names, hours_since, numbers, scan_file, times
from medgym_offline.cohorts.units import DRUGS, accepted_units, conversion
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LongTable"]

_COLUMNS = ("stay", "time", "variable", "value", "unit")
_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_NUMBERS = ("los_h", "age", "weight_kg")
_FLAGS = ("sepsis", "died")
_NAMES = ("events", "stays")
_INFUSIONS = ("vasopressor", "fluids", *DRUGS)
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


class LongTable:
    """A file, or a folder with `events` and perhaps `stays`, as .csv, .csv.gz or .parquet.

    Events: `stay, time, variable, value, unit`, and `end` for treatments; `subject` may be here or in the stays.
    `time` and `end` are hours since ICU admission, or timestamps if the stays name the `admission`.
    Stays: `stay`, and any of `subject, admission, discharge, los_h, age, sex, weight_kg, sepsis, died`.
    See docs/cohorts.md for the template.
    """

    layout = "long table"

    def matches(self, path: Path) -> bool:
        """Whether the events have the columns (by the header)."""
        events, _ = _files(path)
        if events is None:
            return False
        try:
            return set(_COLUMNS) <= column_names(events)
        except CohortError:
            return False

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
        described = None if stays_file is None else _scan_stays(stays_file)
        events = _on_one_clock(events, described, file, rejections)
        events = _converted(events, file, rejections)
        stays = _stays(events, described)
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
        stem = _stem(path)
        beside = [path.with_name(f"{stem}-stays{suffix}") for suffix in _SUFFIXES]
        events: Path | None = path if path.name.lower().endswith(_SUFFIXES) else None
        return events, next((p for p in beside if p.is_file()), None)
    found = [next((path / f"{name}{s}" for s in _SUFFIXES if (path / f"{name}{s}").is_file()), None) for name in _NAMES]
    return found[0], found[1]


def _stem(path: Path) -> str:
    return re.sub(r"\.(csv|csv\.gz|parquet)$", "", path.name, flags=re.IGNORECASE)


def _dataset(path: Path) -> str:
    """Prefix of patient ids: the name of the file or folder, in plain letters."""
    name = _stem(path) if path.is_file() else path.resolve().name
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "hospital"


def _scan(file: Path, rejections: Rejections) -> pl.DataFrame:
    """stay_id, variable, unit, time and end (text), value; rows of other variables are passed over and counted."""
    pl = require_polars()
    known = (*VARIABLES, *DRUGS)
    frame = scan_file(file, _COLUMNS, optional=("subject", "end"))
    named = frame.with_columns(pl.col("variable").str.strip_chars().str.to_lowercase())
    mine = pl.col("variable").is_in(known).fill_null(False)
    synonyms = {}
    for name, count in collect(named.filter(~mine).group_by("variable").len(), file).sort("variable").iter_rows():
        drug = drug_named(name or "")
        if drug is None:
            rejections.reject(f"unknown variable {name!r}", count)
        else:
            synonyms[name] = drug
            rejections.repair(f"{drug}: written as {name!r}", count)
    named = named.with_columns(pl.col("variable").replace(synonyms))
    events = collect(named.filter(mine).with_columns(*numbers("value")).rename({"stay": "stay_id"}), file)
    for column in ("end", "subject"):
        if column not in events.columns:
            events = events.with_columns(pl.lit(None, pl.String).alias(column))
    events = drop_repeated(events, rejections, "events")
    empty = pl.col("value").is_null()
    for name, count in events.filter(empty).group_by("variable").len().sort("variable").iter_rows():
        rejections.reject(f"{name}: value is missing or not a number", count)
    return events.filter(~empty)


def _scan_stays(file: Path) -> pl.DataFrame:
    """stay_id and whatever else the table of stays has, typed."""
    pl = require_polars()
    optional = ("subject", "admission", "discharge", "sex", *_NUMBERS, *_FLAGS)
    frame = scan_file(file, ("stay",), optional=optional)
    has = set(frame.collect_schema().names())
    typed = [*times(*(c for c in ("admission", "discharge") if c in has)), *numbers(*(c for c in _NUMBERS if c in has))]
    for name in (n for n in _FLAGS if n in has):
        text = pl.col(name).str.strip_chars().str.to_lowercase()
        typed.append(pl.when(text.is_in(_TRUE)).then(True).when(text.is_in(_FALSE)).then(False).alias(name))
    stays = collect(frame.with_columns(typed).rename({"stay": "stay_id"}), file)
    return stays.filter(pl.col("stay_id").is_not_null()).unique("stay_id", keep="first", maintain_order=True)


def _on_one_clock(events: pl.DataFrame, stays: pl.DataFrame | None, file: Path, rejections: Rejections) -> pl.DataFrame:
    """`t_h` and `end_h` in hours since admission."""
    pl = require_polars()
    hours = events.with_columns(*numbers("time", "end"))
    written = events["time"].is_not_null() & (events["time"].str.strip_chars() != "")
    if 2 * int((written & hours["time"].is_null()).sum()) <= int(written.sum()):
        out = hours.rename({"time": "t_h", "end": "end_h"})
    elif stays is None or "admission" not in stays.columns:
        raise CohortError(
            f"{file}: column 'time' holds timestamps; add a table of stays with the columns stay and admission "
            "(docs/cohorts.md), or give hours since ICU admission"
        )
    else:
        admitted = stays.select("stay_id", "admission")
        dated = events.with_columns(*times("time", "end")).join(
            admitted, on="stay_id", how="left", maintain_order="left"
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


def _converted(events: pl.DataFrame, file: Path, rejections: Rejections) -> pl.DataFrame:
    """Values in the package's unit (volumes in mL), row by row as the unit column says."""
    pl = require_polars()
    found = events.with_columns(pl.col("unit").fill_null("")).group_by("variable", "unit").len()
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
    return (
        events.with_columns(pl.col("unit").fill_null(""))
        .join(factors, on=["variable", "unit"], how="left", maintain_order="left")
        .with_columns(value=pl.col("value") * pl.col("factor"))
    )


def _stays(events: pl.DataFrame, described: pl.DataFrame | None) -> pl.DataFrame:
    """One row a stay; what nobody wrote is null, a length nobody wrote lasts to the last event."""
    pl = require_polars()
    last = pl.max_horizontal(pl.col("t_h").max(), pl.col("end_h").max())
    seen = events.group_by("stay_id").agg(last.alias("last_h"), pl.col("subject").drop_nulls().first().alias("who"))
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
        pl.col("sex").str.strip_chars().str.to_uppercase().str.slice(0, 1),
        "weight_kg",
        *_FLAGS,
    ).sort("stay_id")
