"""From scores to the numbers of a study: rows with intervals, paired comparisons, budgets. Plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgym_offline.evaluation.metrics import METRICS
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import mean_intervals, paired_difference, seed_label
from medgym_offline.studies.recipe import Sets
from medgym_offline.studies.scoring import Scored

__all__ = ["KEPT", "SUPPORT", "common", "kept_metrics", "pair", "pair_list", "row", "statistics", "wilcoxon"]

KEPT = ("sofa_all", "sofa_96h", "safe_hourly", "lactate_mean", "cost_mean", "return")
"""Metrics that a study keeps patient by patient; of :data:`SUPPORT` those that were measured."""

SUPPORT = ("support_distance", "support_outside")
"""Distances to the behaviour data, of policies scored beside a dataset."""


def wilcoxon(difference: np.ndarray) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test of paired differences (P,); 1 if all are zero."""
    from scipy.stats import wilcoxon as test

    if not np.any(difference):
        return 1.0
    return float(test(difference).pvalue)


def statistics(scored: Scored, world: str, patients: Sequence[str], bootstrap: Bootstrap) -> dict[str, Any]:
    """Metric -> mean, low, high in one world, over `patients` and training seeds."""
    columns = scored.evaluations[0].worlds[world].per_patient
    names = [n for n in METRICS if n in columns]
    stacks = [scored.values(world, n, patients) for n in names]
    intervals = mean_intervals(np.stack(stacks), bootstrap)
    return {
        n: {"mean": float(s.mean()), "low": float(i[0]), "high": float(i[1])}
        for n, s, i in zip(names, stacks, intervals)
    }


def kept_metrics(scored: Scored, world: str) -> list[str]:
    """:data:`KEPT` and what there is of :data:`SUPPORT`."""
    columns = scored.evaluations[0].worlds[world].per_patient
    return [*KEPT, *(m for m in SUPPORT if m in columns)]


def row(scored: Scored, sets: Sets, bootstrap: Bootstrap) -> dict[str, Any]:
    """Everything about one policy.

    `statistics`: patient set ("table", "release") -> world -> metric -> mean, low, high; `per_patient`: world ->
    metric of :data:`KEPT` -> mean over seeds, in the order of `patients`; `curves`: world -> hourly means.
    """
    entry = scored.entry
    chosen = {"table": sets.table} | ({"release": sets.release} if entry.patients == sets.release else {})
    first = scored.evaluations[0]
    curves = {
        w: {
            v: np.mean([e.worlds[w].curves[v]["mean"] for e in scored.evaluations], axis=0).round(5).tolist()
            for v in ("sofa", "lactate")
        }
        for w in scored.worlds
    }
    return {
        "key": entry.key,
        "label": entry.label,
        "group": entry.group,
        "algorithm": entry.algorithm,
        "scope": entry.scope,
        "timing": entry.timing,
        "decisions": entry.decisions,
        "patients": list(entry.patients),
        "seeds": len(scored.evaluations),
        "bank": first.bank["name"],
        "bank_hash": first.bank["content_hash"],
        "training": dict(scored.training),
        "statistics": {s: {w: statistics(scored, w, p, bootstrap) for w in scored.worlds} for s, p in chosen.items()},
        "per_patient": {
            w: {m: scored.values(w, m).mean(0).round(6).tolist() for m in kept_metrics(scored, w)}
            for w in scored.worlds
        },
        "curves": curves,
    }  # fmt: skip


def pair(
    kind: str, reference: Scored, method: Scored, world: str, patients: Sequence[str], bootstrap: Bootstrap,
    metric: str = "sofa_all",
) -> dict[str, Any]:  # fmt: skip
    """`method` against `reference`, paired over `patients`.

    `percent` is the gain in per cent of the reference's mean (positive: the method is better), `difference` is method
    minus reference, `share` the share of patients in whom the method is better (ties one half), `p` the Wilcoxon
    signed-rank test over patients of the means over seeds.
    """
    better = METRICS[metric].better or -1
    a, b = method.values(world, metric, patients), reference.values(world, metric, patients)
    found = paired_difference(a, b, better, bootstrap)
    return {
        "kind": kind,
        "metric": metric,
        "world": world,
        "reference": reference.entry.key,
        "method": method.entry.key,
        "reference_mean": float(b.mean()),
        "method_mean": float(a.mean()),
        "difference": found.difference,
        "difference_interval": list(found.interval),
        "percent": found.percent,
        "percent_interval": list(found.percent_interval),
        "share": found.share,
        "share_interval": list(found.share_interval),
        "p": wilcoxon(a.mean(0) - b.mean(0)),
        "patients": found.patients,
        "label": seed_label(min(found.seeds)),
    }


def _twins(scored: Mapping[str, Scored], kind: str) -> list[tuple[Scored, Scored]]:
    """(reference, method) pairs that differ in scope (PopInd) or in timing (FixAdap) alone."""
    found = []
    for method in scored.values():
        for reference in scored.values():
            a, b = reference.entry, method.entry
            same = (a.group == b.group and a.algorithm == b.algorithm and a.decisions == b.decisions) or (
                a.algorithm == b.algorithm and {a.group, b.group} == {"table", "budget"} and a.decisions == b.decisions
            )
            if not same or not a.algorithm:
                continue
            scopes = a.scope == b.scope and (a.timing, b.timing) == ("fixed", "adaptive")
            timings = a.timing == b.timing and a.scope == "pop" and b.scope in ("ind", "ind-scratch")
            if (kind == "FixAdap" and scopes) or (kind == "PopInd" and timings):
                found.append((reference, method))
    return found


def pair_list(scored: Mapping[str, Scored], sets: Sets, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """PopInd and FixAdap of every row that has a partner, and the release's Ind against dr, in every world."""
    pairs = [("PopInd", *p) for p in _twins(scored, "PopInd")] + [("FixAdap", *p) for p in _twins(scored, "FixAdap")]
    for method in scored.values():
        if method.entry.group == "release" and method.entry.scope == "ind":
            pairs.append(("DrInd", scored[method.entry.key.replace("-ind-", "-dr-")], method))
    return [
        pair(kind, reference, method, world, common(reference, method), bootstrap)
        for kind, reference, method in pairs
        for world in method.worlds
    ]


def common(a: Scored, b: Scored) -> tuple[str, ...]:
    """Patients both were scored on: one of the study's sets is part of the other."""
    return min(a.entry.patients, b.entry.patients, key=len)
