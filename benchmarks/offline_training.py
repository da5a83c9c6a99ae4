"""How long does one update of the offline learners take, stacked over 8 and over 110 patients?

    python benchmarks/offline_training.py [UPDATES]

On `medgym/sepsis-ind-v0`, quick settings, one torch thread, CPU seconds of this process (not wall time).
Writes benchmarks/results/offline_training.json.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import medgym_offline as mgo
from medgym_offline.files import write_json
from medgym_offline.offline import OfflineConfig, train


def main() -> None:
    """Time every algorithm at both sizes; the difference of two lengths leaves out what a run costs once."""
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    data, rows = mgo.load_dataset("medgym/sepsis-ind-v0"), []
    train("dqn", data, "ind", 0, OfflineConfig(updates=2), patients=list(data.patients[:2]), progress=False)  # warm up
    for algorithm in ("dqn", "cql", "gcql"):
        for count in (8, 110):
            patients, spent = list(data.patients[:count]), []
            for length in (updates // 3, updates):
                started = time.process_time()
                train(algorithm, data, "ind", 0, OfflineConfig(updates=length), patients=patients, progress=False)
                spent.append(time.process_time() - started)
            each = 1e3 * (spent[1] - spent[0]) / (updates - updates // 3)
            rows.append({"algorithm": algorithm, "patients": count, "ms_per_update": round(each, 1)})
            print(*rows[-1].values(), sep="\t")
    target = Path(__file__).parent / "results" / "offline_training.json"
    write_json(target, {"command": f"python benchmarks/offline_training.py {updates}", "rows": rows})


if __name__ == "__main__":
    main()
