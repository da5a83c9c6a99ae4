"""What a disease says of itself. Everything else in the suite takes names, widths, units and limits from here.

A disease is one folder, `medgym_offline/diseases/<name>`, whose package has a :class:`Disease` called `DISEASE`
(:mod:`medgym_offline.diseases.registry` finds it). This module is types only: it imports neither torch nor anything of
the suite but its errors. Functions take NumPy arrays or torch tensors and return the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np

from medgym_offline.diseases.scales import Array, Transform
from medgym_offline.errors import DiseaseError, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from medgym_offline.diseases.scales import Scales

__all__ = [
    "Component",
    "Cost",
    "Course",
    "Disease",
    "Dynamics",
    "Exogenous",
    "Feature",
    "Metric",
    "Model",
    "Process",
    "Severity",
    "Sight",
    "SignCheck",
    "Subgroup",
    "Treatment",
]

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
    block: float = 12.0


@dataclass(frozen=True)
class Severity:
    """The severity whose integral is the reward.

    Attributes:
        name: Key in infos of datasets ("sofa", "risk").
        label, unit: In tables and figures.
        score: (physical state (..., D or the observed ones), physical dose (..., T)) -> (...) points.
        burden: Normalized treatment (..., T) -> (...): what treating costs per unit of time, in points.
        parts: Names of the terms that `score_parts` gives, (..., len(parts)).
        score_parts: See `parts`.
        cap: In the reward, severity counts at most this; metrics are not capped.
        reads: The score looks at the first so many components only; None: at all.
        definition: One line for cards.
        burden_text: The burden in words, as it stands in a sum.
    """

    name: str
    label: str
    unit: str
    score: Callable[[Array, Array], Array]
    burden: Callable[[Array], Array]
    parts: tuple[str, ...] = ()
    score_parts: Callable[[Array, Array], Array] | None = None
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
    """

    names: tuple[str, ...]
    draw: Callable[[np.random.Generator, np.ndarray, float, int], np.ndarray]


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

    def component(self, name: str) -> np.ndarray:
        """A component (..., T) by name, physical units, float64."""
        j = self.disease.column(name)
        return np.asarray(self.scales.physical_column(self.disease, self.states[..., j], j).double().numpy())

    def dose(self, name: str) -> np.ndarray:
        """A treatment (..., K) by name, physical units, float64."""
        doses = self.scales.denormalize_treatment(self.disease, self.treatments)
        return np.asarray(doses[..., self.disease.treatment_column(name)].double().numpy())


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


class Dynamics(Protocol):
    """Patient-specific numbers of one world, leading axis P; the tensors of a bank's world.

    A field of ordinary differential equations has `rate` and `relaxation`. What steps by itself on the disease's ticks
    has `path` instead:

        path(disease, scales, physics, x (P, B, D), u (P, B, T), start (P, B), ticks, exogenous) -> (P, B, ticks, D)

    the states at the end of each of the ticks after `start`, with doses held and boluses given at the start.
    """

    @property
    def kind(self) -> str:
        """Name of the class in a bank file."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; the class is built from them by keyword."""
        ...

    def select(self, index: Tensor) -> Dynamics:
        """The patients at `index`."""
        ...

    def to(self, where: torch.device | torch.dtype | str) -> Dynamics:
        """The same on another device or in another precision."""
        ...


