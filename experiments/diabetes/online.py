"""Online learning in type 1 diabetes: whose policy, which timing, how many decisions, trained where.

    python -m experiments.diabetes.online train NAME...     trains and scores what is not in the results yet
    python -m experiments.diabetes.online train all         everything that is missing
    python -m experiments.diabetes.online table             the tables, from all results that are there

Every row of the results (online.parquet) is one patient over 64 days that no training saw, deterministic actions,
scored on the published patients and in the learned simulators. `harm` is the mean risk, not capped. Training and its
checkpoints lie in runs/diabetes-online. Budgets of decisions, ceilings and both costs are of every sixth patient
(5), with a shorter training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

import medgym_offline as mgo
from experiments.common import Form, Recipe, median_gain, plain_table, shown, write
from medgym_offline.diseases.base import Course
from medgym_offline.diseases.diabetes.people import find
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import EpisodeNoise, Rollout, dense, draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import interval_to_action
from medgym_offline.files import write_text
from medgym_offline.online import load_behavior, train_behavior
from medgym_offline.online.config import load_recipe
from medgym_offline.policies import builtin_policy, reset_policy
from medgym_offline.seeds import torch_generator

HERE = Path(__file__).parent
RESULTS = HERE / "online.parquet"
RUNS = Path("runs/diabetes-online")
DAYS, SEED, DECISIONS = 64, 7, 5
TIMINGS = ("adaptive", "fixed")
FEWER, SHORT = 6, {"updates": 60, "episodes": 64}
"""Budgets, ceilings and both costs are of every sixth patient; their trainings are a third as long as the release's."""
BOUND_DAYS, BLIND_DAYS, CANDIDATES, ELITES, ROUNDS = 8, 16, 64, 8, 60
"""Cross-entropy search: days that are foreseen, days that one plan has to serve, plans a round, those kept, rounds."""


class Group(Form):
    """Policies that are trained alike: one per scope ("dr-told" sees the daily insulin), timing and budget.

    Attributes:
        name: Beginning of their names, if not that of the group; `end` is the end.
        world: Trained in.
        few: Every sixth patient, a shorter training; their names say K.
        path_costs: Costs along the path, not at the decisions' ends.
        settings: That differ from the release's.
    """

    name: str = ""
    end: str = ""
    algorithm: Literal["trpo-lag", "ppo-lag"] = "trpo-lag"
    world: str
    scopes: tuple[str, ...]
    decisions: tuple[int, ...] = (DECISIONS,)
    few: bool = False
    path_costs: bool = True
    settings: dict[str, int | float | tuple[float, ...]]


class OnlineRecipe(Recipe):
    """What is trained."""

    group: dict[str, Group]


class Trial(NamedTuple):
    """A policy to train, and how it is scored."""

    key: str
    group: Group
    scope: str
    timing: str
    decisions: int

    @property
    def name(self) -> str:
        """In results and tables."""
        budget = f"-k{self.decisions}" if self.group.few else ""
        return f"{self.group.name or self.key}-{self.scope}-{self.timing}{budget}{self.group.end}"


TRIALS = [
    Trial(key, group, scope, timing, k)
    for key, group in OnlineRecipe.load(HERE / "online.toml").group.items()
    for k, scope, timing in product(group.decisions, group.scopes, TIMINGS)
]
TRAINED = {trial.name: trial for trial in TRIALS}
RULE = Trial("", Group(world="true", scopes=(), settings={}), "", "adaptive", DECISIONS)
"""How a policy that does not learn is scored."""
BUILTIN = {f"{name}-adaptive": name for name in ("clinician", "random", "zero")}
KINDS = ("blind", "expert", "foreseen")
CEILINGS = {f"{kind}-{timing}": (kind, timing) for kind, timing in product(KINDS, TIMINGS[::-1])}
EVERYTHING = (*TRAINED, *CEILINGS, *BUILTIN)


def bank_of(world: str, scope: str = "", few: bool = False) -> mgo.SimulatorBank:
    """The 30 patients in a world, or every sixth; "dr-told" sees the daily insulin."""
    bank = mgo.load_simulators("diabetes-v0").world(world)
    bank = bank.select(bank.patients[:: FEWER if few else 1])
    if scope != "dr-told":
        return bank
    context = bank.context.clone()
    context[:, 1] = torch.from_numpy(find(bank.patients)["TDI"]).float()
    return bank.replace(context=context, known_hash=None)


