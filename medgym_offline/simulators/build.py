"""From a cohort table and a recipe to a bank: fit, cross-fit, noise, solution map, provenance.

Two worlds are fitted on disjoint halves of every stay (alternating 12-hour blocks): `own` reads the even blocks and is
what policies are trained in, `held-out` reads the odd blocks, has its own population fit and its own prior draws.
Nothing but the cohort's scales, the charted treatments and the first state is common to both.
"""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from medgym_offline.defaults import own_defaults
from medgym_offline.errors import BankError
from medgym_offline.files import code_version, json_text, read_toml, sha256_file
from medgym_offline.seeds import derive_seed
from medgym_offline.sepsis import SEPSIS
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.data import HORIZON, FitData, block_hours, clinician_schedule, fit_data
from medgym_offline.simulators.distill import DistillConfig, distill, map_errors
from medgym_offline.simulators.field import Physics
from medgym_offline.simulators.fit import FitConfig, FittedField, fit_individuals, fit_population
from medgym_offline.simulators.flow import SolutionMapConfig
from medgym_offline.simulators.needs import NeedPrior, estimate_need, shock_course
from medgym_offline.simulators.noise import estimate_noise
from medgym_offline.simulators.prior import NOISE_DEFAULT, draw_response, draw_threshold

if TYPE_CHECKING:
    from medgym_offline.cohorts import Cohort

__all__ = ["BankRecipe", "build_bank", "cohort_provenance", "read_recipe"]


