"""Records of any source -> the cohort table: rates, sums over drugs, settings held, cut to the stay."""

from __future__ import annotations

import polars as pl

from medgym_offline.cohorts import grid
from medgym_offline.cohorts.cohort import COLUMNS, Cohort
from medgym_offline.cohorts.names import nearly_equal_ids
from medgym_offline.cohorts.source import Records, Rejections
from medgym_offline.cohorts.validate import doubt_clock, fractions, ranged_attributes
from medgym_offline.diseases.concepts import CohortDefinition, Concept, Part
from medgym_offline.errors import CohortError

__all__ = ["assemble"]

#: Times are kept to a third of a second, so that two sources of one record fall on the same side of every limit.
_TIME_DIGITS = 4


def assemble(records: Records, definition: CohortDefinition) -> Cohort:
    """The validated cohort of one source.

    Args:
        records: Events on one clock per stay; see `Records`.
        definition: What the cohort holds.

    Raises:
        CohortError: two rows of one stay differ.
    """
    rejections = Rejections().add(records.rejections)
    prefix = pl.lit(records.dataset + "/")
    _doubt_ids(records, rejections)
    stays = ranged_attributes(_one_row_a_stay(records, rejections), rejections)
    points = [c.name for c in (*definition.variables, *definition.treatments) if c.gridding != "infusion"]
    doubt_clock(records.events.filter(pl.col("name").is_in(points)), stays, definition, rejections)
    stays = stays.with_columns(
        pl.col("los_h").round(_TIME_DIGITS),
        patient=prefix + pl.col("stay_id"),
        dataset=pl.lit(records.dataset),
        subject=prefix + pl.col("subject"),
    )
    times = [pl.col(column).round(_TIME_DIGITS) for column in ("t_h", "end_h")]
    events = records.events.with_columns(*times, patient=prefix + pl.col("stay_id"))
    known = pl.col("patient").is_in(stays["patient"].to_list()).fill_null(False)
    events = rejections.drop(events, (~known, "no such stay in the stays table"))
    parts = []
    for concept in definition.concepts.values():
        mine = events.filter(pl.col("name").is_in([concept.name, *(part.name for part in concept.parts)]))
        if concept.gridding == "infusion":
            rows = _infusion(mine, concept, stays, rejections)
        else:
            mine = mine.join(stays.select("patient", "los_h"), on="patient", how="left", maintain_order="left")
            late = pl.col("t_h") > pl.col("los_h")
            mine = rejections.drop(mine, (late, f"{concept.name}: after discharge")).drop("los_h")
            if concept.gridding == "rate":
                rows = _rate(mine, concept, rejections)
            elif concept.gridding == "held":
                rows = _held(mine, concept, stays, rejections)
            else:
                rows = mine.with_columns(end_h=pl.lit(None, pl.Float64))
        parts.append(rows.select("patient", "value", "end_h", time_h="t_h", variable=pl.lit(concept.name)))
    source = str(records.provenance.get("folder") or records.dataset)
    table = pl.concat(parts).with_columns(source=pl.lit(source)).sort("patient", "time_h", "variable")
    metadata = {
        "provenance": [{"dataset": records.dataset, **records.provenance}],
        "license": records.provenance.get("license", ""),
        "definitions": dict(definition.notes),
    }
    cohort = Cohort.from_table(table.select(COLUMNS), definition, stays, metadata, rejections, where=source)
    seen = set(cohort.patients) | set(cohort.rejections.stays)
    for patient in sorted(set(stays["patient"].to_list()) - seen):
        cohort.rejections.stays[patient] = "no observation"
    return cohort


def _one_row_a_stay(records: Records, rejections: Rejections) -> pl.DataFrame:
    stays = rejections.distinct(records.stays, "stays")
    twice = stays.filter(stays["stay_id"].is_duplicated()).sort("stay_id")
    if twice.height:
        first, second = twice.head(2).iter_rows()
        differ = [name for name, one, other in zip(twice.columns, first, second) if one != other]
        where, stay = records.provenance.get("folder", records.dataset), twice["stay_id"][0]
        raise CohortError(f"{where}: stay {stay!r} has rows that differ in {', '.join(differ)}; keep one row a stay")
    return stays


def _doubt_ids(records: Records, rejections: Rejections) -> None:
    named = pl.concat([frame["stay_id"].unique().cast(pl.String) for frame in (records.stays, records.events)])
    for what, names in {"subjects": records.stays["subject"], "stays": named}.items():
        for group in nearly_equal_ids(names.unique()):
            rejections.doubt(f"{what} {' and '.join(map(repr, group))}: one, written in two ways?", len(group))


