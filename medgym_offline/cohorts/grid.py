"""The cohort on a regular grid, as NumPy arrays: what the simulators are fitted on.

From charted events to rates and intervals: amounts since the last record, settings held, infusions added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from medgym_offline.cohorts.source import Rejections
from medgym_offline.diseases.concepts import CohortDefinition, Concept

__all__ = [
    "GridCohort", "RATE_DIGITS", "cell_sums", "clip_intervals", "hold_settings", "interval_rates", "make_grid",
    "numbered_rows", "record_rates", "sum_overlapping",
]  # fmt: skip


@dataclass(frozen=True)
class GridCohort:
    """P stays on a grid of T cells of `hours` hours; physical units; V variables and U treatments of a definition.

    Attributes:
        patients: Ids (P).
        subjects: Person behind each stay (P); two stays with one subject must not play different roles.
        hours: Width of a cell.
        values: (P, T, V) median of the observations nearest to time k*hours; NaN where `mask` is False. Values from
            within the look-back of a variable before admission count at k = 0.
        mask: (P, T, V) whether anything was observed.
        treatment: (P, T, U) averaged over [k*hours, (k+1)*hours): in force between the observations at k and k+1.
            The background of a treatment where nothing was charted.
        length: (P,) number of cells inside the stay, floor(min(horizon, los)/hours). Nothing after it is observed.
        derived: Name -> (P, T), what the definition derives.
    """

    patients: tuple[str, ...]
    subjects: tuple[str, ...]
    hours: float
    values: np.ndarray
    mask: np.ndarray
    treatment: np.ndarray
    length: np.ndarray
    derived: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.patients)

    @property
    def inside(self) -> np.ndarray:
        """(P, T) bool: the cell lies inside the stay."""
        return np.arange(self.values.shape[1])[None, :] < self.length[:, None]


def make_grid(
    table: pl.DataFrame, stays: pl.DataFrame, definition: CohortDefinition, hours: float, horizon: float
) -> GridCohort:
    """Grid of a validated table; see :class:`GridCohort`.

    Args:
        table: Long-form cohort table.
        stays: patient, subject, los_h; gives the order of the patients.
        definition: What the table holds.
        hours: Width of a cell, > 0.
        horizon: Hours covered.
    """
    patients = tuple(stays["patient"].to_list())
    cells = int(horizon / hours + 1e-9)
    los = stays["los_h"].to_numpy().astype(float)
    length = np.floor(np.minimum(horizon, los) / hours + 1e-9).astype(np.int64)
    outside = np.arange(cells)[None, :] >= length[:, None]
    values = np.full((len(patients), cells, len(definition.variables)), np.nan)
    nearest = (pl.col("time_h") / hours + 0.5).floor().clip(lower_bound=0.0).cast(pl.Int64)
    for column, name in enumerate(definition.observed):
        rows = numbered_rows(table, patients, name).with_columns(cell=nearest).filter(pl.col("cell") < cells)
        medians = rows.group_by("row", "cell").agg(pl.col("value").median())
        values[medians["row"].to_numpy(), medians["cell"].to_numpy(), column] = medians["value"].to_numpy()
    values[outside] = np.nan
    treatment = np.zeros((len(patients), cells, len(definition.treatments)))
    for column, concept in enumerate(definition.treatments):
        rows = numbered_rows(table, patients, concept.name)
        row, start, end, value = (rows[name].to_numpy() for name in ("row", "time_h", "end_h", "value"))
        total, covered = cell_sums(row, start, end, value, (len(patients), cells), hours)
        treatment[:, :, column] = (total + concept.background * np.clip(hours - covered, 0.0, None)) / hours
    treatment[outside] = [concept.background for concept in definition.treatments]
    subjects = tuple(stays["subject"].to_list())
    grid = GridCohort(patients, subjects, hours, values, ~np.isnan(values), treatment, length)
    return replace(grid, derived={part.name: part.compute(table, grid) for part in definition.derived})


def numbered_rows(table: pl.DataFrame, patients: Sequence[str], variable: str) -> pl.DataFrame:
    """Rows of one variable, with `row`: the patient's place among `patients`."""
    numbers = {"patient": list(patients), "row": np.arange(len(patients))}
    order = pl.DataFrame(numbers, schema_overrides={"patient": pl.String})
    return table.filter(pl.col("variable") == variable).join(order, on="patient", how="inner", maintain_order="left")


