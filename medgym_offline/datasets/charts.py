"""Records -> rows: every stay of a cohort is one episode, treated as it was, and seen as it was charted.

- A row is a decision (:mod:`medgym_offline.cohorts.cohort`). Its doses are means over the interval, mapped to
  [-1, 1] by the scales of a bank; larger doses are clipped and counted. Its last action asks for the interval.
- Observations are those of a view: the last charted values whose results were in, their ages, whether there are any.
  Derived columns are computed from what was charted until then.
- Severity, monitored component and costs are read from charted values, each held until the next; one that was never
  charted counts as the least severe end of its usual range, as a score of organ failure takes what nobody measured.
- The reward is -1 in the last row of a stay whose patient died in hospital ("death"), or the integral of severity.
- An episode terminates at death, discharge or the horizon, whichever comes first. A patient is a person: stays of one
  are episodes of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from medgym_offline.cohorts.cohort import Cohort, DecisionRule, Given, combine, definition_named, treatments_given
from medgym_offline.cohorts.grid import make_grid
from medgym_offline.datasets.behaviors import process_config
from medgym_offline.datasets.clone import CloneConfig, estimate_log_prob
from medgym_offline.datasets.hdf5 import EpisodeBlock, pack_episodes
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.diseases.base import Sight
from medgym_offline.envs.timing import interval_to_action
from medgym_offline.envs.views import Lens
from medgym_offline.errors import DatasetError
from medgym_offline.seeds import derive_seed
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["ChartedStay", "FOLDER", "charted_episodes", "least_severe", "read_charts"]


def least_severe(bank: SimulatorBank) -> np.ndarray:
    """(V,) for each variable the end of its usual range that costs less, in severity and costs; physical units."""
    disease = bank.disease
    ends = np.array([c.usual for c in definition_named(disease.name).variables])
    middle = bank.denormalize(np.zeros(len(ends)))
    dose = bank.denormalize_treatment(np.zeros(len(disease.treatments)))

    def burden(variable: int, value: float) -> float:
        state = middle.copy()
        state[variable] = value
        rates = [cost.rate(state[disease.column(cost.component)]) for cost in disease.costs]
        return float(disease.severity.score(state, dose)) + sum(map(float, rates))

    return np.array([min(pair, key=lambda value: burden(j, value)) for j, pair in enumerate(ends.tolist())])


@dataclass(frozen=True)
class ChartedStay:
    """One stay of K decisions, of a cohort with V variables, U treatments and some derived quantities.

    Attributes:
        patient: Its id.
        given: What it was given.
        times: (K + 1,) of the decisions, and the end.
        charted: Times and values of each variable, sorted.
        derived: (K + 1, derived quantities) as of those times.
        normal: (V,) what variables count as that were not charted yet, from :func:`least_severe`.
    """

    patient: str
    given: Given
    times: np.ndarray
    charted: list[tuple[np.ndarray, np.ndarray]]
    derived: np.ndarray
    normal: np.ndarray

    @property
    def doses(self) -> np.ndarray:
        """(K, U) physical."""
        return self.given.means(self.times)

    def held(self, at: np.ndarray) -> np.ndarray:
        """(len(at), observed and derived) physical state: charted values held; derived ones of the decision before."""
        columns = []
        for (taken, value), normal in zip(self.charted, self.normal):
            last = np.searchsorted(taken, at, side="right")
            columns.append(np.r_[normal, value][last])
        before = np.searchsorted(self.times, at, side="right") - 1
        return np.column_stack([*columns, self.derived[before]])

    def episode(self, recipe: Recipe, bank: SimulatorBank, died: bool) -> dict[str, Any]:
        """The arrays of `pack_episodes`, the patient aside."""

        disease, dt = bank.disease, np.diff(self.times)
        config, steps = process_config(recipe, disease.name), len(dt)
        doses = self.doses
        u = np.asarray(bank.scales.normalize_treatment(disease, doses))
        wish = interval_to_action(torch.from_numpy(dt), config).numpy()
        infos, harm = self._outcomes(bank, doses, u)
        last = np.arange(1, steps + 1) == steps
        numbers = {
            "observations": self._observations(recipe, bank),
            "actions": np.column_stack([2.0 * u - 1.0, wish]),
            "rewards": np.where(last, 0.0 - float(died), 0.0) if recipe.reward == "death" else -0.1 * harm,
            **infos,
        }
        return {
            "seed": derive_seed(recipe.seed, recipe.stream, self.patient),
            "terminations": last,
            "truncations": np.zeros(steps, bool),
            **{name: values.astype(np.float32) for name, values in numbers.items()},
        }

    def _outcomes(self, bank: SimulatorBank, doses: np.ndarray, u: np.ndarray) -> tuple[dict[str, np.ndarray], Any]:
        """`INFOS` (K + 1, ...), what is not known yet 0; and the integral of severity and burden (K,)."""
        disease = bank.disease
        inside = np.concatenate([taken for taken, _ in self.charted])
        edges = np.unique(np.r_[self.times, inside[(inside > 0.0) & (inside < self.times[-1])]])
        which, length = np.searchsorted(self.times, edges[:-1], side="right") - 1, np.diff(edges)
        path, ends = self.held(edges[:-1]), self.held(self.times)
        steps = len(doses)

        def integral(rate: np.ndarray) -> np.ndarray:
            return np.bincount(which, rate * length, minlength=steps)

        score = np.minimum(disease.severity.score(path, doses[which]), disease.severity.cap)
        harm = integral(np.asarray(score)) + disease.severity.burden(u) * np.diff(self.times)
        rates = [np.asarray(cost.rate(path[:, disease.column(cost.component)])) for cost in disease.costs]
        peaks = np.zeros((steps, len(rates)))
        for column, rate in enumerate(rates):
            np.maximum.at(peaks[:, column], which, rate)
        monitored = ends[:, disease.monitored]
        none = np.asarray(bank.denormalize_treatment(np.zeros((1, len(disease.treatments)))))
        after = {
            "costs": disease.cost.at_end(monitored[:-1], monitored[1:]),
            "dt": np.diff(self.times),
            "time": self.times[1:],
            "costs_path": np.stack([integral(rate) for rate in rates], 1),
            "costs_peak": peaks,
            "behavior_log_prob": np.zeros(steps),
        }
        infos = {name: np.concatenate([np.zeros_like(values[:1]), values]) for name, values in after.items()}
        infos["severity"] = np.asarray(disease.severity.score(ends, np.concatenate([none, doses])))
        infos["monitored"] = monitored
        return infos, harm

    def _observations(self, recipe: Recipe, bank: SimulatorBank) -> np.ndarray:
        """(K + 1, d) of the recipe's view."""

        disease, count = bank.disease, len(self.times)
        lens = Lens(process_config(recipe, disease.name), [max(1, len(taken)) for taken, _ in self.charted])
        rows = []
        for channel in lens.view.channels:
            j = disease.column(channel.component)
            taken, value = self.charted[j]
            if len(taken):
                value = np.asarray(bank.scales.normal_column(disease, value, j))
                rows.append(np.column_stack([taken, taken + channel.delay, np.zeros_like(taken), value]))
            else:
                rows.append(np.array([[np.inf, np.inf, 0.0, 0.0]]))
        table = torch.from_numpy(np.concatenate(rows)).expand(1, count, -1, -1)
        state = np.zeros((1, count, disease.state_dim))
        first = len(disease.variables)
        for i in range(self.derived.shape[1]):
            state[0, :, first + i] = bank.scales.normal_column(disease, self.derived[:, i], first + i)
        left = torch.arange(recipe.decisions, recipe.decisions - count, -1, dtype=torch.float64)
        clock = torch.from_numpy(self.times)[None]
        sight = Sight(
            torch.from_numpy(state), clock, left[None], disease.process.horizon, recipe.decisions, None,
            torch.zeros(1, len(disease.context)), disease, bank.scales,
        )  # fmt: skip
        return np.asarray(lens.observe(sight, table)[0].numpy())


