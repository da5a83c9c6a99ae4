"""How much of the gain of one's own policy is kept for people whom nobody trained on.

    python -m experiments.people.study run diabetes     # a part; what is there is not run again
    python -m experiments.people.study tables           # results.md, from all parts that are there

H is the mean severity of a test person in the world that the data come from, a mean over episodes and training seeds;
where the record is the first hours of the episode itself, from the hour on at which the policy takes over.
Policies of scope `ind` were learned from each test person's own rows: the oracle. `pop`, `clu` and `context` learned
from train people alone. What x keeps is 100 (H_pop - H_x) / (H_pop - H_ind), H a mean over test people; its interval
resamples them, and it is not shown where that of H_pop - H_ind holds 0, or that difference is negative.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic import Field, PositiveInt
from torch import Tensor

from experiments.common import Form, Recipe, digest, markdown_table, parts_main, shown, units, write
from experiments.reference.table import TableRecipe
from medgym_offline import SimulatorBank, evaluate, load_dataset, load_simulators
from medgym_offline.datasets.recipes import find_recipe
from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import disease_of_id
from medgym_offline.evaluation.statistics import paired_difference
from medgym_offline.offline import OfflineConfig, train_seeds
from medgym_offline.online import train_behavior
from medgym_offline.online.config import Algorithm, BehaviorRecipe, load_recipe
from medgym_offline.patients import NEW_PEOPLE
from medgym_offline.people import Clusters, Contexts, IdentifyingPolicy, people_of
from medgym_offline.policies.files import TrainResult

HERE = Path(__file__).parent
ONLINE: Algorithm = "trpo-lag"
"""The learner of arms that are trained in the people's fitted simulators instead of from rows, with one seed."""
VIEWS, HISTORIES = (FULL, "charted"), (1, 4)


class Arm(NamedTuple):
    """Whose policy, by which learner, who knows how much of a record (sessions, or hours), and what it sees."""

    scope: str
    learner: str
    record: int = 0
    view: str = FULL
    history: int = 1


class Part(Form):
    """Data of one disease; lengths of record, in sessions; with `hours` the first so many, and takeover then.

    Beside the memoryless policies of view "full": :data:`VIEWS` and :data:`HISTORIES` of every scope, with the longest
    record; of `pop` the view "noisy" and learners of sequences; every scope by :func:`online`.
    """

    dataset: str
    records: tuple[PositiveInt, ...] = Field((1,), min_length=1)
    hours: tuple[PositiveInt, ...] = ()
    sequences: tuple[str, ...] = ()

    def arms(self, learner: str) -> list[Arm]:
        """What is trained and scored."""
        found = [Arm("ind", learner), Arm("pop", learner)]
        lengths = self.hours or self.records
        found += [Arm(scope, learner, n) for n in lengths for scope in NEW_PEOPLE]
        longest = {"ind": 0, "pop": 0, **dict.fromkeys(NEW_PEOPLE, max(lengths))}
        for view in VIEWS:
            for history in HISTORIES:
                found += [Arm(scope, learner, record, view, history) for scope, record in longest.items()]
            found += [Arm("pop", sequence, 0, view) for sequence in self.sequences]
        found += [Arm("pop", learner, 0, "noisy"), *(Arm(scope, ONLINE, record) for scope, record in longest.items())]
        return list(dict.fromkeys(found))

    def scored(self, arm: Arm) -> list[Arm]:
        """The arm at every length of record that it is scored at."""
        return [arm._replace(record=n) for n in self.hours] if self.hours and not arm.record else [arm]


class StudyRecipe(Recipe):
    """The learner, seeds of training, episodes of a test person; the parts."""

    learner: str
    seeds: PositiveInt
    episodes: PositiveInt
    part: dict[str, Part]


# -- running a part ----------------------------------------------------------------------------------------------------


def settings(part: Part, arm: Arm) -> OfflineConfig:
    """Those of the reference table, for the arm's learner and scope."""
    table = TableRecipe.load(HERE.parent / "reference" / "table.toml")
    home = f"{disease_of_id(part.dataset)}-{'ind' if arm.scope == 'ind' else 'pop'}"
    _, config, _ = table.config(arm.learner.removeprefix("gru-"), table.part[home])
    return replace(config, history=arm.history)


