"""Offline learners on data of sepsis: the paper's Table 7 and Figures 11 to 13, and variants of GCQL (`ablation`).

    python -m experiments.offline offline-quick

Every learner learns from the data of one behavior, one policy per patient from the patient's own episodes (Ind) and one
from the episodes of all (Pop), and is scored in every world of the bank beside the behaviors, with support distances.
The figures: `experiments.figures`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from experiments import common
from experiments.common import Recipe, Row, Scores, shown, shown_cut, table
from medgym_offline import SimulatorBank, Transitions, evaluate, load_dataset, load_simulators
from medgym_offline.datasets.recipes import find_recipe
from medgym_offline.offline import ALGORITHMS, PROFILES, OfflineConfig, train
from medgym_offline.online import load_behavior

Algorithm = Literal[tuple(ALGORITHMS)]  # type: ignore[valid-type]
Scope = Literal["ind", "pop"]
BEHAVIOR = "trpo-lag"  # the algorithm of the release's behaviors; the data are of its individual policies
TOOK = {"Updates": "updates", "Batch": "batch", "Width": "hidden", "Training, s": "seconds"}
TOOK |= {"Learners stopped": "stopped"}
CHAIN = (("cql", "dqn"), ("gcql", "cql"), ("cql-discrete", "dqn-discrete"), ("gcql-discrete", "cql-discrete"))
Source = tuple[Transitions, SimulatorBank]


class OfflineRecipe(Recipe):
    """Who learns from which data.

    Attributes:
        datasets: Ids, one per timing of a bank.
        patients: Evenly spread over the bank; 0: all.
        variants: Forms of GCQL, by the name that they have in tables: settings of `OfflineConfig` that differ from the
            common ones. Compared with CQL and GCQL.
        settings: What differs from the quick profile of `OfflineConfig`.
    """

    datasets: tuple[str, ...] = Field(("medgym/sepsis-ind-fixed-v0", "medgym/sepsis-ind-v0"), min_length=1)
    algorithms: tuple[Algorithm, ...] = Field(tuple(ALGORITHMS), min_length=1)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    scopes: tuple[Scope, ...] = Field(("ind", "pop"), min_length=1)
    patients: NonNegativeInt = 0
    seeds: PositiveInt = 5
    episodes: PositiveInt = 50
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> OfflineRecipe:
        self.learners()
        return self

    def learners(self) -> dict[str, tuple[str, OfflineConfig]]:
        """Name -> algorithm and its settings."""
        common = PROFILES["quick"].to_dict() | self.settings
        found = {name: (name, OfflineConfig.from_dict(common)) for name in self.algorithms}
        return found | {name: ("gcql", OfflineConfig.from_dict(common | own)) for name, own in self.variants.items()}

    def pairs(self, row: Row) -> list[tuple[Row, Row]]:
        """Which learners are compared, of the scope and timing of `row`."""
        names = [(a, "bc") for a in self.algorithms if a != "bc"] + list(CHAIN)
        names += [(name, one) for one, name in product(("cql", "gcql"), self.variants)]
        return [(row._replace(method=a), row._replace(method=b)) for a, b in names]


# -- training and scoring ----------------------------------------------------------------------------------------------


def _score(source: Source, row: Row, episodes: int, policy: Any, seed: int = 0) -> pl.DataFrame:
    data, bank = source
    return common.tidy(evaluate(policy, episodes=episodes, bank=bank, dataset=data), data.dataset_id, row, seed)


def _train(source: Source, row: Row, episodes: int, seed: int, algorithm: str, config: OfflineConfig) -> pl.DataFrame:
    """Train one row at one seed on the data of the bank's patients, and score it in every world."""
    data, bank = source
    started = time.monotonic()
    found = train(algorithm, data, row.scope, seed, config, patients=bank.patients, progress=False)
    cost = {"seconds": time.monotonic() - started, "updates": config.updates, "batch": config.batch}
    cost |= {"hidden": config.hidden, "stopped": len(found.stopped)}
    scored = _score(source, row, episodes, found.policy, seed)
    return pl.concat([scored, common.facts(data.dataset_id, row, seed, cost)])


def _behavior(source: Source, row: Row, episodes: int) -> pl.DataFrame:
    return _score(source, row, episodes, load_behavior(source[1].name, row.scope, row.timing))


def load_source(dataset: str, patients: int) -> Source:
    """A dataset (generated if it is not on this machine), and its bank with the patients that it holds."""
    data = load_dataset(dataset)
    return data, load_simulators(find_recipe(dataset).bank).select(common.spread(data.present_ids, patients))


