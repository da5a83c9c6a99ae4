"""Online learning in type 1 diabetes: whose policy, which timing, how many decisions, trained where.

    python experiments/diabetes/online.py train NAME...     trains and scores what is not in the results yet
    python experiments/diabetes/online.py train all         everything that is missing
    python experiments/diabetes/online.py table             the tables, from all results that are there

Every row of the results (online.parquet) is one patient over 64 days that no training saw, deterministic actions,
scored on the published patients and in the learned simulators. `harm` is the mean risk, not capped. Training and its
checkpoints lie in runs/diabetes-online. Budgets of decisions, ceilings and both costs are of every third patient (10).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

import medgym_offline as mgo
from medgym_offline.diseases.base import Course
from medgym_offline.diseases.diabetes.people import find
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import EpisodeNoise, Rollout, dense, draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import interval_to_action
from medgym_offline.files import atomic_path
from medgym_offline.online.behavior import BehaviorRun
from medgym_offline.online.recipe import load_behavior, load_recipe
from medgym_offline.policies import builtin_policy, reset_policy
from medgym_offline.seeds import torch_generator

HERE = Path(__file__).parent
RESULTS = HERE / "online.parquet"
RUNS = Path("runs/diabetes-online")
DAYS, SEED, DECISIONS = 64, 7, 5
BUDGETS = (4, 5, 6, 8, 10, 12)
TIMINGS = ("adaptive", "fixed")
FEWER = 3
"""Budgets, ceilings and both costs are of every third patient."""
BOUND_DAYS, BLIND_DAYS, CANDIDATES, ELITES, ROUNDS = 8, 16, 64, 8, 60
"""Cross-entropy search: days that are foreseen, days that one plan has to serve, plans a round, those kept, rounds."""
# As a prototype had it best: larger steps and no entropy bonus, since the spread starts small.
PROXIMAL = {"policy_rate": 1e-3, "policy_epochs": 5, "minibatch": 96, "entropy": 0.0}
# 1 % of the time, or of the decisions' ends, below 70 mg/dL; costs at ends count 1 instead of 4.8 h.
LIMITS = {
    "path": {"cost_limit": 0.048, "multiplier_rate": 1.0, "multiplier_max": 2.0},
    "end": {"cost_limit": 0.01, "multiplier_rate": 4.8, "multiplier_max": 2.0},
}


@dataclass(frozen=True)
class Trial:
    """A policy to train: how, in which world, whose, and when it decides.

    Attributes:
        algorithm: Of `medgym_offline.online`.
        world: Trained in.
        scope: Of behavior policies, "dr-told" for one that sees the daily insulin.
        timing: "adaptive" or "fixed".
        decisions: Budget K.
        cost: What is limited: "path", hours below 70 mg/dL, or "end", decisions that end there.
    """

    algorithm: str
    world: str
    scope: str
    timing: str
    decisions: int = DECISIONS
    cost: str = "path"

    @property
    def few(self) -> bool:
        """Whether it is of every third patient."""
        return self.decisions != DECISIONS or (self.algorithm, self.scope) == ("trpo-lag", "oracle")

    @property
    def name(self) -> str:
        """As the results call it."""
        budget = "" if self.decisions == DECISIONS else f"-k{self.decisions}"
        cost = f"-{self.cost}" if (self.algorithm, self.scope) == ("trpo-lag", "oracle") else ""
        return f"{self.algorithm}-{self.world}-{self.scope}-{self.timing}{budget}{cost}"


COMPARED = (
    ("trpo", "true", "oracle"),
    ("trpo", "true", "dr"),
    ("trpo", "true", "dr-told"),
    ("trpo", "own", "ind-scratch"),
    ("trpo", "own", "dr"),
    ("trpo", "own", "pop"),
    ("trpo-lag", "own", "ind"),
    ("trpo-lag", "own", "dr"),
    ("trpo-lag", "own", "pop"),
    ("ppo-lag", "own", "ind"),
    ("ppo-lag", "own", "dr"),
    ("ppo-lag", "own", "pop"),
)
TRIALS = [Trial(*kind, timing) for kind in COMPARED for timing in TIMINGS]
BUDGETED = [Trial("trpo", "true", "oracle", timing, k) for k in BUDGETS for timing in TIMINGS]
CONSTRAINED = [Trial("trpo-lag", "true", "oracle", timing, cost=cost) for cost in LIMITS for timing in TIMINGS]
TRAINED = {trial.name: trial for trial in (*TRIALS, *BUDGETED, *CONSTRAINED)}
BUILTIN = {f"{name}-adaptive": name for name in ("clinician", "random", "zero")}
CEILINGS = {
    f"{kind}-{timing}": (kind, timing) for kind in ("blind", "expert", "foreseen") for timing in ("fixed", "adaptive")
}
MISSING = (
    *(t.name for t in TRIALS if t.name not in ("trpo-own-pop-adaptive", "trpo-own-pop-fixed")),
    *(t.name for t in (*CONSTRAINED, *BUDGETED)),
    *CEILINGS,
    *BUILTIN,
)
"""What "all" stands for."""


def bank_of(world: str, scope: str = "", few: bool = False) -> mgo.SimulatorBank:
    """The 30 patients in a world, or every third; "dr-told" sees the daily insulin."""
    bank = mgo.load_simulators("diabetes-v0").world(world)
    if few:
        bank = bank.select(bank.patients[::FEWER])
    if scope != "dr-told":
        return bank
    context = bank.context.clone()
    context[:, 1] = torch.from_numpy(find(bank.patients)["TDI"]).float()
    return bank.replace(context=context, content_hash=None)


def trained(trial: Trial) -> Any:
    """The policy of a trial."""
    recipe = load_recipe("generation/diabetes-behaviors.toml")
    changed: dict[str, Any] = {}
    if trial.algorithm == "trpo":
        # Without its multiplier the constrained form is plain TRPO.
        # In the learned simulators 60 updates: more of them exploit what is wrong there.
        changed = {"multiplier_max": 0.0}
        if trial.world == "own":
            changed |= {"updates": 60, "first_doses": (0.014, 0.03)}
    elif trial.algorithm == "ppo-lag":
        recipe, changed = replace(recipe, algorithm="ppo-lag"), PROXIMAL
    elif trial.scope == "oracle":
        changed = LIMITS[trial.cost]
    recipe = replace(
        recipe,
        decisions=trial.decisions,
        path_costs=trial.cost == "path",
        settings={scope: {**values, **changed} for scope, values in recipe.settings.items()},
    )
    apart = (
        f"{trial.algorithm}-{trial.world}"
        + ("-told" if trial.scope == "dr-told" else "")
        + ("" if trial.decisions == DECISIONS else f"-k{trial.decisions}")
        + ("" if trial.scope != "oracle" else f"-{trial.cost}")
    )
    bank = bank_of(trial.world, trial.scope, trial.few)
    job = BehaviorRun(bank, recipe, RUNS / apart, progress=False)
    which = (trial.scope.removesuffix("-told"), trial.timing)
    job.train([which])
    return job.results[which].policy


def measured(name: str, world: str, process: DecisionProcess, played: Rollout) -> pl.DataFrame:
    """Metrics per patient of played days; `low_ends` is the share of decisions that end below 70 mg/dL, %."""
    bank = process.bank
    grid = np.arange(289) / 12
    states, _ = dense(process, played, torch.from_numpy(grid).float())
    course = Course(bank.disease, bank.scales, grid, 1, states, played.treatments, played.dt.numpy())
    found = {m.name: m.compute(course).mean(-1) for m in bank.disease.metrics if m.compute}
    found["harm"] = found["lbgi"] + found["hbgi"]
    found["return"] = played.rewards.sum(-1).mean(-1).numpy()
    found["decisions"] = played.valid.float().sum(-1).mean(-1).numpy()
    found["low_ends"] = 100.0 * (played.costs.sum((1, 2)) / played.valid.sum((1, 2))).double().numpy()
    return pl.DataFrame({"name": name, "world": world, "patient": bank.patients, **found})


def score(
    name: str, policy: Any, scope: str, timing: str, decisions: int = DECISIONS, few: bool = False
) -> pl.DataFrame:
    """Metrics per world and patient."""
    rows = []
    for world in ("own", "true"):
        bank = bank_of(world, scope, few)
        config = ProcessConfig(timing=timing, decisions=decisions, disease="diabetes", path_costs=True)  # type: ignore[arg-type]
        process = DecisionProcess(bank, config)
        seeds = episode_seeds(SEED, "diabetes-online", bank.patients, DAYS)
        reset_policy(policy, seeds)
        rows.append(measured(name, world, process, rollout(process, policy.act, draw_noise(seeds, bank, config))))
    return pl.concat(rows)


# -- ceilings ----------------------------------------------------------------------------------------------------------


def repeated(noise: EpisodeNoise, times: int) -> EpisodeNoise:
    """Every episode `times` times, side by side."""
    parts = (noise.initial, noise.process, noise.action, noise.exogenous)
    return EpisodeNoise(*(None if x is None else x.repeat_interleave(times, 1) for x in parts))  # type: ignore[arg-type]


def played_plans(process: DecisionProcess, noise: EpisodeNoise, plans: Tensor) -> Rollout:
    """Days under given actions (P, B, K, A), whatever is seen."""
    steps = iter(plans.unbind(2))
    return rollout(process, lambda seen: next(steps), noise)


def searched(process: DecisionProcess, noise: EpisodeNoise, starts: Sequence[Tensor], shared: bool) -> Tensor:
    """Actions (P, B, K, A) of the largest return found, by cross-entropy search from starts of that shape.

    With `shared` one plan serves all days of a patient; the days are then drawn for the search alone.
    """
    patients, days = noise.initial.shape[:2]
    many, group = repeated(noise, CANDIDATES), 1 if shared else days
    source = torch_generator(SEED, "diabetes plans")

    def returns(plans: Tensor) -> Tensor:
        """(P, group, N) of plans (P, group, N, K, A)."""
        every = plans.expand(-1, days, *plans.shape[2:]).flatten(1, 2)
        found = played_plans(process, many, every).rewards.sum(-1).unflatten(1, (days, CANDIDATES))
        return found.mean(1, keepdim=True) if shared else found

    shape = (patients, group, CANDIDATES, *starts[0].shape[2:])
    tried = torch.stack([starts[i % len(starts)][:, :group] for i in range(CANDIDATES)], 2)
    best, top = starts[0][:, :group].clone(), torch.full((patients, group), -torch.inf)
    middle, spread = best, torch.full_like(best, 0.3)
    for number in range(ROUNDS + 1):
        value = returns(tried)
        first = value.argmax(-1)
        pick = tried.gather(2, first[..., None, None, None].expand(-1, -1, 1, *shape[3:]))[:, :, 0]
        higher = value.amax(-1) > top
        best = torch.where(higher[..., None, None], pick, best)
        top = torch.maximum(top, value.amax(-1))
        if number:
            elite = value.topk(ELITES, -1).indices[..., None, None].expand(-1, -1, -1, *shape[3:])
            chosen = tried.gather(2, elite)
            middle, spread = 0.3 * middle + 0.7 * chosen.mean(2), 0.3 * spread + 0.7 * chosen.std(2)
        else:
            middle = best
        tried = middle[:, :, None] + (spread + 0.01)[:, :, None] * torch.randn(shape, generator=source)
        tried = tried.clamp(-1.0, 1.0)
        tried[:, :, 0] = best
    return best.expand(-1, days, -1, -1)


def ceiling(kind: str, timing: str) -> pl.DataFrame:
    """What a day can be: `foreseen`, the best plan found for a day whose meals are known; `expert`, each patient's own
    policy trained on the truth, on the same days; `blind`, one plan for all days that never looks."""
    bank = bank_of("true", few=True)
    config = ProcessConfig(timing=timing, disease="diabetes", path_costs=True)  # type: ignore[arg-type]
    process = DecisionProcess(bank, config)
    noise = draw_noise(episode_seeds(SEED, "diabetes-online", bank.patients, BOUND_DAYS), bank, config)
    expert = load_behavior(bank.name, "oracle", timing).select(bank.patients)
    played = rollout(process, expert.act, noise)
    if kind == "expert":
        return measured(f"{kind}-{timing}", "true", process, played)
    starts, drawn = [played.actions], noise
    if kind == "blind":
        seeds = episode_seeds(SEED, "diabetes-blind", bank.patients, BLIND_DAYS)
        drawn = draw_noise(seeds, bank, config)
        mean = played.actions.mean(1, keepdim=True)
        starts = [mean.expand(-1, BLIND_DAYS, -1, -1)]
    if timing == "adaptive":
        # What fixed timing reaches is within reach.
        fixed = DecisionProcess(bank, replace(config, timing="fixed"))
        plain = replace(drawn, action=drawn.action[..., :-1])
        own = load_behavior(bank.name, "oracle", "fixed").select(bank.patients)
        first = rollout(fixed, own.act, plain).actions
        if kind == "blind":
            first = first.mean(1, keepdim=True).expand_as(first)
        found = searched(fixed, plain, [first], kind == "blind")
        even = interval_to_action(torch.full((*found.shape[:3], 1), config.horizon / DECISIONS), config)
        starts.append(torch.cat([found, even.to(found)], -1))
    plans = searched(process, drawn, starts, kind == "blind")[:, :1] if kind == "blind" else None
    if plans is None:
        plans = searched(process, drawn, starts, False)
    return measured(
        f"{kind}-{timing}", "true", process, played_plans(process, noise, plans.expand(-1, BOUND_DAYS, -1, -1))
    )


# -- runs and tables ---------------------------------------------------------------------------------------------------


def results() -> dict[str, pl.DataFrame]:
    """What is known of each policy, by name."""
    if not RESULTS.exists():
        return {}
    return {str(name): rows for (name,), rows in pl.read_parquet(RESULTS).group_by("name", maintain_order=True)}


def found_rows(name: str) -> pl.DataFrame:
    """Train, or search, and score."""
    if name in CEILINGS:
        return ceiling(*CEILINGS[name])
    if name in BUILTIN:
        return score(name, builtin_policy(BUILTIN[name], bank_of("true"), "adaptive"), "", "adaptive")
    trial = TRAINED[name]
    return score(name, trained(trial), trial.scope, trial.timing, trial.decisions, trial.few)


def train(names: Sequence[str]) -> None:
    """Train and score; what is there is left."""
    asked = [one for part in names for one in (MISSING if part == "all" else [part])]
    for name in dict.fromkeys(asked):
        if name in (known := results()):
            continue
        started = time.process_time()
        known[name] = found_rows(name)
        with atomic_path(RESULTS) as temporary:
            pl.concat([known[n] for n in sorted(known)], how="diagonal").write_parquet(temporary)
        print(f"done {name}: {time.process_time() - started:.0f} s of CPU", flush=True)


def gain(better: np.ndarray, worse: np.ndarray) -> str:
    """Median and quartiles of the gain per patient, and in how many it is one."""
    share = 100.0 * (worse - better) / worse
    low, middle, high = np.quantile(share, [0.25, 0.5, 0.75])
    return f"{middle:.1f} % ({low:.0f}..{high:.0f}), {(share > 0).sum()} of {len(share)}"


class Found:
    """Results as tables ask for them: a policy on the true patients, all or every third."""

    def __init__(self, parts: dict[str, pl.DataFrame]):
        self.parts = parts

    def __contains__(self, name: str) -> bool:
        return name in self.parts

    def column(self, name: str, column: str = "harm", patients: Sequence[str] = (), world: str = "true") -> np.ndarray:
        """One number per patient."""
        rows = self.parts[name].filter(pl.col("world") == world)
        if patients:
            rows = rows.filter(pl.col("patient").is_in(list(patients)))
        return rows[column].to_numpy()

    def mean(self, name: str, column: str = "harm", patients: Sequence[str] = (), world: str = "true") -> float:
        """Over patients."""
        return float(self.column(name, column, patients, world).mean())

    def unseen(self, name: str, level: str, patients: Sequence[str] = ()) -> str:
        """Events a day, and how many of them hold no decision."""
        events, unseen = (self.mean(name, f"{level}_{kind}", patients) for kind in ("events", "unseen"))
        return f"{events:.2f}, {100 * unseen / max(events, 1e-9):.0f} %"

    def shown(self, name: str, patients: Sequence[str] = ()) -> str:
        """Harm, time in range, below 70 and below 54, as cells."""
        kinds = ("harm", "time_in_range", "time_below_70", "time_below_54")
        h, t, low, very = (self.mean(name, kind, patients) for kind in kinds)
        return f"**{h:.2f}** | {t:.1f} | {low:.2f} | {very:.2f}"


def policies_table(found: Found) -> list[str]:
    """Every policy of all patients."""
    lines = ["| policy | harm own | **harm true** | TIR | < 70 | < 54 | lows a day, unseen | deep lows, unseen |"]
    lines += ["|-|-|-|-|-|-|-|-|"]
    for name in (*(trial.name for trial in TRIALS), *BUILTIN):
        if name in found:
            unseen = " | ".join(found.unseen(name, level) for level in ("low", "very_low"))
            lines.append(f"| {name} | {found.mean(name, world='own'):.2f} | {found.shown(name)} | {unseen} |")
    return lines


def gains_table(found: Found) -> list[str]:
    """Adaptive over fixed, and each patient's own over one for all."""
    lines = ["Gain of harm on the true patients: median (quartiles), better in so many.", "", "| | gain |", "|-|-|"]
    pairs = []
    kinds = (("trpo-true", "oracle"), ("trpo-own", "ind-scratch"), ("trpo-lag-own", "ind"), ("ppo-lag-own", "ind"))
    for kind, ind in kinds:
        pairs += [(f"{kind}-{s}-adaptive", f"{kind}-{s}-fixed") for s in (ind, "dr", "pop")]
        pairs += [(f"{kind}-{ind}-{t}", f"{kind}-{s}-{t}") for s in ("dr", "dr-told", "pop") for t in TIMINGS]
    pairs += [(f"ppo-lag-own-{s}-{t}", f"trpo-lag-own-{s}-{t}") for s in ("ind", "pop") for t in TIMINGS]
    for better, worse in pairs:
        if better in found and worse in found:
            lines.append(f"| {better} over {worse} | {gain(found.column(better), found.column(worse))} |")
    return lines


