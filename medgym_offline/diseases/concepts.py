"""What a cohort of a disease holds, as data: variables and treatments, where records keep them, which stays count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CohortDefinition", "Concept", "Derived", "Diagnosis", "Gridding", "Part", "Prepare", "Selection", "Unit"]

#: median: observations as they are; rate: what collected since the record before, as a rate; held: a setting that
#: holds until the next; infusion: intervals whose rates add up.
Gridding = Literal["median", "rate", "held", "infusion"]
#: The odd case of a concept: (rows, rejections) -> rows, before units are converted. Rows have stay_id, item, name,
#: t_h, end_h, value, unit, text (as charted; null where the source has none) and key (what ties rows of a specimen).
Prepare = Callable[[Any, Any], Any]


def _ids(items: Mapping[str, str], role: str) -> tuple[str, ...]:
    return tuple(items.get(role, "").split())


@dataclass(frozen=True)
class Unit:
    """A unit that records may be in: `value * factor` is in the concept's own.

    Attributes:
        name: As a hospital writes it; case, blanks and usual spellings make no difference.
        factor: To the concept's unit; of an amount, to its unit of amount.
        amount: A total (of a record, or over its interval), not a rate.
        per_patient: Divided by the patient's weight in kg; read from orders only.
        items: The item ids that it is known for (none: all).
    """

    name: str
    factor: float = 1.0
    amount: bool = False
    per_patient: bool = False
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One drug of a treatment that adds several up.

    Attributes:
        name: Its name; tables may give the part instead of the sum.
        unit: Of a dose.
        factor: What one unit of it is in the treatment's unit.
        limit: Doses above are charting mistakes or in another unit.
        mistaken: The unit that a dose above the limit is most likely in.
        units: Others that are read.
        names: Other names, lower case, without accents, blanks and hyphens.
        items: Role of a table ("input", ...) -> item ids, separated by blanks.
        ordered_in: Unit of its rates where a source does not say (MEDS); none: `unit`.
    """

    name: str
    unit: str
    factor: float
    limit: float
    mistaken: str = ""
    units: tuple[Unit, ...] = ()
    names: tuple[str, ...] = ()
    items: Mapping[str, str] = field(default_factory=dict)
    ordered_in: str = ""

    def ids(self, role: str) -> tuple[str, ...]:
        """Item ids in tables of that role."""
        return _ids(self.items, role)


@dataclass(frozen=True)
class Concept:
    """One variable or treatment.

    Attributes:
        name: In the table.
        unit: In the table.
        range: Values outside are impossible and rejected.
        usual: Where the median of a whole cohort lies (treatments: while given); outside, the unit is in question.
        gridding: How records become rows and rows become a grid; see `Gridding`.
        lookback: Hours before admission from which a value still describes the patient at admission.
        units: Others that are read.
        items: Role of a table -> item ids, separated by blanks. Roles: "chart", "laboratory", "output", "input";
            "meds" instead of "chart" and "laboratory" in events of the MEDS standard, where it is given.
        beside: Items that `prepare` needs beside them, by role.
        names: Other names (see `Part.names`).
        parts: Drugs that are summed.
        prepare: The odd case; see `Prepare`.
        reads_text: Rows without a number go to `prepare`.
        given: What an order says of a treatment: a rate, or an amount over its interval.
        fraction: Values of at most 1 are fractions of 100; between 1 and the range they are neither.
        spot: Charted every few hours, so that gaps of minutes put the unit of time in question.
        background: A treatment's value where none is charted.
        hold_hours: A setting that nothing confirms ends after so long.
        cap: Rates above are kept at it, as censored.
        record_limit: An amount of one record (or of an hour) of so much is a mistake.
        period_hours: Hours that a rate is for (24: per day).
        merge_hours: Records closer are one; also the shortest time a rate is taken over.
        gap_hours: After so long a gap a record says nothing about a rate.
        least_hours: An amount given in less is spread over so long.
        unread: Items known by name and not read -> label.
        related: Other drugs of the kind, by name (as `names`): never read, and counted where a label mentions them.
        categories: Of orders that give it; an order of one under an unlisted item is counted.
        unitless: Item -> what its amounts are in where no unit is given; read, and doubted.
    """

    name: str
    unit: str
    range: tuple[float, float]
    usual: tuple[float, float]
    gridding: Gridding = "median"
    lookback: float = 0.0
    units: tuple[Unit, ...] = ()
    items: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    prepare: Prepare | None = None
    reads_text: bool = False
    given: Literal["rate", "amount"] = "rate"
    fraction: bool = False
    spot: bool = False
    background: float = 0.0
    hold_hours: float = 12.0
    cap: float = np.inf
    record_limit: float = np.inf
    period_hours: float = 24.0
    merge_hours: float = 0.0
    gap_hours: float = np.inf
    least_hours: float = 0.0
    mistaken: str = ""
    unread: Mapping[str, str] = field(default_factory=dict)
    related: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    unitless: Mapping[str, str] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """Largest value, as of a part."""
        return self.range[1]

    def ids(self, role: str) -> tuple[str, ...]:
        """Item ids in tables of that role, of the concept and its parts; see `items` for "meds"."""
        own = (*_ids(self.items, role), *(item for part in self.parts for item in part.ids(role)))
        return own if own or role != "meds" else (*self.ids("chart"), *self.ids("laboratory"))

    def wanted(self, role: str) -> tuple[str, ...]:
        """Item ids to read of tables of that role, also those that `prepare` needs beside them."""
        return (*self.ids(role), *self.beside_ids(role))

    def beside_ids(self, role: str) -> tuple[str, ...]:
        """Item ids that `prepare` needs beside them."""
        return _ids(self.beside, role)


