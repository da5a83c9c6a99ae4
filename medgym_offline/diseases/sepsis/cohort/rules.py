"""The odd cases of a sepsis cohort: what no table of item ids and units can say."""

from __future__ import annotations

import numpy as np
import polars as pl

from medgym_offline.cohorts.grid import GridCohort, cell_sums, numbered_rows
from medgym_offline.cohorts.source import Rejections
from medgym_offline.diseases.sepsis.severity import LACTATE

__all__ = [
    "COMPONENTS", "INSENSIBLE_LITRES_PER_HOUR", "IRRIGANT", "SPECIMENS", "URINE_GAP_HOURS", "arterial", "coma_scale",
    "fluid_balance", "hourly_vasopressin", "severity", "urine_records",
]  # fmt: skip

#: Item -> component of the coma scale; each starts at 1.
COMPONENTS = {"184": "eye", "220739": "eye", "723": "verbal", "223900": "verbal", "454": "motor", "223901": "motor"}
_HIGHEST = {"eye": 4.0, "verbal": 5.0, "motor": 6.0}
#: Where a blood gas says what blood it is: MIMIC-III, MIMIC-IV (which ends the words with a full stop).
SPECIMENS = "50800 52033"
_VENOUS = ("VEN", "MIX", "CENTRAL VENOUS")
#: Irrigant that went in counts negative: it comes out again as urine.
IRRIGANT = "227488"
URINE_GAP_HOURS = 12.0
INSENSIBLE_LITRES_PER_HOUR = 0.04
#: No patient gets 0.3 U/min of vasopressin: such a "per minute" is an hourly rate with the wrong unit.
_MINUTELY_LIMIT = 0.3


