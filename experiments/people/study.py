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
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from experiments.common import Recipe, digest, markdown_table, parts_main, units
from experiments.reference.table import TableRecipe
from medgym_offline import SimulatorBank, evaluate, load_dataset, load_simulators
from medgym_offline.datasets.recipes import find_recipe
from medgym_offline.diseases.registry import disease_of_id
from medgym_offline.diseases.views import FULL
from medgym_offline.evaluation.statistics import paired_difference
from medgym_offline.files import atomic_path
from medgym_offline.offline import OfflineConfig, train_seeds
from medgym_offline.online import train_behavior
from medgym_offline.online.recipe import BehaviorRecipe, load_recipe
from medgym_offline.patients import NEW_PEOPLE
from medgym_offline.people import Clusters, Contexts, IdentifyingPolicy, people_of
from medgym_offline.policies.result import TrainResult

__all__ = ["Arm", "Part", "StudyRecipe", "kept", "run", "tables"]

HERE = Path(__file__).parent
TABLE = HERE.parent / "reference" / "table.toml"
ONLINE = "trpo-lag"
"""The learner of arms that are trained in the people's fitted simulators instead of from rows, with one seed."""


class Part(BaseModel):
    """Data of one disease; lengths of record, in sessions; with `hours` the first so many, and takeover then.

    Beside the memoryless policies of view "full": `views` and `histories` of every scope, with the longest record;
    `shared_views` of `pop`; and learners of sequences, of `pop`. `online`: every scope by :func:`online`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    dataset: str
    records: tuple[PositiveInt, ...] = Field((1,), min_length=1)
    hours: tuple[PositiveInt, ...] = ()
    views: tuple[str, ...] = (FULL,)
    histories: tuple[PositiveInt, ...] = (1,)
    shared_views: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    online: bool = False

    def arms(self, learner: str) -> list[Arm]:
        """What is trained and scored."""
        found = [Arm("ind", learner), Arm("pop", learner)]
        lengths = self.hours or self.records
        found += [Arm(scope, learner, n) for n in lengths for scope in ("clu", "context")]
        longest = {"ind": 0, "pop": 0, "clu": max(lengths), "context": max(lengths)}
        for view in self.views:
            for history in self.histories:
                found += [Arm(scope, learner, record, view, history) for scope, record in longest.items()]
            found += [Arm("pop", sequence, 0, view) for sequence in self.sequences]
        found += [Arm("pop", learner, 0, view) for view in self.shared_views]
        found += [Arm(scope, ONLINE, record) for scope, record in longest.items() if self.online]
        return list(dict.fromkeys(found))

    def scored(self, arm: Arm) -> list[Arm]:
        """The arm at every length of record that it is scored at."""
        return [arm._replace(record=n) for n in self.hours] if self.hours and not arm.record else [arm]


class Arm(NamedTuple):
    """Whose policy, by which learner, who knows how much of a record (sessions, or hours), and what it sees."""

    scope: str
    learner: str
    record: int = 0
    view: str = FULL
    history: int = 1


class StudyRecipe(Recipe):
    """The learner, seeds of training, episodes of a test person; changes of the learner's settings; the parts."""

    learner: str
    seeds: PositiveInt
    episodes: PositiveInt
    settings: dict[str, Any] = Field(default_factory=dict)
    part: dict[str, Part]


def settings(part: Part, arm: Arm, recipe: StudyRecipe) -> OfflineConfig:
    """Those of the reference table, for the arm's learner and scope, with the study's changes."""
    table = TableRecipe.load(TABLE)
    home = find_recipe(part.dataset).bank.removesuffix("-v0").replace("sepsis-twin", "sepsis")
    known = arm.learner.removeprefix("gru-")
    _, config, _ = table.config(known, table.part[f"{home}-{'ind' if arm.scope == 'ind' else 'pop'}"])
    config = config.changed([f"{name}={value}" for name, value in recipe.settings.items()])
    return replace(config, history=arm.history)


