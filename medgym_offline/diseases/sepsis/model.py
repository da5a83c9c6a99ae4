"""How sepsis is learned from records: free rates and residual, and what is estimated or drawn before the fit.

How much perfusion support a patient needs is read from what clinicians gave and from lactate. Confounding by
indication is information here: a patient on 0.2 mcg/kg/min of norepinephrine is one whom less did not
keep perfused. The supply that the charted doses delivered, plus a share of the lactate above normal (need left unmet),
is taken as a noisy sight of n(t) = n_base + n_shock exp(-t/tau), fitted per patient with a prior. What one stay cannot
tell is drawn from the prior: a lognormal factor on each of the three numbers, from the patient's own stream.

The prior says where fits start, and what the data cannot identify. Treatment thresholds and a patient's sensitivity to
unmet need cannot be read from one stay. They are drawn from the distributions below, from a stream that belongs to the
patient; the draws are stored in the bank and stated as such. A bank of prior draws alone (:func:`prior_bank`) serves
tests and examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.config import configuration
from medgym_offline.diseases.base import Dynamics
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import K_MAX, K_MIN, R_MAX, FieldParameters, Physics, supply
from medgym_offline.diseases.sepsis.twin import TwinField
from medgym_offline.errors import BankError
from medgym_offline.seeds import derive_seed, generator
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.data import FitData

__all__ = ["MODEL", "NeedPrior", "SepsisModel", "estimate_need", "prior_bank", "shock_course"]

TAUS = np.array([6.0, 9.0, 13.0, 18.0, 25.0, 30.0])
LACTATE_SHARE = 0.35
DRAW_SD = 0.1


@configuration("prior", BankError)
class NeedPrior:
    """Prior of a patient's need, as if it had been seen for some hours.

    Doses alone overstate later need: they follow the sick first hours, and are weaned after the need has gone. A strong
    prior of a small base (100 hours, 0.02 and 0.6) is that of the release (docs/science.md).

    Attributes:
        base, shock: Means of n_base and n_shock.
        hours: Observed hours that it counts as.
    """

    base: float = 0.25
    shock: float = 0.4
    hours: float = 6.0


def estimate_need(
    data: FitData, hours: np.ndarray, physics: Physics, root: int, prior: NeedPrior | None = None, recency: float = 0.0
) -> np.ndarray:
    """(P, 3) n_base, n_shock, tau from the charted hours in `hours`, with prior draws from stream `root`.

    Args:
        data: The cohort; `data.start` gives lactate.
        hours: (T,) or (P, T) bool, hours whose charts may be read.
        physics: Gives the supply function.
        root: Root seed of the prior draws; another root gives independent draws.
        prior: Default: `NeedPrior()`.
        recency: As `FitConfig.recency`: an hour so much older than the last charted one in `hours` counts 1/e.
    """
    prior = prior or NeedPrior()
    mean = np.array([prior.base, prior.shock])
    patients, count = data.u.shape[:2]
    time = np.arange(count)
    use = np.broadcast_to(hours, (patients, count)) * (time[None] < data.length[:, None]).astype(float)
    if recency:
        age = (use * time).max(1, keepdims=True) - time
        use = use * np.exp(-np.maximum(age, 0.0) / recency)
    met = supply(physics, torch.from_numpy(data.u)).numpy()
    sight = met + LACTATE_SHARE * np.maximum(data.start[..., 5] - 0.3, 0.0)
    best = np.full(patients, np.inf)
    need = np.zeros((patients, 3))
    for tau in TAUS:
        basis = np.stack([np.ones(count), np.exp(-time / tau)], 1)
        gram = np.einsum("pt,ti,tj->pij", use, basis, basis) + prior.hours * np.eye(2)
        moment = np.einsum("pt,ti,pt->pi", use, basis, sight) + prior.hours * mean
        coefficient = np.maximum(np.linalg.solve(gram, moment[..., None])[..., 0], 0.0)
        error = (use * (sight - coefficient @ basis.T) ** 2).sum(1)
        error += prior.hours * (((coefficient - mean) ** 2).sum(1) + 0.05 * (np.log(tau / 14.0) / 0.4) ** 2)
        better = error < best
        best = np.where(better, error, best)
        need[better] = np.concatenate([coefficient, np.full((patients, 1), tau)], 1)[better]
    draws = np.stack([generator(root, "prior-need", p).normal(0.0, DRAW_SD, 3) for p in data.patients])
    need *= np.exp(draws)
    return np.clip(need, (0.02, 0.05, 4.0), (1.5, 2.0, 40.0)).astype(np.float32)


def shock_course(physics: Physics, need: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(P, T) hidden shock severity at each hour under the charted treatment, from 1 at admission.

    It depends on needs and treatment alone, so it is known before the rest of the field is fitted.
    """
    met = supply(physics, torch.from_numpy(u)).numpy()
    m = np.ones(len(u))
    course = np.empty(u.shape[:2], np.float32)

    def rate(m: np.ndarray, t: int) -> np.ndarray:
        gap = need[:, 0] + need[:, 1] * m - met[:, t]
        unmet = np.logaddexp(0.0, 5.0 * gap) / 5.0
        renewed = physics.persistence * unmet * (1.0 - 0.5 * m) if physics.extension else 0.0
        return -m / need[:, 2] + renewed

    for t in range(u.shape[1]):
        course[:, t] = m
        first = rate(m, t)
        m = np.clip(m + 0.5 * (first + rate(m + first, t)), 0.0, 4.0)
    return course


