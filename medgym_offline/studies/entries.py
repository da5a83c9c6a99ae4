"""The rows of a study: which policies there are, under which key, and what their training cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medgym_offline.studies.recipe import Sets, StudyRecipe

__all__ = ["PAPER_STEPS", "Candidate", "Entry", "algorithm_label", "training_facts", "wanted_entries"]

PAPER_STEPS = {"sac": 100_000, "ppo": 200_000, "ppo-lag": 200_000, "trpo": 200_000, "trpo-lag": 200_000}
"""Environment steps per policy in the paper (Table 5)."""


def algorithm_label(algorithm: str) -> str:
    """ "trpo-lag" -> "TRPO-Lag", "cql-discrete" -> "CQL-discrete"."""
    words = {"lag": "Lag", "discrete": "discrete"}
    return "-".join(words.get(part, part.upper()) for part in algorithm.split("-"))


_SCOPE_LABELS = {"ind": "Ind (from dr)", "ind-scratch": "Ind", "pop": "Pop", "dr": "dr"}


@dataclass(frozen=True)
class Entry:
    """One row: a policy, trained at one or more seeds, or a baseline.

    Attributes:
        key: Unique name, also of files.
        label: For tables.
        group: "table" (the 20 rows), "budget", "release" or "baseline".
        algorithm, scope, timing, decisions: What it is; a baseline has no algorithm.
        patients: Ids it is scored on.
    """

    key: str
    label: str
    group: str
    algorithm: str
    scope: str
    timing: str
    decisions: int
    patients: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """An entry with what acts for it: one policy per training seed, and facts about their training."""

    entry: Entry
    policies: Sequence[Any]
    training: Mapping[str, Any] = field(default_factory=dict)


def wanted_entries(recipe: StudyRecipe, sets: Sets) -> list[Entry]:
    """The trained rows: the table, then the budgets that the table does not hold, then the release behaviours."""

    def entry(group: str, algorithm: str, scope: str, timing: str, decisions: int) -> Entry:
        letter = {"adaptive": "A", "fixed": "F"}[timing]
        name = f"{algorithm_label(algorithm)}-{letter}-{_SCOPE_LABELS[scope]}"
        if group == "release":
            name = f"release {letter}-{_SCOPE_LABELS[scope]}"
        if group == "budget":
            name += f", K = {decisions}"
        prefix = "release" if group == "release" else algorithm
        key = f"{prefix}-{scope}-{timing}-k{decisions}"
        patients = sets.release if group == "release" else sets.table
        return Entry(key, name, group, algorithm, scope, timing, decisions, patients)

    rows = [
        entry("table", algorithm, scope, timing, recipe.decisions)
        for algorithm in recipe.algorithms
        for scope in (recipe.individual, "pop")
        for timing in recipe.timings
    ]
    taken = {row.key for row in rows}
    for decisions in recipe.budget_decisions:
        for timing in recipe.timings:
            row = entry("budget", recipe.budget_algorithm, recipe.budget_scope, timing, decisions)
            if row.key not in taken:
                rows.append(row)
    rows += [
        entry("release", "trpo-lag", scope, timing, recipe.decisions)
        for scope in ("ind", "dr", "pop")
        for timing in recipe.timings
    ]
    return rows


def _number(value: Any) -> float | None:
    """`value`, or None where there is none: a training that was stopped has logs without a number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def training_facts(provenance: Mapping[str, Any], algorithm: str, scope: str, simulators: int) -> dict[str, Any]:
    """What one policy's training cost, from a policy's provenance, beside the paper's budget.

    Steps are decisions: updates x episodes x simulators x decisions per episode, the last as it was at the end of
    training.
    """
    training, final = provenance.get("training", {}), provenance.get("final", {})
    updates, episodes = int(provenance.get("updates", 0)), int(training.get("episodes", 0))
    used = _number(final.get("decisions")) or float(provenance.get("process", {}).get("decisions", 0))
    seen = simulators if scope == "dr" else 1
    return {
        "updates": updates,
        "episodes_per_update": episodes,
        "simulators": seen,
        "episodes": updates * episodes * seen,
        "steps": round(updates * episodes * seen * used),
        "paper_steps": PAPER_STEPS.get(algorithm),
        "cost_limit": training.get("cost_limit") if algorithm.endswith("-lag") else None,
        "final_cost": _number(final.get("cost")),
        "final_multiplier": _number(final.get("multiplier")),
        "hidden": training.get("hidden"),
        "fine_tune_from": training.get("fine_tune_from"),
        "stopped": provenance.get("stopped", {}),
        **{k: provenance.get(k) for k in ("recipe_hash", "bank", "bank_hash", "seed", "code", "command")},
    }
