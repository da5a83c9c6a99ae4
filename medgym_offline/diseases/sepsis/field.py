"""The vector field of a patient: sign-constrained physics plus a small residual network that never sees treatment.

In normalized coordinates, per hour, for every patient of a stack at once:

    dx/dt = bounded( physics(x, u) + R (B - x) ) + rho tanh(network(x))            the six physiological variables
    db/dt = (fluids - urine/24 - insensible) / scale                                fluid balance, litres, exact
    dm/dt = -m/tau + kappa h (1 - m/2)                                              hidden shock severity

The physics are the fourteen terms of the paper's prior with every rate k >= 0, and, with `Physics.extension`, what
the paper's prior lacks (without it zero treatment beats every clinician, `docs/science.md`):

- *Perfusion need* n = n_base + n_shock m, met by a vasopressor that is potent at low dose and by fluids as a poorer
  substitute, S(u) = 1.3 v/(v + 0.06) + 0.25 f/(f + 0.35). Unmet need h = r(n - S) raises lactate, lowers urine and
  GCS, and keeps the shock going (kappa): time lost early is paid for later.
- Fluid *overload* acts through the balance, not the rate: above a threshold it lowers PaO2, SpO2 and urine. Its harm
  levels off, or, with `Physics.growing_overload`, grows with log(1 + litres above / 5) while fluid ceases to lower
  lactate in the overfilled. A harm that levels off beside a benefit that does not rewards fluid without end.
- *Ischaemia* above a vasopressor threshold (lactate up, urine down) and mild *hyperoxia* above an FiO2 threshold.
- Mean reversion of every variable to a set point B at rate R.

The residual network sees the variables only, and of those not PaO2. Given the treatments, it learns confounding by
indication (FiO2 then lowers SpO2 in most patients) and forecasts no better. PaO2 follows FiO2 within hours and let the
same confounding in by the back door (docs/science.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from medgym_offline.config import configuration
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.scales import Scales, stack_last
from medgym_offline.errors import BankError
from medgym_offline.stack import StackedTensors

__all__ = ["FieldParameters", "K_MAX", "K_MIN", "Physics", "Rates", "balance_rate", "field", "supply"]


class Rates(NamedTuple):
    """The fourteen rates of the paper's prior, per hour, none negative (arXiv 2606.01028, eqs. 7 to 12).

    Each names what it acts on and what by; k1 to k14 in the order of the equations. The defaults are upper bounds
    (chosen: no effect faster than two hours, bilirubin slower than half a day).

    Attributes:
        pao2_to_fio2: Pull of PaO2 towards what FiO2 sustains.
        pao2_by_lactate: Loss of PaO2 under metabolic stress.
        pao2_by_fluids: Gain of PaO2 with fluids.
        spo2_to_pao2: Pull of saturation towards oxygen tension.
        gcs_by_lactate: Loss of consciousness under metabolic stress.
        gcs_by_hypoxia: Loss of consciousness at low saturation.
        lactate_by_vasopressor: Lactate from vasoconstriction.
        lactate_clearance: Clearance of lactate above the cohort's mean.
        lactate_by_fluids: Clearance of lactate with fluids.
        urine_by_fluids: Urine from fluids.
        urine_by_lactate: Loss of urine under metabolic stress.
        urine_by_vasopressor: Loss of urine from vasoconstriction.
        bilirubin_by_lactate: Bilirubin from metabolic stress.
        bilirubin_clearance: Clearance of bilirubin above the cohort's mean.
    """

    pao2_to_fio2: Any = 0.5
    pao2_by_lactate: Any = 0.1
    pao2_by_fluids: Any = 0.05
    spo2_to_pao2: Any = 0.3
    gcs_by_lactate: Any = 0.1
    gcs_by_hypoxia: Any = 0.1
    lactate_by_vasopressor: Any = 0.5
    lactate_clearance: Any = 0.5
    lactate_by_fluids: Any = 0.1
    urine_by_fluids: Any = 0.5
    urine_by_lactate: Any = 0.1
    urine_by_vasopressor: Any = 0.1
    bilirubin_by_lactate: Any = 0.05
    bilirubin_clearance: Any = 0.1


K_MAX = Rates()
"""Upper bounds, per hour."""

K_MIN = Rates(*(14 * (0.0,)))._replace(spo2_to_pao2=0.08, lactate_by_fluids=0.05, urine_by_fluids=0.06)
"""Lower bounds. Chosen: three effects that physiology is sure of and one stay is too confounded to show: oxygen
pressure carries saturation, fluid lowers lactate and raises urine. Fitted freely, the first two came out at almost 0
for a third of the patients."""

R_MAX = 0.25
"""Upper bound of the mean-reversion rates, per hour."""

RESIDUAL_SEES = (1.0, 0.0, 1.0, 1.0, 1.0, 1.0)
"""Which variables the residual network sees: all but PaO2, which is a treatment's proxy."""

