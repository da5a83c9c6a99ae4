"""Reward of one decision, in four kinds, and what is integrated along its path.

With S the severity of the disease (at most its cap), v its burden of treating and x(tau) the dense path below:

    "integral"   r = -0.1 * integral_0^dt [ S(x(tau)) + v ] dtau
    "state"      r = -0.1 * integral_0^dt S_0(x(tau)) dtau
    "paper"      r = -S_end - v
    "authors"    r = 0.1 dt (-S_end - v) + 4 (S_start - S_end) - 0.15 dt - 0.02/(dt + 0.001) + 0.3

"integral" is the paper's reward accumulated over time: its return does not depend on how time is cut, so adaptive and
fixed timing maximize the same thing. "state" leaves out what the action itself adds: S_0 is the severity as it is
without treatment; a score that counts the treatment rewards not treating. "paper" is
paid per decision (arXiv 2606.01028, eq. 4). "authors" is what the public code of the paper uses. S_start is the
severity of the state before the decision under the treatment now given, so that a reward is a function of state,
treatment, interval and next state, and the difference counts what the state did, not the switch of dose.

The path of the state has one definition for reward, safety grid and evaluation. Within an interval of dt the state
follows

    x(tau) = clamp( F(x, u, tau) + (tau/dt) W ),      W = sigma sqrt(dt) N,   N standard normal, one draw per decision

the simulator's flow plus the conditional mean of the residual Brownian path given its end.

Intervals ask for unequal numbers of times (36 hours have 36 quadrature cells, half an hour has one), while a stack over
patients wants rectangles. :func:`rectangles` sorts each patient's intervals by their number of times and cuts the
sorted list into a few rectangles, so that the work follows the number of times asked for. What a row gets depends on
that row alone: its times never change with the rectangle it lands in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Along", "Held", "authors_reward", "gather_rows", "held_path", "integrate", "rectangles", "severity"]

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


def severity(bank: SimulatorBank, x: Tensor, u: Tensor) -> Tensor:
    """Severity of normalized states (..., D) under normalized treatments (..., treatments): (...)."""
    read = bank.disease.severity.reads
    return bank.disease.severity.score(bank.denormalize(x[..., :read]), bank.denormalize_treatment(u))


def authors_reward(start: Tensor, end: Tensor, burden: Tensor, dt: Tensor) -> Tensor:
    """The reward of the authors' public code, from severity at start and end of an interval `dt`."""
    return 0.1 * dt * (-end - burden) + 4.0 * (start - end) - 0.15 * dt - 0.02 / (dt + 0.001) + 0.3


@dataclass(frozen=True)
class Along:
    """What accumulates along R intervals per patient.

    Attributes:
        severity: Integral (P, R) of the severity, capped, points times time.
        end: State at the end (P, R, D).
        calm: Time (P, R) since severity was last at or above the threshold: infinite if it was below throughout, 0
            without a threshold.
        costs: Integral (P, R, number of costs) of the costs' rates, or None if not asked for.
        peaks: Largest rate (P, R, number of costs), or None.
    """

    severity: Tensor
    end: Tensor
    calm: Tensor
    costs: Tensor | None = None
    peaks: Tensor | None = None


def integrate(
    bank: SimulatorBank,
    held: Held,
    cell: float = 1.0,
    threshold: float | None = None,
    costs: bool = False,
    dose: bool = True,
) -> Along:
    """Integrals along intervals, by the trapezoid rule on ceil(dt/cell) equal cells per interval.

    Args:
        bank: Simulators of the P patients.
        held: The intervals; rows with dt = 0 stay.
        cell: Longest cell.
        threshold: Severity below which the patient counts as recovered, if that is asked for.
        costs: Whether to integrate the costs too.
        dose: Whether severity sees the treatment; else it is that of the state alone.
    """
    disease, dt = bank.disease, held.dt
    # An interval of n ticks that are no binary fractions has n cells, not n + 1.
    cells = torch.ceil(dt.detach() / cell - (1e-4 if disease.process.tick else 0.0)).long()
    parts: dict[str, Tensor] = {"severity": torch.zeros_like(dt), "end": held.x, "calm": torch.zeros_like(dt)}
    if costs:
        parts |= {name: dt.new_zeros(*dt.shape, len(disease.costs)) for name in ("costs", "peaks")}
    # Where few components matter along the path, only those are looked at.
    read = disease.severity.reads
    seen = None if read is None else max(read, *(disease.column(cost.component) + 1 for cost in disease.costs))
    for rows, width in rectangles(cells, bank.padding):
        # A solver wants the rows in their order; the map does not mind, and copying them costs.
        whole = rows.shape[1] == dt.shape[1] and bank.backend == "map"
        some, n = (held, cells) if whole else (held.rows(rows), torch.gather(cells, 1, rows))
        node = torch.arange(1, width + 1, device=dt.device)
        # Beyond a row's own cells the nodes stay at its end: cells of no length, which add nothing.
        share = torch.minimum(node, n[..., None]) / n.clamp_min(1)[..., None]
        states = held_path(bank, some, share * some.dt[..., None])
        path = torch.cat([some.x[..., None, :seen], states[..., :seen]], -2)
        height = severity(bank, path, some.u[..., None, :] if dose else torch.zeros_like(some.u[..., None, :]))
        if math.isfinite(disease.severity.cap):
            height = height.clamp(max=disease.severity.cap)
        length = some.dt / n.clamp_min(1)
        inside = node <= n[..., None]

        def area(rate: Tensor, inside: Tensor = inside, length: Tensor = length) -> Tensor:
            return ((rate[..., 1:] + rate[..., :-1]) / 2.0 * inside).sum(-1) * length

        found = {"severity": area(height), "end": states[..., -1, :]}
        if threshold is not None:
            times = torch.cat([torch.zeros_like(some.dt)[..., None], share * some.dt[..., None]], -1)
            last_above = torch.where(height >= threshold, times, -1.0).amax(-1)
            found["calm"] = torch.where(last_above < 0, torch.inf, some.dt - last_above)
        if costs:
            columns = [disease.column(cost.component) for cost in disease.costs]
            watched = [bank.scales.physical_column(disease, path[..., j], j) for j in columns]
            rates = [cost.rate(value) for cost, value in zip(disease.costs, watched)]
            found["costs"] = torch.stack([area(rate) for rate in rates], -1)
            found["peaks"] = torch.stack([rate.amax(-1) for rate in rates], -1)
        if whole:
            parts |= found
            continue
        patients = torch.arange(len(dt), device=dt.device)[:, None]
        for name, value in found.items():
            parts[name] = parts[name].index_put((patients, rows), value)
    return Along(**parts)
