"""The path of the state inside holds: one definition for reward, safety grid and evaluation.

Within a hold of dt hours the state follows

    x(tau) = clamp( F(x, u, tau) + (tau/dt) W ),      W = sigma sqrt(dt) N,   N standard normal, one draw per decision

the solution map plus the conditional mean of the residual Brownian path given its end.

Holds ask for unequal numbers of times (a 36 h hold has 36 quadrature cells, a half-hour hold one), while a stack over
patients wants rectangles. :func:`rectangles` sorts each patient's holds by their number of times and cuts the sorted
list into a few rectangles, so that the work follows the number of times asked for. What a row gets depends on that
row alone: its times never change with the rectangle it lands in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import Backend, SimulatorBank

__all__ = ["gather_rows", "hold_path", "rectangles"]

# What a rectangle may hold, in states, before another one is begun. A call of the solution map costs about as much as
# so many states before it computes anything, so padding is what to save. A solver leaves out the padding and pays for
# every step of every rectangle, so few large ones; their size is what memory (16 MB a tensor) and caches allow.
_PADDING, _SIZE = 8000, 500_000


def gather_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows `rows` (P, G) of `values` (P, R, ...): (P, G, ...)."""
    patients = torch.arange(len(values), device=values.device)[:, None]
    return values[patients, rows]


def rectangles(counts: Tensor, backend: Backend = "map") -> Iterator[tuple[Tensor, int]]:
    """Cut rows with unequal counts into rectangles: with little padding for the map, few and large for a solver.

    Args:
        counts: Number of times that each row asks for (P, R), whole numbers; 0 leaves the row out.
        backend: Of the bank that is to follow the rows.

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
            full = padding > _PADDING if backend == "map" else patients * (stop - start) * width > _SIZE
            if full and widths[start - 1] < widths[min(start, stop - 1)]:
                break
            start -= 1
        yield order[:, start:stop], width
        stop = start


def hold_path(
    bank: SimulatorBank,
    x: Tensor,
    u: Tensor,
    dt: Tensor,
    displacement: Tensor,
    times: Tensor,
    between: bool = False,
) -> Tensor:
    """States at `times` hours after the start of each hold.

    Args:
        bank: Simulators of the P patients.
        x: States at the start (P, R, D), normalised.
        u: Treatments held (P, R, 3) in [0, 1].
        dt: Lengths of the holds (P, R), hours.
        displacement: `W`, what the residual noise adds by the end (P, R, D).
        times: Hours since the start of the hold (P, R, T), non-decreasing, at most `dt`.
        between: Whether the times lie between the steps of a solver, rather than being its steps' ends.

    Returns:
        (P, R, T, D) normalised, within bounds.
    """
    share = times / dt.clamp_min(torch.finfo(dt.dtype).tiny)[..., None]
    return bank.clamp(
        bank.trajectory(x, u, times, dt if between else None) + share[..., None] * displacement[..., None, :]
    )