FOLDER = "MEDGYM_CLINICAL_DATA"
"""Environment variable that names the folder of the records."""


@dataclass(frozen=True)
class Charts:
    """Rows of a cohort.

    Attributes:
        block: All stays as episodes, in order of person, then stay.
        persons: Ids; `block.patient` are positions among them.
        facts: What a manifest says of them: rule, counts, calibration of the estimated probabilities (JSON-able).
    """

    block: EpisodeBlock
    persons: tuple[str, ...]
    facts: dict[str, Any]


def read_charts(recipe: Recipe, disease: str, folder: str | Path | None = None) -> Cohort:
    """The cohort of a recipe's records: all stays that its definition calls eligible.

    Args:
        recipe: Names the folders of the records.
        disease: Whose definition reads them.
        folder: Holds those folders; `$MEDGYM_CLINICAL_DATA` if None.

    Raises:
        DatasetError: nobody says where the records are, one of the folders is not there, or no stay is eligible.
        CohortError: they cannot be read.
    """
    from medgym_offline.cohorts.build import coverage, read_source

    place = folder or os.environ.get(FOLDER)
    needs = f"{recipe.id} is made from records that nobody ships ({', '.join(recipe.records)})"
    if not place:
        raise DatasetError(f"{needs}; set {FOLDER} (or --records) to the folder that holds them")
    paths = [Path(place) / name for name in recipe.records]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise DatasetError(f"{needs}, and {missing[0]} is not there; set {FOLDER} (or --records) to their folder")
    definition = definition_named(disease, recipe.id)
    cohort = combine([read_source(path, definition) for path in paths])
    if not (fit := coverage(cohort).eligible).any():
        rule = definition.selection
        asked = f"at least {rule.minimum_hours:g} h with {', '.join(rule.required) or 'any value'}"
        raise DatasetError(f"{recipe.id}: none of the {len(cohort)} stays in {place} has what rows need: {asked}")
    return cohort.select([patient for patient, fits in zip(cohort.patients, fit) if fits])


