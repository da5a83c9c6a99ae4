"""The reference table: every learner on every core dataset, scored in the world that the data come from.

    python -m experiments.reference.table run diabetes-pop     # a part; what is there is not run again
    python -m experiments.reference.table tables               # table.md, from all parts that are there

Every setting is in table.toml; `experiments.reference.tuning` has the settings that were tried. Learners are scored
after their last update, without noise, beside the behavior without its noise, the expert and the random policy, on the
same patients and evaluation seeds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from experiments.common import Recipe, digest, markdown_table, parts_main, units
from experiments.reference.transformer import NAME as TRANSFORMER
from experiments.reference.transformer import train_transformer
from medgym_offline import Transitions, evaluate, load_dataset, load_policy, load_simulators
from medgym_offline.datasets.behaviors import recipe_behavior, resolve_behavior
from medgym_offline.datasets.recipes import find_recipe
from medgym_offline.datasets.trust import release_manifest
from medgym_offline.errors import MedGymError
from medgym_offline.evaluation.statistics import iqm, probability_of_improvement, summarize
from medgym_offline.leaderboard.ranks import LEVEL, compare
from medgym_offline.offline import OfflineConfig
from medgym_offline.offline.train import train_seeds
from medgym_offline.third_party import BASELINES, SHARED, default_settings

HERE = Path(__file__).parent
METRICS = ("return", "severity_mean", "safe_path", "cost_mean", "decisions_used", "support_distance")
REFERENCES = ("expert", "behavior", "random")
HARM = "severity_mean"


class Part(BaseModel):
    """Learners of one scope on the datasets of one disease; `settings`, and `seeds`, may differ from the table's.

    Scored in `world`, by default the one that the data come from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    datasets: tuple[str, ...]
    scope: str
    learners: tuple[str, ...]
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: PositiveInt | None = None
    world: str | None = None


class TableRecipe(Recipe):
    """Seeds, evaluation, settings of all learners and of each, and the parts."""

    seeds: PositiveInt
    episodes: PositiveInt
    settings: dict[str, Any]
    learner: dict[str, dict[str, Any]] = Field(default_factory=dict)
    part: dict[str, Part]

    def runs(self, part: Part) -> int:
        """Training seeds of a part."""
        return part.seeds or self.seeds

    def config(self, learner: str, part: Part) -> tuple[str, OfflineConfig, dict[str, Any]]:
        """Algorithm of a row of a part, its settings, and those that d3rlpy alone knows.

        `learner.NAME.algorithm` may be another than the row's name.
        """
        own = dict(self.learner.get(learner, {}))
        algorithm = own.pop("algorithm", learner)
        alone = {key: own.pop(key) for key in list(own) if algorithm in BASELINES and key not in SHARED}
        return algorithm, OfflineConfig.from_dict(self.settings | part.settings | own), alone


# -- running a part ----------------------------------------------------------------------------------------------------


def scored(policy: Any, data: Transitions, part: Part, episodes: int, method: str, seed: int) -> pl.DataFrame:
    """Rows method, seed, patient, metric, value of a policy."""
    made = find_recipe(data.dataset_id)
    world = part.world or made.world
    # The expert of data with fixed timing may be an adaptive policy: its actions have no distance to the data's.
    near = data if policy.timing == data.timing else None
    result = evaluate(policy, episodes=episodes, bank=load_simulators(made.bank), worlds=(world,), dataset=near)
    found = result.worlds[world].per_patient
    parts = [
        pl.DataFrame({"patient": found["patient"], "value": np.asarray(found[metric], np.float32)}).with_columns(
            method=pl.lit(method), seed=pl.lit(seed, pl.Int16), metric=pl.lit(metric)
        )
        for metric in METRICS
        if metric in found
    ]
    return pl.concat(parts)


