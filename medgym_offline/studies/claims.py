"""What must hold: each requirement of an online study with its numbers, interval and verdict in every world.

A verdict is a comparison of the interval with the value of no effect, nothing else:

    holds           the whole interval lies on the wanted side
    does not hold   the whole interval lies on the other side
    not shown       the interval contains it
    too few         fewer than six patients: not even a sign test could tell anything at the 5 % level

The headline is the true world where there is one, else the held-out world: a policy may exploit the errors of the
simulator it was trained in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import bootstrap_interval, paired_difference
from medgym_offline.studies.analysis import common, pair
from medgym_offline.studies.entries import algorithm_label
from medgym_offline.studies.recipe import StudyRecipe
from medgym_offline.studies.scoring import Scored

__all__ = ["Claims", "MINIMUM", "NEAR", "ROOM", "headline_world", "study_claims", "verdict"]

MINIMUM = 6
"""Patients for a verdict: with five, all of them better, the two-sided sign test has p = 2 / 2**5 > 0.05."""

NEAR = 1.1
"""A policy is near its limit if its mean cost per decision is at most so many times the limit."""

ROOM = 2.0
"""Per cent by which the best adaptive schedule must beat the best fixed one for a patient to count as with room."""


_NAMES = {"sofa_all": "SOFA (all)", "support_distance": "support distance"}


def headline_world(worlds: Sequence[str]) -> str:
    """The world whose numbers decide: "true", else "held-out", else the first."""
    return next((w for w in ("true", "held-out") if w in worlds), worlds[0])


def verdict(low: float, high: float, null: float, better: int = 1) -> str:
    """ "holds", "does not hold" or "not shown" for an interval against the value of no effect.

    >>> verdict(52.0, 61.0, 50.0), verdict(48.0, 61.0, 50.0), verdict(0.1, 0.2, 0.3, better=-1)
    ('holds', 'not shown', 'holds')
    """
    if better * (low - null) > 0 and better * (high - null) > 0:
        return "holds"
    return "does not hold" if better * (low - null) < 0 and better * (high - null) < 0 else "not shown"


class Claims:
    """Collects claims over the same scores and bootstrap.

    Args:
        scored: Row key -> scores.
        bootstrap: Of the intervals, over training seeds and patients.
    """

    def __init__(self, scored: Mapping[str, Scored], bootstrap: Bootstrap):
        self.scored, self.bootstrap = scored, bootstrap
        self.found: list[dict[str, Any]] = []

    def key(self, group: str, scope: str, timing: str, algorithm: str = "", decisions: int = 0) -> str | None:
        """The key of one row, or None."""
        for name, one in self.scored.items():
            entry = one.entry
            same = (entry.scope, entry.timing) == (scope, timing) and entry.group in group.split("|")
            if same and (not algorithm or entry.algorithm == algorithm) and decisions in (0, entry.decisions):
                return name
        return None

    def add(
        self,
        group: str,
        requirement: str,
        measure: str,
        null: float,
        better: int,
        worlds: dict[str, Any],
        note: str = "",
    ) -> None:
        """One claim; `worlds`: world -> value, low, high, patients and other facts."""
        for cell in worlds.values():
            enough = cell["patients"] >= MINIMUM
            cell["verdict"] = verdict(cell["low"], cell["high"], null, better) if enough else "too few"
        headline = headline_world(list(worlds))
        self.found.append(
            {
                "group": group,
                "requirement": requirement,
                "measure": measure,
                "null": null,
                "better": better,
                "headline": headline,
                "verdict": worlds[headline]["verdict"],
                "worlds": worlds,
                "note": note,
            }
        )

    def better_than(
        self,
        group: str,
        requirement: str,
        reference: str | None,
        method: str | None,
        most: bool,
        note: str = "",
        patients: Sequence[str] | None = None,
        metric: str = "sofa_all",
    ) -> None:
        """`method` is better than `reference` in a metric: in most patients (`most`), or on average.

        `patients`: some of those that both were scored on; all by default.
        """
        if reference is None or method is None:
            return
        a, b = self.scored[reference], self.scored[method]
        worlds = {}
        for world in b.worlds:
            p = pair("", a, b, world, patients or common(a, b), self.bootstrap, metric)
            share = {"share": 100 * p["share"], "share_interval": [100 * v for v in p["share_interval"]]}
            gain = {"percent": p["percent"], "percent_interval": p["percent_interval"]}
            value, interval = (
                (100 * p["share"], share["share_interval"]) if most else (p["percent"], p["percent_interval"])
            )
            cell = {"value": value, "low": interval[0], "high": interval[1], **share, **gain, "p": p["p"]}
            worlds[world] = cell | {"patients": p["patients"], "reference": reference, "method": method}
        measure = "patients in whom it is better, %" if most else f"gain in mean {_NAMES[metric]}, %"
        self.add(group, requirement, measure, 50.0 if most else 0.0, 1, worlds, note)


def study_claims(
    scored: Mapping[str, Scored], recipe: StudyRecipe, bootstrap: Bootstrap, ceilings: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Every requirement with its numbers.

    Args:
        scored: Entry key -> scores.
        recipe: Of the study.
        bootstrap: Of the intervals, over training seeds and patients.
        ceilings: Result of `search_ceilings`, or None.
    """
    claims = Claims(scored, bootstrap)
    for timing in recipe.timings:
        _individual(claims, recipe, timing)
    _timing(claims, recipe, ceilings)
    for timing in recipe.timings:
        _safety(claims, recipe, timing)
    return claims.found


