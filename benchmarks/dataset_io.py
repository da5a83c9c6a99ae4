"""How fast and how small are our dataset files beside Minari's own route? Both in one run, on the same episodes.

    python benchmarks/dataset_io.py                    # 500 episodes, seconds
    python benchmarks/dataset_io.py --episodes 11000   # the size of medgym/sepsis-ind-v0, minutes

Writes `benchmarks/results/dataset_io.json`. Episodes are random numbers of the right shapes: only their layout counts.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "dataset_io.json"
DECISIONS = 20


def episodes_of(count: int, decisions: int = DECISIONS) -> Any:
    """`count` episodes as an `EpisodeBlock`."""
    from medgym_offline.datasets.hdf5 import INFOS, EpisodeBlock

    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal((count, *shape), dtype=np.float32)

    terminations = np.zeros((count, decisions), bool)
    terminations[:, -1] = True
    return EpisodeBlock(
        observations=normal(decisions + 1, 9),
        actions=np.tanh(normal(decisions, 4)),
        rewards=normal(decisions),
        terminations=terminations,
        truncations=np.zeros((count, decisions), bool),
        infos={name: normal(decisions + 1) for name in INFOS},
        lengths=np.full(count, decisions),
        seeds=np.arange(count),
        patient=(np.arange(count) // 100).astype(np.int32),
        episode=np.arange(count, dtype=np.int32),
    )


def seconds(action: Callable[[], Any], repeats: int = 1) -> float:
    """Least wall time of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def write_stock(block: Any) -> None:
    """Minari's `create_dataset_from_buffers`, given whole arrays (the fastest way to use it)."""
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            id=None,
            seed=int(block.seeds[e]),
            options={"patient_index": int(block.patient[e])},
            observations=block.observations[e],
            actions=block.actions[e],
            rewards=block.rewards[e],
            terminations=block.terminations[e],
            truncations=block.truncations[e],
            infos={name: values[e] for name, values in block.infos.items()},
        )
        for e in range(len(block))
    ]
    minari.create_dataset_from_buffers(
        "bench/stock-v0",
        buffers,
        observation_space=Box(-np.inf, np.inf, (9,), np.float32),
        action_space=Box(-1, 1, (4,), np.float32),
    )


def write_ours(block: Any, folder: Path) -> None:
    """Our HDF5 file, flat cache and content hash, as generation writes them."""
    from medgym_offline.datasets.flat import ContentHash, FlatWriter
    from medgym_offline.datasets.hdf5 import EpisodeWriter

    patients = tuple(f"patient/{i}" for i in range(int(block.patient.max()) + 1))
    folder.mkdir(parents=True, exist_ok=True)
    digest = ContentHash()
    with EpisodeWriter(folder / "main_data.hdf5", patients) as writer, FlatWriter(folder / "flat") as flat:
        columns = block.columns()
        writer.write(block)
        flat.write(columns)
        digest.update(columns)


def iterate_stock() -> float:
    """Minari's route to arrays: every episode, concatenated."""
    import minari

    episodes = [(e.observations[:-1], e.actions, e.rewards) for e in minari.load_dataset("bench/stock-v0")]
    return float(sum(np.concatenate(part).sum(dtype=np.float64) for part in zip(*episodes)))


def load_ours(folder: Path) -> float:
    """Our route: the flat cache, every number of three columns read."""
    from medgym_offline.datasets.flat import read_flat

    columns = read_flat(folder / "flat")
    return float(sum(columns[name].sum(dtype=np.float64) for name in ("observations", "actions", "rewards")))


def rebuild_ours(folder: Path) -> None:
    """The flat columns from our HDF5 file, where the cache is absent."""
    from medgym_offline.datasets.hdf5 import read_blocks

    for block in read_blocks(folder / "main_data.hdf5", (9, 4)):
        block.columns()


def measure(count: int) -> dict[str, Any]:
    """All numbers for `count` episodes."""
    block = episodes_of(count)
    home = Path(tempfile.mkdtemp(prefix="dataset-io-"))
    os.environ["MINARI_DATASETS_PATH"] = str(home / "minari")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stock = seconds(lambda: write_stock(block))
        ours = seconds(lambda: write_ours(block, home / "ours"))
        totals: list[float] = []
        iterate = seconds(lambda: totals.append(iterate_stock()))
        load = seconds(lambda: totals.append(load_ours(home / "ours")), repeats=3)
        if not np.allclose(totals, totals[0], rtol=1e-9):
            raise RuntimeError(f"the two routes read different numbers: {totals}")
        rebuild = seconds(lambda: rebuild_ours(home / "ours"))
        stock_bytes = next((home / "minari").rglob("main_data.hdf5")).stat().st_size
        our_bytes = (home / "ours" / "main_data.hdf5").stat().st_size
    finally:
        shutil.rmtree(home)
    return {
        "episodes": count,
        "decisions": DECISIONS,
        "write_s": {"minari": round(stock, 3), "ours": round(ours, 3), "ratio": round(stock / ours, 1)},
        "load_s": {"minari": round(iterate, 4), "ours": round(load, 5), "ratio": round(iterate / load, 1)},
        "rebuild_flat_s": round(rebuild, 3),
        "bytes_per_episode": {
            "minari": round(stock_bytes / count),
            "ours": round(our_bytes / count),
            "ratio": round(stock_bytes / our_bytes, 1),
        },
    }


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    import h5py
    import minari

    from medgym_offline.files import json_text, write_json

    measure(20)  # imports and first files
    found = measure(arguments.episodes)
    found["machine"] = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "minari": minari.__version__,
        "h5py": h5py.__version__,
    }
    write_json(arguments.output, found)
    print(json_text(found))


if __name__ == "__main__":
    main()
