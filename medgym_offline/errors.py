"""Errors a user can act on: one line that names the file, the field and the remedy.

Everything a user can get wrong raises a subclass of :class:`MedGymError`; the command line prints its message
and exits with 1, without a traceback. A bug in this package raises anything else.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BankError", "CohortError", "DatasetError", "DiseaseError", "MedGymError", "MissingExtraError", "PolicyError",
    "ProtocolError", "SubmissionError", "UnknownNameError", "shown", "unknown_name",
]  # fmt: skip


class MedGymError(ValueError):
    """Base of every error caused by input rather than by a bug."""


class CohortError(MedGymError):
    """Clinical records or a cohort table that cannot be read."""


class BankError(MedGymError):
    """A simulator bank that is damaged, of another version, or lacks what was asked of it."""


class DiseaseError(MedGymError):
    """A definition of a disease that contradicts itself, or files of two diseases used together."""


class DatasetError(MedGymError):
    """A dataset, or its recipe, that is missing, damaged or inconsistent."""


class PolicyError(MedGymError):
    """A policy file or object that cannot be used as a policy."""


class ProtocolError(MedGymError):
    """A decision process or evaluation protocol that is infeasible or contradictory."""


class SubmissionError(MedGymError):
    """A leaderboard submission that cannot be accepted."""


class UnknownNameError(MedGymError):
    """A patient, dataset, bank, algorithm or option that does not exist."""


class MissingExtraError(MedGymError, ImportError):
    """An optional dependency is needed and not installed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """Error for `package`, which `purpose` needs and the extra `extra` installs."""
        return cls(f'{purpose} needs {package}; install it with: pip install "medgym-offline[{extra}]"')


def shown(value: object) -> str:
    """A value as a line of an error shows it, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Error that says `name` is no known `kind` and suggests the nearest known ones.

    Args:
        kind: What was looked up, in words ("dataset", "patient").
        name: What the user asked for.
        known: The names that exist.
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif names:
        shown = ", ".join(names) if len(names) <= 10 else ", ".join(names[:6]) + f", ... ({len(names)} in all)"
        hint = f"known: {shown}"
    else:
        hint = "none exist"
    return UnknownNameError(f"unknown {kind} {str(name)!r}; {hint}")
