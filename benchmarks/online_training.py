"""How fast is online training? Parts of an update, and ratios to other ways of doing it, side by side in one run.

    python benchmarks/online_training.py --bank sepsis-v0 --patients 11 110 --shards 22 55
    python benchmarks/online_training.py --bank sepsis-v0 --measure library workers

parts    CPU milliseconds per patient and update, and where they go, for each of `--algorithms`; and what 200,000
         decisions of every patient would take
library  TRPO-Lag of all patients against TRPO of sb3-contrib and PPO of stable-baselines3, on one patient in our single
         environment (pip install sb3-contrib; left out, with a line that says so, where it is missing)
workers  two local workers against one: wall time of `individual policies` of all patients

CPU seconds of this process (not wall time), so that a shared machine gives the same answer, but for the workers; one
torch thread. Writes benchmarks/results/online_training.json.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import machine, rounded
from medgym_offline.compute import keep_memory
from medgym_offline.diseases.sepsis.model import prior_bank
from medgym_offline.envs import TreatmentEnv
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.files import write_json
from medgym_offline.online import TrainConfig, train
from medgym_offline.online.behavior import BehaviorRun
from medgym_offline.online.config import BehaviorRecipe
from medgym_offline.online.jobs import EngineOptions
from medgym_offline.simulators import SimulatorBank, load_simulators

RESULTS = Path(__file__).parent / "results" / "online_training.json"
SPENT: dict[str, float] = defaultdict(float)
EPISODES, PAPER = 52, 200_000
"""Episodes of an update, about 1000 decisions; decisions of a training in the paper."""


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


def watch_parts() -> None:
    """Have the parts of an update timed."""
    # `medgym_offline.online.train` names the function; the modules are taken from the table of modules.
    loop, part, trpo, ppo, sac = (
        sys.modules[f"medgym_offline.online.{name}"] for name in ("train", "learner", "trpo", "ppo", "sac")
    )
    parts = {"noise": [(loop, "training_noise")], "rollout": [(loop, "collect")], "critic": [(part, "fit_critic")]}
    parts["step"] = [(trpo, "trust_region_step"), (ppo, "proximal_step"), (sac.SoftLearner, "step")]
    parts["of it CG"] = [(trpo, "conjugate_gradients")]
    for name, places in parts.items():
        for module, function in places:
            setattr(module, function, timed(name, getattr(module, function)))


def measure(bank: SimulatorBank, algorithm: str, timing: str, updates: int, shard: int) -> dict[str, Any]:
    """Time `updates` updates of every patient of `bank`, by part, and print it."""
    SPENT.clear()
    config = TrainConfig(algorithm, updates=updates, episodes=EPISODES, value_warmup=0)
    start = time.process_time()
    result = train(bank, ProcessConfig(timing=timing), config, shard=shard, progress=False)  # type: ignore[arg-type]
    total = time.process_time() - start
    scale = 1e3 / (updates * len(bank))
    steps = float(result.log["decisions"].mean()) * EPISODES
    speed = steps * updates * len(bank) / total
    parts = {name: seconds * scale for name, seconds in SPENT.items()}
    line = "  ".join(f"{name} {value:5.2f}" for name, value in parts.items())
    whole = PAPER * len(bank) / speed / 60
    print(
        f"{algorithm:8s} {timing:8s} P={len(bank):3d} shard={shard:3d} {steps:4.0f} steps: {total * scale:6.2f} ms per "
        f"update  ({line}); {speed:7.0f} steps/s; {PAPER} steps of each: {whole:.1f} min",
        flush=True,
    )
    facts = {"algorithm": algorithm, "timing": timing, "patients": len(bank), "shard": shard, "steps": steps}
    return facts | {"ms": total * scale, "parts_ms": parts, "steps_per_s": speed, "minutes_of_200k": whole}


def library(bank: SimulatorBank, updates: int) -> dict[str, dict[str, Any]]:
    """Steps per CPU second of a library's TRPO and PPO on one patient; empty where it is not installed."""
    if importlib.util.find_spec("sb3_contrib") is None:
        print("library: left out; pip install sb3-contrib", flush=True)
        return {}
    import sb3_contrib
    import stable_baselines3

    steps = 1024  # a whole number of minibatches
    layers = {"net_arch": [64, 64], "activation_fn": torch.nn.Tanh}
    found = {}
    for name, kind in (("trpo", sb3_contrib.TRPO), ("ppo", stable_baselines3.PPO)):
        environment = TreatmentEnv(bank.patients[0], bank=bank, timing="adaptive")
        learner = kind("MlpPolicy", environment, n_steps=steps, policy_kwargs=layers, device="cpu", seed=0)
        learner.learn(steps)  # the first call of everything does not count
        start = time.process_time()
        learner.learn(updates * steps)
        speed = updates * steps / (time.process_time() - start)
        found[f"library {name}"] = {"version": stable_baselines3.__version__, "steps_per_s": speed, "goal": 10}
    return found


