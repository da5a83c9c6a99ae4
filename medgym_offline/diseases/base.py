"""What a disease says of itself. Everything else in the suite takes names, widths, units and limits from here.

A disease is one folder, `medgym_offline/diseases/<name>`, whose package has a :class:`Disease` called `DISEASE`
(:mod:`medgym_offline.diseases.registry` finds it). Its parts (:mod:`~medgym_offline.diseases.parts`) and how it learns
from records (:mod:`~medgym_offline.diseases.model`) can be imported from here too. No torch until it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medgym_offline.diseases import consistency
from medgym_offline.diseases.model import Dynamics, Model
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
)  # fmt: skip
from medgym_offline.diseases.scales import Array
from medgym_offline.diseases.views import FULL, Channel, View
from medgym_offline.errors import DiseaseError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from medgym_offline.diseases.scales import Scales

__all__ = [
    "Channel", "Component", "Cost", "Course", "Disease", "Dynamics", "Exogenous", "Feature", "Metric", "Model",
    "Process", "Severity", "Sight", "SignCheck", "Subgroup", "Treatment", "View",
]  # fmt: skip


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