def learned(dataset: str, part: Part, learner: str, recipe: TableRecipe) -> pl.DataFrame:
    """One learner on one dataset, all seeds in one stack."""
    data = load_dataset(dataset, progress=False)
    algorithm, config, alone = recipe.config(learner, part)
    runs, started, stopped = range(recipe.runs(part)), time.process_time(), 0
    try:
        if algorithm == TRANSFORMER:
            policies = {seed: train_transformer(data, seed, config) for seed in runs}
        elif algorithm in BASELINES:
            policies = {seed: baseline(algorithm, data, seed, config, alone) for seed in runs}
        else:
            found = train_seeds(algorithm, data, part.scope, runs, config)
            policies = {seed: result.policy for seed, result in found.items()}
            stopped = sum(len(result.stopped) for result in found.values())
    except MedGymError as error:  # a limit that no episode meets, a learner that diverges: a result too
        print(f"{dataset}, {learner}: {error}", file=sys.stderr)
        return pl.DataFrame({
            "patient": ["all"], "value": pl.Series([1.0], dtype=pl.Float32), "method": [learner],
            "seed": pl.Series([0], dtype=pl.Int16), "metric": ["failed"],
        })  # fmt: skip
    seconds = (time.process_time() - started) / len(runs)
    parts = [scored(policy, data, part, recipe.episodes, learner, seed) for seed, policy in policies.items()]
    facts = {"seconds": seconds, "stopped": float(stopped)}
    extra = pl.DataFrame({
        "patient": ["all"] * len(facts), "value": np.array(list(facts.values()), np.float32),
    }).with_columns(method=pl.lit(learner), seed=pl.lit(0, pl.Int16), metric=pl.Series(list(facts)))  # fmt: skip
    return pl.concat([*parts, extra.select(parts[0].columns)])


