"""The paper's offline results: Table 7, the numbers of Figures 11 to 13.

    python -m experiments.offline offline-quick

Every algorithm learns from the data of one behavior, one policy per patient from the patient's own episodes (Ind) and
one from the episodes of all (Pop), and is scored in every world of the bank beside the behaviors, with
support distances.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from experiments.common import (
    Claim,
    Recipe,
    Row,
    Scores,
    claims_table,
    digest,
    facts,
    main,
    markdown_table,
    shown,
    shown_cut,
    spread,
    tidy,
    units,
)  # fmt: skip
from experiments.online import algorithm_label
from medgym_offline import SimulatorBank, Transitions, evaluate, load_dataset, load_simulators
from medgym_offline.offline import ALGORITHMS, PROFILES, OfflineConfig, train
from medgym_offline.online import load_behavior

__all__ = [
    "Learner", "Learning", "OfflineRecipe", "Source", "claims", "label", "load_sources", "markdown", "run",
    "train_and_score",
]  # fmt: skip

Algorithm = Literal[tuple(ALGORITHMS)]  # type: ignore[valid-type]
Scope = Literal["ind", "pop"]
BEHAVIOR = "trpo-lag"  # the algorithm of the release's behaviors
Source = tuple[Transitions, SimulatorBank]
Learner = tuple[str, str, str, OfflineConfig]
"""Name in tables, algorithm, scope, settings."""


class Learning(Recipe):
    """How learners are trained and scored.

    Attributes:
        patients: Evenly spread over the bank; 0: all.
        profile, settings: The profile of `OfflineConfig`, and what differs from it.
    """

    patients: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    seeds: PositiveInt = 5
    episodes: PositiveInt = 50
    profile: Literal[tuple(PROFILES)] = "quick"  # type: ignore[valid-type]
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("settings")
    @classmethod
    def _known(cls, settings: dict[str, Any]) -> dict[str, Any]:
        OfflineConfig.from_dict(settings)
        return settings

    def changed(self, own: Mapping[str, Any]) -> OfflineConfig:
        """The settings, with those of one learner."""
        return OfflineConfig.from_dict({**PROFILES[self.profile].to_dict(), **self.settings, **own})

    def units(
        self, sources: Sequence[Source], learners: Sequence[Learner], function: Callable[..., pl.DataFrame]
    ) -> dict[str, tuple[Any, ...]]:
        """Calls of `function` by name, seed by seed, so that what a killed study has is as even as can be."""
        calls: dict[str, tuple[Any, ...]] = {}
        seeds = range(self.seed, self.seed + self.seeds)
        for seed, (data, bank), (name, algorithm, scope, config) in product(seeds, sources, learners):
            row = Row(name, scope, data.timing, data.decisions)
            made = (data.identity, bank.content_hash, bank.patients, self.episodes, config.to_dict())
            unit = "-".join((*map(str, row), f"seed{seed}", digest(algorithm, made)))
            calls[unit] = (function, (data, bank), row, algorithm, seed, config, self.episodes)
        return calls


class OfflineRecipe(Learning):
    """Who learns from which data.

    Attributes:
        datasets: Ids, one per timing, made by the behavior of scope `behavior` on `bank`.
        algorithm_settings: What differs for one algorithm.
    """

    bank: str = "sepsis-v0"
    datasets: tuple[str, ...] = Field(("medgym/sepsis-ind-fixed-v0", "medgym/sepsis-ind-v0"), min_length=1)
    behavior: Scope = "ind"
    algorithms: tuple[Algorithm, ...] = Field(tuple(ALGORITHMS), min_length=1)
    scopes: tuple[Scope, ...] = Field(("ind", "pop"), min_length=1)
    algorithm_settings: dict[Algorithm, dict[str, Any]] = Field(default_factory=dict)


# -- training and scoring ----------------------------------------------------------------------------------------------


def train_and_score(
    source: Source, row: Row, algorithm: str, seed: int, config: OfflineConfig, episodes: int
) -> pl.DataFrame:
    """Train one row at one seed on the data of the bank's patients, and score it in every world."""
    data, bank = source
    started = time.monotonic()
    found = train(algorithm, data, row.scope, seed, config, patients=bank.patients, progress=False)
    cost = {"seconds": time.monotonic() - started, "updates": config.updates, "batch": config.batch}
    cost |= {"hidden": config.hidden, "stopped": len(found.stopped)}
    scored = evaluate(found.policy, episodes=episodes, bank=bank, dataset=data)
    return pl.concat([tidy(scored, data.dataset_id, row, seed), facts(data.dataset_id, row, seed, cost)])


