"""The paper's online results: Tables 2 and 6, the numbers of Figures 4 to 6, 9 and 10.

    python -m experiments.online online-quick

Every algorithm with one policy per patient (Ind) and one for all (Pop), adaptive and fixed timing, scored in every
world of a bank, beside budgets, the bank's shipped policies ("release") and policies that do not learn. Finished
units are kept, so that a killed study goes on where it was. The figures: `experiments.figures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt

from experiments import common
from experiments.common import Recipe, Row, Scores, shown, shown_cut, table
from medgym_offline import SimulatorBank, evaluate, load_simulators, save_policy
from medgym_offline.online import load_behavior, train_behavior
from medgym_offline.online.config import ALGORITHMS
from medgym_offline.online.recipe import BehaviorRecipe
from medgym_offline.policies import ConstantPolicy, StackedActor, builtin_policy
from medgym_offline.simulators.checks import constant_scores

__all__ = ["OnlineRecipe", "markdown", "run"]

Algorithm = Literal[tuple(ALGORITHMS)]  # type: ignore[valid-type]
Timing = Literal["adaptive", "fixed"]
SCOPES = ("ind", "ind-scratch", "pop", "dr")


class OnlineRecipe(Recipe):
    """Who is treated, by whom, trained how long, scored how.

    Attributes:
        patients: Evenly spread over the bank; 0: all. Every `every`-th of them is in the table and the budgets.
        individual: Scope of the table's individual policies: the paper's "ind-scratch", or "ind".
        release: Score the behavior policies shipped with the bank.
        safe_limit: Cost per decision that Lagrangian algorithms keep to, in every row.
        backend: Flow that scores: "ode" (solver) or "map" (solution map, whose errors policies exploit).
        shard: Patients trained together; part of the result.
        budget_decisions: K of the budget rows, with equally many episodes at every K.
        settings, algorithm_settings: Scope -> settings of training; algorithm -> scope -> what differs for it.
    """

    bank: str
    patients: NonNegativeInt = 0
    every: PositiveInt = 1
    algorithms: tuple[Algorithm, ...] = Field(tuple(ALGORITHMS), min_length=1)
    timings: tuple[Timing, ...] = Field(("adaptive", "fixed"), min_length=1)
    individual: Literal["ind", "ind-scratch"] = "ind-scratch"
    decisions: PositiveInt = 20
    seed: NonNegativeInt = 0
    seeds: PositiveInt = 1
    release: bool = True
    safe_limit: float = Field(0.25, ge=0)
    episodes: PositiveInt = 50
    backend: Literal["ode", "map"] = "ode"
    shard: PositiveInt = 11
    budget_decisions: tuple[PositiveInt, ...] = (5, 10, 15, 20)
    budget_algorithm: Algorithm = "trpo-lag"
    budget_scope: Literal["ind", "ind-scratch"] = "ind"
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    algorithm_settings: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)

    def training(self, algorithm: str, decisions: int, seed: int) -> BehaviorRecipe:
        """How one policy is trained."""
        special = self.algorithm_settings.get(algorithm, {})
        scopes = {*self.settings, *special, *SCOPES}
        settings = {
            s: {"cost_limit": self.safe_limit, **self.settings.get(s, {}), **special.get(s, {})} for s in scopes
        }
        return BehaviorRecipe(seed=seed, decisions=decisions, algorithm=algorithm, shard=self.shard, settings=settings)

    def rows(self) -> list[Row]:
        """The trained rows: the table, then the budgets that it does not hold."""
        scopes = (self.individual, "pop")
        found = [Row(a, s, t, self.decisions) for a in self.algorithms for s in scopes for t in self.timings]
        for k in self.budget_decisions:
            found += [Row(self.budget_algorithm, self.budget_scope, t, k) for t in self.timings]
        return list(dict.fromkeys(found))

    def pairs(self) -> list[tuple[Row, Row]]:
        """What ships against what does not learn, and Lagrangian forms against those without a constraint."""
        found = []
        for timing in self.timings:
            ind = Row("release", "ind", timing, self.decisions)
            found += [(ind, ind._replace(scope=scope)) for scope in ("dr", "pop")]
            fixed = ("clinician", "patient-constant", "cohort-constant")
            found += [(ind, Row(name, "baseline", "fixed", self.decisions)) for name in fixed]
            found.append((ind, Row("wrong-patient", "baseline", timing, self.decisions)))
        lagrangian = (row for row in self.rows() if row.method.endswith("-lag"))
        return found + [(row, row._replace(method=row.method.removesuffix("-lag"))) for row in lagrangian]


# -- training and scoring ----------------------------------------------------------------------------------------------


def _score(bank: SimulatorBank, policy: Any, row: Row, seed: int, episodes: int) -> pl.DataFrame:
    found = evaluate(policy, timing=row.timing, decisions=row.decisions, episodes=episodes, bank=bank)
    return common.tidy(found, bank.name, row, seed)


def _train(bank: SimulatorBank, recipe: OnlineRecipe, row: Row, seed: int, home: Path) -> pl.DataFrame:
    """Train and score one row at one seed."""
    made = recipe.training(row.method, row.decisions, seed)
    actor = train_behavior(bank, row.timing, row.scope, recipe=made, checkpoints=home, progress=False).policy
    save_policy(actor, home / "policy.safetensors")
    return pl.concat([_score(_scoring(bank, recipe), actor, row, seed, recipe.episodes), _cost(bank, actor, row, seed)])


def _scoring(bank: SimulatorBank, recipe: OnlineRecipe) -> SimulatorBank:
    return bank.with_backend("ode") if recipe.backend == "ode" else bank


def _cost(bank: SimulatorBank, actor: StackedActor, row: Row, seed: int) -> pl.DataFrame:
    """What one policy's training took, from its provenance. Steps are decisions, as many an episode as at its end."""
    made = actor.provenance
    training, final = made.get("training", {}), made.get("final", {})
    played = int(made.get("updates", 0)) * int(training.get("episodes", 0)) * (len(bank) if row.scope == "dr" else 1)
    used = final.get("decisions")
    used = used if isinstance(used, float | int) and math.isfinite(used) else row.decisions
    found = {
        "updates": made.get("updates", 0), "episodes": played, "steps": round(played * used),
        "stopped": len(made.get("stopped") or {}),
    }  # fmt: skip
    if training.get("cost_limit") is not None and (row.method.endswith("-lag") or row.method == "release"):
        found |= {"cost_limit": training["cost_limit"], "multiplier": final.get("multiplier")}
    return common.facts(bank.name, row, seed, found)


