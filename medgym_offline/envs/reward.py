"""Reward of one decision, in three kinds.

With S the severity (SOFA surrogate), v the burden of treating (0.2 times the normalised vasopressor) and x(tau) the
dense path of :mod:`medgym_offline.envs.paths`:

    "integral"   r = -0.1 * integral_0^dt [ S(x(tau)) + v ] dtau
    "paper"      r = -S_end - v
    "authors"    r = 0.1 dt (-S_end - v) + 4 (S_start - S_end) - 0.15 dt - 0.02/(dt + 0.001) + 0.3

"integral" is the paper's reward accumulated over time: its return does not depend on how time is cut, so adaptive and
fixed timing maximise the same thing. "paper" is paid per decision (eq. 4). "authors" is what the public code of the
paper uses. S_start is the severity of the state before the decision under the treatment now given, so that a reward is
a function of state, treatment, interval and next state, and the difference counts what the state did, not the switch
of dose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medgym_offline.envs.paths import gather_rows, hold_path, rectangles

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["authors_reward", "integrate_severity", "paper_reward", "severity"]


def severity(bank: SimulatorBank, x: Tensor, u: Tensor) -> Tensor:
    """Severity of normalised states (..., D) under normalised treatments (..., 3): (...)."""
    return bank.disease.severity(bank.denormalize(x), bank.denormalize_treatment(u))


def paper_reward(end: Tensor, burden: Tensor) -> Tensor:
    """Eq. 4 of the paper: `-S_end - v`."""
    return -end - burden


def authors_reward(start: Tensor, end: Tensor, burden: Tensor, dt: Tensor) -> Tensor:
    """The reward of the authors' public code, from severity at start and end of a hold of `dt` hours."""
    return 0.1 * dt * (-end - burden) + 4.0 * (start - end) - 0.15 * dt - 0.02 / (dt + 0.001) + 0.3


def integrate_severity(
    bank: SimulatorBank,
    x: Tensor,
    u: Tensor,
    dt: Tensor,
    displacement: Tensor,
    cell: float = 1.0,
    threshold: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Integral of severity along holds, by the trapezoid rule on ceil(dt/cell) equal cells per hold.

    Args:
        bank: Simulators of the P patients.
        x, u, dt, displacement: The holds, see :func:`~medgym_offline.envs.paths.hold_path`; rows with dt = 0 stay.
        cell: Longest cell, hours.
        threshold: Severity below which the patient counts as recovered, if that is asked for.

    Returns:
        Integral (P, B) in severity points times hours; state at the end (P, B, D); and the hours (P, B) since
        severity was last at or above `threshold`: infinite if it was below throughout, 0 without a threshold.
    """
    cells = torch.ceil(dt.detach() / cell).long()
    total, end, calm = torch.zeros_like(dt), x, torch.zeros_like(dt)
    for rows, width in rectangles(cells, bank.backend):
        # A solver wants the rows in their order; the map does not mind, and copying them costs.
        whole = rows.shape[1] == dt.shape[1] and bank.backend == "map"
        x_, u_, dt_, n_, w_ = (v if whole else gather_rows(v, rows) for v in (x, u, dt, cells, displacement))
        node = torch.arange(1, width + 1, device=dt.device)
        # Beyond a row's own cells the nodes stay at its end: cells of no length, which add nothing.
        share = torch.minimum(node, n_[..., None]) / n_.clamp_min(1)[..., None]
        states = hold_path(bank, x_, u_, dt_, w_, share * dt_[..., None])
        path = torch.cat([x_[..., None, :], states], -2)
        height = severity(bank, path, u_[..., None, :])
        width_of = dt_ / n_.clamp_min(1)
        inside = node <= n_[..., None]
        area = ((height[..., 1:] + height[..., :-1]) / 2.0 * inside).sum(-1) * width_of
        reached = states[..., -1, :]
        quiet = torch.zeros_like(area)
        if threshold is not None:
            hours = torch.cat([torch.zeros_like(dt_)[..., None], share * dt_[..., None]], -1)
            last_above = torch.where(height >= threshold, hours, -1.0).amax(-1)
            quiet = torch.where(last_above < 0, torch.inf, dt_ - last_above)
        if whole:
            return area, reached, quiet
        patients = torch.arange(len(dt), device=dt.device)[:, None]
        total = total.index_put((patients, rows), area)
        end = end.index_put((patients, rows), reached)
        calm = calm.index_put((patients, rows), quiet)
    return total, end, calm
