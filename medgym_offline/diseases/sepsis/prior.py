"""Prior of the field: where fits start, and what the data cannot identify.

Treatment thresholds and a patient's sensitivity to unmet need cannot be read from one stay. They are drawn from the
distributions below, from a stream that belongs to the patient; the draws are stored in the bank and stated as such.
A bank of prior draws alone (:func:`prior_bank`) serves tests and examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medgym_offline.defaults import own_defaults
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import K_MAX, R_MAX, FieldParameters, Physics
from medgym_offline.seeds import derive_seed, generator
from medgym_offline.simulators.bank import SimulatorBank, World

__all__ = ["draw_response", "draw_threshold", "prior_bank", "prior_parameters"]

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

    return FieldParameters(
        k=tensor(k),
        set_point=tensor(set_point),
        reversion=tensor(reversion),
        need=tensor(need),
        response=tensor(draw_response(root, patients)),
        threshold=tensor(draw_threshold(root, patients)),
        w1=weights(6, hidden),
        b1=torch.zeros(count, 1, hidden),
        w2=weights(hidden, hidden),
        b2=torch.zeros(count, 1, hidden),
        w3=0.3 * weights(hidden, 6),
        b3=torch.zeros(count, 1, 6),
    )


@own_defaults()
def prior_bank(patients: int = 8, seed: int = 0) -> SimulatorBank:
    """A bank of unfitted prior draws (backend "ode"), in two worlds with independent draws.

    Not a model of anybody: it is for tests and for trying code without a fitted bank.
    """
    ids = tuple(f"prior/{i}" for i in range(patients))
    scales = DISEASE.default_scales()
    noise = torch.tensor([c.noise for c in DISEASE.components]).repeat(patients, 1)
    worlds = {}
    for name in ("own", "crossfit"):
        root = derive_seed(seed, "prior-bank", name)
        starts = [generator(seed, "prior-start", p).normal(size=6) for p in ids]
        physiology = 0.5 * np.stack(starts) + np.array([-0.6, -0.4, 0.3, -0.5, -0.7, 1.0])
        initial = np.concatenate([physiology, np.zeros((patients, 1)), np.ones((patients, 1))], 1)
        lower, upper = scales.bounds(DISEASE)
        state = torch.tensor(np.clip(initial, lower, upper).astype(np.float32))
        worlds[name] = World(prior_parameters(root, ids), noise, state)
    one = prior_parameters(derive_seed(seed, "prior-bank", "population"), ["population"])
    population = World(one, noise[:1], worlds["own"].initial.mean(0, keepdim=True))
    hours = np.arange(96.0)
    vaso = np.stack([0.2 * generator(seed, "prior-clinician", p).uniform() * np.exp(-hours / 24.0) for p in ids])
    clinician = np.stack([np.full_like(vaso, 0.4), vaso, np.broadcast_to(0.3 * np.exp(-hours / 12.0), vaso.shape)], 2)
    return SimulatorBank(
        name=f"prior-{patients}-{seed}",
        patients=ids,
        scales=scales,
        physics=Physics(),
        world_data=worlds,
        population_data=population,
        clinician_treatment=torch.tensor(clinician.astype(np.float32)),
        disease=DISEASE,
        metadata={"source": "prior draws, fitted to nobody", "seed": seed},
    )
