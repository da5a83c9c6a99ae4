"""Fitting the learned simulators to recorded operations by partial pooling.

A patient's logarithms are a learned center plus a deviation that a prior holds near zero. The individual simulators use
both, the population's uses the center alone: fitted to pooled records it would learn that deep patients need little,
since anesthetists dose by BIS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from medgym_offline.diseases.anesthesia.clinician import Records
from medgym_offline.diseases.anesthesia.patients import Patients
from medgym_offline.diseases.anesthesia.severity import BIS_NOISE, CUFF_NOISE, PER_MINUTE
from medgym_offline.diseases.anesthesia.surrogate import PARAMETERS, Surrogate, law_step, respond
from medgym_offline.diseases.anesthesia.truth import bis_lag

__all__ = ["Fit", "fit_surrogate", "predicted_readings"]

_BIS_SCALE, _PRESSURE_SCALE = 7.0, 6.0
"""Points and mmHg at which an error counts one; chosen: the reading's noise with what the law leaves unexplained."""
_WEIGHT = 0.25
"""Of the likelihood; chosen: errors a minute apart are correlated, so four readings count as one."""
_CUFF_WEIGHT = 2.0
"""A cuff's readings are few and far apart, so each of them counts twice."""


@dataclass(frozen=True)
class Fit:
    """`individual` P patients, `center` the same P with the population's parameters; the noise is of all alike."""

    individual: Surrogate
    center: Surrogate


def predicted_readings(law: Surrogate, records: Records) -> tuple[Tensor, Tensor]:
    """(P, S, N/4) displayed BIS and pressure every minute under the recorded doses; differentiable in the values."""
    value, lag = law.value, law.lag
    step, gain = law_step(value, law.minutes)
    doses = records.doses
    rates = torch.stack([doses.propofol_rate / 60.0, doses.norepinephrine], -1)
    pushed = gain[:, None, None] @ rates[..., None]
    pushed = (pushed[..., 0] + step[:, None, None, :, 0] * doses.propofol_bolus[..., None]).permute(2, 0, 3, 1)
    state = torch.zeros_like(pushed[0])
    states = []
    for push in pushed.unbind():
        state = torch.baddbmm(push, step, state)
        states.append(state)
    hidden = torch.stack(states, -1)  # (P, 5, S, N)
    wide = {name: v[:, :, None] for name, v in value.items()}
    bis, pressure = respond(wide, *(hidden[:, k] for k in (2, 3, 4)))
    bis, pressure = (x + d for x, d in zip((bis, pressure), law.disturbance(records.schedule).unbind(-1)))
    padded = torch.cat([wide["bis_awake"].expand(*bis.shape[:2], 2), bis], -1)
    shown = (1.0 - lag)[..., None] * padded[..., 1:-1] + lag[..., None] * padded[..., :-2]
    minute = slice(PER_MINUTE - 1, None, PER_MINUTE)
    return shown[..., minute], pressure[..., minute]


def fit_surrogate(people: Patients, records: Records, iterations: int = 100) -> Fit:
    """Fit the law to every operation in `records`.

    Args:
        people: P patients (their ages set the monitor's lag; nothing else of them is used).
        records: Their operations.
        iterations: Of Adam; it has converged after about 40.
    """
    lag = torch.tensor(bis_lag(people.age), dtype=torch.float32)[:, None]
    spread = torch.tensor([p.spread for p in PARAMETERS])
    start, low, high = (torch.tensor([math.log(getattr(p, x)) for p in PARAMETERS]) for x in ("start", "low", "high"))
    center = start.clone().requires_grad_()
    deviation = torch.zeros(len(people), len(PARAMETERS), requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [center], "lr": 0.03}, {"params": [deviation], "lr": 0.05}])
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, 0.1 + 2.25 * (1.0 - i / iterations)))

    def law(logs: Tensor, noise: Tensor | None = None) -> Surrogate:
        bounded = torch.maximum(torch.minimum(logs, high), low).exp()
        return Surrogate(bounded, lag, torch.zeros(len(people), 4) if noise is None else noise)

    for _ in range(iterations):
        optimizer.zero_grad()
        bis, pressure = predicted_readings(law(center + deviation), records)
        misses = (bis - records.bis) / _BIS_SCALE, (pressure - records.pressure) / _PRESSURE_SCALE
        points, mmhg = (huber_loss(miss, torch.zeros_like(miss), reduction="none", delta=2.0) for miss in misses)
        loss = (points * records.bis_known).sum() + _CUFF_WEIGHT * (mmhg * records.pressure_known).sum()
        # The center itself is held near its published start as one patient is near the center.
        prior = (deviation / spread).square().sum() + ((center - start) / spread).square().sum()
        loss = _WEIGHT * loss + 0.5 * prior
        loss.backward()
        torch.nn.utils.clip_grad_norm_([center, deviation], 500.0)
        optimizer.step()
        decay.step()
    with torch.no_grad():
        bis, pressure = predicted_readings(law(center + deviation), records)
        depth = _unexplained(bis - records.bis, records.bis_known, BIS_NOISE)
        circulation = _unexplained(pressure - records.pressure, records.pressure_known, CUFF_NOISE)
        noise = torch.tensor(depth + circulation).expand(len(people), 4).contiguous()
        return Fit(law(center + deviation, noise), law(center.expand(len(people), -1), noise))


def _unexplained(error: Tensor, known: Tensor, reading_noise: float) -> tuple[float, float]:
    """Standard deviation of the errors without the readings' own noise, and their correlation per minute.

    The correlation is from pairs of readings at the shortest distance at which there are any.
    """
    error = error * known
    variance = max(float(error.square().sum() / known.sum()) - reading_noise**2, 1.0)
    for gap in range(1, known.shape[-1]):
        pairs = (known[..., gap:] & known[..., :-gap]).sum()
        if pairs:
            covariance = float((error[..., gap:] * error[..., :-gap]).sum() / pairs)
            return math.sqrt(variance), float(np.clip(covariance / variance, 0.0, 0.98)) ** (1.0 / gap)
    return math.sqrt(variance), 0.0