def unit(part: Part, arm: Arm, recipe: StudyRecipe) -> pl.DataFrame:
    """Rows of an arm, with seed, patient, value (mean severity) of the test people.

    A policy that needs no record is trained once, and scored after every takeover of the part.
    """
    made = find_recipe(part.dataset)
    bank = load_simulators(made.bank)
    config = settings(part, arm, recipe)
    side = "test" if arm.scope == "ind" else "train"
    rows = load_dataset(part.dataset, split=side, view=arm.view, progress=False)
    length = (1, float(arm.record)) if part.hours else (arm.record, None)
    people = people_of(arm.scope, bank, *length, view=arm.view) if arm.scope in NEW_PEOPLE else None
    if arm.learner == ONLINE:
        found: dict[int, Any] = {0: online(arm, bank, made.timing, people, load_recipe(disease=bank.disease.name))}
    else:
        found = train_seeds(arm.learner, rows, arm.scope, range(recipe.seeds), config, people=people, progress=False)
    new, frames = bank.select(list(bank.people("test"))), []
    for seed, result in found.items():
        for one in part.scored(arm):
            policy, then = result.policy, float(one.record) if part.hours else None
            if people is not None and then is not None:
                policy = IdentifyingPolicy(policy, people, bank, then)
            scored = evaluate(
                policy, bank=new, episodes=recipe.episodes, worlds=(made.world,), takeover=then
            ).per_patient
            frames.append(
                pl.DataFrame({"patient": scored["patient"].tolist(), "value": scored["severity_mean"]}).with_columns(
                    **{name: pl.lit(value) for name, value in one._asdict().items()}, seed=pl.lit(seed, pl.Int16)
                )
            )
    return pl.concat(frames)


def online(
    arm: Arm, bank: SimulatorBank, timing: str, people: Clusters | Contexts | None, recipe: BehaviorRecipe
) -> TrainResult[dict[str, Tensor]]:
    """An arm trained in fitted simulators: `ind` in the test people's, the others in the train people's alone.

    `pop` is `dr` of the behaviors: the population simulator was fitted to everybody.
    """
    scope, split = ("dr" if arm.scope == "pop" else arm.scope), ("test" if arm.scope == "ind" else "train")
    return train_behavior(
        bank.world("own"),
        timing,
        scope,
        recipe=replace(recipe, algorithm=ONLINE),
        progress=False,
        split=split,
        view=arm.view,
        people=people,
    )


def run(recipe: StudyRecipe, name: str, workers: int = 1) -> Path:
    """Run a part, unit by unit; the finished ones lie in runs/people."""
    part = recipe.part[name]
    identity, calls = load_dataset(part.dataset, progress=False).identity, {}
    for arm in part.arms(recipe.learner):
        known: Any = settings(part, arm, recipe).to_dict()
        if arm.learner == ONLINE:
            known = load_recipe(disease=disease_of_id(part.dataset)).content_hash
        key = digest(identity, part.hours or None, list(arm), known, recipe.seeds, recipe.episodes)
        calls[f"{name}-{'-'.join(map(str, arm))}-{key}"] = unit, part, arm, recipe
    found = units(calls, Path("runs/people"), workers)
    path = HERE / f"{name}.parquet"
    with atomic_path(path) as temporary:
        found.write_parquet(temporary, compression_level=19)
    return path


def kept(pop: np.ndarray, other: np.ndarray, ind: np.ndarray) -> tuple[float, float, float] | None:
    """What a policy keeps of the gain, in per cent, with its 95 % interval, from severities (people,).

    None where the interval of the mean of pop - ind over people is not above 0.
    """
    if paired_difference(pop, ind).difference_interval[0] <= 0.0:
        return None
    found = paired_difference(pop - other, pop - ind, better=1)  # in per cent above the whole gain
    low, high = found.percent_interval
    return 100.0 + found.percent, 100.0 + low, 100.0 + high


