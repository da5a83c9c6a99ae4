"""The paper's online results: Tables 2 and 6, the numbers of Figures 4 to 6, 9 and 10.

    python -m experiments.online online-quick

Every algorithm with one policy per patient (Ind) and one for all (Pop), adaptive and fixed timing, scored in every
world of a bank, beside budgets, the bank's shipped policies ("release") and policies that do not learn. Finished
units are kept, so that a killed study goes on where it was. The figures: `experiments.figures`.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt

from experiments.common import (
    HERE,
    Claim,
    Estimate,
    Gain,
    Recipe,
    Row,
    Scores,
    claims_table,
    digest,
    facts,
    main,
    markdown_table,
    read_scores,
    shown,
    shown_cut,
    spread,
    tidy,
    units,
)  # fmt: skip
from medgym_offline import SimulatorBank, evaluate, load_simulators, save_policy
from medgym_offline.online import load_behavior, train_behavior
from medgym_offline.online.config import ALGORITHMS
from medgym_offline.online.recipe import BehaviorRecipe
from medgym_offline.policies import ConstantPolicy, StackedActor, builtin_policy
from medgym_offline.simulators.checks import constant_scores

__all__ = ["OnlineRecipe", "algorithm_label", "label", "markdown", "run"]

Algorithm = Literal[tuple(ALGORITHMS)]  # type: ignore[valid-type]
Timing = Literal["adaptive", "fixed"]
NEAR = 1.1  # a policy is near its limit if its mean cost per decision is at most so many times the limit
ROOM = 2.0  # per cent by which the best adaptive schedule must beat the best fixed one for a patient to have room
PAPER_STEPS = {"sac": 100_000, "ppo": 200_000, "ppo-lag": 200_000, "trpo": 200_000, "trpo-lag": 200_000}  # its Table 5
BASELINES = {
    "zero": "zero treatment", "max": "maximal treatment", "clinician": "clinicians' doses", "random": "random",
    "cohort-constant": "cohort's best constant", "patient-constant": "patient's best constant",
    "wrong-patient": "wrong patient's Ind",
}  # fmt: skip
SCOPES = {"ind": "Ind (from dr)", "ind-scratch": "Ind", "pop": "Pop", "dr": "dr"}


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
        ceilings: Results of `experiments.ceilings` that say in whom timing has room; "": none.
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
    ceilings: str = ""
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
        table = [
            Row(a, s, t, self.decisions)
            for a in self.algorithms
            for s in (self.individual, "pop")
            for t in self.timings
        ]
        budget = [
            Row(self.budget_algorithm, self.budget_scope, t, k) for k in self.budget_decisions for t in self.timings
        ]
        return list(dict.fromkeys([*table, *budget]))


# -- training and scoring ----------------------------------------------------------------------------------------------


def _score(bank: SimulatorBank, policy: Any, row: Row, seed: int, episodes: int) -> pl.DataFrame:
    found = evaluate(policy, timing=row.timing, decisions=row.decisions, episodes=episodes, bank=bank)
    return tidy(found, bank.name, row, seed)


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
    return facts(bank.name, row, seed, found)


def _release(bank: SimulatorBank, recipe: OnlineRecipe, row: Row) -> pl.DataFrame:
    actor = load_behavior(bank.name, row.scope, row.timing)
    found = _score(_scoring(bank, recipe), actor, row, 0, recipe.episodes)
    return pl.concat([found, _cost(bank, actor, row, 0)])


def _baseline(bank: SimulatorBank, recipe: OnlineRecipe, row: Row) -> pl.DataFrame:
    """A policy that does not learn. Constants are the best of a grid in the own world, without noise."""
    bank, policy = _scoring(bank, recipe), None
    if row.method.endswith("-constant"):
        grid, severity, _ = constant_scores(bank.world("own"))
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
    everyone = spread(bank.patients, recipe.patients)
    whole, table = bank.select(everyone), bank.select(everyone[:: recipe.every])
    scored = digest(recipe.episodes, recipe.backend, bank.content_hash, everyone)
    train, others = {}, {}
    for row in recipe.rows():
        for seed in range(recipe.seed, recipe.seed + recipe.seeds):
            made = recipe.training(row.method, row.decisions, seed).content_hash
            name = "-".join((*map(str, row), f"seed{seed}", digest(made, scored, recipe.every)))
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
    return units(train | others, folder, workers)


# -- tables ------------------------------------------------------------------------------------------------------------


def algorithm_label(algorithm: str) -> str:
    """ "trpo-lag" -> "TRPO-Lag", "cql-discrete" -> "CQL-discrete"."""
    words = {"lag": "Lag", "discrete": "discrete"}
    return "-".join(words.get(part, part.upper()) for part in algorithm.split("-"))


def label(row: Row, recipe: OnlineRecipe) -> str:
    """A row's name in tables."""
    letter = row.timing[0].upper()
    if row.scope == "baseline":
        return BASELINES[row.method] + (f", {row.timing}" if row.method in ("random", "wrong-patient") else "")
    if row.method == "release":
        return f"release {letter}-{SCOPES[row.scope]}"
    budget = f", K = {row.decisions}" if row.scope != "pop" and row.scope != recipe.individual else ""
    return f"{algorithm_label(row.method)}-{letter}-{SCOPES[row.scope]}{budget}"


