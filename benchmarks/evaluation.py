"""How long an evaluation takes: the protocol's size in all worlds, support distances, a bank of a thousand patients.

    python benchmarks/evaluation.py [--episodes 50] [--dataset medgym/sepsis-ind-fixed-v0]

Writes benchmarks/results/evaluation.json. Times are wall and processor seconds of this process (one torch thread a
worker); the processor's are what quiet cores would show when others work on the machine. The big bank is the
release's, tiled, each copy with ids of its own. Support distances need the dataset: it is made where it is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import medgym_offline as mgo
from medgym_offline.files import write_json
from medgym_offline.online import load_behavior
from medgym_offline.policies.actor import StackedActor
from medgym_offline.simulators import SimulatorBank, load_simulators

RESULTS = Path(__file__).parent / "results" / "evaluation.json"


@contextlib.contextmanager
def timed(into: dict[str, Any]) -> Iterator[None]:
    """Wall and processor seconds of a block, and the peak memory of the process after it, in MB."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    into["wall_s"] = round(time.perf_counter() - wall, 2)
    into["processor_s"] = round(time.process_time() - processor, 2)
    into["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def tiled(bank: SimulatorBank, policy: StackedActor, copies: int) -> tuple[SimulatorBank, StackedActor]:
    """The bank and the individual policy, `copies` times over, with ids `<copy>/<id>`."""
    ids = [p for _ in range(copies) for p in bank.patients]
    names = tuple(f"{i // len(bank)}:{p}" for i, p in enumerate(ids))
    many = bank.select(ids).replace(patients=names)
    parts = [copy.deepcopy(policy) for _ in range(copies)]
    for number, part in enumerate(parts):
        part.patients = names[number * len(bank) : (number + 1) * len(bank)]
    return many, StackedActor.concatenate(parts)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--dataset", default="medgym/sepsis-ind-fixed-v0")
    parser.add_argument("--copies", type=int, nargs="*", default=[1, 3, 9], help="of the tiled bank")
    options = parser.parse_args()
    bank, policy = load_simulators("sepsis-v0"), load_behavior("sepsis-v0", "ind", "fixed")
    found: dict[str, Any] = {"command": "python " + " ".join(sys.argv), "load_average": os.getloadavg()[0]}
    mgo.evaluate(policy, bank=bank, patients=2, episodes=1)  # imports and warm-up are not what is asked about
    folder = tempfile.TemporaryDirectory()
    kept = Path(folder.name) / "policy.safetensors"
    mgo.save_policy(policy, kept)  # a file: its worlds may be scored side by side
    twin = load_simulators("sepsis-twin-v0")
    mgo.evaluate("behavior", bank=twin, patients=2, episodes=1)
    for name, scored, where in (("evaluation", kept, bank), ("twin", "behavior", twin)):
        for workers in (1, 2):
            label = name if workers == 1 else f"{name}_2_workers"
            worlds = len(where.worlds)
            found[label] = {"patients": len(where), "episodes": options.episodes, "decisions": 20, "worlds": worlds}
            with timed(found[label]):
                mgo.evaluate(scored, bank=where, episodes=options.episodes, workers=workers)
            print(label, found[label], flush=True)
    data = mgo.load_dataset(options.dataset)
    found["with_support"] = {"dataset": options.dataset, "rows": len(data.rewards)}
    with timed(found["with_support"]):
        mgo.evaluate(policy, bank=bank, episodes=options.episodes, dataset=data)
    extra = found["with_support"]["processor_s"] - found["evaluation"]["processor_s"]
    found["with_support"]["support_processor_s"] = round(extra, 2)
    print(found["with_support"], flush=True)
    found["tiled"] = []
    for copies in options.copies:
        many, actor = tiled(bank, policy, copies)
        row: dict[str, Any] = {"patients": len(many), "episodes": 10, "worlds": 1}
        with timed(row):
            mgo.evaluate(actor, bank=many, episodes=10, worlds=("own",))
        found["tiled"].append(row)
        print(row, flush=True)
    helped: dict[str, Any] = {}
    script = [str(Path(sys.executable).with_name("medgym-offline")), "eval", "--help"]
    with timed(helped):
        subprocess.run(script, check=True, capture_output=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["help"] = {"wall_s": helped["wall_s"], "processor_s": round(used.ru_utime + used.ru_stime, 2)}
    print("eval --help", found["help"])
    write_json(RESULTS, found)


if __name__ == "__main__":
    main()
