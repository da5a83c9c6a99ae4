"""Whether the definition of a disease agrees with itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import numpy as np

from medgym_offline.diseases.parts import CLOCKS, Kind
from medgym_offline.errors import DiseaseError

if TYPE_CHECKING:
    from medgym_offline.diseases.base import Disease

__all__ = ["check"]


def check(disease: Disease) -> None:
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
    for name, view in disease.views.items():
        measured = [channel.component for channel in view.channels]
        for channel in view.channels:
            where = f"views {name!r}, channel {channel.component!r}"
            if channel.component not in disease.state_names or measured.count(channel.component) > 1:
                raise wrong(where, "each channel measures a component of the state, and no two the same")
            shares = channel.never, channel.missing
            if min(channel.error, channel.relative, channel.spread, channel.between, channel.delay, *shares) < 0:
                raise wrong(where, "a number is negative")
            if max(shares) >= 1 or (channel.gap is not None and channel.gap <= 0):
                raise wrong(where, "missing and never are shares below 1, and gap is positive")
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