RATE_BOUND = (1.0, 2.0, 0.2, 0.5, 2.0, 2.0)
"""Smooth bound of the physics per variable (SpO2, PaO2, bilirubin, GCS, urine, lactate), per hour."""


@configuration("physics", BankError)
class Physics:
    """Strengths that are choices, not estimates; stored in every bank.

    Attributes:
        extension: False is the paper's prior alone (with mean reversion and residual), for the ablation bank.
        fio2_gain: PaO2, in SD, that FiO2 1.0 pulls towards above room air.
        perfusion: Multiplies the harm of unmet need; 1.6 is where vasopressor is worth its SOFA points for a third
            of the patients (chosen: from a scan of strengths).
        lactate, urine, gcs: Harm of one unit of unmet need, SD per hour, before `perfusion` and the patient's draw.
        vasopressor_half: Normalized dose of half the vasopressor's effect.
        vasopressor_supply, fluids_supply: Largest need each can meet.
        fluids_half: Normalized rate of half the fluids' effect.
        persistence: kappa, how fast unmet need renews the shock, per hour.
        overload: Harm of fluid balance far above the threshold: PaO2, SpO2, urine, SD per hour.
        growing_overload: The harm grows with the balance (1 at 8.6 litres above the threshold) instead of levelling
            off (half at 5 litres, at most 1), and fluid's effect on lactate fades (half at 5 litres).
        ischaemia: Lactate and urine harm of vasopressor above its threshold, SD per hour at full dose.
        hyperoxia: SpO2 harm of FiO2 above its threshold, SD per hour at FiO2 1.
        residual: rho, bound of the residual network, SD per hour.
        insensible: Fluid lost unseen, mL/h.
    """

    extension: bool = True
    fio2_gain: float = 3.5
    perfusion: float = 1.6
    lactate: float = 0.30
    urine: float = 0.50
    gcs: float = 0.24
    vasopressor_half: float = 0.06
    vasopressor_supply: float = 1.3
    fluids_half: float = 0.35
    fluids_supply: float = 0.25
    persistence: float = 0.06
    overload: tuple[float, float, float] = (0.25, 0.08, 0.05)
    growing_overload: bool = False
    ischaemia: tuple[float, float] = (0.5, 0.3)
    hyperoxia: float = 0.01
    residual: float = 0.1
    insensible: float = 40.0


@dataclass
class FieldParameters(StackedTensors):
    """Patient-specific numbers of the field; every tensor has a leading patient axis (1 broadcasts).

    Attributes:
        k: (P, 14) the :class:`Rates`, in [0, K_MAX].
        set_point, reversion: (P, 6) B and R.
        need: (P, 3) n_base, n_shock, tau (hours).
        response: (P, 3) patient's share of the harm to lactate, urine, GCS, in (0, 1).
        threshold: (P, 3) vasopressor ischaemia, fluid overload (normalized balance), hyperoxia.
        w1, b1, w2, b2, w3, b3: residual network 6 -> H -> H -> 6, weights (P, in, out), biases (P, 1, out).
    """

    kind: ClassVar[str] = "hybrid"
    shares: ClassVar[bool] = True

    k: Tensor
    set_point: Tensor
    reversion: Tensor
    need: Tensor
    response: Tensor
    threshold: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    w3: Tensor
    b3: Tensor

    def rate(self, disease: Disease, scales: Scales, physics: Physics, x: Tensor, u: Tensor) -> Tensor:
        """dx/dt: :func:`field` of these parameters."""
        return field(disease, scales, physics, self, x, u)

    def relaxation(self) -> Tensor:
        """(P, 8) rough linear rates per hour: mean reversion plus the physics' own pull."""
        k = Rates(*self.k.unbind(-1))
        zero = torch.zeros_like(k.pao2_to_fio2)
        cleared = (0.5 * k.bilirubin_clearance, zero, zero, 0.5 * k.lactate_clearance)
        rates = self.reversion + torch.stack([k.spo2_to_pao2, k.pao2_to_fio2, *cleared], -1)
        shock = 1.0 / self.need[:, 2:]
        rates = rates.expand(shock.shape[0], -1)
        return torch.cat([rates, torch.zeros_like(shock), shock], -1)


def _soft(z: Tensor) -> Tensor:
    """r(z), a smooth max(z, 0): the solution map cannot follow kinks."""
    return torch.nn.functional.softplus(z, beta=5.0)


def supply(physics: Physics, u: Tensor) -> Tensor:
    """Perfusion need met by a treatment: S(u), (..., 3) -> (...)."""
    v, f = u[..., 1], u[..., 2]
    met = physics.vasopressor_supply * v / (v + physics.vasopressor_half)
    return met + physics.fluids_supply * f / (f + physics.fluids_half)


