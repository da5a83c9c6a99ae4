"""What a policy sees of the state: instruments, their errors, and when they are read. Types only, as in `parts`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from medgym_offline.diseases.parts import Sight

__all__ = ["FULL", "SPREAD_LIMIT", "Channel", "View"]

FULL = "full"
"""Name of the view of every disease that shows the observation as it is."""
SPREAD_LIMIT = 1.5
"""Gaps are drawn within so many SD of their logarithm (chosen), or there were no bound on their number."""


@dataclass(frozen=True)
class Channel:
    """An instrument that measures one component of the state; times are in the disease's unit.

    Attributes:
        component: What it measures.
        error: SD of one reading, in the component's unit.
        relative: SD as a share of the value; with `error`, variances add.
        gap: Median time between two measurements, on the patient's clock; None: read at every decision.
        spread: SD of the logarithm of an episode's gaps.
        between: SD of the logarithm of the gap from one episode to another.
        never: Share of the episodes without any measurement.
        at_start: Whether the first is taken as the episode begins; else that is anywhere within a gap.
        delay: Time from a measurement to its result.
        missing: Share of the measurements that give no value.
    """

    component: str
    error: float = 0.0
    relative: float = 0.0
    gap: float | None = None
    spread: float = 0.0
    between: float = 0.0
    never: float = 0.0
    at_start: bool = False
    delay: float = 0.0
    missing: float = 0.0


@dataclass(frozen=True)
class View:
    """Which components are seen, and how. Those without a channel are hidden; derived ones are known as they are.

    Attributes:
        channels: At most one per component.
        observe: As `Disease.observe`, where another instrument fills other columns; None: the disease's own. It is
            given a state that holds the last value of each channel (0, the center, where there is none yet).
    """

    channels: tuple[Channel, ...]
    observe: Callable[[Sight], Tensor] | None = field(default=None, repr=False)

    @property
    def charted(self) -> bool:
        """Whether values can be old or lacking: the observation then has age and mask of each channel."""
        return any(c.gap is not None or c.delay or c.missing for c in self.channels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the observation has more, before the two clocks."""
        pairs = ((f"age of {c.component}", f"{c.component} is known") for c in self.channels if self.charted)
        return tuple(name for pair in pairs for name in pair)