def _individual(claims: Claims, recipe: StudyRecipe, timing: str) -> None:
    ind = claims.key("release", "ind", timing)
    name, group = f"release Ind, {timing}", "Individual policies"
    against = (
        ("beats dr in most patients", claims.key("release", "dr", timing), True),
        ("beats Pop in most patients", claims.key("release", "pop", timing), True),
        ("beats the clinicians' doses", claims.key("baseline", "clinician", "fixed"), False),
        ("beats each patient's best constant", claims.key("baseline", "patient-constant", "fixed"), False),
        ("beats the cohort's best constant", claims.key("baseline", "cohort-constant", "fixed"), False),
        ("beats the policy of another patient", claims.key("baseline", "wrong-patient", timing), True),
    )
    for words, reference, most in against:
        claims.better_than(group, f"{name} {words}", reference, ind, most)
    for algorithm in recipe.algorithms:
        label = algorithm_label(algorithm)
        method = claims.key("table", recipe.individual, timing, algorithm)
        reference = claims.key("table", "pop", timing, algorithm)
        words = f"{label}, {timing}: Ind beats Pop in most patients"
        claims.better_than("Individual policies of the table", words, reference, method, True)


def _timing(claims: Claims, recipe: StudyRecipe, ceilings: Mapping[str, Any] | None) -> None:
    if not recipe.budget_decisions or set(recipe.timings) != {"adaptive", "fixed"}:
        return
    least = min(recipe.budget_decisions)
    keys = [
        claims.key("budget|table", recipe.budget_scope, t, recipe.budget_algorithm, least)
        for t in ("fixed", "adaptive")
    ]
    words, note, roomy = f"{algorithm_label(recipe.budget_algorithm)} at K = {least}: adaptive beats fixed", "", []
    if ceilings is not None and ceilings["decisions"] == least:
        gain = ceilings["gains"]["adaptive over fixed"]
        found = dict(zip(ceilings["patients"], gain["per_patient"]))
        note = (
            f"Room by the open-loop ceilings, own world: median {gain['median']:.2f} %, at least {ROOM:g} % in "
            f"{sum(g >= ROOM for g in found.values())} of {len(found)} patients."
        )
        if keys[0] is not None:
            roomy = [p for p in claims.scored[keys[0]].entry.patients if found.get(p, 0.0) >= ROOM]
    claims.better_than("Timing", words, keys[0], keys[1], False, note)
    if roomy:
        where = f"{words}, where the ceilings leave room"
        claims.better_than("Timing", where, keys[0], keys[1], False, f"{len(roomy)} patients.", roomy)


def _safety(claims: Claims, recipe: StudyRecipe, timing: str) -> None:
    """Lagrangian rows against the rows of the algorithm without constraint."""
    for algorithm in recipe.algorithms:
        base = algorithm.removesuffix("-lag")
        if base == algorithm:
            continue
        for scope in (recipe.individual, "pop"):
            key = claims.key("table", scope, timing, algorithm)
            other = claims.key("table", scope, timing, base)
            who = f"{algorithm_label(algorithm)}, {'Pop' if scope == 'pop' else 'Ind'}, {timing}"
            assert key is not None
            lagrangian = claims.scored[key]
            if other is not None:
                plain = algorithm_label(base)
                _safer(claims, f"{who}: higher Safe % than {plain}", claims.scored[other], lagrangian)
                words = f"{who}: the limit binds ({plain}'s cost is above it)"
                _limit(claims, recipe, words, claims.scored[other], 1.0, 1)
            _limit(claims, recipe, f"{who}: stays near its limit", lagrangian, NEAR, -1)


def _safer(claims: Claims, requirement: str, base: Scored, lagrangian: Scored) -> None:
    worlds = {}
    for world in lagrangian.worlds:
        a, b = (s.values(world, "safe_hourly", common(base, lagrangian)) for s in (lagrangian, base))
        found = paired_difference(a, b, 1, claims.bootstrap)
        worlds[world] = {
            "value": found.difference,
            "low": found.interval[0],
            "high": found.interval[1],
            "base": float(b.mean()),
            "lagrangian": float(a.mean()),
            "patients": found.patients,
        }
    claims.add("Safety", requirement, "difference in Safe %, points", 0.0, 1, worlds)


def _limit(
    claims: Claims, recipe: StudyRecipe, requirement: str, one: Scored, times: float, better: int
) -> None:  # fmt: skip
    """Mean cost per decision against the limit times `times`; `better` 1: above is wanted."""
    limit = float(one.training.get("cost_limit") or recipe.safe_limit)
    worlds = {}
    for world in one.worlds:
        values = one.values(world, "cost_mean")
        low, high = bootstrap_interval(values, claims.bootstrap)
        worlds[world] = {
            "value": float(np.mean(values)),
            "low": low,
            "high": high,
            "limit": limit,
            "multiplier": one.training.get("final_multiplier"),
            "patients": values.shape[1],
        }
    within = f"limit {limit:g}" if times == 1.0 else f"at most {times:g} times the limit of {limit:g}"
    claims.add("Safety", requirement, f"cost per decision, {within}", times * limit, better, worlds)