def budgets_table(found: Found, few: Sequence[str]) -> list[str]:
    """What a budget of decisions is worth, and which adaptive one equals which fixed one."""
    lines = [
        f"## Budgets of decisions, {len(few)} patients",
        "",
        "Each patient's own policy, trained on the truth (TRPO).",
        "",
        "| K | harm fixed | harm adaptive | adaptive over fixed | < 70: fixed, adaptive | as good as fixed at K = |",
        "|-|-|-|-|-|-|",
    ]
    names = {(t.timing, t.decisions): t.name for t in BUDGETED if t.name in found}
    fixed = [(k, found.mean(names["fixed", k], patients=few)) for k in BUDGETS if ("fixed", k) in names]
    for k in BUDGETS:
        if not {("adaptive", k), ("fixed", k)} <= names.keys():
            continue
        a, f = (found.column(names[timing, k], patients=few) for timing in TIMINGS)
        low = [found.mean(names[t, k], "time_below_70", few) for t in ("fixed", "adaptive")]
        lines.append(
            f"| {k} | {f.mean():.2f} | {a.mean():.2f} | {gain(a, f)} | {low[0]:.2f}, {low[1]:.2f} "
            f"| {equal_budget(float(a.mean()), fixed)} |"
        )
    return lines


def equal_budget(harm: float, fixed: Sequence[tuple[int, float]]) -> str:
    """The budget at which fixed timing has this harm, by straight lines between those tried."""
    for (k, before), (more, after) in zip(fixed, fixed[1:]):
        if after <= harm <= before:
            return f"{k + (more - k) * (before - harm) / max(before - after, 1e-9):.1f}"
    return f"more than {fixed[-1][0]}" if harm < fixed[-1][1] else f"less than {fixed[0][0]}"