def trained(trial: Trial) -> Any:
    """The policy of a trial."""
    key, group, scope, timing, k = trial
    recipe = load_recipe(disease="diabetes")
    changed = group.settings | (SHORT if group.few else {})
    settings = {name: {**values, **changed} for name, values in recipe.settings.items()}
    own = replace(recipe, algorithm=group.algorithm, decisions=k, path_costs=group.path_costs, settings=settings)
    apart = f"{key}-k{k}" + ("-told" if scope == "dr-told" else "")
    bank, home = bank_of(group.world, scope, group.few), RUNS / apart
    kind = scope.removesuffix("-told")
    return train_behavior(bank, timing, kind, recipe=own, checkpoints=home, progress=False).policy


# -- scores ------------------------------------------------------------------------------------------------------------


def process_of(bank: mgo.SimulatorBank, timing: Any, decisions: int = DECISIONS) -> DecisionProcess:
    """How days are played."""
    return DecisionProcess(bank, ProcessConfig(timing=timing, decisions=decisions, disease="diabetes", path_costs=True))


def played(process: DecisionProcess, policy: Any, days: int) -> tuple[Rollout, EpisodeNoise]:
    """The days that no training saw."""
    seeds = episode_seeds(SEED, "diabetes-online", process.bank.patients, days)
    noise = draw_noise(seeds, process.bank, process.config)
    reset_policy(policy, seeds)
    return rollout(process, policy.act, noise), noise


def measured(name: str, world: str, process: DecisionProcess, days: Rollout) -> pl.DataFrame:
    """Metrics per patient of played days; `low_ends` is the share of decisions that end below 70 mg/dL, %."""
    bank, grid = process.bank, np.arange(289) / 12
    states, _ = dense(process, days, torch.from_numpy(grid).float())
    course = Course(bank.disease, bank.scales, grid, 1, states, days.treatments, days.dt.numpy())
    found = {m.name: m.compute(course).mean(-1) for m in bank.disease.metrics if m.compute}
    found["harm"] = found["lbgi"] + found["hbgi"]
    found["return"] = days.rewards.sum(-1).mean(-1).numpy()
    found["decisions"] = days.valid.float().sum(-1).mean(-1).numpy()
    found["low_ends"] = 100.0 * (days.costs.sum((1, 2)) / days.valid.sum((1, 2))).double().numpy()
    return pl.DataFrame({"name": name, "world": world, "patient": bank.patients, **found})


def found_rows(name: str) -> pl.DataFrame:
    """Train, or search, and score: metrics per world and patient."""
    if name in CEILINGS:
        return ceiling(*CEILINGS[name])
    trial = TRAINED.get(name, RULE)
    policy = trained(trial) if name in TRAINED else builtin_policy(BUILTIN[name], bank_of("true"), trial.timing)
    rows = []
    for world in ("own", "true"):
        process = process_of(bank_of(world, trial.scope, trial.group.few), trial.timing, trial.decisions)
        rows.append(measured(name, world, process, played(process, policy, DAYS)[0]))
    return pl.concat(rows)


# -- ceilings ----------------------------------------------------------------------------------------------------------


def played_plans(process: DecisionProcess, noise: EpisodeNoise, plans: Tensor) -> Rollout:
    """Days under given actions (P, B, K, A), whatever is seen."""
    steps = iter(plans.unbind(2))
    return rollout(process, lambda seen: next(steps), noise)


def searched(process: DecisionProcess, noise: EpisodeNoise, starts: Sequence[Tensor], shared: bool) -> Tensor:
    """Actions (P, B, K, A) of the largest return found, by cross-entropy search from starts of that shape.

    With `shared` one plan serves all days of a patient; the days are then drawn for the search alone.
    """
    days, group = noise.initial.shape[1], 1 if shared else noise.initial.shape[1]
    # Every day once per candidate, side by side.
    drawn = {name: part for name, part in vars(noise).items() if part is not None}
    many = EpisodeNoise(**{name: part.repeat_interleave(CANDIDATES, 1) for name, part in drawn.items()})
    source = torch_generator(SEED, "diabetes plans")

    def returns(plans: Tensor) -> Tensor:
        """(P, group, N) of plans (P, group, N, K, A)."""
        every = plans.expand(-1, days, *plans.shape[2:]).flatten(1, 2)
        found = played_plans(process, many, every).rewards.sum(-1).unflatten(1, (days, CANDIDATES))
        return found.mean(1, keepdim=True) if shared else found

    def chosen(plans: Tensor, index: Tensor) -> Tensor:
        return torch.take_along_dim(plans, index[..., None, None], 2)

    tried = torch.stack([starts[i % len(starts)][:, :group] for i in range(CANDIDATES)], 2)
    best = middle = starts[0][:, :group]
    top, spread = torch.full(best.shape[:2], -torch.inf), torch.full_like(best, 0.3)
    for number in range(ROUNDS + 1):
        value = returns(tried)
        highest, first = value.max(-1)
        best = torch.where((highest > top)[..., None, None], chosen(tried, first[..., None])[:, :, 0], best)
        top = torch.maximum(top, highest)
        middle = middle if number else best
        if number:
            elite = chosen(tried, value.topk(ELITES, -1).indices)
            middle, spread = 0.3 * middle + 0.7 * elite.mean(2), 0.3 * spread + 0.7 * elite.std(2)
        tried = middle[:, :, None] + (spread + 0.01)[:, :, None] * torch.randn(tried.shape, generator=source)
        tried = tried.clamp(-1.0, 1.0)
        tried[:, :, 0] = best
    return best.expand(-1, days, -1, -1)