def run(recipe: OfflineRecipe, folder: Path, workers: int = 1, sources: list[Source] | None = None) -> pl.DataFrame:
    """Train and score everything a recipe asks for, seed by seed; finished units are kept in `folder`."""
    sources = sources or [load_source(dataset, recipe.patients) for dataset in recipe.datasets]
    calls: dict[str, tuple[Any, ...]] = {}

    def add(function: Callable[..., pl.DataFrame], source: Source, method: str, scope: str, *how: Any) -> None:
        data, bank = source
        row = Row(method, scope, data.timing, data.decisions)
        made = (data.identity, bank.content_hash, bank.patients, recipe.episodes, *how)
        name = "-".join(map(str, (*row, *how[:1], common.digest(*made))))
        calls[name] = (function, source, row, recipe.episodes, *how)

    for source, scope in product(sources, ("ind", "pop")):
        add(_behavior, source, BEHAVIOR, scope)
    learners = recipe.learners().items()
    for seed, source, (name, how), scope in product(range(recipe.seeds), sources, learners, recipe.scopes):
        add(_train, source, name, scope, seed, *how)
    return common.units(calls, folder, workers)


# -- tables ------------------------------------------------------------------------------------------------------------


def markdown(recipe: OfflineRecipe, found: Scores) -> str:
    """Every table of the study."""
    parts = [
        f"# Offline study `{recipe.name}`",
        f"    python -m experiments.offline {recipe.name}",
        f"Learners trained {recipe.seeds} times each, and the behaviors ({BEHAVIOR}) that made the data, "
        f"{recipe.episodes} episodes a patient. Intervals: 95 % bootstrap over patients and training seeds. Gains and "
        "shares are cut, never rounded up. PopInd: Ind over Pop; BehaviorMethod: over the behavior that made the data. "
        "Distance: to the other half of the behavior's data, in SD; its share outside: beyond the data's own 95 % "
        "quantile.",
    ]
    for (dataset,), frame in found.frame.group_by("data", maintain_order=True):
        scores = Scores(frame, found.bootstrap.resamples)
        parts.append(f"## {dataset}: {scores.patients(scores.rows[0])} patients, {scores.rows[0].timing} timing")
        for world in scores.worlds:
            parts += _world(recipe, scores, world)
        learners = [row for row in scores.rows if row.method != BEHAVIOR]
        recorded = [head for head, name in TOOK.items() if any(scores.fact(row, name) is not None for row in learners)]
        took = {head: scores.facts(TOOK[head], ",.0f") for head in recorded}
        if took:
            parts.append(table("Training; wall time of one, on whatever else ran beside it", learners, took))
    return "\n\n".join(parts) + "\n"


def _world(recipe: OfflineRecipe, scores: Scores, world: str) -> list[str]:
    """Policies in a world, Figure 13 as numbers, and comparisons."""
    made_by = scores.rows[0]._replace(method=BEHAVIOR, scope="ind")

    def times(row: Row) -> str:
        one, other = (scores.mean(r, world, "support_distance") for r in (row, made_by))
        return shown(one[0] / other[0], 1) if one and other else "-"

    columns = {
        "SOFA (all)": scores.means(world, "severity_mean"),
        "PopInd %": scores.gains(world, "percent", scope="pop"),
        "Ind wins %": scores.gains(world, "wins", scope="pop"),
        "BehaviorMethod %": scores.gains(world, "percent", method=BEHAVIOR, scope="ind"),
        "SOFA (96 h)": scores.means(world, "severity_end"),
        "Safe %": scores.means(world, "safe_hourly", shown_cut),
        "Return": scores.means(world, "return"),
    }
    near = {
        "Mean distance, SD": scores.means(world, "support_distance"),
        "Times the behavior's": times,
        "Median": scores.facts("support_distance@q50", world=world),
        "95 % quantile": scores.facts("support_distance@q95", world=world),
        "Outside %": scores.means(world, "support_outside", shown_cut),
    }
    rows = [Row("data", "data", made_by.timing, made_by.decisions), *scores.rows]
    pairs = [pair for scope in recipe.scopes for pair in recipe.pairs(made_by._replace(scope=scope))]
    return [
        table(f"{world.capitalize()} world", scores.rows, columns),
        table(f"Distance to the behavior data, {world} world", rows, near),
        common.compared(scores, world, pairs, ("support_distance", "return")[: 1 + bool(recipe.variants)]),
    ]


if __name__ == "__main__":
    common.main(__doc__, OfflineRecipe, run, markdown)