def _release(bank: SimulatorBank, recipe: OnlineRecipe, row: Row) -> pl.DataFrame:
    actor = load_behavior(bank.name, row.scope, row.timing)
    found = _score(_scoring(bank, recipe), actor, row, 0, recipe.episodes)
    return pl.concat([found, _cost(bank, actor, row, 0)])


def _baseline(bank: SimulatorBank, recipe: OnlineRecipe, row: Row) -> pl.DataFrame:
    """A policy that does not learn. Constants are the best of a grid in the own world, without noise."""
    bank, policy = _scoring(bank, recipe), None
    if row.method.endswith("-constant"):
        grid, severity = constant_scores(bank.world("own"))
        best = grid[severity.argmin(1)] if row.method == "patient-constant" else grid[int(severity.mean(0).argmin())]
        policy = ConstantPolicy(best, "fixed", row.decisions, *([bank.patients] if best.ndim > 1 else []))
    elif row.method == "wrong-patient":
        # Patient i of n gets the policy of patient i + n // 2 (modulo n).
        n, actor = len(bank), load_behavior(bank.name, "ind", row.timing)
        policy = actor.select([bank.patients[(i + max(1, n // 2)) % n] for i in range(n)])
        policy.patients = tuple(bank.patients)
    else:
        policy = builtin_policy(row.method, bank, row.timing, row.decisions)
    return _score(bank, policy, row, 0, recipe.episodes)


def run(recipe: OnlineRecipe, folder: Path, workers: int = 1, bank: SimulatorBank | None = None) -> pl.DataFrame:
    """Train and score everything a recipe asks for.

    Args:
        recipe: Of the study.
        folder: Keeps finished units, policies and checkpoints.
        workers: Processes at a time.
        bank: Simulators; by default the recipe's.
    """
    bank = load_simulators(recipe.bank) if bank is None else bank
    everyone = common.spread(bank.patients, recipe.patients)
    whole, table = bank.select(everyone), bank.select(everyone[:: recipe.every])
    scored = common.digest(recipe.episodes, recipe.backend, bank.content_hash, everyone)
    train, others = {}, {}
    for row in recipe.rows():
        for seed in range(recipe.seed, recipe.seed + recipe.seeds):
            made = recipe.training(row.method, row.decisions, seed).content_hash
            name = "-".join((*map(str, row), f"seed{seed}", common.digest(made, scored, recipe.every)))
            train[name] = (_train, table, recipe, row, seed, folder / name)
    fixed = [(name, "fixed") for name in ("zero", "max", "clinician")] + [("random", t) for t in recipe.timings]
    fixed += [(f"{who}-constant", "fixed") for who in ("cohort", "patient")]
    if recipe.release:
        for row in (Row("release", s, t, recipe.decisions) for s in ("ind", "dr", "pop") for t in recipe.timings):
            others["-".join((*map(str, row), scored))] = (_release, whole, recipe, row)
        fixed += [("wrong-patient", t) for t in recipe.timings]
    for name, timing in fixed:
        row = Row(name, "baseline", timing, recipe.decisions)
        others["-".join((*map(str, row), scored))] = (_baseline, whole, recipe, row)
    return common.units(train | others, folder, workers)


# -- tables ------------------------------------------------------------------------------------------------------------


def markdown(recipe: OnlineRecipe, scores: Scores) -> str:
    """Every table of the study."""
    trained = recipe.rows()
    others = [row for row in scores.rows if row.scope == "baseline" or row.method == "release"]
    parts = [
        f"# Online study of {recipe.bank}",
        f"    python -m experiments.online {recipe.name}",
        f"{recipe.episodes} episodes of each patient. Intervals: 95 % bootstrap over patients and training seeds (here "
        f"{recipe.seeds}). Gains and shares are cut, never rounded up. A adaptive, F fixed timing; Ind-scratch: one "
        "policy per patient from scratch, Ind: from dr, which is one for all on every patient's simulator. PopInd: Ind "
        "over Pop; FixAdap: adaptive over fixed. Release: what ships with the bank.",
    ]
    for world in scores.worlds:
        for rows, who in ((trained, "trained here"), (others, "release, and policies that do not learn")):
            caption = f"{world.capitalize()} world, {scores.patients(rows[0])} patients: {who}"
            parts.append(table(caption, rows, _columns(scores, world)))
        parts.append(common.compared(scores, world, recipe.pairs(), ("safe_hourly",)))
    head = scores.worlds[0]
    names = [*(f"dt_q{q}" for q in ("05", "25", "50", "75", "95")), "first_interval", "last_interval", "decisions_used"]
    heads = ("5 %", "25 %", "50 %", "75 %", "95 %", "First", "Last", "Decisions")

    def interval(row: Row, name: str) -> str:
        found = scores.mean(row, head, name)
        return shown(found and found.value, 1)

    def fact(row: Row, name: str, form: str) -> str:
        found = scores.fact(row, name)
        return "-" if found is None else format(found, form)

    policies = [row for row in scores.rows if row.scope != "baseline"]
    adaptive = [row for row in policies if row.timing == "adaptive"]
    columns = {"K": lambda row: str(row.decisions)}
    columns |= {text: partial(interval, name=name) for text, name in zip(heads, names)}
    parts.append(table(f"Intervals of adaptive policies, hours, {head} world; mean over patients", adaptive, columns))
    took = {"updates": ",.0f", "episodes": ",.0f", "steps": ",.0f", "stopped": ".0f", "cost_limit": ".2f"}
    took |= {"multiplier": ".3f"}
    columns = {"K": lambda row: str(row.decisions)}
    columns |= {name: partial(fact, name=name, form=form) for name, form in took.items()}
    caption = "Training of one policy; the paper's Table 5 has 200,000 steps, of SAC 100,000"
    return "\n\n".join([*parts, table(caption, policies, columns)]) + "\n"


def _columns(scores: Scores, world: str) -> dict[str, Callable[[Row], str]]:
    """Scores of a policy in a world, and its gain over the one that differs in scope or timing alone."""

    def mean(metric: str, digits: int = 2) -> Callable[[Row], str]:
        return lambda row: shown(scores.mean(row, world, metric), digits)

    def percent(metric: str) -> Callable[[Row], str]:
        return lambda row: shown_cut(scores.mean(row, world, metric))

    def gain(what: str, **other: str) -> Callable[[Row], str]:
        return lambda row: shown_cut(getattr(scores.gain(row, row._replace(**other), world), what, None))

    return {
        "K": lambda row: str(row.decisions),
        "SOFA (all)": mean("severity_mean"),
        "PopInd %": gain("percent", scope="pop"),
        "Ind wins %": gain("wins", scope="pop"),
        "FixAdap %": gain("percent", timing="fixed"),
        "Adaptive wins %": gain("wins", timing="fixed"),
        "SOFA (96 h)": mean("severity_end"),
        "Safe %": percent("safe_hourly"),
        "Safe %, 0.25 h": percent("safe_path"),
        "Lactate, mmol/L": mean("lactate_mean"),
        "Cost per decision": mean("cost_mean", 3),
        "Return": mean("return", 1),
    }


if __name__ == "__main__":
    common.main(__doc__ or "", "online-quick", OnlineRecipe, run, markdown)