RESIDUAL_HIDDEN = 32

RESPONSE_SD = 0.4
"""Wider draws (0.8, and 0.35 on the overload threshold) were tried first. They, and not the records, then made most of
what was individual: a patient's best constant treatment from one world did worse than the cohort's in the other."""


def draw_response(root: int, patients: Sequence[str]) -> np.ndarray:
    """(P, 3) shares of the harm of unmet need (lactate, urine, GCS): sigmoid(N(0, 0.4^2))."""
    draws = np.stack([generator(root, "prior-response", p).normal(0.0, RESPONSE_SD, 3) for p in patients])
    return (1.0 / (1.0 + np.exp(-draws))).astype(np.float32)


def draw_threshold(root: int, patients: Sequence[str]) -> np.ndarray:
    """(P, 3) thresholds: ischaemia (normalized dose), overload (balance in 5 L), hyperoxia (normalized FiO2)."""
    draws = np.stack([generator(root, "prior-threshold", p).normal(0.0, 1.0, 3) for p in patients])
    ischaemia = 0.55 + 0.08 * draws[:, 0]
    overload = 0.8 * np.exp(0.2 * draws[:, 1])  # median 4 L
    hyperoxia = np.clip(0.75 + 0.08 * draws[:, 2], 0.5, 0.95)
    return np.stack([ischaemia, overload, hyperoxia], 1).astype(np.float32)


def prior_parameters(root: int, patients: Sequence[str]) -> FieldParameters:
    """Parameters drawn from the prior: rates around a fifth of their bounds, needs lognormal, a small residual."""
    count, hidden = len(patients), RESIDUAL_HIDDEN
    streams = [generator(root, "prior-field", p) for p in patients]
    normal = np.stack([g.normal(size=14 + 6 + 6 + 3) for g in streams])
    k = np.array(K_MAX) / (1.0 + np.exp(1.4 - 0.4 * normal[:, :14]))
    set_point = 0.5 * normal[:, 14:20]
    reversion = R_MAX / (1.0 + np.exp(1.2 - 0.3 * normal[:, 20:26]))
    need = np.array([0.35, 0.8, 14.0]) * np.exp(np.array([0.5, 0.5, 0.4]) * normal[:, 26:])

    def tensor(a: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.asarray(a, np.float32))

    def weights(inputs: int, outputs: int) -> torch.Tensor:
        bound = (3.0 / inputs) ** 0.5
        return tensor(np.stack([g.uniform(-bound, bound, (inputs, outputs)) for g in streams]))

    numbers = (k, set_point, reversion, need, draw_response(root, patients), draw_threshold(root, patients))
    zeros, last = torch.zeros(count, 1, hidden), torch.zeros(count, 1, 6)
    residual = (weights(6, hidden), zeros, weights(hidden, hidden), zeros.clone(), 0.3 * weights(hidden, 6), last)
    parts = [*map(tensor, numbers), *residual]
    return FieldParameters(*parts)


