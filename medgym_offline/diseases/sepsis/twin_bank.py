"""The twin bank: records drawn from patients whose true field is known, the bank fitted to them, and the truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgym_offline.defaults import own_defaults
from medgym_offline.diseases.scales import Scales
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import FieldParameters, Physics
from medgym_offline.diseases.sepsis.model import MODEL
from medgym_offline.diseases.sepsis.twin import NOISE, TwinField, draw_twin, perfusion_gap
from medgym_offline.errors import BankError, MedGymError
from medgym_offline.files import release_folder, write_json
from medgym_offline.seeds import derive_seed, generator
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.build import BankRecipe, build_bank, read_recipe
from medgym_offline.simulators.data import block_steps, fit_data
from medgym_offline.simulators.fit import fit_alone

if TYPE_CHECKING:
    from medgym_offline.cohorts import Cohort
    from medgym_offline.diseases.sepsis.cohort.synthetic import Course

__all__ = ["TwinWard", "build_twin", "main", "scratch_world", "true_world", "twin_cohort", "twin_ids"]

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
    bank = _bare(patients, scales, world)
    ill = torch.tensor([[generator(root, "illness", p).uniform(*ILLNESS)] for p in patients], dtype=torch.float32)
    care = bank.normalize_treatment(torch.tensor([30.0, 0.0, 60.0])).expand(count, 1, 3)
    with torch.no_grad():
        admitted = bank.flow(world.initial.unsqueeze(1), care, ill).squeeze(1)
    admitted[:, 6] = 0.0
    world.initial = admitted
    return world


def _bare(patients: Sequence[str], scales: Scales, world: World) -> SimulatorBank:
    return SimulatorBank(
        name="twin",
        patients=patients,
        scales=scales,
        physics=Physics(),
        worlds={"true": world},
        population=None,
        trunk=None,
        clinician=torch.zeros(len(patients), 96, 3),
        disease=DISEASE,
    )


class TwinWard:
    """A bank's true patients for `medgym_offline.diseases.sepsis.cohort.synthetic`: see `Ward` there.

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


@own_defaults()
def twin_cohort(patients: int, seed: int, spread: float = 1.0) -> tuple[Cohort, Course]:
    """Records of the twin's patients (:func:`~medgym_offline.diseases.sepsis.twin.draw_twin`), and what truly happened."""
    from medgym_offline.diseases.sepsis.cohort.synthetic import synthetic_cohort

    ids = twin_ids(patients)
    return synthetic_cohort(TwinWard(_bare(ids, WIDE, true_world(seed, ids, WIDE, spread))), seed)


def scratch_world(cohort: Cohort, bank: SimulatorBank, recipe: BankRecipe, show: bool = True) -> World:
    """Ind fitted from scratch: the `own` world's records, needs and draws, no population and no pull towards one."""
    data = fit_data(cohort.to_grid(1.0, DISEASE.process.horizon), DISEASE, bank.scales).restrict(
        block_steps(0, DISEASE)
    )
    own = bank.current("own")
    params = own.params
    assert isinstance(params, FieldParameters)
    config = replace(recipe.fit, seed=derive_seed(recipe.seed, "scratch"))
    fit = fit_alone(data, MODEL.given_of(params), recipe.physics, config, show)
    return World(fit.params, own.noise, own.initial)