def ceilings_table(found: Found, few: Sequence[str]) -> list[str]:
    """From a plan that never looks to one that knows the day."""
    meaning = {
        "blind": f"one plan for all days, never looks (searched on {BLIND_DAYS} other days)",
        "expert": "each patient's own policy, trained on the truth",
        "foreseen": "the best plan found for each day, its meals known",
    }
    lines = [
        f"## Ceilings, {len(few)} patients, {BOUND_DAYS} days",
        "",
        f"Cross-entropy search, {ROUNDS} rounds of {CANDIDATES} plans; what is found bounds the best from one side.",
        "",
        "| | timing | harm | TIR | < 70 | < 54 |",
        "|-|-|-|-|-|-|",
    ]
    for name, (kind, timing) in CEILINGS.items():
        if name in found:
            lines.append(f"| {meaning[kind]} | {timing} | {found.shown(name)} |")
    lines += ["", "| | gain |", "|-|-|"]
    pairs = [(f"{kind}-adaptive", f"{kind}-fixed") for kind in ("blind", "expert", "foreseen")]
    pairs += [(f"{a}-{t}", f"{b}-{t}") for a, b in (("expert", "blind"), ("foreseen", "expert")) for t in TIMINGS]
    for better, worse in pairs:
        if better in found and worse in found:
            lines.append(f"| {better} over {worse} | {gain(found.column(better), found.column(worse))} |")
    return lines


