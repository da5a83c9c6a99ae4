"""One stay of a record as the rows of an episode; see :mod:`medgym_offline.datasets.charts`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medgym_offline.cohorts.cohort import definition_named
from medgym_offline.cohorts.decisions import Given
from medgym_offline.datasets.behaviors import process_config
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.diseases.base import Sight
from medgym_offline.envs.timing import interval_to_action
from medgym_offline.envs.views import Lens
from medgym_offline.seeds import derive_seed
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["ChartedStay", "least_severe"]


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
        rewards = np.zeros(steps)
        if recipe.reward == "death":
            rewards[-1] = 0.0 - float(died)
        else:
            rewards = -0.1 * harm
        return {
            "steps": steps,
            "seed": derive_seed(recipe.seed, recipe.stream, self.patient),
            "observations": self._observations(recipe, bank).astype(np.float32),
            "actions": np.column_stack([2.0 * u - 1.0, wish]).astype(np.float32),
            "rewards": rewards.astype(np.float32),
            "terminations": np.arange(1, steps + 1) == steps,
            "truncations": np.zeros(steps, bool),
            **{name: values.astype(np.float32) for name, values in infos.items()},
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
            "cost": disease.cost.at_end(monitored[:-1], monitored[1:]),
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
