"""Open-loop ceilings: how much changing the treatment, and choosing when, could be worth at all.

    python -m experiments.ceilings ceilings

The best constant, five doses at equal intervals, five at intervals chosen freely, and twenty at equal intervals, by
gradient search for each patient without noise (`experiments.open_loop`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from pydantic import NonNegativeInt, PositiveInt

from experiments.common import (
    Recipe,
    Row,
    digest,
    estimate,
    main,
    markdown_table,
    shown,
    spread,
    tidy_rows,
    units,
)  # fmt: skip
from experiments.open_loop import CeilingConfig, ceilings
from medgym_offline import SimulatorBank, load_simulators

__all__ = ["CeilingsRecipe", "gains", "markdown", "run"]

PAIRS = (("fixed", "constant"), ("adaptive", "fixed"), ("adaptive", "constant"), ("fine", "fixed"))


class CeilingsRecipe(Recipe):
    """Whose ceilings are searched, how.

    Attributes:
        patients: Evenly spread over the bank; 0: all. Searched in shards of `shard`, which part of the result.
        decisions: K.
        steps, refine: Gradient steps through the solution map, and through the solver.
    """

    bank: str = "sepsis-v0"
    world: str = "own"
    patients: NonNegativeInt = 22
    decisions: PositiveInt = 5
    steps: PositiveInt = 150
    refine: NonNegativeInt = 60
    seed: NonNegativeInt = 0
    shard: PositiveInt = 11


def _search(bank: SimulatorBank, config: CeilingConfig) -> pl.DataFrame:
    world, parts = bank.current_world, []
    for name, schedules in ceilings(bank, config).items():
        harm = dict(zip(bank.patients, schedules.harm.double().tolist()))
        parts.append(tidy_rows(bank.name, Row(name, "ind", "open-loop", config.decisions), 0, world, "harm", harm))
    return pl.concat(parts)


def run(recipe: CeilingsRecipe, folder: Path, workers: int = 1, bank: SimulatorBank | None = None) -> pl.DataFrame:
    """Harm of the best schedule found of every class, patient by patient; finished shards are kept in `folder`."""
    bank = (load_simulators(recipe.bank) if bank is None else bank).world(recipe.world)
    config = CeilingConfig(decisions=recipe.decisions, steps=recipe.steps, refine=recipe.refine, seed=recipe.seed)
    chosen, calls = spread(bank.patients, recipe.patients), {}
    for first in range(0, len(chosen), recipe.shard):
        part = chosen[first : first + recipe.shard]
        name = f"{first:04d}-{digest(bank.content_hash, recipe.world, part, repr(config))}"
        calls[name] = (_search, bank.select(part), config)
    return units(calls, folder, workers)


def gains(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    """Gain in mean harm, per cent, of every patient: class over class -> (P,)."""
    harm = frame.pivot("method", index="patient", values="value")
    return {f"{a} over {b}": (100.0 * (1.0 - harm[a] / harm[b])).to_numpy() for a, b in PAIRS}


def markdown(recipe: CeilingsRecipe, frame: pl.DataFrame, resamples: int = 10_000) -> str:
    """Gains between classes of schedules."""
    body = []
    for name, gain in gains(frame).items():
        median, mean = (estimate(gain, f, resamples) for f in (np.median, np.mean))
        others = f"{np.quantile(gain, 0.9):.2f}", f"{100 * (gain > 2).mean():.0f}"
        body.append([name, shown(median), shown(mean), *others])
    heads = ["Schedules", "Median", "Mean", "90 % quantile", "Patients above 2 %"]
    who = f"{frame['patient'].n_unique()} patients, {recipe.world} world"
    caption = f"Gain in mean harm, %, {who}, K = {recipe.decisions}"
    title = f"# Open-loop ceilings of {recipe.bank}\n\n    python -m experiments.ceilings {recipe.name}\n\n"
    return title + markdown_table(caption, heads, body) + "\n"


if __name__ == "__main__":
    main(__doc__ or "", "ceilings", CeilingsRecipe, run, markdown)
