"""What a disease says of itself. Everything else in the suite takes names, widths, units and limits from here.

A disease is one folder, `medgym_offline/diseases/<name>`, whose package has a :class:`Disease` called `DISEASE`
(:mod:`medgym_offline.diseases.registry` finds it). Its parts (:mod:`~medgym_offline.diseases.parts`) can be
imported from here too. Here are also what the patients of a world must offer (:class:`Dynamics`), how they are learned
from records (:class:`Model`), and what a policy sees of the state: instruments, their errors, and when they are read
(:class:`View`). No torch until it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from medgym_offline.diseases import consistency
from medgym_offline.diseases.parts import (
    CLOCKS,
    Component,
    Cost,
    Course,
    Exogenous,
    Feature,
    Metric,
    Process,
    Severity,
    Sight,
    SignCheck,
    Subgroup,
    Treatment,
)
from medgym_offline.diseases.scales import Array
from medgym_offline.errors import DiseaseError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from medgym_offline.diseases.parts import Sight
    from medgym_offline.diseases.scales import Scales

__all__ = [
    "Channel", "Component", "Cost", "Course", "Disease", "Dynamics", "Exogenous", "FULL", "Feature", "Metric", "Model",
    "Process", "SPREAD_LIMIT", "Severity", "Sight", "SignCheck", "Subgroup", "Treatment", "View",
]  # fmt: skip


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

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name; the class is built from them by keyword."""

    def select(self, index: Tensor) -> Dynamics:
        """The patients at `index`."""

    def to(self, where: torch.device | torch.dtype | str) -> Dynamics:
        """The same on another device or in another precision."""


class Model(Protocol):
    """How simulators of a disease are learned from records: the parts of :mod:`medgym_offline.simulators.fit`.

    Attributes:
        physics: Strengths that are choices, not estimates: a :func:`~medgym_offline.config.configuration`.
        prior: What records cannot tell: another.
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

    def given(self, data: Any, times: np.ndarray, physics: Any, prior: Any, root: int, recency: float) -> Any:
        """Per patient what is estimated or drawn before the fit: {name: (P, ...) float32}."""

    def parameters(self, raw: Mapping[str, Tensor], physics: Any, given: Mapping[str, Tensor]) -> Dynamics:
        """Dynamics from free numbers and what is given."""

    def hidden_course(self, physics: Any, given: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
        """(P, T, hidden components) at each step of the record's treatment (P, T, treatments), normalized."""

    def given_of(self, dynamics: Dynamics) -> dict[str, np.ndarray]:
        """What :meth:`given` gave, read back from fitted dynamics; `BankError` if they are none."""

    def average(self, dynamics: Dynamics, how: str) -> Dynamics:
        """The population's: what is individual averaged, "mean" or "median"."""


FULL = "full"
"""Name of the view of every disease that shows the observation as it is."""
SPREAD_LIMIT = 1.5
"""Gaps are drawn within so many SD of their logarithm (chosen), or there were no bound on their number."""


@dataclass(frozen=True)
class Channel:
    """An instrument that measures one component of the state; times are in the disease's unit.

    Attributes:
        component: What it measures.
        error: SD of one reading, in the component's unit.
        relative: SD as a share of the value; with `error`, variances add.
        gap: Median time between two measurements, on the patient's clock; None: read at every decision.
        spread: SD of the logarithm of an episode's gaps.
        between: SD of the logarithm of the gap from one episode to another.
        never: Share of the episodes without any measurement.
        at_start: Whether the first is taken as the episode begins; else that is anywhere within a gap.
        delay: Time from a measurement to its result.
        missing: Share of the measurements that give no value.
    """

    component: str
    error: float = 0.0
    relative: float = 0.0
    gap: float | None = None
    spread: float = 0.0
    between: float = 0.0
    never: float = 0.0
    at_start: bool = False
    delay: float = 0.0
    missing: float = 0.0


@dataclass(frozen=True)
class View:
    """Which components are seen, and how. Those without a channel are hidden; derived ones are known as they are.

    Attributes:
        channels: At most one per component.
        observe: As `Disease.observe`, where another instrument fills other columns; None: the disease's own. It is
            given a state that holds the last value of each channel (0, the center, where there is none yet).
    """

    channels: tuple[Channel, ...]
    observe: Callable[[Sight], Tensor] | None = field(default=None, repr=False)

    @property
    def charted(self) -> bool:
        """Whether values can be old or lacking: the observation then has age and mask of each channel."""
        return any(c.gap is not None or c.delay or c.missing for c in self.channels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the observation has more, before the two clocks."""
        pairs = ((f"age of {c.component}", f"{c.component} is known") for c in self.channels if self.charted)
        return tuple(name for pair in pairs for name in pair)


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
        views: What a policy may be shown instead, by name; "full", as above, is every disease's.
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
    views: Mapping[str, View] = field(default_factory=dict)
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
        consistency.check(self)

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

    def view(self, name: str) -> View | None:
        """The view of a name; None for "full"; `UnknownNameError` if there is none of that name."""
        if name == FULL:
            return None
        if name not in self.views:
            raise unknown_name(f"view of {self.name}", name, (FULL, *self.views))
        return self.views[name]

    def seen(self, view: str = FULL) -> tuple[Feature, ...]:
        """The columns that a policy sees under a view: more than `observation` has stand before the two clocks."""
        found = self.view(view)
        more = () if found is None else found.columns
        clocks = len(CLOCKS)
        return (
            *self.observation[:-clocks],
            *(Feature(name, "1 or 0" if i % 2 else "of the horizon", 0.0, 1.0) for i, name in enumerate(more)),
            *self.observation[-clocks:],
        )

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
