"""How fast and how small are our dataset files beside Minari's own route, and how long does a dataset take to make?

    python benchmarks/dataset_io.py                   # 2000 episodes, and medgym/sepsis-ind-v0 whole: minutes
    python benchmarks/dataset_io.py --patients 10     # a tenth of that dataset
    python benchmarks/dataset_io.py --episodes 11000  # the comparison at the size of that dataset, many minutes

Everything is measured in one run. Writes `benchmarks/results/dataset_io.json`. Files are compared on the same episodes
of random numbers of the right shapes: only their layout counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timing

RESULTS = Path(__file__).parent / "results" / "dataset_io.json"
DECISIONS = 20
OURS = "bench/ours-v0"


def episodes_of(count: int, decisions: int = DECISIONS) -> Any:
    """`count` episodes as an `EpisodeBlock`."""
    from medgym_offline.datasets.hdf5 import EpisodeBlock
    from medgym_offline.datasets.transitions import COLUMNS

    rng, rows = np.random.default_rng(0), count * decisions
    widths = {"observations": (9,), "next_observations": (9,), "actions": (4,), "costs_path": (1,), "costs_peak": (1,)}
    columns = {name: rng.standard_normal((rows, *widths.get(name, ())), dtype=np.float32) for name in COLUMNS}
    seen = rng.standard_normal((count, decisions + 1, 9), dtype=np.float32)
    columns["observations"], columns["next_observations"] = (x.reshape(rows, 9) for x in (seen[:, :-1], seen[:, 1:]))
    columns["actions"] = np.tanh(columns["actions"])
    columns["terminations"] = np.arange(rows) % decisions == decisions - 1
    columns["truncations"] = np.zeros(rows, bool)
    columns["episode"] = np.repeat(np.arange(count, dtype=np.int32), decisions)
    columns["patient"] = columns["episode"] // 100
    reset = {name: np.zeros(count, np.float32) for name in ("severity", "monitored")}
    return EpisodeBlock(columns, reset, np.arange(count))


def seconds(action: Callable[[], Any], repeats: int = 1) -> float:
    """Least wall time of `repeats` calls."""
    return timing.seconds(action, repeats, time.perf_counter, warm=False)


def both(stock: Callable[[], Any], ours: Callable[[], Any], repeats: int = 1) -> dict[str, Any]:
    """Wall and processor seconds of Minari's route (once) and of ours (the least of `repeats`), and their ratios.

    On a machine that others use the processor's time says more.
    """
    found: dict[str, Any] = {}
    processor: list[float] = []
    for name, action, times in (("minari", stock, 1), ("ours", ours, repeats)):
        walls = []
        for _ in range(times):
            start = time.process_time()
            walls.append(seconds(action))
            processor.append(time.process_time() - start)
        found[name] = round(min(walls), 5)
        found[f"{name}_cpu"] = round(min(processor[-times:]), 5)
    found["ratio"] = round(found["minari"] / found["ours"], 1)
    found["ratio_cpu"] = round(found["minari_cpu"] / max(found["ours_cpu"], 1e-6), 1)
    return found


def write_stock(block: Any) -> None:
    """Minari's `create_dataset_from_buffers`, given whole arrays (the fastest way to use it)."""
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    rows, starts = block.columns, block.starts
    ends = np.r_[starts[1:], len(rows["rewards"])]
    buffers = []
    for e, (start, end) in enumerate(zip(starts, ends)):
        own = {name: values[start:end] for name, values in rows.items()}
        infos = {name: np.r_[own[name][:1], own[name]] for name in ("costs", "dt", "time", "severity", "monitored")}
        infos |= {name: np.r_[own[name][:1], own[name]] for name in ("costs_path", "costs_peak", "behavior_log_prob")}
        buffers.append(
            EpisodeBuffer(
                id=None,
                seed=int(block.seeds[e]),
                options={"patient_index": int(own["patient"][0])},
                observations=np.r_[own["observations"][:1], own["next_observations"]],
                actions=own["actions"],
                rewards=own["rewards"],
                terminations=own["terminations"],
                truncations=own["truncations"],
                infos=infos,
            )
        )
    minari.create_dataset_from_buffers(
        "bench/stock-v0",
        buffers,
        observation_space=Box(-np.inf, np.inf, (9,), np.float32),
        action_space=Box(-1, 1, (4,), np.float32),
    )


