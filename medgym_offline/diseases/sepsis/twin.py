"""The true field of the synthetic twin: known, and deliberately outside the class that is fitted to its records.

In physical units (S SpO2 %, P PaO2 mmHg, B bilirubin, G GCS, U urine mL/day, L lactate mmol/L, W fluid balance in
litres, m severity; F inspired oxygen fraction, v vasopressor mcg/kg/min, f fluids mL/h), with the Hill function
h(z; c, n) = z^n / (z^n + c^n) and r(z) a smooth max(z, 0):

    every variable y = transform(Y) relaxes to a target that the rest of the patient sets:   dy/dt = (y*(x, u) - y)/tau

    perfusion   gap  = r( n0 + n1 h(m;1,2) - V h(v; c_v (1 + 0.8 h(L;6,3)), 1.5) - Q (1 - O) h(f;250,1)
                          - 0.25 tanh(W/3) + 0.35 O ),      H = h(gap; 0.45, 2)          H: how hypoperfused, in [0, 1)
    overload    O    = h(r(W - w); 3, 2)                     ischaemia   J = h(v; c_J (1 + 0.35 tanh(W/3)), 4)
    hypoxia     D    = h(r(92 - S); 6, 2)                    liver       K = h(B; 8, 2)
    PaO2        P*   = 30 + q F^0.85 (1 - 0.3 h(m;1.2,2)) (1 - 0.5 O) (1 - 0.3 h(F;0.85,12))
    SpO2        S*   = 100 h(P; 26.8 (1 + 0.15 h(L;6,3)), 2.7) + s                        the Hill curve of haemoglobin
    lactate     L*   = (l0 + l1 H + 3 D + 4 J + 1.5 h(m;1.2,2)) (1 + 0.5 K)
    urine       U*   = u0 (1 - 0.85 H) (1 - 0.5 J) (1 - 0.4 O) (1 + 0.9 h(f;200,1.5)) (1 + 0.2 tanh(W/3))
    GCS         G*   = 3 + 12 g (1 - 0.65 H) (1 - 0.4 D) (1 - 0.4 K) (1 - 0.65 h(m;1.2,2))
    bilirubin   B*   = b0 (1 + 6 h(L;4,2)) + 2 O + 2 J                                    tau 24 h: lactate's history
    balance     dW/dt = (f - U/24 - 40)/1000                                              exact
    severity    dm/dt = (1 - m/4) [ a (0.2 + 0.8 H) h(m;0.9,3) + 0.05 H + 0.08 h(P;160,6) ] - m (1 - 0.4 K)/tau_m

The severity is bistable: self-sustaining while the patient is hypoperfused, dying out when perfused. That one equation
gives onset (m grows from above its threshold), resolution, and relapse (support withdrawn, fluid lost, or noise, while
m is still near the threshold). Every treatment has an optimum: vasopressor perfuses and then starves the gut; fluid
fills and then floods; oxygen saturates haemoglobin at 0.4, and above 0.6 injures the lung it is given for.

:class:`TwinPatients` are its people: true dynamics, first states, and what a clinician sees of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.scales import Scales, stack_last
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import Physics, balance_rate
from medgym_offline.errors import BankError
from medgym_offline.seeds import generator
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.stack import StackedTensors

__all__ = ["TwinField", "TwinPatients", "WIDE", "bare_bank", "draw_twin", "true_world", "twin_ids"]

NOISE = (1.1, 0.15, 0.025, 0.8, 4.5, 0.07, 0.0, 0.07)
"""Process noise of the records, SD per square root of an hour: SpO2 %, ln PaO2, ln(1 + bilirubin), GCS,
sqrt(urine), ln(1 + lactate), balance, severity."""

PARAMETERS = {
    "lungs": ("q", "s", "w"),
    "circulation": ("n0", "n1", "V", "c_v", "c_J", "Q"),
    "organs": ("l0", "l1", "u0", "g", "b0"),
    "severity": ("a", "tau_m"),
    "tau": ("spo2", "pao2", "bilirubin", "gcs", "urine", "lactate"),
}
"""Columns of the tensors of a :class:`TwinField`."""


@dataclass
class TwinField(StackedTensors):
    """True parameters of every patient, leading axis P; columns in `PARAMETERS`, symbols in the module's docstring.

    Attributes:
        lungs: (P, 3) q mmHg, s %, w litres.
        circulation: (P, 6) n0, n1, V, c_v mcg/kg/min, c_J mcg/kg/min, Q.
        organs: (P, 5) l0, l1 mmol/L, u0 mL/day, g, b0 mg/dL.
        severity: (P, 2) a per hour, tau_m hours.
        tau: (P, 6) relaxation times of the variables, hours.
    """

    kind: ClassVar[str] = "twin"

    lungs: Tensor
    circulation: Tensor
    organs: Tensor
    severity: Tensor
    tau: Tensor

    def relaxation(self) -> Tensor:
        """(P, 8) linear rates per hour."""
        balance = torch.zeros_like(self.tau[:, :1])
        return torch.cat([1.0 / self.tau, balance, 1.0 / self.severity[:, 1:]], -1)

    def rate(self, disease: Disease, scales: Scales, physics: Physics, x: Tensor, u: Tensor) -> Tensor:
        """dx/dt of every patient, (P, B, D) normalized per hour; shapes as in `field.field`."""
        dose = scales.denormalize_treatment(disease, u)
        columns = enumerate(x.unbind(-1))
        spo2, pao2, bili, _, _, lactate, balance, m = (scales.physical_column(disease, c, j) for j, c in columns)
        oxygen, v = 0.01 * dose[..., 0], dose[..., 1]
        log_pao2, log_lactate, log_m, log_f = _log(pao2), _log(lactate), _log(m), _log(dose[..., 2])
        q, s, w = self.lungs.unsqueeze(1).unbind(-1)
        _, _, _, _, c_ischaemia, _ = self.circulation.unsqueeze(1).unbind(-1)
        l0, l1, u0, g, b0 = self.organs.unsqueeze(1).unbind(-1)
        a, tau_m = self.severity.unsqueeze(1).unbind(-1)

        fill = torch.tanh(balance / 3.0)
        over = _overload(balance, w)
        acid = _hill_of_log(log_lactate, 6.0, 3.0)
        gap = softplus(_perfusion_gap(self, v, fill, over, acid, log_f, log_m), 6.0)
        hypoperfused = _hill(gap, 0.45, 2.0)
        ischaemia = _hill(v, c_ischaemia * (1.0 + 0.35 * fill), 4.0)
        hypoxia = _hill(softplus(92.0 - spo2, 1.0), 6.0, 2.0)
        liver = _hill(bili, 8.0, 2.0)
        sick = _hill_of_log(log_m, 1.2, 2.0)

        shunt = (1.0 - 0.3 * sick) * (1.0 - 0.5 * over) * (1.0 - 0.3 * _hill(oxygen, 0.85, 12.0))
        alert = 12.0 * g * (1.0 - 0.65 * hypoperfused) * (1.0 - 0.4 * hypoxia)
        filtered = u0 * (1.0 - 0.85 * hypoperfused) * (1.0 - 0.5 * ischaemia) * (1.0 - 0.4 * over)
        target = stack_last(
            [
                100.0 * _hill_of_log(log_pao2, 26.8 * (1.0 + 0.15 * acid), 2.7) + s,
                30.0 + q * oxygen**0.85 * shunt,
                b0 * (1.0 + 6.0 * _hill_of_log(log_lactate, 4.0, 2.0)) + 2.0 * over + 2.0 * ischaemia,
                3.0 + alert * (1.0 - 0.4 * liver) * (1.0 - 0.65 * sick),
                filtered * (1.0 + 0.9 * _hill_of_log(log_f, 200.0, 1.5)) * (1.0 + 0.2 * fill),
                (l0 + l1 * hypoperfused + 3.0 * hypoxia + 4.0 * ischaemia + 1.5 * sick) * (1.0 + 0.5 * liver),
            ]
        )
        rate = (scales.normalize(disease, target) - x[..., :6]) / self.tau.unsqueeze(1)
        d_balance = balance_rate(disease, scales, physics.insensible, x[..., 4], u[..., 2])
        growth = a * (0.2 + 0.8 * hypoperfused) * _hill_of_log(log_m, 0.9, 3.0) + 0.05 * hypoperfused
        injury = 0.08 * _hill_of_log(log_pao2, 160.0, 6.0)
        d_m = (1.0 - m / 4.0) * (growth + injury) - m * (1.0 - 0.4 * liver) / tau_m
        return stack_last([*rate.unbind(-1), d_balance, d_m])


def _hill(z: Tensor, half: Tensor | float, n: float) -> Tensor:
    """z^n / (z^n + half^n) for z >= 0, as 1/(1 + (half/z)^n) without overflow or infinite gradients at 0."""
    return _hill_of_log(_log(z), half, n)


def _log(z: Tensor) -> Tensor:
    """log z, finite at 0. Shared by the Hill curves of one variable: the field is the cost of a true world."""
    return torch.log(torch.clamp(z, min=1e-6))


def _hill_of_log(log_z: Tensor, half: Tensor | float, n: float) -> Tensor:
    log_half = torch.log(half) if isinstance(half, Tensor) else _log_of_number(half, log_z.dtype, log_z.device)
    return torch.sigmoid(n * (log_z - log_half))


@functools.lru_cache(maxsize=256)
def _log_of_number(number: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else a first call in inference mode would leave a tensor autograd refuses
        return torch.log(torch.tensor(number, dtype=dtype, device=device))


def _overload(balance: Tensor, threshold: Tensor) -> Tensor:
    return _hill(softplus(balance - threshold, 2.0), 3.0, 2.0)


def perfusion_gap(params: TwinField, physical: Tensor, dose: Tensor) -> Tensor:
    """Perfusion needed less perfusion supplied, before r(.): what a bedside monitor shows as a low pressure.

    Args:
        params: P patients.
        physical: (P, B, 8) state, physical units.
        dose: (P, B, 3) treatment, physical units.

    Returns:
        (P, B); negative when perfused with room to spare.
    """
    lactate, balance, m = physical[..., 5], physical[..., 6], physical[..., 7]
    over = _overload(balance, params.lungs[:, 2:])
    acid = _hill(lactate, 6.0, 3.0)
    return _perfusion_gap(params, dose[..., 1], torch.tanh(balance / 3.0), over, acid, _log(dose[..., 2]), _log(m))


def _perfusion_gap(
    params: TwinField, v: Tensor, fill: Tensor, over: Tensor, acid: Tensor, log_f: Tensor, log_m: Tensor
) -> Tensor:
    """The same from what `TwinField.rate` has already: (P, B) each."""
    n0, n1, supply, half, _, fluid = params.circulation.unsqueeze(1).unbind(-1)
    pressed = supply * _hill(v, half * (1.0 + 0.8 * acid), 1.5)
    bolus = fluid * (1.0 - over) * _hill_of_log(log_f, 250.0, 1.0)
    need = n0 + n1 * _hill_of_log(log_m, 1.0, 2.0)
    return need - pressed - bolus - 0.25 * fill + 0.35 * over


def draw_twin(root: int, patients: Sequence[str], spread: float = 1.0) -> tuple[TwinField, np.ndarray]:
    """True parameters of the named patients, each from its own stream, and their severity before admission.

    Args:
        root: Root seed.
        patients: Ids.
        spread: Multiplies every deviation from the median patient, so that 0 makes them all alike.

    Returns:
        The field, and (P,) m at the onset of the illness.
    """
    z = spread * np.stack([generator(root, "twin-field", p).normal(size=24) for p in patients])
    sick = z[:, 0]  # shared by need, persistence and onset: severe patients are severe throughout
    logit = 3.0 + 2.2 * z[:, 1] - 0.9 * sick

    def lognormal(median: float, sd: float, column: int, loading: float = 0.0) -> np.ndarray:
        return median * np.exp(sd * z[:, column] + loading * sick)

    drawn = {
        "q": lognormal(225.0, 0.36, 2, -0.2),
        "s": 0.2 + 1.2 * z[:, 3],
        "w": lognormal(2.5, 0.35, 4),
        "n0": lognormal(0.12, 0.5, 5, 0.4),
        "n1": lognormal(0.75, 0.25, 6, 0.4),
        "V": lognormal(1.0, 0.15, 7),
        "c_v": lognormal(0.04, 0.4, 8),
        "c_J": lognormal(0.35, 0.2, 9),
        "Q": lognormal(0.3, 0.4, 10),
        "l0": lognormal(0.85, 0.3, 11, 0.2),
        "l1": lognormal(5.5, 0.6, 12, 0.3),
        "u0": lognormal(1550.0, 0.55, 13, -0.15),
        "g": 1.0 / (1.0 + np.exp(-logit)),
        "b0": 0.1 + lognormal(0.3, 1.9, 14, 0.2),
        "a": lognormal(0.24, 0.2, 15, 0.1),
        "tau_m": lognormal(14.0, 0.3, 16),
        "spo2": lognormal(2.0, 0.15, 17),
        "pao2": lognormal(2.5, 0.2, 18),
        "bilirubin": lognormal(24.0, 0.25, 19),
        "gcs": lognormal(9.0, 0.25, 20),
        "urine": lognormal(3.0, 0.2, 21),
        "lactate": lognormal(5.0, 0.25, 22),
    }
    columns = ((group, np.stack([drawn[name] for name in names], 1)) for group, names in PARAMETERS.items())
    groups = {group: torch.tensor(values.astype(np.float32)) for group, values in columns}
    return TwinField(**groups), np.clip(1.1 * np.exp(0.35 * z[:, 23] + 0.25 * sick), 0.3, 3.0)


WIDE = Scales(DISEASE.default_scales().center, DISEASE.default_scales().scale, (100.0, 2.0, 5000.0))
"""Scales the twin lives in: doses wide enough that no clinician is clipped. A bank has the scales of its records."""

ILLNESS = (4.0, 14.0)
"""Hours of illness before admission, between these."""


def twin_ids(patients: int) -> list[str]:
    """Ids of the twin's patients: "twin/000" and so on."""
    return [f"twin/{i:03d}" for i in range(patients)]


