"""The learned simulators: a parametric law of another class than the truth, with one set of parameters per patient.

Per kg of body: two compartments of propofol, an effect site each for BIS and for pressure, sigmoid effects,
norepinephrine of first order with a saturating effect, and steps of BIS and pressure at the recorded events. The
linear part is stepped by its exact exponential.

Fitting to recorded operations is by partial pooling: a patient's logarithms are a learned center plus a deviation that
a prior holds near zero. The individual simulators use both, the population's uses the center alone: fitted to pooled
records it would learn that deep patients need little, since anesthetists dose by BIS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from medgym_offline.diseases.anesthesia.clinician import Records
from medgym_offline.diseases.anesthesia.flow import MOST_TICKS, Course, Doses, Law, combine, exact_step, power, powers
from medgym_offline.diseases.anesthesia.patients import Patients
from medgym_offline.diseases.anesthesia.severity import BIS_NOISE, CUFF_NOISE, PER_MINUTE, TICK_SECONDS
from medgym_offline.diseases.anesthesia.stimulation import Schedule
from medgym_offline.diseases.anesthesia.truth import bis_lag

__all__ = ["Fit", "PARAMETERS", "Surrogate", "fit_surrogate", "predicted_readings"]


@dataclass(frozen=True)
class Parameter:
    """A positive parameter of the law.

    Attributes:
        name, unit, meaning: What it is.
        start: Where the fit of the population center starts, near the published typical patient.
        spread: Prior standard deviation of a patient's logarithm around the center: the published spread between
            patients where there is one, else chosen narrow enough that one operation identifies it.
        low, high: Bounds of every patient's value.
    """

    name: str
    unit: str
    meaning: str
    start: float
    spread: float
    low: float
    high: float


PARAMETERS = (
    Parameter("elimination", "1/min", "from the central compartment", 0.25, 0.4, 0.02, 3.0),
    Parameter("to_peripheral", "1/min", "central to peripheral", 0.25, 0.3, 0.02, 3.0),
    Parameter("from_peripheral", "1/min", "peripheral to central", 0.06, 0.3, 0.005, 1.0),
    Parameter("effect_rate", "1/min", "of the effect site of BIS", 0.15, 0.6, 0.01, 3.0),
    Parameter("half_effect", "mg/kg", "amount of half effect on BIS", 0.28, 0.6, 0.02, 4.0),
    Parameter("bis_steepness", "1", "of the effect on BIS", 1.7, 0.15, 0.8, 4.0),
    Parameter("bis_awake", "points", "BIS without drug", 94.0, 0.02, 85.0, 100.0),
    Parameter("intubation", "points", "on BIS", 14.0, 0.25, 2.0, 50.0),
    Parameter("incision", "points", "on BIS", 14.0, 0.25, 2.0, 50.0),
    Parameter("surgery", "points", "on BIS", 8.0, 0.25, 1.0, 40.0),
    Parameter("pressure_share", "mmHg/point", "of stimulation on pressure", 0.4, 0.05, 0.1, 1.5),
    Parameter("pressure_awake", "mmHg", "pressure without drug", 88.0, 0.12, 50.0, 150.0),
    Parameter("pressure_fall", "1", "largest fall of pressure, a share", 0.5, 0.15, 0.1, 0.95),
    Parameter("pressure_rate", "1/min", "of the effect site of pressure", 0.12, 0.3, 0.01, 2.0),
    Parameter("pressure_half", "mg/kg", "amount of half effect on pressure", 0.25, 0.5, 0.02, 4.0),
    Parameter("pressure_steepness", "1", "of the effect on pressure", 1.6, 0.15, 0.8, 4.0),
    Parameter("pressor_max", "mmHg", "largest rise by norepinephrine", 60.0, 0.3, 10.0, 200.0),
    Parameter("pressor_half", "ug/kg/min", "rate of half that rise", 0.25, 0.3, 0.02, 2.0),
    Parameter("pressor_rate", "1/min", "of norepinephrine", 0.4, 0.15, 0.05, 3.0),
)


def law_step(value: dict[str, Tensor], minutes: float) -> tuple[Tensor, Tensor]:
    """Exact step of the linear part for (P, 1) parameters.

    Components: central and peripheral amount, effect sites of BIS and pressure (mg/kg), norepinephrine (ug/kg/min);
    inputs: propofol (mg/kg/min), norepinephrine (ug/kg/min).

    Returns:
        (P, 5, 5) step and (P, 5, 2) gain.
    """
    rate = {name: v[:, 0] for name, v in value.items()}
    a, b = (value["elimination"].new_zeros(len(value["elimination"]), 5, n) for n in (5, 2))
    a[:, 0, 0], a[:, 0, 1] = -(rate["elimination"] + rate["to_peripheral"]), rate["from_peripheral"]
    a[:, 1, 0], a[:, 1, 1] = rate["to_peripheral"], -rate["from_peripheral"]
    for i, name in ((2, "effect_rate"), (3, "pressure_rate")):
        a[:, i, 0], a[:, i, i] = rate[name], -rate[name]
    a[:, 4, 4], b[:, 0, 0], b[:, 4, 1] = -rate["pressor_rate"], 1.0, rate["pressor_rate"]
    return exact_step(a, b, minutes)


def respond(
    value: dict[str, Tensor], effect: Tensor, pressure_effect: Tensor, norepinephrine: Tensor
) -> tuple[Tensor, Tensor]:
    """BIS and pressure without stimulation, (P, ...) like the inputs, of (P, 1) parameters or wider ones."""
    # Kept above zero, where the logarithm's gradient is infinite.
    depth = power((effect / value["half_effect"]).clamp_min(1e-6), value["bis_steepness"])
    fall = power((pressure_effect / value["pressure_half"]).clamp_min(1e-6), value["pressure_steepness"])
    rise = value["pressor_max"] * norepinephrine / (norepinephrine + value["pressor_half"])
    pressure = value["pressure_awake"] * (1.0 - value["pressure_fall"] * fall / (1.0 + fall)) + rise
    return value["bis_awake"] / (1.0 + depth), pressure


@dataclass(frozen=True)
class Surrogate(Law):
    """P learned patients.

    Attributes:
        values: (P, 19) in the order of `PARAMETERS`.
        lag: (P, 1) lag of the displayed BIS (`truth.bis_lag`).
        noise: (P, 4) what the law leaves unexplained until the end of surgery, as AR(1) from minute to minute: sd and
            correlation of BIS, then of pressure.
        minutes: Length of a tick.
    """

    kind: ClassVar[str] = "learned"

    values: Tensor
    lag: Tensor
    noise: Tensor
    minutes: float = TICK_SECONDS / 60.0

    hidden: ClassVar[tuple[str, ...]] = ("central", "peripheral", "effect_site", "pressure_site", "norepinephrine")

    @cached_property
    def value(self) -> dict[str, Tensor]:
        """(P, 1) per name in `PARAMETERS`."""
        return {p.name: self.values[:, i, None] for i, p in enumerate(PARAMETERS)}

    @cached_property
    def _steps(self) -> tuple[Tensor, Tensor]:
        step, gain = law_step({k: v.double() for k, v in self.value.items()}, self.minutes)
        return tuple(x.to(self.lag) for x in powers(step, gain, MOST_TICKS))  # type: ignore[return-value]

    def initial_state(self, episodes: int) -> Tensor:
        """(P, episodes, C): awake, no drug."""
        ones = torch.ones(len(self.lag), episodes, dtype=self.lag.dtype)
        bis = self.value["bis_awake"] * ones
        return torch.stack([bis, bis, bis, self.value["pressure_awake"] * ones, *[0.0 * ones] * 5], -1)

    def course(self, hidden: Sequence[Tensor], doses: Doses, ticks: int) -> Course:
        """What follows hidden components (P, E) in at most `MOST_TICKS` ticks; see `flow.Law`."""
        steps, held = (x[..., :ticks] for x in self._steps)
        given = [hidden[0] + doses.propofol_bolus, *hidden[1:]]
        after = combine(steps, given, ((0, 1), (0, 1), (0, 1, 2), (0, 1, 3), (4,)))
        infused, pressor = (doses.propofol_rate / 60.0)[..., None], doses.norepinephrine[..., None]
        pushes = [held[:, None, i, 0] * infused for i in range(4)] + [held[:, None, 4, 1] * pressor]
        after = [x + push for x, push in zip(after, pushes)]
        bis, pressure = respond({k: v[..., None] for k, v in self.value.items()}, *after[2:])
        return Course(bis, pressure, after[2], after)

    def disturbance(self, schedule: Schedule, unexplained: Tensor | None = None, start: Tensor | int = 0) -> Tensor:
        """(P, E, N, 2): the fitted steps at the events, and the noise until the end of surgery; see `flow.Law`."""
        sizes = [self.value[name][..., None] for name in ("intubation", "incision", "surgery")]
        first, second, third = (size * phase for size, phase in zip(sizes, schedule.phases.unbind(-1)))
        bis = first + second + third
        shift = torch.stack([bis, self.value["pressure_share"][..., None] * bis], -1)
        if unexplained is None:
            return shift
        size, keep = self.noise[:, None, 0::2], self.noise[:, None, 1::2]
        fresh, last = (1.0 - keep.square()).sqrt(), unexplained[:, :, 0]
        series = [last]
        for minute in range(1, unexplained.shape[2]):
            last = keep * last + fresh * unexplained[:, :, minute]
            series.append(last)
        begin = start[..., None] if isinstance(start, Tensor) else torch.full((1, 1, 1), start)
        minute_of = ((begin + torch.arange(schedule.ticks)) // PER_MINUTE).clamp(max=len(series) - 1)
        index = minute_of[..., None].expand(*bis.shape, 2)
        noise = torch.stack(series, 2).gather(2, index)
        return shift + size[:, :, None] * noise * ~schedule.after[..., None]


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
