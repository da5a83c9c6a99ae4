"""The model that simulators of diabetes learn: another class than the truth, small enough for 14 days of records.

Bergman's minimal model of glucose (Bergman et al., Am J Physiol 236:E667, 1979) with two compartments each for
subcutaneous insulin and for the gut (Hovorka et al., Physiol Meas 25:905, 2004):

    dS1 = u - S1 / t_insulin;          dS2 = (S1 - S2) / t_insulin
    dQ1 = 1000 c - Q1 / t_meal;        dQ2 = (Q1 - Q2) / t_meal
    dX = p2 (S 60 S2 / t_insulin - X)
    dG = production + bio Q2 / (t_meal V) - effectiveness G - X G (K + 140) / (K + G)

u insulin (U/kg/min), c carbohydrate (g/kg/min), G glucose (mg/dL), V = 1.7 dL/kg. K makes the effect of insulin
saturate as glucose rises; Bergman's model is K = infinity, with which forecasts of untreated patients are far too low.
Fitting is a Gauss-Newton search stacked over patients, with a population prior estimated along (partial pooling).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.diseases.diabetes.clinician import DAY
from medgym_offline.diseases.diabetes.people import TICK

__all__ = ["Fit", "PARAMETERS", "Parameter", "STATE", "advance", "derivative", "fit", "forecast"]

STATE = ("glucose", "action", "first_depot", "second_depot", "first_gut", "second_gut")
"""Components: mg/dL, 1/min, U/kg twice, mg/kg twice."""
VOLUME = 1.7
"""Distribution volume of glucose, dL/kg (Hovorka 2004: 0.16 L/kg); fixed, since bioavailability scales with it."""
USUAL = 140.0
"""Glucose at which X is the rate of Bergman's model, mg/dL, whatever K."""
GLUCOSE_RANGE = (20.0, 600.0)
"""Glucose of a learned simulator is kept inside, mg/dL."""


@dataclass(frozen=True)
class Parameter:
    """A positive number of each patient: its unit, bounds, and where the search and the population start."""

    name: str
    unit: str
    lower: float
    upper: float
    center: float


PARAMETERS = (
    Parameter("insulin_time", "min", 15.0, 200.0, 55.0),  # Hovorka 2004: 55
    Parameter("meal_time", "min", 10.0, 150.0, 40.0),  # Hovorka 2004: 40
    Parameter("action_rate", "1/min", 0.004, 0.1, 0.02),  # Bergman's p2
    Parameter("sensitivity", "1/min per U/kg/h", 0.02, 10.0, 0.5),  # so that 0.014 U/kg/h holds 140 mg/dL
    Parameter("effectiveness", "1/min", 1e-4, 0.05, 0.004),  # Bergman's p1, lower in type 1
    Parameter("production", "mg/dL/min", 0.1, 6.0, 1.5),  # 2.5 mg/kg/min over 1.7 dL/kg
    Parameter("bioavailability", "1", 0.03, 3.0, 0.8),  # Hovorka 2004: 0.8
    Parameter("half_saturation", "mg/dL", 10.0, 3000.0, 300.0),  # chosen: mild
)
"""All positive, so signs of effects hold by construction: insulin lowers glucose, meals raise it."""

SPREAD = 0.5
"""Standard deviation of a log-parameter between people before any is seen (chosen: a factor of 1.6)."""
HOURS, WARM_UP = 8, 8
"""Hours of a fitted forecast, and of inputs before it that fill the depots (chosen: most of insulin's action)."""
ERROR = 15.0
"""Error of a forecast, mg/dL, that the prior is weighed against (chosen: what remains after fitting)."""
CORRELATION_HOURS = 3.0
"""Errors this close count as one (chosen: as long as a meal's rise)."""


def _rates(x: Tensor, insulin: Tensor, meal: Tensor, p: list[Tensor]) -> Tensor:
    """dx/dt of a state with its components in front, (6, ...)."""
    g, action, s1, s2, q1, q2 = x.unbind(0)
    t_insulin, t_meal, p2, sensitivity, effectiveness, production, bio, half = p
    depot, gut = s1 / t_insulin, q1 / t_meal
    absorbed, emptied = s2 / t_insulin, q2 / t_meal
    return torch.stack(
        [
            production + (bio / VOLUME) * emptied - (effectiveness + action * ((half + USUAL) / (half + g))) * g,
            p2 * ((60.0 * sensitivity) * absorbed - action),
            insulin - depot,
            depot - absorbed,
            meal - gut,
            gut - emptied,
        ]
    )


