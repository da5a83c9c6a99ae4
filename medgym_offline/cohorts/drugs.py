"""The vasopressors, once for every reader: names used for them, unit, norepinephrine equivalent, largest dose.

Equivalents: Goradia et al. 2020, as in mimic-code (MIMIC-IV's `norepinephrine_equivalent_dose`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

__all__ = ["VASOPRESSORS", "Drug", "drug_named", "mentions_vasopressor"]


@dataclass(frozen=True)
class Drug:
    """One vasopressor.

    Attributes:
        unit: Of a dose.
        equivalent: Norepinephrine equivalents (mcg/kg/min) of one unit.
        limit: Doses above are charting mistakes or in another unit.
        other: The unit that a dose above the limit is most likely in.
        names: Other names, lower case, without accents, blanks and hyphens.
    """

    unit: str
    equivalent: float
    limit: float
    other: str
    names: tuple[str, ...]


_MASS = "mcg/kg/min"
_NAMES: dict[str, str] = {
    "norepinephrine": "noradrenaline noradrenalin noradrenalina norepinefrina norepinephrin norepi levophed "
    "levarterenol arterenol",
    "epinephrine": "adrenaline adrenalin adrenalina epinefrina epinephrin suprarenin",
    "phenylephrine": "neosynephrine neosynephrin phenylephrin fenylefrin fenylefrine fenilefrina",
    "dopamine": "dopamin dopamina intropin",
    "vasopressin": "vasopressine vasopressina vasopresina argipressin pitressin vasostrict empressin",
}

VASOPRESSORS: dict[str, Drug] = {
    name: Drug(unit, equivalent, limit, other, tuple(_NAMES[name].split()))
    for name, unit, equivalent, limit, other in (
        ("norepinephrine", _MASS, 1.0, 5.0, "mcg/min"),
        ("epinephrine", _MASS, 1.0, 5.0, "mcg/min"),
        ("phenylephrine", _MASS, 0.1, 20.0, "mcg/min"),
        ("dopamine", _MASS, 0.01, 50.0, "mcg/min"),
        ("vasopressin", "U/min", 2.5, 0.2, "U/h"),
    )
}
_SALTS = ("bitartrate", "tartrate", "hydrochloride", "hydrochlorid", "hcl", "acetate", "inj", "injection")
#: Vasopressors that the table has no equivalent for; they are never read, and counted where they are seen.
_UNRATED = ("angiotensin", "giapreza", "metaraminol", "terlipressin", "ephedrine")
_CANONICAL = {name: drug for drug, entry in VASOPRESSORS.items() for name in (drug, *entry.names)}


def drug_named(text: str) -> str | None:
    """The vasopressor that `text` names in whole ("Noradrenaline", "neo-synephrine", "dopamine HCl"), or None."""
    words = [word for word in _words(text) if word not in _SALTS]
    return _CANONICAL.get("".join(words))


def mentions_vasopressor(label: str) -> bool:
    """Whether a label names a vasopressor, also one without equivalents ("Phenylephrine (50/250)", "Levophed-k")."""
    words = _words(label)
    return any(word in _CANONICAL or word in _UNRATED for word in (*words, *map("".join, zip(words, words[1:]))))


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.findall(r"[a-z]+", "".join(c for c in plain if not unicodedata.combining(c)))