@dataclass(frozen=True)
class Diagnosis:
    """A yes-or-no attribute of a stay by its codes: `icd9` exact, `icd10` as first characters, both without dots."""

    name: str
    label: str
    icd9: tuple[str, ...] = ()
    icd10: tuple[str, ...] = ()


@dataclass(frozen=True)
class Derived:
    """A quantity that the grid computes: `compute(table, grid)` -> (P, T).

    Attributes:
        name: In `GridCohort.derived`.
        unit: Of its values.
        label: For the card.
        compute: From the validated table and the grid without it.
        note: Words after the quantiles in the card.
    """

    name: str
    unit: str
    label: str
    compute: Callable[[Any, Any], np.ndarray]
    note: str = ""


@dataclass(frozen=True)
class Selection:
    """Which stays make a release cohort.

    Attributes:
        rule: In words, for the metadata.
        minimum_hours: Shortest length of stay.
        required: Variables that must be covered.
        enough: Hourly values that cover a variable; `fewer` names exceptions.
        rare: Variables whose values are counted, each up to `cap`, to rank stays.
        severity: (stays, grid) -> (P,) points that rank stays.
    """

    rule: str
    minimum_hours: float = 24.0
    required: tuple[str, ...] = ()
    enough: int = 2
    fewer: Mapping[str, int] = field(default_factory=dict)
    rare: tuple[str, ...] = ()
    cap: int = 10
    severity: Callable[[pl.DataFrame, Any], np.ndarray] | None = None


@dataclass(frozen=True)
class CohortDefinition:
    """All that a cohort of one disease needs; the generic code knows no other names.

    Attributes:
        disease: Name, kept in the file.
        variables: Observed, in the order of the grid's columns.
        treatments: Given, in the order of the grid's columns.
        selection: Which stays are chosen.
        diagnoses: Attributes of stays by code.
        derived: What the grid computes besides.
        notes: What the numbers mean, for the metadata (JSON-able).
        sources: Layouts of the disease's own, tried before the general ones (`cohorts.CohortSource`).
        other_names: Near a variable's name in spelling, and something else.
    """

    disease: str
    variables: tuple[Concept, ...]
    treatments: tuple[Concept, ...]
    selection: Selection
    diagnoses: tuple[Diagnosis, ...] = ()
    derived: tuple[Derived, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[Any, ...] = ()
    other_names: frozenset[str] = frozenset()

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """Every variable and treatment by name."""
        return {concept.name: concept for concept in (*self.variables, *self.treatments)}

    @cached_property
    def readable(self) -> dict[str, Concept | Part]:
        """What records may name: concepts, then parts."""
        return {**self.concepts, **{part.name: part for c in self.concepts.values() for part in c.parts}}

    @cached_property
    def owner(self) -> dict[str, Concept]:
        """The concept that each readable name belongs to."""
        return {name: c for c in self.concepts.values() for name in (c.name, *(part.name for part in c.parts))}

    @cached_property
    def units(self) -> dict[str, str]:
        """Unit of every concept."""
        return {name: concept.unit for name, concept in self.concepts.items()}

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(concept.name for concept in self.variables)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the treatments."""
        return tuple(concept.name for concept in self.treatments)

    @property
    def lookback(self) -> float:
        """The longest look-back of any concept, hours."""
        return max(concept.lookback for concept in self.concepts.values())
