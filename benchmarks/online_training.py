"""How long does one policy update of one patient take, and where does the time go?

    python benchmarks/online_training.py --bank sepsis-v0 --patients 11 110

CPU seconds of this process (not wall time), so that a shared machine gives the same answer; one torch thread.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from medgym_offline.envs.process import ProcessConfig
from medgym_offline.online import TrainConfig, train
from medgym_offline.simulators import SimulatorBank, load_simulators
from medgym_offline.simulators.prior import prior_bank

SPENT: dict[str, float] = defaultdict(float)


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its CPU time added to `SPENT[name]`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            SPENT[name] += time.process_time() - start

    return wrapped


def measure(bank: SimulatorBank, timing: str, updates: int, shard: int) -> None:
    """Print the time of `updates` updates of every patient of `bank`, by part."""
    SPENT.clear()
    config = TrainConfig(updates=updates, value_warmup=0)
    start = time.process_time()
    result = train(bank, ProcessConfig(timing=timing), config, shard=shard, progress=False)  # type: ignore[arg-type]
    scale = 1e3 / (updates * len(bank))
    total = (time.process_time() - start) * scale
    steps = float(result.log["decisions"].mean()) * config.episodes
    line = "  ".join(f"{name} {seconds * scale:5.2f}" for name, seconds in SPENT.items())
    print(
        f"{timing:8s} P={len(bank):3d} shard={shard:3d} {steps:4.0f} steps: {total:6.2f} ms per update  ({line})",
        flush=True,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", default="prior", help="a bank, or 'prior' for unfitted draws (solver backend)")
    parser.add_argument("--patients", type=int, nargs="+", default=[1, 11, 110])
    parser.add_argument("--shards", type=int, nargs="+", default=[22])
    parser.add_argument("--updates", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # `medgym_offline.online.train` names the function; the modules are taken from the table of modules.
    loop, part, trpo = (sys.modules[f"medgym_offline.online.{name}"] for name in ("train", "update", "trpo"))
    parts = {"noise": (loop, "training_noise"), "rollout": (loop, "collect"), "critic": (part, "fit_critic")}
    parts |= {"step": (part, "trust_region_step"), "of it CG": (trpo, "conjugate_gradients")}
    for name, (module, function) in parts.items():
        setattr(module, function, timed(name, getattr(module, function)))
    for patients in options.patients:
        bank = prior_bank(patients) if options.bank == "prior" else load_simulators(options.bank)
        bank = bank.select(range(patients))
        for timing in ("fixed", "adaptive"):
            for shard in options.shards:
                measure(bank, timing, options.updates, shard)


if __name__ == "__main__":
    main()
