"""Records of any source -> the cohort table: rates, equivalents summed over drugs, settings held, cut to the stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medgym_offline.cohorts.cohort import Cohort
from medgym_offline.cohorts.events import drop_repeated
from medgym_offline.cohorts.intervals import (
    capped_urine,
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
    urine = observations.filter(pl.col("variable") == "urine")
    rejections.reject("urine: value is missing or not a number", urine["value"].null_count())
    large = (pl.col("value") >= URINE_RECORD_ML).fill_null(False)
    rejections.reject("urine: 5 litres or more in one record", urine.select(large.sum()).item())
    urine = urine.filter(pl.col("value").is_not_null() & ~large)
    untimed = urine["t_h"].is_null()
    rejections.reject("urine: time is missing or not a number", int(untimed.sum()))
    rejections.reject("urine: negative time (too long before admission)", int((urine["t_h"] < 0).sum()))
    flow = observations.filter(pl.col("variable") == "urine_rate")
    torrent = (pl.col("value") >= 24.0 * URINE_RECORD_ML).fill_null(False)
    rejections.reject("urine: 5 litres or more an hour", flow.select(torrent.sum()).item())
    flow = capped_urine(flow.filter(~torrent), rejections)
    parts = [
        _points(observations.filter(~pl.col("variable").is_in(["urine", "urine_rate", "fio2"]))),
        _points(flow.with_columns(variable=pl.lit("urine"))),
        _points(urine_rates(urine.filter(pl.col("t_h") >= 0), rejections).with_columns(variable=pl.lit("urine"))),
        _oxygen(observations.filter(pl.col("variable") == "fio2"), stays, rejections),
        _infusion(doses.select("patient", "t0_h", "t1_h", value=pl.col("neq")), "vasopressor", stays, rejections),
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
    known = named.filter(pl.col("patient").is_in(stays["patient"].to_list()).fill_null(False))
    rejections.reject("no such stay in the stays table", named.height - known.height)
    return known


def _within(frame: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    pl = require_polars()
    joined = frame.join(stays.select("patient", "los_h"), on="patient", how="left", maintain_order="left")
    late = (pl.col("t_h") > pl.col("los_h")).fill_null(False)
    for variable, count in joined.filter(late).group_by("variable").len().sort("variable").iter_rows():
        rejections.reject(f"{variable}: after discharge", count)
    return joined.filter(~late).drop("los_h")


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


def _oxygen(settings: pl.DataFrame, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Settings are judged before they are held: a wrong one must not end the right one before it."""
    pl = require_polars()
    fraction = ((pl.col("value") > 0.0) & (pl.col("value") <= 1.0)).fill_null(False)
    rejections.repair("fio2: a fraction, multiplied by 100", settings.select(fraction.sum()).item())
    settings = settings.with_columns(value=pl.when(fraction).then(pl.col("value") * 100.0).otherwise(pl.col("value")))
    low, high = RANGES["fio2"]
    good = pl.col("value").is_between(low, high).fill_null(False) & pl.col("t_h").is_not_null()
    neither = ((pl.col("value") > 1.0) & (pl.col("value") < low)).fill_null(False)
    rejections.reject(
        "fio2: between 1 and 21, neither a fraction nor a percentage", settings.select(neither.sum()).item()
    )
    rejections.reject("fio2: impossible value", settings.select((~good & ~neither).sum()).item())
    early = settings.filter(good & (pl.col("t_h") < -LOOKBACK_HOURS["fio2"])).height
    rejections.reject("fio2: negative time (too long before admission)", early)
    settings = settings.filter(good & (pl.col("t_h") >= -LOOKBACK_HOURS["fio2"]))
    if "t1_h" not in settings.columns:
        settings = settings.with_columns(t1_h=pl.lit(None, pl.Float64))
    merged = settings.group_by("patient", "t_h").agg(pl.col("value").mean(), pl.col("t1_h").max())
    rejections.repair("several values at one time, averaged", settings.height - merged.height)
    held = hold_settings(merged)
    # A setting from before admission ended before it began matters to nobody and is no fault: not counted.
    held = held.filter(pl.col("t1_h") > 0.0)
    return _spans(clip_intervals(held, stays, "fio2", rejections), "fio2")


def _infusion(intervals: pl.DataFrame, variable: str, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Disjoint intervals with the sum over everything running."""
    pl = require_polars()
    bad = pl.col("value").is_null() | ~pl.col("value").is_finite() | pl.col("t0_h").is_null() | pl.col("t1_h").is_null()
    rejections.reject(f"{variable}: value is missing or not a number", intervals.select(bad.sum()).item())
    intervals = intervals.filter(~bad)
    backwards = pl.col("t1_h") <= pl.col("t0_h")
    rejections.reject(f"{variable}: interval ends before it starts", intervals.select(backwards.sum()).item())
    intervals = intervals.filter(~backwards)
    negative = pl.col("value") < 0.0
    rejections.reject(f"{variable}: impossible value", intervals.select(negative.sum()).item())
    intervals = clip_intervals(intervals.filter(~negative), stays, variable, rejections)
    return _spans(sum_overlapping(intervals), variable)
