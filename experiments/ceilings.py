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
from scipy.stats import bootstrap

from experiments import common
from experiments.common import Estimate, Recipe, Row, Scores, shown
from experiments.open_loop import CeilingConfig, ceilings
from medgym_offline import SimulatorBank, load_simulators

__all__ = ["CeilingsRecipe", "markdown", "run"]

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
        row = Row(name, "ind", "open-loop", config.decisions)
        harm = dict(zip(bank.patients, schedules.harm.double().tolist()))
        parts.append(common.tidy_rows(bank.name, row, 0, world, "harm", harm))
    return pl.concat(parts)


def run(recipe: CeilingsRecipe, folder: Path, workers: int = 1) -> pl.DataFrame:
    """Harm of the best schedule found of every class, patient by patient; finished shards are kept in `folder`."""
    bank = load_simulators(recipe.bank).world(recipe.world)
    config = CeilingConfig(decisions=recipe.decisions, steps=recipe.steps, refine=recipe.refine, seed=recipe.seed)
    chosen, calls = common.spread(bank.patients, recipe.patients), {}
    for first in range(0, len(chosen), recipe.shard):
        part = chosen[first : first + recipe.shard]
        name = f"{first:04d}-{common.digest(bank.content_hash, recipe.world, part, repr(config))}"
        calls[name] = (_search, bank.select(part), config)
    return common.units(calls, folder, workers)


def markdown(recipe: CeilingsRecipe, scores: Scores) -> str:
    """Gains between classes of schedules."""
    harm = scores.frame.pivot("method", index="patient", values="value")
    body = []
    for one, other in PAIRS:
        gain = (100.0 * (1.0 - harm[one] / harm[other])).to_numpy()
        cells = []
        for statistic in (np.median, np.mean):
            found = bootstrap(
                (gain,), statistic, n_resamples=10_000, method="percentile",
                random_state=np.random.default_rng(0),
            )  # fmt: skip
            cells.append(shown(Estimate(float(statistic(gain)), *found.confidence_interval)))
        quantile, above = f"{np.quantile(gain, 0.9):.2f}", f"{100 * (gain > 2).mean():.0f}"
        body.append([f"{one} over {other}", *cells, quantile, above])
    heads = ["Schedules", "Median", "Mean", "90 % quantile", "Patients above 2 %"]
    caption = f"Gain in mean harm, %, {len(harm)} patients, {recipe.world} world, K = {recipe.decisions}"
    title = f"# Open-loop ceilings of {recipe.bank}\n\n    python -m experiments.ceilings {recipe.name}\n\n"
    return title + common.markdown_table(caption, heads, body) + "\n"


if __name__ == "__main__":
    common.main(__doc__ or "", "ceilings", CeilingsRecipe, run, markdown)
