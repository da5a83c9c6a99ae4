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
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt

from experiments.common import Form, Recipe, digest, markdown_table, parts_main, shown, units, write
from experiments.reference import transformer
from medgym_offline import MedGymError, evaluate, load_dataset, load_policy, load_simulators
from medgym_offline.datasets.behaviors import recipe_behavior, resolve_behavior
from medgym_offline.datasets.catalogue import release_manifest
from medgym_offline.datasets.recipes import find_recipe
from medgym_offline.evaluation.statistics import iqm, probability_of_improvement, summarize
from medgym_offline.leaderboard.board import LEVEL, compare
from medgym_offline.offline import OfflineConfig, train_seeds
from medgym_offline.third_party import BASELINES, SHARED, default_settings

HERE = Path(__file__).parent
COLUMNS = ("patient", "value", "method", "seed", "metric", "dataset")
HARM, DISTANCE = "severity_mean", "support_distance"
METRICS = ("return", HARM, "safe_path", "cost_mean", "decisions_used", DISTANCE)
DIGITS = {"score": 0, "cost_mean": 3, "safe_path": 1}
REFERENCES = ("expert", "behavior", "random")


class Part(Form):
    """Learners of one scope on the datasets of one disease; `settings`, and `seeds`, may differ from the table's.

    Scored in `world`, by default the one that the data come from.
    """

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

    def config(self, learner: str, part: Part) -> tuple[str, OfflineConfig, dict[str, Any]]:
        """Algorithm of a row of a part, its settings, and those that d3rlpy alone knows.

        `learner.NAME.algorithm` may be another than the row's name.
        """
        own = dict(self.learner.get(learner, {}))
        algorithm = own.pop("algorithm", learner)
        alone = {key: own.pop(key) for key in list(own) if algorithm in BASELINES and key not in SHARED}
        return algorithm, OfflineConfig.from_dict(self.settings | part.settings | own), alone


# -- running a part ----------------------------------------------------------------------------------------------------


def unit(dataset: str, part: Part, method: str, recipe: TableRecipe) -> pl.DataFrame:
    """Everything of one row and column of the table: all seeds of a learner, or a reference."""
    policies, facts, started = [], {}, time.process_time()
    if method in REFERENCES:
        policies = [(0, policy) for policy in reference(dataset, method)]
    else:
        try:
            policies, stopped = learned(dataset, part, method, recipe)
            facts = {"seconds": (time.process_time() - started) / len(policies), "stopped": float(stopped)}
        except MedGymError as error:  # a limit that no episode meets, a learner that diverges: a result too
            print(f"{dataset}, {method}: {error}", file=sys.stderr)
            facts = {"failed": 1.0}
    frames = [scored(policy, dataset, part, recipe.episodes, seed) for seed, policy in policies]
    rows = [("all", metric, value, 0) for metric, value in facts.items()]
    schema = {"patient": pl.String, "metric": pl.String, "value": pl.Float32, "seed": pl.Int16}
    frame = pl.concat([*frames, pl.DataFrame(rows, schema, orient="row")])
    # Of a mix each policy plays as many episodes as the others.
    mean = frame.group_by("patient", "metric", "seed", maintain_order=True).agg(pl.col("value").mean())
    return mean.with_columns(method=pl.lit(method), dataset=pl.lit(dataset)).select(COLUMNS)


def scored(policy: Any, dataset: str, part: Part, episodes: int, seed: int) -> pl.DataFrame:
    """Rows patient, metric, value, seed of a policy."""
    made, data = find_recipe(dataset), load_dataset(dataset, progress=False)
    # The expert of data with fixed timing may be an adaptive policy: its actions have no distance to the data's.
    near, worlds = data if policy.timing == data.timing else None, (part.world or made.world,)
    found = evaluate(policy, episodes=episodes, bank=load_simulators(made.bank), worlds=worlds, dataset=near).table()
    value, training = pl.col("value").cast(pl.Float32), pl.lit(seed, pl.Int16).alias("seed")
    return found.filter(pl.col("metric").is_in(METRICS)).select("patient", "metric", value, training)


