"""Names that readers write by hand: of variables, and what a stay's sex and yes-or-no attributes are called.

Units a hospital may declare, and what turns them into a concept's own; an unknown one is refused, not guessed.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from medgym_offline.cohorts.source import Rejections
from medgym_offline.cohorts.tables import typed
from medgym_offline.diseases.concepts import CohortDefinition, Concept, Part, Unit
from medgym_offline.errors import CohortError

__all__ = [
    "AGE_OVER_89", "NUMERIC", "accepted_units", "conversion", "in_own_units", "mentions", "nearly_equal_ids",
    "own_variables", "typed_attributes",
]  # fmt: skip

_NEAR = 0.8
#: Words in English, German, French, Spanish, Italian, Dutch and Portuguese.
_YES = "1 true t yes y ja j oui o si sí s sim"
_NO = "0 false f no n nein nee non nao não"
_FEMALE = "f female w woman weiblich frau femme féminin mujer femenino femmina vrouw"
_MALE = "m male man männlich maennlich mann homme masculin hombre masculino maschio"
_FLAG = {**dict.fromkeys(_YES.split(), "true"), **dict.fromkeys(_NO.split(), "false")}
_SEX = {**dict.fromkeys(_FEMALE.split(), "F"), **dict.fromkeys(_MALE.split(), "M")}
NUMERIC = ("los_h", "age", "weight_kg")
#: Median age of those over 89, whom records written to protect them do not tell apart.
AGE_OVER_89 = 91.4
_OVER_89 = r"^(>|>=|≥)\s*(89|90)$|^90\s*\+$"
#: Words beside the name of a drug that leave it the same drug.
_SALTS = ("bitartrate", "tartrate", "hydrochloride", "hydrochlorid", "hcl", "acetate", "inj", "injection")


def read_as(text: str, definition: CohortDefinition) -> str | None:
    """The concept or part that `text` names in whole, also by another name ("dopamine HCl"), or None."""
    words = "".join(word for word in _words(text) if word not in _SALTS)
    for name, named in definition.readable.items():
        is_part = named is not definition.owner[name]
        if text.strip().lower() == name or words in named.names or (is_part and words == name):
            return name
    return None


def mentions(label: str, concept: Concept) -> bool:
    """Whether a label has a part of `concept` or one of its related drugs as a word ("Phenylephrine (50/250)")."""
    words = _words(label)
    known = {*concept.related, *concept.names, *(n for part in concept.parts for n in (part.name, *part.names))}
    return not known.isdisjoint((*words, *map("".join, zip(words, words[1:]))))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", _without_accents(text))


def _without_accents(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c))


def own_variables(
    counts: Mapping[str | None, int], definition: CohortDefinition, where: Path | str, rejections: Rejections
) -> dict[str, str]:
    """Written name -> concept or part, for each name that is one; the rows of the others are counted.

    Args:
        counts: Rows of each name as written.
        definition: Knows the names.
        where: File, for the message.
        rejections: Counts are added here.

    Raises:
        CohortError: a name is nearly a known one, or has a known one as a word while no row is called just that.
    """
    own: dict[str, str] = {}
    others: dict[str, int] = {}
    for written, rows in counts.items():
        name = (written or "").strip().lower()
        found = read_as(name, definition)
        if written is not None and found is not None:
            own[written] = found
            rejections.repair(f"{found}: written as {name!r}", 0 if found == name else rows)
        else:
            others[name] = others.get(name, 0) + rows
    for name, rows in sorted(others.items()):
        meant = _meant(name, definition, set(own.values()))
        if meant is not None:
            raise CohortError(f"{where}: {rows} rows of {name!r}, no variable; is it {meant!r}? Rename or remove them")
        rejections.reject(f"unknown variable {name!r}", rows)
    return own


def _meant(name: str, definition: CohortDefinition, present: set[str]) -> str | None:
    known = tuple(definition.readable)
    plain = "".join(c for c in _without_accents(name) if c.isalnum())
    if plain in definition.other_names:
        return None
    words = [own for own in known if own in re.findall(r"[a-z0-9]+", name)]
    if words:  # "urine ph" is something else where there is urine, and may be urine where there is none.
        return next((own for own in words if own not in present), None)
    near = difflib.get_close_matches(plain.replace("0", "o"), known, n=1, cutoff=_NEAR)
    return near[0] if near else None


def nearly_equal_ids(ids: Iterable[str | None]) -> list[tuple[str, ...]]:
    """Groups of different ids that are one but for case, blanks or leading zeros ("7" and "007")."""
    groups: dict[str, set[str]] = {}
    for name in ids:
        if name is not None:
            plain = re.sub(r"\s+", "", name).casefold()
            groups.setdefault(plain.lstrip("0") or plain, set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def typed_attributes(
    stays: pl.DataFrame, flags: Sequence[str], where: Path | str, rejections: Rejections
) -> pl.DataFrame:
    """`stays` with los_h, age and weight_kg as numbers, `flags` as bools, sex as F or M, where it has them.

    What is written and cannot be read is left empty, and counted. An age of "> 89" or "90+" is 91.4.

    Args:
        stays: As text.
        flags: Names of yes-or-no attributes.
        where: File, for messages.
        rejections: Counts are added here.

    Raises:
        CohortError: see `tables.typed`.
    """
    numeric = [name for name in NUMERIC if name in stays.columns]
    out = typed(stays, where, numeric=numeric)
    if "age" in numeric:
        old = stays["age"].str.strip_chars().str.contains(_OVER_89).fill_null(False)
        rejections.repair(f"stays: an age above 89, read as {AGE_OVER_89}", int(old.sum()))
        out = out.with_columns(age=pl.when(pl.lit(old)).then(AGE_OVER_89).otherwise("age"))
    for name in (n for n in ("sex", *flags) if n in stays.columns):
        word = pl.col(name).str.strip_chars().str.to_lowercase().str.strip_suffix(".0")
        meant = word.replace_strict(_SEX if name == "sex" else _FLAG, default=None, return_dtype=pl.String)
        out = out.with_columns(meant.alias(name) if name == "sex" else (meant == "true").alias(name))
    for column in (c for c in (*NUMERIC, "sex", *flags) if c in stays.columns):
        written = stays[column].str.strip_chars()
        unread = written.filter(out[column].is_null() & (written != "").fill_null(False))
        for value, count in sorted(unread.value_counts().iter_rows()):
            rejections.repair(f"stays: {column} {value!r} cannot be read, left empty", count)
    return out


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
