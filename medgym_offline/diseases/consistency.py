"""Whether the definition of a disease agrees with itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import numpy as np

from medgym_offline.diseases.parts import CLOCKS, Kind
from medgym_offline.errors import DiseaseError

if TYPE_CHECKING:
    from medgym_offline.diseases.base import Disease

__all__ = ["check"]


def check(disease: Disease) -> None:
    """Refuse a definition that contradicts itself, naming the field."""
    for wrong, where, what in _rules(disease):
        if wrong:
            raise DiseaseError(f"disease {disease.name!r}: {where}: {what}")


def _rules(d: Disease) -> Iterator[tuple[bool, str, str]]:
    """Whether a rule is broken, the field, and what is wrong; a rule may rely on those before it."""
    yield (
        not d.name.isidentifier() or d.name != d.name.lower(),
        "name",
        "must be one lower-case word: ids begin with it",
    )
    yield not (d.components and d.treatments and d.costs), "components, treatments, costs", "each needs an entry"
    kinds = get_args(Kind)
    for c in d.components:
        yield c.kind not in kinds, f"component {c.name}", f"kind {c.kind!r} is none of {', '.join(kinds)}"
    order = [kinds.index(c.kind) for c in d.components]
    yield order != sorted(order) or order[0] != 0, "components", "observed ones come first, then derived, then hidden"
    names = [*d.state_names, *d.treatment_names]
    for name in names:
        yield names.count(name) > 1, "components, treatments", f"the name {name!r} occurs twice"
    for c in d.components:
        where = f"component {c.name}"
        finite = math.isfinite(c.lower) and math.isfinite(c.upper)
        yield not (c.lower < c.upper and finite), where, f"lower {c.lower:g} must be below upper {c.upper:g}"
        yield not c.scale > 0, where, f"scale is {c.scale:g}; it must be positive"
        outside = c.kind != "observed" and not c.lower <= c.initial <= c.upper
        yield outside, where, f"initial {c.initial:g} lies outside {c.lower:g} to {c.upper:g}"
        undefined = (c.transform == "log" and c.lower <= 0) or (c.transform in ("sqrt", "log1p") and c.lower < 0)
        yield undefined, where, f"lower {c.lower:g} has no {c.transform}"
    for t in d.treatments:
        fits = 0 <= t.lower < t.upper and t.knee > 0
        yield not fits, f"treatment {t.name}", f"needs 0 <= lower {t.lower:g} < upper {t.upper:g} and a positive knee"
        yield not all(0 <= u <= 1 for u in t.levels), f"treatment {t.name}", "levels are normalized, in [0, 1]"
    p = d.process
    tick = p.tick or 2.0**-10
    for name in ("horizon", "min_interval", "max_interval"):
        value = getattr(p, name)
        odd = not value > 0 or abs(value / tick - round(value / tick)) > 1e-6
        yield odd, f"process.{name}", f"{value:g} {p.unit} is not a positive whole number of ticks of {tick:g}"
    ordered = p.min_interval * 2 <= p.max_interval <= p.horizon
    yield not ordered, "process.max_interval", "must be at least twice min_interval and at most the horizon"
    feasible = p.decisions * p.min_interval <= p.horizon <= p.decisions * p.max_interval
    yield not feasible, "process.decisions", f"{p.decisions} intervals cannot fill {p.horizon:g} {p.unit}"
    for cost in d.costs:
        where = f"cost {cost.name}"
        yield cost.component not in d.state_names, where, f"component {cost.component!r} is not in the state"
        c = d.components[d.column(cost.component)]
        yield not c.lower <= cost.limit <= c.upper, where, f"limit {cost.limit:g} lies outside {c.name}'s bounds"
    yield bool(d.features) != (d.observe is not None), "features, observe", "either both are given, or neither"
    last = tuple(feature.name for feature in d.observation[-2:])
    yield last != CLOCKS, "features", f"must end with {' and '.join(map(repr, CLOCKS))}: built-in policies read them"
    for name, view in d.views.items():
        measured = [channel.component for channel in view.channels]
        for one in view.channels:
            where = f"views {name!r}, channel {one.component!r}"
            known = one.component in d.state_names and measured.count(one.component) == 1
            yield not known, where, "each channel measures a component of the state, and no two the same"
            shares = one.never, one.missing
            negative = min(one.error, one.relative, one.spread, one.between, one.delay, *shares) < 0
            yield negative, where, "a number is negative"
            wrong = max(shares) >= 1 or (one.gap is not None and one.gap <= 0)
            yield wrong, where, "missing and never are shares below 1, and gap is positive"
    for check in d.sign_checks:
        unknown = check.treatment not in d.treatment_names or check.component not in d.state_names
        yield unknown, f"sign_checks {check.statement!r}", "names a treatment or component that is not there"
    yield d.needed not in ("", *d.treatment_names), "needed", f"{d.needed!r} is not a treatment"
    state = np.array([[(c.lower + c.upper) / 2 for c in d.components]])
    value = np.asarray(d.severity.score(state, np.array([[t.lower for t in d.treatments]])))
    bad = value.shape != (1,) or not np.isfinite(value).all()
    yield bad, "severity.score", f"gives {value.shape} for one state, not one finite number"