def charted_episodes(recipe: Recipe, cohort: Cohort, bank: SimulatorBank, clone: CloneConfig | None = None) -> Charts:
    """Every stay of a cohort as an episode.

    Args:
        recipe: K, reward, view and seed.
        cohort: Of the bank's disease.
        bank: Its scales map values and doses.
        clone: Settings of the estimate of the actions' probabilities.

    Raises:
        DatasetError: the cohort is of another disease, or lacks a treatment altogether, a stay does not say whether its
            patient died although the reward is death, or has more than K decisions.
    """
    disease = bank.disease
    rule = DecisionRule(horizon=disease.process.horizon)
    _require(recipe, cohort, bank)
    given = treatments_given(cohort, rule.horizon)
    times = {patient: steps.decisions(rule) for patient, steps in given.items()}
    most, where = max((len(t) - 1, patient) for patient, t in times.items())
    if most > recipe.decisions:
        raise DatasetError(f"{recipe.id}: stay {where} has {most} decisions; set decisions to that or more")
    derived = _derived_until(cohort, times, disease.process.min_interval)
    charted = _charted(cohort)
    died = dict(zip(cohort.patients, cohort.stays["died"].to_list()))
    persons = tuple(sorted(set(cohort.subjects)))
    normal = least_severe(bank)
    episodes, clipped = [], np.zeros(len(disease.treatments), np.int64)
    for person, patient in sorted(zip(cohort.subjects, cohort.patients)):
        stay = ChartedStay(patient, given[patient], times[patient], charted[patient], derived[patient], normal)
        episode = stay.episode(recipe, bank, bool(died[patient]))
        clipped += (stay.doses > np.array(bank.scales.treatment_upper) * (1.0 + 1e-9)).sum(0)
        episodes.append(episode | {"patient": persons.index(person)})
    block = pack_episodes(episodes)
    calibration = _estimate(block, persons, recipe.seed, disease.action_names, clone)
    facts = {
        "stays": len(episodes),
        "persons": len(persons),
        "died": sum(bool(value) for value in died.values()),
        "decisions_found": most,
        "rule": vars(rule),
        "clipped": dict(zip(disease.treatment_names, clipped.tolist())),
        "behavior_log_prob_estimated": True,
        "calibration": calibration,
        "license": cohort.metadata.get("license", ""),
        "rejections": cohort.rejections.lines(),
    }
    return Charts(block, persons, facts)


