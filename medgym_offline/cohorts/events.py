"""From the rows of MIMIC's tables, of any version, to observations: one rule each, shared by every MIMIC layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medgym_offline.cohorts import mimic_items as items
from medgym_offline.cohorts.schema import Rejections, require_polars
from medgym_offline.cohorts.tables import attach

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "CHARTED",
    "chart_values",
    "REPEATED_ORDERS",
    "charted_values",
    "described_stays",
    "drop_repeated",
    "gcs_sums",
    "intubated",
    "join_observations",
    "lab_values",
    "possible_weights",
    "urine_volumes",
    "venous_gases",
    "with_weight",
]

#: Charted items worth keeping; every other row of CHARTEVENTS is passed over while it streams.
CHARTED: tuple[str, ...] = (
    *(item for group in (*items.CHART_ITEMS.values(), *items.GCS_ITEMS.values()) for item in group),
    *items.WEIGHT_ITEMS,
)


#: Of the demos' infusions without ids, 5 in 12,651 are the same as another: orders of their own, as the raw tables' ids
#: show (two bags of one volume hung at one minute). A larger share of repeats is a table delivered twice.
REPEATED_ORDERS = 0.01


def drop_repeated(events: pl.DataFrame, rejections: Rejections, name: str, tolerated: float = 0.0) -> pl.DataFrame:
    """Rows that are the same in every column count once: twice the row must not be twice the volume.

    Args:
        events: With the row's own id, where the table has one.
        rejections: Counts are added here.
        name: What the events are, for the reason.
        tolerated: Share of repeated rows up to which each is taken for an event of its own, and doubted; see
            `REPEATED_ORDERS`.
    """
    kept = events.unique(maintain_order=True)
    repeated = events.height - kept.height
    if repeated <= tolerated * events.height:
        rejections.doubt(f"{name}: the same row again, so few that each counts as an event of its own", repeated)
        return events
    rejections.reject(f"{name}: the same row again", repeated)
    return kept


def described_stays(stays: pl.DataFrame, dataset: str, rejections: Rejections) -> pl.DataFrame:
    """`stays`, each once and with both times, sorted by id.

    Args:
        stays: stay_id, intime, los_h, ...
        dataset: Prefix of patient ids.
        rejections: Stays left out are named here.
    """
    pl = require_polars()
    once = stays.unique("stay_id", keep="first", maintain_order=True)
    rejections.reject("stays: the same stay again", stays.height - once.height)
    untimed = pl.col("los_h").is_null() | pl.col("stay_id").is_null()
    for stay in once.filter(untimed)["stay_id"]:
        rejections.stays[f"{dataset}/{stay}"] = "no readable time of admission or discharge"
    return once.filter(~untimed).sort("stay_id")


def chart_values(events: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, itemid, t_h, value, intubated of charted rows.

    Args:
        events: subject_id, icustay_id, itemid, charttime, valuenum, intubated.
        stays: stay_id, subject, intime, los_h.
        rejections: Counts are added here.
    """
    pl = require_polars()
    empty = pl.col("valuenum").is_null() & ~pl.col("intubated")
    events = rejections.drop(events, empty, "chart: no numeric value")
    return attach(events, stays, rejections, "chart", extra=("intubated",)).rename({"valuenum": "value"})


def charted_values(charted: pl.DataFrame) -> pl.DataFrame:
    """stay_id, variable, t_h, value of items charted as they are.

    Args:
        charted: stay_id, itemid, t_h, value.
    """
    pl = require_polars()
    names = {item: name for name, group in items.CHART_ITEMS.items() for item in group}
    return charted.filter(pl.col("itemid").is_in(list(names))).select(
        "stay_id", pl.col("itemid").replace_strict(names, return_dtype=pl.String).alias("variable"), "t_h", "value"
    )


def intubated(text: str) -> pl.Expr:
    """Whether a charted row says that the verbal response cannot be given: a tube is in the way.

    Args:
        text: Column beside itemid with the words ("No Response-ETT", CareVue's "1.0 ET/Trach").
    """
    pl = require_polars()
    tube = pl.col(text).str.to_lowercase().str.contains("ett|et/trach")
    return (pl.col("itemid").is_in(items.GCS_ITEMS["verbal"]) & tube).fill_null(False)