def cell_sums(
    row: np.ndarray, start: np.ndarray, end: np.ndarray, value: np.ndarray, shape: tuple[int, int], hours: float
) -> tuple[np.ndarray, np.ndarray]:
    """Integral of `value` over the part of each interval inside each cell, and the hours covered.

    Args:
        row: (N,) patient index of each interval.
        start: (N,) hours.
        end: (N,) hours, >= start.
        value: (N,) per hour.
        shape: (P, T).
        hours: Width of a cell.

    Returns:
        Integral (P, T) and covered hours (P, T).
    """
    limit = shape[1] * hours
    start, end = np.clip(start, 0.0, limit), np.clip(end, 0.0, limit)
    first = np.floor(start / hours).astype(np.int64)
    pieces = np.where(end > start, np.ceil(end / hours - 1e-12).astype(np.int64) - first, 0)
    owner = np.repeat(np.arange(len(row)), pieces)
    cell = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    overlap = np.minimum(end[owner], (cell + 1) * hours) - np.maximum(start[owner], cell * hours)
    flat = row[owner] * shape[1] + np.minimum(cell, shape[1] - 1)
    # Of no interval at all NumPy counts in integers.
    sums = (np.bincount(flat, weights=w, minlength=shape[0] * shape[1]) for w in (overlap * value[owner], overlap))
    total, covered = (part.reshape(shape).astype(float) for part in sums)
    return total, covered


#: Sums of rates are rounded to so many digits: a rate below is none.
RATE_DIGITS = 9
#: Charting times are whole minutes; differences of rounded hours are not.
_SLACK = 1e-3


