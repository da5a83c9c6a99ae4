"""The path of the state inside intervals: one definition for reward, safety grid and evaluation.

Within an interval of dt the state follows

    x(tau) = clamp( F(x, u, tau) + (tau/dt) W ),      W = sigma sqrt(dt) N,   N standard normal, one draw per decision

the simulator's flow plus the conditional mean of the residual Brownian path given its end.

Intervals ask for unequal numbers of times (36 hours have 36 quadrature cells, half an hour has one), while a stack over
patients wants rectangles. :func:`rectangles` sorts each patient's intervals by their number of times and cuts the
sorted list into a few rectangles, so that the work follows the number of times asked for. What a row gets depends on
that
row alone: its times never change with the rectangle it lands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Held", "gather_rows", "held_path", "rectangles"]

# What a rectangle may hold, in states, before another one is begun. A call of the solution map costs about as much as
# so many states before it computes anything, so padding is what to save. A solver leaves out the padding and pays for
# every step of every rectangle, so few large ones; their size is what memory (16 MB a tensor) and caches allow.
_PADDING, _SIZE = {"map": 8000, "ticks": 60_000}, 500_000


def gather_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows `rows` (P, G) of `values` (P, R, ...): (P, G, ...)."""
    patients = torch.arange(len(values), device=values.device)[:, None]
    return values[patients, rows]


def rectangles(counts: Tensor, backend: str = "map") -> Iterator[tuple[Tensor, int]]:
    """Cut rows with unequal counts into rectangles: with little padding for the map, few and large for a solver.

    Args:
        counts: Number of times that each row asks for (P, R), whole numbers; 0 leaves the row out.
        backend: Of the bank that is to follow the rows (its `padding`).

    Yields:
        Rows (P, G), each patient's by rising count, and the rectangle's width, at least the count of each of its
        rows. Every row with a count above 0 is yielded once; a row may be yielded with a count of 0 beside a patient
        that has more to do.
    """
    ordered, order = torch.sort(counts, dim=1, stable=True)
    widths = ordered.amax(0).tolist()
    patients, stop = len(counts), len(widths)
    while stop > 0 and widths[stop - 1] > 0:
        width, start, padding = int(widths[stop - 1]), stop, 0
        while start > 0 and widths[start - 1] > 0:
            padding += patients * (width - int(widths[start - 1]))
            # Cut at a change of width only: what has one width costs the same in one piece.
            full = padding > _PADDING[backend] if backend in _PADDING else patients * (stop - start) * width > _SIZE
            if full and widths[start - 1] < widths[min(start, stop - 1)]:
                break
            start -= 1
        yield order[:, start:stop], width
        stop = start


@dataclass(frozen=True)
class Held:
    """Treatments held for an interval each, R per patient.

    Attributes:
        x: States at the start (P, R, D), normalized.
        u: Treatments (P, R, treatments) in [0, 1].
        dt: Lengths (P, R).
        displacement: `W`, what the residual noise adds by the end (P, R, D).
        time: Of the start, since the episode's (P, R).
        exogenous: The episodes' events (P, R, F), or None.
    """

    x: Tensor
    u: Tensor
    dt: Tensor
    displacement: Tensor
    time: Tensor
    exogenous: Tensor | None = None

    def rows(self, rows: Tensor) -> Held:
        """The intervals at `rows` (P, G)."""
        return Held(**{name: gather_rows(part, rows) for name, part in vars(self).items() if part is not None})


def held_path(bank: SimulatorBank, held: Held, times: Tensor, between: bool = False) -> Tensor:
    """States at `times` after the start of each interval.

    Args:
        bank: Simulators of the P patients.
        held: The intervals.
        times: Since the start of the interval (P, R, T), non-decreasing, at most `dt`.
        between: Whether the times lie between the steps of a solver, rather than being its steps' ends.

    Returns:
        (P, R, T, D) normalized, within bounds.
    """
    curve = bank.trajectory(held.x, held.u, times, held.dt if between else None, held.time, held.exogenous)
    if not bank.noisy:
        return curve
    share = times / held.dt.clamp_min(torch.finfo(held.dt.dtype).tiny)[..., None]
    return bank.clamp(curve + share[..., None] * held.displacement[..., None, :])
