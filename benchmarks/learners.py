"""Do our learners equal d3rlpy's, and how long do they take?

    python benchmarks/learners.py [--updates 400] [--timing-updates 30] [--seeds 2] [--skip-d3rlpy]

Score: a bandit with two behaviors, r = 3 - 4*(a_0 - 0.4)^2 over one decision, cloning's mean in between; mean regret
4*(a_0 - 0.4)^2 of the learned policy over the states of the data, after equally many updates, mean over seeds.
The ratio of times is d3rlpy's per update to ours, one learner on one core, best of some. ms per update: batch 256.
Writes benchmarks/results/learners.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import torch
from offline_training import ours, random_rows, theirs

from medgym_offline.datasets import Transitions
from medgym_offline.files import write_json
from medgym_offline.offline import OfflineConfig, train_seeds
from medgym_offline.threads import keep_memory

RIVALS = {
    "td3bc": "d3rlpy-td3bc",
    "iql": "d3rlpy-iql",
    "awac": "d3rlpy-awac",
    "rebrac": "d3rlpy-rebrac",
    "bcq-discrete": "d3rlpy-discrete-bcq",
}
NEW = ("bc-best", "td3bc", "iql", "awac", "rebrac", "bcq-discrete", "cql", "cql-lagrangian", "cpq")
BEST = 0.4


def bandit() -> Transitions:
    """1,500 episodes of one decision."""
    rows = random_rows(2)
    rng = np.random.default_rng(0)
    rows = rows.select(np.arange(1500))
    action = rng.uniform(-0.5, 0.5, (len(rows), 4)).astype(np.float32)
    action[:, 0] += np.where(np.arange(len(rows)) % 2, -0.4, 0.3).astype(np.float32)
    return dataclasses.replace(
        rows,
        actions=action,
        rewards=(3 - 4 * (action[:, 0] - BEST) ** 2).astype(np.float32),
        terminations=np.ones(len(rows), dtype=bool),
        episode=np.arange(len(rows), dtype=np.int32),
        time=np.full(len(rows), 96, dtype=np.float32),
    )


def regret(actions: np.ndarray) -> float:
    """Mean over states."""
    return float((4 * (actions[..., 0] - BEST) ** 2).mean())


def scores(updates: int, seeds: int, with_d3rlpy: bool) -> list[dict[str, object]]:
    """Regrets and milliseconds side by side."""
    config = OfflineConfig(updates=updates, critic_lr=3e-3, actor_lr=1e-3, batch=64, reward_scaling="none", tau=0.02)
    rows, table = bandit(), []
    seen = torch.from_numpy(np.asarray(rows.observations))
    timed = random_rows(2)
    for name, rival in RIVALS.items():
        policies = [r.policy for r in train_seeds(name, rows, "pop", range(seeds), config, progress=False).values()]
        line: dict[str, object] = {"algorithm": name}
        line["regret"] = round(float(np.mean([regret(p.act(seen[None])[0].numpy()) for p in policies])), 4)
        mine = ours(name, 1, timed, config, 60, "cpu")["ms_per_update"]
        line["ms"] = mine
        if with_d3rlpy:
            from medgym_offline.third_party.training import train_baseline

            found = []
            for seed in range(seeds):
                baseline = train_baseline(rival, rows, seed, config, progress=False)
                actions = baseline.algorithm.predict(np.asarray(rows.observations))
                if baseline.codebook is not None:
                    actions = baseline.codebook.numpy()[actions]
                found.append(regret(actions))
            line["d3rlpy_regret"] = round(float(np.mean(found)), 4)
            line["d3rlpy_ms"] = theirs(rival, timed, config, 100, "cpu")["ms_per_update"]
            line["time_ratio"] = round(line["d3rlpy_ms"] / mine, 2)  # type: ignore[operator]
        table.append(line)
        print(line, flush=True)
    return table


def timings(updates: int) -> list[dict[str, object]]:
    """ms per update at batch 256."""
    rows, table = random_rows(30), []
    for name in NEW:
        line: dict[str, object] = {"algorithm": name}
        for hidden in (64, 256):
            for count in (1, 5, 30):
                config = OfflineConfig(batch=256, hidden=hidden)
                # One learner of scope ind would be trained twice, for the bit; one that all share is trained once.
                line[f"hidden {hidden}, P={count}"] = one_timing(name, rows, count, config, updates)
        table.append(line)
        print(line, flush=True)
    return table


def one_timing(name: str, rows: Transitions, count: int, config: OfflineConfig, updates: int) -> float:
    """Milliseconds of CPU per update of `count` stacked learners, the best of three stretches."""
    from medgym_offline.offline.data import stack_transitions
    from medgym_offline.offline.learner import Learner

    data = stack_transitions(rows, "ind", config, list(rows.patients[:count]))
    learner = Learner(name, data, 0, config)
    best = np.inf
    for _ in range(3):
        started = time.process_time()
        for _ in range(updates):
            learner.update()
        best = min(best, time.process_time() - started)
    return round(1e3 * best / updates, 2)


def main() -> None:
    """Print and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--timing-updates", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--skip-d3rlpy", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "learners.json")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    compared = scores(options.updates, options.seeds, not options.skip_d3rlpy)
    table = timings(options.timing_updates)
    command = " ".join(["python benchmarks/learners.py", *sys.argv[1:]])
    write_json(options.output, {"command": command, "torch": torch.__version__, "scores": compared, "timings": table})


if __name__ == "__main__":
    main()