def write_ours(block: Any, root: Path) -> None:
    """Our HDF5 file, flat cache and content hash, as generation writes them, under `root`; `load_dataset` reads it."""
    from medgym_offline.datasets.catalogue import dataset_folder
    from medgym_offline.datasets.hdf5 import write_episodes
    from medgym_offline.datasets.transitions import Transitions, content_hash, flat_name, write_flat
    from medgym_offline.diseases.registry import disease

    folder = dataset_folder(OURS, root)
    patients = tuple(f"patient/{i}" for i in range(int(block.columns["patient"].max()) + 1))
    (folder / "data").mkdir(parents=True)
    file = folder / "data" / "main_data.hdf5"
    write_episodes(file, block, patients, disease("sepsis"))
    ours: dict[str, Any] = {"patients": patients, "timing": "adaptive", "decisions": DECISIONS}
    rows = Transitions(**block.columns, **ours)
    ours |= {"content_hash": content_hash(rows), "bytes": file.stat().st_size}
    write_flat(folder / flat_name(ours["content_hash"]), rows)
    ours |= {"disease": "sepsis", "identity": "0" * 64}
    counts = {"dataset_id": OURS, "total_episodes": len(block.seeds), "total_steps": len(rows)}
    counts |= {"env_spec": "{}", "eval_env_spec": "{}"}
    (folder / "data" / "metadata.json").write_text(json.dumps(counts | {"medgym": ours}))


def iterate_stock() -> float:
    """Minari's route to arrays: every episode, concatenated."""
    import minari

    episodes = [(e.observations[:-1], e.actions, e.rewards) for e in minari.load_dataset("bench/stock-v0")]
    return float(sum(np.concatenate(part).sum(dtype=np.float64) for part in zip(*episodes)))


def load_ours(root: Path) -> float:
    """Our route: `load_dataset`, every number of three columns read."""
    from medgym_offline.datasets import load_dataset

    rows = load_dataset(OURS, root=root, progress=False)
    return float(sum(getattr(rows, name).sum(dtype=np.float64) for name in ("observations", "actions", "rewards")))


def rebuild_ours(root: Path) -> None:
    """The flat columns from our HDF5 file, where the cache is absent."""
    from medgym_offline.datasets.catalogue import dataset_folder
    from medgym_offline.datasets.hdf5 import read_episodes
    from medgym_offline.diseases.registry import disease

    assert read_episodes(dataset_folder(OURS, root) / "data" / "main_data.hdf5", disease("sepsis"), "adaptive").columns


def compare(count: int) -> dict[str, Any]:
    """Both routes on the same `count` episodes."""
    block = episodes_of(count)
    with tempfile.TemporaryDirectory(prefix="dataset-io-") as place:
        home = Path(place)
        os.environ["MINARI_DATASETS_PATH"] = str(home / "minari")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write = both(lambda: write_stock(block), lambda: write_ours(block, home))
        totals: list[float] = []
        load = both(lambda: totals.append(iterate_stock()), lambda: totals.append(load_ours(home)), repeats=3)
        if not np.allclose(totals, totals[0], rtol=1e-9):
            raise RuntimeError(f"the two routes read different numbers: {totals}")
        rebuild = seconds(lambda: rebuild_ours(home))
        stock_bytes = next((home / "minari").rglob("main_data.hdf5")).stat().st_size
        our_bytes = next((home / "bench" / "ours-v0").rglob("main_data.hdf5")).stat().st_size
    return {
        "episodes": count,
        "decisions": DECISIONS,
        "write_s": write,
        "load_s": load,
        "rebuild_flat_s": round(rebuild, 3),
        "bytes_per_episode": {
            "minari": round(stock_bytes / count),
            "ours": round(our_bytes / count),
            "ratio": round(stock_bytes / our_bytes, 1),
        },
    }


def generation(dataset: str, patients: int | None) -> dict[str, Any]:
    """`generate` from recipe to finished folder, with references and card: wall and processor seconds."""
    from medgym_offline.datasets import generate, list_recipes

    part = {} if patients is None else {"patients": patients, "output_id": "bench/generated-v0"}
    with tempfile.TemporaryDirectory(prefix="dataset-io-") as place:
        os.environ["MEDGYM_CACHE"] = str(Path(place) / "cache")
        before, start = time.process_time(), time.perf_counter()
        made = generate(dataset, root=Path(place) / "minari", progress=False, **part)
        wall, processor = time.perf_counter() - start, time.process_time() - before
        file = made.manifest["files"]["data/main_data.hdf5"]["bytes"]
        return {
            "dataset": dataset,
            "patients": len(made.manifest["patients"]),
            "episodes_per_patient": list_recipes()[dataset].episodes,
            "rows": made.steps,
            "wall_s": round(wall, 1),
            "cpu_s": round(processor, 1),
            "bytes_per_episode": round(file / made.episodes),
        }


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=2000, help="of the comparison with Minari's route")
    parser.add_argument("--dataset", default="medgym/sepsis-ind-v0", help="to generate")
    parser.add_argument("--patients", type=int, help="of the generated dataset; all by default")
    arguments = parser.parse_args()
    import h5py
    import minari

    from medgym_offline.files import json_text, write_json

    compare(20)  # imports and first files
    found = compare(arguments.episodes)
    found["generation"] = generation(arguments.dataset, arguments.patients)
    versions = {"minari": minari.__version__, "h5py": h5py.__version__}
    found["machine"] = timing.machine(nice=os.nice(0), **versions)
    write_json(RESULTS, found)
    print(json_text(found))


if __name__ == "__main__":
    main()