def _rest(field: TwinField) -> np.ndarray:
    """(P, 6) states of health to fall ill from: each patient's own targets at rest on room air."""
    lungs, organs = field.lungs.numpy(), field.organs.numpy()
    pao2 = 30.0 + lungs[:, 0] * 0.21**0.85
    spo2 = 100.0 / (1.0 + (26.8 / pao2) ** 2.7) + lungs[:, 1]
    gcs = 3.0 + 12.0 * organs[:, 3]
    return np.stack([spo2, pao2, organs[:, 4], gcs, organs[:, 2], organs[:, 0]], 1)


def _noise(scales: Scales) -> np.ndarray:
    """(8,) the records' process noise in the coordinates of `scales`."""
    return np.asarray(np.array(NOISE) / np.array([*scales.scale, 1.0, 1.0]), np.float32)


def true_world(root: int, patients: Sequence[str], scales: Scales, spread: float = 1.0) -> World:
    """The true dynamics, noise and first states of the named patients, in the coordinates of `scales`.

    A patient falls ill from rest, and is admitted 4 to 14 h later, on a little oxygen, fluid balance 0.
    """
    field, onset = draw_twin(root, patients, spread)
    count = len(patients)
    noise = torch.from_numpy(_noise(scales)).repeat(count, 1)
    rest = scales.normalize(DISEASE, np.concatenate([_rest(field), np.zeros((count, 1)), onset[:, None]], 1))
    world = World(field, noise, torch.tensor(rest.astype(np.float32)))
    bank = bare_bank(patients, scales, world)
    ill = torch.tensor([[generator(root, "illness", p).uniform(*ILLNESS)] for p in patients], dtype=torch.float32)
    care = bank.normalize_treatment(torch.tensor([30.0, 0.0, 60.0])).expand(count, 1, 3)
    with torch.no_grad():
        admitted = bank.flow(world.initial.unsqueeze(1), care, ill).squeeze(1)
    admitted[:, 6] = 0.0
    world.initial = admitted
    return world