def _layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(P, B, in) -> (P, B, out), with weights per patient or one (leading 1) for everybody."""
    if weight.shape[0] == x.shape[0]:
        return torch.baddbmm(bias, x, weight)
    rows = x.reshape(1, -1, x.shape[-1])
    return torch.baddbmm(bias, rows, weight).reshape(*x.shape[:-1], -1)


def _residual(params: FieldParameters, x: Tensor, bound: float) -> Tensor:
    x = x * x.new_tensor(RESIDUAL_SEES)
    h = torch.tanh(_layer(x, params.w1, params.b1))
    h = torch.tanh(_layer(h, params.w2, params.b2))
    return bound * torch.tanh(_layer(h, params.w3, params.b3))


def balance_rate(disease: Disease, scales: Scales, insensible: float, urine: Tensor, fluids: Tensor) -> Tensor:
    """Rate of the fluid balance, normalized per hour: fluids in, urine and `insensible` mL/h out; exact bookkeeping.

    Args:
        disease, scales: Give both channels their physical units.
        insensible: mL/h.
        urine: (...) normalized urine.
        fluids: (...) fluids in [0, 1].
    """
    knee, upper = disease.treatments[2].knee, scales.treatment_upper[2]
    inflow = knee * torch.expm1(fluids * float(torch.log1p(torch.tensor(upper / knee, dtype=torch.float64))))
    root = (urine * scales.scale[4] + scales.center[4]).clamp(0.0, disease.variables[4].upper ** 0.5)
    return (inflow - root.square() / 24.0 - insensible) / (1000.0 * disease.components[6].scale)


def field(disease: Disease, scales: Scales, physics: Physics, params: FieldParameters, x: Tensor, u: Tensor) -> Tensor:
    """dx/dt of every patient.

    Args:
        disease, scales: Give urine and fluids their physical units for the balance.
        physics, params: The field.
        x: (P, B, D) normalized states, D = 8.
        u: (P, B, 3) treatments in [0, 1].

    Returns:
        (P, B, D) per hour.
    """
    spo2, pao2, bili, _, urine, lactate, balance, shock = x.unbind(-1)
    fio2, vaso, fluids = u.unbind(-1)
    k = Rates(*params.k.unsqueeze(1).unbind(-1))
    low_spo2, high_lactate = _soft(-spo2), _soft(lactate)

    sustained = physics.fio2_gain * fio2
    d_pao2 = k.pao2_to_fio2 * (sustained - pao2) - k.pao2_by_lactate * lactate + k.pao2_by_fluids * fluids
    d_spo2 = k.spo2_to_pao2 * (pao2 - spo2)
    d_gcs = -k.gcs_by_lactate * high_lactate - k.gcs_by_hypoxia * low_spo2
    d_lactate = 0.05 * low_spo2 - k.lactate_clearance * high_lactate - k.lactate_by_fluids * fluids
    d_urine = k.urine_by_fluids * fluids - k.urine_by_lactate * high_lactate
    d_bili = k.bilirubin_by_lactate * high_lactate - k.bilirubin_clearance * _soft(bili)
    n_base, n_shock, tau = params.need.unsqueeze(1).unbind(-1)
    if physics.extension:
        unmet = _soft(n_base + n_shock * shock - supply(physics, u))
        harm = physics.perfusion * params.response.unsqueeze(1)
        at, over_at, oxygen_at = params.threshold.unsqueeze(1).unbind(-1)
        excess, beyond = _soft(vaso - at), _soft(balance - over_at)
        overload = beyond / (1.0 + beyond)
        if physics.growing_overload:
            d_lactate = d_lactate + k.lactate_by_fluids * overload * fluids
            overload = torch.log1p(beyond)
        d_lactate = d_lactate + physics.lactate * harm[..., 0] * unmet
        d_lactate = d_lactate + (k.lactate_by_vasopressor + physics.ischaemia[0]) * excess
        d_urine = d_urine - physics.urine * harm[..., 1] * unmet
        d_urine = d_urine - (k.urine_by_vasopressor + physics.ischaemia[1]) * excess
        d_urine = d_urine - physics.overload[2] * overload
        d_gcs = d_gcs - physics.gcs * harm[..., 2] * unmet
        d_pao2 = d_pao2 - physics.overload[0] * overload
        d_spo2 = d_spo2 - physics.overload[1] * overload - physics.hyperoxia * _soft(fio2 - oxygen_at)
        d_shock = -shock / tau + physics.persistence * unmet * (1.0 - 0.5 * shock)
    else:
        d_lactate = d_lactate + k.lactate_by_vasopressor * vaso
        d_urine = d_urine - k.urine_by_vasopressor * vaso
        d_shock = -shock / tau

    observed = x[..., :6]
    rate = stack_last([d_spo2, d_pao2, d_bili, d_gcs, d_urine, d_lactate])
    rate = rate + params.reversion.unsqueeze(1) * (params.set_point.unsqueeze(1) - observed)
    bound = rate.new_tensor(RATE_BOUND)
    rate = bound * torch.tanh(rate / bound) + _residual(params, observed, physics.residual)

    d_balance = balance_rate(disease, scales, physics.insensible, urine, fluids)
    return stack_last([*rate.unbind(-1), d_balance, d_shock])