def unit(part: Part, arm: Arm, recipe: StudyRecipe) -> pl.DataFrame:
    """Rows of an arm, with seed, patient, value (mean severity) of the test people.

    A policy that needs no record is trained once, and scored after every takeover of the part.
    """
    made = find_recipe(part.dataset)
    bank = load_simulators(made.bank)
    length = (1, float(arm.record)) if part.hours else (arm.record, None)
    people = people_of(arm.scope, bank, *length, view=arm.view) if arm.scope in NEW_PEOPLE else None
    found: dict[int, Any]
    if arm.learner == ONLINE:
        found = {0: online(arm, bank, made.timing, people, load_recipe(disease=bank.disease.name))}
    else:
        side = "test" if arm.scope == "ind" else "train"
        rows = load_dataset(part.dataset, split=side, view=arm.view, progress=False)
        config = settings(part, arm)
        found = train_seeds(arm.learner, rows, arm.scope, range(recipe.seeds), config, people=people, progress=False)
    new, frames = bank.select(list(bank.people("test"))), []
    for seed, result in found.items():
        for one in part.scored(arm):
            policy, then = result.policy, float(one.record) if part.hours else None
            if people is not None and then is not None:
                policy = IdentifyingPolicy(policy, people, bank, then)
            scored = evaluate(policy, bank=new, episodes=recipe.episodes, worlds=(made.world,), takeover=then)
            known = {name: pl.lit(value) for name, value in one._asdict().items()}
            harm = scored.table().filter(metric="severity_mean").select("patient", "value")
            frames.append(harm.with_columns(**known, seed=pl.lit(seed, pl.Int16)))
    return pl.concat(frames)


def online(
    arm: Arm, bank: SimulatorBank, timing: str, people: Clusters | Contexts | None, recipe: BehaviorRecipe
) -> TrainResult[dict[str, Tensor]]:
    """An arm trained in fitted simulators: `ind` in the test people's, the others in the train people's alone.

    `pop` is `dr` of the behaviors: the population simulator was fitted to everybody.
    """
    scope, split = ("dr" if arm.scope == "pop" else arm.scope), ("test" if arm.scope == "ind" else "train")
    world, made = bank.world("own"), replace(recipe, algorithm=ONLINE)
    return train_behavior(world, timing, scope, progress=False, people=people, recipe=made, split=split, view=arm.view)


def run(recipe: StudyRecipe, name: str, workers: int = 1) -> Path:
    """Run a part, unit by unit; the finished ones lie in runs/people."""
    part = recipe.part[name]
    identity, calls = load_dataset(part.dataset, progress=False).identity, {}
    for arm in part.arms(recipe.learner):
        known: Any = settings(part, arm).to_dict()
        if arm.learner == ONLINE:
            known = load_recipe(disease=disease_of_id(part.dataset)).content_hash
        key = digest(identity, part.hours, arm, known, recipe.seeds, recipe.episodes)
        calls[f"{name}-{'-'.join(map(str, arm))}-{key}"] = unit, part, arm, recipe
    return write(HERE / f"{name}.parquet", units(calls, Path("runs/people"), workers))


# -- tables ------------------------------------------------------------------------------------------------------------


def kept(pop: np.ndarray, other: np.ndarray, ind: np.ndarray) -> tuple[float, float, float] | None:
    """What a policy keeps of the gain, in per cent, with its 95 % interval, from severities (people,).

    None where the interval of the mean of pop - ind over people is not above 0.
    """
    if paired_difference(pop, ind).difference_interval[0] <= 0.0:
        return None
    found = paired_difference(pop - other, pop - ind, better=1)  # in per cent above the whole gain
    low, high = found.percent_interval
    return 100.0 + found.percent, 100.0 + low, 100.0 + high


