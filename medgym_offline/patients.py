"""Which patients are meant: one set of rules for banks, datasets, policies, environments and the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from typing_extensions import TypedDict

from medgym_offline.errors import UnknownNameError, unknown_name

__all__ = ["NEW_PEOPLE", "PatientIndex", "Patients", "RecordSettings", "people_hash", "whole_number"]

NEW_PEOPLE = ("clu", "context")
"""Scopes that tell new patients apart by a record of theirs (:mod:`medgym_offline.people`)."""


class RecordSettings(TypedDict):
    """What :func:`~medgym_offline.people.people_of` was asked besides scope and bank, as a policy's file keeps it."""

    sessions: int
    hours: float | None
    seed: int
    view: str


Patients: TypeAlias = "int | str | Iterable[int | str] | None"
"""None (all), a number n (the first n), an id, or several ids and positions."""


@dataclass(frozen=True)
class PatientIndex:
    """Finds patients by id or position.

    Attributes:
        ids: In order; a position is a place in it.
        whose: Whose patients they are, for errors ("bank 'sepsis-v0'").
        present: Positions that can be chosen, in order; None: all of them.
    """

    ids: Sequence[str]
    whose: str
    present: Sequence[int] | None = None

    def one(self, patient: Any) -> int:
        """Position of the patient with an id (text) or position (whole number; no boolean, no float).

        Raises:
            UnknownNameError: Nobody, with the nearest ids.
        """
        if isinstance(patient, str):
            if patient not in self.ids:
                raise unknown_name(f"patient of {self.whose}", patient, self.ids)
            position = self.ids.index(patient)
        elif (number := whole_number(patient)) is None:
            raise UnknownNameError(f"patient {patient!r} of {self.whose} is neither an id as text nor a whole number")
        elif not 0 <= number < len(self.ids):
            raise UnknownNameError(f"{self.whose} has no patient {number}; give 0 to {len(self.ids) - 1}, or an id")
        else:
            position = number
        if self.present is not None and position not in self.present:
            raise UnknownNameError(f"{self.whose} has no episodes of {self.ids[position]}; leave the patient out")
        return position

    def resolve(self, patients: Patients, repeats: bool = False) -> list[int]:
        """Positions of the patients meant, in the order given.

        Args:
            patients: None (all), a number n (the first n), an id, or several ids and positions.
            repeats: Whether a patient may be named twice.

        Raises:
            UnknownNameError: Nobody is named, somebody who is not there, or somebody twice.
        """
        known = list(range(len(self.ids)) if self.present is None else self.present)
        if patients is None:
            return known
        if isinstance(patients, str):
            return [self.one(patients)]
        if (count := whole_number(patients)) is not None:
            if not 1 <= count <= len(known):
                few = f"{self.whose} has {len(known)} patients, not {count}"
                raise UnknownNameError(f"{few}; choose 1 to {len(known)}, or ids")
            return known[:count]
        if not isinstance(patients, Iterable) or getattr(patients, "ndim", 1) == 0:
            wanted = f"how many of {self.whose} as a whole number, or a list of ids or positions"
            raise UnknownNameError(f"patients is {patients!r}; give {wanted}")
        positions = [self.one(patient) for patient in patients]
        if not positions:
            raise UnknownNameError(f"patients names nobody of {self.whose}; give a number or ids, or None for all")
        if not repeats and len(set(positions)) != len(positions):
            twice = next(p for n, p in enumerate(positions) if p in positions[:n])
            raise UnknownNameError(f"patient {self.ids[twice]} of {self.whose} is named twice; name everybody once")
        return positions


def people_hash(ids: Iterable[str]) -> str:
    """SHA-256 of who they are, in whatever order: what a policy's file says of whom it learned from."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def whole_number(value: Any) -> int | None:
    """A whole number of Python, NumPy or torch as an int; None for anything else, booleans too."""
    if getattr(value, "ndim", 1) == 0:
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else None
