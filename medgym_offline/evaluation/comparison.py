"""Paired comparisons of evaluations: Pop against Ind, fixed against adaptive, behavior against method.

Each is a percentage of the reference's mean severity:

    PopInd %         = 100 (severity_pop - severity_ind) / severity_pop
    FixAdap %        = 100 (severity_fixed - severity_adaptive) / severity_fixed
    BehaviorMethod % = 100 (severity_behavior - severity_method) / severity_behavior

positive where the second is better. Patients are matched by id; several training seeds of a method are given as a
sequence of evaluations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medgym_offline.errors import ProtocolError
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.result import Evaluation
from medgym_offline.evaluation.statistics import Paired, paired_difference, seed_label

__all__ = ["Comparison", "behavior_name", "compare", "disagree", "find_pairs", "pairs_of"]

Evaluations = Evaluation | Sequence[Evaluation]

# Settings that must agree for two results to be comparable; timing may differ (that is what FixAdap compares).
_SAME = (
    "disease", "episodes", "reward", "noise", "initial_noise", "settled", "grid", "fine", "horizon", "view", "takeover",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison(Paired):
    """`method` against `reference` on one metric, paired over patients: positive where the method is better.

    Attributes:
        metric, world: What is compared, and where.
        reference, method: Names.
        seeds: Training seeds of reference and method.
        label: What limits the intervals, or empty.
        per_patient: Ids, and each side's score per patient (mean over seeds).
    """

    metric: str
    world: str
    reference: str
    method: str
    label: str
    per_patient: dict[str, list[Any]]


def compare(
    reference: Evaluations, method: Evaluations, metric: str = "severity_mean", world: str | None = None
) -> Comparison:
    """Compare `method` with `reference`, paired over patients.

    Args:
        reference, method: An evaluation, or one per training seed.
        metric: Key of a per-patient column.
        world: World to compare in; by default the first of `reference`.

    Raises:
        ProtocolError: If the two were not scored on the same bank, patients and settings, or lack the metric or world.
    """
    references, methods = _sequence(reference), _sequence(method)
    where = world or references[0].world
    for other in (*references[1:], *methods):
        _require_comparable(references[0], other, where)
    ids = [str(p) for p in references[0].worlds[where].per_patient["patient"]]
    a, b = (_scores(side, where, metric, ids) for side in (methods, references))
    definition = references[0].definitions.get(metric)
    better = definition.better or -1 if definition else -1
    settings = Bootstrap(**references[0].protocol.get("bootstrap", {}))
    return Comparison(
        **vars(paired_difference(a, b, better, settings)) | {"seeds": (len(references), len(methods))},
        metric=metric,
        world=where,
        reference=references[0].name,
        method=methods[0].name,
        label=seed_label(min(len(references), len(methods))),
        per_patient={"patient": ids, "reference": b.mean(axis=0).tolist(), "method": a.mean(axis=0).tolist()},
    )


def find_pairs(names: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in one word only: `first` in the one, `second` in the other, in the order given.

    `behavior`, the built-in of `medgym-offline eval`, is the individual policies': `behavior:ind`.

    >>> find_pairs(["cql-ind", "cql-pop", "zero"], ["pop"], ["ind"])
    [('cql-pop', 'cql-ind')]
    """

    def without(name: str, words: Sequence[str]) -> tuple[str, ...] | None:
        parts = re.split(r"[\s\-_/:.]+", "behavior:ind" if name == "behavior" else name.lower())
        return tuple(p for p in parts if p not in words) if any(p in words for p in parts) else None

    seconds = {key: n for n in reversed(names) if (key := without(n, second)) is not None}
    found = [(n, seconds[key]) for n in names if (key := without(n, first)) is not None and key in seconds]
    return [(a, b) for a, b in found if a != b]


def behavior_name(names: Sequence[str]) -> str | None:
    """The name of the behavior policy among `names`: the first that starts with the word, in either spelling."""
    return next((n for n in names if re.match(r"behaviou?r", n.lower())), None)


def pairs_of(evaluations: Mapping[str, Evaluation], world: str | None = None) -> list[tuple[str, Comparison]]:
    """Every comparison of the benchmark that the names allow: (PopInd | FixAdap | BehaviorMethod, comparison)."""
    names = list(evaluations)
    found = [("PopInd", pair) for pair in find_pairs(names, ["pop"], ["ind"])]
    found += [("FixAdap", pair) for pair in find_pairs(names, ["fixed", "fix"], ["adaptive", "adap"])]
    base = behavior_name(names)
    learned = [n for n in names if evaluations[n].policy.get("scope") != "baseline" and behavior_name([n]) is None]
    found += [("BehaviorMethod", (base, n)) for n in learned if base is not None]
    # Names that say nothing: everything against the first, as given.
    found = found or [("Paired", (names[0], n)) for n in names[1:]]
    # Shown under the caller's names, which may be shorter than the files'.
    result = [(kind, a, b, compare(evaluations[a], evaluations[b], world=world)) for kind, (a, b) in found]
    return [(kind, replace(comparison, reference=a, method=b)) for kind, a, b, comparison in result]


def _sequence(evaluations: Evaluations) -> list[Evaluation]:
    found = [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)
    if not found:
        raise ProtocolError("nothing to compare: give at least one evaluation on each side")
    return found


def _require_comparable(a: Evaluation, b: Evaluation, world: str) -> None:
    for side in (a, b):
        if world not in side.worlds:
            raise ProtocolError(f"{side.name!r} was not evaluated in world {world!r}; it has {', '.join(side.worlds)}")
    if a.bank["content_hash"] != b.bank["content_hash"]:
        banks = f"({a.bank['name']!r}, {b.bank['name']!r}); evaluate both on the same one"
        raise ProtocolError(f"{a.name!r} and {b.name!r} were scored on different banks {banks}")
    for setting in _SAME:
        x, y = a.protocol.get(setting), b.protocol.get(setting)
        if x != y:
            raise ProtocolError(f"{a.name!r} and {b.name!r} differ in {setting} ({x} and {y}); evaluate both alike")


def _scores(side: Sequence[Evaluation], world: str, metric: str, ids: Sequence[str]) -> np.ndarray:
    """(S, P) scores in the order of `ids`."""
    rows = []
    for evaluation in side:
        table = evaluation.worlds[world].per_patient
        if metric not in table:
            raise ProtocolError(f"{evaluation.name!r} has no metric {metric!r}; it has {', '.join(sorted(table))}")
        by_id = dict(zip((str(p) for p in table["patient"]), table[metric]))
        if set(by_id) != set(ids):
            raise ProtocolError(f"{evaluation.name!r} was scored on other patients; evaluate both on the same ones")
        rows.append([by_id[p] for p in ids])
    return np.array(rows, dtype=float)


def disagree(percents: Sequence[float]) -> bool:
    """Whether some gains are positive and others negative, beyond what is printed as 0.0 %."""
    return min(percents, default=0.0) < -0.05 and max(percents, default=0.0) > 0.05