@dataclass(frozen=True)
class BankRecipe:
    """Everything that decides a bank, apart from the cohort table.

    Attributes:
        name: Name of the bank.
        patients: Stays to keep, chosen by the cohort's coverage rule; 0 keeps all of the table.
        seed: Root seed of fits and prior draws.
        population_need: Which average of the patients' needs the population simulator has. Needs are skewed; the
            median is nearer to most patients.
        spread: Of a twin: multiplies what is individual in its patients (`twin.draw_twin`).
        need_prior: Prior of the patients' needs.
        physics, fit, distill, solution_map: See there.
    """

    name: str = "sepsis-v0"
    patients: int = 110
    seed: int = 20260101
    population_need: Literal["mean", "median"] = "mean"
    spread: float = 1.0
    need_prior: NeedPrior = field(default_factory=NeedPrior)
    physics: Physics = field(default_factory=Physics)
    fit: FitConfig = field(default_factory=FitConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    solution_map: SolutionMapConfig = field(default_factory=SolutionMapConfig)

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe as JSON; choices younger than the first banks are left out at their defaults."""
        values = asdict(self)
        if self.need_prior == NeedPrior():
            del values["need_prior"]
        if self.spread == 1.0:
            del values["spread"]
        if not self.fit.recency:
            del values["fit"]["recency"]
        if not self.physics.growing_overload:
            del values["physics"]["growing_overload"]
        return hashlib.sha256(json_text(values).encode()).hexdigest()


def read_recipe(path: str | Path) -> BankRecipe:
    """Read a bank recipe (TOML with tables need_prior, physics, fit, distill, solution_map).

    Raises:
        BankError: Not TOML, or an unknown field.
    """
    values = read_toml(path, BankError)
    parts: dict[str, Any] = {}
    kinds: tuple[tuple[str, Any], ...] = (
        ("need_prior", NeedPrior),
        ("physics", Physics),
        ("fit", FitConfig),
        ("distill", DistillConfig),
        ("solution_map", SolutionMapConfig),
    )
    for key, kind in kinds:
        table = {k: tuple(v) if isinstance(v, list) else v for k, v in values.pop(key, {}).items()}
        try:
            parts[key] = kind(**table)
        except (TypeError, BankError) as error:
            raise BankError(f"{path}: table [{key}]: {error}") from None
    try:
        return BankRecipe(**values, **parts)
    except TypeError as error:
        raise BankError(f"{path}: {error}") from None


def cohort_provenance(cohort: Cohort, table: str | Path) -> dict[str, Any]:
    """Where a bank's records came from, for its metadata: sources, licence, definitions, the table's checksum.

    Args:
        cohort: The cohort.
        table: The file it was read from.
    """
    known = cohort.metadata
    folders = [f"{p.get('folder', p.get('dataset'))} ({p.get('layout')})" for p in known.get("provenance", [])]
    return {
        "source": f"{len(cohort)} ICU stays from " + " and ".join(folders or [Path(table).name]),
        "licence": known.get("licence", "not stated in the cohort table"),
        "cohort_table": {
            "sha256": sha256_file(table),
            "command": known.get("command"),
            "provenance": known.get("provenance"),
            "definitions": known.get("definitions"),
        },
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


@dataclass
class _WorldFit:
    """One world's fit and what it was fitted with."""

    data: FitData
    need: np.ndarray
    shock: np.ndarray
    population: FittedField
    individuals: FittedField


def _fit_world(data: FitData, hours: np.ndarray, recipe: BankRecipe, name: str, show: bool) -> _WorldFit:
    root = derive_seed(recipe.seed, "world", name)
    usable = data.restrict(hours)
    need = estimate_need(usable, hours, recipe.physics, root, recipe.need_prior, recipe.fit.recency)
    response, threshold = draw_response(root, data.patients), draw_threshold(root, data.patients)
    config = replace(recipe.fit, seed=derive_seed(root, "fit"))
    draws = (need, response, threshold)
    population = fit_population(usable, *draws, recipe.physics, config, show)
    individuals = fit_individuals(usable, population, *draws, recipe.physics, config, show)
    return _WorldFit(usable, need, shock_course(recipe.physics, need, data.u), population, individuals)


def _world(fit: _WorldFit, first: np.ndarray) -> World:
    count = len(fit.data.patients)
    initial = np.concatenate([first, np.zeros((count, 1)), np.ones((count, 1))], 1)
    noise = torch.tensor(NOISE_DEFAULT).repeat(count, 1)
    return World(fit.individuals.params, noise, torch.tensor(initial.astype(np.float32)))


def _population_world(fit: _WorldFit, own: World, need: str) -> World:
    """The population's world: shared field, the cohort's mean or median need, mean thresholds and first state."""
    params = fit.population.params
    average = {n: getattr(params, n).mean(0, keepdim=True) for n in ("need", "response", "threshold")}
    if need == "median":
        average["need"] = params.need.median(0, keepdim=True).values
    return World(replace(params, **average), own.noise.mean(0, keepdim=True), own.initial.mean(0, keepdim=True))


@own_defaults()
def build_bank(
    cohort: Cohort, recipe: BankRecipe, provenance: dict[str, Any] | None = None, show: bool = True
) -> SimulatorBank:
    """Fit a bank to a cohort.

    Args:
        cohort: The validated cohort; `recipe.patients` stays are chosen from it by the coverage rule.
        recipe: What decides the bank.
        provenance: Extra entries for the bank's metadata (source files, command).
        show: Progress on standard error.

    Raises:
        BankError: Fewer stays than the recipe asks for.
    """
    from medgym_offline.cohorts import never_given, select_stays

    started = time.monotonic()
    if recipe.patients:
        if len(cohort) < recipe.patients:
            raise BankError(
                f"the cohort has {len(cohort)} stays, the recipe asks for {recipe.patients}; lower `patients`"
            )
        cohort = select_stays(cohort, recipe.patients)
    grid = cohort.to_grid(1.0, float(HORIZON))
    data = fit_data(grid)
    fits = {
        "own": _fit_world(data, block_hours(0), recipe, "own", show),
        "held-out": _fit_world(data, block_hours(1), recipe, "held-out", show),
    }
    first = data.first_state()
    worlds = {name: _world(fit, first) for name, fit in fits.items()}

    def bank_of(population: World | None, trunk: Any = None, metadata: dict[str, Any] | None = None) -> SimulatorBank:
        return SimulatorBank(
            name=recipe.name,
            patients=data.patients,
            scales=data.scales,
            physics=recipe.physics,
            worlds=worlds,
            population=population,
            trunk=trunk,
            clinician=torch.from_numpy(clinician_schedule(data)),
            metadata=metadata,
            disease=SEPSIS,
        )

    noise: dict[str, dict[str, Any]] = {name: {} for name in fits}
    for name, fit in fits.items():
        worlds[name].noise = torch.from_numpy(
            estimate_noise(bank_of(None).world(name), fit.data, fit.shock, noise[name])
        )
    population = _population_world(fits["own"], worlds["own"], recipe.population_need)
    bare = bank_of(population)
    trunk, codes = distill(
        [bare.world("own"), bare.world("held-out"), bare.population()], recipe.distill, recipe.solution_map, show
    )
    worlds["own"].code, worlds["held-out"].code, population.code = codes
    never = np.logical_not(data.mask.any(axis=1))
    metadata: dict[str, Any] = {
        "recipe": asdict(recipe),
        "recipe_hash": recipe.hash,
        "code_version": code_version(),
        "cohort": {
            "subjects": list(cohort.subjects),
            "hours": [int(n) for n in data.length],
            "never_given": list(never_given(grid, cohort.definition)),
            "never_observed": {
                v.name: [p for p, missing in zip(data.patients, never[:, j]) if missing]
                for j, v in enumerate(SEPSIS.variables)
            },
        },
        "noise": noise,
        "fit_loss": {n: [f.population.loss, f.individuals.loss] for n, f in fits.items()},
        **(provenance or {}),
    }
    bank = bank_of(population, trunk, metadata)
    bank.metadata["solution_map_errors"] = map_errors(bank, rows=8)
    bank.metadata["build_seconds"] = round(time.monotonic() - started)
    return bank