def _gain(scores: Scores, row: Row, kind: str, world: str) -> Gain | None:
    """Over the row that differs in scope (PopInd) or in timing (FixAdap) alone; None if it is that row itself."""
    other = row._replace(scope="pop") if kind == "PopInd" else row._replace(timing="fixed")
    return None if other == row else scores.gain(row, other, world)


class Tables:
    """The tables of a study.

    Args:
        recipe: Of the study.
        scores: Of its policies.
    """

    def __init__(self, recipe: OnlineRecipe, scores: Scores):
        self.recipe, self.scores, self.named = recipe, scores, partial(label, recipe=recipe)
        self.head, self.worlds = scores.worlds[0], sorted(scores.worlds, key=("own", "crossfit", "true").index)
        trained = [r for r in recipe.rows() if r.decisions == recipe.decisions]
        self.rows = [r for r in trained if r.scope in (recipe.individual, "pop")]
        self.release = [r for r in scores.rows if r.method == "release"]
        self.baselines = [r for r in scores.rows if r.scope == "baseline"]
        self.own, self.everyone = scores.patients(self.rows[0]), scores.patients(self.baselines[0])

    def trained(self, world: str) -> str:
        """Ind against Pop and adaptive against fixed, every algorithm."""
        body = []
        for row in self.rows:
            a, b = (_gain(self.scores, row, kind, world) for kind in ("PopInd", "FixAdap"))
            mean = partial(self.scores.mean, row, world)
            body.append([
                self.named(row), shown(mean("severity_mean")), shown_cut(a and a.percent), shown_cut(a and a.wins),
                shown_cut(b and b.percent), shown(mean("severity_end")), shown_cut(mean("safe_hourly")),
            ])  # fmt: skip
        heads = ["Policy", "SOFA (all)", "PopInd %", "Ind wins %", "FixAdap %", "SOFA (96 h)", "Safe %"]
        return markdown_table(f"{world.capitalize()} world, {len(self.own)} patients", heads, body)

    def ranking(self) -> str:
        """What ships, and what does not learn, in every world."""
        scores, head, rows = self.scores, self.head, []
        for row in [*self.baselines, *self.release]:
            means = {w: scores.mean(row, w, "severity_mean") for w in self.worlds}
            last = [shown_cut(scores.mean(row, head, "safe_hourly")), shown(scores.mean(row, head, "return"), 1)]
            rows.append((means[head].value, [self.named(row), *map(shown, means.values()), *last]))
        body = [cells for _, cells in sorted(rows, key=lambda row: row[0])]
        heads = ["Policy", *(f"SOFA (all), {w}" for w in self.worlds), f"Safe %, {head}", f"Return, {head}"]
        return markdown_table(f"{len(self.everyone)} patients, best first in the {head} world", heads, body)

    def safety(self) -> str:
        """What the constraint is about."""
        body = []
        for row in self.rows + self.release:
            mean, fact = partial(self.scores.mean, row, self.head, patients=self.own), partial(self.scores.fact, row)
            body.append([
                self.named(row), shown_cut(mean("safe_hourly")), shown_cut(mean("safe_path")),
                shown(mean("lactate_mean")), shown(mean("cost_mean"), 3), shown(fact("cost_limit")),
                shown(fact("multiplier"), 3),
            ])  # fmt: skip
        heads = ["Policy", "Safe %", "Safe %, 0.25 h", "Lactate, mmol/L", "Cost per decision", "Limit", "Multiplier"]
        caption = f"Safety, {self.head} world, {len(self.own)} patients; multiplier: at the end"
        return markdown_table(caption, heads, body)

    def budgets(self) -> str:
        """Adaptive against fixed timing at every K."""
        body = []
        for world, k in ((w, k) for w in self.worlds for k in self.recipe.budget_decisions):
            row = Row(self.recipe.budget_algorithm, self.recipe.budget_scope, "adaptive", k)
            if gain := _gain(self.scores, row, "FixAdap", world):
                pair = row._replace(timing="fixed"), row
                values = [shown(self.scores.mean(r, world, "severity_mean")) for r in pair]
                cells = [shown_cut(gain.percent), shown_cut(gain.wins), f"{gain.p:.2g}"]
                body.append([f"K = {k}, {world}", *values, *cells])
        heads = ["Budget, world", "SOFA fixed", "SOFA adaptive", "FixAdap %", "Adaptive wins %", "p"]
        return markdown_table("Adaptive against fixed, equally many episodes at every K; p: Wilcoxon", heads, body)

    def intervals(self) -> str:
        """When adaptive policies decide."""
        names = [f"dt_q{q}" for q in ("05", "25", "50", "75", "95")]
        names += ["first_interval", "last_interval", "decisions_used"]
        body = []
        for row in (r for r in self.scores.rows if r.timing == "adaptive" and r.scope != "baseline"):
            found = [self.scores.mean(row, self.head, name, self.own) for name in names]
            body.append([self.named(row), str(row.decisions), *(shown(e and e.value, 1) for e in found)])
        heads = ["Policy", "K", "5 %", "25 %", "50 %", "75 %", "95 %", "First", "Last", "Decisions"]
        caption = f"Intervals of adaptive policies, hours, {self.head} world; mean over patients"
        return markdown_table(caption, heads, body)

    def training(self) -> str:
        """What a training took, and what the paper's takes."""
        body = []
        for row in (r for r in self.scores.rows if r.scope != "baseline"):
            cells = [f"{self.scores.fact(row, n) or 0:,.0f}" for n in ("updates", "episodes", "steps", "stopped")]
            paper = PAPER_STEPS["trpo-lag" if row.method == "release" else row.method]
            body.append([self.named(row), *cells, f"{paper:,}"])
        heads = ["Policy", "Updates", "Episodes", "Steps", "Stopped (not finite)", "Steps, paper"]
        return markdown_table("Training of one policy", heads, body)


