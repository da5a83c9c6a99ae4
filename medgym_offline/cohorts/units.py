"""Units a hospital may declare, and what turns them into the package's own; an unknown one is refused, not guessed."""

from __future__ import annotations

from dataclasses import dataclass

from medgym_offline.cohorts.drugs import VASOPRESSORS
from medgym_offline.cohorts.schema import CONVERSIONS, UNITS

__all__ = ["DRUGS", "Conversion", "accepted_units", "conversion"]

#: Vasopressors that a table may name instead of giving equivalents, in the unit their factor is for.
DRUGS: dict[str, str] = {name: drug.unit for name, drug in VASOPRESSORS.items()}


@dataclass(frozen=True)
class Conversion:
    """What a value in some unit becomes: `value * factor`.

    Attributes:
        factor: To the package's unit of the variable; for volumes, to mL.
        volume: The value is a volume (urine per record, fluids over their interval), not a rate.
    """

    factor: float
    volume: bool = False


_MORE: dict[tuple[str, str], Conversion] = {
    ("gcs", ""): Conversion(1.0),
    ("gcs", "score"): Conversion(1.0),
    ("pao2", "torr"): Conversion(1.0),
    # Lactate carries one charge: a milliequivalent is a millimole.
    ("lactate", "mEq/L"): Conversion(1.0),
    ("urine", "mL"): Conversion(1.0, volume=True),
    ("urine", "L"): Conversion(1000.0, volume=True),
    ("fluids", "mL"): Conversion(1.0, volume=True),
    ("fluids", "L"): Conversion(1000.0, volume=True),
    # By unit here, so that 0.5 declared "%" and 40 declared "fraction" are both told apart.
    ("fio2", "fraction"): Conversion(100.0),
    ("vasopressin", "U/h"): Conversion(1.0 / 60.0),
}
_SPELLINGS = (
    ("µ", "u"),
    ("μ", "u"),
    ("mcg", "ug"),
    ("percent", "%"),
    ("units", "u"),
    ("litre", "l"),
    ("/hour", "/h"),
    ("/hr", "/h"),
    ("/24h", "/day"),
    ("/minute", "/min"),
)


def _plain(unit: str) -> str:
    """One spelling: lower case, no blanks, mcg as ug."""
    out = "".join(unit.split()).lower()
    for written, meant in _SPELLINGS:
        out = out.replace(written, meant)
    return out


def _table() -> dict[str, dict[str, tuple[str, Conversion]]]:
    known: dict[str, dict[str, tuple[str, Conversion]]] = {name: {} for name in (*UNITS, *DRUGS)}
    entries = [(name, unit, Conversion(1.0)) for name, unit in (*UNITS.items(), *DRUGS.items())]
    entries += [(name, unit, found) for (name, unit), found in _MORE.items()]
    entries += [(name, unit, Conversion(factor)) for (name, unit), factor in CONVERSIONS.items()]
    for name, unit, found in entries:
        known[name].setdefault(_plain(unit), (unit, found))
    return known


_KNOWN = _table()


def conversion(variable: str, unit: str) -> Conversion | None:
    """How a value of `variable` in `unit` becomes the package's, None where the unit is not known for it.

    Case, blanks and the usual spellings (mcg, ug, µg; hr, h; percent) make no difference.
    """
    found = _KNOWN.get(variable, {}).get(_plain(unit))
    return found[1] if found else None


def accepted_units(variable: str) -> tuple[str, ...]:
    """Units known for `variable`, the package's own first."""
    return tuple(unit for unit, _ in _KNOWN[variable].values() if unit)
