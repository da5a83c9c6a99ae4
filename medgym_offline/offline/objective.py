"""What a learner asks of an algorithm: its networks, its gradient steps, the rows and columns it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import Batch, StackedData
from medgym_offline.stack import StackedMLP

__all__ = ["Objective", "Step"]

Step = tuple[StackedMLP, float, Callable[[Any, Batch], tuple[Tensor, dict[str, Tensor]]]]
"""What one gradient step changes, its step size, and its loss (P,) with numbers to watch (P,)."""


class Objective(ABC):
    """What P learners minimize, each on its own slice; every loss is (P,).

    Args:
        config: Settings.
        data: The learners' slices, for objectives that need constants of the dataset.
        seed: Root seed, for objectives that draw random numbers while they are set up.

    Attributes:
        name: As in `ALGORITHMS`.
        normals, uniforms: Random candidate actions per batch row that `Batch` has to carry.
        more: Whether it has to carry the columns of `StackedData.more`.
        delay: The last of `steps`, and the targets, are taken once in so many updates.
        history: Observations that it sees where the configuration says 1.
        settings: Settings that are part of the algorithm, whatever the configuration says.
    """

    name: ClassVar[str]
    normals = 0
    uniforms = 0
    more = False
    delay = 1
    history: ClassVar[int] = 1
    settings: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: OfflineConfig, data: StackedData, seed: int | Sequence[int] = 0):
        self.config = config
        self._widths = data.state_dim, data.action_dim

    def rows(self, data: StackedData) -> StackedData:
        """The slices to learn from, given those it was made with."""
        return data

    @abstractmethod
    def build(self, seeds: Sequence[int]) -> Any:
        """Fresh networks, one per seed: `Actors`, `Networks` or `DiscreteNetworks`."""

    @abstractmethod
    def steps(self, networks: Any) -> list[Step]:
        """The gradient steps of one update, in order: which stack, its step size, and its loss.

        A loss takes (networks, batch) and returns (P,) and numbers to watch (P,); "q" among them is the largest |Q|,
        by which a learner that diverges is stopped.
        """
