"""From a cohort table and a recipe to a bank: fit, cross-fit, noise, solution map, provenance.

Two worlds are fitted on disjoint halves of every record (alternating blocks): `own` reads the even blocks and is
what policies are trained in, `crossfit` reads the odd blocks, has its own population fit and its own prior draws.
Nothing but the cohort's scales, the charted treatments and the first state is common to both.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from medgym_offline.compute import own_defaults
from medgym_offline.config import check, configuration, from_values
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.registry import disease, disease_of_id
from medgym_offline.errors import BankError
from medgym_offline.files import code_version, command_line, json_text, read_toml, sha256_file
from medgym_offline.seeds import derive_seed
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.checks import map_checks
from medgym_offline.simulators.data import FitData, block_steps, clinician_schedule, fit_data
from medgym_offline.simulators.distill import DistillConfig, distill
from medgym_offline.simulators.fit import FitConfig, fit_individuals, fit_population
from medgym_offline.simulators.flow import SolutionMapConfig
from medgym_offline.simulators.forecast import estimate_noise

if TYPE_CHECKING:
    from medgym_offline.cohorts import Cohort

__all__ = ["BankRecipe", "build_bank", "cohort_provenance", "read_recipe"]


@configuration("bank recipe", BankError)
class BankRecipe:
    """Everything that decides a bank, apart from the cohort table.

    Attributes:
        name: Name of the bank; begins with its disease, as in "sepsis-v0".
        patients: Records to keep, chosen by the cohort's coverage rule; 0 keeps all of the table.
        seed: Root seed of fits and prior draws.
        population: How the population simulator averages what is individual in patients.
        spread: Of a bank with a synthetic truth: multiplies what is individual in its patients.
        prior: What records cannot tell; the disease's own dataclass.
        physics: Strengths that are choices; the disease's own dataclass.
        fit, distill, solution_map: See there; `distill.steps` 0 leaves the solver alone to run the bank.
    """

    name: str
    patients: Annotated[int, Field(ge=0)] = 110
    seed: int = 20260101
    population: Literal["mean", "median"] = "mean"
    spread: Annotated[float, Field(ge=0)] = 1.0
    prior: Any = None
    physics: Any = None
    fit: FitConfig = field(default_factory=FitConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    solution_map: SolutionMapConfig = field(default_factory=SolutionMapConfig)

    def __post_init__(self) -> None:
        model = self.disease.load_model()
        for part in ("prior", "physics"):
            if getattr(self, part) is None:
                object.__setattr__(self, part, getattr(model, part)())

    @property
    def disease(self) -> Disease:
        """The disease that the bank's name begins with."""
        return disease(disease_of_id(self.name))

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe as JSON."""
        return hashlib.sha256(json_text(asdict(self)).encode()).hexdigest()


def read_recipe(path: str | Path) -> BankRecipe:
    """Read a bank recipe (TOML with tables prior, physics, fit, distill, solution_map).

    Raises:
        BankError: Not TOML, an unknown field, or a value of another type or out of range.
    """
    values = read_toml(path, BankError)
    model, parts = disease(disease_of_id(str(values.get("name", "")))).load_model(), {}
    for part in ("prior", "physics"):
        parts[part] = check(getattr(model, part), values.pop(part, {}), f"{path}: [{part}]", BankError)
    return replace(from_values(BankRecipe, values, str(path)), **parts)


def cohort_provenance(cohort: Cohort, table: str | Path) -> dict[str, Any]:
    """Where a bank's records came from, for its metadata: sources, license, definitions, the table's checksum.

    Args:
        cohort: The cohort.
        table: The file it was read from.
    """
    known = cohort.metadata
    folders = [f"{p.get('folder', p.get('dataset'))} ({p.get('layout')})" for p in known.get("provenance", [])]
    return {
        "source": f"{len(cohort)} stays from " + " and ".join(folders or [Path(table).name]),
        "license": known.get("license", "not stated in the cohort table"),
        "cohort_table": {"sha256": sha256_file(table)}
        | {fact: known.get(fact) for fact in ("command", "provenance", "definitions")},
        "command": command_line(),
    }


def _fit_world(data: FitData, parity: int, recipe: BankRecipe, name: str, show: bool) -> SimulatorBank:
    """A bank of the world that reads the blocks of one parity (first states are of the whole record), with what its
    noise rests on and the last losses."""
    disease, model, count = data.disease, data.disease.load_model(), len(data.patients)
    root, steps = derive_seed(recipe.seed, "world", name), block_steps(parity, disease)
    usable = data.restrict(steps)
    given = model.given(usable, steps, recipe.physics, recipe.prior, root, recipe.fit.recency)
    config = replace(recipe.fit, seed=derive_seed(root, "fit"))
    population = fit_population(usable, given, recipe.physics, config, show)
    individuals = fit_individuals(usable, population, given, recipe.physics, config, show)
    initial = np.concatenate([data.first_state(), np.tile(np.array(disease.first_unobserved()), (count, 1))], 1)
    noise = torch.tensor([c.noise for c in disease.components]).repeat(count, 1)
    world = World(individuals.params, noise, torch.tensor(initial.astype(np.float32)))
    clinician = torch.from_numpy(clinician_schedule(data))
    bank = SimulatorBank(recipe.name, data.patients, disease, data.scales, {name: world}, clinician, recipe.physics)
    estimated, found = estimate_noise(bank, usable, model.hidden_course(recipe.physics, given, data.u))
    world = replace(world, noise=torch.from_numpy(estimated))
    # The population shares its field; what is given of patients, their noise and first states are averaged.
    average = model.average(population.params, recipe.population)
    shared = World(average, world.noise.mean(0, keepdim=True), world.initial.mean(0, keepdim=True))
    facts = {"noise": found, "fit_loss": [population.loss, individuals.loss]}
    return bank.replace(world_data={name: world}, population_data=shared, metadata=facts)


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
    if (of := cohort.definition.disease) != recipe.disease.name:
        raise BankError(
            f"the cohort is of {of}, bank {recipe.name!r} by its name of {recipe.disease.name}; name the bank {of}-..."
        )
    if recipe.patients:
        if len(cohort) < recipe.patients:
            raise BankError(
                f"the cohort has {len(cohort)} stays, the recipe asks for {recipe.patients}; lower `patients`"
            )
        cohort = select_stays(cohort, recipe.patients)
    disease = recipe.disease
    grid = cohort.to_grid(1.0, disease.process.horizon)
    data = fit_data(grid, disease)
    fits = {name: _fit_world(data, p, recipe, name, show) for p, name in enumerate(("own", "crossfit"))}
    worlds, bank = {name: fit.current() for name, fit in fits.items()}, fits["own"]
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
                for j, v in enumerate(disease.variables)
            },
        },
        **{fact: {name: fit.metadata[fact] for name, fit in fits.items()} for fact in ("noise", "fit_loss")},
        **(provenance or {}),
    }
    bank = bank.replace(world_data=worlds, metadata=metadata, known_hash=None)
    if recipe.distill.steps:
        parts = [bank.world("own"), bank.world("crossfit"), bank.population()]
        trunk, codes = distill(parts, recipe.distill, recipe.solution_map, show)
        coded = {n: replace(w, code=code) for (n, w), code in zip(worlds.items(), codes)}
        population = replace(parts[2].current(), code=codes[2])
        bank = bank.replace(world_data=coded, population_data=population, trunk=trunk, known_hash=None)
        bank.metadata["solution_map_errors"] = map_checks(bank, rows=8)
    bank.metadata["build_seconds"] = round(time.monotonic() - started)
    return bank