def gcs_sums(charted: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, variable, t_h, value: sum of the three components charted at one time; incomplete sets are rejected.

    With a tube in the way the verbal score is charted as 1 and means nothing: it is then predicted from the other two
    by the regression of Rutledge et al. 1996 as validated on 24,085 patients by Meredith et al. 1998 (J Trauma
    44:839), -0.3756 + 0.5713 motor + 0.4233 eye, rounded and kept to 1-5: 5 for a patient awake who obeys, 1 for one
    without any response. (mimic-code calls every such patient 15, also the comatose.)

    Args:
        charted: stay_id, itemid, t_h, value and, where the source tells, intubated.
        rejections: Counts are added here.
    """
    pl = require_polars()
    names = {item: part for part, group in items.GCS_ITEMS.items() for item in group}
    parts = charted.filter(pl.col("itemid").is_in(list(names))).with_columns(
        part=pl.col("itemid").replace_strict(names, return_dtype=pl.String)
    )
    if "intubated" not in parts.columns:
        unsure = (pl.col("part") == "verbal") & (pl.col("value") == 1.0)
        reason = "gcs: verbal score 1 without its words, so that an intubated patient cannot be told from a mute one"
        rejections.doubt(reason, parts.select(unsure.sum()).item())
        parts = parts.with_columns(intubated=pl.lit(False))
    highest = pl.col("part").replace_strict(items.GCS_HIGHEST, return_dtype=pl.Float64)
    wrong = ~pl.col("intubated") & ~pl.col("value").is_between(1.0, highest)
    parts = rejections.drop(parts, wrong, pl.format("gcs: impossible score of the component '{}'", pl.col("part")))
    whole = pl.col("part").n_unique().over("stay_id", "t_h") == len(items.GCS_ITEMS)
    parts = rejections.drop(parts, ~whole, "gcs: not all three components charted at the time")
    scores = {
        part: pl.col("value").filter((pl.col("part") == part) & ~pl.col("intubated")).mean().alias(part)
        for part in items.GCS_ITEMS
    }
    sets = parts.group_by("stay_id", "t_h").agg(*scores.values(), rows=pl.len())
    rejections.repair("gcs: a component charted twice at one time, averaged", int((sets["rows"] - 3).sum()))
    rejections.repair(
        "gcs: verbal score of an intubated patient, predicted from eye and motor", sets["verbal"].null_count()
    )
    predicted = (0.5713 * pl.col("motor") + 0.4233 * pl.col("eye") - 0.3756).round().clip(1.0, 5.0)
    total = pl.col("eye") + pl.col("motor") + pl.coalesce("verbal", predicted)
    return sets.select("stay_id", pl.lit("gcs").alias("variable"), "t_h", total.alias("value"))


def venous_gases(labs: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """`keys` of the blood gases whose every specimen record says venous or mixed.

    Two samples drawn at one minute may share the keys: the arterial one is then the one that counts.

    Args:
        labs: itemid, value (text) and `keys`.
        keys: What ties a gas to its specimen: stay_id and t_h, or a specimen id.
    """
    pl = require_polars()
    specimen = pl.col("value").str.strip_chars(" .").str.to_uppercase()
    return (
        labs.filter(pl.col("itemid").is_in(items.SPECIMEN_ITEMS))
        .group_by(list(keys))
        .agg(specimen.is_in(items.VENOUS_SPECIMENS).all().alias("venous"))
        .filter(pl.col("venous"))
    )


def lab_values(labs: pl.DataFrame, keys: Sequence[str], rejections: Rejections) -> pl.DataFrame:
    """stay_id, variable, t_h, value; gases of venous or mixed blood say nothing about arterial oxygen and go.

    Args:
        labs: stay_id, itemid, t_h, value (text), valuenum and `keys`.
        keys: See `venous_gases`.
        rejections: Counts are added here.
    """
    pl = require_polars()
    columns = list(dict.fromkeys(("stay_id", "t_h", *keys)))
    values = labs.filter(pl.col("itemid").is_in(list(items.LAB_ITEMS))).select(
        *columns,
        pl.col("itemid").replace_strict(items.LAB_ITEMS, return_dtype=pl.String).alias("variable"),
        pl.col("valuenum").alias("value"),
    )
    values = rejections.drop(values, pl.col("value").is_null(), "laboratory: no numeric value")
    gases = values.join(venous_gases(labs, keys), on=list(keys), how="left")
    bad = (pl.col("variable") == "pao2") & pl.col("venous")
    return rejections.drop(gases, bad, "pao2: venous or mixed specimen").select("stay_id", "variable", "t_h", "value")


def urine_volumes(events: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id, variable, t_h, value: mL of each record, irrigant negative (so that sums over time can be).

    Args:
        events: stay_id, itemid, t_h, value (mL, as charted).
        rejections: Counts are added here.
    """
    pl = require_polars()
    events = rejections.drop(events, pl.col("value").is_null(), "urine: value is missing or not a number")
    events = rejections.drop(events, pl.col("value") < 0.0, "urine: a record below 0")
    signed = pl.when(pl.col("itemid") == items.URINE_IRRIGANT).then(-pl.col("value")).otherwise(pl.col("value"))
    return events.select("stay_id", pl.lit("urine").alias("variable"), "t_h", value=signed)


def possible_weights(weights: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Rows whose `value` can be the weight of an adult in kg."""
    pl = require_polars()
    low, high = items.WEIGHT_RANGE
    reason = f"weight: outside {low:g}-{high:g} kg, not used (in pounds or grams?)"
    return rejections.drop(weights, ~pl.col("value").is_between(low, high), reason)


def with_weight(
    stays: pl.DataFrame, charted: pl.DataFrame, ordered: pl.DataFrame, rejections: Rejections
) -> pl.DataFrame:
    """`stays` with `weight_kg`: the median charted weight; for a stay without, the one its infusion orders name.

    Args:
        stays: stay_id, ...
        charted: stay_id, itemid, value.
        ordered: stay_id, ordered_kg.
        rejections: Counts are added here.
    """
    pl = require_polars()
    weights = (
        possible_weights(charted.filter(pl.col("itemid").is_in(items.WEIGHT_ITEMS)), rejections)
        .group_by("stay_id")
        .agg(pl.col("value").median().alias("weight_kg"))
    )
    return (
        stays.join(weights, on="stay_id", how="left", maintain_order="left")
        .join(ordered, on="stay_id", how="left", maintain_order="left")
        .with_columns(pl.coalesce("weight_kg", "ordered_kg").alias("weight_kg"))
        .drop("ordered_kg")
    )


def join_observations(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """All observations; sources that chart a variable twice at one time are averaged later, by validation."""
    pl = require_polars()
    columns = ("stay_id", "variable", "t_h", "value")
    return pl.concat([part.select(columns) for part in parts]).sort("stay_id", "variable", "t_h")