def ceiling(kind: str, timing: str) -> pl.DataFrame:
    """What a day can be: `foreseen`, the best plan found for a day whose meals are known; `expert`, each patient's own
    policy trained on the truth, on the same days; `blind`, one plan for all days that never looks."""
    bank, name, blind = bank_of("true", few=True), f"{kind}-{timing}", kind == "blind"
    process, experts = process_of(bank, timing), {t: load_behavior(bank.name, "oracle", t) for t in TIMINGS}
    days, noise = played(process, experts[timing].select(bank.patients), BOUND_DAYS)
    if kind == "expert":
        return measured(name, "true", process, days)
    first, drawn = days.actions, noise
    if blind:
        drawn = draw_noise(episode_seeds(SEED, "diabetes-blind", bank.patients, BLIND_DAYS), bank, process.config)
        first = first.mean(1, keepdim=True).expand(-1, BLIND_DAYS, -1, -1)
    starts = [first]
    if timing == "adaptive":
        # What fixed timing reaches is within reach.
        fixed, plain = process_of(bank, "fixed"), replace(drawn, action=drawn.action[..., :-1])
        start = rollout(fixed, experts["fixed"].select(bank.patients).act, plain).actions
        found = searched(fixed, plain, [start.mean(1, keepdim=True).expand_as(start) if blind else start], blind)
        config = process.config
        even = interval_to_action(torch.full((*found.shape[:3], 1), config.horizon / DECISIONS), config)
        starts.append(torch.cat([found, even.to(found)], -1))
    plans = searched(process, drawn, starts, blind)
    plans = plans[:, :1].expand(-1, BOUND_DAYS, -1, -1) if blind else plans
    return measured(name, "true", process, played_plans(process, noise, plans))


# -- runs and tables ---------------------------------------------------------------------------------------------------


def results() -> dict[str, pl.DataFrame]:
    """What is known of each policy, by name."""
    if not RESULTS.exists():
        return {}
    return {str(name): rows for (name,), rows in pl.read_parquet(RESULTS).group_by("name", maintain_order=True)}


def train(names: Sequence[str]) -> None:
    """Train and score; what is there is left."""
    for name in EVERYTHING if "all" in names else names:
        if name not in (known := results()):
            started = time.process_time()
            known[name] = found_rows(name)
            write(RESULTS, pl.concat([known[n] for n in sorted(known)], how="diagonal"))
            print(f"done {name}: {time.process_time() - started:.0f} s of CPU", flush=True)


Known = Mapping[str, pl.DataFrame]
"""Results by name, of some patients."""


def harm(known: Known, name: str) -> np.ndarray:
    """Of each true patient."""
    return known[name].filter(world="true")["harm"].to_numpy()


def policies_table(known: Known, names: Iterable[str]) -> str:
    """A line per policy that is there: harm in both worlds, and on the true patients glucose and its lows."""
    rows = []
    for name in (name for name in names if name in known):
        own, true = (known[name].filter(world=world).mean().row(0, named=True) for world in ("own", "true"))
        cells = [shown(own["harm"]), f"**{shown(true['harm'])}**", shown(true["time_in_range"], 1)]
        cells += [shown(true[column]) for column in ("time_below_70", "time_below_54", "low_ends")]
        for level in ("low", "very_low"):
            events, unseen = (true[f"{level}_{kind}"] for kind in ("events", "unseen"))
            cells.append(f"{events:.2f}, {100 * unseen / max(events, 1e-9):.0f} %")
        rows.append([name, *cells])
    heads = ["policy", "harm own", "**harm true**", "TIR", "< 70", "< 54", "ends below 70, %"]
    return plain_table([*heads, "lows a day, unseen", "deep lows, unseen"], rows)


