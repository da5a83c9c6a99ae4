"""Records of the toy's people: what a cohort of it holds, and a clinician who writes one."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from medgym_offline.cohorts import Cohort
from medgym_offline.diseases.concepts import CohortDefinition, Concept, Selection
from medgym_offline.diseases.toy import DISEASE
from medgym_offline.diseases.toy.model import draw_people
from medgym_offline.seeds import generator
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.build import BankRecipe, build_bank

__all__ = ["COHORT", "build_toy", "records", "true_world"]

COHORT = CohortDefinition(
    disease="toy",
    variables=(Concept("glucose", "mg/dL", range=(10.0, 1000.0), usual=(60.0, 400.0)),),
    treatments=(Concept("insulin", "uU/mL", range=(0.0, 60.0), usual=(1.0, 60.0), gridding="infusion"),),
    selection=Selection("a day of records", 24.0, required=("glucose",)),
)


def true_world(root: int, patients: list[str]) -> World:
    """The people themselves, in the coordinates of the disease's default scales."""
    dynamics, glucose = draw_people(root, patients)
    scales = DISEASE.default_scales()
    first = scales.normalize(DISEASE, np.stack([glucose, 0.0 * glucose], -1))
    noise = torch.tensor([c.noise for c in DISEASE.components]).repeat(len(patients), 1)
    return World(dynamics, noise, torch.tensor(first.astype(np.float32)))


def records(patients: int = 6, seed: int = 0) -> Cohort:
    """A day of records: glucose measured every hour with 5 % error, insulin set every two hours by a rule with
    errors."""
    names = [f"toy/{i}" for i in range(patients)]
    worlds, untreated = {"true": true_world(seed, names)}, torch.zeros(patients, 24, 1)
    bank = SimulatorBank("toy-truth", tuple(names), DISEASE, DISEASE.default_scales(), worlds, untreated)
    streams = [generator(seed, "toy-records", name) for name in names]
    x, dose, hour = bank.initial_state().unsqueeze(1), np.zeros(patients), torch.ones(patients, 1)
    rows: list[tuple[str, str, float, float | None, float]] = []
    for t in range(24):
        glucose = bank.denormalize(x)[:, 0, 0].numpy() * np.exp([0.05 * g.normal() for g in streams])
        if t % 2 == 0:
            dose = np.clip(0.25 * (glucose - 130.0) * np.exp([0.5 * g.normal() for g in streams]), 0.0, 60.0)
        for name, seen, given in zip(names, glucose, dose):
            rows += [(name, "glucose", float(t), None, float(seen)), (name, "insulin", float(t), t + 1.0, float(given))]
        u = bank.normalize_treatment(torch.tensor(dose, dtype=torch.float32)[:, None, None])
        draw = np.stack([g.normal(size=(1, 2)) for g in streams]).astype(np.float32)
        with torch.no_grad():
            x = bank.clamp(bank.flow(x, u, hour) + bank.noise_scale.unsqueeze(1) * torch.from_numpy(draw))
    schema = ["patient", "variable", "time_h", "end_h", "value"]
    stays = pl.DataFrame({"patient": names, "los_h": [24.0] * patients})
    table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(source=pl.lit("toy"))
    return Cohort.from_table(table, COHORT, stays)


def build_toy(recipe: BankRecipe, show: bool = True) -> SimulatorBank:
    """Draw the people, write their records, fit a bank to them, and add the world "true"."""
    bank = build_bank(records(recipe.patients, recipe.seed), recipe, {"license": "MIT, synthetic"}, show)
    world = true_world(recipe.seed, list(bank.patients))
    physical = DISEASE.default_scales().denormalize(DISEASE, world.initial)
    world.initial, world.noise = bank.normalize(physical), bank.noise_scale
    return bank.with_world("true", world)
