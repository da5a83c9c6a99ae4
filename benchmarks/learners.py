"""How do the learners compare with d3rlpy's of the same name, in score and in time, and what does an update cost?

    python benchmarks/learners.py [--updates 1500] [--batch 256] [--hidden 64] [--stacks 1 5 30] [--skip-rivals]

Score: a process whose best action is known (`tests/offline/toy.py`: three decisions, reward 1 minus the squared
distance from the best action), one policy for three patients whose best actions differ, learned from actions around
it with an error of mixed size. Regret is the mean squared distance of the policy's action from the best one, per
decision, over a grid of contexts; the data's own is given beside it. The patients are not told apart by the
observation, so no policy for all of them is below the spread of their best actions, which is given too. Ours and
d3rlpy's learn from the same rows with the same widths, batch, step sizes, discount and number of updates; d3rlpy's
other settings are made equal where it has them (`OWN`). Seconds are CPU time of the whole training, one thread.

Cost of an update: random rows of the release's shapes, stacks of 1, 5 and 30 learners, as `offline_training.py`.
Writes benchmarks/results/learners.json, or --output.
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

from medgym_offline.datasets import Transitions
from medgym_offline.errors import MissingExtraError
from medgym_offline.files import write_json
from medgym_offline.offline import ALGORITHMS, OfflineConfig, train
from medgym_offline.third_party import import_d3rlpy
from medgym_offline.threads import keep_memory

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.offline_training import ours, random_rows
from tests.offline.toy import DECISIONS, center, toy

RIVALS = {
    "td3bc": "d3rlpy-td3bc",
    "iql": "d3rlpy-iql",
    "awac": "d3rlpy-awac",
    "rebrac": "d3rlpy-rebrac",
    "bcq-discrete": "d3rlpy-discrete-bcq",
}
OWN: dict[str, dict[str, Any]] = {
    "d3rlpy-awac": {"lam": 1 / 3},
    "d3rlpy-rebrac": {"actor_beta": 0.1, "critic_beta": 0.01},
    "d3rlpy-discrete-bcq": {"target_update_interval": 100},
}
NEW = ("bc", "cql", "bc-best", *RIVALS, "cql-lagrangian", "cpq")


def mixed_rows(seed: int = 0) -> Transitions:
    """Half of the episodes uniform, half within +-0.4 of the best action."""
    parts = [toy(episodes=300, seed=seed), toy(episodes=300, seed=seed + 1, spread=0.4, expert=True)]
    columns = [f.name for f in dataclasses.fields(Transitions) if isinstance(getattr(parts[0], f.name), np.ndarray)]
    parts[1] = dataclasses.replace(parts[1], episode=parts[1].episode + np.int32(parts[0].episode.max() + 1))
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    order = np.lexsort((joined["episode"], joined["patient"]))
    return dataclasses.replace(parts[0], **{name: values[order] for name, values in joined.items()}).validate()


def regret(act: Callable[[Any], Any]) -> float:
    """Mean over patients, contexts and decisions left."""
    context = np.linspace(-0.95, 0.95, 39)
    found = []
    for left in range(1, DECISIONS + 1):
        observations = np.zeros((39, 9), dtype=np.float32)
        observations[:, 0], observations[:, 7:] = context, left / DECISIONS
        action = np.asarray(act(observations))
        for p in range(3):
            wanted = center(np.array(p), context)
            found.append(np.mean((action[:, 0] - wanted) ** 2 + (action[:, 3] - 0.2) ** 2))
    return float(np.mean(found))


def compared(rows: Transitions, config: OfflineConfig, seeds: int) -> list[dict[str, Any]]:
    """A line per pair: regrets (mean over seeds) and seconds of ours and theirs."""
    from medgym_offline.third_party.training import train_baseline

    table = []
    for name, rival in RIVALS.items():
        scores: dict[str, list[float]] = {"ours": [], "theirs": []}
        spent = {"ours": 0.0, "theirs": 0.0}
        for seed in range(seeds):
            started = time.process_time()
            policy = train(name, rows, "pop", seed, config, progress=False).policy
            spent["ours"] += time.process_time() - started
            scores["ours"].append(regret(lambda o, p=policy: p.act(torch.from_numpy(o)[None])[0].numpy()))
            started = time.process_time()
            other = train_baseline(rival, rows, seed, config, OWN.get(rival, {}), progress=False)
            spent["theirs"] += time.process_time() - started
            book = None if other.codebook is None else other.codebook.numpy()
            predict = other.algorithm.predict
            scores["theirs"].append(regret(lambda o, f=predict, b=book: f(o).clip(-1, 1) if b is None else b[f(o)]))
        ratio = spent["theirs"] / spent["ours"]
        table.append(
            {"algorithm": name, "rival": rival}
            | {f"regret_{who}": round(float(np.mean(values)), 4) for who, values in scores.items()}
            | {f"seconds_{who}": round(seconds / seeds, 2) for who, seconds in spent.items()}
            | {"times_faster": round(ratio, 1)}
        )
        print(*table[-1].values(), sep="\t", flush=True)
    return table


def main() -> None:
    """Regrets and seconds against d3rlpy's, then milliseconds per update."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--stacks", type=int, nargs="*", default=[1, 5, 30], help="learners in a stack, for the times")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256], help="hidden units, for the times")
    parser.add_argument("--skip-rivals", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "learners.json")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    config = OfflineConfig(
        updates=options.updates, batch=options.batch, hidden=options.hidden, critic_lr=1e-3, actor_lr=1e-3, gamma=0.9
    )
    rows = mixed_rows()
    best = center(rows.patient, rows.observations[:, 0])
    result: dict[str, Any] = {
        "command": " ".join(["python benchmarks/learners.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "updates": options.updates,
        "batch": options.batch,
        "hidden": options.hidden,
        "regret_data": round(float(np.mean((rows.actions[:, 0] - best) ** 2 + (rows.actions[:, 3] - 0.2) ** 2)), 4),
        "regret_lowest": round(float(np.var(center(np.arange(3), np.zeros(3)))), 4),
        "compared": [],
        "ms_per_update": [],
    }
    print("regret of the data", result["regret_data"], "lowest", result["regret_lowest"], flush=True)
    for name in ("bc", "bc-best"):
        policy = train(name, rows, "pop", 0, config, progress=False).policy
        result[f"regret_{name}"] = round(regret(lambda o, p=policy: p.act(torch.from_numpy(o)[None])[0].numpy()), 4)
        print(name, result[f"regret_{name}"], flush=True)
    if not options.skip_rivals:
        try:
            result["d3rlpy"] = import_d3rlpy().__version__
            result["compared"] = compared(rows, config, options.seeds)
        except MissingExtraError as error:
            print(f"no comparison: {error}", file=sys.stderr)
    if options.stacks:
        random = random_rows(max(options.stacks))
        for hidden in options.widths:
            for name in (name for name in NEW if name in ALGORITHMS):
                line: dict[str, Any] = {"algorithm": name, "hidden": hidden}
                for count in options.stacks:
                    size = dataclasses.replace(config, hidden=hidden, batch=options.batch)
                    # The fewer updates, the longer each takes.
                    updates = max(9, min(120, 3000 // (count * (1 + 5 * (hidden > 64)))))
                    line[f"stack_{count}"] = ours(name, count, random, size, updates, "cpu")["ms_per_update"]
                result["ms_per_update"].append(line)
                print(*line.values(), sep="\t", flush=True)
    write_json(options.output, result)


if __name__ == "__main__":
    main()
