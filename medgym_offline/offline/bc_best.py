"""Behavior cloning of the best episodes, and of the cheapest.

    bc-best    L_actor(psi) = E_(s,a)~D+ [ ||pi_psi(s) - a||^2 ],    D+ the episodes with the highest return
    bc-safe    the same on D-, the episodes with the lowest cost (`OfflineConfig.cost`)

    D+, D-   of each patient's episodes the share `OfflineConfig.best`, a tenth, rounded up; of equals the earlier ones.
             A patient is the group in both scopes: the best tenth of all episodes would be those of the healthiest.
    s, a, pi_psi   as in `bc.py`

The floor that an algorithm with a critic has to beat to have done more than to tell good episodes from bad ones. In
random processes it also learns from luck: an episode may be good by its noise alone.

Source: Chen et al. 2021 (percentile behavior cloning); Liu et al. 2023 (BC-Safe).
"""

from __future__ import annotations

from typing import ClassVar

from medgym_offline.offline.bc import BC
from medgym_offline.offline.data import StackedData

__all__ = ["BestBC", "SafeBC"]


class BestBC(BC):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "bc-best"
    rank: ClassVar[int] = -2
    """Column of `StackedData.more` by which episodes are chosen."""

    def rows(self, data: StackedData) -> StackedData:
        """Those of the episodes to imitate."""
        return data.keep(data.more[..., self.rank] < self.config.best)


class SafeBC(BestBC):
    """BC of the cheapest episodes."""

    name = "bc-safe"
    rank = -1
