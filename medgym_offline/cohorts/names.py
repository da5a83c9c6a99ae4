"""Names that readers write by hand: of variables, and what a stay's sex and yes-or-no attributes are called."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medgym_offline.cohorts.cells import numbers, settled
from medgym_offline.cohorts.drugs import drug_named
from medgym_offline.cohorts.schema import VARIABLES, Rejections, require_polars
from medgym_offline.cohorts.units import DRUGS
from medgym_offline.errors import CohortError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["nearly_equal_ids", "own_variables", "typed_attributes"]

#: Near one of ours in spelling, and something else.
_OTHERS = frozenset(
    (
        *("paco2", "pco2", "pvo2", "po2", "sao2", "svo2", "scvo2", "urea", "dopexamine"),
        *("gcse", "gcsm", "gcsv", "gcseye", "gcsmotor", "gcsverbal"),
    )
)
_NEAR = 0.8
#: Words in English, German, French, Spanish, Italian, Dutch and Portuguese.
_YES = ("1", "true", "t", "yes", "y", "ja", "j", "oui", "o", "si", "sí", "s", "sim")
_NO = ("0", "false", "f", "no", "n", "nein", "nee", "non", "nao", "não")
_FEMALE = ("f", "female", "w", "woman", "weiblich", "frau", "femme", "féminin", "mujer", "femenino", "femmina", "vrouw")
_MALE = ("m", "male", "man", "männlich", "maennlich", "mann", "homme", "masculin", "hombre", "masculino", "maschio")
_WORDS: dict[str, dict[str, str]] = {
    "flag": {**dict.fromkeys(_YES, "true"), **dict.fromkeys(_NO, "false")},
    "sex": {**dict.fromkeys(_FEMALE, "F"), **dict.fromkeys(_MALE, "M")},
}
#: Median age of those over 89, whom records written to protect them do not tell apart.
AGE_OVER_89 = 91.4
_OVER_89 = r"^(>|>=|≥)\s*(89|90)$|^90\s*\+$"


def own_variables(counts: Mapping[str | None, int], where: Path | str, rejections: Rejections) -> dict[str, str]:
    """Written name -> variable or drug of ours, for each name that is one; the rows of the others are counted.

    Args:
        counts: Rows of each name as written.
        where: File, for the message.
        rejections: Counts are added here.

    Raises:
        CohortError: a name is nearly one of ours, or has one of ours as a word while no row is called just that.
    """
    known = (*VARIABLES, *DRUGS)
    own: dict[str, str] = {}
    others: dict[str, int] = {}
    for written, rows in counts.items():
        name = (written or "").strip().lower()
        found = name if name in known else drug_named(name)
        if written is not None and found is not None:
            own[written] = found
            rejections.repair(f"{found}: written as {name!r}", 0 if found == name else rows)
        else:
            others[name] = others.get(name, 0) + rows
    for name, rows in sorted(others.items()):
        meant = _meant(name, known, set(own.values()))
        if meant is not None:
            raise CohortError(
                f"{where}: {rows} rows of {name!r}, which is no variable; is it {meant!r}? Rename the rows, or leave "
                "them out"
            )
        rejections.reject(f"unknown variable {name!r}", rows)
    return own


def _meant(name: str, known: Iterable[str], present: set[str]) -> str | None:
    plain = _plain(name)
    if plain in _OTHERS:
        return None
    words = [own for own in known if own in re.findall(r"[a-z0-9]+", name)]
    if words:  # "urine ph" is something else where there is urine, and may be urine where there is none.
        return next((own for own in words if own not in present), None)
    near = difflib.get_close_matches(plain.replace("0", "o"), known, n=1, cutoff=_NEAR)
    return near[0] if near else None


def _plain(text: str) -> str:
    """Lower-case letters and digits alone, without accents."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if c.isalnum() and not unicodedata.combining(c))


def nearly_equal_ids(ids: Iterable[str | None]) -> list[tuple[str, ...]]:
    """Groups of different ids that are one but for case, blanks or leading zeros ("7" and "007")."""
    groups: dict[str, set[str]] = {}
    for name in ids:
        if name is not None:
            plain = re.sub(r"\s+", "", name).casefold()
            groups.setdefault(plain.lstrip("0") or plain, set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def typed_attributes(stays: pl.DataFrame, where: Path | str, rejections: Rejections) -> pl.DataFrame:
    """`stays` with los_h, age and weight_kg as numbers, sepsis and died as bools, sex as F or M, where it has them.

    What is written and cannot be read is left empty, and counted. An age of "> 89" or "90+" is 91.4.

    Args:
        stays: As text.
        where: File, for messages.
        rejections: Counts are added here.

    Raises:
        CohortError: see `cells.settled`.
    """
    pl = require_polars()
    text = stays
    numeric = [name for name in ("los_h", "age", "weight_kg") if name in stays.columns]
    out = settled(stays.with_columns(numbers(*numeric)), where)
    if "age" in numeric:
        old = text["age"].str.strip_chars().str.contains(_OVER_89).fill_null(False)
        rejections.repair(f"stays: an age above 89, read as {AGE_OVER_89}", int(old.sum()))
        out = out.with_columns(age=pl.when(pl.lit(old)).then(AGE_OVER_89).otherwise("age"))
    for name in (n for n in ("sepsis", "died", "sex") if n in stays.columns):
        meanings = _WORDS["sex" if name == "sex" else "flag"]
        word = pl.col(name).str.strip_chars().str.to_lowercase().str.strip_suffix(".0")
        meant = word.replace_strict(meanings, default=None, return_dtype=pl.String)
        out = out.with_columns(meant.alias(name) if name == "sex" else (meant == "true").alias(name))
    for column in (c for c in ("los_h", "age", "weight_kg", "sex", "sepsis", "died") if c in stays.columns):
        written = text[column].str.strip_chars()
        unread = written.filter(out[column].is_null() & (written != "").fill_null(False))
        for value, count in sorted(unread.value_counts().iter_rows()):
            rejections.repair(f"stays: {column} {value!r} cannot be read, left empty", count)
    return out
