"""What a learner asks of an algorithm: its networks, its gradient steps, the rows and columns it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import Batch, StackedData
from medgym_offline.stack import StackedMLP

__all__ = ["AnyNetworks", "Defaults", "Objective", "Step"]

Step = tuple[StackedMLP, float, Callable[[Any, Batch], tuple[Tensor, dict[str, Tensor]]]]
"""What one gradient step changes, its step size, and its loss (P,) with numbers to watch (P,)."""


class Defaults:
    """What an objective asks of its learner, unless it says otherwise; see :class:`Objective`."""

    normals = 0
    uniforms = 0
    more = False
    delay = 1
    history: ClassVar[int] = 1
    settings: ClassVar[Mapping[str, Any]] = {}

    def rows(self, data: StackedData) -> StackedData:
        """The slices to learn from, given those it was made with."""
        return data


class AnyNetworks(Protocol):
    """The networks of P learners, as a `Learner` sees them."""

    codebook: Any
    """(P, C, A) codewords of the discrete algorithms, None where actions are continuous."""
    gate: Any
    """As in `StackedActor`."""

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        ...

    def acting(self) -> StackedMLP:
        """The stack that decides, from the standardized state to the output before tanh or argmax."""
        ...

    def policy(self, state: Tensor) -> Tensor:
        """Actions: (P, B, d) -> (P, B, A)."""
        ...

    def update_target(self, tau: float) -> None:
        """Move slowly moving copies, if there are any."""
        ...


class Objective(Protocol):
    """What a learner minimizes.

    Attributes:
        name: As in `ALGORITHMS`.
        normals, uniforms: Random candidate actions per batch row that `Batch` has to carry.
        more: Whether it has to carry the columns of `StackedData.more`.
        delay: The last of `steps`, and the targets, are taken once in so many updates.
        history: Observations that it sees where the configuration says 1.
        settings: Settings that are part of the algorithm, whatever the configuration says.
    """

    name: str
    normals: int
    uniforms: int
    more: bool
    delay: int
    history: ClassVar[int]
    settings: ClassVar[Mapping[str, Any]]

    def __init__(self, config: OfflineConfig, data: StackedData, seed: int | Sequence[int] = 0): ...

    def build(self, seeds: Sequence[int]) -> Any:
        """Fresh networks (`AnyNetworks`), one per seed."""
        ...

    def rows(self, data: StackedData) -> StackedData:
        """The slices to learn from, given those it was made with."""
        ...

    def steps(self, networks: Any) -> list[Step]:
        """The gradient steps of one update, in order: which stack, its step size, and its loss.

        A loss takes (networks, batch) and returns (P,) and numbers to watch (P,); "q" among them is the largest |Q|,
        by which a learner that diverges is stopped.
        """
        ...
