"""Rows of raw tables, by item id, onto the clocks of the stays and into events: what every raw layout shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from medgym_offline.cohorts.names import in_own_units, mentions
from medgym_offline.cohorts.source import Rejections, completed, event_frame, first_of
from medgym_offline.cohorts.tables import hours_since, on_one_clock
from medgym_offline.diseases.concepts import CohortDefinition, Concept, Diagnosis

__all__ = ["CATEGORIES", "Intake", "coded", "possible_weights", "years_between"]

#: kg of an adult.
_WEIGHT_RANGE = (30.0, 250.0)
CATEGORIES = ("ordercategoryname", "secondaryordercategoryname")
_CLOCK = ("event", "intime", "los_h", "subject_id", "icustay_id", "charttime", "endtime")


@dataclass
class Intake:
    """One reading of raw tables.

    Attributes:
        definition: What is wanted.
        stays: stay_id, subject, intime, los_h, weight_kg, ...
        rejections: Counts are added here.
    """

    definition: CohortDefinition
    stays: pl.DataFrame
    rejections: Rejections = field(default_factory=Rejections)

    def attach(self, events: pl.DataFrame, name: str) -> pl.DataFrame:
        """Events with stay_id and t_h (end_h), hours since the start of the stay, instead of person and time.

        By stay id where the event has one; otherwise (laboratory) by person and time, from the longest look-back before
        admission to discharge; an event within both of two stays belongs to both. The others are counted.

        Args:
            events: subject_id, charttime, perhaps icustay_id and endtime, and more.
            name: What they are, for the reason.

        Raises:
            CohortError: the events' times have a zone and those of the stays have none, or the other way round.
        """
        rejections, lookback, hour = self.rejections, self.definition.lookback, hours_since("charttime", "intime")
        names = (f"{name}: their time", "the start of the stays")
        events = on_one_clock(events, "charttime", self.stays["intime"], names)
        events = rejections.drop(events, (pl.col("charttime").is_null(), f"{name}: time is missing or cannot be read"))
        events = completed(events, {"icustay_id": pl.String}).with_row_index("event")
        base = self.stays.select("stay_id", "intime", "los_h", pl.col("subject").alias("subject_id"))
        mine = base.drop("subject_id").with_columns(icustay_id="stay_id")
        named = events.join(mine, on="icustay_id", how="inner", maintain_order="left")
        unnamed = events.filter(pl.col("icustay_id").is_null())
        placed = unnamed.join(base, on="subject_id", how="inner", maintain_order="left").select(named.columns)
        placed = pl.concat([named, placed.filter((hour >= -lookback) & (hour <= pl.col("los_h")))])
        found = placed["event"].n_unique()
        rejections.reject(f"{name}: no ICU stay at that time", events.height - found)
        rejections.repair(f"{name}: within two stays of a person, read for both", placed.height - found)
        early = f"{name}: more than {lookback:g} h before admission"
        placed = rejections.drop(placed.with_columns(t_h=hour), (pl.col("t_h") < -lookback, early))
        if "endtime" in placed.columns:
            placed = placed.with_columns(end_h=hours_since("endtime", "intime"))
        return placed.drop(_CLOCK, strict=False)

    def observed(self, rows: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Events of every concept that is charted or measured.

        Args:
            rows: Role of a table -> stay_id, item, t_h, value, text, key.
        """
        parts = []
        for concept in self.definition.concepts.values():
            wanted = {role: concept.wanted(role) for role in rows}
            mine = [rows[role].filter(pl.col("item").is_in(items)) for role, items in wanted.items() if items]
            if mine:
                parts.append(self._prepared(pl.concat(mine), concept))
        return event_frame(*parts)

    def records(self, rows: pl.DataFrame, concept: Concept) -> pl.DataFrame:
        """Events of a concept whose records are amounts: item, value and person and time."""
        placed = self._prepared(self.attach(rows, concept.name), concept)
        return placed.with_columns(amount=pl.lit(True))

    def _prepared(self, rows: pl.DataFrame, concept: Concept) -> pl.DataFrame:
        """Rows with the name of the concept, or of the part that their item is of, after the concept's odd case."""
        names = {item: part.name for part in concept.parts for item in part.ids("input")}
        name = pl.col("item").replace_strict(names, default=concept.name, return_dtype=pl.String)
        rows = rows.with_columns(name=name)
        return rows if concept.prepare is None else concept.prepare(rows, self.rejections)

    def ordered(self, orders: Sequence[pl.DataFrame]) -> pl.DataFrame:
        """Events of treatments that are ordered, in their units; an order of nothing is rejected.

        Args:
            orders: stay_id, item, t_h, end_h, value, unit of each.
        """
        columns = ("stay_id", "item", "t_h", "end_h", "value", "unit")
        parts = []
        for concept in self.definition.treatments:
            mine = [rows.select(columns).filter(pl.col("item").is_in(concept.ids("input"))) for rows in orders]
            if not mine or not concept.ids("input"):
                continue
            rows = self.rejections.drop(
                pl.concat(mine),
                (pl.col("value").is_null(), f"{concept.name}: no {concept.given}"),
                (pl.col("value") == 0.0, f"{concept.name}: nothing given (0)"),
            )
            parts.append(in_own_units(self._prepared(rows, concept), self.definition, self.rejections, self.stays))
        return event_frame(*parts)

    def count_unlisted(self, groups: pl.DataFrame, labels: Mapping[str, str]) -> None:
        """Count unlisted orders under a reason that names the item: never read as what they are not, nor passed over.

        By label where it mentions a drug of a treatment; by the category of the order where that gives one by volume
        and the amount is a volume; a drip without a label by its category. Where neither label nor category is known,
        all such items are one reason. What a label says to be another drug is none of the cohort's business.

        Args:
            groups: item, len (orders) and, where known, amountuom and the two names of order categories.
            labels: Item -> words.
        """
        nameless: dict[str, int] = {}
        unread = {item: words for concept in self.definition.treatments for item, words in concept.unread.items()}
        for row in groups.sort("item").iter_rows(named=True):
            item = row["item"] or ""
            label = labels.get(item) or unread.get(item) or ""
            first, second = ((row.get(column) or "").strip() for column in CATEGORIES)
            volume = (row.get("amountuom") or "").strip().lower() in ("ml", "l")
            looks = [c.name for c in self.definition.treatments if mentions(label, c)]
            for concept in self.definition.treatments:
                if concept.given == "amount" and volume and {first, second} & set(concept.categories):
                    looks.append(concept.name)
                elif concept.given == "rate" and not label and first in concept.categories:
                    looks.append(f"{concept.name} or another drip")
            if looks:
                name = f"item {item} ({label})" if label else f"item {item}"
                self.rejections.reject(f"{looks[0]}: {name} is not in the list of items, not read", row["len"])
            elif not label and CATEGORIES[0] not in groups.columns:
                nameless[item] = nameless.get(item, 0) + row["len"]
        most = first_of(sorted(nameless, key=lambda item: -nameless[item]))
        reason = f"infusion: items not read, and no d_items table names them: {most}"
        self.rejections.reject(reason, sum(nameless.values()))


