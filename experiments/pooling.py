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

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import Field, PositiveInt

from experiments.common import Recipe, Row, Scores, digest, facts, main, markdown_table, shown, units
from medgym_offline.cohorts import Cohort, select_stays
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import FieldParameters
from medgym_offline.diseases.sepsis.model import MODEL
from medgym_offline.errors import BankError
from medgym_offline.seeds import derive_seed
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.build import BankRecipe, read_recipe
from medgym_offline.simulators.data import FitData, fit_data
from medgym_offline.simulators.fit import FittedField, fit_alone, fit_individuals, fit_population
from medgym_offline.simulators.forecast import compare

__all__ = ["PoolingRecipe", "Split", "chosen", "forecast_ahead", "markdown", "run", "score"]

MODELS = ("ind", "pop", "ind from scratch", "persistence", "patient mean")


class PoolingRecipe(Recipe):
    """What is tried.

    Attributes:
        bank_recipe: Gives physics and fit; its own strength is not used.
        need_hours: Replaces `hours` of its prior of needs.
        strengths: Strengths of the penalty.
        recency: Hours after which a record counts 1/e; 0: all hours alike, as a bank is fitted.
        seeds: Every seed draws its own priors, windows and initial network.
        every: Steps between looks at the third quarter.
        hours: Length of the forecast.
    """

    bank_recipe: Path = Path("generation/sepsis-v0.toml")
    need_hours: float | None = None
    strengths: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 4.0)
    recency: tuple[float, ...] = Field((0.0, 12.0), min_length=1)
    seeds: PositiveInt = 3
    every: PositiveInt = 50
    hours: PositiveInt = 24

    def settings(self) -> BankRecipe:
        """The bank's recipe."""
        found = read_recipe(self.bank_recipe)
        prior = replace(found.prior, hours=self.need_hours) if self.need_hours else found.prior
        return replace(found, prior=prior)


