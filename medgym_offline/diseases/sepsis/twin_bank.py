"""The twin bank: records drawn from patients whose true field is known, the bank fitted to them, and the truth.

`python -m medgym_offline.diseases.sepsis.twin_bank` builds the release's.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from medgym_offline.cohorts import Cohort
from medgym_offline.defaults import own_defaults
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.cohort.synthetic import Course, synthetic_cohort
from medgym_offline.diseases.sepsis.field import FieldParameters
from medgym_offline.diseases.sepsis.model import MODEL
from medgym_offline.diseases.sepsis.truth import truth_checks
from medgym_offline.diseases.sepsis.twin_people import WIDE, TwinPatients, bare_bank, true_world, twin_ids
from medgym_offline.errors import BankError
from medgym_offline.files import release_folder
from medgym_offline.seeds import derive_seed
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.build import BankRecipe, build_bank, read_recipe
from medgym_offline.simulators.data import block_steps, fit_data
from medgym_offline.simulators.files import ship
from medgym_offline.simulators.fit import fit_alone

__all__ = ["build_twin", "scratch_world", "twin_cohort"]


@own_defaults()
def twin_cohort(patients: int, seed: int, spread: float = 1.0) -> tuple[Cohort, Course]:
    """Records of the twin's patients (:func:`~medgym_offline.diseases.sepsis.twin.draw_twin`), and what truly
    happened."""
    ids = twin_ids(patients)
    return synthetic_cohort(TwinPatients(bare_bank(ids, WIDE, true_world(seed, ids, WIDE, spread))), seed)


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
    if recipe.patients < 1:
        raise BankError(f"recipe {recipe.name!r}: a twin needs `patients`, how many to draw")
    cohort, _ = twin_cohort(recipe.patients, recipe.seed, recipe.spread)
    bank = build_bank(cohort, recipe, {"license": "MIT, synthetic"}, show)
    truth = replace(true_world(recipe.seed, bank.patients, bank.scales, recipe.spread), noise=bank.noise_scale)
    bank = bank.with_world("true", truth)
    alone = bank.with_world("own", scratch_world(cohort, bank, recipe, show)) if scratch else None
    bank.metadata["truth"] = truth_checks(bank, scratch=alone)
    return bank


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(f"error: no arguments are taken, not {sys.argv[1]!r}; copy the recipe, and call build_twin")
    ship(build_twin(read_recipe(release_folder("generation") / "sepsis-twin-v0.toml")))