def tables(recipe: StudyRecipe) -> str:
    """The tables of the parts that are there."""
    blocks = [
        "# New patients, and what is seen",
        "    python -m experiments.people.study run PART; python -m experiments.people.study tables",
        f"`{recipe.learner}`, {recipe.seeds} training seeds, {recipe.episodes} episodes a test patient; `{ONLINE}`, "
        "one seed, was trained in the people's fitted simulators instead of from rows. Harm is the "
        "mean severity in the world that the data come from, in points. `ind` learned from the test patients "
        "themselves, the others from train patients alone. Kept: 100 (H_pop - H_x) / (H_pop - H_ind) among policies "
        "of the same view and history, with a 95 % interval over test patients; - where H_pop - H_ind cannot be told "
        "from 0. Behind harm: the difference from the same policy that sees everything and remembers nothing (of "
        f"`{ONLINE}`, from `{recipe.learner}`), per cent, with its interval.",
    ]
    for name, part in recipe.part.items():
        if (path := HERE / f"{name}.parquet").exists():
            blocks += _part_tables(name, part, recipe.learner, pl.read_parquet(path))
        else:
            blocks.append(f"Not run: {name}.")
    return "\n\n".join(blocks) + "\n"


def _part_tables(name: str, part: Part, learner: str, frame: pl.DataFrame) -> list[str]:
    """Harm of every arm, what it keeps, and what memory is worth."""
    mean = frame.group_by(*Arm._fields, "patient").agg(pl.col("value").mean()).sort("patient")
    parts = mean.partition_by(Arm._fields, as_dict=True)
    means = {Arm(*key): rows["value"].to_numpy() for key, rows in parts.items()}
    every = [one for arm in part.arms(learner) for one in part.scored(arm)]
    arms = [arm for arm in every if arm in means]
    if part.hours:
        arms.sort(key=lambda arm: arm.record)
    body = []
    for arm in arms:
        plain, told = arm._replace(view=FULL, history=1, learner=learner), ""
        ends = [arm._replace(scope=scope, record=arm.record if part.hours else 0) for scope in ("pop", "ind")]
        if arm.scope in NEW_PEOPLE and means.keys() >= set(ends):
            told = shown(kept(means[ends[0]], means[arm], means[ends[1]]), 0)
        harm = f"{means[arm].mean():.3f}" + (f" ({_change(means[arm], means[plain])})" if plain != arm else "")
        cells = [f"`{arm.scope}`", f"`{arm.learner}`", str(arm.record or ""), arm.view, str(arm.history)]
        body.append([*cells, harm, told])
    caption, record = f"{name}, {frame['patient'].n_unique()} test patients", "Record, sessions"
    if part.hours:
        caption += "; the record: the hours of the same episode before the takeover; harm: of those after it"
        record = "Takeover, h"
    blocks = [markdown_table(caption, ["", "Learner", record, "View", "History", "Harm", "Kept, %"], body)]
    body, latest = [], max(arm.record for arm in arms if arm.scope == "pop")
    # Arms that remember, at the latest takeover, against the same scope and `ind` that do not.
    for arm in (arm for arm in arms if arm.scope in NEW_PEOPLE or arm.record == latest):
        alone = arm._replace(history=1, learner=learner)
        ends = [alone, alone._replace(scope="ind", record=latest)]
        if (arm.history > 1 or arm.learner not in (learner, ONLINE)) and means.keys() >= set(ends):
            cells = [f"`{arm.scope}`", f"`{arm.learner}`", arm.view, str(arm.history)]
            body.append([*cells, *(_change(means[arm], means[end]) for end in ends)])
    heads = ["", "Learner", "View", "History", "Against one observation", "Against `ind`, one observation"]
    if body:
        blocks.append(markdown_table(f"{name}: difference in harm of memory, under the same view", heads, body))
    names = sorted({f"`{arm.learner}` ({arm.scope}, {arm.view})" for arm in every if arm not in means})
    return [*blocks, f"Not run: {', '.join(names)}."] if names else blocks


def _change(one: np.ndarray, other: np.ndarray) -> str:
    """Difference of the mean harm, per cent of the other, with its 95 % interval over people."""
    found = paired_difference(one, other, better=1)
    low, high = found.percent_interval
    return f"{found.percent:+.0f} %, {low:+.0f} to {high:+.0f}"


def main() -> None:
    """The command line."""
    parts_main(__doc__, StudyRecipe.load(HERE / "study.toml"), run, tables, HERE / "results.md")


if __name__ == "__main__":
    from experiments.people import study  # workers get its classes by name, which those of __main__ have not

    study.main()
