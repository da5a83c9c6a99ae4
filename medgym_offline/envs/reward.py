"""Reward of one decision, in four kinds, and what is integrated along its path.

With S the severity of the disease (at most its cap), v its burden of treating and x(tau) the dense path of
:mod:`medgym_offline.envs.paths`:

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
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medgym_offline.envs.paths import Held, held_path, rectangles

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Along", "authors_reward", "integrate", "severity"]


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