@own_defaults()
def prior_bank(patients: int = 8, seed: int = 0) -> SimulatorBank:
    """A bank of unfitted prior draws (backend "ode"), in two worlds with independent draws.

    Not a model of anybody: it is for tests and for trying code without a fitted bank.
    """
    ids = tuple(f"prior/{i}" for i in range(patients))
    scales = DISEASE.default_scales()
    noise = torch.tensor([c.noise for c in DISEASE.components]).repeat(patients, 1)
    starts = [generator(seed, "prior-start", p).normal(size=6) for p in ids]
    physiology = 0.5 * np.stack(starts) + np.array([-0.6, -0.4, 0.3, -0.5, -0.7, 1.0])
    initial = np.concatenate([physiology, np.zeros((patients, 1)), np.ones((patients, 1))], 1)
    state = torch.tensor(np.clip(initial, *scales.bounds(DISEASE)).astype(np.float32))

    def drawn(name: str, people: Sequence[str]) -> FieldParameters:
        return prior_parameters(derive_seed(seed, "prior-bank", name), people)

    worlds = {name: World(drawn(name, ids), noise, state) for name in ("own", "crossfit")}
    population = World(drawn("population", ["population"]), noise[:1], state.mean(0, keepdim=True))
    hours = np.arange(96.0)
    vaso = np.stack([0.2 * generator(seed, "prior-clinician", p).uniform() * np.exp(-hours / 24.0) for p in ids])
    clinician = np.stack([np.full_like(vaso, 0.4), vaso, np.broadcast_to(0.3 * np.exp(-hours / 12.0), vaso.shape)], 2)
    given, facts = torch.tensor(clinician.astype(np.float32)), {"source": "prior draws, fitted to nobody", "seed": seed}
    name = f"prior-{patients}-{seed}"
    return SimulatorBank(name, ids, DISEASE, scales, worlds, given, Physics(), population, metadata=facts)


class SepsisModel:
    """:class:`~medgym_offline.diseases.base.Model` of the hybrid field."""

    physics: type[Any] = Physics
    prior: type[Any] = NeedPrior
    kinds: Mapping[str, type[Any]] = {kind.kind: kind for kind in (FieldParameters, TwinField)}
    pooled = ("k", "set_point", "reversion", "w3", "b3")
    decayed = ("w1", "w2", "w3")

    def initial_raw(self, seed: int) -> dict[str, Tensor]:
        """Mid-range rates and an untrained residual network."""
        g = torch.Generator().manual_seed(seed)
        h = RESIDUAL_HIDDEN

        def uniform(a: int, b: int, gain: float) -> Tensor:
            return (2.0 * torch.rand((1, a, b), generator=g) - 1.0) * gain * (3.0 / a) ** 0.5

        return {
            "k": torch.full((1, 14), -1.0),
            "set_point": torch.zeros(1, 6),
            "reversion": torch.full((1, 6), -1.5),
            "w1": uniform(6, h, 1.0),
            "b1": torch.zeros(1, 1, h),
            "w2": uniform(h, h, 1.0),
            "b2": torch.zeros(1, 1, h),
            "w3": uniform(h, 6, 0.1),
            "b3": torch.zeros(1, 1, 6),
        }

    def given(
        self, data: Any, times: np.ndarray, physics: Physics, prior: NeedPrior, root: int, recency: float
    ) -> dict[str, np.ndarray]:
        """Needs estimated from the charts at `times`; responses and thresholds drawn from the prior."""
        return {
            "need": estimate_need(data, times, physics, root, prior, recency),
            "response": draw_response(root, data.patients),
            "threshold": draw_threshold(root, data.patients),
        }

    def parameters(self, raw: Mapping[str, Tensor], physics: Physics, given: Mapping[str, Tensor]) -> FieldParameters:
        """The field of free numbers: rates within their bounds."""
        high = raw["k"].new_tensor(K_MAX)
        # The floors are part of our extension, not of the paper's prior.
        low = raw["k"].new_tensor(K_MIN) if physics.extension else torch.zeros_like(high)
        return FieldParameters(
            k=low + torch.sigmoid(raw["k"]) * (high - low),
            set_point=raw["set_point"],
            reversion=R_MAX * torch.sigmoid(raw["reversion"]),
            **given,
            **{n: raw[n] for n in ("w1", "b1", "w2", "b2", "w3", "b3")},
        )

    def hidden_course(self, physics: Physics, given: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
        """(P, T, 1) severity of shock."""
        return shock_course(physics, np.broadcast_to(given["need"], (len(u), 3)), u)[..., None]

    def given_of(self, dynamics: Dynamics) -> dict[str, np.ndarray]:
        """Needs, responses and thresholds of a fitted field."""
        if not isinstance(dynamics, FieldParameters):
            raise BankError("this world is no fitted field, so its hidden components cannot be read from a record")
        return {n: getattr(dynamics, n).numpy() for n in ("need", "response", "threshold")}

    def average(self, dynamics: Dynamics, how: str) -> FieldParameters:
        """Mean responses and thresholds, mean or median needs (they are skewed; the median is nearer to most)."""
        assert isinstance(dynamics, FieldParameters)
        average = {n: getattr(dynamics, n).mean(0, keepdim=True) for n in ("need", "response", "threshold")}
        if how == "median":
            average["need"] = dynamics.need.median(0, keepdim=True).values
        return replace(dynamics, **average)


MODEL = SepsisModel()
