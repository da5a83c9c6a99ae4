"""The paper's online results: Tables 2 and 6, the numbers of Figures 4 to 6, 9 and 10.

    python -m experiments.online online-quick

Every algorithm with one policy per patient (Ind-scratch) and one for all (Pop), adaptive and fixed timing, scored by
the solver in every world of a bank, beside budgets, the bank's shipped policies ("release") and policies that do not
learn. Finished units are kept, so that a killed study goes on where it was. The figures: `experiments.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt

from experiments import common
from experiments.common import Estimate, Recipe, Row, Scores, shown, shown_cut, table
from medgym_offline import SimulatorBank, evaluate, load_simulators, save_policy
from medgym_offline.online import load_behavior, train_behavior
from medgym_offline.online.config import ALGORITHMS, Algorithm, BehaviorRecipe
from medgym_offline.policies import ConstantPolicy, StackedActor, builtin_policy
from medgym_offline.simulators.checks import constant_scores

TIMINGS = ("adaptive", "fixed")
SCOPES = ("ind", "ind-scratch", "pop", "dr")
DECISIONS, BUDGETS = 20, (5, 10, 15, 20)
"""K of the table, and of the budgets (TRPO-Lag, Ind), with equally many episodes at every K."""
COST_LIMIT = 0.25
"""Cost per decision that Lagrangian algorithms keep to, in every row."""


class OnlineRecipe(Recipe):
    """Who is treated, by whom, trained how long.

    Attributes:
        patients: Evenly spread over the bank; 0: all. Every `every`-th of them is in the table and the budgets.
        shard: Patients trained together; part of the result.
        settings, algorithm_settings: Scope -> settings of training; algorithm -> scope -> what differs for it.
    """

    bank: str
    patients: NonNegativeInt = 0
    every: PositiveInt = 1
    algorithms: tuple[Algorithm, ...] = Field(tuple(ALGORITHMS), min_length=1)
    episodes: PositiveInt = 50
    shard: PositiveInt = 11
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    algorithm_settings: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)

    def training(self, row: Row) -> BehaviorRecipe:
        """How a row is trained."""
        special = self.algorithm_settings.get(row.method, {})
        settings = {s: {"cost_limit": COST_LIMIT, **self.settings.get(s, {}), **special.get(s, {})} for s in SCOPES}
        return BehaviorRecipe(decisions=row.decisions, algorithm=row.method, shard=self.shard, settings=settings)

    def rows(self) -> list[Row]:
        """The trained rows: the table, then the budgets that it does not hold."""
        found = [Row(*one, DECISIONS) for one in product(self.algorithms, ("ind-scratch", "pop"), TIMINGS)]
        return found + [Row("trpo-lag", "ind", timing, k) for k, timing in product(BUDGETS, TIMINGS)]

    def pairs(self) -> list[tuple[Row, Row]]:
        """What ships against what does not learn, and Lagrangian forms against those without a constraint."""
        found = []
        for timing in TIMINGS:
            ind = Row("release", "ind", timing, DECISIONS)
            found += [(ind, ind._replace(scope=scope)) for scope in ("dr", "pop")]
            fixed = ("clinician", "patient-constant", "cohort-constant")
            found += [(ind, Row(name, "baseline", "fixed", DECISIONS)) for name in fixed]
            found.append((ind, Row("wrong-patient", "baseline", timing, DECISIONS)))
        lagrangian = (row for row in self.rows() if row.method.endswith("-lag"))
        return found + [(row, row._replace(method=row.method.removesuffix("-lag"))) for row in lagrangian]


# -- training and scoring ----------------------------------------------------------------------------------------------


def _score(bank: SimulatorBank, row: Row, episodes: int, policy: Any) -> pl.DataFrame:
    bank = bank.with_backend("ode")
    found = evaluate(policy, timing=row.timing, decisions=row.decisions, episodes=episodes, bank=bank)
    return common.tidy(found, bank.name, row, 0)


def _train(bank: SimulatorBank, row: Row, episodes: int, made: BehaviorRecipe, home: Path) -> pl.DataFrame:
    """Train and score one row."""
    actor = train_behavior(bank, row.timing, row.scope, recipe=made, checkpoints=home, progress=False).policy
    save_policy(actor, home / "policy.safetensors")
    return pl.concat([_score(bank, row, episodes, actor), _cost(bank, row, actor)])


def _cost(bank: SimulatorBank, row: Row, actor: StackedActor) -> pl.DataFrame:
    """What one policy's training took, from its provenance. Steps are decisions, as many an episode as at its end."""
    made = actor.provenance
    training, final, updates = made.get("training", {}), made.get("final", {}), made.get("updates", 0)
    played = updates * training.get("episodes", 0) * (len(bank) if row.scope == "dr" else 1)
    used = final.get("decisions", math.nan)
    steps = round(played * (used if math.isfinite(used) else row.decisions))
    found = {"updates": updates, "episodes": played, "steps": steps, "stopped": len(made.get("stopped") or {})}
    if training.get("cost_limit") is not None and (row.method.endswith("-lag") or row.method == "release"):
        found |= {"cost_limit": training["cost_limit"], "multiplier": final.get("multiplier")}
    return common.facts(bank.name, row, 0, found)


def _release(bank: SimulatorBank, row: Row, episodes: int) -> pl.DataFrame:
    actor = load_behavior(bank.name, row.scope, row.timing)
    return pl.concat([_score(bank, row, episodes, actor), _cost(bank, row, actor)])


