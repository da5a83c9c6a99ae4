"""The twin's people: true dynamics, first states, and what a clinician sees of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.scales import Scales
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import Physics
from medgym_offline.diseases.sepsis.twin import NOISE, TwinField, draw_twin, perfusion_gap
from medgym_offline.errors import BankError
from medgym_offline.seeds import generator
from medgym_offline.simulators.bank import SimulatorBank, World

__all__ = ["WIDE", "TwinPatients", "bare_bank", "true_world", "twin_ids"]

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
    return SimulatorBank(
        name="twin",
        patients=tuple(patients),
        scales=scales,
        physics=Physics(),
        world_data={"true": world},
        clinician_treatment=torch.zeros(len(patients), 96, 3),
        disease=DISEASE,
    )


class TwinPatients:
    """A bank's true patients for `medgym_offline.diseases.sepsis.cohort.synthetic`: see `People` there.

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