def markdown(recipe: OnlineRecipe, frame: pl.DataFrame, resamples: int = 10_000) -> str:
    """Every table of the study."""
    scores = Scores(frame, resamples)
    tables = Tables(recipe, scores)
    parts = [
        f"# Online study of {recipe.bank}",
        f"    python -m experiments.online {recipe.name}",
        f"{len(scores.rows) - len(tables.baselines)} trained policies and {len(tables.baselines)} others, "
        f"{recipe.episodes} episodes of each patient; the table's on {len(tables.own)} patients, the others on "
        f"{len(tables.everyone)}. Intervals: 95 % bootstrap over patients and training seeds (here {recipe.seeds}). "
        "Gains and shares are cut, never rounded up.",
        *(tables.trained(world) for world in scores.worlds),
        tables.ranking(),
        tables.safety(),
        tables.budgets(),
        tables.intervals(),
        tables.training(),
        claims_table(claims(recipe, scores), scores.worlds),
    ]
    return "\n\n".join(parts) + "\n"


# -- claims ------------------------------------------------------------------------------------------------------------


def claims(recipe: OnlineRecipe, scores: Scores) -> list[Claim]:
    """What must hold, with its numbers."""
    found: list[Claim] = []
    k = recipe.decisions
    for timing in recipe.timings:
        ind = Row("release", "ind", timing, k)
        for words, method, scope, when, most in (
            ("dr in most patients", "release", "dr", timing, True),
            ("Pop in most patients", "release", "pop", timing, True),
            ("the clinicians' doses", "clinician", "baseline", "fixed", False),
            ("each patient's best constant", "patient-constant", "baseline", "fixed", False),
            ("the cohort's best constant", "cohort-constant", "baseline", "fixed", False),
            ("the policy of another patient", "wrong-patient", "baseline", timing, True),
        ):
            found += scores.claim(f"release Ind, {timing} beats {words}", ind, Row(method, scope, when, k), most)
        for a in recipe.algorithms:
            words = f"{algorithm_label(a)}, {timing}: Ind beats Pop in most patients"
            found += scores.claim(words, Row(a, recipe.individual, timing, k), Row(a, "pop", timing, k), True)
    if recipe.budget_decisions:
        least = min(recipe.budget_decisions)
        row = Row(recipe.budget_algorithm, recipe.budget_scope, "adaptive", least)
        words = f"{algorithm_label(row.method)} at K = {least}: adaptive beats fixed"
        fixed = row._replace(timing="fixed")
        found += scores.claim(words, row, fixed)
        if roomy := _roomy(recipe, least):
            found += scores.claim(f"{words}, where the ceilings leave room", row, fixed, among=roomy)
    for timing in recipe.timings:
        for a in (a for a in recipe.algorithms if a.endswith("-lag")):
            for scope in (recipe.individual, "pop"):
                row = Row(a, scope, timing, k)
                found += _safety(recipe, scores, row, row._replace(method=a.removesuffix("-lag")))
    return found