def gains_table(known: Known, pairs: Iterable[tuple[str, str]]) -> str:
    """What each policy gains over another, of the pairs that are there."""
    there = [pair for pair in pairs if known.keys() >= set(pair)]
    return plain_table(["", "gain"], [[f"{a} over {b}", median_gain(harm(known, a), harm(known, b))] for a, b in there])


def compared_pairs() -> list[tuple[str, str]]:
    """Adaptive and fixed, each patient's own and one for all, PPO and TRPO."""
    pairs = []
    for kind, ind in {t.key: t.group.scopes[0] for t in TRIALS if not t.group.few}.items():
        pairs += [(f"{kind}-{s}-adaptive", f"{kind}-{s}-fixed") for s in (ind, "dr", "pop")]
        pairs += [(f"{kind}-{ind}-{t}", f"{kind}-{s}-{t}") for s in ("dr", "dr-told", "pop") for t in TIMINGS]
    return pairs + [(f"ppo-lag-own-{s}-{t}", f"trpo-lag-own-{s}-{t}") for s in ("ind", "pop") for t in TIMINGS]


def equal_budgets(known: Known) -> str:
    """Which fixed budget has the harm of each adaptive one, by straight lines between those tried."""
    there = [trial for trial in TRIALS if trial.key == "budgets" and trial.name in known]
    found = [(trial.timing, trial.decisions, harm(known, trial.name).mean()) for trial in there]
    fixed, rows = [(k, value) for timing, k, value in found if timing == "fixed"], []
    for k, value in ((k, value) for timing, k, value in found if timing == "adaptive" and fixed):
        equal = f"more than {fixed[-1][0]}" if value < fixed[-1][1] else f"less than {fixed[0][0]}"
        for (less, before), (more, after) in zip(fixed, fixed[1:]):
            if after <= value <= before:
                equal = f"{less + (more - less) * (before - value) / max(before - after, 1e-9):.1f}"
                break
        rows.append([str(k), equal])
    return plain_table(["adaptive, K =", "as good as fixed at K ="], rows)


def table() -> None:
    """Write the tables."""
    everyone, some = results(), bank_of("true", few=True).patients
    few = {name: rows.filter(pl.col("patient").is_in(some)) for name, rows in everyone.items()}
    short = [trial.name for trial in TRIALS if trial.group.few]
    budgets = [name for name in short if TRAINED[name].key == "budgets"]
    bounds = [(f"{kind}-adaptive", f"{kind}-fixed") for kind in KINDS]
    bounds += [(f"{a}-{t}", f"{b}-{t}") for a, b in (("expert", "blind"), ("foreseen", "expert")) for t in TIMINGS]
    blocks = [
        "# Online learning in type 1 diabetes",
        f"Made by `{Path(__file__).name} table`; {DAYS} days a patient. Of gains of harm on the true patients: median "
        "(quartiles), better in so many.",
        policies_table(everyone, [name for name in (*TRAINED, *BUILTIN) if name not in short]),
        gains_table(everyone, compared_pairs()),
        f"## Budgets of decisions, and what is limited to 1 %: {len(some)} patients",
        f"Each patient's own policy on the truth ({SHORT['updates']} updates of {SHORT['episodes']} days), K decisions "
        "(k4 to k12). TRPO-Lag limits the time below 70 mg/dL (path), or the share of decisions that end there (end).",
        policies_table(few, short),
        gains_table(few, zip(budgets[::2], budgets[1::2])),
        equal_budgets(few),
        f"## Ceilings, {len(some)} patients, {BOUND_DAYS} days",
        f"Cross-entropy search, {ROUNDS} rounds of {CANDIDATES} plans; what is found bounds the best from one side. "
        f"Blind: one plan for all days, never looks (searched on {BLIND_DAYS} other days). Expert: each patient's own "
        "policy, trained on the truth. Foreseen: the best plan found for each day, its meals known.",
        policies_table(few, CEILINGS),
        gains_table(few, bounds),
    ]
    write_text(HERE / "online.md", "\n\n".join(blocks) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("train", "table"))
    parser.add_argument("names", nargs="*", help=f"all, or of {', '.join(EVERYTHING)}")
    options = parser.parse_args()
    train(options.names) if options.command == "train" else table()
