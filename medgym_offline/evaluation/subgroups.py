"""Subgroups of patients, by what is known before the first decision, and the metrics within each.

Groups overlap and are small: their intervals are wide, and many groups are looked at. A difference between two groups
of one policy says nothing about treatment; compare two policies inside a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medgym_offline.evaluation.metrics import METRICS
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import mean_intervals

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["LACTATE_CUTS", "SUBGROUP_METRICS", "patient_facts", "subgroup_members", "subgroup_rows"]

LACTATE_CUTS = (2.0, 4.0)
"""mmol/L: raised, and the level of septic shock in the Sepsis-3 and SSC definitions."""

SUBGROUP_METRICS = ("sofa_all", "sofa_96h", "safe_hourly", "return")


def patient_facts(bank: SimulatorBank) -> dict[str, list[Any]]:
    """What is known of every patient at admission, in the bank's current world.

    Returns:
        Columns of length P: `patient`, `source` (the part of the id before "/"; the bank's name if it has none),
        `initial_lactate` (mmol/L) and `initial_sofa` (surrogate severity of the first state, untreated).
    """
    state = bank.denormalize(bank.initial_state().unsqueeze(1))
    with torch.no_grad():
        severity = bank.disease.severity(state, torch.zeros(*state.shape[:2], len(bank.disease.treatments)))
    return {
        "patient": list(bank.patients),
        "source": [p.partition("/")[0] if "/" in p else bank.name for p in bank.patients],
        "initial_lactate": [round(float(v), 4) for v in state[:, 0, bank.disease.monitored]],
        "initial_sofa": [round(float(v), 4) for v in severity[:, 0]],
    }


def subgroup_members(
    facts: Mapping[str, Sequence[Any]], harm: np.ndarray | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """Boolean members (P,) of every group: {(what it is by, name): members}; empty groups are left out.

    Args:
        facts: As :func:`patient_facts`.
        harm: (P,) outcome, larger is worse; adds the worst decile (at least one patient).
    """
    lactate = np.asarray(facts["initial_lactate"], float)
    sofa = np.asarray(facts["initial_sofa"], float)
    source = np.asarray(facts["source"], str)
    low, high = LACTATE_CUTS
    first, second = np.quantile(sofa, [1 / 3, 2 / 3])
    groups = {
        ("initial lactate", f"below {low:g} mmol/L"): lactate < low,
        ("initial lactate", f"{low:g} to {high:g} mmol/L"): (lactate >= low) & (lactate < high),
        ("initial lactate", f"{high:g} mmol/L and more"): lactate >= high,
        ("initial SOFA", "lowest third"): sofa <= first,
        ("initial SOFA", "middle third"): (sofa > first) & (sofa <= second),
        ("initial SOFA", "highest third"): sofa > second,
    }
    if len(set(source)) > 1:
        groups |= {("data source", name): source == name for name in sorted(set(source))}
    if harm is not None:
        worst = np.zeros(len(harm), bool)
        worst[np.argsort(-harm, kind="stable")[: max(1, round(0.1 * len(harm)))]] = True
        groups["outcome", "worst decile of SOFA (all)"] = worst
    return {key: members for key, members in groups.items() if members.any()}


def subgroup_rows(
    facts: Mapping[str, Sequence[Any]], columns: Mapping[str, np.ndarray], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """One row per group: `by`, `group`, `patients`, and for each of :data:`SUBGROUP_METRICS` `[mean, low, high]`.

    Args:
        facts: As :func:`patient_facts`.
        columns: Metric -> (P,), in the same order of patients.
        bootstrap: Settings of the intervals; a group of one patient has none (null).
    """
    shown = [name for name in SUBGROUP_METRICS if name in columns and name in METRICS]
    rows = []
    for (by, group), members in subgroup_members(facts, np.asarray(columns["sofa_all"], float)).items():
        values = np.stack([np.asarray(columns[name], float)[members] for name in shown])
        count = int(members.sum())
        intervals = mean_intervals(values, bootstrap) if count > 1 else [(None, None)] * len(shown)
        row: dict[str, Any] = {"by": by, "group": group, "patients": count}
        for name, value, (low, high) in zip(shown, values, intervals):
            row[name] = [float(value.mean()), low, high]
        rows.append(row)
    return rows
