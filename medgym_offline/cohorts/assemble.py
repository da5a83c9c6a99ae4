"""Records of any source -> the cohort table: rates, equivalents summed over drugs, settings held, cut to the stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.drugs import VASOPRESSORS
from medgym_offline.cohorts.events import drop_repeated
from medgym_offline.cohorts.intervals import (
    RATE_DIGITS,
    clip_intervals,
    fluid_rates,
    hold_settings,
    sum_overlapping,
    urine_rates,
)
from medgym_offline.cohorts.names import nearly_equal_ids
from medgym_offline.cohorts.plausible import doubt_clock, ranged_attributes
from medgym_offline.cohorts.schema import (
    COLUMNS,
    FIO2_HOLD_HOURS,
    FLUIDS_MIN_HOURS,
    INSENSIBLE_LITRES_PER_HOUR,
    LOOKBACK_HOURS,
    RANGES,
    UNITS,
    URINE_CAP,
    URINE_MAX_GAP_HOURS,
    URINE_MERGE_HOURS,
    URINE_RECORD_ML,
    VASOPRESSOR_TABLE,
    Rejections,
    require_polars,
)
from medgym_offline.cohorts.source import Records
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["assemble", "definitions"]

#: Times are kept to a third of a second, so that two sources of one record fall on the same side of every limit.
_TIME_DIGITS = 4


def definitions() -> dict[str, Any]:
    """What the numbers of a table mean: every choice made on the way, for its metadata."""
    return {
        "vasopressor_equivalents": VASOPRESSOR_TABLE,
        "gcs": "sum of components; the verbal score of an intubated patient, where the source has the words, predicted "
        "from eye and motor (Rutledge 1996, Meredith 1998)",
        "fio2_hold_hours": FIO2_HOLD_HOURS,
        "urine_cap_ml_per_day": URINE_CAP,
        "urine_merge_hours": URINE_MERGE_HOURS,
        "urine_max_gap_hours": URINE_MAX_GAP_HOURS,
        "fluids": "volume charted (not tonicity-adjusted), as a rate over its interval",
        "fluids_min_hours": FLUIDS_MIN_HOURS,
        "insensible_litres_per_hour": INSENSIBLE_LITRES_PER_HOUR,
        "lookback_hours": dict(LOOKBACK_HOURS),
        "sepsis": "explicit ICD code: 995.91, 995.92, 785.52, A40, A41, R65.2",
        "death": "in hospital",
    }


def assemble(records: Records) -> Cohort:
    """The validated cohort of one source.

    Args:
        records: Events on one clock per stay; see `Records`.

    Raises:
        CohortError: two rows of one stay differ.
    """
    pl = require_polars()
    rejections = Rejections()
    rejections.add(records.rejections)
    prefix = pl.lit(records.dataset + "/")
    _doubt_ids(records, rejections)
    stays = ranged_attributes(_one_row_a_stay(records, rejections), rejections)
    doubt_clock(records.observations, stays, rejections)
    stays = stays.with_columns(
        pl.col("los_h").round(_TIME_DIGITS),
        patient=prefix + pl.col("stay_id"),
        dataset=pl.lit(records.dataset),
        subject=prefix + pl.col("subject"),
    )
    observations = _within(_named(records.observations, prefix, stays, rejections), stays, rejections)
    volumes = _named(records.fluids, prefix, stays, rejections)
    doses = _named(records.vasopressors, prefix, stays, rejections)
    flowing = pl.col("variable").is_in(["urine", "urine_rate"])
    parts = [
        _points(observations.filter(~flowing & (pl.col("variable") != "fio2"))),
        _points(_urine(observations.filter(flowing), rejections).with_columns(variable=pl.lit("urine"))),
        _oxygen(observations.filter(pl.col("variable") == "fio2"), stays, rejections),
        _infusion(_doses(doses, rejections), "vasopressor", stays, rejections),
        _infusion(fluid_rates(volumes, rejections), "fluids", stays, rejections),
    ]
    source = str(records.provenance.get("folder") or records.dataset)
    table = pl.concat(parts).with_columns(source=pl.lit(source)).sort("patient", "time_h", "variable")
    metadata = {
        "provenance": [{"dataset": records.dataset, **records.provenance}],
        "licence": records.provenance.get("licence", ""),
        "definitions": definitions(),
    }
    cohort = Cohort.from_table(table.select(COLUMNS), stays, metadata, rejections, where=source)
    seen = set(cohort.patients) | set(cohort.rejections.stays)
    for patient in sorted(set(stays["patient"].to_list()) - seen):
        cohort.rejections.stays[patient] = "no observation"
    return cohort


def _one_row_a_stay(records: Records, rejections: Rejections) -> pl.DataFrame:
    stays = drop_repeated(records.stays, rejections, "stays")
    twice = stays.filter(stays["stay_id"].is_duplicated()).sort("stay_id")
    if twice.height:
        first, second = twice.head(2).iter_rows()
        differ = [name for name, one, other in zip(twice.columns, first, second) if one != other]
        raise CohortError(
            f"{records.provenance.get('folder', records.dataset)}: stay {twice['stay_id'][0]!r} has rows that differ "
            f"in {', '.join(differ)}; keep one row a stay"
        )
    return stays


def _doubt_ids(records: Records, rejections: Rejections) -> None:
    ids = {"subjects": records.stays["subject"]}
    pl = require_polars()
    frames = (records.stays, records.observations, records.vasopressors, records.fluids)
    ids["stays"] = pl.concat([frame["stay_id"].unique().cast(pl.String) for frame in frames])
    for what, names in ids.items():
        for group in nearly_equal_ids(names.unique()):
            rejections.doubt(f"{what} {' and '.join(map(repr, group))}: one, written in two ways?", len(group))


def _named(frame: pl.DataFrame, prefix: pl.Expr, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    times = [pl.col(column).round(_TIME_DIGITS) for column in ("t_h", "t0_h", "t1_h") if column in frame.columns]
    named = frame.with_columns(*times, patient=prefix + pl.col("stay_id"))
    known = pl.col("patient").is_in(stays["patient"].to_list()).fill_null(False)
    return rejections.drop(named, ~known, "no such stay in the stays table")


def _within(frame: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    joined = frame.join(stays.select("patient", "los_h"), on="patient", how="left", maintain_order="left")
    late = pl.col("t_h") > pl.col("los_h")
    return rejections.drop(joined, late, pl.format("{}: after discharge", pl.col("variable"))).drop("los_h")


def _points(frame: pl.DataFrame) -> pl.DataFrame:
    pl = require_polars()
    return frame.select(
        "patient", time_h=pl.col("t_h"), end_h=pl.lit(None, pl.Float64), variable="variable", value="value"
    )


def _spans(frame: pl.DataFrame, variable: str) -> pl.DataFrame:
    pl = require_polars()
    return frame.select(
        "patient", time_h=pl.col("t0_h"), end_h=pl.col("t1_h"), variable=pl.lit(variable), value=pl.col("value")
    )


def _urine(observations: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Rates in mL/day, of records of a volume and of charted rates; the cap comes last, so that it hides no value."""
    pl = require_polars()
    charted = pl.col("variable") == "urine_rate"
    value, time = pl.col("value"), pl.col("t_h")
    for bad, reason in (
        (~charted & value.is_null(), "value is missing or not a number"),
        (~charted & (value.abs() >= URINE_RECORD_ML), "5 litres or more in one record"),
        (charted & (value >= 24.0 * URINE_RECORD_ML), "5 litres or more an hour"),
        (time.is_null(), "time is missing or not a number"),
        (time < 0.0, "negative time (too long before admission)"),
    ):
        observations = rejections.drop(observations, bad, f"urine: {reason}")
    columns = ("patient", "t_h", "value")
    volumes = urine_rates(observations.filter(~charted).select(columns), rejections)
    rates = pl.concat([observations.filter(charted).select(columns), volumes])
    merged = rates.group_by("patient", "t_h", maintain_order=True).agg(pl.col("value").mean())
    rejections.repair("several values at one time, averaged", rates.height - merged.height)
    rejections.repair("urine: above 5000 mL/day, kept at the cap as censored", int((merged["value"] > URINE_CAP).sum()))
    return merged.with_columns(pl.col("value").clip(upper_bound=URINE_CAP))


