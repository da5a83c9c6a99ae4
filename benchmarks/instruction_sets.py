"""What is the same on another kind of processor: rows of datasets, scores of policies, trained networks, board entries.

    python benchmarks/instruction_sets.py [--parts rows scores training entries] [--workers 2] [--again]

Everything is computed once for each instruction set, in a process of its own: torch's kernels as this processor has
them, those for AVX2, the processor's own with MKL held to SSE4.2 and to results that do not depend on the processor,
and torch's kernels for no instruction set with MKL held so. Writes benchmarks/results/instruction_sets.json, each part
as it is done; what is recorded is not computed again. Entries are verified as `medgym-offline leaderboard verify`
does; policies per patient, whose files do not travel with them, are trained again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "instruction_sets.json"
SETS = {
    "this processor": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "MKL SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "COMPATIBLE"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "COMPATIBLE"},
}
BANKS = ("sepsis-v0", "sepsis-twin-v0", "diabetes-v0", "anesthesia-v0")


def rows(dataset: str) -> dict[str, Any]:
    """Content hash of a release dataset's rows, made here, and how far they are from the release's fingerprint."""
    from medgym_offline.datasets.behaviors import recipe_behavior
    from medgym_offline.datasets.catalogue import release_manifest
    from medgym_offline.datasets.recipes import find_recipe
    from medgym_offline.datasets.shards import played_episodes
    from medgym_offline.datasets.transitions import Transitions, content_hash
    from medgym_offline.datasets.trust import compare_rows
    from medgym_offline.simulators import load_simulators

    recipe, release = find_recipe(dataset), release_manifest(dataset)
    assert release is not None
    bank = load_simulators(recipe.bank).world(recipe.world)
    behavior, everybody = recipe_behavior(recipe, bank), list(range(len(bank)))
    with tempfile.TemporaryDirectory() as work:
        block = played_episodes(recipe, bank, everybody, behavior, recipe.stream, "", Path(work), 1, False)
    settings: dict[str, Any] = {"timing": recipe.timing, "decisions": recipe.decisions}
    found = Transitions(**block.columns, patients=bank.patients, dataset_id=dataset, **settings)
    content = content_hash(found)
    compared = compare_rows(found, release)
    return {
        "content_hash": content,
        "identical": content == release["content_hash"],
        "largest": compared.largest,
        "faults": list(compared.faults),
    }


def scores(name: str) -> dict[str, Any]:
    """Metrics of an evaluation: world -> metric -> mean."""
    import medgym_offline as mgo

    bank, policy, timing = name.split("|")
    found = mgo.evaluate(policy, bank=bank, timing=timing, episodes=20, progress=False)
    return {world: {k: float(v) for k, v in r.metrics.items()} for world, r in found.worlds.items()}


def training(name: str) -> dict[str, Any]:
    """A training of 300 updates: the hash of its weights, and the return of what was learned."""
    import medgym_offline as mgo
    from medgym_offline.offline import OfflineConfig, train

    algorithm, scope = name.split("|")
    data = mgo.load_dataset("medgym/diabetes-mixed-v0", progress=False)
    patients = list(data.patients[:5])
    learned = train(algorithm, data, scope, 0, OfflineConfig(updates=300), patients=patients, progress=False).policy
    weights = [value.detach().numpy() for value in learned.state_dict().values()]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(w).tobytes() for w in weights)).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        path = mgo.save_policy(learned, Path(folder) / "policy.safetensors")
        scored = mgo.evaluate(str(path), patients=patients, episodes=20, bank="diabetes-v0", progress=False)
    returns = {world: float(r.metrics["return"]) for world, r in scored.worlds.items()}
    return {"weights": digest, "returns": returns}


def entries(folder: str) -> dict[str, Any]:
    """Verification of a shipped entry, on the same and on fresh seeds."""
    from medgym_offline.leaderboard import verify_submission

    home = ROOT / "leaderboard" / "submissions" / folder
    report = verify_submission(home, progress=False, retrain=folder.endswith("-ind"))
    same = [r for r in report.rows if not r.check.startswith("fresh")]
    worst = max(same, key=lambda r: abs(r.claimed - r.found) / r.tolerance if r.tolerance else 0.0)
    share = abs(worst.claimed - worst.found) / worst.tolerance
    deviations: dict[str, float] = {}
    for r in same:
        deviations[r.metric] = max(deviations.get(r.metric, 0.0), abs(r.claimed - r.found))
    return {
        "accepted": report.accepted,
        "faults": report.faults[:5],
        "largest_share_of_tolerance": round(share, 4),
        "where": f"{worst.check} {worst.world} {worst.metric}",
        "deviations": {name: float(f"{value:.3g}") for name, value in sorted(deviations.items())},
    }


PARTS = {"rows": rows, "scores": scores, "training": training, "entries": entries}


def tasks(part: str) -> list[str]:
    """Names of what a part computes."""
    from medgym_offline.datasets.recipes import list_recipes
    from medgym_offline.offline import ALGORITHMS

    if part == "rows":
        return list(list_recipes())
    if part == "entries":
        return sorted(p.parent.name for p in (ROOT / "leaderboard" / "submissions").glob("*/entry.json"))
    if part == "training":
        return [f"{algorithm}|{scope}" for algorithm in ALGORITHMS for scope in ("ind", "pop")]
    policies = [("random", "adaptive"), ("clinician", "fixed"), ("behavior:ind", "adaptive"), ("behavior:pop", "fixed")]
    return [f"{bank}|{policy}|{timing}" for bank in BANKS for policy, timing in policies]


def run(part: str, name: str, instructions: str) -> dict[str, Any]:
    """One task in a process that sees only these instructions."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **SETS[instructions]}
    command = [sys.executable, __file__, "--child", part, name]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no output"])[-1]
        return {"error": last}
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="also what is recorded")
    parser.add_argument("--child", nargs=2, metavar=("PART", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(PARTS[options.child[0]](options.child[1])))
        return
    import torch

    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["processor"] = torch.backends.cpu.get_cpu_capability()
    sets = [kind for kind in SETS if kind != "avx2" or found["processor"] != "AVX2"]  # the same twice
    for part in options.parts:
        kept, names = {} if options.again else found.get(part, {}), tasks(part)
        jobs = [(n, k) for k in sets for n in names if "error" in kept.get(n, {}).get(k, {"error": ""})]
        with ThreadPoolExecutor(options.workers) as pool:
            results = pool.map(run, [part] * len(jobs), *zip(*jobs))
            for (name, kind), result in zip(jobs, results):
                found.setdefault(part, {}).setdefault(name, {})[kind] = result
                print(part, name, kind, {k: v for k, v in result.items() if k != "deviations"}, flush=True)
                write_json(RESULTS, found)


if __name__ == "__main__":
    main()