def compare(bank: SimulatorBank, updates: int, shard: int) -> dict[str, Any]:
    """Our TRPO-Lag of all patients of `bank`, and how much faster it is than the others."""
    ours = measure(bank, "trpo-lag", "adaptive", updates, shard)
    others = library(bank, updates)
    for name, facts in others.items():
        facts["ratio"] = ours["steps_per_s"] / facts["steps_per_s"]
        speed, ratio, goal = facts["steps_per_s"], facts["ratio"], facts["goal"]
        print(f"{name}: {speed:.0f} steps/s; ours: {ratio:.1f} times as many (goal {goal})", flush=True)
    return {"ours": ours, **others}


def workers(bank: SimulatorBank, updates: int, shard: int) -> dict[str, Any]:
    """Wall seconds of individual policies of all patients on one and on two local workers."""
    settings = {"ind-scratch": {"updates": updates, "episodes": EPISODES}}
    # A block per worker at least.
    recipe = BehaviorRecipe(shard=min(shard, -(-len(bank) // 2)), settings=settings)
    took = {}
    for count in (1, 2):
        start = time.monotonic()
        run = BehaviorRun(bank, recipe, options=EngineOptions("process", workers=count), progress=False)
        run.train([("ind-scratch", "adaptive")])
        took[count] = time.monotonic() - start
    print(f"workers: {took[1]:.1f} s on one, {took[2]:.1f} s on two: {took[1] / took[2]:.2f} times as fast", flush=True)
    return {"one_s": took[1], "two_s": took[2], "ratio": took[1] / took[2], "goal": 1.8, "updates": updates}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", default="prior", help="a bank, or 'prior' for unfitted draws (solver backend)")
    kinds = ("parts", "library", "workers")
    parser.add_argument("--measure", nargs="+", choices=kinds, default=["parts"])
    parser.add_argument("--algorithms", nargs="+", default=["trpo-lag"])
    parser.add_argument("--patients", type=int, nargs="+", default=[1, 11, 110], help="the last counts for the ratios")
    parser.add_argument("--shards", type=int, nargs="+", default=[22], help="the last counts for the ratios")
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--worker-updates", type=int, default=40, help="long enough that starting a worker is little")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = keep_memory()
    watch_parts()
    whole = prior_bank(max(options.patients)) if options.bank == "prior" else load_simulators(options.bank)
    results: dict[str, Any] = {
        "command": "python benchmarks/online_training.py " + " ".join(sys.argv[1:]),
        "bank": whole.name,
        "machine": machine(keep_memory=kept),
    }
    if "parts" in options.measure:
        results["parts"] = [
            measure(whole.select(range(patients)), algorithm, timing, options.updates, shard)
            for patients in options.patients
            for algorithm in options.algorithms
            for timing in ("fixed", "adaptive")
            for shard in options.shards
        ]
    bank, shard = whole.select(range(options.patients[-1])), options.shards[-1]
    if "library" in options.measure:
        results["ratios"] = compare(bank, options.updates, shard)
    if "workers" in options.measure:
        results["workers"] = workers(bank, options.worker_updates, shard)
    write_json(options.output, rounded(results))


if __name__ == "__main__":
    main()