def _require(recipe: Recipe, cohort: Cohort, bank: SimulatorBank) -> None:
    definition, disease = cohort.definition, bank.disease
    names = (tuple(c.name for c in disease.variables), disease.treatment_names)
    if definition.disease != disease.name or (definition.observed, definition.given) != names:
        raise DatasetError(f"{recipe.id}: records of {definition.disease}, bank {bank.name!r} of {disease.name}")
    for name in definition.given:
        if not (cohort.table["variable"] == name).any():
            raise DatasetError(f"{recipe.id}: the records hold no {name}; rows need every treatment, so add its table")
    unknown = cohort.stays.filter(pl.col("died").is_null())["patient"]
    if recipe.reward == "death" and len(unknown):
        remedy = "add `died` to the stays, or set reward to integral"
        raise DatasetError(f"{recipe.id}: stay {unknown[0]} does not say whether its patient died; {remedy}")


def _derived_until(cohort: Cohort, times: Mapping[str, np.ndarray], hours: float) -> dict[str, np.ndarray]:
    """(K + 1, number of derived quantities) per stay, each from the records until then, to the last whole cell."""
    asked = pl.DataFrame(
        [(p, float(t), f"{p}@{i}") for p, own in times.items() for i, t in enumerate(own)],
        schema={"patient": pl.String, "at": pl.Float64, "key": pl.String},
        orient="row",
    )
    # Each question is a stay of its own, which ended when it was asked: nothing later can enter.
    table = cohort.table.join(asked, on="patient").filter(pl.col("time_h") <= pl.col("at"))
    table = table.with_columns(patient="key", end_h=pl.min_horizontal("end_h", "at"))
    stays = asked.select(patient="key", subject="key", los_h="at")
    grid = make_grid(table, stays, cohort.definition, hours, max(own[-1] for own in times.values()) + 2 * hours)
    values = np.zeros((len(grid), len(cohort.definition.derived)))
    for column, part in enumerate(cohort.definition.derived):
        values[:, column] = grid.derived[part.name][:, -1]
    ends = np.cumsum([len(own) for own in times.values()])
    return dict(zip(times, np.split(values, ends[:-1])))


def _charted(cohort: Cohort) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Times and values of every variable, by stay."""
    observations = cohort.observations.sort("time_h")
    rows, none = observations.partition_by(["patient", "variable"], as_dict=True), observations.clear()

    def of(patient: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        own = rows.get((patient, name), none)
        return own["time_h"].to_numpy(), own["value"].to_numpy()

    return {patient: [of(patient, name) for name in cohort.definition.observed] for patient in cohort.patients}


def _estimate(
    block: EpisodeBlock, persons: tuple[str, ...], root: int, names: tuple[str, ...], config: CloneConfig | None
) -> dict[str, Any]:
    """Fill in the block's estimated probabilities; the clone's calibration."""
    columns, starts = block.columns, block.starts
    actions = columns["actions"]
    before = np.full((len(actions), actions.shape[1] - 1), -1.0)
    before[1:] = actions[:-1, :-1]
    before[starts] = -1.0
    seen = np.concatenate([columns["observations"], before], axis=1)
    who = [persons[i] for i in columns["patient"]]
    found = estimate_log_prob(seen, actions, who, root, config)
    columns["behavior_log_prob"][:] = found.log_prob
    marginal = estimate_log_prob(seen[:, :0], actions, who, root, config)
    return {"decisions": len(actions), **found.calibration(names, marginal)}