def _behavior(source: Source, row: Row, episodes: int) -> pl.DataFrame:
    data, bank = source
    scored = evaluate(load_behavior(bank.name, row.scope, row.timing), episodes=episodes, bank=bank, dataset=data)
    return tidy(scored, data.dataset_id, row, 0)


def load_sources(bank: str, datasets: tuple[str, ...], patients: int) -> list[Source]:
    """Datasets (generated if they are not on this machine), each with the bank's patients that it holds."""
    simulators = load_simulators(bank)
    found = [load_dataset(dataset) for dataset in datasets]
    return [(data, simulators.select(spread(data.present_ids, patients))) for data in found]


def run(recipe: OfflineRecipe, folder: Path, workers: int = 1, sources: list[Source] | None = None) -> pl.DataFrame:
    """Train and score everything a recipe asks for; finished units are kept in `folder`."""
    calls: dict[str, tuple[Any, ...]] = {}
    sources = sources or load_sources(recipe.bank, recipe.datasets, recipe.patients)
    for data, bank in sources:
        made = (data.identity, bank.content_hash, bank.patients, recipe.episodes)
        for scope in ("ind", "pop"):
            row = Row(BEHAVIOR, scope, data.timing, data.decisions)
            calls["-".join((*map(str, row), digest(made)))] = (_behavior, (data, bank), row, recipe.episodes)
    configs = {a: recipe.changed(recipe.algorithm_settings.get(a, {})) for a in recipe.algorithms}
    learners = [(a, a, scope, config) for a, config in configs.items() for scope in recipe.scopes]
    return units(calls | recipe.units(sources, learners, train_and_score), folder, workers)


# -- tables ------------------------------------------------------------------------------------------------------------


def label(row: Row) -> str:
    """A row's name in tables."""
    behavior = " (behavior)" if row.method == BEHAVIOR else ""
    return f"{algorithm_label(row.method)}-{row.timing[0].upper()}-{row.scope.capitalize()}{behavior}"


def markdown(recipe: OfflineRecipe, frame: pl.DataFrame, resamples: int = 10_000) -> str:
    """Every table of the study."""
    scores = Scores(frame, resamples)
    rows = {t: [r for r in scores.rows if r.timing == t] for t in dict.fromkeys(r.timing for r in scores.rows)}
    patients = len(scores.patients(scores.rows[0]))
    parts = [
        f"# Offline study of {recipe.bank}",
        f"    python -m experiments.offline {recipe.name}",
        f"{len(recipe.algorithms)} algorithms on {', '.join(recipe.datasets)}, trained {recipe.seeds} times each, and "
        f"the behaviors that made the data; {patients} patients, {recipe.episodes} episodes each. Intervals: 95 % "
        "bootstrap over patients and training seeds. Gains and shares are cut, never rounded up.",
    ]
    for world in scores.worlds:
        for timing, members in rows.items():
            made_by = Row(BEHAVIOR, recipe.behavior, timing, members[0].decisions)
            body = []
            for row in members:
                pop = scores.gain(row, row._replace(scope="pop"), world) if row.scope == "ind" else None
                against = scores.gain(row, made_by, world) if row.method != BEHAVIOR else None
                mean = partial(scores.mean, row, world)
                body.append([
                    label(row), shown(mean("severity_mean")), shown_cut(pop and pop.percent),
                    shown_cut(pop and pop.wins), shown_cut(against and against.percent), shown(mean("severity_end")),
                    shown_cut(mean("safe_hourly")),
                ])  # fmt: skip
            heads = ["Policy", "SOFA (all)", "PopInd %", "Ind wins %", "BehaviorMethod %", "SOFA (96 h)", "Safe %"]
            parts.append(
                markdown_table(f"{timing.capitalize()} timing, {world} world, {patients} patients", heads, body)
            )
    for world in scores.worlds:
        for timing, members in rows.items():
            parts.append(_support(scores, recipe, world, timing, members))
    body = []
    for row in (r for r in scores.rows if r.method != BEHAVIOR):
        cells = [f"{scores.fact(row, n) or 0:,.0f}" for n in ("updates", "batch", "hidden", "seconds", "stopped")]
        body.append([label(row), *cells])
    heads = ["Policy", "Updates", "Batch", "Width", "Training, s", "Learners stopped"]
    parts.append(markdown_table("Training; wall time of one, on whatever else ran beside it", heads, body))
    parts.append(claims_table(claims(recipe, scores), scores.worlds))
    return "\n\n".join(parts) + "\n"


