"""What the rows of a dataset must mean, checked on every row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Check", "TOLERANCE", "check_rows"]

TOLERANCE = 1e-3
"""Largest difference allowed where a column is recomputed in float32, in the units of the columns."""


@dataclass(frozen=True)
class Check:
    """One check of a dataset.

    Attributes:
        name: Short name.
        ok: Whether it holds.
        detail: What was looked at, or the first fault and the number of them.
    """

    name: str
    ok: bool
    detail: str


def _rows(name: str, wrong: np.ndarray, transitions: Transitions, meaning: str) -> Check:
    """A check over rows: `wrong` (N,) bool."""
    if not wrong.any():
        return Check(name, True, meaning)
    row = int(np.flatnonzero(wrong)[0])
    where = f"first at row {row} (episode {int(transitions.episode[row])})"
    return Check(name, False, f"not so in {int(wrong.sum())} of {len(wrong)} rows, {where}: {meaning}")


def _far(one: np.ndarray, other: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Rows in which two arrays differ by more than the tolerance; NaN counts as different."""
    gap = np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).reshape(len(one), -1)
    return np.asarray(~(gap <= tolerance).all(axis=1))


def check_rows(
    transitions: Transitions, bank: SimulatorBank, reward: str = "integral", simulated: bool = True
) -> list[Check]:
    """Check the meaning of every row.

    Chaining of observations, the clock (time, dt, remaining time and decisions, termination), the action box, dt as
    the action asks for it, and the monitored component, severity, cost and (for the kinds "paper" and "authors") reward
    recomputed from the observations and actions. The "integral" reward needs the path between decisions: replay checks
    it.

    Args:
        transitions: Rows in order.
        bank: The bank they were made with, for its units.
        reward: Kind of reward.
        simulated: Whether a simulator made the rows. Stays in records may end before the horizon, and what was charted
            need not be what is observed.
    """
    try:
        if not len(transitions.validate()):
            raise DatasetError("there are no rows")
    except DatasetError as error:
        return [Check("schema", False, str(error))]
    found = [*_clock(transitions, simulated)]
    if simulated:
        found += _medicine(transitions, bank, reward)
    elif reward == "death":
        paid = transitions.rewards != 0.0
        wrong = paid & ~(transitions.terminations & (transitions.rewards == -1.0))
        found.append(("reward", wrong, "reward is 0, and -1 where an episode ends in death"))
    schema = Check("schema", True, "shapes, types and finite values as documented")
    return [schema, *(_rows(name, wrong, transitions, meaning) for name, wrong, meaning in found)]


_Wrong: TypeAlias = "tuple[str, np.ndarray, str]"
"""Name of a check, rows in which it does not hold (N,) bool, and what holds in the others."""


