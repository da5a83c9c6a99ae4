"""Units a hospital may declare, and what turns them into a concept's own; an unknown one is refused, not guessed."""

from __future__ import annotations

import polars as pl

from medgym_offline.cohorts.frames import Rejections
from medgym_offline.diseases.concepts import CohortDefinition, Concept, Part, Unit

__all__ = ["accepted_units", "conversion", "in_own_units"]

_SPELLINGS = (
    *(("µ", "u"), ("μ", "u"), ("mcg", "ug"), ("percent", "%"), ("units", "u"), ("liters", "l"), ("liter", "l")),
    *(("litre", "l"), ("/hour", "/h"), ("/hr", "/h"), ("/24h", "/day"), ("/minute", "/min")),
)
#: kg where the weight is unknown (chosen: a usual adult's).
_DEFAULT_WEIGHT = 80.0


def _plain(unit: str) -> str:
    """One spelling: lower case, no blanks, mcg as ug."""
    out = "".join(unit.split()).lower()
    for written, meant in _SPELLINGS:
        out = out.replace(written, meant)
    return out


def _units(named: Concept | Part) -> tuple[Unit, ...]:
    return (Unit(named.unit), *named.units)


def conversion(named: Concept | Part, unit: str, item: str | None = None, orders: bool = False) -> Unit | None:
    """The unit that `unit` names, None where it is not known for the concept or part.

    Case, blanks and the usual spellings (mcg, ug, µg; hr, h; percent) make no difference.

    Args:
        named: What the value is of.
        unit: As written.
        item: Its item id, where the source has one: some units are known for some items only.
        orders: Whether a rate of the whole patient can be divided by the weight.
    """
    alike = [known for known in _units(named) if _plain(known.name) == _plain(unit)]
    allowed = (known for known in alike if orders or not known.per_patient)
    return next((known for known in allowed if not known.items or item in known.items), None)


def accepted_units(named: Concept | Part) -> tuple[str, ...]:
    """Units that a table may be in, the concept's own first."""
    return tuple(unit.name for unit in _units(named) if unit.name and not unit.per_patient and not unit.items)


def in_own_units(
    rows: pl.DataFrame, definition: CohortDefinition, rejections: Rejections, weights: pl.DataFrame
) -> pl.DataFrame:
    """Rows of orders in their concept's unit, with `amount`: whether the value is a total; of unknown units rejected.

    Args:
        rows: stay_id, item, name, value, unit (empty: as the concept's own, and doubted).
        definition: Knows the names.
        rejections: Counts are added here.
        weights: stay_id, weight_kg.
    """
    rows = rows.with_columns(pl.col("unit").fill_null("").str.strip_chars().str.to_lowercase())
    found = []
    keys = ["name", "item", "unit"]
    for name, item, unit, count in rows.group_by(keys).len().sort(keys).iter_rows():
        named, owner = definition.readable[name], definition.owner[name]
        if owner.given == "amount" and not unit:
            known: Unit | None = Unit("", amount=True)
            rejections.doubt(f"{name}: amount without a unit, read as it is", count)
        else:
            known = conversion(named, unit, item, orders=True)
            known = None if known is not None and known.amount != (owner.given == "amount") else known
        if known is None:
            rejections.reject(f"{name}: unit {unit!r} unknown", count)
            continue
        if known.items or (known.amount and known.factor != 1.0):
            rejections.repair(f"{name}: converted from {known.name}", count)
        found.append((name, item, unit, known.factor, known.amount, known.per_patient))
    kinds = {"factor": pl.Float64, "amount": pl.Boolean, "per_patient": pl.Boolean}
    table = pl.DataFrame(found, schema={**dict.fromkeys(keys, pl.String), **kinds}, orient="row")
    rows = rows.join(table, on=keys, nulls_equal=True, maintain_order="left")
    rows = rows.join(weights.select("stay_id", "weight_kg"), on="stay_id", how="left", maintain_order="left")
    guessed = pl.col("per_patient") & pl.col("weight_kg").is_null()
    for name, count in rows.filter(guessed).group_by("name").len().sort("name").iter_rows():
        assumed = f"given per patient and the weight unknown, {_DEFAULT_WEIGHT:g} kg assumed"
        rejections.repair(f"{definition.owner[name].name}: {assumed}", count)
    weight = pl.when("per_patient").then(pl.col("weight_kg").fill_null(_DEFAULT_WEIGHT)).otherwise(1.0)
    return rows.with_columns(value=pl.col("value") * pl.col("factor") / weight).drop("weight_kg")