def derivative(x: Tensor, dose: Tensor, event: Tensor, parameters: Tensor) -> Tensor:
    """dx/dt, per minute.

    Args:
        x: (..., 6) in the order of :data:`STATE`.
        dose: Insulin, basal and bolus together, U/kg/min, (...).
        event: Carbohydrate eaten, g/kg/min, (...).
        parameters: (..., 8) in the order of :data:`PARAMETERS`; leading axes broadcast with the state's.
    """
    x, dose, event = torch.broadcast_tensors(x, dose[..., None], event[..., None])
    return _rates(x.movedim(-1, 0), dose[..., 0], 1000.0 * event[..., 0], list(parameters.unbind(-1))).movedim(0, -1)


def advance(x: Tensor, insulin: Tensor, meal: Tensor, p: list[Tensor], minutes: float = TICK) -> Tensor:
    """One Runge-Kutta step of (6, ...) with inputs held; meals in mg/kg/min."""
    k1 = _rates(x, insulin, meal, p)
    k2 = _rates(x + (0.5 * minutes) * k1, insulin, meal, p)
    k3 = _rates(x + (0.5 * minutes) * k2, insulin, meal, p)
    k4 = _rates(x + minutes * k3, insulin, meal, p)
    after = x + (minutes / 6.0) * (k1 + 2.0 * (k2 + k3) + k4)
    after[0].clamp_(*GLUCOSE_RANGE)
    return after


def forecast(parameters: Tensor, glucose: Tensor, insulin: Tensor, meal: Tensor, warm: int) -> Tensor:
    """Glucose from readings and inputs.

    Args:
        parameters: (P, 8), or (P, J, 8) for J sets per patient.
        glucose: Reading at each start, (P, W).
        insulin, meal: U/kg and g/kg given in each tick, `warm` of them before the start, (P, W, warm + T).
        warm: Ticks before the start; before them the patient is taken to have rested at their mean insulin.

    Returns:
        (P, W, T + 1) or (P, J, W, T + 1), the reading first.
    """
    many = parameters.dim() == 3
    p = [q[..., None] for q in (parameters if many else parameters[:, None]).unbind(-1)]
    u, c = (rate * x.movedim(-1, 0)[:, :, None] / TICK for rate, x in ((1.0, insulin), (1000.0, meal)))
    rest = u[:warm].mean(0) if warm else 0.0 * u[0]
    s = rest * p[0]
    g, zero = glucose[:, None] + 0.0 * s, torch.zeros_like(s)
    x, path = torch.stack([g, 60.0 * p[3] * s / p[0], s, s, zero, zero]), [g]
    for tick in range(u.shape[0]):
        x = advance(x, u[tick], c[tick], p)
        if tick < warm:
            x[0] = g
        else:
            path.append(x[0])
    found = torch.stack(path, -1)
    return found if many else found[:, 0]


@dataclass(frozen=True)
class Fit:
    """Fitted people.

    Attributes:
        parameters: (P, 8).
        center: The population: geometric mean of the hierarchy, (8,); what a model for all should use, not a pooled
            fit, in which insulin's effect is confounded with who needs it.
        spread: Standard deviation of log-parameters between people, (8,).
        error: Root mean square of each patient's forecasts at the fitted readings, mg/dL, (P,).
    """

    parameters: Tensor
    center: Tensor
    spread: Tensor
    error: Tensor


def _windows(readings: Tensor, days: Tensor, gap: int) -> tuple[Tensor, Tensor]:
    """Starts of forecasts, (P, W), at readings of the chosen days `gap` ticks apart or more, and which are real."""
    usable = torch.isfinite(readings) & days
    found: list[list[int]] = []
    for row in usable:
        starts, last = [], -gap
        for tick in row.nonzero()[:, 0].tolist():
            if tick - last >= gap and tick + gap < usable.shape[1]:
                starts.append(tick)
                last = tick
        found.append(starts)
    width = max(map(len, found))
    starts_of = torch.tensor([row + [0] * (width - len(row)) for row in found])
    return starts_of, torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in found])


