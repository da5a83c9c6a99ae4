"""The published truth: propofol to BIS (Eleveld 2018), to pressure (Su 2023), norepinephrine (Li 2024, Beloeil 2005).

Sources: Eleveld et al., Br J Anaesth 120:942 (2018), doi 10.1016/j.bja.2018.01.018, arterial, with opioids; Su et al.,
Br J Anaesth 131:222 (2023), doi 10.1016/j.bja.2023.04.043; Li et al., Clin Pharmacokinet 63:1597 (2024), doi
10.1007/s40262-024-01430-y; Beloeil et al., Br J Anaesth 95:782 (2005). Kinetics and effect site are linear and stepped
by their exact exponentials; the pressure model is stepped by an exponential Euler step of one tick.
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

from medgym_offline.diseases.anesthesia.flow import MOST_TICKS, Course, Doses, Law, combine, exact_step, power, powers
from medgym_offline.diseases.anesthesia.patients import Patients
from medgym_offline.diseases.anesthesia.severity import TICK_SECONDS
from medgym_offline.diseases.anesthesia.stimulation import Schedule

__all__ = ["BIS_AWAKE", "Truth", "bis_lag", "bis_of", "half_effect", "propofol_rates", "published"]

BIS_AWAKE = 93.0
GAMMA_ABOVE, GAMMA_BELOW = 1.47, 1.89
"""Eleveld 2018: BIS without drug, and the steepness above and below the half-effect concentration."""

# Su 2023: steepness of the resistance effect, half-effect level of the stroke-volume effect (ug/mL), turnover (1/min),
# feedback of pressure, decay of the effect of time (1/min), coupling of stroke volume to heart rate.
_RESISTANCE_EMAX, _RESISTANCE_GAMMA, _STROKE_C50 = 0.778, 1.83, 0.44
_TURNOVER, _FEEDBACK, _TIME_DECAY, _RATE_COUPLING = 0.072, -0.661, 0.067, 0.312
_TIME_HEART_RATE, _TIME_STROKE_VOLUME = 0.121, 0.0899

# Beloeil 2005: largest rise (mmHg), steepness. Its half-effect level of 7.04 ug/L stands in one line of
# implementations, one version of which has 70.4, at which a clinical dose does nothing; chosen: 7.04, whose rise at
# 0.1 ug/kg/min (22 mmHg) lies between those of two other published models (15, Oualha 2014; 64, Joachim 2024).
_PRESSOR_MAX, _PRESSOR_EC50, _PRESSOR_GAMMA = 98.7, 7.04, 1.8
# Li 2024: clearance depends on plasma propofol. Chosen: held at 3.53 ug/mL, the median of their anesthetized
# volunteers, which keeps the kinetics linear. Between awake and 6 ug/mL clearance would range from +13 to -8 %.
_PROPOFOL_LEVEL = 3.53
# Li 2024: the input lags by 13.7 s (its weight exponent of 0.25 is left out: at most 3 s). Ticks shorter than the lag
# lag by one tick.
_LAG_SECONDS = 13.7


def _sigmoid(x: np.ndarray | float, half: float, steepness: float = 1.0) -> np.ndarray:
    return np.asarray(x**steepness / (x**steepness + half**steepness))


def _fat_free_mass(age: np.ndarray, weight: np.ndarray, height: np.ndarray, male: np.ndarray) -> np.ndarray:
    """kg, Al-Sallami et al., Clin Pharmacokinet 54:1183 (2015)."""
    index = weight / (height / 100.0) ** 2
    man = (0.88 + 0.12 / (1.0 + (age / 13.4) ** -12.7)) * 9270.0 * weight / (6680.0 + 216.0 * index)
    woman = (1.11 - 0.11 / (1.0 + (age / 7.1) ** -1.1)) * 9270.0 * weight / (8780.0 + 244.0 * index)
    return np.where(male, man, woman)


def half_effect(people: Patients) -> np.ndarray:
    """(P,) effect-site concentration of half effect in ug/mL: 3.08 exp(-0.00635 (age - 35))."""
    return 3.08 * np.exp(-0.00635 * (people.age - 35.0)) * people.deviation("ce50")


def propofol_rates(people: Patients) -> tuple[Tensor, Tensor, np.ndarray]:
    """Eleveld 2018 as x' = A x + B u: amounts (mg) in three compartments and the effect site (ug/mL), u in mg/min.

    Returns:
        (P, 4, 4) A in 1/min, (P, 4, 1) B, and (P,) the central volume in L.
    """
    age, weight, aging = people.age, people.weight, people.age - 35.0
    # Post-menstrual age in weeks, a year counted as 52 as in the reference implementation (irrelevant in adults).
    weeks, reference_weeks = age * 52.0 + 40.0, 35.0 * 52.0 + 40.0
    reference = (np.array([35.0]), np.array([70.0]), np.array([170.0]), np.array([True]))
    lean = _fat_free_mass(age, weight, people.height, people.male) / _fat_free_mass(*reference)
    v1 = 6.28 * _sigmoid(weight, 33.6) / _sigmoid(70.0, 33.6) * people.deviation("v1")
    v2 = 25.5 * weight / 70.0 * np.exp(-0.0156 * aging) * people.deviation("v2")
    v3 = 273.0 * lean * np.exp(-0.0138 * age) * people.deviation("v3")
    mature = _sigmoid(weeks, 42.3, 9.06) / _sigmoid(reference_weeks, 42.3, 9.06)
    clearance = np.where(people.male, 1.79, 2.10) * (weight / 70.0) ** 0.75 * mature * np.exp(-0.00286 * age)
    clearance = clearance * people.deviation("clearance")
    q3_mature = _sigmoid(weeks, 68.3)
    q2 = 1.75 * (v2 / 25.5) ** 0.75 * (1.0 + 1.30 * (1.0 - q3_mature)) * people.deviation("q2")
    q3 = 1.11 * (v3 / 273.0) ** 0.75 * q3_mature / _sigmoid(reference_weeks, 68.3) * people.deviation("q3")
    ke0 = 0.146 * (weight / 70.0) ** -0.25 * people.deviation("ke0")
    a = np.zeros((len(people), 4, 4))
    a[:, 0, 0], a[:, 0, 1], a[:, 0, 2] = -(clearance + q2 + q3) / v1, q2 / v2, q3 / v3
    a[:, 1, 0], a[:, 1, 1] = q2 / v1, -q2 / v2
    a[:, 2, 0], a[:, 2, 2] = q3 / v1, -q3 / v3
    a[:, 3, 0], a[:, 3, 3] = ke0 / v1, -ke0
    b = np.zeros((len(people), 4, 1))
    b[:, 0] = 1.0
    return torch.tensor(a), torch.tensor(b), v1


def bis_lag(age: np.ndarray, tick_seconds: float = TICK_SECONDS) -> np.ndarray:
    """Lag of the displayed BIS beyond one tick, in ticks: Eleveld 2018, 15 + exp(0.0517 (age - 35)) s in all."""
    seconds = 15.0 + np.exp(0.0517 * (np.asarray(age) - 35.0))
    return np.clip(seconds / tick_seconds - 1.0, 0.0, 1.0)


def bis_of(effect_site: Tensor, ce50: Tensor) -> Tensor:
    """BIS without stimulation: 93 (1 - e/(1 + e)), e = (Ce/Ce50)^gamma, gamma 1.47 above and 1.89 below Ce50."""
    level = torch.log(effect_site / ce50)
    # The lesser of the two slopes of log e is gamma above where the log is positive and gamma below where it is
    # negative.
    return BIS_AWAKE / (1.0 + torch.exp(torch.minimum(GAMMA_ABOVE * level, GAMMA_BELOW * level)))


@dataclass(frozen=True)
class Truth(Law):
    """P published patients at one length of tick; tensors are (P, 1) unless said.

    Attributes:
        weight: kg.
        lag: See `bis_lag`.
        propofol: (P, 4, 4) exact step of the three amounts and the effect site; `propofol_input` (P, 4) per mg/min.
        v1, ce50: L and ug/mL.
        resistance, stroke_volume, heart_rate: Bases: mmHg min/mL, mL, 1/min.
        time_heart_rate, time_stroke_volume: The effect of time at the start, as shares of the bases.
        resistance_c50, stroke_effect: ug/mL and largest effect of Su's two propofol effects.
        norepinephrine: (P, 2, 2) exact step of the two amounts (ug); inputs (P, 2) per ug/min while the new rate has
            and while the rate before has arrived at the vein.
        endogenous, ec50: ug/L.
        minutes: Length of a tick.
    """

    kind: ClassVar[str] = "published"

    weight: Tensor
    lag: Tensor
    propofol: Tensor
    propofol_input: Tensor
    v1: Tensor
    ce50: Tensor
    resistance: Tensor
    stroke_volume: Tensor
    heart_rate: Tensor
    time_heart_rate: Tensor
    time_stroke_volume: Tensor
    resistance_c50: Tensor
    stroke_effect: Tensor
    norepinephrine: Tensor
    norepinephrine_input: Tensor
    norepinephrine_late: Tensor
    vc: Tensor
    endogenous: Tensor
    ec50: Tensor
    minutes: float = TICK_SECONDS / 60.0

    hidden: ClassVar[tuple[str, ...]] = (
        *("central_propofol", "fast_propofol", "slow_propofol", "effect_site"),
        *("resistance", "stroke_volume", "heart_rate", "effect_of_time"),
        *("central_norepinephrine", "peripheral_norepinephrine", "norepinephrine_rate"),
    )

    def initial_state(self, episodes: int) -> Tensor:
        """(P, episodes, C): awake, no drug, the effect of time at its largest."""
        ones = torch.ones(len(self.weight), episodes, dtype=self.weight.dtype)
        bis, base = BIS_AWAKE * ones, [self.resistance * ones, self.stroke_volume * ones, self.heart_rate * ones]
        zeros = [0.0 * ones] * 4
        return torch.stack([bis, bis, bis, self.base_pressure * ones, *zeros, *base, ones, *zeros[:3]], -1)

    @cached_property
    def base_heart_rate(self) -> Tensor:
        """(P, 1) with the effect of time, 1/min."""
        return self.heart_rate * (1.0 + self.time_heart_rate)

    @cached_property
    def base_pressure(self) -> Tensor:
        """(P, 1) awake mean arterial pressure, mmHg."""
        return self.resistance * self.stroke_volume * (1.0 + self.time_stroke_volume) * self.base_heart_rate

    @cached_property
    def _endogenous_rise(self) -> Tensor:
        return self._pressor(self.endogenous)

    @cached_property
    def _steps(self) -> tuple[Tensor, Tensor]:
        return powers(self.propofol, self.propofol_input[..., None], MOST_TICKS)

    @cached_property
    def _pressor_steps(self) -> tuple[Tensor, Tensor, Tensor]:
        fresh, late = self.norepinephrine_input, self.norepinephrine_late
        steps, held = powers(self.norepinephrine, (fresh + late)[..., None], MOST_TICKS)
        # In the first tick the rate before still arrives for a while; what that adds is carried on.
        carried = torch.cat([late[..., None], (steps[..., :-1] * late[:, None, :, None]).sum(2)], -1)
        return steps, held, carried

    def disturbance(self, schedule: Schedule, unexplained: Tensor | None = None, start: Tensor | int = 0) -> Tensor:
        """(P, E, N, 2) what stimulation adds to BIS and pressure; the truth leaves nothing unexplained."""
        return schedule.disturbance()

    def _circulation(self, resistance: Tensor, stroke: Tensor, heart_rate: Tensor) -> Tensor:
        volume = stroke * (1.0 - _RATE_COUPLING * torch.log(heart_rate / self.base_heart_rate))
        return resistance * heart_rate * volume

    def _pressor(self, concentration: Tensor) -> Tensor:
        ec50 = self.ec50 if concentration.dim() == 2 else self.ec50[..., None]
        effect = power(concentration / ec50, _PRESSOR_GAMMA)
        return _PRESSOR_MAX * effect / (1.0 + effect)

    def course(self, hidden: Sequence[Tensor], doses: Doses, ticks: int) -> Course:
        """What follows hidden components (P, E) in at most `MOST_TICKS` ticks; see `flow.Law`."""
        central, fast, slow, effect, resistance, stroke, rate, time, ne, ne_far, ne_rate = hidden
        central = central + doses.propofol_bolus * self.weight
        infused, pressor = doses.propofol_rate * (self.weight / 60.0), doses.norepinephrine * self.weight
        steps, held = (x[..., :ticks] for x in self._steps)
        # The effect site feeds nothing back.
        propofol = combine(steps, [central, fast, slow, effect], ((0, 1, 2), (0, 1, 2), (0, 1, 2), (0, 1, 2, 3)))
        propofol = [x + g * infused[..., None] for x, g in zip(propofol, held[:, None, :, 0].unbind(2))]
        ne_steps, ne_held, carried = (x[..., :ticks] for x in self._pressor_steps)
        drug = combine(ne_steps, [ne, ne_far], ((0, 1), (0, 1)))
        pushes = zip(ne_held[:, None, :, 0].unbind(2), carried[:, None].unbind(2))
        change = (ne_rate - pressor)[..., None]
        drug = [x + (g * pressor[..., None] + c * change) for x, (g, c) in zip(drug, pushes)]

        kept = math.exp(-_TURNOVER * self.minutes)
        aims = [(1.0 - kept) * base for base in (self.resistance, self.stroke_volume, self.heart_rate)]
        # The drug drives the tick by the mean of the plasma levels at its ends.
        plasma = torch.cat([central[..., None], propofol[0]], -1) / self.v1[..., None]
        level = 0.5 * (plasma[..., :-1] + plasma[..., 1:])
        e = power(level / self.resistance_c50[..., None], _RESISTANCE_GAMMA)
        opening = aims[0][..., None] * (1.0 - _RESISTANCE_EMAX * (e / (1.0 + e)))
        weakening = aims[1][..., None] * (1.0 + self.stroke_effect[..., None] * (level / (_STROKE_C50 + level)))
        # Time first, so that each tick's numbers lie together.
        driven = [x.permute(2, 0, 1).contiguous().unbind() for x in (opening, weakening)]
        decay, courses = math.exp(-_TIME_DECAY * self.minutes), []
        effects = [self.time_stroke_volume * self.stroke_volume, self.time_heart_rate * self.heart_rate]
        pressure = self._circulation(resistance, stroke + effects[0] * time, rate + effects[1] * time)
        for opened, weakened in zip(*driven):
            feedback = power(pressure / self.base_pressure, _FEEDBACK)
            resistance = kept * resistance + opened * feedback
            stroke = kept * stroke + weakened * feedback
            rate = kept * rate + aims[2] * feedback
            time = time * decay
            pressure = self._circulation(resistance, stroke + effects[0] * time, rate + effects[1] * time)
            courses.append((resistance, stroke, rate, time, pressure))
        *body, pressure = (torch.stack(c, -1) for c in zip(*courses))
        level = drug[0] / self.vc[..., None] + self.endogenous[..., None]
        rise = self._pressor(level) - self._endogenous_rise[..., None]
        bis = bis_of(propofol[3], self.ce50[..., None])
        after = [*propofol, *body, *drug, pressor[..., None].expand_as(bis)]
        return Course(bis, pressure + rise, propofol[3], after)


def published(people: Patients, tick_seconds: float = TICK_SECONDS, dtype: torch.dtype = torch.float32) -> Truth:
    """The published models of `people`.

    Args:
        people: Covariates and deviations; `typical.typical_patient` makes one without deviations.
        tick_seconds: Length of a tick; the release plays 15 s, finer ones measure the error of that.
        dtype: Of the coefficients, which are computed in double precision.
    """
    minutes, aging, size = tick_seconds / 60.0, people.age - 35.0, people.weight / 70.0

    def column(value: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=torch.float64).reshape(len(people), 1).to(dtype)

    def matrix(value: Tensor) -> Tensor:
        return value.to(dtype).contiguous()

    a, b, v1 = propofol_rates(people)
    step, gain = exact_step(a, b, minutes)
    clearance = 2.1 * size**0.75 * np.exp(-0.00344 * aging) * np.exp(-0.0357 * _PROPOFOL_LEVEL)
    clearance = clearance * people.deviation("norepinephrine_clearance")
    vc, vp = (base * size * people.deviation(f"norepinephrine_{v}") for base, v in ((2.4, "vc"), (3.6, "vp")))
    q = 0.6 * size**0.75
    rates = np.array([[-(clearance + q) / vc, q / vp], [q / vc, -q / vp]]).transpose(2, 0, 1)
    inputs = np.zeros((len(people), 2, 1))
    inputs[:, 0] = 1.0
    ne_step, ne_gain = exact_step(torch.tensor(rates), torch.tensor(inputs), minutes)
    # Within a tick the rate before arrives for the lag, then the new one; lags beyond a tick are cut to it.
    fresh = exact_step(torch.tensor(rates), torch.tensor(inputs), max(tick_seconds - _LAG_SECONDS, 0.0) / 60.0)[1]
    production = 0.4977 * size**0.75 * people.deviation("norepinephrine_production")
    return Truth(
        weight=column(people.weight),
        lag=column(bis_lag(people.age, tick_seconds)),
        propofol=matrix(step),
        propofol_input=matrix(gain[..., 0]),
        v1=column(v1),
        ce50=column(half_effect(people)),
        resistance=column(0.0163 * people.deviation("resistance")),
        stroke_volume=column(82.2 * people.deviation("stroke_volume")),
        heart_rate=column(56.1 * people.deviation("heart_rate")),
        time_heart_rate=column(np.full(len(people), _TIME_HEART_RATE)),
        time_stroke_volume=column(np.full(len(people), _TIME_STROKE_VOLUME)),
        resistance_c50=column(3.21 * people.deviation("resistance_c50")),
        # The study's volunteers were 18 to 70 years old: age is capped there.
        stroke_effect=column(-0.154 * np.exp(0.0333 * (np.minimum(people.age, 70.0) - 35.0))),
        norepinephrine=matrix(ne_step),
        norepinephrine_input=matrix(fresh[..., 0]),
        norepinephrine_late=matrix((ne_gain - fresh)[..., 0]),
        vc=column(vc),
        endogenous=column(production / clearance),
        ec50=column(_PRESSOR_EC50 * people.deviation("norepinephrine_ec50")),
        minutes=minutes,
    )