def costs_table(found: Found, few: Sequence[str]) -> list[str]:
    """The constraint at the decisions' ends against that along the path."""
    lines = [
        f"## What is limited to 1 %, {len(few)} patients",
        "",
        "Each patient's own TRPO-Lag on the truth: the share of decisions that end below 70 mg/dL, or of the time.",
        "",
        "| limited | timing | harm | TIR | < 70 | < 54 | ends below 70, % | lows a day, unseen | deep lows, unseen |",
        "|-|-|-|-|-|-|-|-|-|",
    ]
    rows = [("nothing", timing, f"trpo-true-oracle-{timing}") for timing in TIMINGS]
    rows += [({"path": "time", "end": "ends"}[t.cost], t.timing, t.name) for t in CONSTRAINED]
    for limited, timing, name in rows:
        if name in found:
            unseen = " | ".join(found.unseen(name, level, few) for level in ("low", "very_low"))
            ends = found.mean(name, "low_ends", few)
            shown = "-" if np.isnan(ends) else f"{ends:.2f}"
            lines.append(f"| {limited} | {timing} | {found.shown(name, few)} | {shown} | {unseen} |")
    return lines


def table() -> None:
    """Write the tables."""
    found = Found(results())
    few = mgo.load_simulators("diabetes-v0").patients[::FEWER]
    head = [
        "# Online learning in type 1 diabetes",
        "",
        f"Made by `{Path(__file__).name} table`; {DAYS} days a patient.",
    ]
    tables: list[Callable[[], list[str]]] = [
        lambda: policies_table(found),
        lambda: gains_table(found),
        lambda: budgets_table(found, few),
        lambda: ceilings_table(found, few),
        lambda: costs_table(found, few),
    ]
    lines = head
    for make in tables:
        lines += ["", *make()]
    (HERE / "online.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("train", "table"))
    parser.add_argument("names", nargs="*", help=f"all, or of {', '.join([*TRAINED, *CEILINGS, *BUILTIN])}")
    options = parser.parse_args()
    train(options.names) if options.command == "train" else table()
