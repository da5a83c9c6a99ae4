"""Online learning in type 1 diabetes: whose policy, which timing, trained where; scored on the published patients.

    python experiments/diabetes/online.py train NAME...     trains and scores what is not in the results yet
    python experiments/diabetes/online.py table             the tables, from all results that are there

Every row of the results (online.parquet) is one patient over 64 days that no training saw, deterministic actions.
`harm` is the mean risk, not capped. Training and its checkpoints lie in runs/diabetes-online.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

import medgym_offline as mgo
from medgym_offline.diseases.base import Course
from medgym_offline.diseases.diabetes.people import find
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.files import atomic_path
from medgym_offline.online.behavior import BehaviorRun
from medgym_offline.online.recipe import load_recipe
from medgym_offline.policies import builtin_policy, reset_policy

HERE = Path(__file__).parent
RESULTS = HERE / "online.parquet"
RUNS = Path("runs/diabetes-online")
BEHAVIORS = Path("runs/behaviors/checkpoints/diabetes-v0")
DAYS, SEED = 64, 7
TRAINED = {
    f"{algorithm}-{world}-{scope}-{timing}": (algorithm, world, scope, timing)
    for algorithm, world, scope in (
        ("trpo", "true", "oracle"),
        ("trpo", "true", "dr"),
        ("trpo", "true", "dr-told"),
        ("trpo", "own", "ind-scratch"),
        ("trpo", "own", "dr"),
        ("trpo", "own", "pop"),
        ("trpo-lag", "own", "ind"),
        ("trpo-lag", "own", "dr"),
        ("trpo-lag", "own", "pop"),
    )
    for timing in ("adaptive", "fixed")
}
BUILTIN = {f"{name}-adaptive": name for name in ("clinician", "random", "zero")}


def bank_of(world: str, scope: str) -> mgo.SimulatorBank:
    """The 30 patients in a world; "dr-told" sees the daily insulin."""
    bank = mgo.load_simulators("diabetes-v0").world(world)
    if scope != "dr-told":
        return bank
    context = bank.context.clone()
    context[:, 1] = torch.from_numpy(find(bank.patients)["TDI"]).float()
    return bank.replace(context=context, content_hash=None)


def trained(name: str):
    """The policy of a name in :data:`TRAINED`."""
    algorithm, world, scope, timing = TRAINED[name]
    recipe = load_recipe("generation/diabetes-behaviors.toml")
    if algorithm == "trpo":
        # Without its multiplier the constrained form is plain TRPO.
        # In the learned simulators 60 updates: more of them exploit what is wrong there.
        few = {"updates": 60, "first_doses": (0.014, 0.03)} if world == "own" else {}
        recipe = replace(recipe, settings={s: {**v, "multiplier_max": 0.0, **few} for s, v in recipe.settings.items()})
    folder = BEHAVIORS if algorithm == "trpo-lag" else RUNS / f"{world}-told" if scope == "dr-told" else RUNS / world
    job = BehaviorRun(bank_of(world, scope), recipe, folder)
    which = (scope.removesuffix("-told"), timing)
    job.train([which])
    return job.results[which].policy


def score(name: str, policy: object, scope: str, timing: str) -> pl.DataFrame:
    """Metrics per world and patient."""
    rows = []
    for world in ("own", "true"):
        bank = bank_of(world, scope)
        config = ProcessConfig(timing=timing, disease="diabetes", path_costs=True)
        process = DecisionProcess(bank, config)
        seeds = episode_seeds(SEED, "diabetes-online", bank.patients, DAYS)
        reset_policy(policy, seeds)
        played = rollout(process, policy.act, draw_noise(seeds, bank, config))
        grid = np.arange(289) / 12
        states, _ = dense(process, played, torch.from_numpy(grid).float())
        course = Course(bank.disease, bank.scales, grid, 1, states, played.treatments, played.dt.numpy())
        found = {m.name: m.compute(course).mean(-1) for m in bank.disease.metrics if m.compute}
        found["harm"] = found["lbgi"] + found["hbgi"]
        found["return"] = played.rewards.sum(-1).mean(-1).numpy()
        found["decisions"] = played.valid.float().sum(-1).mean(-1).numpy()
        rows.append(pl.DataFrame({"name": name, "world": world, "patient": bank.patients, **found}))
    return pl.concat(rows)


def results() -> dict[str, pl.DataFrame]:
    """What is known of each policy, by name."""
    if not RESULTS.exists():
        return {}
    return {str(name): rows for (name,), rows in pl.read_parquet(RESULTS).group_by("name", maintain_order=True)}


def train(names: list[str]) -> None:
    """Train and score; what is there is left."""
    for name in names:
        if name in (known := results()):
            continue
        if name in BUILTIN:
            timing, scope = "adaptive", ""
            policy = builtin_policy(BUILTIN[name], bank_of("true", ""), timing)
        else:
            _, _, scope, timing = TRAINED[name]
            policy = trained(name)
        known[name] = score(name, policy, scope, timing)
        with atomic_path(RESULTS) as temporary:
            pl.concat(known[n] for n in sorted(known)).write_parquet(temporary)
        print("done", name, flush=True)


def gain(better: np.ndarray, worse: np.ndarray) -> str:
    """Median and quartiles of the gain per patient, and in how many it is one."""
    share = 100.0 * (worse - better) / worse
    low, middle, high = np.quantile(share, [0.25, 0.5, 0.75])
    return f"{middle:.1f} % ({low:.0f}..{high:.0f}), {(share > 0).sum()} of {len(share)}"


def table() -> None:
    """Write the tables."""
    parts = results()
    lines = [
        "# Online learning in type 1 diabetes",
        "",
        f"Made by `{Path(__file__).name} table`; {DAYS} days a patient.",
        "",
    ]
    lines += ["| policy | harm own | **harm true** | TIR | < 70 | < 54 | lows a day, unseen | deep lows, unseen |"]
    lines += ["|-|-|-|-|-|-|-|-|"]
    for name in [*TRAINED, *BUILTIN]:
        if name not in parts:
            continue
        mean = {w: parts[name].filter(pl.col("world") == w).mean().row(0, named=True) for w in ("own", "true")}
        t = mean["true"]
        unseen = [
            f"{t[k + '_events']:.2f}, {100 * t[k + '_unseen'] / max(t[k + '_events'], 1e-9):.0f} %"
            for k in ("low", "very_low")
        ]
        lines.append(
            f"| {name} | {mean['own']['harm']:.2f} | **{t['harm']:.2f}** | {t['time_in_range']:.1f} "
            f"| {t['time_below_70']:.2f} | {t['time_below_54']:.2f} | {unseen[0]} | {unseen[1]} |"
        )
    lines += [
        "",
        "Gain of harm on the true patients: median (quartiles), better in so many.",
        "",
        "| | gain |",
        "|-|-|",
    ]
    pairs = []
    for kind, ind in (("trpo-true", "oracle"), ("trpo-own", "ind-scratch"), ("trpo-lag-own", "ind")):
        pairs += [(f"{kind}-{s}-adaptive", f"{kind}-{s}-fixed") for s in (ind, "dr", "pop")]
        pairs += [
            (f"{kind}-{ind}-{t}", f"{kind}-{s}-{t}") for s in ("dr", "dr-told", "pop") for t in ("adaptive", "fixed")
        ]
    for better, worse in pairs:
        if better in parts and worse in parts:
            harm = [parts[n].filter(pl.col("world") == "true")["harm"].to_numpy() for n in (better, worse)]
            lines.append(f"| {better} over {worse} | {gain(*harm)} |")
    (HERE / "online.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("train", "table"))
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*TRAINED, *BUILTIN])}")
    options = parser.parse_args()
    train(options.names) if options.command == "train" else table()
