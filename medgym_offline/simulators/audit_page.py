"""The audit as one page: the facts as tables, and figures of what they are about."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medgym_offline.diseases.base import Disease
from medgym_offline.reports.blocks import Block, Cell, Estimate, Page, Section, Table, Warn
from medgym_offline.simulators import audit_figures as draw
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import response_curves
from medgym_offline.simulators.data import block_steps

__all__ = ["audit_page"]

_SHARES = (0.0, 0.02, 0.04, 0.08, 0.17, 0.25, 0.375, 0.5, 0.67, 0.83, 1.0)  # of the time that responses are shown

Facts = dict[str, Any]
Line = Callable[[Facts], Cell]
"""What a row says of a world's facts."""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _number(value: float) -> Estimate:
    return Estimate(value, digits=3)


def _pair(pair: Sequence[float]) -> str:
    return f"{pair[0]:.3f} / {pair[1]:.3f}"


def _at(show: Callable[[Any], Cell], *keys: Any) -> Line:
    """What `show` makes of the fact under `keys`."""
    return lambda found: show(functools.reduce(operator.getitem, keys, found))


def _by_world(facts: Facts, caption: str, lines: Mapping[str, Line]) -> Table:
    """A column per world, and a row per line."""
    worlds = facts["worlds"]
    rows = [[name, *(cell(found) for found in worlds.values())] for name, cell in lines.items()]
    return Table(caption, ["", *worlds], rows)


def _verdict(facts: Facts) -> list[Block]:
    hard = [[c["check"], "passed" if c["passed"] else Warn("FAILED"), c["found"]] for c in facts["hard_checks"]]
    soft = [[c["goal"], "met" if c["met"] else Warn("missed"), c["found"]] for c in facts["goals"]]
    return [
        Table("Hard checks, world own", ("Check", "", "Found"), hard),
        Table("Goals: what a bank aims for, and may miss", ("Goal", "", "Found"), soft),
    ]


def _map(facts: Facts, unit: str) -> list[Block]:
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
        rows = [[text, *map(_pair, checks[kind].values())] for kind, text in kinds.items()]
        caption = f"Solution map, world {world}; at interval 0 it is the identity to {checks['identity']:.0e}"
        out.append(Table(caption, ["median / p99", *(f"{t} {unit}" for t in checks["error"])], rows))
    return out


def _constants(facts: Facts, disease: Disease) -> list[Block]:
    process, cost = disease.process, disease.cost
    names = max((list(w["constant_policies"]["table"]) for w in facts["worlds"].values()), key=len)

    def scored(policy: str) -> Line:
        def cell(table: Facts) -> Cell:
            return f"{table[policy]['severity']:.2f} ({_percent(table[policy]['safe'])})" if policy in table else None

        return _at(cell, "constant_policies", "table")

    def exact(share: float) -> str:
        return f"{100 * share:.1f} %"

    lines = {
        "gain of the patient's over the cohort's best": _at(exact, "constant_policies", "gain"),
        "bests at corners": _at(exact, "constant_policies", "corners"),
        "mean regret of another patient's best": _at(Estimate, "constant_policies", "wrong_patient_regret"),
    }
    if disease.needed:
        treated = _at(lambda pair: f"{pair[0]} (of {pair[1]} given it)", "constant_policies", "needed_best_treated")
        lines[f"best {disease.needed} above 0, patients"] = _at(int, "constant_policies", "needed_best")
        lines["of them given it by clinicians"] = treated
    caption = (
        f"Constant treatments over {process.horizon:g} {process.unit}: mean {disease.severity.label}, and share of "
    )
    caption += f"times after {process.settled:g} {process.unit} with {cost.component} safe (limit {cost.limit:g})"
    return [
        _by_world(facts, caption, {name: scored(name) for name in names}),
        _by_world(facts, "Do treatments matter, and whose?", lines),
    ]


def _effects(facts: Facts, bank: SimulatorBank) -> list[Block]:
    disease, process = bank.disease, bank.disease.process
    shown = process.horizon / 4
    times = torch.tensor([share * shown for share in _SHARES])
    curves = response_curves(bank.world("own"), times)
    out: list[Block] = [draw.responses(t, times.numpy(), curves[t.name], disease) for t in disease.treatments]
    late = f"{shown:g} {process.unit}"
    signs = {c.statement: _at(_percent, "signs", c.statement) for c in disease.sign_checks}
    out.append(_by_world(facts, f"Signs of the effect of a full step after {late}: share of patients", signs))
    for name, world in facts["worlds"].items():
        rows = []
        for treatment in disease.treatments:
            low, high = world["effects_range"][treatment.name]
            cells = zip(world["effects_median"][treatment.name], low, high)
            rows.append([draw.label(treatment), *(Estimate(*c, signed=True) for c in cells)])
        caption = f"Effect of a full step after {late} (SD): median, and 5 to 95 % of patients, world {name}"
        out.append(Table(caption, ["", *map(draw.label, disease.variables)], rows))
    return out


def _bounds(facts: Facts, disease: Disease) -> list[Block]:
    process, components = disease.process, [(c.name, draw.label(c)) for c in disease.components]
    bounds = {"every state finite": _at(lambda share: "yes" if share == 1 else Warn("NO"), "bounded", "finite")}
    bounds |= {f"stuck: {label}": _at(_percent, "bounded", name) for name, label in components}
    noise = {label: _at(_number, "noise", j) for j, (_, label) in enumerate(components)}
    halves = [
        [f"{name}, {h} {process.unit}", _number(f["mean_difference"]), *map(_pair, f["spread"].values())]
        for name, w in facts["worlds"].items()
        for h, f in w["noise_partition"].items()
    ]
    seen = ["World, interval", "Means differ by", *map(draw.label, disease.variables)]
    stuck = f"Stuck at a bound after {process.horizon:g} {process.unit} of random, zero and maximal treatment alike"
    return [
        _by_world(facts, stuck, bounds),
        _by_world(facts, f"Residual noise, mean over patients (SD per square root of {process.unit})", noise),
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
            _map(facts, process.unit),
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
        ("Bounds and noise", "", _bounds(facts, disease)),
    ]
    lead = f"{facts['patients']} patients, worlds {', '.join(facts['worlds'])}, hash {facts['content_hash'][:16]}. "
    sections = [Section(heading, intro or None, *blocks) for heading, intro, blocks in parts if blocks]
    return Page(f"Audit of {facts['bank']}", sections, f"{lead}{disease.caution} Nothing here is about anyone's care.")