@own_defaults()
def build_twin(recipe: BankRecipe, scratch: bool = True, show: bool = True) -> SimulatorBank:
    """Draw the twin's records, fit a bank to them, and add the world "true".

    The truth keeps its own first states: the fitted worlds start from what was charted first, and that too is part of
    the gap to reality. Its residual noise is that of the world `own` (a decision's noise has variance linear in its
    length, which the records' process noise, pulled back by the patient, has not), so worlds differ in dynamics alone.

    Args:
        recipe: Of the bank; `recipe.patients`, `recipe.seed` and `recipe.spread` decide the twin.
        scratch: Also fit Ind from scratch, to compare it (it is not kept).
        show: Progress on standard error.

    Returns:
        A bank with worlds own, crossfit and true; `metadata["truth"]` has the checks of `truth.truth_checks`.
    """
    from medgym_offline.diseases.sepsis.truth import truth_checks

    if recipe.patients < 1:
        raise BankError(f"recipe {recipe.name!r}: a twin needs `patients`, how many to draw")
    if not isinstance(recipe.spread, int | float) or not 0.0 <= recipe.spread < float("inf"):
        raise BankError(f"recipe {recipe.name!r}: spread must be a number of at least 0, not {recipe.spread!r}")
    cohort, _ = twin_cohort(recipe.patients, recipe.seed, recipe.spread)
    bank = build_bank(cohort, recipe, {"licence": "MIT, synthetic"}, show)
    truth = replace(true_world(recipe.seed, bank.patients, bank.scales, recipe.spread), noise=bank.noise_scale)
    bank = bank.with_world("true", truth)
    alone = bank.with_world("own", scratch_world(cohort, bank, recipe, show)) if scratch else None
    bank.metadata["truth"] = truth_checks(bank, scratch=alone)
    return bank


def main(arguments: Sequence[str] | None = None) -> None:
    """The synthetic twin: build its bank, write its records, compare them with real ones, show the truth checks."""
    parser = argparse.ArgumentParser(
        prog="python -m medgym_offline.diseases.sepsis.twin_bank", description=main.__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="fit the bank and add the truth")
    build.add_argument("--recipe", type=Path, default=release_folder("generation") / "sepsis-twin-v0.toml")
    build.add_argument("--output", type=Path, default=release_folder("generation") / "banks/sepsis-twin-v0.safetensors")
    build.add_argument("--patients", type=int, help="another number of patients than the recipe's")
    records = commands.add_parser("records", help="write the twin's records as a cohort table")
    records.add_argument("output", type=Path)
    truth = commands.add_parser("truth", help="Markdown table: a twin bank's simulators against the truth")
    truth.add_argument("bank", type=Path)
    compare = commands.add_parser("compare", help="Markdown table: the twin's records beside a real cohort's")
    compare.add_argument("real", type=Path, help="a cohort table (.parquet), or a summary written before (.json)")
    compare.add_argument("--summary", type=Path, help="also write the real cohort's summary statistics (.json)")
    for command in (records, compare):
        command.add_argument("--recipe", type=Path, default=release_folder("generation") / "sepsis-twin-v0.toml")
    options = parser.parse_args(arguments)
    try:
        _run(options)
    except MedGymError as error:
        raise SystemExit(f"error: {error}") from None


def _run(options: argparse.Namespace) -> None:
    from medgym_offline.cohorts import Cohort
    from medgym_offline.diseases.sepsis.cohort.calibration import comparison, read_summary, summarise
    from medgym_offline.diseases.sepsis.truth import change_table, truth_table
    from medgym_offline.simulators.files import load_simulators

    if options.command == "truth":
        facts = load_simulators(options.bank).metadata.get("truth")
        if facts is None:
            raise BankError(f"{options.bank}: no truth checks in this bank; a twin is built by the command `build`")
        print(truth_table(facts))
        if "change_sd" in next(iter(facts.values())):  # not in banks built before the table was
            print("\n" + change_table(facts))
        return
    recipe = read_recipe(options.recipe)
    if options.command == "build":
        bank = build_twin(recipe if options.patients is None else replace(recipe, patients=options.patients))
        bank.save(options.output)
        print(f"{options.output}: {len(bank)} patients, worlds {', '.join(bank.worlds)}")
        return
    cohort, _ = twin_cohort(recipe.patients, recipe.seed, recipe.spread)
    if options.command == "records":
        cohort.write(options.output)
        return
    is_summary = options.real.suffix == ".json"
    real = read_summary(options.real) if is_summary else summarise(Cohort.read(options.real))
    if options.summary is not None:
        write_json(options.summary, real)
    print(comparison(real, summarise(cohort)))


if __name__ == "__main__":
    main()