def _doses(doses: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """patient, t0_h, t1_h, value (norepinephrine equivalents) of doses that can be; without a drug, the sum is judged.

    Args:
        doses: patient, t0_h, t1_h, neq and, where a source tells drugs apart, drug and dose.
        rejections: Counts are added here.
    """
    pl = require_polars()
    for column, kind in (("drug", pl.String), ("dose", pl.Float64)):
        if column not in doses.columns:
            doses = doses.with_columns(pl.lit(None, kind).alias(column))
    total = RANGES["vasopressor"][1]
    named = pl.col("drug").is_in(list(VASOPRESSORS)) & pl.col("dose").is_not_null()
    limits = {name: drug.limit for name, drug in VASOPRESSORS.items()}
    limit = pl.when(named).then(pl.col("drug").replace_strict(limits, default=None, return_dtype=pl.Float64))
    words = {
        name: f"{name}: above {drug.limit:g} {drug.unit} (in {drug.other}?)" for name, drug in VASOPRESSORS.items()
    }
    reason = pl.when(named).then(pl.col("drug").replace_strict(words, default=None, return_dtype=pl.String))
    high = pl.when(named).then(pl.col("dose") > limit).otherwise(pl.col("neq") > total)
    reason = reason.otherwise(pl.lit(f"vasopressor: above {total:g} {UNITS['vasopressor']} (in mcg/min?)"))
    return rejections.drop(doses, high, reason).select("patient", "t0_h", "t1_h", value=pl.col("neq"))


def _oxygen(settings: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Settings are judged before they are held: a wrong one must not end the right one before it."""
    pl = require_polars()
    fraction = ((pl.col("value") > 0.0) & (pl.col("value") <= 1.0)).fill_null(False)
    rejections.repair("fio2: a fraction, multiplied by 100", settings.select(fraction.sum()).item())
    settings = settings.with_columns(value=pl.when(fraction).then(pl.col("value") * 100.0).otherwise(pl.col("value")))
    low, high = RANGES["fio2"]
    value = pl.col("value")
    for bad, reason in (
        (value.is_null() | pl.col("t_h").is_null(), "value is missing or not a number"),
        ((value > 1.0) & (value < low), f"between 1 and {low:g}, neither a fraction nor a percentage"),
        (~value.is_between(low, high), "impossible value"),
        (pl.col("t_h") < -LOOKBACK_HOURS["fio2"], "negative time (too long before admission)"),
    ):
        settings = rejections.drop(settings, bad, f"fio2: {reason}")
    if "t1_h" not in settings.columns:
        settings = settings.with_columns(t1_h=pl.lit(None, pl.Float64))
    merged = settings.group_by("patient", "t_h").agg(pl.col("value").mean(), pl.col("t1_h").max())
    rejections.repair("several values at one time, averaged", settings.height - merged.height)
    held = rejections.drop(hold_settings(merged), pl.col("t1_h") <= 0.0, "fio2: a setting that ended before admission")
    return _spans(clip_intervals(held, stays, "fio2", rejections), "fio2")


def _infusion(intervals: pl.DataFrame, variable: str, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Disjoint intervals with the sum over everything running."""
    pl = require_polars()
    value, high = pl.col("value"), RANGES[variable][1]
    for bad, reason in (
        (pl.col("t0_h").is_null(), "time is missing or not a number"),
        (pl.col("t1_h").is_null(), "interval without an end"),
        (pl.col("t1_h") <= pl.col("t0_h"), "interval ends before it starts"),
        (value.is_null() | ~value.is_finite(), "value is missing or not a number"),
        (value < 0.0, "impossible value"),
        (value > high, f"above {high:g} {UNITS[variable]}"),
        (value.round(RATE_DIGITS) == 0.0, "nothing given (0)"),
    ):
        intervals = rejections.drop(intervals, bad, f"{variable}: {reason}")
    intervals = clip_intervals(intervals, stays, variable, rejections)
    summed = sum_overlapping(intervals)
    same = intervals.with_columns(value.round(RATE_DIGITS)).join(
        summed, on=["patient", "t0_h", "t1_h", "value"], how="semi"
    )
    reason = f"{variable}: interval joined to or summed with others"
    rejections.repair(reason, intervals.height - same.height)
    return _spans(summed, variable)