def bare_bank(patients: Sequence[str], scales: Scales, world: World) -> SimulatorBank:
    """A bank of the twin's true patients, whom no clinician treats."""
    untreated = torch.zeros(len(patients), 96, 3)
    return SimulatorBank("twin", tuple(patients), DISEASE, scales, {"true": world}, untreated, Physics())


class TwinPatients:
    """A bank's true patients for `medgym_offline.diseases.sepsis.cohort.synthetic`: see `live` there.

    Args:
        bank: A bank in its world "true".
    """

    def __init__(self, bank: SimulatorBank):
        params = bank.current().params
        if not isinstance(params, TwinField):
            raise BankError(f"bank {bank.name!r}: world {bank.current_world!r} is fitted; take its world 'true'")
        self.patients: Sequence[str] = list(bank.patients)
        self.bank, self._field = bank, params
        self._noise = torch.from_numpy(_noise(bank.scales))

    def admit(self) -> np.ndarray:
        """(P, 8) states at admission, physical units."""
        return self._physical(self.bank.initial_state())

    def advance(self, state: np.ndarray, dose: np.ndarray, hours: float, noise: np.ndarray) -> np.ndarray:
        """State after `hours` under doses (P, 3); `noise` (P, 8) standard normal."""
        bank = self.bank
        physical, given = self._tensors(state, dose)
        with torch.inference_mode():
            hold = torch.full(physical.shape[:2], hours)
            x = bank.flow(bank.normalize(physical), bank.normalize_treatment(given), hold)[:, 0]
            return self._physical(bank.clamp(x + self._noise * torch.from_numpy(noise).float() * hours**0.5))

    def pressure(self, state: np.ndarray, dose: np.ndarray) -> np.ndarray:
        """(P,) mean arterial pressure, mmHg, as far as it follows perfusion."""
        return 80.0 - 32.0 * perfusion_gap(self._field, *self._tensors(state, dose))[:, 0].double().numpy()

    def _physical(self, x: Tensor) -> np.ndarray:
        return np.asarray(self.bank.denormalize(x).double().numpy())

    def _tensors(self, state: np.ndarray, dose: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(state).float().unsqueeze(1), torch.from_numpy(dose).float().unsqueeze(1)