def fit(
    readings: Tensor, insulin: Tensor, meal: Tensor, parity: int | None = None, iterations: int = 20, gap: int = 24
) -> Fit:
    """Fits every patient to its own readings, drawn towards the population.

    Args:
        readings: Glucose, mg/dL, NaN where there is none, (P, T) at 5-minute ticks: a sensor's or fingersticks.
        insulin: U/kg given in each tick, (P, T).
        meal: Carbohydrate written down, g/kg, (P, T).
        parity: 0 fits readings of even days only, 1 of odd days; default all. Inputs of all days are used.
        iterations: At most, of Gauss-Newton with a damping of its own for each patient; it ends where nobody gains.
        gap: Ticks between the starts of forecasts.
    """
    count, total = readings.shape
    warm, length = WARM_UP * 60 // TICK, HOURS * 60 // TICK
    day = torch.arange(total) // DAY
    chosen = torch.ones(total, dtype=torch.bool) if parity is None else day % 2 == parity
    starts, real = _windows(readings, chosen, gap)
    row = torch.arange(count)[:, None, None]

    def around(x: Tensor, first: int, last: int, outside: float) -> Tensor:
        index = starts[..., None] + torch.arange(first, last)
        return torch.where((index >= 0) & (index < total), x[row, index.clamp(0, total - 1)], outside)

    u, c = around(insulin, -warm, length, 0.0), around(meal, -warm, length, 0.0)
    target = around(torch.where(chosen, readings, torch.nan), 1, length + 1, torch.nan)
    seen = torch.isfinite(target) & real[..., None]
    target, first = torch.where(seen, target, 0.0), readings[row[..., 0], starts].nan_to_num(0.0)
    fitted = (torch.isfinite(readings) & chosen).sum(1)
    independent = torch.minimum(fitted, chosen.sum() * TICK / 60.0 / CORRELATION_HOURS)
    weight = (independent / seen.sum((1, 2)).clamp_min(1) / ERROR**2)[:, None, None]

    low, high = (torch.tensor([getattr(q, side) for q in PARAMETERS]).log() for side in ("lower", "upper"))
    prior = torch.tensor([q.center for q in PARAMETERS]).log()
    center, spread = prior.clone(), torch.full_like(prior, SPREAD)
    theta, damping = prior.expand(count, -1).clone(), torch.full((count,), 1e-2)
    width, step = len(PARAMETERS), 1e-2
    shifts = torch.cat([torch.zeros(1, width), step * torch.eye(width)])

    def residuals(thetas: Tensor) -> Tensor:
        path = forecast(thetas.exp(), first, u, c, warm)[..., 1:]
        return torch.where(seen[:, None], path - target[:, None], 0.0).flatten(2)

    def loss(r: Tensor, at: Tensor) -> Tensor:
        robust = torch.where(r.abs() < 2 * ERROR, r**2, 4 * ERROR * r.abs() - 4 * ERROR**2)
        return weight[:, 0, 0] * robust.sum(-1) + (((at - center) / spread) ** 2).sum(-1)

    certain = torch.zeros(count, width)
    for _ in range(iterations):
        r = residuals(theta[:, None] + shifts)
        slope = (r[:, 1:] - r[:, :1]) / step
        r = r[:, 0]
        huber = weight[:, 0] * (2 * ERROR / r.abs().clamp_min(2 * ERROR))
        curvature = torch.einsum("pin,pjn->pij", slope * huber[:, None], slope) + torch.diag(spread**-2)
        gradient = torch.einsum("pin,pn->pi", slope, huber * r) + (theta - center) / spread**2
        damped = curvature + torch.diag_embed(damping[:, None] * curvature.diagonal(dim1=1, dim2=2))
        tried = (theta - torch.linalg.solve(damped, gradient).clamp(-0.7, 0.7)).clamp(low, high)
        now, then = loss(r, theta), loss(residuals(tried[:, None])[:, 0], tried)
        better = then < now
        theta = torch.where(better[:, None], tried, theta)
        damping = torch.where(better, damping * 0.3, damping * 5.0).clamp(1e-4, 1e3)
        certain = torch.linalg.inv(curvature).diagonal(dim1=1, dim2=2)
        # The population, given the people and how certain each is; two people's worth of the start, for small cohorts.
        center = (theta.sum(0) / spread**2 + prior) / (count / spread**2 + 1.0)
        spread = ((((theta - center) ** 2 + certain).sum(0) + 2 * SPREAD**2) / (count + 2)).sqrt()
        if not (then < 0.999 * now).any():
            break
    r = residuals(theta[:, None])[:, 0]
    return Fit(theta.exp(), center.exp(), spread, (r**2).sum(-1).div(seen.sum((1, 2)).clamp_min(1)).sqrt())
