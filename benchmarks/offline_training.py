"""How long does offline training take, stacked, and how does it compare with d3rlpy on the same core?

    python benchmarks/offline_training.py [--profile quick|paper] [--patients 8 110] [--updates 60]

One torch thread, CPU seconds of this process (wall time on a GPU), on random rows of the release's shapes: 20 decisions
of 9 observations and 4 actions, 50 episodes per patient. Each number is the difference of two trainings of unequal
length, the best of three each, so what a run costs once is left out. Updates per second count all learners of a stack.
d3rlpy, where it is installed, runs its own training loop on all rows, at equal width and batch (the best 50 updates of
some hundred); the ratio is that of updates per second.
Writes benchmarks/results/offline_training-PROFILE.json, or --output.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgym_offline.compute import keep_memory
from medgym_offline.datasets import Transitions
from medgym_offline.errors import MissingExtraError
from medgym_offline.files import write_json
from medgym_offline.offline import ALGORITHMS, PROFILES, OfflineConfig, train
from medgym_offline.offline.learner import CHECK_EVERY
from medgym_offline.third_party import import_d3rlpy

RIVALS = {name: f"d3rlpy-{name}" for name in ("bc", "td3bc", "iql", "rebrac", "awac", "cql")}
RIVALS |= {"gcql": "d3rlpy-cql", "cql-discrete": "d3rlpy-discrete-cql", "bcq-discrete": "d3rlpy-discrete-bcq"}
EPISODES, DECISIONS = 50, 20


def random_rows(patients: int) -> Transitions:
    """A dataset of the release's shapes."""
    rng = np.random.default_rng(0)
    rows = patients * EPISODES * DECISIONS
    seen = rng.standard_normal((patients * EPISODES, DECISIONS + 1, 9)).astype(np.float32)
    zeros = np.zeros(rows, dtype=np.float32)
    return Transitions(
        observations=seen[:, :-1].reshape(rows, 9),
        next_observations=seen[:, 1:].reshape(rows, 9),
        actions=rng.uniform(-1, 1, (rows, 4)).astype(np.float32),
        rewards=rng.standard_normal(rows).astype(np.float32),
        costs=zeros,
        severity=zeros,
        monitored=zeros,
        costs_path=zeros[:, None],
        costs_peak=zeros[:, None],
        behavior_log_prob=zeros,
        terminations=np.arange(rows) % DECISIONS == DECISIONS - 1,
        truncations=np.zeros(rows, dtype=bool),
        dt=np.full(rows, 4.8, dtype=np.float32),
        time=np.tile(4.8 * np.arange(1, DECISIONS + 1, dtype=np.float32), patients * EPISODES),
        patient=np.repeat(np.arange(patients, dtype=np.int32), EPISODES * DECISIONS),
        episode=np.repeat(np.arange(patients * EPISODES, dtype=np.int32), DECISIONS),
        patients=tuple(f"random/{p}" for p in range(patients)),
    )


def seconds_per_update(run: Callable[[int], object], updates: int, device: str, repeats: int = 3) -> float:
    """Seconds that `run(length)` takes per update, the cost of a start left out; the best of `repeats`.

    A neighbor on the machine slows a run down and never speeds it up.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    spent = {updates // 3: np.inf, updates: np.inf}
    for length in list(spent) * repeats:
        started = clock()
        run(length)
        spent[length] = min(spent[length], clock() - started)
    return float(spent[updates] - spent[updates // 3]) / (updates - updates // 3)


def ours(algorithm: str, count: int, rows: Transitions, config: OfflineConfig, updates: int, device: str) -> Any:
    """A row of the table: `count` learners stacked."""
    chosen = list(rows.patients[:count])

    def run(length: int) -> None:
        short = dataclasses.replace(config, updates=length)
        train(algorithm, rows, config=short, patients=chosen, progress=False, device=device)

    seconds = seconds_per_update(run, updates, device)
    return {
        "algorithm": algorithm,
        "learners": count,
        "ms_per_update": round(1e3 * seconds, 2),
        "total_per_second": round(count / seconds, 1),
        "minutes_for_110": round(seconds * config.updates * 110 / count / 60, 2),
    }


def theirs(algorithm: str, rows: Transitions, config: OfflineConfig, updates: int, device: str) -> Any:
    """A row of the table: one learner of d3rlpy on all rows, the best stretch of 50 updates."""
    from medgym_offline.third_party.training import train_baseline

    clock = time.process_time if device == "cpu" else time.perf_counter
    marks: list[float] = []
    looks = max(3, updates // CHECK_EVERY)
    longer = dataclasses.replace(config, updates=CHECK_EVERY * (looks + 1))

    def mark(update: int, baseline: object) -> None:
        marks.append(clock())

    train_baseline(
        algorithm, rows, config=longer, progress=False, device=device, checkpoints=looks + 1, on_checkpoint=mark
    )
    seconds = float(np.diff(marks).min()) / CHECK_EVERY
    return {
        "algorithm": algorithm,
        "learners": 1,
        "ms_per_update": round(1e3 * seconds, 2),
        "total_per_second": round(1 / seconds, 1),
    }


def main() -> None:
    """Time every algorithm at every size, then d3rlpy, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="quick", choices=sorted(PROFILES))
    parser.add_argument("--patients", type=int, nargs="+", default=[8, 110], help="learners in a stack")
    parser.add_argument("--algorithms", nargs="+", default=[*ALGORITHMS], choices=[*ALGORITHMS])
    parser.add_argument("--updates", type=int, default=60, help="length of the longer training")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, as in `train`")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/offline_training-PROFILE.json")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    keep_memory()  # as the command line does
    torch.set_num_threads(1)
    config, updates, device = PROFILES[options.profile].changed(options.set), options.updates, options.device
    rows, table = random_rows(max(options.patients)), []
    train("cql", rows, config=dataclasses.replace(config, updates=2), patients=[rows.patients[0]], progress=False)
    versions = {"torch": torch.__version__, "device": device}
    for count in options.patients:
        for algorithm in options.algorithms:
            table.append(ours(algorithm, count, rows, config, updates, device))
            print(*table[-1].values(), sep="\t", flush=True)
    ratios = {}
    try:
        versions["d3rlpy"] = import_d3rlpy().__version__
        for rival in dict.fromkeys(RIVALS[name] for name in options.algorithms if name in RIVALS):
            table.append(theirs(rival, rows, config, 5 * updates, device))
            print(*table[-1].values(), sep="\t", flush=True)
            for row in table:
                if RIVALS.get(row["algorithm"]) == rival:
                    name = f"{row['algorithm']} x {row['learners']} / {rival}"
                    ratios[name] = round(row["total_per_second"] / table[-1]["total_per_second"], 1)
                    print(f"{name}: {ratios[name]}", flush=True)
    except MissingExtraError as error:
        print(f"no comparison: {error}", file=sys.stderr)
    sizes = {name: getattr(config, name) for name in ("batch", "hidden", "updates", "candidates")}
    command = " ".join(["python benchmarks/offline_training.py", *sys.argv[1:]])
    result = {"command": command, "profile": options.profile, **sizes, **versions, "rows": table, "ratios": ratios}
    default = Path(__file__).parent / "results" / f"offline_training-{options.profile}.json"
    write_json(options.output or default, result)


if __name__ == "__main__":
    main()
