"""What a cohort does not know: variables and treatments nobody charted, never varied, or hardly in their unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.cohorts.plausible import unusual_medians
from medgym_offline.cohorts.schema import ROOM_AIR, STATES, TREATMENTS, UNITS

__all__ = ["ObservationFlags", "never_given", "observation_flags"]

#: Fewer equal values than this say little about whether a variable varies.
_ENOUGH = 3


@dataclass(frozen=True)
class ObservationFlags:
    """Stays are kept whatever is flagged: a simulator's prior carries what was not seen.

    Attributes:
        absent: Variable -> stays without any value on the grid.
        constant: Variable -> stays with at least three values on the grid, all equal.
        single: Variable -> the one value it has in the whole cohort (at least three values, over all stays).
        untreated: Treatments that no stay was ever given.
        unusual: Variable or treatment -> why its median over the whole cohort puts its unit in question.
    """

    absent: dict[str, tuple[str, ...]]
    constant: dict[str, tuple[str, ...]]
    single: dict[str, float]
    untreated: tuple[str, ...]
    unusual: dict[str, str]

    def lines(self, named: bool = False) -> list[str]:
        """One line a fact worth knowing before a fit; `named` lists the stays too."""
        out = [f"{name}: {why}; is the unit right?" for name, why in self.unusual.items()]
        if self.untreated:
            out.append(
                f"{', '.join(self.untreated)}: never given to anybody; what nobody charted is not what nobody gave, "
                "and only the prior says what it would do"
            )
        out += [
            f"{name}: no value in {len(stays)} stays, kept (the prior carries it there)"
            + (f": {', '.join(stays)}" if named else "")
            for name, stays in self.absent.items()
            if stays
        ]
        out += [
            f"{name}: one value in the whole cohort, {value:g} {UNITS[name]}: nothing can be learned from it; is the "
            "column right?"
            for name, value in self.single.items()
        ]
        return out


def observation_flags(grid: GridCohort) -> ObservationFlags:
    """The flags of a cohort on its grid (values inside the stay and the horizon)."""
    count = grid.mask.sum(axis=1)
    low = np.where(grid.mask, grid.values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(grid.mask, grid.values, -np.inf).max(axis=1, initial=-np.inf)
    same = (count >= _ENOUGH) & (low == high)

    def named(which: np.ndarray) -> dict[str, tuple[str, ...]]:
        return {
            name: tuple(grid.patients[row] for row in np.flatnonzero(which[:, column]))
            for column, name in enumerate(STATES)
        }

    single = {
        name: float(low[:, column].min())
        for column, name in enumerate(STATES)
        if count[:, column].sum() >= _ENOUGH and low[:, column].min() == high[:, column].max()
    }
    return ObservationFlags(named(count == 0), named(same), single, never_given(grid), unusual_medians(grid))


def never_given(grid: GridCohort) -> tuple[str, ...]:
    """Treatments that no stay was given in any hour (oxygen: above room air)."""
    least = [ROOM_AIR + 1e-9 if name == "fio2" else 0.0 for name in TREATMENTS]
    highest = grid.treatment.max(axis=(0, 1), initial=0.0)
    return tuple(name for name, high, low in zip(TREATMENTS, highest, least) if high <= low)