def coma_scale(rows: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Sums of the three components charted at one time; incomplete sets are rejected.

    With a tube in the way ("No Response-ETT", CareVue's "1.0 ET/Trach") the verbal score is charted as 1 and means
    nothing: it is then predicted from the other two by the regression of Rutledge et al. 1996 as validated on 24,085
    patients by Meredith et al. 1998 (J Trauma 44:839), -0.3756 + 0.5713 motor + 0.4233 eye, rounded and kept to 1-5: 5
    for a patient awake who obeys, 1 for one without any response. (mimic-code calls every such patient 15, also the
    comatose.)
    """
    value, part, tube = pl.col("value"), pl.col("part"), pl.col("tube")
    words = pl.col("text").str.to_lowercase().str.contains("ett|et/trach").fill_null(False)
    parts = rows.with_columns(part=pl.col("item").replace_strict(COMPONENTS, return_dtype=pl.String))
    parts = parts.with_columns(tube=(part == "verbal") & words)
    if parts["text"].null_count() == parts.height:
        unsure = parts.select(((part == "verbal") & (value == 1.0)).sum()).item()
        reason = "gcs: verbal score 1 without its words, so that an intubated patient cannot be told from a mute one"
        rejections.doubt(reason, unsure)
    highest = part.replace_strict(_HIGHEST, return_dtype=pl.Float64)
    parts = rejections.drop(
        parts,
        (~tube & value.is_null(), "gcs: no numeric value"),
        (~tube & ~value.is_between(1.0, highest), pl.format("gcs: impossible score of the component '{}'", part)),
    )
    whole = part.n_unique().over("stay_id", "t_h") == len(_HIGHEST)
    parts = rejections.drop(parts, (~whole, "gcs: not all three components charted at the time"))
    scores = {name: value.filter((part == name) & ~tube).mean() for name in _HIGHEST}
    sets = parts.group_by("stay_id", "name", "t_h").agg(**scores, rows=pl.len())
    rejections.repair("gcs: a component charted twice at one time, averaged", int((sets["rows"] - 3).sum()))
    reason = "gcs: verbal score of an intubated patient, predicted from eye and motor"
    rejections.repair(reason, sets["verbal"].null_count())
    predicted = (0.5713 * pl.col("motor") + 0.4233 * pl.col("eye") - 0.3756).round().clip(1.0, 5.0)
    total = pl.col("eye") + pl.col("motor") + pl.coalesce("verbal", predicted)
    return sets.select("stay_id", "name", "t_h", value=total)


def arterial(rows: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Gases without those whose every specimen record says venous or mixed: they say nothing about arterial oxygen.

    Two samples drawn at one minute may share the key: the arterial one is then the one that counts. All count of a
    source that does not say what blood a gas is of.
    """
    rows = rows.with_columns(key=pl.coalesce("key", pl.format("{} {}", "stay_id", "t_h")))
    specimen = pl.col("item").is_in(SPECIMENS.split())
    kind = pl.col("text").str.strip_chars(" .").str.to_uppercase()
    venous = rows.filter(specimen).group_by("key").agg(kind.is_in(_VENOUS).all().alias("venous"))
    gases = rows.filter(~specimen).join(venous, on="key", how="left", maintain_order="left")
    return rejections.drop(gases, (pl.col("venous"), "pao2: venous or mixed specimen"))


def urine_records(rows: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """mL of each record, irrigant negative (so that sums over time can be)."""
    value = pl.col("value")
    rows = rejections.drop(
        rows, (value.is_null(), "urine: value is missing or not a number"), (value < 0.0, "urine: a record below 0")
    )
    return rows.with_columns(value=pl.when(pl.col("item") == IRRIGANT).then(-value).otherwise(value))


def hourly_vasopressin(rows: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Orders with rates of vasopressin per minute that can only be per hour as such."""
    unit = pl.col("unit").str.strip_chars().str.to_lowercase()
    minutely = unit.is_in(["u/min", "units/min"]) & (pl.col("name") == "vasopressin")
    hourly = (minutely & (pl.col("value") > _MINUTELY_LIMIT)).fill_null(False)
    reason = f"vasopressin: above {_MINUTELY_LIMIT:g} U/min, taken for U/h"
    rejections.repair(reason, rows.select(hourly.sum()).item())
    return rows.with_columns(unit=pl.when(hourly).then(pl.lit("u/h")).otherwise("unit"))


def severity(stays: pl.DataFrame, grid: GridCohort) -> np.ndarray:
    """(P,) points 0 to 4: sepsis by code, any vasopressor, lactate ever 2 and ever 4."""
    highest = np.where(grid.mask[:, :, LACTATE], grid.values[:, :, LACTATE], -np.inf).max(axis=1)
    code = np.array([bool(flag) for flag in stays["sepsis"].to_list()], dtype=np.int64)
    return np.asarray(code + (grid.treatment[:, :, 1] > 0).any(axis=1) + (highest >= 2.0) + (highest >= 4.0))


def fluid_balance(table: pl.DataFrame, grid: GridCohort) -> np.ndarray:
    """(P, T) litres at time k*hours: fluids in, urine and 0.04 L/h insensible loss out, 0 at admission.

    Held after the end. A charted rate of urine holds back to the record before it; hours whose urine nobody charted
    count at the patient's mean rate.
    """
    gap = pl.col("time_h") - pl.col("time_h").shift(1, fill_value=0.0).over("patient")
    # After a gap too long to be a rate, the rejected record's own time is unknown: the next covers a charting hour.
    back = pl.when(gap > URINE_GAP_HOURS + 1e-3).then(1.0).otherwise(gap)
    rows = numbered_rows(table, grid.patients, "urine").sort("row", "time_h")
    rows = rows.with_columns(start=pl.col("time_h") - back)
    row, start, end, value = (rows[name].to_numpy() for name in ("row", "start", "time_h", "value"))
    inside = grid.inside
    shape = (inside.shape[0], inside.shape[1])
    total, covered = (part * inside for part in cell_sums(row, start, end, value / 24_000.0, shape, grid.hours))
    charted = covered.sum(axis=1, keepdims=True)
    mean = np.divide(total.sum(axis=1, keepdims=True), charted, out=np.zeros_like(charted), where=charted > 0)
    urine = (total + mean * np.clip(grid.hours - covered, 0.0, None)) / grid.hours * inside
    change = (grid.treatment[:, :, 2] / 1000.0 - urine - INSENSIBLE_LITRES_PER_HOUR) * grid.hours * inside
    balance = np.zeros(inside.shape)
    balance[:, 1:] = np.cumsum(change, axis=1)[:, :-1]
    return balance