def record_rates(amounts: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """Rate per `period_hours` from the amount of each record.

    A record is what collected since the record before it (the first: since admission). Records closer than
    `merge_hours` to the first of their group are one record at the time of the last; gaps above `gap_hours` say nothing
    about the rate and are dropped; a sum below 0 (what went in is negative) counts as 0.

    Args:
        amounts: patient, t_h (hours since admission, >= 0), value.
        concept: Of gridding "rate".
        rejections: Counts are added here.

    Returns:
        patient, t_h, value (a rate), sorted.
    """
    name, window = concept.name, concept.merge_hours
    amounts = amounts.sort("patient", "t_h")
    group = _merge_groups(amounts["patient"], amounts["t_h"].to_numpy(), window)
    merged = (
        amounts.with_columns(pl.Series("group", group))
        .group_by("group", maintain_order=True)
        .agg(pl.col("patient").first(), pl.col("t_h").last(), pl.col("value").sum())
        .with_columns(gap=pl.col("t_h") - pl.col("t_h").shift(1, fill_value=0.0).over("patient"))
    )
    rejections.repair(f"{name}: records closer than {window:g} h merged", amounts.height - merged.height)
    rejections.repair(f"{name}: a sum below 0, set to 0", int((merged["value"] < 0).sum()))
    far = pl.col("gap") > concept.gap_hours + _SLACK
    near = rejections.drop(merged, (far, f"{name}: more than {concept.gap_hours:g} h since the record before it"))
    # A gap shorter than the window (just after admission, or after a merged group) is charting noise, not a rate.
    amount = pl.col("value").clip(lower_bound=0.0)
    rate = amount * concept.period_hours / pl.col("gap").clip(lower_bound=window)
    return near.select("patient", "t_h", rate.alias("value"))


def _merge_groups(patient: pl.Series, time: np.ndarray, window: float) -> np.ndarray:
    """Group number per record: a new group where the patient changes or the window has passed since its first."""
    group = np.empty(len(time), dtype=np.int64)
    current, start, owner = -1, -np.inf, -1
    # Sequential by nature (each group starts where the last one ended), and cheap: one pass over plain numbers.
    for row, (who, when) in enumerate(zip(patient.rle_id().to_list(), time.tolist())):
        if who != owner or when - start >= window - _SLACK:
            current, start, owner = current + 1, when, who
        group[row] = current
    return group


def hold_settings(settings: pl.DataFrame, hold: float) -> pl.DataFrame:
    """Intervals from point settings: each holds until the next one, at most `hold` hours.

    Args:
        settings: patient, t_h, value, end_h (null where no end is charted); one row per patient and time.
        hold: Hours after which an unconfirmed setting ends.

    Returns:
        patient, t_h, end_h, value, sorted and disjoint.
    """
    following, end = pl.col("t_h").shift(-1).over("patient"), pl.coalesce("end_h", pl.col("t_h") + hold)
    held = settings.sort("patient", "t_h").with_columns(end_h=pl.min_horizontal(end, following))
    return held.select("patient", "t_h", "end_h", "value").filter(pl.col("end_h") > pl.col("t_h"))


def sum_overlapping(intervals: pl.DataFrame) -> pl.DataFrame:
    """Disjoint intervals whose value is the sum of all intervals in force.

    Args:
        intervals: patient, t_h, end_h (> t_h), value.

    Returns:
        patient, t_h, end_h, value; sorted, disjoint, zero stretches left out, equal neighbors joined.
    """
    opens = intervals.select("patient", t="t_h", change="value", opened=pl.lit(1, pl.Int64))
    closes = intervals.select("patient", t="end_h", change=-pl.col("value"), opened=pl.lit(-1, pl.Int64))
    steps = (
        pl.concat([opens, closes])
        .group_by("patient", "t")
        .agg(pl.col("change").sum(), pl.col("opened").sum())
        .sort("patient", "t")
        .with_columns(
            value=pl.col("change").cum_sum().over("patient"),
            running=pl.col("opened").cum_sum().over("patient"),
            end_h=pl.col("t").shift(-1).over("patient"),
        )
        # The running count, not the running sum, says when nothing runs: the sum keeps rounding residue.
        .with_columns(value=pl.when(pl.col("running") > 0).then(pl.col("value").round(RATE_DIGITS)).otherwise(0.0))
        .filter(pl.col("end_h").is_not_null())
    )
    first, last = (pl.col(c).first() for c in ("patient", "value")), pl.col("end_h").last()
    joined = steps.group_by(pl.struct("patient", "value").rle_id().alias("run"), maintain_order=True).agg(
        pl.col("t").first().alias("t_h"), last, *first
    )
    return joined.filter(pl.col("value") > 0.0).select("patient", "t_h", "end_h", "value")


def interval_rates(intervals: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """`intervals` with rates per hour for amounts; an amount given in less than `least_hours` is spread over so long.

    Args:
        intervals: patient, t_h, end_h, value, amount (bool).
        concept: Of gridding "infusion".
        rejections: Counts are added here.
    """
    hours = pl.col("end_h") - pl.col("t_h")
    short = pl.col("amount") & (hours < concept.least_hours) & (hours >= 0.0)
    reason = f"{concept.name}: push shorter than {concept.least_hours:g} h spread over {concept.least_hours:g} h"
    rejections.repair(reason, intervals.select(short.sum()).item())
    spread = pl.when(short).then(pl.col("t_h") + concept.least_hours).otherwise("end_h")
    rate = pl.when("amount").then(pl.col("value") / hours).otherwise("value")
    return intervals.with_columns(end_h=spread).with_columns(value=rate)


def clip_intervals(intervals: pl.DataFrame, stays: pl.DataFrame, name: str, rejections: Rejections) -> pl.DataFrame:
    """Cut intervals to the stay, [0, los_h]; those wholly outside are rejected, those cut are counted as repaired.

    Args:
        intervals: patient, t_h, end_h, value.
        stays: patient, los_h.
        name: Variable, for the reasons.
        rejections: Counts are added here.
    """
    joined = intervals.join(stays.select("patient", "los_h"), on="patient", how="inner", maintain_order="left")
    within = (pl.col("end_h") > 0.0) & (pl.col("t_h") < pl.col("los_h"))
    inside = rejections.drop(joined, (~within.fill_null(False), f"{name}: outside the stay"))
    cut = (pl.col("t_h") < 0.0) | (pl.col("end_h") > pl.col("los_h"))
    rejections.repair(f"{name}: interval cut to the stay", inside.select(cut.sum()).item())
    ends = {"t_h": pl.col("t_h").clip(lower_bound=0.0), "end_h": pl.min_horizontal("end_h", "los_h")}
    return inside.with_columns(**ends).select("patient", "t_h", "end_h", "value")