def _means(frame: pl.DataFrame, arm: Arm) -> np.ndarray:
    """(people,) mean over seeds, by patient."""
    chosen = frame.filter(**arm._asdict())
    return chosen.group_by("patient").agg(pl.col("value").mean()).sort("patient")["value"].to_numpy()


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
        if not (path := HERE / f"{name}.parquet").exists():
            blocks.append(f"Not run: {name}.")
            continue
        frame = pl.read_parquet(path)
        there = {Arm(*row) for row in frame.select(Arm._fields).unique().iter_rows()}
        body = []
        arms = [one for arm in part.arms(recipe.learner) for one in part.scored(arm)]
        if part.hours:
            arms.sort(key=lambda arm: arm.record)
        for arm in (arm for arm in arms if arm in there):
            values = _means(frame, arm)
            ends = [arm._replace(scope=scope, record=arm.record if part.hours else 0) for scope in ("pop", "ind")]
            told = ""
            if arm.scope in NEW_PEOPLE and there.issuperset(ends):
                pop, ind = (_means(frame, end) for end in ends)
                share = kept(pop, values, ind)
                told = "-" if share is None else f"{share[0]:.0f} ({share[1]:.0f} to {share[2]:.0f})"
            plain = arm._replace(view=FULL, history=1, learner=recipe.learner)
            harm = f"{values.mean():.3f}" + (f" ({_change(values, _means(frame, plain))})" if plain != arm else "")
            cells = [f"`{arm.scope}`", f"`{arm.learner}`", str(arm.record or ""), arm.view, str(arm.history)]
            body.append([*cells, harm, told])
        people = frame["patient"].n_unique()
        caption, record = f"{name}, {people} test patients", "Record, sessions"
        if part.hours:
            caption += "; the record: the hours of the same episode before the takeover; harm: of those after it"
            record = "Takeover, h"
        heads = ["", "Learner", record, "View", "History", "Harm", "Kept, %"]
        blocks.append(markdown_table(caption, heads, body))
        if told := _memory(frame, [arm for arm in arms if arm in there], recipe.learner):
            heads = ["", "Learner", "View", "History", "Against one observation", "Against `ind`, one observation"]
            blocks.append(markdown_table(f"{name}: difference in harm of memory, under the same view", heads, told))
        if missing := [arm for arm in arms if arm not in there]:
            names = sorted({f"`{arm.learner}` ({arm.scope}, {arm.view})" for arm in missing})
            blocks.append(f"Not run: {', '.join(names)}.")
    return "\n\n".join(blocks) + "\n"


def _memory(frame: pl.DataFrame, arms: list[Arm], learner: str) -> list[list[str]]:
    """Rows of the arms that remember, against the same scope and `ind` that do not; of a takeover the latest."""
    latest = max(arm.record for arm in arms if arm.scope == "pop")
    body = []
    for arm in arms:
        if (arm.history > 1 or arm.learner not in (learner, ONLINE)) and (arm.scope != "pop" or arm.record == latest):
            alone = arm._replace(history=1, learner=learner)
            ends = [one for one in (alone, alone._replace(scope="ind", record=latest)) if one in arms]
            if len(ends) == 2 and (arm.scope != "ind" or arm.record == latest):
                cells = [_change(_means(frame, arm), _means(frame, one)) for one in ends]
                body.append([f"`{arm.scope}`", f"`{arm.learner}`", arm.view, str(arm.history), *cells])
    return body


def _change(one: np.ndarray, other: np.ndarray) -> str:
    """Difference of the mean harm, per cent of the other, with its 95 % interval over people."""
    found = paired_difference(one, other, better=1)
    low, high = found.percent_interval
    return f"{found.percent:+.0f} %, {low:+.0f} to {high:+.0f}"


def main() -> None:
    """The command line."""
    parts_main(__doc__ or "", StudyRecipe.load(HERE / "study.toml"), run, tables, HERE / "results.md")


if __name__ == "__main__":
    from experiments.people import study  # workers get its classes by name, which those of __main__ have not

    study.main()
