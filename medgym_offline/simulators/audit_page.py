"""The audit as one page: the facts as tables, and figures of how patients respond to treatment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from medgym_offline.diseases.base import Component, Disease, Treatment
from medgym_offline.reports.blocks import Block, Cell, Estimate, Figure, Page, Section, Table, Warn
from medgym_offline.reports.figures import INK, MUTED, SERIES, draw_figure
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import response_curves

__all__ = ["audit_page"]

Facts = dict[str, Any]


def _cells(fact: Any, label: str = "") -> Iterator[tuple[str, Cell]]:
    """The numbers of nested facts, each under the keys that lead to it; a list is one cell."""
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


def _label(item: Component | Treatment) -> str:
    """A component's or treatment's name as people write it."""
    text = item.label or item.name.replace("_", " ")
    return text[:1].upper() + text[1:]


def _responses(treatment: Treatment, times: np.ndarray, curves: np.ndarray, disease: Disease) -> Figure:
    """Response to a full step of one treatment: (T,) times and (P, T, V) change; all patients and the median."""
    unit, last, columns = disease.process.unit, float(times[-1]), min(2, len(disease.variables))
    rows = -(-len(disease.variables) // columns)

    def draw(canvas: Any) -> None:
        alpha = min(0.9, max(0.35, 15.0 / len(curves)))
        panels = canvas.subplots(rows, columns, sharex=True, squeeze=False).flat
        for j, (variable, axes) in enumerate(zip(disease.variables, panels)):
            axes.plot(times, curves[:, :, j].T, color=SERIES[0], linewidth=0.5, alpha=alpha)
            axes.plot(times, np.median(curves[:, :, j], 0), color=INK, linewidth=2)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            axes.set(title=_label(variable), xticks=(0, last / 2, last), xlim=(0, last))
        for spare in panels:
            spare.set_axis_off()
        canvas.supxlabel(f"Time since the step ({unit})", fontsize=10.5)
        canvas.supylabel("Change (SD)", fontsize=10.5)

    caption = "One line per patient, the median in ink. Own world; the other treatments at the patient's mean dose."
    description = "Line charts of the change of every variable, a line per patient; the tables below give quantiles."
    return draw_figure(f"{_label(treatment)}: none to full", draw, description, (5.0, 0.6 + 1.6 * rows), caption)


def audit_page(facts: Facts, bank: SimulatorBank) -> Page:
    """The page of an audit.

    Args:
        facts: Of `audit`, with `hard_checks` and `goals`.
        bank: The bank audited, for response curves.
    """
    disease, process, unit = bank.disease, bank.disease.process, bank.disease.process.unit
    hard = [[c["check"], "passed" if c["passed"] else Warn("FAILED"), c["found"]] for c in facts["hard_checks"]]
    soft = [[c["goal"], "met" if c["met"] else Warn("missed"), c["found"]] for c in facts["goals"]]
    # Close together where responses begin.
    times = torch.linspace(0.0, 1.0, 13) ** 2 * process.horizon / 4
    curves = response_curves(bank.world("own"), times)
    late = f"a full step after {process.horizon / 4:g} {unit}"

    def worlds(caption: str, fact: str) -> Table:
        return _table(caption, {name: world.get(fact, {}) for name, world in facts["worlds"].items()})

    learned: list[Block] = []
    if any("solution_map" in world for world in facts["worlds"].values()):
        learned = [
            "On states and intervals it was not trained on. Error is against the solver, composition is F over a third "
            "of the interval, then the rest, against the whole, rate is dF/dt by autograd against the field.",
            worlds(f"Median / 99th percentile, SD, by interval ({unit})", "solution_map"),
        ]
    record: list[Block] = []
    if "forecast" in facts:
        record.append(f"The own world read the even blocks ({process.block:g} {unit}) of every stay.")
        found = {"held-out blocks, from a variable's previous value to its next": facts["forecast"]}
        found |= {
            f"{blocks} blocks, free rollouts from the first state": each for blocks, each in facts["rollout"].items()
        }
        names = [v.name for v in disease.variables]
        for what, each in found.items():
            models = {name: {**m, "mae": dict(zip(names, m["mae"]))} for name, m in each["models"].items()}
            record.append(_table(f"Errors on {what} (SD)", models))
            record.append(_table("Ind, paired over patients, against", each["paired"]))
    truth = _table("New trajectories, and responses to other treatment", facts["truth"]) if "truth" in facts else None
    constant = (
        f"Constant treatments: mean {disease.severity.label}, and share of times after {process.settled:g} {unit}"
    )
    sections = [
        Section(
            "Verdict",
            Table("Hard checks, world own", ("Check", "", "Found"), hard),
            Table("Goals: what a bank aims for, and may miss", ("Goal", "", "Found"), soft),
        ),
        Section("Solution map", *learned),
        Section("Against the record", *record),
        Section("Against the truth", truth),
        Section(
            "Treatment effects",
            *(_responses(t, times.numpy(), curves[t.name], disease) for t in disease.treatments),
            worlds(f"Signs of the effect of {late}: share of patients", "signs"),
            worlds(f"Effect of {late} (SD): 5 %, median and 95 % of patients", "effects"),
        ),
        Section(
            "Do treatments matter?",
            worlds(
                f"{constant} with {disease.cost.component} safe (limit {disease.cost.limit:g})", "constant_policies"
            ),
        ),
        Section(
            "Bounds and noise",
            worlds("Every state finite (1), and share of patients stuck at a bound under every treatment", "bounded"),
            worlds(f"Residual noise, mean over patients (SD per square root of {unit})", "noise"),
        ),
    ]
    lead = f"{facts['patients']} patients, worlds {', '.join(facts['worlds'])}, hash {facts['content_hash'][:16]}. "
    return Page(f"Audit of {facts['bank']}", sections, f"{lead}{disease.caution} Nothing here is about anyone's care.")
