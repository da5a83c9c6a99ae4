"""How hard to pull a patient towards the population, chosen and tested on later hours of the same stays.

Per seed, with T the hours of a stay:

1. Pop, Ind and Ind-from-scratch are fitted to the hours before T/2, with all hours alike and with late hours counting
   more (`recency`). Every strength of the pull is scored on the third quarter, after every 50 optimiser steps (early
   stopping on held-out time). Recency, strength and stop with the lowest error of Ind, on average over seeds, are kept;
   scratch is given its own best stop.
2. With those, all are fitted to the hours before 3T/4 and scored on the last quarter, which nothing above has read.

Two forecasts are scored: `ahead`, everything in the 24 h after the last hour fitted to, from that hour's state (this
one chooses); and `step`, every observation from the hour of the variable's previous one, at most 12 h before. Baselines
are smoothed persistence (last value; for SpO2 and urine a mean with weights exp(-age/2 h)) and the patient's mean so
far. Treatment is the charted one. Needs, start states and targets of a fit come from hours it may read; scales (the
cohort's mean and SD per variable, units only) come from the whole table. Patients and strengths are stacked, not looped
over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medgym_offline.errors import BankError
from medgym_offline.files import code_version
from medgym_offline.seeds import derive_seed
from medgym_offline.diseases.sepsis import DISEASE as SEPSIS
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.build import BankRecipe
from medgym_offline.simulators.data import HORIZON, FitData, fit_data
from medgym_offline.simulators.field import FieldParameters
from medgym_offline.simulators.fit import FittedField, fit_alone, fit_individuals, fit_population
from medgym_offline.simulators.forecast import compare, forecast_ahead, paired, patient_errors
from medgym_offline.simulators.needs import estimate_need, shock_course
from medgym_offline.simulators.noise import one_step_residuals
from medgym_offline.simulators.prior import draw_response, draw_threshold

if TYPE_CHECKING:
    from medgym_offline.cohorts import Cohort

__all__ = ["StudyConfig", "before", "pooling_study", "study_rows"]

FORECASTS = ("ahead", "step")
MODELS = ("ind", "pop", "ind from scratch", "persistence", "patient mean")


@dataclass(frozen=True)
class StudyConfig:
    """What is tried.

    Attributes:
        strengths: Pulls lambda tried.
        recency: Values of `FitConfig.recency` tried, hours; 0 is all hours alike, as a bank is fitted.
        seeds: Every seed draws its own priors, windows and initial network.
        every: Steps between looks at the third quarter.
        hours: Length of the `ahead` forecast.
    """

    strengths: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 4.0)
    recency: tuple[float, ...] = (0.0, 12.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    every: int = 50
    hours: int = 24


def before(data: FitData, end: np.ndarray) -> FitData:
    """The stays cut at hour `end` (P,): no later value, mask or start state is left."""
    hours = np.arange(data.values.shape[1])[None] < end[:, None]
    return replace(data.restrict(hours), length=end)


def _causal(data: FitData) -> FitData:
    """Start states without a value from later: the cohort's mean until a variable is first seen."""
    seen = np.maximum.accumulate(data.mask, 1)
    return replace(data, start=np.where(seen, data.start, 0.0).astype(np.float32))


