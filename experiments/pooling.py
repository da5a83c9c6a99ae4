"""How hard to hold a patient to the population, chosen and tested on later hours of the same stays.

    python -m experiments.pooling pooling --cohort runs/cohort.parquet

Per seed, with T the hours of a stay:

1. Pop, Ind and Ind-from-scratch are fitted to the hours before T/2, with all hours alike and with late hours counting
   more (`recency`). Every strength of the penalty is scored on the third quarter, after every 50 optimizer steps (early
   stopping on later hours). Recency, strength and stop with the lowest error of Ind, on average over seeds, are kept;
   scratch is given its own best stop.
2. With those, all are fitted to the hours before 3T/4 and scored on the last quarter, which nothing above has read.

Scored is the forecast of everything in the 24 h after the last hour fitted to, from that hour's state. Baselines are
smoothed persistence (last value; for SpO2 and urine a mean with weights exp(-age/2 h)) and the patient's mean so far.
Treatment is the charted one. Needs, start states and targets of a fit come from hours it may read; scales (the
cohort's mean and SD per variable, units only) come from the whole table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import Field, PositiveInt

from experiments.common import Recipe, Row, Scores, digest, facts, main, markdown_table, units
from medgym_offline.cohorts import Cohort, select_stays
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import FieldParameters
from medgym_offline.diseases.sepsis.model import MODEL
from medgym_offline.files import release_folder
from medgym_offline.seeds import derive_seed
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.build import BankRecipe, read_recipe
from medgym_offline.simulators.data import FitData, fit_data
from medgym_offline.simulators.fit import fit_alone, fit_individuals, fit_population
from medgym_offline.simulators.forecast import compare, follow

MODELS = ("ind", "pop", "ind from scratch", "persistence", "patient mean")


class PoolingRecipe(Recipe):
    """What is tried, with the physics and fit of `sepsis-v0`.

    Attributes:
        need_hours: Replaces `hours` of its prior of needs.
        strengths: Strengths of the penalty.
        recency: Hours after which a record counts 1/e; 0: all hours alike, as a bank is fitted.
        seeds: Every seed draws its own priors, windows and initial network.
        every: Steps between looks at the third quarter.
        hours: Length of the forecast.
    """

    need_hours: float | None = None
    strengths: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 4.0)
    recency: tuple[float, ...] = Field((0.0, 12.0), min_length=1)
    seeds: PositiveInt = 3
    every: PositiveInt = 50
    hours: PositiveInt = 24


@dataclass
class Split:
    """Training hours of every stay, the first so many quarters, and the quarter that follows; the population."""

    data: FitData
    settings: BankRecipe
    hours: int
    seed: int
    quarters: int

    def __post_init__(self) -> None:
        quarters = np.array([[self.quarters], [self.quarters + 1]])
        first, self.end = np.maximum(self.data.length * quarters // 4, 1).astype(np.int64)
        # No later value, mask or start state is left.
        training = self.data.restrict(np.arange(self.data.values.shape[1])[None] < first[:, None])
        self.training, self.begin = replace(training, length=first), first - 1
        hours, made = np.arange(self.data.u.shape[1])[None] <= self.begin[:, None], self.settings
        root = derive_seed(made.seed, "pooling-study", self.seed)
        self.given = MODEL.given(self.training, hours, made.physics, made.prior, root, made.fit.recency)
        self.fit = replace(made.fit, seed=derive_seed(root, "fit"))
        self.population = fit_population(self.training, self.given, made.physics, self.fit, False)

    def scored(self) -> np.ndarray:
        """(P, T, 6) observations a forecast is scored on."""
        hours = np.arange(self.data.u.shape[1])[None]
        last = np.minimum(self.end - 1, self.begin + self.hours)
        return self.data.mask & ((hours > self.begin[:, None]) & (hours <= last[:, None]))[..., None]

    def everyone(self) -> FieldParameters:
        """The shared field with the cohort's mean need, response and threshold, as in a bank, once per patient."""
        assert isinstance(self.population.params, FieldParameters)
        shared, patients = MODEL.average(self.population.params, "mean"), len(self.data.patients)
        return replace(shared, **{n: t.expand(patients, *t.shape[1:]) for n, t in shared.tensors().items()})

    def ahead(self, params: FieldParameters) -> np.ndarray:
        """Errors (P, T, 6) of the forecast from the last hour fitted to."""
        nothing = torch.zeros(len(self.data.patients), 8)
        bank = SimulatorBank(
            name="study", patients=self.data.patients, scales=self.data.scales, physics=self.settings.physics,
            world_data={"own": World(params, nothing, nothing)}, clinician_treatment=torch.from_numpy(self.data.u),
            disease=DISEASE,
        )  # fmt: skip
        hidden = MODEL.hidden_course(self.settings.physics, MODEL.given_of(params), self.data.u)
        known = replace(self.data, start=self.training.start)
        return self.data.values - forecast_ahead(bank, known, hidden, self.begin, self.hours)

    def baselines(self) -> dict[str, np.ndarray]:
        """Errors of persistence and of the patient's mean."""
        values, row = self.data.values, np.arange(len(self.data.values))
        mean = (self.training.values * self.training.mask).sum(1) / np.maximum(self.training.mask.sum(1), 1)
        last = self.training.start[row, self.begin][:, None]
        return {"persistence": values - last, "patient mean": values - mean[:, None]}


