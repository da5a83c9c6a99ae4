"""The twin bank: records drawn from patients whose true field is known, the bank fitted to them, and the truth.

`python -m medgym_offline.diseases.sepsis.twin_bank` builds the release's.

The score is how far a simulator is from these patients: forecasts, and counterfactual responses. The same patients meet
another clinician and other process noise; what that clinician gives is the new treatment. From the first state, the
forecast is compared with the expected course (the true field under the same treatment):

    NMSE_j = mean (forecast_j - expected_j)^2 / var(x_j)          over patients and hours 1..96; x the noisy course

and from states along the noisy course, for the expected displacement d = x(t + h) - x(t) at h = 4 and 24 h,

    R2_j = 1 - sum (forecast d_j - true d_j)^2 / sum (true d_j - mean d_j)^2

(`mean` over the six variables, and `all` with both sums over all of them),
once under the treatment the clinician then gave (`behavior`) and once under a uniformly random treatment held instead
(`random`). A fit that has learnt the clinician's indications rather than the treatments' effects is good at the first
and bad at the second.

R2 of displacements is the strict reading: no change scores 0 or less, and a variable that hardly moves has next to no
denominator.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.cohorts import Cohort
from medgym_offline.compute import own_defaults
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.cohort.synthetic import STEPS, Course, live, synthetic_cohort
from medgym_offline.diseases.sepsis.field import FieldParameters
from medgym_offline.diseases.sepsis.model import MODEL, shock_course
from medgym_offline.diseases.sepsis.twin import WIDE, TwinPatients, bare_bank, true_world, twin_ids
from medgym_offline.errors import BankError
from medgym_offline.files import release_folder
from medgym_offline.seeds import derive_seed, generator
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.build import BankRecipe, build_bank, read_recipe
from medgym_offline.simulators.data import block_steps, fit_data
from medgym_offline.simulators.files import ship
from medgym_offline.simulators.fit import fit_alone
from medgym_offline.simulators.forecast import follow

__all__ = ["Model", "TrueCases", "bank_model", "build_twin", "score", "true_cases", "truth_checks", "twin_cohort"]

LEADS = (4, 24)
STARTS = list(range(0, 72, 6))


@dataclass(frozen=True)
class Model:
    """A simulator as the checks see it.

    Attributes:
        flow: `(x (P, B, D), u (P, B, 3), dt (P, B)) -> (P, B, D)`.
        hidden: (P, 97) its hidden component at each hour under the clinician's treatment.
    """

    flow: Callable[[Tensor, Tensor, Tensor], Tensor]
    hidden: Tensor


@dataclass(frozen=True)
class TrueCases:
    """True trajectories of P patients under a new clinician, and what would have followed other treatment.

    Attributes:
        states: (P, 97, D) normalized, hourly, with process noise.
        expected: (P, 96, D) the course without noise from the same first state, hours 1 to 96.
        treatment: (P, 96, 3) in [0, 1].
        schedules: Per regime, (P, B, 24, 3) treatment after each of `STARTS`.
        ends: Per regime, (P, B, 24, D) true states 1 to 24 h after each start.
    """

    states: Tensor
    expected: Tensor
    treatment: Tensor
    schedules: dict[str, Tensor]
    ends: dict[str, Tensor]


def true_cases(bank: SimulatorBank, seed: int = 1) -> TrueCases:
    """New trajectories of a bank's true patients, and counterfactual ones from states along them.

    Args:
        bank: Any bank with a world "true".
        seed: Of the new clinician and the random treatments.

    Raises:
        BankError: The bank knows no truth.
    """
    if "true" not in bank.worlds:
        raise BankError(f"bank {bank.name!r} has no world 'true' to be checked against; its worlds are {bank.worlds}")
    truth = bank.world("true")
    course = live(TwinPatients(truth), derive_seed(seed, "truth-checks"), "new clinician")
    states = bank.normalize(torch.from_numpy(course.states[:, ::STEPS]).float())
    treatment = bank.normalize_treatment(torch.from_numpy(course.doses).float())
    x = states[:, STARTS]
    behavior = torch.stack([treatment[:, t : t + LEADS[-1]] for t in STARTS], 1)
    draws = np.stack([generator(seed, "random-treatment", p).random((len(STARTS), 1, 3)) for p in bank.patients])
    random = torch.from_numpy(draws).float().expand(-1, -1, LEADS[-1], -1)
    schedules = {"behavior": behavior, "random": random}
    expected = follow(truth.flow, states[:, :1], treatment.unsqueeze(1))[:, 0]
    ends = {n: follow(truth.flow, x, s) for n, s in schedules.items()}
    return TrueCases(states, expected, treatment, schedules, ends)


def bank_model(bank: SimulatorBank, cases: TrueCases) -> Model:
    """The bank's current world: each patient by the patient's own simulator, or all by that of a population."""
    params, count = bank.current().params, len(cases.states)

    def flow(x: Tensor, u: Tensor, dt: Tensor) -> Tensor:
        one = bank.flow(x.reshape(len(bank), -1, x.shape[-1]), u.reshape(len(bank), -1, 3), dt.reshape(len(bank), -1))
        return one.reshape(x.shape)

    if not isinstance(params, FieldParameters):
        return Model(flow, cases.states[..., 7])
    given = torch.cat([cases.treatment, cases.treatment[:, -1:]], 1).numpy()
    course = shock_course(bank.physics, params.need.expand(count, -1).numpy(), given)
    return Model(flow, torch.from_numpy(course))


def score(model: Model, cases: TrueCases, variables: Sequence[str]) -> dict[str, Any]:
    """NMSE of full-horizon forecasts, and R2 of displacements, mean and per variable.

    Returns:
        `nmse`, `mae` (normalized units) and, per regime and lead, `r2`: each {"mean": ..., variable: ...}, R2 also
        {"all": ...}.
    """
    first = torch.cat([cases.states[:, :1, :7], model.hidden[:, :1, None]], -1)
    error = follow(model.flow, first, cases.treatment.unsqueeze(1))[:, 0, :, :6] - cases.expected[..., :6]
    variance = cases.states[:, 1:, :6].flatten(0, 1).var(0, unbiased=False)
    out: dict[str, Any] = {
        "nmse": _named(error.square().mean((0, 1)) / variance, variables),
        "mae": _named(error.abs().mean((0, 1)), variables),
        "r2": {},
    }
    x = torch.cat([cases.states[:, STARTS, :7], model.hidden[:, STARTS].unsqueeze(-1)], -1)
    for regime, schedule in cases.schedules.items():
        path, out["r2"][regime] = follow(model.flow, x, schedule), {}
        for lead in LEADS:
            true = (cases.ends[regime][:, :, lead - 1, :6] - x[..., :6]).flatten(0, 1)
            missed = (path[:, :, lead - 1, :6] - x[..., :6]).flatten(0, 1) - true
            squared, total = missed.square().sum(0), (true - true.mean(0)).square().sum(0)
            r2 = {"all": round(float(1.0 - squared.sum() / total.sum()), 4), **_named(1.0 - squared / total, variables)}
            out["r2"][regime][f"{lead} h"] = r2
    return out


def _named(values: Tensor, variables: Sequence[str]) -> dict[str, float]:
    return {"mean": round(float(values.mean()), 4), **{n: round(float(v), 4) for n, v in zip(variables, values)}}


def truth_checks(bank: SimulatorBank, seed: int = 1, scratch: SimulatorBank | None = None) -> dict[str, Any]:
    """The fields of Pop, Ind, crossfit Ind (and Ind from scratch) against the truth of a twin bank; see :func:`score`.

    Args:
        bank: A bank with worlds "own" and "true".
        seed: Of the new trajectories.
        scratch: The same patients fitted without a population, if there are.
    """
    cases = true_cases(bank, seed)
    banks = {"pop": bank.population(), "ind": bank.world("own")}
    if "crossfit" in bank.worlds:
        banks["ind crossfit"] = bank.world("crossfit")
    if scratch is not None:
        banks["ind from scratch"] = scratch
    models = {name: bank_model(one.with_backend("ode"), cases) for name, one in banks.items()}
    models["no change"] = Model(lambda x, u, dt: x, cases.states[..., 7])
    variables = [v.name for v in bank.disease.variables]
    return {name: score(model, cases, variables) for name, model in models.items()}


@own_defaults()
def twin_cohort(patients: int, seed: int, spread: float = 1.0) -> tuple[Cohort, Course]:
    """Records of the twin's patients (:func:`~medgym_offline.diseases.sepsis.twin.draw_twin`), and what truly
    happened."""
    ids = twin_ids(patients)
    return synthetic_cohort(TwinPatients(bare_bank(ids, WIDE, true_world(seed, ids, WIDE, spread))), seed)


def scratch_world(cohort: Cohort, bank: SimulatorBank, recipe: BankRecipe, show: bool = True) -> World:
    """Ind fitted from scratch: the `own` world's records, needs and draws, no population and no pull towards one."""
    grid = cohort.to_grid(1.0, DISEASE.process.horizon)
    data = fit_data(grid, DISEASE, bank.scales).restrict(block_steps(0, DISEASE))
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
        A bank with worlds own, crossfit and true; `metadata["truth"]` has those of :func:`truth_checks`.
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
