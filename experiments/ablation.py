"""GCQL's variants against each other and against CQL: where the guard acts, what it holds, how large its ball is.

    python -m experiments.ablation --output runs/ablation

Every variant is trained on every dataset at every seed and scored in every world.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from experiments.common import (
    BETTER,
    NAMES,
    Claim,
    Row,
    Scores,
    facts,
    main,
    markdown_table,
    shown,
    units,
)  # fmt: skip
from experiments.offline import Learner, Learning, Source, load_sources, train_and_score
from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.ball import Ball
from medgym_offline.offline.data import stack_transitions

__all__ = ["AblationRecipe", "markdown", "run"]

SCORES = {"severity_mean": 3, "return": 2, "safe_hourly": 1, "support_distance": 3, "support_outside": 1}
WORDS = {"holds": "better", "does not hold": "worse"}


class Variant(BaseModel):
    """An algorithm with the settings of `OfflineConfig` that differ from the common ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    label: str
    algorithm: Literal["cql", "gcql"] = "gcql"
    settings: dict[str, Any] = Field(default_factory=dict)


class AblationRecipe(Learning):
    """Variants, compared with `reference` and with `default`, the one that ships; datasets by id, with their bank."""

    datasets: dict[str, str] = Field(min_length=1)
    variants: dict[str, Variant] = Field(min_length=2)
    reference: str
    default: str
    scope: Literal["ind", "pop"] = "ind"
    patients: NonNegativeInt = 22
    episodes: PositiveInt = 10

    @model_validator(mode="after")
    def _complete(self) -> AblationRecipe:
        for name in (self.reference, self.default):
            if name not in self.variants:
                raise ValueError(f"no variant {name!r} (variants: {', '.join(self.variants)})")
        self.learners()
        return self

    def learners(self) -> list[Learner]:
        """A learner for each variant."""
        return [(name, v.algorithm, self.scope, self.changed(v.settings)) for name, v in self.variants.items()]


def _unit(source: Source, row: Row, algorithm: str, seed: int, config: OfflineConfig, episodes: int) -> pl.DataFrame:
    """Train and score, and the share of the data's rows outside the ball, mean over learners."""
    found = train_and_score(source, row, algorithm, seed, config, episodes)
    if algorithm != "gcql":
        return found
    data = stack_transitions(source[0], row.scope, config, source[1].patients)
    d, a = data.state_dim, data.action_dim
    outside = Ball(config, data).outside(data.rows[..., :d], data.rows[..., d : d + a]) > 0
    share = float(((outside & data.present).sum(1) / data.present.sum(1)).mean())
    return pl.concat([found, facts(source[0].dataset_id, row, seed, {"data_outside": 100 * share})])


def run(recipe: AblationRecipe, folder: Path, workers: int = 1, sources: list[Source] | None = None) -> pl.DataFrame:
    """Train and score every variant; finished units are kept in `folder`."""
    if sources is None:
        sources = [load_sources(bank, (name,), recipe.patients)[0] for name, bank in recipe.datasets.items()]
    return units(recipe.units(sources, recipe.learners(), _unit), folder, workers)


def markdown(recipe: AblationRecipe, frame: pl.DataFrame, resamples: int = 10_000) -> str:
    """Scores and comparisons of every dataset and world."""
    parts = [
        "# Ablation of GCQL",
        f"    python -m experiments.ablation {recipe.name}",
        f"{len(recipe.variants)} variants, {recipe.seeds} training seeds, scope {recipe.scope}, {recipe.episodes} "
        "episodes. In brackets: 95 % bootstrap intervals over patients and training seeds. Gains are paired over "
        "patients, in per cent of the other's mean, positive is better. Better or worse: the whole interval of the "
        "difference lies on that side, without a correction for how many are looked at. Outside %: decisions beyond "
        "the behavior's own 95th percentile of support distance; data outside %: rows of the data outside the ball.",
    ]
    for dataset in recipe.datasets:
        scores = Scores(frame.filter(pl.col("data") == dataset), resamples)
        rows = scores.rows
        parts.append(f"## {dataset}: {len(scores.patients(rows[0]))} patients, {rows[0].timing} timing")
        for world in scores.worlds:
            parts.append(f"### {world.capitalize()} world")
            body = []
            for row in rows:
                shows = [shown(scores.mean(row, world, metric), digits) for metric, digits in SCORES.items()]
                body.append([recipe.variants[row.method].label, *shows, shown(scores.fact(row, "data_outside"), 1)])
            heads = ["Variant", "SOFA (all)", "Return", "Safe %", "Support distance", "Outside %", "Data outside %"]
            parts.append(markdown_table("Scores", heads, body))
            for other in dict.fromkeys((recipe.reference, recipe.default)):
                reference = next(row for row in rows if row.method == other)
                body = [_compared(recipe, scores, row, reference, world) for row in rows if row != reference]
                against = f"Against {recipe.variants[other].label}, gain %"
                parts.append(markdown_table("Compared", [against, *NAMES.values()], body))
    return "\n\n".join(parts) + "\n"


def _compared(recipe: AblationRecipe, scores: Scores, row: Row, reference: Row, world: str) -> list[str]:
    cells = []
    for metric in NAMES:
        gain = scores.gain(row, reference, world, metric)
        if gain is None:
            cells.append("-")
            continue
        verdict = Claim("", "", {world: gain.difference}, 0.0, BETTER[metric]).verdict(world)
        text = shown(gain.percent, 2, lambda value, digits: f"{value:+.{digits}f}")
        cells.append(f"{text}, {WORDS.get(verdict, verdict)}")
    return [recipe.variants[row.method].label, *cells]


if __name__ == "__main__":
    main(__doc__ or "", "ablation", AblationRecipe, run, markdown)