def _clock(t: Transitions, simulated: bool) -> Iterator[_Wrong]:
    import torch

    from medgym_offline.envs.timing import ProcessConfig, action_to_interval, decision_interval

    horizon = t.definition.process.horizon
    time, remaining = t.observation_dim - 2, t.observation_dim - 1
    first = np.zeros(len(t), bool)
    first[t.episode_starts()] = True
    last = np.r_[first[1:], True]
    start = t.time.astype(np.float64) - t.dt
    step = np.arange(len(t)) - np.flatnonzero(first)[np.cumsum(first) - 1]

    inside = ~last[:-1]
    broken = _far(t.next_observations[:-1], t.observations[1:], 0.0) & inside
    yield "chain", np.r_[broken, False], "next_observations of a row are the observations of the next in the episode"
    jump = np.r_[False, (np.diff(t.episode) != 1) & first[1:]] | np.r_[False, (np.diff(t.patient) != 0) & inside]
    yield "order", jump, "episodes are numbered one after the other, each of one patient"
    sums = np.cumsum(t.dt, dtype=np.float64)
    before = np.where(first, sums - t.dt, 0.0)[np.maximum.accumulate(np.where(first, np.arange(len(t)), 0))]
    yield "time", _far(t.time, sums - before), "time is the running sum of dt within the episode"
    gone = _far(t.observations[:, time] * horizon, horizon - start)
    gone |= _far(t.next_observations[:, time] * horizon, horizon - t.time)
    yield "remaining time", gone, "observed remaining time is (horizon - time)/horizon before and after the decision"
    left = t.decisions - step
    wrong = _far(t.observations[:, remaining] * t.decisions, left)
    wrong |= _far(t.next_observations[:, remaining] * t.decisions, left - 1)
    yield "remaining decisions", wrong | (left < 1), "remaining decisions start at K and fall by one"
    at_end = np.abs(t.time - horizon) <= TOLERANCE if simulated else last & (t.time <= horizon + TOLERANCE)
    ended = (t.terminations != at_end) | (t.terminations != last)
    where = "at the horizon, there only, once" if simulated else "at the end, by the horizon, once"
    yield "termination", ended, f"terminated {where}"
    yield "truncation", t.truncations.copy(), "no episode is truncated"
    yield "action box", (np.abs(t.actions) > 1.0).any(axis=1), "actions lie in [-1, 1]"

    config = ProcessConfig(timing=t.timing, decisions=t.decisions, disease=t.disease)  # type: ignore[arg-type]
    wish = action_to_interval(torch.from_numpy(t.actions[:, -1].copy()), config) if t.timing == "adaptive" else None
    clock = torch.from_numpy(start.astype(np.float32))
    # A stay need not fill the horizon: what its decisions asked for is what they got.
    decided = decision_interval(clock, torch.from_numpy(np.maximum(left, 1).astype(np.float32)), config, wish)
    hours = decided if simulated or wish is None else wish
    limit = t.costs_peak.astype(np.float64) * t.dt[:, None] * (1 + TOLERANCE) + TOLERANCE
    odd = ((t.costs_path < 0) | (t.costs_path > limit)).any(axis=1)
    yield (
        "costs along the path",
        odd,
        "a cost's integral over the decision is between 0 and dt times its largest rate",
    )
    yield "dt", _far(t.dt, hours.numpy()), "dt is the feasible interval that the action asks for"


def _medicine(t: Transitions, bank: SimulatorBank, reward: str) -> Iterator[_Wrong]:
    disease = bank.disease
    if disease.features:
        return  # what is observed there is not the state; replay checks the rest
    observed = disease.observed_dim
    before = bank.denormalize(t.observations[:, :observed].astype(np.float64))
    after = bank.denormalize(t.next_observations[:, :observed].astype(np.float64))
    u = (t.actions[:, : len(disease.treatments)].astype(np.float64) + 1.0) / 2.0
    dose = bank.denormalize_treatment(u)
    name, unit = disease.cost.component, disease.components[disease.monitored].unit
    monitored = after[:, disease.monitored]
    yield name, _far(t.monitored, monitored), f"{name} is the next observation's, in {unit}"
    severity = disease.severity.score(after, dose)
    key = disease.severity.name
    yield key, _far(t.severity, severity), f"{key} is that of the next observation under the dose given"
    cost = disease.cost.at_end(before[:, disease.monitored], monitored)
    yield "cost", _far(t.costs, cost), f"cost is that of the {name} before and after"
    burden = disease.severity.burden(u)
    if reward == "paper":
        yield "reward", _far(t.rewards, -severity - burden), "reward is that of the paper's eq. 4"
    elif reward == "authors":
        import torch

        from medgym_offline.envs.reward import authors_reward

        numbers = (disease.severity.score(before, dose), severity, burden, t.dt.astype(np.float64))
        expected = authors_reward(*(torch.from_numpy(n) for n in numbers)).numpy()
        yield "reward", _far(t.rewards, expected, 5 * TOLERANCE), "reward is that of the authors' code"
    else:
        # Severity is never negative: the integral over dt cannot be below that of the burden alone.
        outside = t.rewards > -0.1 * t.dt * (burden if reward == "integral" else 0.0) + TOLERANCE
        yield "reward", outside, "reward is in the range of the integral over dt"
