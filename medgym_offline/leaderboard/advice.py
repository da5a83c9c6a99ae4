"""What an entry lacks that a reader would ask for, and how to add it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medgym_offline.evaluation.statistics import MINIMUM_SEEDS

__all__ = ["gaps"]


def gaps(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per thing that an entry may lack and does: what, why it matters, which command adds it."""
    trained = entry["scope"] != "baseline"
    first = next(iter(entry["metrics"].values()))
    if entry["dataset"] is None:
        yield "support distance and normalised score: evaluate with --dataset ID, the data it was trained on"
    elif "normalized_score" not in first:
        yield "normalised score: its references are means over all patients of the dataset; evaluate on all"
    if "crossfit" not in entry["metrics"]:
        yield "the held-out world: the own world alone may reward errors of its simulators; evaluate with it"
    if trained and len(entry["runs"]) < MINIMUM_SEEDS:
        count = len(entry["runs"])
        yield f"training seeds: {count} of at least {MINIMUM_SEEDS}; intervals speak of patients only"
    if trained and any(seed is None for seed in entry["seeds"]):
        yield "which seeds: the policy files do not say; save them with provenance (save_policy does)"
    if not entry["authors"]:
        yield 'authors: --authors "A. Author; B. Author"'
    if trained and entry["code"] is None:
        yield "the code of the method: --code https://..."
    known = entry["compute"] or {}
    missing = [name for name in ("hardware", "wall_seconds", "updates") if known.get(name) is None]
    if trained and missing:
        options = " ".join(f"--{name.replace('_', '-')}" for name in missing)
        yield f"what the training cost ({', '.join(missing).replace('_', ' ')}): {options}"
    for what in sorted(set(entry["protocol"]["deviations"]) - {"bank"}):
        yield f"the protocol's {what}: the entry departs from it and stands apart from those that follow it"