def _roomy(recipe: OnlineRecipe, decisions: int) -> list[str]:
    """Patients in whom the best adaptive schedule found is better than the best fixed one by :data:`ROOM` per cent."""
    path = HERE / "results" / f"{recipe.ceilings}.parquet"
    if not recipe.ceilings or not path.exists():
        return []
    harm = read_scores(path).filter(pl.col("decisions") == decisions).pivot("method", index="patient", values="value")
    return harm.filter(100 * (1 - pl.col("adaptive") / pl.col("fixed")) >= ROOM)["patient"].to_list()


def _safety(recipe: OnlineRecipe, scores: Scores, row: Row, base: Row) -> list[Claim]:
    """A Lagrangian row against the row of the algorithm without constraint, and both against the limit."""
    who = f"{algorithm_label(row.method)}, {'Pop' if row.scope == 'pop' else 'Ind'}, {row.timing}"
    plain, limit = algorithm_label(base.method), scores.fact(row, "cost_limit") or recipe.safe_limit

    def cost(one: Row) -> dict[str, Estimate]:
        return {w: e for w in scores.worlds if (e := scores.mean(one, w, "cost_mean"))}

    found = []
    if base.method in recipe.algorithms:
        gains = {w: g.difference for w in scores.worlds if (g := scores.gain(row, base, w, "safe_hourly"))}
        found.append(Claim(f"{who}: higher Safe % than {plain}", "difference in Safe %, points", gains))
        words = f"{who}: the limit binds ({plain}'s cost is above it)"
        found.append(Claim(words, f"cost per decision, limit {limit:g}", cost(base), limit, 1, 3))
    words = f"cost per decision, at most {NEAR:g} times the limit of {limit:g}"
    return [*found, Claim(f"{who}: stays near its limit", words, cost(row), NEAR * limit, -1, 3)]


if __name__ == "__main__":
    main(__doc__ or "", "online-quick", OnlineRecipe, run, markdown)
