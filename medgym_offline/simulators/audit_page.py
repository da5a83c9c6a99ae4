"""The audit as one page: the facts as tables, and figures of what they are about."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medgym_offline.diseases.base import Disease
from medgym_offline.reports import Block, Cell, Details, Estimate, Page, Section, Table, Warn
from medgym_offline.simulators import audit_figures as draw
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import response_curves
from medgym_offline.simulators.data import block_steps

__all__ = ["audit_page"]

_SHARES = (0.0, 0.02, 0.04, 0.08, 0.17, 0.25, 0.375, 0.5, 0.67, 0.83, 1.0)  # of the time that responses are shown

Facts = dict[str, Any]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(value: float) -> Estimate:
    return Estimate(value, digits=3)


def _pair(pair: Sequence[float]) -> str:
    return f"{pair[0]:.3f} / {pair[1]:.3f}"


def _verdict(facts: Facts) -> list[Block]:
    checks, aims = facts["hard_checks"], facts["goals"]
    hard = [[c["check"], "passed" if c["passed"] else Warn("FAILED"), c["found"]] for c in checks]
    soft = [[c["goal"], "met" if c["met"] else Warn("missed"), c["found"]] for c in aims]
    return [
        Table("Hard checks, world own", ("Check", "", "Found"), hard),
        Table("Goals: what a bank aims for, and may miss", ("Goal", "", "Found"), soft),
    ]


def _map(facts: Facts, names: list[str], unit: str) -> list[Block]:
    kinds = {
        "error": "Error against the solver (SD)",
        "composition": "Composition: F over a third of the interval, then the rest, against the whole (SD)",
        "rate": f"Rate: dF/dt by autograd against the field (SD per {unit})",
    }
    out: list[Block] = []
    for world, found in facts["worlds"].items():
        if (checks := found.get("solution_map")) is None:
            out.append(f"World {world} is computed by the solver: there is no map to check.")
            continue
        times = list(checks["error"])
        heads = ["median / p99", *(f"{t} {unit}" for t in times)]
        rows = [[text, *(_pair(checks[k][t]) for t in times)] for k, text in kinds.items()]
        identity = f"; at interval 0 it is the identity to {checks['identity']:.0e}"
        out.append(Table(f"Solution map, world {world}, all components{identity}", heads, rows))
        parts = []
        for kind, text in kinds.items():
            by = checks["by_variable"][kind]
            cells = [[name, *(_pair(by[t][v]) for t in times)] for v, name in zip(facts["variables"], names)]
            parts.append(Table(f"{text}, world {world}", heads, cells))
        out.append(Details(f"Per component, world {world}", parts))
    return out


def _constants(facts: Facts, disease: Disease) -> list[Block]:
    worlds, process, cost = facts["worlds"], disease.process, disease.cost
    found = [w["constant_policies"] for w in worlds.values()]
    tables = {name: c["table"] for name, c in zip(worlds, found)}
    rows: list[list[Cell]] = []
    for policy in max((list(t) for t in tables.values()), key=len):
        known = [table.get(policy) for table in tables.values()]
        pairs = [(None, None) if k is None else (Estimate(k["severity"]), _percent(k["safe"])) for k in known]
        rows.append([policy, *itertools.chain(*pairs)])
    heads = ["Treatment", *(f"{w}: {k}" for w in worlds for k in ("severity", "safe"))]
    caption = f"Constant treatments over {process.horizon:g} {process.unit}: mean {disease.severity.label}, share of "
    caption += f"times after {process.settled:g} {process.unit} with {cost.component} safe (limit {cost.limit:g})"
    lines: list[list[Cell]] = [
        ["gain of the patient's over the cohort's best", *(f"{100 * c['gain']:.1f} %" for c in found)],
        ["bests at corners", *(f"{100 * c['corners']:.1f} %" for c in found)],
        ["different bests", *(c["distinct"] for c in found)],
    ]
    if disease.needed:
        given = [c["needed_best_treated"] for c in found]
        lines.append([f"best {disease.needed} above 0, patients", *(c["needed_best"] for c in found)])
        lines.append(["of them given it by clinicians", *(f"{a} (of {b} given it)" for a, b in given)])
    for q in ("median", "mean", "p90"):
        regrets = [Estimate(c["wrong_patient_regret"][q]) for c in found]
        lines.append([f"regret of another patient's best, {q}", *regrets])
    return [
        Table(caption, heads, rows),
        Table("Do treatments matter, and whose?", ["", *worlds], lines),
    ]


def _effects(facts: Facts, bank: SimulatorBank) -> list[Block]:
    disease, worlds, process = bank.disease, facts["worlds"], bank.disease.process
    shown = process.horizon / 4
    times = torch.tensor([share * shown for share in _SHARES])
    curves = response_curves(bank.world("own"), times)
    out: list[Block] = [draw.responses(t, times.numpy(), curves[t.name], disease) for t in disease.treatments]
    late, early = f"{shown:g} {process.unit}", f"{shown / 4:g} {process.unit}, solver"
    kinds = {"signs": late, "signs_solver": f"{late}, solver", "signs_early": early}
    statements = next(iter(worlds.values()))["signs"]
    rows = [[s, *(_percent(w[k][s]) for w in worlds.values() for k in kinds)] for s in statements]
    heads = ["Statement", *(f"{w}, {text}" for w in worlds for text in kinds.values())]
    out.append(Table("Signs of the effect of a full step: share of patients", heads, rows))
    for name, world in worlds.items():
        rows = []
        for treatment in disease.treatments:
            low, high = world["effects_range"][treatment.name]
            cells = zip(world["effects_median"][treatment.name], low, high)
            rows.append([draw.label(treatment), *(Estimate(*c, signed=True) for c in cells)])
        caption = f"Effect of a full step after {late} (SD): median, and 5 to 95 % of patients, world {name}"
        out.append(Table(caption, ["", *map(draw.label, disease.variables)], rows))
    return out


def _bounds(facts: Facts, disease: Disease) -> list[Block]:
    process, worlds, names = disease.process, facts["worlds"], [draw.label(c) for c in disease.components]
    found, heads = list(worlds.values()), ["", *worlds]
    at_bound: list[list[Cell]] = [
        [f"stuck: {n}", *(_percent(w["bounded"][v]) for w in found)] for n, v in zip(names, disease.state_names)
    ]
    bounds: list[list[Cell]] = [
        ["every state finite", *("yes" if w["bounded"]["finite"] == 1 else Warn("NO") for w in found)],
        *at_bound,
        ["states where like patients are pushed apart", *(_percent(w["unstable"]) for w in found)],
    ]
    noise = [[name, *(_number(w["noise"][j]) for w in found)] for j, name in enumerate(names)]
    halves = [
        [f"{name}, {h} {process.unit}", _number(f["mean_difference"]), *map(_pair, f["spread"].values())]
        for name, w in worlds.items()
        for h, f in w["noise_partition"].items()
    ]
    seen = ["World, interval", "Means differ by", *map(draw.label, disease.variables)]
    stuck = f"Stuck at a bound after {process.horizon:g} {process.unit} of random, zero and maximal treatment alike"
    return [
        Table(stuck, heads, bounds),
        Table(f"Residual noise, mean over patients (SD per square root of {process.unit})", heads, noise),
        Table("Noise of one step / of two half-steps: spread (SD, median over patients)", seen, halves),
    ]


def _record(facts: Facts, bank: SimulatorBank, record: Facts | None) -> list[Block]:
    disease, names = bank.disease, [v.name for v in bank.disease.variables]
    labels = [draw.label(v) for v in disease.variables]
    out: list[Block] = []
    for i in record["examples"] if record else ():
        data, paths = record["data"], record["paths"]  # type: ignore[index]
        observed = np.where(data.mask[i], bank.denormalize(data.values[i].astype(float)), np.nan)
        shown = {k: bank.denormalize(p[i][: int(data.length[i])].astype(float)) for k, p in paths.items()}
        error = {k: np.abs(p[i] - data.values[i])[data.mask[i]].mean() for k, p in paths.items()}
        caption = f"MAE over the stay: Ind {error['ind']:.2f}, Pop {error['pop']:.2f} SD."
        out.append(draw.rollout(data.patients[i], observed, block_steps(1, disease), shown, disease, caption))
    models = [
        [name, _number(m["mae_mean"]), _number(m["nmse_mean"]), *map(_number, m["mae"])]
        for name, m in facts["forecast"]["models"].items()
    ]
    paired = [
        [f"against {n}", _percent(p["ind_better"]), Estimate(p["median_gain"], digits=4, signed=True), f"{p['p']:.2g}"]
        for n, p in facts["forecast"]["paired"].items()
    ]
    free = [
        [f"{model}, {blocks}", metric.upper(), _number(found["mean"]), *(_number(found.get(v, np.nan)) for v in names)]
        for blocks, by_model in facts["rollout"].items()
        for model, metrics in by_model.items()
        for metric, found in metrics.items()
    ]
    caption = (
        "Forecasts of held-out blocks, from a variable's previous value to its next (SD): MAE, NMSE, MAE per variable"
    )
    return [
        *out,
        Table(caption, ["", "MAE", "NMSE", *labels], models),
        Table("Ind, paired over patients", ("", "Ind better", "Median gain (SD)", "Wilcoxon p"), paired),
        Table("Free rollouts from the first state over the whole stay (SD)", ["", "", "Mean", *labels], free),
    ]


def _truth(facts: Facts, horizon: str) -> list[Block]:
    cases = [(regime, lead) for regime, leads in next(iter(facts["truth"].values()))["r2"].items() for lead in leads]
    rows = [
        [model, Estimate(found["nmse"]["mean"]), *(Estimate(found["r2"][r][lead]["all"]) for r, lead in cases)]
        for model, found in facts["truth"].items()
    ]
    heads = ["", f"NMSE {horizon}", *(f"R2 {regime} {lead}" for regime, lead in cases)]
    return [Table("New trajectories, and responses to other treatment", heads, rows)]


def _ceilings(facts: Facts, unit: str) -> list[Block]:
    found = facts["ceilings"]
    summary = found["summary"]
    rows = [
        [key, *(Estimate(g[k], unit="%") for k in ("median", "mean", "q90")), _percent(g["share_above_2"])]
        for key, g in summary.items()
        if " over " in key
    ]
    caption = (
        f"Open-loop ceilings, {found['config']['decisions']} decisions, world {found['world']}: gain over patients"
    )
    means = ", ".join(f"{n} {h:.3f}" for n, h in summary["harm"].items())
    quantiles = ", ".join(f"{q:g}" for q in summary["adaptive_hours"]["quantiles"])
    return [
        Table(caption, ("", "Median", "Mean", "p90", "Patients above 2 %"), rows),
        f"Mean harm: {means}. Intervals of the best adaptive schedules, 5/25/50/75/95 %: {quantiles} {unit}. "
        f"Searched in {found['seconds']:.0f} s.",
    ]


def audit_page(facts: Facts, bank: SimulatorBank, record: Facts | None = None) -> Page:
    """The page of an audit.

    Args:
        facts: Of `audit`, with `hard_checks` and `goals`.
        bank: The bank audited, for response curves.
        record: Rollouts against the record, where a cohort was given.
    """
    disease, process = bank.disease, bank.disease.process
    parts: list[tuple[str, str, list[Block]]] = [
        ("Verdict", "", _verdict(facts)),
        (
            "Solution map",
            "On states and intervals it was not trained on; dF/dt leaves out states at a bound.",
            _map(facts, [draw.label(c) for c in disease.components], process.unit),
        ),
        (
            "Against the record",
            f"The own world read the even blocks ({process.block:g} {process.unit}) of every stay; errors are on the "
            "odd ones unless they say fitted. Some patients, from the best to the worst Ind rollout.",
            _record(facts, bank, record) if "forecast" in facts else [],
        ),
        (
            "Against the truth",
            "The true dynamics of this bank's patients are known.",
            _truth(facts, f"{process.horizon:g} {process.unit}") if "truth" in facts else [],
        ),
        ("Treatment effects", "What a step from none to the full dose does.", _effects(facts, bank)),
        ("Do treatments matter?", "", _constants(facts, disease)),
        (
            "Do schedules and timing matter?",
            "The best found by gradient search for each patient; a policy that does not know it need not get there.",
            _ceilings(facts, process.unit) if "ceilings" in facts else [],
        ),
        ("Bounds and noise", "", _bounds(facts, disease)),
    ]
    lead = f"{facts['patients']} patients, worlds {', '.join(facts['worlds'])}, hash {facts['content_hash'][:16]}. "
    sections = [Section(heading, intro or None, *blocks) for heading, intro, blocks in parts if blocks]
    return Page(f"Audit of {facts['bank']}", sections, f"{lead}{disease.caution} Nothing here is about anyone's care.")
