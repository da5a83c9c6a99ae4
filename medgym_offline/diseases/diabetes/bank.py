"""Builds the banks of type 1 diabetes: the people, two weeks of their records, and what is learned of them.

    python -m medgym_offline.diseases.diabetes.bank generation/diabetes-v0.toml [--output FOLDER]

A recipe names the bank, its people ("published" or "interpolated"), days of records, seed, and the readings of the fit
("sensor" or "finger"). World `own` is fitted to the readings of even days, `crossfit` to those of odd ones; `true` is
the published model; the population is the center of the hierarchy of `own`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.config import configuration, read
from medgym_offline.diseases.diabetes import DISEASE
from medgym_offline.diseases.diabetes.clinician import HUMAN_ERROR, record
from medgym_offline.diseases.diabetes.episodes import SLOTS
from medgym_offline.diseases.diabetes.minimal import fit
from medgym_offline.diseases.diabetes.people import interpolated, published, splits
from medgym_offline.diseases.diabetes.truth import truth
from medgym_offline.diseases.diabetes.worlds import Learned, Published
from medgym_offline.errors import BankError
from medgym_offline.files import code_version
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.files import ship

__all__ = ["BankRecipe", "build", "learn"]


@configuration("bank recipe", BankError)
class BankRecipe:
    """What decides a bank; `patients` is so many of the people, the first (0: all)."""

    name: str
    people: Literal["published", "interpolated"] = "published"
    days: Annotated[int, Field(ge=2)] = 14
    seed: int = 0
    readings: Literal["sensor", "finger"] = "sensor"
    patients: Annotated[int, Field(ge=0)] = 0


def _world(dynamics: Learned | Published, glucose: Tensor, hidden: Tensor) -> World:
    """At rest at a glucose (P,), mg/dL; there is no noise but the sensor's and what people eat."""
    names, count = DISEASE.state_names, len(glucose)
    physical = torch.zeros(count, len(names))
    for name in ("glucose", "sensor_glucose", "earlier_glucose"):
        physical[:, names.index(name)] = glucose
    physical[:, len(names) - SLOTS : len(names) - SLOTS + hidden.shape[-1]] = hidden
    initial = DISEASE.default_scales().normalize(DISEASE, physical)
    return World(dynamics, torch.zeros_like(initial), initial)


@own_defaults()
@torch.no_grad()
def learn(
    name: str,
    patients: Sequence[str],
    context: Tensor,
    glucose: Tensor,
    records: tuple[Tensor, Tensor, Tensor],
    metadata: dict[str, Any],
    known: Mapping[str, World] | None = None,
) -> SimulatorBank:
    """The bank of people with records.

    Args:
        name, patients, metadata: Of the bank.
        context: (P, 5), see `episodes.CONTEXT`.
        glucose: At which episodes start, mg/dL (P,).
        records: Readings, insulin and carbohydrate as :func:`~.minimal.fit` wants them, from midnight on.
        known: Worlds beside the learned ones.
    """
    fits = {world: fit(*records, parity) for parity, world in enumerate(("own", "crossfit"))}
    learned = {world: Learned(one.parameters) for world, one in fits.items()}
    worlds = {world: _world(one, glucose, one.rest(glucose, context[:, 2])) for world, one in learned.items()}
    center = Learned(fits["own"].center[None])
    average, basal = glucose.mean(0, keepdim=True), context[:, 2].mean(0, keepdim=True)
    scales = DISEASE.default_scales()
    dose = torch.stack([context[:, 2], torch.zeros(len(context))], -1)
    charted = scales.normalize_treatment(DISEASE, dose)[:, None].expand(-1, 24, -1)
    return SimulatorBank(
        name=name,
        patients=tuple(patients),
        disease=DISEASE,
        scales=scales,
        world_data={**worlds, **(known or {})},
        population_data=_world(center, average, center.rest(average, basal)),
        clinician_treatment=charted.contiguous(),
        context=context,
        metadata={
            **metadata,
            "fit_error_mg_dl": {world: [round(float(e), 1) for e in one.error] for world, one in fits.items()},
            "spread": [round(float(s), 3) for s in fits["own"].spread],
            "code_version": code_version(),
        },
    )


@own_defaults()
@torch.no_grad()
def build(recipe: BankRecipe) -> SimulatorBank:
    """The bank of a recipe; about a minute for 30 people."""
    people, sides = (published(), splits()) if recipe.people == "published" else interpolated()
    if recipe.patients:
        people = people.select(people.names[: recipe.patients])
    model = truth(people)
    found = record(model, recipe.days, recipe.seed)
    weight = model.values["BW"]
    true = Published(torch.from_numpy(people.values).float())
    glucose, hidden = true.rest()
    # The daily insulin is not told.
    context = [people["BW"], 0.0 * people["BW"], people.basal, people["CR"], people["CF"] * people["BW"]]
    return learn(
        recipe.name,
        people.names,
        torch.from_numpy(np.stack(context, -1)).float(),
        glucose,
        (getattr(found, recipe.readings), (found.basal / 12.0 + found.bolus) / weight, found.logged / weight),
        {
            "recipe": dataclasses.asdict(recipe),
            "human_error": HUMAN_ERROR,
            "split": {side: [name for name in people.names if sides[name] == side] for side in ("train", "test")},
            "source": f"{len(people)} {recipe.people} virtual patients of the UVA/Padova model S2008",
            "license": "parameters MIT (simglucose), records synthetic",
        },
        {"true": _world(true, glucose, hidden)},
    )


def main() -> None:
    """Build the bank of a recipe and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--output", type=Path, default=Path("generation/banks"), help="Folder.")
    options = parser.parse_args()
    bank = build(read(BankRecipe, options.recipe))
    ship(bank, options.output / f"{bank.name}.safetensors")


if __name__ == "__main__":
    main()