def baseline(algorithm: str, data: Any, seed: int, config: OfflineConfig, alone: dict[str, Any]) -> Any:
    """The policy of an algorithm of d3rlpy, as its file gives it back."""
    from medgym_offline.third_party.training import train_baseline

    trained = train_baseline(algorithm, data, seed, config, default_settings(algorithm) | alone, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        return load_policy(trained.save(Path(folder) / "policy.pt"))


def reference(dataset: str, part: Part, name: str, recipe: TableRecipe) -> pl.DataFrame:
    """The behavior without its noise, the expert of the dataset's manifest, or the random policy."""
    made = find_recipe(dataset)
    home = load_simulators(made.bank).world(made.world)
    wanted, timing = name, made.timing
    manifest = release_manifest(dataset)
    assert manifest is not None
    if name == "expert" and manifest["references"]["expert"] != "behavior":
        wanted, _, timing = manifest["references"]["expert"].rpartition("-")
    whole = (
        resolve_behavior(wanted, home, timing, made.decisions)
        if wanted not in ("expert", "behavior")
        else recipe_behavior(made, home)
    )
    policies = [one.policy for one in whole.parts or (whole,)]
    # Of a mix each policy plays as many episodes as the others.
    data = load_dataset(dataset, progress=False)
    frames = [scored(policy, data, part, recipe.episodes, name, 0) for policy in policies]
    keys = [column for column in frames[0].columns if column != "value"]
    return pl.concat(frames).group_by(keys, maintain_order=True).agg(pl.col("value").mean()).select(frames[0].columns)


def unit(dataset: str, part: Part, method: str, recipe: TableRecipe) -> pl.DataFrame:
    """Everything of one row and column of the table."""
    run_of = reference if method in REFERENCES else learned
    found = run_of(dataset, part, method, recipe)
    return found.with_columns(dataset=pl.lit(dataset))


def run(recipe: TableRecipe, name: str, workers: int) -> Path:
    """Run a part, unit by unit; the finished ones lie in runs/table."""
    part, calls = recipe.part[name], {}
    for dataset in part.datasets:
        identity = load_dataset(dataset, progress=False).identity
        for method in (*REFERENCES, *part.learners):
            config = []
            if method not in REFERENCES:
                _, settings, alone = recipe.config(method, part)
                config = [settings.to_dict() | alone, recipe.runs(part), part.scope]
            key = digest(identity, recipe.episodes, method, config, *filter(None, [part.world]))
            calls[f"{dataset.rsplit('/')[-1]}-{part.scope}-{method}-{key}"] = unit, dataset, part, method, recipe
    found = units(calls, Path("runs/table"), workers)
    path = HERE / f"{name}.parquet"
    found.sort("dataset", "method", "metric", "seed", "patient").write_parquet(path, compression_level=19)
    return path


# -- tables ------------------------------------------------------------------------------------------------------------


class Scored:
    """A part's scores as arrays (runs, patients)."""

    def __init__(self, frame: pl.DataFrame):
        self.frame = frame
        self.datasets = frame["dataset"].unique(maintain_order=True).to_list()
        self._of: dict[tuple[str, str, str], np.ndarray] = {}
        for (dataset, method, metric), rows in frame.group_by("dataset", "method", "metric", maintain_order=True):
            runs = rows["seed"].n_unique()
            ordered = rows.sort("seed", "patient")["value"].to_numpy().reshape(runs, -1).astype(float)
            self._of[str(dataset), str(method), str(metric)] = ordered

    def get(self, dataset: str, method: str, metric: str) -> np.ndarray | None:
        """(runs, patients), or None where it was not run."""
        return self._of.get((dataset, method, metric))

    def normalized(self, dataset: str, method: str) -> np.ndarray | None:
        """Score of every run: 100 (return - random) / (expert - random), by the dataset's reference returns."""
        values, manifest = self.get(dataset, method, "return"), release_manifest(dataset)
        if values is None or manifest is None:
            return None
        references = manifest["references"]
        of = references.get("data_world", references)["returns"]  # where that is not the world the expert is chosen in
        low, high = of["random"], of["expert"]
        return 100.0 * (values.mean(1) - low) / (high - low)


def short(dataset: str) -> str:
    """The behavior's part of an id."""
    return dataset.rsplit("/")[-1].removesuffix("-v0").split("-", 1)[1]


def tables(recipe: TableRecipe) -> str:
    """Every table of every part that is there; what is not there is named."""
    there = {name: HERE / f"{name}.parquet" for name in recipe.part}
    blocks = [
        "# The reference table" if recipe.name == "table" else "# Settings that were tried",
        f"    python -m experiments.reference.{recipe.name} run PART, then tables",
        f"{recipe.seeds} training seeds, last checkpoint, {recipe.episodes} episodes a patient without noise, in the "
        "world that the data come from where no other is named. Scores are normalized: 0 is the random policy, 100 the "
        "expert of the dataset's manifest. Harm is the mean severity over time, in points. `behavior` is the policy "
        "that made the data, without its noise; of a mix the mean of its parts. The references were scored again, on "
        "other episodes than the manifest's: what their rows differ from 0 and 100 is noise. In tables of harm, + "
        "marks a learner that is better than the behavior without its noise and - one that is worse: paired over "
        "patients, Holm's correction over all pairs of the dataset at 5 %.",
    ]
    found = {name: Scored(pl.read_parquet(path)) for name, path in there.items() if path.exists()}
    for name, scores in found.items():
        blocks += part_tables(name, recipe.part[name], scores)
    if any(not part.world for part in recipe.part.values()):
        blocks += ["## Whose policy, which timing", *compared(recipe, found)]
    if missing := [name for name, path in there.items() if not path.exists()]:
        blocks.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(blocks) + "\n"


def part_tables(name: str, part: Part, scores: Scored) -> list[str]:
    """Scores, harm, and who is told from whom, of one part."""
    methods = (*part.learners, *REFERENCES)
    datasets = [d for d in part.datasets if d in scores.datasets]
    heads, body, harm = ["", *map(short, datasets)], [], []
    marks = {dataset: against(scores, dataset, part.learners) for dataset in datasets}
    for method in methods:
        cells, harms = [], []
        for dataset in datasets:
            found, values = scores.normalized(dataset, method), scores.get(dataset, method, HARM)
            if found is None or values is None:
                word = "not run" if scores.get(dataset, method, "failed") is None else "failed"
                cells.append(word), harms.append(word)
                continue
            spread = f" ± {found.std(ddof=1):.0f}" if len(found) > 1 else ""
            cells.append(f"{found.mean():.0f}{spread}")
            harms.append(f"{values.mean():.2f}{marks[dataset].get(method, '')}")
        body.append([f"`{method}`", *cells])
        harm.append([f"`{method}`", *harms])
    title = f"{name.replace('-', ', ')}" + (f", {part.seeds} seeds" if part.seeds else "")
    blocks = [f"## {title}", markdown_table(f"Normalized score, mean ± SD over seeds ({title})", heads, body)]
    blocks.append(markdown_table(f"Harm, points ({title})", heads, harm))
    if measured := [d for d in datasets if scores.get(d, "behavior", "support_distance") is not None]:
        near = [[f"`{m}`", *(mean_of(scores, d, m, "support_distance") for d in measured)] for m in methods]
        legend = f"Distance of states and actions to the data's, standard deviations ({title})"
        blocks.append(markdown_table(legend, ["", *map(short, measured)], near))
    if part.world:  # reference returns are of the world of the data
        return [f"## {title}", f"Scored in `{part.world}`.", blocks[2]]
    pooled = [pooled_row(scores, datasets, method, marks) for method in part.learners]
    over = ["", "IQM of scores", "better than `bc`, %", "datasets better / worse than behavior", "training, s a seed"]
    blocks.append(
        markdown_table(f"Over {len(datasets)} {'datasets' if len(datasets) > 1 else 'dataset'} ({title})", over, pooled)
    )
    blocks.append(separated(scores, datasets, part.learners, title))
    if name.endswith(("-safe", "-limits")):
        rows = [[f"`{m}`", *(costs(scores, d, m) for d in datasets)] for m in methods]
        legend = f"Mean cost of a decision at its end, and share of the time that is safe, % ({title})"
        blocks.append(markdown_table(legend, heads, rows))
    return blocks


def mean_of(scores: Scored, dataset: str, method: str, metric: str) -> str:
    """Mean of a metric over runs and patients, as a cell."""
    found = scores.get(dataset, method, metric)
    return "-" if found is None else f"{found.mean():.2f}"


def costs(scores: Scored, dataset: str, method: str) -> str:
    """Both forms of the first cost, as a cell."""
    end, path = (scores.get(dataset, method, metric) for metric in ("cost_mean", "safe_path"))
    return "not run" if end is None or path is None else f"{end.mean():.3f}, {path.mean():.1f}"


def compared(recipe: TableRecipe, found: Mapping[str, Scored]) -> list[str]:
    """What a learner gains by a policy per patient, and by data of adaptive timing, of harm."""
    shared = [scores for name, scores in found.items() if recipe.part[name].scope == "pop"]
    whose: list[list[str]] = []
    when: list[list[str]] = []
    for name, scores in found.items():
        part = recipe.part[name]
        for dataset, learner in ((d, m) for d in part.datasets for m in part.learners):
            own, label = scores.get(dataset, learner, HARM), dataset.rsplit("/")[-1].removesuffix("-v0")
            fixed = scores.get(f"medgym/{label}-fixed-v0", learner, HARM)
            others = (other.get(dataset, learner, HARM) for other in shared if part.scope == "ind")
            pop = next((values for values in others if values is not None), None)
            if own is not None and pop is not None:
                whose.append([label, f"`{learner}`", gain(own, pop)])
            if own is not None and fixed is not None:
                when.append([label, part.scope, f"`{learner}`", gain(own, fixed)])
    legend = "less harm in the mean, and in so many of the patients"
    one = f"A policy per patient over one for all, same data: {legend}"
    two = f"Data of adaptive timing over the same behaviors' data of fixed timing: {legend}"
    return [
        markdown_table(one, ["data", "learner", "gain"], whose),
        markdown_table(two, ["data", "scope", "learner", "gain"], when),
    ]


def gain(better: np.ndarray, worse: np.ndarray) -> str:
    """Gain of the mean harm in per cent, and the share of patients with any; of (runs, patients)."""
    one, other = better.mean(0), worse.mean(0)
    return f"{100 * (1 - one.mean() / other.mean()):.0f} % ({100 * (one < other).mean():.0f} %)"


def pooled_row(
    scores: Scored, datasets: Sequence[str], method: str, marks: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """A learner over all datasets of a part; intervals resample datasets and seeds."""
    runs = [found for dataset in datasets if (found := scores.normalized(dataset, method)) is not None]
    if len(runs) < len(datasets):
        return [f"`{method}`", *["-"] * 4]
    over = np.stack(runs)  # (datasets, seeds)
    low, high = summarize(over.T, better=1).iqm_interval
    pairs = [(scores.get(dataset, method, HARM), scores.get(dataset, "bc", HARM)) for dataset in datasets]
    chances = [probability_of_improvement(a, b) for a, b in pairs if a is not None and b is not None]
    better, worse = (sum(sign in marks[dataset].get(method, "") for dataset in datasets) for sign in "+-")
    return [
        f"`{method}`",
        f"{float(iqm(over.reshape(-1))):.0f} ({low:.0f} to {high:.0f})",
        "-" if method == "bc" or not chances else f"{100 * np.mean(chances):.0f}",
        f"{better} / {worse}",
        f"{seconds(scores, method):.1f}",
    ]


def seconds(scores: Scored, method: str) -> float:
    """CPU time of a training seed, mean over datasets."""
    found = scores.frame.filter((pl.col("method") == method) & (pl.col("metric") == "seconds"))["value"]
    return float(found.mean() or float("nan"))  # type: ignore[arg-type]


def against(scores: Scored, dataset: str, learners: Sequence[str]) -> Mapping[str, str]:
    """Learner -> " +" or " -" where its harm is told from that of the behavior without its noise."""
    found = told_apart(scores, dataset, ("behavior", *learners))
    marks = {}
    for (one, other), (difference, adjusted) in found.items():
        if one == "behavior" and adjusted < LEVEL:
            marks[other] = " +" if difference > 0 else " -"
    return marks


def told_apart(scores: Scored, dataset: str, methods: Sequence[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """Every two methods -> mean difference of harm, and p after Holm's correction."""
    there = [m for m in methods if scores.get(dataset, m, HARM) is not None]
    values = [v for m in there if (v := scores.get(dataset, m, HARM)) is not None]
    pairs = [(a, b) for i, a in enumerate(there) for b in there[i + 1 :]]
    return {pair: (found[0], found[3]) for pair, found in zip(pairs, compare(values))}


def separated(scores: Scored, datasets: Sequence[str], learners: Sequence[str], title: str) -> str:
    """On how many datasets the learner of the row is better than that of the column."""
    wins = dict.fromkeys(((a, b) for a in learners for b in learners), 0)
    for dataset in datasets:
        for (a, b), (difference, adjusted) in told_apart(scores, dataset, learners).items():
            if adjusted < LEVEL:
                wins[(a, b) if difference < 0 else (b, a)] += 1
    body = [[f"`{a}`", *("" if a == b else str(wins[a, b]) for b in learners)] for a in learners]
    caption = f"Datasets of {len(datasets)} on which the row's learner does less harm than the column's ({title})"
    return markdown_table(caption, ["", *(f"`{b}`" for b in learners)], body)


def main(name: str = "table") -> None:
    """The command line of a recipe."""
    parts_main(__doc__ or "", TableRecipe.load(HERE / f"{name}.toml"), run, tables, HERE / f"{name}.md")


if __name__ == "__main__":
    from experiments.reference import table  # workers get its classes by name, which those of __main__ have not

    table.main()