@dataclass
class Split:
    """Training hours of every stay, and the quarter that follows."""

    data: FitData
    training: FitData
    begin: np.ndarray
    end: np.ndarray
    settings: BankRecipe
    hours: int

    @classmethod
    def of(cls, data: FitData, quarters: int, settings: BankRecipe, hours: int, recency: float = 0.0) -> Split:
        """The first `quarters` of every stay, and the next one."""
        settings = replace(settings, fit=replace(settings.fit, recency=recency))
        first, second = (np.maximum(data.length * q // 4, 1).astype(np.int64) for q in (quarters, quarters + 1))
        # No later value, mask or start state is left.
        training = data.restrict(np.arange(data.values.shape[1])[None] < first[:, None])
        return cls(data, replace(training, length=first), first - 1, second, settings, hours)

    def given(self, root: int) -> dict[str, np.ndarray]:
        """Needs, responses and thresholds of the patients."""
        hours, made = np.arange(self.data.u.shape[1])[None] <= self.begin[:, None], self.settings
        return MODEL.given(self.training, hours, made.physics, made.prior, root, made.fit.recency)

    def scored(self) -> np.ndarray:
        """(P, T, 6) observations a forecast is scored on."""
        hours = np.arange(self.data.u.shape[1])[None]
        last = np.minimum(self.end - 1, self.begin + self.hours)
        return self.data.mask & ((hours > self.begin[:, None]) & (hours <= last[:, None]))[..., None]

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
    x = np.concatenate([data.start, data.derived, hidden], -1)[row, begin]
    out = np.full(data.values.shape, np.nan, np.float32)
    solver, hour = bank.with_backend("ode"), torch.ones(len(begin), 1)
    with torch.inference_mode():
        state = torch.from_numpy(x).float().unsqueeze(1)
        for step in range(hours):
            at = begin + step
            u = torch.from_numpy(data.u[row, np.minimum(at, last)]).unsqueeze(1)
            state = solver.flow(state, u, hour)
            inside = at < last
            out[row[inside], at[inside] + 1] = state[inside, 0, : data.values.shape[-1]].numpy()
    return out


def _rows(params: FieldParameters, first: int, count: int, total: int) -> FieldParameters:
    """Patients `first` to `first + count` of a stack of `total`; what all share stays shared."""
    part = {n: t[first : first + count] if len(t) == total else t for n, t in params.tensors().items()}
    return replace(params, **part)


def _population(fit: FittedField, patients: int) -> FieldParameters:
    """The shared field with the cohort's mean need, response and threshold, as in a bank, once per patient."""
    assert isinstance(fit.params, FieldParameters)
    shared = MODEL.average(fit.params, "mean")
    return replace(shared, **{n: t.expand(patients, *t.shape[1:]) for n, t in shared.tensors().items()})


def _choose(split: Split, root: int, seed: int, recipe: PoolingRecipe) -> pl.DataFrame:
    """Errors on the third quarter of every strength and stop, of scratch at every stop, and of Pop."""
    made, patients, tried = split.settings, len(split.data.patients), len(recipe.strengths)
    given, fit, used = split.given(root), replace(made.fit, seed=derive_seed(root, "fit")), split.scored()
    population = fit_population(split.training, given, made.physics, fit, False)
    parts: list[pl.DataFrame] = []

    def look(model: str, strength: float | None, stop: int, params: FieldParameters) -> None:
        scope = f"recency {fit.recency:g}" + ("" if strength is None else f", strength {strength:g}")
        error = compare({model: split.ahead(params)}, used)["models"][model]["mae_mean"]
        row = Row(model, scope, "ahead", stop)
        parts.append(facts(split.settings.name, row, seed, {"mae": error}, "third quarter"))

    def watch(done: int, params: FieldParameters) -> None:
        for i, strength in enumerate(recipe.strengths):
            look("ind", strength, done, _rows(params, i * patients, patients, tried * patients))

    stack = split.training
    for _ in recipe.strengths[1:]:
        stack = stack.stack(split.training)
    stacked = {name: np.concatenate([array] * tried) for name, array in given.items()}
    fit_individuals(
        stack, population, stacked, made.physics, fit, False,
        penalty=np.repeat(np.array(recipe.strengths), patients), watch=watch, every=recipe.every,
    )  # fmt: skip
    fit_alone(split.training, given, made.physics, fit, False, watch=partial(look, "ind from scratch", None),
              every=recipe.every)  # fmt: skip
    look("pop", None, 0, _population(population, patients))
    return pl.concat(parts)


def score(split: Split, root: int, strength: float, stop: int, stop_scratch: int) -> dict[str, np.ndarray]:
    """Errors (P, T, 6) of every model on the last quarter; NaN where not scored."""
    made, patients = split.settings, len(split.data.patients)
    fit, given = replace(made.fit, seed=derive_seed(root, "fit"), pooling=strength), split.given(root)
    population = fit_population(split.training, given, made.physics, fit, False)
    models = {
        "ind": fit_individuals(split.training, population, given, made.physics, fit, False, stop=stop).params,
        "pop": _population(population, patients),
        "ind from scratch": fit_alone(split.training, given, made.physics, fit, False, stop=stop_scratch).params,
    }
    return {name: split.ahead(params) for name, params in models.items()} | split.baselines()


def _last(split: Split, root: int, seed: int, strength: float, stop: int, stop_scratch: int) -> pl.DataFrame:
    """Errors on the last quarter, and in how many patients Ind has the smaller one."""
    errors, parts = score(split, root, strength, stop, stop_scratch), []
    found = compare(errors, split.scored() & np.isfinite(np.stack(list(errors.values()))).all(0))
    for model, measures in found["models"].items():
        values = {f"mae {variable.name}": error for variable, error in zip(DISEASE.variables, measures["mae"])}
        values |= {"mae": measures["mae_mean"], "nmse": measures["nmse_mean"]}
        if paired := found["paired"].get(model):
            values |= {"ind_better": 100 * paired["ind_better"], "p": paired["p"]}
        row = Row(model, f"recency {split.settings.fit.recency:g}, strength {strength:g}", "ahead", stop)
        parts.append(facts(split.settings.name, row, seed, values, "last quarter"))
    return pl.concat(parts)


def _third_quarter(frame: pl.DataFrame) -> pl.DataFrame:
    """method, scope, decisions (the stop) and the mean error over seeds."""
    third = frame.filter(pl.col("world") == "third quarter")
    return third.group_by("method", "scope", "decisions", maintain_order=True).agg(pl.col("value").mean())


def chosen(frame: pl.DataFrame) -> tuple[float, float, int, int]:
    """Recency, strength and stop of Ind, and the stop of scratch at that recency, with the lowest mean error."""
    errors = _third_quarter(frame)
    best = errors.filter(pl.col("method") == "ind").sort("value", maintain_order=True).row(0, named=True)
    recency, strength = (float(part.split()[1]) for part in best["scope"].split(", "))
    alone = errors.filter(pl.col("method") == "ind from scratch", pl.col("scope") == f"recency {recency:g}")
    return recency, strength, best["decisions"], alone.sort("value", maintain_order=True)["decisions"][0]


def run(recipe: PoolingRecipe, folder: Path, workers: int, cohort: Cohort, settings: BankRecipe) -> pl.DataFrame:
    """Choose on the third quarter of every stay, and score on the last; finished fits are kept in `folder`.

    Raises:
        BankError: Fewer stays than the bank's recipe asks for, or than two.
    """
    needed = max(settings.patients, 2)
    if len(cohort) < needed:
        raise BankError(f"the cohort has {len(cohort)} stays, the study needs {needed}; lower `patients`, or add stays")
    cohort = select_stays(cohort, settings.patients) if settings.patients else cohort
    data = fit_data(cohort.to_grid(1.0, DISEASE.process.horizon), DISEASE)
    roots = [derive_seed(settings.seed, "pooling-study", seed) for seed in range(recipe.seeds)]
    tried = recipe.model_dump(exclude={"name", "bank_recipe", "recency", "seeds"})
    made = digest(tried, settings.hash, data.values.tobytes().hex())
    calls: dict[str, tuple[Any, ...]] = {}
    for recency in recipe.recency:
        third = Split.of(data, 2, settings, recipe.hours, recency)
        calls |= {f"third-{recency:g}-{s}-{made}": (_choose, third, root, s, recipe) for s, root in enumerate(roots)}
    frame = units(calls, folder, workers)
    recency, *best = chosen(frame)
    last = Split.of(data, 3, settings, recipe.hours, recency)
    found = {f"last-{s}-{made}": (_last, last, root, s, *best) for s, root in enumerate(roots)}
    return pl.concat([frame, units(found, folder, workers)])


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
        body = [
            [f"strength {s:g}", *(f"{error['ind', f'recency {hours:g}, strength {s:g}', k]:.4f}" for k in stops)]
            for s in recipe.strengths
        ]
        pop = error["pop", f"recency {hours:g}", 0]
        best = min(v for (m, s, _), v in error.items() if m == "ind from scratch" and s == f"recency {hours:g}")
        caption = f"Third quarter, recency {hours:g} h; Pop {pop:.4f}, from scratch at best {best:.4f}"
        parts.append(markdown_table(caption, ["Ind", *(f"{k} steps" for k in stops)], body))
    names = [v.name for v in DISEASE.variables]
    body = []
    for model in MODELS:
        row = Row(model, f"recency {recency:g}, strength {strength:g}", "ahead", stop)
        at = partial(scores.fact, row, world="last quarter")
        p = at("p")
        errors = [shown(at(n), 4) for n in (*(f"mae {name}" for name in names), "mae", "nmse")]
        body.append([model, *errors, shown(at("ind_better"), 1), "-" if p is None else f"{p:.1g}"])
    heads = ["Model", *names, "mean", "NMSE", "Ind better in, %", "p"]
    parts.append(markdown_table(f"Last quarter, next {recipe.hours} h", heads, body))
    return "\n\n".join(parts) + "\n"


def _from_file(recipe: PoolingRecipe, folder: Path, workers: int, cohort: Path) -> pl.DataFrame:
    return run(recipe, folder, workers, Cohort.read(cohort), recipe.settings())


if __name__ == "__main__":
    words = "the cohort table that the bank was fitted to (.parquet)"
    main(__doc__ or "", "pooling", PoolingRecipe, _from_file, markdown, cohort=words)
