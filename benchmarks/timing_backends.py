"""Adaptive against fixed timing, scored by the solution map and by the solver: does the integrator decide?

    python benchmarks/timing_backends.py [EPISODES]

Writes benchmarks/results/timing_backends.json: per world and backend, the individual behavior policies' mean surrogate
SOFA under fixed and adaptive timing, the mean paired gain of adaptive, and in how many patients it is better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import medgym_offline as mgo
from benchmarks.timing import arguments
from medgym_offline.files import write_json


def main() -> None:
    """Evaluate both timings with both backends and write the comparison."""
    (episodes,) = arguments(__doc__, episodes=10)
    rows = []
    for backend in ("map", "ode"):
        bank = mgo.load_simulators("sepsis-v0").with_backend(backend)  # type: ignore[arg-type]
        found = {t: mgo.evaluate("behavior", timing=t, episodes=episodes, bank=bank) for t in ("fixed", "adaptive")}
        for world in found["fixed"].worlds:
            fixed, adaptive = (np.asarray(e.worlds[world].per_patient["severity_mean"]) for e in found.values())
            row = {
                "backend": backend,
                "world": world,
                "fixed": round(float(fixed.mean()), 3),
                "adaptive": round(float(adaptive.mean()), 3),
                "gain_percent": round(float(100 * (fixed - adaptive).mean() / fixed.mean()), 2),
                "adaptive_better_in": int((adaptive < fixed).sum()),
                "patients": len(fixed),
            }
            rows.append(row)
            print(*row.values(), sep="\t")
    target = Path(__file__).parent / "results" / "timing_backends.json"
    write_json(target, {"command": f"python benchmarks/timing_backends.py {episodes}", "rows": rows})


if __name__ == "__main__":
    main()
