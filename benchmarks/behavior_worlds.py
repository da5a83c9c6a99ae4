"""Behavior policies and baselines in every world of a bank, paired over all patients.

    python benchmarks/behavior_worlds.py [EPISODES] [BANK]

Writes benchmarks/results/behavior_worlds-BANK.json. The table of docs/science.md is its fixed-timing part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import medgym_offline as mgo
from benchmarks.timing import arguments
from medgym_offline.files import write_json

POLICIES = ("behavior", "behavior:dr", "behavior:pop", "clinician", "zero", "random")


def main() -> None:
    """Evaluate, print a row per policy, timing and world, and write them all."""
    episodes, bank = arguments(__doc__, episodes=10, bank="sepsis-v0")
    rows = []
    for timing in ("fixed", "adaptive"):
        found = {name: mgo.evaluate(name, timing=timing, episodes=episodes, bank=bank) for name in POLICIES}
        for name, result in found.items():
            for world, scores in result.worlds.items():
                ours = np.asarray(found["behavior"].worlds[world].per_patient["severity_mean"])
                theirs = np.asarray(scores.per_patient["severity_mean"])
                row = {
                    "timing": timing,
                    "policy": name,
                    "world": world,
                    "severity_mean": round(float(scores.metrics["severity_mean"]), 3),
                    "safe_hourly": round(float(scores.metrics["safe_hourly"]), 2),
                    "return": round(float(scores.metrics["return"]), 2),
                    "individual_policy_better_in": int((ours < theirs).sum()),
                    "patients": len(ours),
                }
                rows.append(row)
                print(*row.values(), sep="\t")
    target = Path(__file__).parent / "results" / f"behavior_worlds-{bank}.json"
    command = f"python benchmarks/behavior_worlds.py {episodes} {bank}"
    write_json(target, {"command": command, "bank": found["behavior"].bank, "rows": rows})


if __name__ == "__main__":
    main()