def _rate(rows: pl.DataFrame, concept: Concept, rejections: Rejections) -> pl.DataFrame:
    """Rates, of records of an amount and of charted rates; the cap comes last, so that it hides no value."""
    name, limit, cap = concept.name, concept.record_limit, concept.cap
    total = next((unit.name for unit in concept.units if unit.amount and unit.factor == 1.0), "")
    value, time, charted = pl.col("value"), pl.col("t_h"), ~pl.col("amount")
    rows = rejections.drop(
        rows,
        (~charted & value.is_null(), f"{name}: value is missing or not a number"),
        (~charted & (value.abs() >= limit), f"{name}: {limit:g} {total} or more in one record"),
        (charted & (value >= concept.period_hours * limit), f"{name}: {limit:g} {total} or more an hour"),
        (time.is_null(), f"{name}: time is missing or not a number"),
        (time < 0.0, f"{name}: negative time (too long before admission)"),
    )
    columns = ("patient", "t_h", "value")
    amounts = grid.record_rates(rows.filter(~charted).select(columns), concept, rejections)
    rates = pl.concat([rows.filter(charted).select(columns), amounts])
    merged = _averaged(rates, rejections)
    reason = f"{name}: above {cap:g} {concept.unit}, kept at the cap as censored"
    rejections.repair(reason, int((merged["value"] > cap).sum()))
    return merged.with_columns(pl.col("value").clip(upper_bound=cap), end_h=pl.lit(None, pl.Float64))


def _averaged(rows: pl.DataFrame, rejections: Rejections, *also: pl.Expr) -> pl.DataFrame:
    merged = rows.group_by("patient", "t_h", maintain_order=True).agg(pl.col("value").mean(), *also)
    rejections.repair("several values at one time, averaged", rows.height - merged.height)
    return merged


def _held(settings: pl.DataFrame, concept: Concept, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Settings are judged before they are held: a wrong one must not end the right one before it."""
    name, value = concept.name, pl.col("value")
    missing = value.is_null() | pl.col("t_h").is_null()
    settings = fractions(settings.with_columns(variable="name"), concept, rejections)
    settings = rejections.drop(
        settings,
        (missing, f"{name}: value is missing or not a number"),
        (~value.is_between(*concept.range), f"{name}: impossible value"),
        (pl.col("t_h") < -concept.lookback, f"{name}: negative time (too long before admission)"),
    )
    held = grid.hold_settings(_averaged(settings, rejections, pl.col("end_h").max()), concept.hold_hours)
    held = rejections.drop(held, (pl.col("end_h") <= 0.0, f"{name}: a setting that ended before admission"))
    return grid.clip_intervals(held, stays, name, rejections)


def _infusion(rows: pl.DataFrame, concept: Concept, stays: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """Disjoint intervals with the sum over everything running, in the unit of the concept."""
    name, high = concept.name, concept.range[1]
    value, start, end = pl.col("value"), pl.col("t_h"), pl.col("end_h")
    doses: tuple[Concept | Part, ...] = (concept, *concept.parts) if concept.parts else ()
    for named in doses:
        limit, unit = named.limit, named.unit
        hint = f" (in {named.mistaken}?)" if named.mistaken else ""
        high_dose = (pl.col("name") == named.name) & (value > limit)
        rows = rejections.drop(rows, (high_dose, f"{named.name}: above {limit:g} {unit}{hint}"))
    factors = {name: 1.0, **{part.name: part.factor for part in concept.parts}}
    factor = pl.col("name").replace_strict(factors, return_dtype=pl.Float64)
    rows = grid.interval_rates(rows.with_columns(value=pl.coalesce("total", value * factor)), concept, rejections)
    rows = rejections.drop(
        rows,
        (start.is_null(), f"{name}: time is missing or not a number"),
        (end.is_null(), f"{name}: interval without an end"),
        (end <= start, f"{name}: interval ends before it starts"),
        (value.is_null() | ~value.is_finite(), f"{name}: value is missing or not a number"),
        (value < 0.0, f"{name}: impossible value"),
        (value > high, f"{name}: above {high:g} {concept.unit}"),
        (value.round(grid.RATE_DIGITS) == 0.0, f"{name}: nothing given (0)"),
    )
    rows = grid.clip_intervals(rows, stays, name, rejections)
    summed = grid.sum_overlapping(rows)
    keys = ["patient", "t_h", "end_h", "value"]
    same = rows.with_columns(value.round(grid.RATE_DIGITS)).join(summed, on=keys, how="semi")
    rejections.repair(f"{name}: interval joined to or summed with others", rows.height - same.height)
    return summed