def coded(diagnosis: Diagnosis, codes: pl.DataFrame, key: str) -> pl.Expr:
    """Whether column `key` is among those that `codes` (key, icd_code, icd_version) give the diagnosis."""
    code, version = pl.col("icd_code").str.strip_chars(), pl.col("icd_version").str.strip_chars()
    tenth = pl.any_horizontal(pl.lit(False), *(code.str.starts_with(prefix) for prefix in diagnosis.icd10))
    mine = codes.filter(((version == "9") & code.is_in(diagnosis.icd9)) | ((version == "10") & tenth))
    return pl.col(key).is_in(mine[key].unique().to_list()).fill_null(False).alias(diagnosis.name)


def years_between(start: pl.Expr, end: pl.Expr) -> pl.Expr:
    """Years from one time to another."""
    return (end - start).dt.total_seconds() / (365.2425 * 86400.0)


def possible_weights(weights: pl.DataFrame, rejections: Rejections) -> pl.DataFrame:
    """stay_id and the median `value` of rows that can be the weight of an adult in kg, as `weight_kg`."""
    low, high = _WEIGHT_RANGE
    reason = f"weight: outside {low:g}-{high:g} kg, not used (in pounds or grams?)"
    possible = rejections.drop(weights.drop_nulls("value"), (~pl.col("value").is_between(low, high), reason))
    return possible.group_by("stay_id").agg(pl.col("value").median().alias("weight_kg"))
