"""The audit as one page: the facts as tables, and figures of what they are about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from medgym_offline.reports.blocks import Block, Cell, Estimate, Page, Section, Table, Warn
from medgym_offline.simulators import audit_figures as draw
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import response_curves
from medgym_offline.simulators.data import block_steps

__all__ = ["audit_page"]

_SHARES = (0.0, 0.02, 0.04, 0.08, 0.17, 0.25, 0.375, 0.5, 0.67, 0.83, 1.0)  # of the time that responses are shown

Facts = dict[str, Any]


def _cells(fact: Any, label: str = "") -> Iterator[tuple[str, Cell]]:
    """The numbers of nested facts, each under the keys that lead to it; a pair is one cell."""
    if isinstance(fact, Mapping):
        for key, value in fact.items():
            words = str(key).replace("_", " ")
            yield from _cells(value, f"{label}, {words}" if label else words)
    elif isinstance(fact, list):
        yield label, " / ".join(f"{n:.3f}" if isinstance(n, float) else str(n) for n in fact)
    else:
        small = isinstance(fact, float) and 0.0 < abs(fact) < 0.001
        yield label, f"{fact:.1e}" if small else Estimate(fact, digits=3) if isinstance(fact, float) else fact


def _table(caption: str, columns: Mapping[str, Any]) -> Table:
    """A column of nested facts per world or model, and a row per fact that one of them has."""
    found = {name: dict(_cells(facts)) for name, facts in columns.items()}
    labels = dict.fromkeys(label for cells in found.values() for label in cells)
    return Table(caption, ["", *found], [[label, *(cells.get(label) for cells in found.values())] for label in labels])


def _of_worlds(facts: Facts, key: str) -> dict[str, Any]:
    """World -> its facts of that name."""
    return {name: world.get(key, {}) for name, world in facts["worlds"].items()}


def _verdict(facts: Facts) -> list[Block]:
    hard = [[c["check"], "passed" if c["passed"] else Warn("FAILED"), c["found"]] for c in facts["hard_checks"]]
    soft = [[c["goal"], "met" if c["met"] else Warn("missed"), c["found"]] for c in facts["goals"]]
    return [
        Table("Hard checks, world own", ("Check", "", "Found"), hard),
        Table("Goals: what a bank aims for, and may miss", ("Goal", "", "Found"), soft),
    ]


def _effects(facts: Facts, bank: SimulatorBank) -> list[Block]:
    disease, shown, columns = bank.disease, bank.disease.process.horizon / 4, {}
    times = torch.tensor([share * shown for share in _SHARES])
    curves = response_curves(bank.world("own"), times)
    for name, world in facts["worlds"].items():
        ranges = {t: zip(m, *world["effects_range"][t]) for t, m in world["effects_median"].items()}
        columns[name] = {
            t: {v.name: Estimate(m, low, high, signed=True) for v, (m, low, high) in zip(disease.variables, cells)}
            for t, cells in ranges.items()
        }
    late = f"of a full step after {shown:g} {disease.process.unit}"
    return [
        *(draw.responses(t, times.numpy(), curves[t.name], disease) for t in disease.treatments),
        _table(f"Signs of the effect {late}: share of patients", _of_worlds(facts, "signs")),
        _table(f"Effect {late} (SD): median, and 5 to 95 % of patients", columns),
    ]


def _noise(facts: Facts, bank: SimulatorBank) -> list[Block]:
    process, names = bank.disease.process, bank.disease.state_names
    noise = {name: dict(zip(names, levels)) for name, levels in _of_worlds(facts, "noise").items()}
    stuck = f"Every state finite (1), and share of patients stuck at a bound after {process.horizon:g} {process.unit}"
    return [
        _table(f"{stuck} of random, zero and maximal treatment alike", _of_worlds(facts, "bounded")),
        _table(f"Residual noise, mean over patients (SD per square root of {process.unit})", noise),
        _table(
            f"Noise of one step / of two half-steps of so many {process.unit}: largest difference of means, and spread "
            "(SD, median over patients)",
            _of_worlds(facts, "noise_partition"),
        ),
    ]


def _record(facts: Facts, bank: SimulatorBank, record: Facts | None) -> list[Block]:
    disease, names = bank.disease, [v.name for v in bank.disease.variables]
    out: list[Block] = []
    for i in record["examples"] if record else ():
        data, paths = record["data"], record["paths"]  # type: ignore[index]
        observed = np.where(data.mask[i], bank.denormalize(data.values[i].astype(float)), np.nan)
        shown = {k: bank.denormalize(p[i][: int(data.length[i])].astype(float)) for k, p in paths.items()}
        error = {k: np.abs(p[i] - data.values[i])[data.mask[i]].mean() for k, p in paths.items()}
        caption = f"MAE over the stay: Ind {error['ind']:.2f}, Pop {error['pop']:.2f} SD."
        out.append(draw.rollout(data.patients[i], observed, block_steps(1, disease), shown, disease, caption))
    models = {name: {**m, "mae": dict(zip(names, m["mae"]))} for name, m in facts["forecast"]["models"].items()}
    free = {f"{model}, {blocks}": found for blocks, each in facts["rollout"].items() for model, found in each.items()}
    return [
        *out,
        _table("Forecasts of held-out blocks, from a variable's previous value to its next (SD)", models),
        _table("Ind, paired over patients, against", facts["forecast"]["paired"]),
        _table("Free rollouts from the first state over the whole stay (SD)", free),
    ]


def audit_page(facts: Facts, bank: SimulatorBank, record: Facts | None = None) -> Page:
    """The page of an audit.

    Args:
        facts: Of `audit`, with `hard_checks` and `goals`.
        bank: The bank audited, for response curves.
        record: Rollouts against the record, where a cohort was given.
    """
    disease, process, cost = bank.disease, bank.disease.process, bank.disease.cost
    safe = (
        f"Constant treatments over {process.horizon:g} {process.unit}: mean {disease.severity.label}, and share of "
        f"times after {process.settled:g} {process.unit} with {cost.component} safe (limit {cost.limit:g})"
    )
    parts: list[tuple[str, str, list[Block]]] = [
        ("Verdict", "", _verdict(facts)),
        (
            "Solution map",
            "On states and intervals it was not trained on. Error is against the solver, composition is F over a third "
            "of the interval, then the rest, against the whole, rate is dF/dt by autograd against the field, without "
            "states at a bound. A world without numbers is computed by the solver.",
            [_table(f"Median / 99th percentile, SD, by interval ({process.unit})", _of_worlds(facts, "solution_map"))],
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
            [_table("New trajectories, and responses to other treatment", facts["truth"])] if "truth" in facts else [],
        ),
        ("Treatment effects", "What a step from none to the full dose does.", _effects(facts, bank)),
        ("Do treatments matter?", "", [_table(safe, _of_worlds(facts, "constant_policies"))]),
        ("Bounds and noise", "", _noise(facts, bank)),
    ]
    lead = f"{facts['patients']} patients, worlds {', '.join(facts['worlds'])}, hash {facts['content_hash'][:16]}. "
    sections = [Section(heading, intro or None, *blocks) for heading, intro, blocks in parts if blocks]
    return Page(f"Audit of {facts['bank']}", sections, f"{lead}{disease.caution} Nothing here is about anyone's care.")