@dataclass
class _Split:
    """Training hours of every stay, and the quarter that follows."""

    data: FitData
    training: FitData
    begin: np.ndarray
    end: np.ndarray
    recipe: BankRecipe
    config: StudyConfig

    @classmethod
    def of(cls, data: FitData, quarters: int, recipe: BankRecipe, config: StudyConfig, recency: float = 0.0) -> _Split:
        recipe = replace(recipe, fit=replace(recipe.fit, recency=recency))
        cut = [np.maximum(np.floor(data.length * q / 4).astype(np.int64), 1) for q in (quarters, quarters + 1)]
        return cls(data, before(data, cut[0]), cut[0] - 1, cut[1], recipe, config)

    def draws(self, root: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hours = np.arange(self.data.u.shape[1])[None] <= self.begin[:, None]
        recipe = self.recipe
        need = estimate_need(self.training, hours, recipe.physics, root, recipe.need_prior, recipe.fit.recency)
        return need, draw_response(root, self.data.patients), draw_threshold(root, self.data.patients)

    def _bank(self, params: FieldParameters) -> SimulatorBank:
        count = len(self.data.patients)
        nothing = torch.zeros(count, 8)
        return SimulatorBank(
            name="study",
            patients=self.data.patients,
            scales=self.data.scales,
            physics=self.recipe.physics,
            worlds={"own": World(params, nothing, nothing)},
            population=None,
            trunk=None,
            clinician=torch.from_numpy(self.data.u),
            disease=SEPSIS,
        )

    def scored(self, forecast: str) -> np.ndarray:
        """(P, T, 6) observations a forecast is scored on."""
        hours = np.arange(self.data.u.shape[1])[None]
        used = (hours > self.begin[:, None]) & (hours < self.end[:, None])
        if forecast == "ahead":
            used &= hours <= self.begin[:, None] + self.config.hours
        return self.data.mask & used[..., None]

    def ahead(self, params: FieldParameters) -> np.ndarray:
        """Errors (P, T, 6) of the forecast from the last hour fitted to."""
        shock = shock_course(self.recipe.physics, params.need.numpy(), self.data.u)
        known = replace(self.data, start=self.training.start)
        found = forecast_ahead(self._bank(params), known, shock, self.begin, self.config.hours)
        return self.data.values - found

    def step(self, params: FieldParameters) -> tuple[np.ndarray, np.ndarray]:
        """Errors (P, T, 6) and gaps of the forecasts from each variable's previous observation."""
        shock = shock_course(self.recipe.physics, params.need.numpy(), self.data.u)
        error, gap, _ = one_step_residuals(self._bank(params), _causal(self.data), shock)
        return error, gap.astype(int)

    def baselines(self, gap: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Errors of persistence and of the patient's mean for both forecasts."""
        values, start = self.data.values, _causal(self.data).start
        row = np.arange(len(values))
        previous = np.maximum(np.arange(values.shape[1])[None, :, None] - gap, 0)
        count = np.maximum(self.training.mask.sum(1), 1)
        mean = (self.training.values * self.training.mask).sum(1) / count
        return {
            "ahead": {
                "persistence": values - self.training.start[row, self.begin][:, None],
                "patient mean": values - mean[:, None],
            },
            "step": {
                "persistence": values - start[row[:, None, None], previous, np.arange(6)[None, None]],
                "patient mean": values - mean[:, None],
            },
        }


def _rows(params: FieldParameters, first: int, count: int, total: int) -> FieldParameters:
    """Patients `first` to `first + count` of a stack of `total`; what all share stays shared."""
    part = {n: t[first : first + count] if len(t) == total else t for n, t in params.tensors().items()}
    return replace(params, **part)


def _population(fit: FittedField, patients: int) -> FieldParameters:
    """The shared field with the cohort's mean need, response and threshold, as in a bank, once per patient."""
    average = {n: getattr(fit.params, n).mean(0, keepdim=True) for n in ("need", "response", "threshold")}
    shared = replace(fit.params, **average)
    return replace(shared, **{n: t.expand(patients, *t.shape[1:]) for n, t in shared.tensors().items()})


def _mean_error(error: np.ndarray, used: np.ndarray) -> float:
    return float(compare({"ind": error}, used)["models"]["ind"]["mae_mean"])


def _choose(split: _Split, root: int, show: bool) -> dict[str, Any]:
    """Errors on the third quarter: Ind (S, looks), scratch (looks), Pop; and the steps of the looks."""
    recipe, config = split.recipe, split.config
    patients, tried = len(split.data.patients), len(config.strengths)
    draws, fit = split.draws(root), replace(recipe.fit, seed=derive_seed(root, "fit"))
    used = split.scored("ahead")
    population = fit_population(split.training, *draws, recipe.physics, fit, show)
    stack = split.training
    for _ in config.strengths[1:]:
        stack = stack.stack(split.training)
    seen: dict[int, list[float]] = {}
    alone: dict[int, float] = {}

    def watch(done: int, params: FieldParameters) -> None:
        parts = [_rows(params, i * patients, patients, tried * patients) for i in range(tried)]
        seen[done] = [_mean_error(split.ahead(p), used) for p in parts]

    def watch_alone(done: int, params: FieldParameters) -> None:
        alone[done] = _mean_error(split.ahead(params), used)

    pull = np.repeat(np.array(config.strengths), patients)
    need, response, threshold = (np.concatenate([d] * tried) for d in draws)
    fit_individuals(
        stack,
        population,
        need,
        response,
        threshold,
        recipe.physics,
        fit,
        show,
        pooling=pull,
        watch=watch,
        every=config.every,
    )
    fit_alone(split.training, *draws, recipe.physics, fit, show, watch=watch_alone, every=config.every)
    return {
        "stops": list(seen),
        "ind": np.array(list(seen.values())).T,
        "stops_scratch": list(alone),
        "scratch": np.array(list(alone.values())),
        "pop": _mean_error(split.ahead(_population(population, patients)), used),
    }


def _lowest(tried: Sequence[dict[str, Any]], name: str) -> float:
    """The error of the best strength and stop, on average over seeds."""
    return float(np.mean([t[name] for t in tried], 0).min())


def _score(
    split: _Split, root: int, strength: float, stop: int, stop_scratch: int, show: bool
) -> dict[str, dict[str, np.ndarray]]:
    """Errors (P, T, 6) of every model on the last quarter, per forecast; NaN where not scored."""
    recipe, patients = split.recipe, len(split.data.patients)
    fit = replace(recipe.fit, seed=derive_seed(root, "fit"), pooling=strength)
    draws = split.draws(root)
    population = fit_population(split.training, *draws, recipe.physics, fit, show)
    models = {
        "ind": fit_individuals(split.training, population, *draws, recipe.physics, fit, show, stop=stop).params,
        "pop": _population(population, patients),
        "ind from scratch": fit_alone(split.training, *draws, recipe.physics, fit, show, stop=stop_scratch).params,
    }
    ahead = {name: split.ahead(params) for name, params in models.items()}
    both = {name: split.step(params) for name, params in models.items()}
    gap = both["ind"][1]
    base = split.baselines(gap)
    return {"ahead": ahead | base["ahead"], "step": {n: e for n, (e, _) in both.items()} | base["step"]}


def pooling_study(
    cohort: Cohort, recipe: BankRecipe | None = None, config: StudyConfig | None = None, show: bool = True
) -> dict[str, Any]:
    """Choose recency, strength and stop on the third quarter of every stay and score them on the last.

    Args:
        cohort: Its stays, `recipe.patients` of them by the coverage rule.
        recipe: Gives physics and fit; its `pooling` is not used.
        config: What is tried.
        show: Progress on standard error.

    Returns:
        Plain JSON: `chosen`; `third_quarter` (lowest errors at each recency; errors of every strength and stop at the
        chosen one); `last_quarter` per forecast: means over seeds, each seed by itself, and tests paired over
        patients on errors averaged over seeds.

    Raises:
        BankError: Fewer stays than the recipe asks for, or than two.
    """
    from medgym_offline.cohorts import select_stays

    recipe, config = recipe or BankRecipe(patients=0), config or StudyConfig()
    if len(cohort) < max(recipe.patients, 2):
        needed = max(recipe.patients, 2)
        raise BankError(f"the cohort has {len(cohort)} stays, the study needs {needed}; lower `patients`, or add stays")
    if recipe.patients:
        cohort = select_stays(cohort, recipe.patients)
    data = fit_data(cohort.to_grid(1.0, float(HORIZON)))
    roots = [derive_seed(recipe.seed, "pooling-study", seed) for seed in config.seeds]
    each = {}
    for recency in config.recency:
        third = _Split.of(data, 2, recipe, config, recency)
        each[recency] = [_choose(third, root, show) for root in roots]
    recency = min(each, key=lambda hours: _lowest(each[hours], "ind"))
    last, tried = _Split.of(data, 3, recipe, config, recency), each[recency]
    grid, alone = np.mean([t["ind"] for t in tried], 0), np.mean([t["scratch"] for t in tried], 0)
    best, look = np.unravel_index(grid.argmin(), grid.shape)
    strength, stop = config.strengths[int(best)], tried[0]["stops"][int(look)]
    stop_scratch = tried[0]["stops_scratch"][int(alone.argmin())]
    errors = [_score(last, root, strength, stop, stop_scratch, show) for root in roots]
    return {
        "command": "medgym-offline simulators study COHORT --recipe RECIPE --output FOLDER --recency "
        + ",".join(f"{hours:g}" for hours in config.recency),
        "code_version": code_version(),
        "patients": len(data.patients),
        "variables": [v.name for v in SEPSIS.variables],
        "seeds": list(config.seeds),
        "fit": {"population_steps": recipe.fit.population_steps, "individual_steps": recipe.fit.individual_steps},
        "chosen": {"recency": recency, "pooling": strength, "stop": stop, "stop_from_scratch": stop_scratch},
        "third_quarter": {
            "by_recency": [
                {"recency": hours} | {n: round(_lowest(found, n), 4) for n in ("ind", "pop", "scratch")}
                for hours, found in each.items()
            ],
            "strengths": list(config.strengths),
            "stops": tried[0]["stops"],
            "mae": np.round(grid, 4).tolist(),
            "stops_from_scratch": tried[0]["stops_scratch"],
            "mae_from_scratch": np.round(alone, 4).tolist(),
            "mae_pop": round(float(np.mean([t["pop"] for t in tried])), 4),
            "best_pooling_by_seed": [config.strengths[int(t["ind"].min(1).argmin())] for t in tried],
        },
        "last_quarter": {f: _summary([e[f] for e in errors], last.scored(f)) for f in FORECASTS},
    }


def _summary(errors: Sequence[dict[str, np.ndarray]], used: np.ndarray) -> dict[str, Any]:
    """Errors of every seed, (P, T, 6) per model, as tables."""
    used = used & np.isfinite(np.stack([e[name] for e in errors for name in MODELS])).all(0)
    seeds = [compare({name: e[name] for name in MODELS}, used) for e in errors]
    person = {name: np.mean([patient_errors(e[name], used) for e in errors], 0) for name in MODELS}
    models = {
        name: {
            key: np.round(np.mean([s["models"][name][key] for s in seeds], 0), 4).tolist()
            for key in seeds[0]["models"][name]
        }
        | {"mae_sd_over_seeds": round(float(np.std([s["models"][name]["mae_mean"] for s in seeds])), 4)}
        for name in MODELS
    }
    return {
        "counts": seeds[0]["counts"],
        "models": models,
        "paired": {name: paired(person["ind"], person[name]) for name in MODELS[1:]},
        "by_seed": [{"models": s["models"], "paired": s["paired"]} for s in seeds],
    }


def study_rows(found: dict[str, Any], forecast: str) -> list[tuple[str, ...]]:
    """Rows of a printed table: model, MAE per variable, mean, NMSE, patients where Ind is better, p."""
    part = found["last_quarter"][forecast]
    rows = []
    for name in MODELS:
        m, test = part["models"][name], part["paired"].get(name)
        against = (f"{100 * test['ind_better']:.0f} %", f"{test['p']:.1g}") if test else ("", "")
        numbers = (*(f"{e:.3f}" for e in m["mae"]), f"{m['mae_mean']:.4f}", f"{m['nmse_mean']:.3f}")
        rows.append((name, *numbers, *against))
    return rows