def _support(scores: Scores, recipe: OfflineRecipe, world: str, timing: str, members: list[Row]) -> str:
    """Figure 13 as numbers: support distance, its median and 95 % quantile over decisions, share outside."""
    made_by = Row(BEHAVIOR, recipe.behavior, timing, members[0].decisions)
    quantiles = ("support_distance@q50", "support_distance@q95")
    own = [shown(scores.fact(Row("data", "data", timing, made_by.decisions), q, world)) for q in quantiles]
    body = [["other half of the data", "-", "-", *own, "5.0"]]
    for row in members:
        pair = scores.gain(row, made_by, world, "support_distance") if row.method != BEHAVIOR else None
        body.append([
            label(row), shown(scores.mean(row, world, "support_distance")), shown(pair and pair.ratio, 1),
            *(shown(scores.fact(row, q, world)) for q in quantiles),
            shown_cut(scores.mean(row, world, "support_outside")),
        ])  # fmt: skip
    heads = ["Policy", "Mean distance, SD", "Times the behavior's", "Median", "95 % quantile", "Outside %"]
    return markdown_table(f"Distance to the behavior data, {timing} timing, {world} world", heads, body)


def claims(recipe: OfflineRecipe, scores: Scores) -> list[Claim]:
    """What the paper says of its offline policies, with its numbers."""
    found: list[Claim] = []
    for timing, k in dict.fromkeys((r.timing, r.decisions) for r in scores.rows):
        for a in recipe.algorithms:
            name = f"{algorithm_label(a)}, {timing}"
            words = f"{name}: Ind beats Pop in most patients"
            found += scores.claim(words, Row(a, "ind", timing, k), Row(a, "pop", timing, k), True)
            for scope in recipe.scopes:
                method, words = Row(a, scope, timing, k), f"{name}: {scope.capitalize()} beats"
                found += scores.claim(f"{words} the behavior", method, Row(BEHAVIOR, recipe.behavior, timing, k))
                if a != "bc":
                    found += scores.claim(f"{words} behavior cloning", method, Row("bc", scope, timing, k))
        for form in ("", "-discrete"):
            for scope in recipe.scopes:
                chain = [Row(f"{a}{form}", scope, timing, k) for a in ("dqn", "cql", "gcql")]
                names = [algorithm_label(row.method) for row in chain]
                where = f"{scope.capitalize()}, {timing}"
                for i in (1, 2):
                    words = f"{names[i]}, {where}: closer to the data than {names[i - 1]}"
                    found += scores.claim(words, chain[i], chain[i - 1], metric="support_distance")
                found += scores.claim(f"{names[2]}, {where}: beats {names[1]}", chain[2], chain[1])
    return found


if __name__ == "__main__":
    main(__doc__ or "", "offline-quick", OfflineRecipe, run, markdown)