def _baseline(bank: SimulatorBank, row: Row, episodes: int) -> pl.DataFrame:
    """A policy that does not learn. Constants are the best of a grid in the own world, without noise."""
    policy: Any
    if row.method.endswith("-constant"):
        grid, severity = constant_scores(bank.with_backend("ode").world("own"))
        best = grid[severity.argmin(1)] if row.method == "patient-constant" else grid[int(severity.mean(0).argmin())]
        policy = ConstantPolicy(best, "fixed", row.decisions, *([bank.patients] if best.ndim > 1 else []))
    elif row.method == "wrong-patient":
        # Patient i of n gets the policy of patient i + n // 2 (modulo n).
        half = len(bank) // 2
        policy = load_behavior(bank.name, "ind", row.timing).select([*bank.patients[half:], *bank.patients[:half]])
        policy.patients = tuple(bank.patients)
    else:
        policy = builtin_policy(row.method, bank, row.timing, row.decisions)
    return _score(bank, row, episodes, policy)


def run(recipe: OnlineRecipe, folder: Path, workers: int = 1, bank: SimulatorBank | None = None) -> pl.DataFrame:
    """Train and score everything a recipe asks for.

    Args:
        recipe: Of the study.
        folder: Keeps finished units, policies and checkpoints.
        workers: Processes at a time.
        bank: Simulators; by default the recipe's.
    """
    bank = bank or load_simulators(recipe.bank)
    everyone = common.spread(bank.patients, recipe.patients)
    whole, some = bank.select(everyone), bank.select(everyone[:: recipe.every])
    calls: dict[str, tuple[Any, ...]] = {}
    for row in recipe.rows():
        made = recipe.training(row)
        name = "-".join(map(str, (*row, common.digest(made.content_hash, recipe.episodes, some.content_hash))))
        calls[name] = (_train, some, row, recipe.episodes, made, folder / name)
    others = [(_release, Row("release", *one, DECISIONS)) for one in product(("ind", "dr", "pop"), TIMINGS)]
    for name in ("zero", "max", "clinician", "random", "cohort-constant", "patient-constant", "wrong-patient"):
        timings = TIMINGS if name in ("random", "wrong-patient") else ("fixed",)
        others += [(_baseline, Row(name, "baseline", timing, DECISIONS)) for timing in timings]
    scored = common.digest(recipe.episodes, whole.content_hash)
    calls |= {"-".join(map(str, (*row, scored))): (score, whole, row, recipe.episodes) for score, row in others}
    return common.units(calls, folder, workers)


# -- tables ------------------------------------------------------------------------------------------------------------


def markdown(recipe: OnlineRecipe, scores: Scores) -> str:
    """Every table of the study."""
    trained = recipe.rows()
    others = [row for row in scores.rows if row.scope == "baseline" or row.method == "release"]
    parts = [
        f"# Online study of {recipe.bank}",
        f"    python -m experiments.online {recipe.name}",
        f"{recipe.episodes} episodes of each patient. Intervals: 95 % bootstrap over patients and training seeds (here "
        "1). Gains and shares are cut, never rounded up. A adaptive, F fixed timing; Ind-scratch: one policy per "
        "patient from scratch, Ind: from dr, which is one for all on every patient's simulator. PopInd: Ind over Pop; "
        "FixAdap: adaptive over fixed. Release: what ships with the bank.",
    ]
    budget = {"K": lambda row: str(row.decisions)}
    for world in scores.worlds:
        for rows, who in ((trained, "trained here"), (others, "release, and policies that do not learn")):
            caption = f"{world.capitalize()} world, {scores.patients(rows[0])} patients: {who}"
            parts.append(table(caption, rows, budget | _columns(scores, world)))
        parts.append(common.compared(scores, world, recipe.pairs(), ("safe_hourly",)))
    head = scores.worlds[0]
    lengths = {f"{quantile} %": f"dt_q{quantile:02}" for quantile in (5, 25, 50, 75, 95)}
    lengths |= {"First": "first_interval", "Last": "last_interval", "Decisions": "decisions_used"}

    def hours(found: Estimate | None) -> str:
        return shown(found and found[0], 1)

    policies = [row for row in scores.rows if row.scope != "baseline"]
    adaptive = [row for row in policies if row.timing == "adaptive"]
    columns = budget | {text: scores.means(head, name, hours) for text, name in lengths.items()}
    parts.append(table(f"Intervals of adaptive policies, hours, {head} world; mean over patients", adaptive, columns))
    took = dict.fromkeys(("updates", "episodes", "steps", "stopped"), ",.0f")
    took |= {"cost_limit": ".2f", "multiplier": ".3f"}
    caption = "Training of one policy; the paper's Table 5 has 200,000 steps, of SAC 100,000"
    parts.append(table(caption, policies, budget | {name: scores.facts(name, form) for name, form in took.items()}))
    return "\n\n".join(parts) + "\n"


def _columns(scores: Scores, world: str) -> dict[str, Callable[[Row], str]]:
    """Scores of a policy in a world, and its gain over the one that differs in scope or timing alone."""
    return {
        "SOFA (all)": scores.means(world, "severity_mean"),
        "PopInd %": scores.gains(world, "percent", scope="pop"),
        "Ind wins %": scores.gains(world, "wins", scope="pop"),
        "FixAdap %": scores.gains(world, "percent", timing="fixed"),
        "Adaptive wins %": scores.gains(world, "wins", timing="fixed"),
        "SOFA (96 h)": scores.means(world, "severity_end"),
        "Safe %": scores.means(world, "safe_hourly", shown_cut),
        "Safe %, 0.25 h": scores.means(world, "safe_path", shown_cut),
        "Lactate, mmol/L": scores.means(world, "lactate_mean"),
        "Cost per decision": scores.means(world, "cost_mean", partial(shown, digits=3)),
        "Return": scores.means(world, "return", partial(shown, digits=1)),
    }


if __name__ == "__main__":
    common.main(__doc__, OnlineRecipe, run, markdown)