class Model(Protocol):
    """How simulators of a disease are learned from records: the parts of :mod:`medgym_offline.simulators.fit`.

    Attributes:
        physics: Frozen dataclass of strengths that are choices, not estimates.
        prior: Frozen dataclass of what records cannot tell.
        kinds: Classes a world's dynamics may be of, by the kind in a bank's header.
        pooled: Names of raw tensors in which a patient deviates from the population.
        decayed: Names of raw tensors with weight decay.
    """

    physics: type[Any]
    prior: type[Any]
    kinds: Mapping[str, type[Any]]
    pooled: tuple[str, ...]
    decayed: tuple[str, ...]

    def initial_raw(self, seed: int) -> dict[str, Tensor]:
        """Free numbers at the start of a fit, leading axis 1."""
        ...

    def given(self, data: Any, times: np.ndarray, physics: Any, prior: Any, root: int, recency: float) -> Any:
        """Per patient what is estimated or drawn before the fit: {name: (P, ...) float32}."""
        ...

    def parameters(self, raw: Mapping[str, Tensor], physics: Any, given: Mapping[str, Tensor]) -> Dynamics:
        """Dynamics from free numbers and what is given."""
        ...

    def hidden_course(self, physics: Any, given: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
        """(P, T, hidden components) at each step of the record's treatment (P, T, treatments), normalized."""
        ...

    def given_of(self, dynamics: Dynamics) -> dict[str, np.ndarray]:
        """What :meth:`given` gave, read back from fitted dynamics; `BankError` if they are none."""
        ...

    def average(self, dynamics: Dynamics, how: str) -> Dynamics:
        """The population's: what is individual averaged, "mean" or "median"."""
        ...


@dataclass(frozen=True)
class Disease:
    """A disease as the benchmark sees it.

    Attributes:
        name: First part of every id of its banks, datasets and environments; lower case.
        label: In prose and tables ("sepsis").
        components: The state: observed ones first, then derived, then hidden.
        treatments: In the order of the action's first columns.
        process: Horizon, intervals, budget.
        severity: What is integrated to the reward.
        costs: Safety; learners constrain the first.
        context: Names and units of what is known of a patient ("weight": "kg").
        exogenous: What happens whatever is done, or None.
        features: What a policy sees, in order; if empty, all components but the hidden ones and the two clocks.
        observe: :class:`Sight` -> (P, B, number of features); needed with `features`.
        clinician: A rule that looks and acts, where the built-in policy "clinician" is not a charted schedule: (context
            (P, C), observations (P, B, d), horizon, decisions) -> physical doses (P, B, T), intervals (P, B).
        metrics: Beside the suite's own, in the order of tables.
        subgroups: Of the patients.
        sign_checks: Of the audit.
        needed: Treatment whose best constant must be above 0 for a third of the patients, or "".
        bank: Name of the release's default bank.
        world: World of an environment if none is asked for.
        environments: Further Gymnasium environments beside `medgym/<Name>-v0`: {"NameTwin-v0": arguments}.
        truth_facts: A bank with a world "true" -> facts for its audit: how far the fits are from the truth.
        model: () -> :class:`Model`, imported when asked for; None if simulators are not learned.
        cohort: () -> the definition of its cohorts, for :mod:`medgym_offline.cohorts`; None without records.
        caution: One line for every card: what the severity is not.
        license: SPDX name of the license of its datasets, lower case.
        lineage: Where its simulators come from, and under what licenses: a paragraph for cards.
        description: One paragraph for cards: who is treated with what.

    Raises:
        DiseaseError: Widths, names or limits disagree; the field is named.
    """

    name: str
    label: str
    components: tuple[Component, ...]
    treatments: tuple[Treatment, ...]
    process: Process
    severity: Severity
    costs: tuple[Cost, ...]
    context: Mapping[str, str] = field(default_factory=dict)
    exogenous: Exogenous | None = None
    features: tuple[Feature, ...] = ()
    observe: Callable[[Sight], Tensor] | None = None
    clinician: Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor]] | None = None
    metrics: tuple[Metric, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()
    sign_checks: tuple[SignCheck, ...] = ()
    needed: str = ""
    bank: str = ""
    world: str = "own"
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    truth_facts: Callable[[Any], dict[str, Any]] | None = None
    model: Callable[[], Model] | None = None
    cohort: Callable[[], Any] | None = None
    caution: str = ""
    license: str = "mit"
    lineage: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        _check(self)

    # -- names and widths --------------------------------------------------------------------------------------------

    @property
    def variables(self) -> tuple[Component, ...]:
        """The observed components; a cohort records these."""
        return tuple(c for c in self.components if c.kind == "observed")

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of all components."""
        return tuple(c.name for c in self.components)

    @property
    def state_dim(self) -> int:
        """D, number of components."""
        return len(self.components)

    @property
    def observed_dim(self) -> int:
        """Number of components that somebody sees: observed and derived."""
        return sum(c.kind != "hidden" for c in self.components)

    @property
    def hidden_dim(self) -> int:
        """Number of hidden components."""
        return self.state_dim - self.observed_dim

    @property
    def treatment_names(self) -> tuple[str, ...]:
        """Names of the treatments."""
        return tuple(t.name for t in self.treatments)

    def action_dim(self, timing: str) -> int:
        """Width of an action: the treatments, and the interval if timing is "adaptive"."""
        return len(self.treatments) + (timing == "adaptive")

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the action's columns under adaptive timing."""
        return (*self.treatment_names, "interval")

    @property
    def observation(self) -> tuple[Feature, ...]:
        """The columns that a policy sees."""
        if self.features:
            return self.features
        seen = (c for c in self.components if c.kind != "hidden")
        clocks = (
            Feature(CLOCKS[0], f"{self.process.unit} / {self.process.horizon:g}", 0.0, 1.0),
            Feature(CLOCKS[1], "decisions / K", 0.0, 1.0),
        )
        return (*(Feature(c.name, c.unit, c.lower, c.upper) for c in seen), *clocks)

    @property
    def observation_dim(self) -> int:
        """d, number of columns that a policy sees."""
        return len(self.observation)

    @property
    def described_dim(self) -> int:
        """Leading columns of the observation that describe the patient; the two clocks follow."""
        return self.observation_dim - len(CLOCKS)

    def column(self, name: str) -> int:
        """Index of a component; `UnknownNameError` if there is none of that name."""
        if name not in self.state_names:
            raise unknown_name(f"component of {self.name}", name, self.state_names)
        return self.state_names.index(name)

    def treatment_column(self, name: str) -> int:
        """Index of a treatment; `UnknownNameError` if there is none of that name."""
        if name not in self.treatment_names:
            raise unknown_name(f"treatment of {self.name}", name, self.treatment_names)
        return self.treatment_names.index(name)

    @property
    def cost(self) -> Cost:
        """The cost that learners constrain: the first."""
        return self.costs[0]

    @property
    def monitored(self) -> int:
        """Index of the component that the first cost watches."""
        return self.column(self.cost.component)

    def unsafe(self, monitored: Array) -> Array:
        """Whether values (...) of the monitored component lie at or beyond the first cost's limit."""
        return monitored >= self.cost.limit if self.cost.side == "above" else monitored <= self.cost.limit

    def load_model(self) -> Model:
        """How its simulators are learned; `DiseaseError` if they are not."""
        if self.model is None:
            raise DiseaseError(f"disease {self.name!r} has no model to fit to records; its definition names none")
        return self.model()

    def default_scales(self) -> Scales:
        """Scales from the defaults of components and treatments."""
        from medgym_offline.diseases.scales import Scales

        return Scales(
            tuple(c.center for c in self.variables),
            tuple(c.scale for c in self.variables),
            tuple(t.upper for t in self.treatments),
        )

    def first_unobserved(self) -> list[float]:
        """Normalized start of the derived and hidden components."""
        return [(c.initial - c.center) / c.scale for c in self.components if c.kind != "observed"]

    def by_kind(self, observed: float, derived: float, hidden: float) -> list[float]:
        """A number per component, by its kind."""
        return [{"observed": observed, "derived": derived, "hidden": hidden}[c.kind] for c in self.components]


def default_observation(sight: Sight) -> Tensor:
    """The observed and derived components, remaining time / horizon, remaining decisions / K."""
    import torch

    state = sight.state[..., : sight.disease.observed_dim]
    time = (sight.horizon - sight.time) / sight.horizon
    left = sight.left / sight.decisions
    return torch.cat([state, time[..., None], left[..., None]], -1)


def _check(disease: Disease) -> None:
    """Refuse a definition that contradicts itself, naming the field."""

    def wrong(where: str, what: str) -> DiseaseError:
        return DiseaseError(f"disease {disease.name!r}: {where}: {what}")

    if not disease.name.isidentifier() or disease.name != disease.name.lower():
        raise wrong("name", "must be one lower-case word, as it begins ids of datasets")
    if not disease.components or not disease.treatments or not disease.costs:
        raise wrong("components, treatments, costs", "each needs at least one entry")
    order = [get_args(Kind).index(c.kind) if c.kind in get_args(Kind) else -1 for c in disease.components]
    if -1 in order:
        raise wrong(f"components[{order.index(-1)}].kind", f"must be one of {', '.join(get_args(Kind))}")
    if order != sorted(order) or order[0] != 0:
        raise wrong("components", "observed ones come first, then derived, then hidden")
    names = [*disease.state_names, *disease.treatment_names]
    for name in names:
        if names.count(name) > 1:
            raise wrong("components, treatments", f"the name {name!r} occurs twice")
    for c in disease.components:
        if not (c.lower < c.upper and math.isfinite(c.lower) and math.isfinite(c.upper)):
            raise wrong(f"component {c.name}", f"lower {c.lower:g} must be below upper {c.upper:g}")
        if not c.scale > 0:
            raise wrong(f"component {c.name}", f"scale is {c.scale:g}; it must be positive")
        if c.kind != "observed" and not c.lower <= c.initial <= c.upper:
            raise wrong(f"component {c.name}", f"initial {c.initial:g} lies outside {c.lower:g} to {c.upper:g}")
        if (c.transform == "log" and c.lower <= 0) or (c.transform in ("sqrt", "log1p") and c.lower < 0):
            raise wrong(f"component {c.name}", f"lower {c.lower:g} has no {c.transform}")
    for t in disease.treatments:
        if not 0 <= t.lower < t.upper or not t.knee > 0:
            raise wrong(f"treatment {t.name}", f"needs 0 <= lower {t.lower:g} < upper {t.upper:g} and a positive knee")
        if not all(0 <= level <= 1 for level in t.levels):
            raise wrong(f"treatment {t.name}", "levels are normalized, in [0, 1]")
    p = disease.process
    tick = p.tick or 2.0**-10
    for name in ("horizon", "min_interval", "max_interval"):
        value = getattr(p, name)
        if not value > 0 or abs(value / tick - round(value / tick)) > 1e-6:
            raise wrong(f"process.{name}", f"{value:g} {p.unit} is not a positive whole number of ticks of {tick:g}")
    if not p.min_interval * 2 <= p.max_interval <= p.horizon:
        raise wrong("process.max_interval", "must be at least twice min_interval and at most the horizon")
    if not p.decisions * p.min_interval <= p.horizon <= p.decisions * p.max_interval:
        raise wrong("process.decisions", f"{p.decisions} intervals cannot fill {p.horizon:g} {p.unit}")
    for cost in disease.costs:
        if cost.component not in disease.state_names:
            raise wrong(f"cost {cost.name}", f"component {cost.component!r} is not in the state")
        c = disease.components[disease.column(cost.component)]
        if not c.lower <= cost.limit <= c.upper:
            raise wrong(f"cost {cost.name}", f"limit {cost.limit:g} lies outside {c.name}'s bounds")
    if bool(disease.features) != (disease.observe is not None):
        raise wrong("features, observe", "either both are given, or neither")
    if tuple(feature.name for feature in disease.observation[-2:]) != CLOCKS:
        raise wrong("features", f"must end with {' and '.join(map(repr, CLOCKS))}: policies without learning read them")
    for check in disease.sign_checks:
        if check.treatment not in disease.treatment_names or check.component not in disease.state_names:
            raise wrong(f"sign_checks {check.statement!r}", "names a treatment or component that is not there")
    if disease.needed and disease.needed not in disease.treatment_names:
        raise wrong("needed", f"{disease.needed!r} is not a treatment")
    if len(disease.severity.parts) and disease.severity.score_parts is None:
        raise wrong("severity.parts", "needs score_parts")
    state = np.array([[(c.lower + c.upper) / 2 for c in disease.components]])
    dose = np.array([[t.lower for t in disease.treatments]])
    value = np.asarray(disease.severity.score(state, dose))
    if value.shape != (1,) or not np.isfinite(value).all():
        raise wrong("severity.score", f"gives {value.shape} for one state, not one finite number")