def forecast_ahead(
    bank: SimulatorBank, data: FitData, hidden: np.ndarray, begin: np.ndarray, hours: int = 24
) -> np.ndarray:
    """Forecasts of every patient from one hour of the record on, under the charted treatment.

    Args:
        bank: Simulators, one per patient of `data`; no noise is added.
        data: Its start states, derived components and treatment are read, no value after `begin`.
        hidden: (P, T, H) hidden components at each hour.
        begin: (P,) hour each forecast starts from.
        hours: How far.

    Returns:
        (P, T, V) normalized; NaN outside `begin` + 1 to `begin` + `hours`.
    """
    row, last = np.arange(len(begin)), data.u.shape[1] - 1
    x = torch.from_numpy(np.concatenate([data.start, data.derived, hidden], -1)[row, begin]).float()
    out = np.full(data.values.shape, np.nan, np.float32)
    at = begin[:, None] + np.arange(hours)
    doses = torch.from_numpy(data.u[row[:, None], np.minimum(at, last)])
    path = follow(bank.with_backend("ode").flow, x.unsqueeze(1), doses.unsqueeze(1))[:, 0].numpy()
    patient, step = np.nonzero(at < last)
    out[patient, at[patient, step] + 1] = path[patient, step, : out.shape[-1]]
    return out


# -- the study ---------------------------------------------------------------------------------------------------------


def _choose(recipe: PoolingRecipe, *given: Any) -> pl.DataFrame:
    """Errors on the third quarter of every strength and stop, of scratch at every stop, and of Pop."""
    split, parts = Split(*given, 2), list[pl.DataFrame]()

    def look(model: str, strength: str, stop: int, params: FieldParameters) -> None:
        error = compare({model: split.ahead(params)}, split.scored())["models"][model]["mae_mean"]
        row = Row(model, f"recency {split.fit.recency:g}{strength}", "ahead", stop)
        parts.append(facts(split.settings.name, row, split.seed, {"mae": error}, "third quarter"))

    def watch(stop: int, params: FieldParameters) -> None:
        for i, strength in enumerate(recipe.strengths):
            own = params.select(torch.arange(i * patients, (i + 1) * patients))
            look("ind", f", strength {strength:g}", stop, own)

    patients, how = len(split.data.patients), (split.settings.physics, split.fit, False)
    # Every patient once per strength.
    rows, penalty = np.tile(np.arange(patients), len(recipe.strengths)), np.repeat(recipe.strengths, patients)
    stack, repeated = split.training.select(rows), {name: array[rows] for name, array in split.given.items()}
    fit_individuals(stack, split.population, repeated, *how, penalty=penalty, watch=watch, every=recipe.every)
    alone = partial(look, "ind from scratch", "")
    fit_alone(split.training, split.given, *how, watch=alone, every=recipe.every)
    look("pop", "", 0, split.everyone())
    return pl.concat(parts)


def score(split: Split, strength: float, stop: int, stop_scratch: int) -> dict[str, np.ndarray]:
    """Errors (P, T, 6) of every model on the last quarter; NaN where not scored."""
    given, fit = (split.given, split.settings.physics), replace(split.fit, pooling=strength)
    models: dict[str, Any] = {
        "ind": fit_individuals(split.training, split.population, *given, fit, False, stop=stop).params,
        "pop": split.everyone(),
        "ind from scratch": fit_alone(split.training, *given, fit, False, stop=stop_scratch).params,
    }
    return {name: split.ahead(params) for name, params in models.items()} | split.baselines()


def _last(best: tuple[float, int, int], *given: Any) -> pl.DataFrame:
    """Errors on the last quarter, and in how many patients Ind has the smaller one."""
    split, (strength, stop, _) = Split(*given, 3), best
    errors, parts = score(split, *best), []
    found = compare(errors, split.scored() & np.isfinite(np.stack(list(errors.values()))).all(0))
    for model, measures in found["models"].items():
        values = {f"mae {variable.name}": error for variable, error in zip(DISEASE.variables, measures["mae"])}
        values |= {"mae": measures["mae_mean"], "nmse": measures["nmse_mean"]}
        if paired := found["paired"].get(model):
            values |= {"ind_better": 100 * paired["ind_better"], "p": paired["p"]}
        row = Row(model, f"recency {split.fit.recency:g}, strength {strength:g}", "ahead", stop)
        parts.append(facts(split.settings.name, row, split.seed, values, "last quarter"))
    return pl.concat(parts)


