"""The parts that a disease is made of: state, treatments, clock, severity, costs, events, metrics, checks.

Types only: neither torch nor anything of the suite is imported. Functions take NumPy arrays or torch tensors and return
the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from medgym_offline.diseases.scales import Array, Transform

if TYPE_CHECKING:
    from torch import Tensor

    from medgym_offline.diseases.base import Disease
    from medgym_offline.diseases.scales import Scales

__all__ = [
    "CLOCKS", "Component", "Cost", "Course", "Exogenous", "Feature", "Kind", "Metric", "Process", "Severity", "Sight",
    "SignCheck", "Subgroup", "Treatment",
]  # fmt: skip

Kind = Literal["observed", "derived", "hidden"]

CLOCKS = ("remaining time", "remaining decisions")
"""The last two columns of every observation: the share of the horizon, and of the budget K, that remains."""


@dataclass(frozen=True)
class Component:
    """One component of the state.

    Attributes:
        name: Its name in tables, cohorts and files.
        unit: Physical unit.
        lower, upper: Physical bounds; states are clamped to them.
        transform: Applied before centering and scaling.
        center, scale: Affine map after the transform. For an observed component these are defaults, and a bank stores
            its cohort's own (:class:`~medgym_offline.diseases.scales.Scales`); for others they are the map.
        kind: "observed" (measured, in records), "derived" (follows from what was given and measured, so a policy sees
            it too) or "hidden" (nobody sees it).
        initial: Physical value at the start of an episode, for components that are not observed.
        noise: Prior of the residual noise, normalized SD per square root of the unit of time.
        smoothed: Noisy and frequent: where a fit starts from a record, a weighted mean of the last values is taken.
        label: In figures and tables; the name if empty.
    """

    name: str
    unit: str
    lower: float
    upper: float
    transform: Transform = "identity"
    center: float = 0.0
    scale: float = 1.0
    kind: Kind = "observed"
    initial: float = 0.0
    noise: float = 0.0
    smoothed: bool = False
    label: str = ""


@dataclass(frozen=True)
class Treatment:
    """A continuous treatment and its map to u in [0, 1].

        u(d) = (f(d/s) - f(lower/s)) / (f(upper/s) - f(lower/s)),       f the transform, s the knee

    so 0 is no treatment and 1 the largest dose in common use; "log1p" and "sqrt" resolve small doses finely.

    Attributes:
        name: Its name in tables, cohorts and files.
        unit: Physical unit; doses that depend on body size are per kg.
        lower, upper: Doses at u = 0 and u = 1.
        knee: `s`, the dose above which a "log1p" map is about logarithmic.
        transform: f.
        kind: "rate" (held for the whole interval) or "bolus" (an impulse at the decision).
        upper_range: A bank takes the dose at u = 1 from its records, within these; `upper` if not given.
        levels: Constant doses that checks try, normalized.
        label: In figures and tables; the name if empty.
    """

    name: str
    unit: str
    lower: float
    upper: float
    knee: float = 1.0
    transform: Transform = "log1p"
    kind: Literal["rate", "bolus"] = "rate"
    upper_range: tuple[float, float] | None = None
    levels: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    label: str = ""


@dataclass(frozen=True)
class Process:
    """The decision process of a disease; every number is a default that an argument can change.

    Attributes:
        horizon: Length of an episode, in `unit`.
        min_interval, max_interval: Shortest and longest interval.
        decisions: K.
        unit: Unit of time of everything: "h" or "min".
        tick: Intervals are whole numbers of this; None: the finest power of two that float32 counts exactly.
        cell: Longest cell of the quadrature of severity along a path.
        initial_noise: SD of the first state's perturbation, normalized.
        grid: Step of the grid on which metrics are read, and `fine` that of safety.
        fine: See `grid`.
        settled: Safety is read after this time, when treatment can have worked.
        reference_interval: Discounts are per this much time.
        remission: (severity, time): an episode may also end when severity has stayed below for so long; None: never.
        block: Records are split into the halves of `own` and `crossfit` in alternating blocks of this length.
    """

    horizon: float
    min_interval: float
    max_interval: float
    decisions: int
    unit: str = "h"
    tick: float | None = None
    cell: float = 1.0
    initial_noise: float = 0.05
    grid: float = 1.0
    fine: float = 0.25
    settled: float = 0.0
    reference_interval: float = 1.0
    remission: tuple[float, float] | None = None
    block: float = 12.0


@dataclass(frozen=True)
class Severity:
    """The severity whose integral is the reward.

    Attributes:
        name: Key in infos of datasets ("sofa", "risk").
        label, unit: In tables and figures.
        score: (physical state (..., D or the observed ones), physical dose (..., T)) -> (...) points.
        burden: Normalized treatment (..., T) -> (...): what treating costs per unit of time, in points; nothing if not
            given.
        cap: In the reward, severity counts at most this; metrics are not capped.
        reads: The score looks at the first so many components only; None: at all.
        definition: One line for cards.
        burden_text: The burden in words, as it stands in a sum.
    """

    name: str
    label: str
    unit: str
    score: Callable[[Array, Array], Array]
    burden: Callable[[Array], Array] = lambda u: 0.0 * u[..., 0]
    cap: float = math.inf
    reads: int | None = None
    definition: str = ""
    burden_text: str = "0"


@dataclass(frozen=True)
class Cost:
    """A safety cost.

    Attributes:
        name: Key.
        component: The monitored component; in infos of datasets under its own name.
        limit: Level that is unsafe beyond, physical unit.
        side: "above" or "below": where beyond is.
        at_end: (component at the start, at the end of a decision) -> (...): cost of the decision.
        rate: Component -> (...): cost per unit of time, whose integral is the cost along the path.
        levels: Levels whose time beyond is a metric.
        definition: One line for cards.
    """

    name: str
    component: str
    limit: float
    side: Literal["above", "below"]
    at_end: Callable[[Array, Array], Array]
    rate: Callable[[Array], Array]
    levels: tuple[float, ...] = ()
    definition: str = ""


@dataclass(frozen=True)
class Feature:
    """One column of what a policy sees: name, unit before normalization, and its bounds as it stands."""

    name: str
    unit: str
    lower: float
    upper: float


@dataclass(frozen=True)
class Sight:
    """What observations are computed from, of P x B episodes.

    Attributes:
        state: (P, B, D) normalized.
        time: (P, B) since the start.
        left: (P, B) decisions left.
        horizon, decisions: Of the process.
        exogenous: (P, B, F) the episode's own events and errors of measurement, or None.
        context: (P, C) what is known of the patients.
        disease, scales: To read physical units.
    """

    state: Tensor
    time: Tensor
    left: Tensor
    horizon: float
    decisions: int
    exogenous: Tensor | None
    context: Tensor
    disease: Disease
    scales: Scales


@dataclass(frozen=True)
class Exogenous:
    """What happens in an episode whatever is done: events with their times and sizes, errors of instruments.

    Attributes:
        names: Of the F numbers.
        draw: (generator, the patient's context (C,), horizon, episodes) -> (episodes, F) float32; one episode where it
            has a generator of its own.
        unseen: Those of `names` that nobody can write down: errors of instruments, and what is unexplained.
    """

    names: tuple[str, ...]
    draw: Callable[[np.random.Generator, np.ndarray, float, int], np.ndarray]
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Course:
    """Episodes as the metrics of a disease read them.

    Attributes:
        disease, scales: Find columns by name and give them physical units.
        times: (T,) grid of the process's `fine` step.
        stride: Every how manieth of `times` is on the coarse grid.
        states: (..., T, D) normalized.
        treatments: (..., K, treatments) in force during each decision, normalized.
        dt: (..., K) length of each decision, 0 where there was none.
        exogenous: (..., F) or None.
    """

    disease: Disease
    scales: Scales
    times: np.ndarray
    stride: int
    states: Tensor
    treatments: Tensor
    dt: np.ndarray
    exogenous: Tensor | None = None

    @property
    def ends(self) -> np.ndarray:
        """(..., K) place in `times` at which each decision's interval ends."""
        return np.round(self.dt.cumsum(-1) / (self.times[1] - self.times[0])).astype(int)

    def component(self, name: str) -> np.ndarray:
        """A component (..., T) by name, physical units, float64."""
        j = self.disease.column(name)
        return np.asarray(self.scales.physical_column(self.disease, self.states[..., j], j).double().numpy())

    def dose(self, name: str) -> np.ndarray:
        """A treatment (..., K) by name, physical units, float64."""
        doses = self.scales.denormalize_treatment(self.disease, self.treatments)
        return np.asarray(doses[..., self.disease.treatment_column(name)].double().numpy())

    def events(self, beyond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Events, the maximal runs (..., T) beyond a level, and how many have no decision inside: (...), (...)."""
        first = beyond & ~np.concatenate([np.zeros_like(beyond[..., :1]), beyond[..., :-1]], -1)
        decided, ends = np.zeros(beyond.shape, bool), self.ends
        decided[..., 0] = True
        # Where the last interval ends nobody decides any more.
        np.put_along_axis(decided, np.where(ends < beyond.shape[-1] - 1, ends, 0), True, -1)
        # Events are numbered along the path, from 1; those with a decision inside are seen.
        number = np.where(beyond, first.cumsum(-1), 0)
        seen = np.zeros((*beyond.shape[:-1], int(number.max(initial=0)) + 1), bool)
        np.put_along_axis(seen, np.where(decided, number, 0), True, -1)
        count = first.sum(-1).astype(float)
        return count, count - seen[..., 1:].sum(-1)


@dataclass(frozen=True)
class Metric:
    """One metric: its key, what it is called in tables, unit, which direction is better (0: neither), and format.

    Attributes:
        compute: :class:`Course` -> (...), for the metrics of a disease; None where the evaluator computes it.
    """

    name: str
    label: str
    unit: str
    better: int
    digits: int
    definition: str
    compute: Callable[[Course], np.ndarray] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Subgroup:
    """Patients grouped by a number known at the start: `cuts` in its unit, or thirds of the cohort if there are none.

    Attributes:
        name: In tables ("initial lactate").
        key: Of the fact in results.
        value: (physical first states (P, D), severity untreated (P,)) -> (P,).
        cuts: Edges.
        unit: Of the edges.
    """

    name: str
    key: str
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    cuts: tuple[float, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class SignCheck:
    """What physiology is sure of: full against no treatment moves a component up (+1) or down (-1).

    Attributes:
        share: Of the patients it must hold for; None: it is reported, since either sign can be right.
    """

    statement: str
    treatment: str
    component: str
    sign: int
    share: float | None