def learned(dataset: str, part: Part, learner: str, recipe: TableRecipe) -> tuple[list[tuple[int, Any]], int]:
    """(Seed, policy) of one learner on one dataset, all seeds in one stack; how many learners stopped early."""
    data = load_dataset(dataset, progress=False)
    algorithm, config, alone = recipe.config(learner, part)
    runs = range(part.seeds or recipe.seeds)
    if algorithm == transformer.NAME:
        return [(seed, transformer.train_transformer(data, seed, config)) for seed in runs], 0
    if algorithm in BASELINES:
        return [(seed, baseline(algorithm, data, seed, config, alone)) for seed in runs], 0
    found = train_seeds(algorithm, data, part.scope, runs, config)
    return [(seed, one.policy) for seed, one in found.items()], sum(len(one.stopped) for one in found.values())


def baseline(algorithm: str, data: Any, seed: int, config: OfflineConfig, alone: dict[str, Any]) -> Any:
    """The policy of an algorithm of d3rlpy, as its file gives it back."""
    from medgym_offline.third_party.training import train_baseline

    trained = train_baseline(algorithm, data, seed, config, default_settings(algorithm) | alone, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        return load_policy(trained.save(Path(folder) / "policy.pt"))


def reference(dataset: str, name: str) -> Sequence[Any]:
    """The behavior without its noise (all of a mix), the expert of the dataset's manifest, or the random policy."""
    made, manifest = find_recipe(dataset), release_manifest(dataset)
    assert manifest is not None
    home = load_simulators(made.bank).world(made.world)
    expert = manifest["references"]["expert"]
    if name == "behavior" or (name, expert) == ("expert", "behavior"):
        whole = recipe_behavior(made, home)
    else:
        wanted, _, timing = expert.rpartition("-") if name == "expert" else (name, "", made.timing)
        whole = resolve_behavior(wanted, home, timing, made.decisions)
    return [one.policy for one in whole.parts or (whole,)]


def run(recipe: TableRecipe, name: str, workers: int) -> Path:
    """Run a part, unit by unit; the finished ones lie in runs/table."""
    part, calls = recipe.part[name], {}
    for dataset in part.datasets:
        identity = load_dataset(dataset, progress=False).identity
        for method in (*REFERENCES, *part.learners):
            made = (None if method in REFERENCES else recipe.config(method, part), part.seeds or recipe.seeds)
            key = digest(identity, recipe.episodes, method, part.world, made)
            calls[f"{dataset.rsplit('/')[-1]}-{part.scope}-{method}-{key}"] = unit, dataset, part, method, recipe
    found = units(calls, Path("runs/table"), workers)
    return write(HERE / f"{name}.parquet", found.sort("dataset", "method", "metric", "seed", "patient"))


# -- tables ------------------------------------------------------------------------------------------------------------

Scored = Mapping[tuple[str, str, str], np.ndarray]
"""A part's scores: (dataset, method, metric) -> (runs, patients); of "score" (runs,)."""
Marks = Mapping[str, str]
"""Learner -> " +" (better) or " -"."""


def arrays(frame: pl.DataFrame) -> Scored:
    """The scores of a part; "score": 100 (return - random) / (expert - random), by the dataset's reference returns."""
    found: dict[tuple[str, str, str], np.ndarray] = {}
    for (dataset, method, metric), rows in frame.group_by("dataset", "method", "metric", maintain_order=True):
        values = rows.sort("seed", "patient")["value"].to_numpy().astype(float).reshape(rows["seed"].n_unique(), -1)
        found[str(dataset), str(method), str(metric)] = values
        if metric == "return" and (manifest := release_manifest(str(dataset))):
            references = manifest["references"]
            of = references.get("data_world", references)["returns"]  # where the expert is chosen in another world
            scores = 100.0 * (values.mean(1) - of["random"]) / (of["expert"] - of["random"])
            found[str(dataset), str(method), "score"] = scores
    return found


def tables(recipe: TableRecipe) -> str:
    """Every table of every part that is there; what is not there is named."""
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
    there = {name: HERE / f"{name}.parquet" for name in recipe.part}
    found = {name: arrays(pl.read_parquet(path)) for name, path in there.items() if path.exists()}
    for name, scores in found.items():
        blocks += part_tables(name, recipe.part[name], scores)
    if any(not part.world for part in recipe.part.values()):
        blocks += ["## Whose policy, which timing", *compared(recipe, found)]
    if missing := [name for name in there if name not in found]:
        blocks.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(blocks) + "\n"


def part_tables(name: str, part: Part, scores: Scored) -> list[str]:
    """Scores, harm, and who is told from whom, of one part."""
    known = {dataset for dataset, _, _ in scores}
    datasets = [dataset for dataset in part.datasets if dataset in known]
    marks = {dataset: against(scores, dataset, part.learners) for dataset in datasets}
    title = name.replace("-", ", ") + (f", {part.seeds} seeds" if part.seeds else "")

    def cell(dataset: str, method: str, metric: str, absent: str) -> str:
        found = scores.get((dataset, method, metric))
        if found is None:
            return "failed" if (dataset, method, "failed") in scores else absent
        spread = f" ± {found.std(ddof=1):.0f}" if metric == "score" and len(found) > 1 else ""
        mark = marks[dataset].get(method, "") if metric == HARM else ""
        return f"{found.mean():.{DIGITS.get(metric, 2)}f}{spread}{mark}"

    def by_dataset(caption: str, *metrics: str, columns: Sequence[str] = datasets, absent: str = "not run") -> str:
        heads = [short(dataset).split("-", 1)[1] for dataset in columns]  # the behavior's part of an id
        body = []
        for method in (*part.learners, *REFERENCES):
            cells = (", ".join(cell(dataset, method, metric, absent) for metric in metrics) for dataset in columns)
            body.append([f"`{method}`", *cells])
        return markdown_table(f"{caption} ({title})", ["", *heads], body)

    harms = by_dataset("Harm, points", HARM)
    if part.world:  # reference returns are of the world of the data
        return [f"## {title}", f"Scored in `{part.world}`.", harms]
    blocks = [f"## {title}", by_dataset("Normalized score, mean ± SD over seeds", "score"), harms]
    if measured := [d for d in datasets if (d, "behavior", DISTANCE) in scores]:
        caption = "Distance of states and actions to the data's, standard deviations"
        blocks.append(by_dataset(caption, DISTANCE, columns=measured, absent="-"))
    pooled = [pooled_row(scores, datasets, method, marks) for method in part.learners]
    over = ["", "IQM of scores", "better than `bc`, %", "datasets better / worse than behavior", "training, s a seed"]
    plural = "s" if len(datasets) > 1 else ""
    blocks.append(markdown_table(f"Over {len(datasets)} dataset{plural} ({title})", over, pooled))
    blocks.append(separated(scores, datasets, part.learners, title))
    if name.endswith(("-safe", "-limits")):
        caption = "Mean cost of a decision at its end, and share of the time that is safe, %"
        blocks.append(by_dataset(caption, "cost_mean", "safe_path"))
    return blocks


def short(dataset: str) -> str:
    """An id without namespace and version."""
    return dataset.rsplit("/")[-1].removesuffix("-v0")


def compared(recipe: TableRecipe, found: Mapping[str, Scored]) -> list[str]:
    """What a learner gains by a policy per patient, and by data of adaptive timing, of harm."""
    shared: dict[tuple[str, str, str], np.ndarray] = {}
    for name in reversed(list(found)):
        shared |= found[name] if recipe.part[name].scope == "pop" else {}
    whose, when = list[list[str]](), list[list[str]]()
    for name, scores in found.items():
        part = recipe.part[name]
        for dataset, learner in product(part.datasets, part.learners):
            own, pop = scores.get((dataset, learner, HARM)), shared.get((dataset, learner, HARM))
            label = short(dataset)
            fixed = scores.get((f"medgym/{label}-fixed-v0", learner, HARM))
            if own is not None and pop is not None and part.scope == "ind":
                whose.append([label, f"`{learner}`", gain(own, pop)])
            if own is not None and fixed is not None:
                when.append([label, part.scope, f"`{learner}`", gain(own, fixed)])
    legend = "less harm in the mean, and in so many of the patients"
    one = f"A policy per patient over one for all, same data: {legend}"
    two = f"Data of adaptive timing over the same behaviors' data of fixed timing: {legend}"
    heads = ["data", "scope", "learner", "gain"]
    return [markdown_table(one, [heads[0], *heads[2:]], whose), markdown_table(two, heads, when)]


def gain(better: np.ndarray, worse: np.ndarray) -> str:
    """Gain of the mean harm in per cent, and the share of patients with any; of (runs, patients)."""
    one, other = better.mean(0), worse.mean(0)
    return f"{100 * (1 - one.mean() / other.mean()):.0f} % ({100 * (one < other).mean():.0f} %)"


def pooled_row(scores: Scored, datasets: Sequence[str], method: str, marks: Mapping[str, Marks]) -> list[str]:
    """A learner over all datasets of a part; intervals resample datasets and seeds."""
    if any((dataset, method, "score") not in scores for dataset in datasets):
        return [f"`{method}`", *["-"] * 4]
    over = np.stack([scores[dataset, method, "score"] for dataset in datasets])  # (datasets, seeds)
    middle = shown((float(iqm(over.reshape(-1))), *summarize(over.T, better=1).iqm_interval), 0)
    pairs = [(scores[d, method, HARM], scores[d, "bc", HARM]) for d in datasets if (d, "bc", HARM) in scores]
    chances = [probability_of_improvement(a, b) for a, b in pairs if method != "bc"]
    chance = f"{100 * np.mean(chances):.0f}" if chances else "-"
    better, worse = (sum(sign in marks[dataset].get(method, "") for dataset in datasets) for sign in "+-")
    seconds = np.mean([scores[dataset, method, "seconds"] for dataset in datasets])
    return [f"`{method}`", middle, chance, f"{better} / {worse}", f"{seconds:.1f}"]


def told_apart(scores: Scored, dataset: str, methods: Sequence[str]) -> dict[tuple[str, str], float]:
    """Every two methods that are told apart in harm, after Holm's correction -> mean difference."""
    there = {m: values for m in methods if (values := scores.get((dataset, m, HARM))) is not None}
    found = zip(combinations(there, 2), compare(list(there.values())))
    return {pair: difference for pair, (difference, *_, adjusted) in found if adjusted < LEVEL}


def against(scores: Scored, dataset: str, learners: Sequence[str]) -> Marks:
    """Of the learners whose harm is told from that of the behavior without its noise."""
    found = told_apart(scores, dataset, ("behavior", *learners))
    return {other: " +" if value > 0 else " -" for (one, other), value in found.items() if one == "behavior"}


def separated(scores: Scored, datasets: Sequence[str], learners: Sequence[str], title: str) -> str:
    """On how many datasets the learner of the row is better than that of the column."""
    told = [pair for dataset in datasets for pair in told_apart(scores, dataset, learners).items()]
    better = [(a, b) if difference < 0 else (b, a) for (a, b), difference in told]
    body = [[f"`{a}`", *("" if a == b else str(better.count((a, b))) for b in learners)] for a in learners]
    caption = f"Datasets of {len(datasets)} on which the row's learner does less harm than the column's ({title})"
    return markdown_table(caption, ["", *(f"`{b}`" for b in learners)], body)


def main(name: str = "table") -> None:
    """The command line of a recipe."""
    parts_main(__doc__, TableRecipe.load(HERE / f"{name}.toml"), run, tables, HERE / f"{name}.md")


if __name__ == "__main__":
    from experiments.reference import table  # workers get its classes by name, which those of __main__ have not

    table.main()