def _third_quarter(frame: pl.DataFrame) -> pl.DataFrame:
    """method, scope, decisions (the stop) and the mean error over seeds."""
    third = frame.filter(pl.col("world") == "third quarter")
    return third.group_by("method", "scope", "decisions", maintain_order=True).agg(pl.col("value").mean())


def chosen(frame: pl.DataFrame) -> tuple[float, float, int, int]:
    """Recency, strength and stop of Ind, and the stop of scratch at that recency, with the lowest mean error."""
    errors = _third_quarter(frame).sort("value", maintain_order=True)
    _, scope, stop, _ = errors.filter(method="ind").row(0)
    recency, strength = (float(part.split()[1]) for part in scope.split(", "))
    return recency, strength, stop, errors.filter(method="ind from scratch", scope=scope.split(", ")[0])["decisions"][0]


def run(
    recipe: PoolingRecipe, folder: Path, workers: int, cohort: Path, settings: BankRecipe | None = None
) -> pl.DataFrame:
    """Choose on the third quarter of every stay, and score on the last; finished fits are kept in `folder`."""
    made, stays = settings or read_recipe(release_folder("generation") / "sepsis-v0.toml"), Cohort.read(cohort)
    if recipe.need_hours:
        made = replace(made, prior=replace(made.prior, hours=recipe.need_hours))
    stays = select_stays(stays, made.patients) if made.patients else stays
    data = fit_data(stays.to_grid(1.0, DISEASE.process.horizon), DISEASE)
    name = digest(recipe.model_dump(exclude={"name", "recency", "seeds"}), made.hash, data.values.tobytes().hex())

    def found(function: Callable[..., pl.DataFrame], how: Any, *recencies: float) -> pl.DataFrame:
        calls = {}
        for recency, seed in product(recencies, range(recipe.seeds)):
            late = replace(made, fit=replace(made.fit, recency=recency))
            calls[f"{function.__name__}-{recency:g}-{seed}-{name}"] = function, how, data, late, recipe.hours, seed
        return units(calls, folder, workers)

    third = found(_choose, recipe, *recipe.recency)
    recency, *best = chosen(third)
    return pl.concat([third, found(_last, best, recency)])


def markdown(recipe: PoolingRecipe, scores: Scores) -> str:
    """What was chosen, and the forecasts of the last quarter."""
    recency, strength, stop, alone = chosen(scores.frame)
    error = {(m, s, k): v for m, s, k, v in _third_quarter(scores.frame).iter_rows()}
    stops = sorted({k for m, _, k in error if m == "ind"})
    parts = [
        "# Partial pooling, chosen and tested on later hours",
        f"    python -m experiments.pooling {recipe.name} --cohort runs/cohort.parquet",
        f"{recipe.seeds} seeds, MAE in SD. Chosen: recency {recency:g} h (0: all hours alike), strength {strength:g}, "
        f"{stop} steps; from scratch {alone} steps.",
    ]
    for hours in recipe.recency:
        scopes = {f"strength {s:g}": f"recency {hours:g}, strength {s:g}" for s in recipe.strengths}
        body = [[label, *(f"{error['ind', scope, k]:.4f}" for k in stops)] for label, scope in scopes.items()]
        pop = error["pop", f"recency {hours:g}", 0]
        best = min(v for (m, s, _), v in error.items() if m == "ind from scratch" and s == f"recency {hours:g}")
        caption = f"Third quarter, recency {hours:g} h; Pop {pop:.4f}, from scratch at best {best:.4f}"
        parts.append(markdown_table(caption, ["Ind", *(f"{k} steps" for k in stops)], body))
    measures = {v.name: f"mae {v.name}" for v in DISEASE.variables} | {"mean": "mae", "NMSE": "nmse"}
    columns = {head: scores.facts(name, ".4f", "last quarter") for head, name in measures.items()}
    columns["Ind better in, %"] = scores.facts("ind_better", ".1f", "last quarter")
    columns["p"] = scores.facts("p", ".1g", "last quarter")
    rows = [Row(model, f"recency {recency:g}, strength {strength:g}", "ahead", stop) for model in MODELS]
    body = [[row.method, *(column(row) for column in columns.values())] for row in rows]
    parts.append(markdown_table(f"Last quarter, next {recipe.hours} h", ["Model", *columns], body))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(__doc__, PoolingRecipe, run, markdown, cohort="the cohort table that the bank was fitted to (.parquet)")
