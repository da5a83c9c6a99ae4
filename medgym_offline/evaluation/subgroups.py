"""Subgroups of patients, by what is known before the first decision, and the metrics within each.

Groups overlap and are small: their intervals are wide, and many groups are looked at. A difference between two groups
of one policy says nothing about treatment; compare two policies inside a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medgym_offline.diseases.base import Disease
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import mean_intervals
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["patient_facts", "subgroup_members", "subgroup_rows"]

SUBGROUP_METRICS = ("severity_mean", "severity_end", "safe_hourly", "return")


def patient_facts(bank: SimulatorBank) -> dict[str, list[Any]]:
    """What is known of every patient at the start, in the bank's current world.

    Returns:
        Columns of length P: `patient`, `source` (the part of the id before "/"; the bank's name if it has none), and a
        number per subgroup of the disease, under its key.
    """
    disease = bank.disease
    state = bank.denormalize(bank.initial_state().unsqueeze(1))
    with torch.no_grad():
        untreated = torch.tensor([t.lower for t in disease.treatments]).expand(*state.shape[:2], -1)
        severity = disease.severity.score(state, untreated)
    first, points = state[:, 0].double().numpy(), severity[:, 0].double().numpy()
    return {
        "patient": list(bank.patients),
        "source": [p.partition("/")[0] if "/" in p else bank.name for p in bank.patients],
        **{g.key: [round(float(v), 4) for v in g.value(first, points)] for g in disease.subgroups},
    }


def subgroup_members(
    facts: Mapping[str, Sequence[Any]], disease: Disease, harm: np.ndarray | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """Boolean members (P,) of every group: {(what it is by, name): members}; empty groups are left out.

    Args:
        facts: As :func:`patient_facts`.
        disease: Names the groups.
        harm: (P,) outcome, larger is worse; adds the worst decile (at least one patient).
    """
    groups: dict[tuple[str, str], np.ndarray] = {}
    for group in disease.subgroups:
        value, unit = np.asarray(facts[group.key], float), f" {group.unit}" if group.unit else ""
        if not group.cuts:
            first, second = np.quantile(value, [1 / 3, 2 / 3])
            groups[group.name, "lowest third"] = value <= first
            groups[group.name, "middle third"] = (value > first) & (value <= second)
            groups[group.name, "highest third"] = value > second
            continue
        edges = (-np.inf, *group.cuts, np.inf)
        for low, high in zip(edges[:-1], edges[1:]):
            name = f"{low:g} to {high:g}{unit}"
            name = f"below {high:g}{unit}" if low == -np.inf else f"{low:g}{unit} and more" if high == np.inf else name
            groups[group.name, name] = (value >= low) & (value < high)
    source = np.asarray(facts["source"], str)
    if len(set(source)) > 1:
        groups |= {("data source", name): source == name for name in sorted(set(source))}
    if harm is not None:
        worst = np.zeros(len(harm), bool)
        worst[np.argsort(-harm, kind="stable")[: max(1, round(0.1 * len(harm)))]] = True
        groups["outcome", f"worst decile of {disease.severity.label}"] = worst
    return {key: members for key, members in groups.items() if members.any()}


def subgroup_rows(
    facts: Mapping[str, Sequence[Any]], columns: Mapping[str, np.ndarray], disease: Disease, bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """One row per group: `by`, `group`, `patients`, and for each of :data:`SUBGROUP_METRICS` `[mean, low, high]`.

    Args:
        facts: As :func:`patient_facts`.
        columns: Metric -> (P,), in the same order of patients.
        disease: Names the groups.
        bootstrap: Settings of the intervals; a group of one patient has none (null).
    """
    shown = [name for name in SUBGROUP_METRICS if name in columns]
    rows = []
    for (by, group), members in subgroup_members(facts, disease, np.asarray(columns["severity_mean"], float)).items():
        values = np.stack([np.asarray(columns[name], float)[members] for name in shown])
        count = int(members.sum())
        intervals = mean_intervals(values, bootstrap) if count > 1 else [(None, None)] * len(shown)
        row: dict[str, Any] = {"by": by, "group": group, "patients": count}
        for name, value, (low, high) in zip(shown, values, intervals):
            row[name] = [float(value.mean()), low, high]
        rows.append(row)
    return rows
