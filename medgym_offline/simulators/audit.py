"""The audit of a bank: every check as a number, hard checks as passed or failed, goals as met or not.

Hard checks are what a bank may not fail; goals are what the specification aims for and an honest bank may miss
(`docs/simulators.md` says what each means). Facts go to `audit.json`, and to one page, `audit.html`:
the facts as tables, and figures of how patients respond to treatment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medgym_offline.diseases.base import Component, Disease, Treatment
from medgym_offline.errors import BankError
from medgym_offline.files import write_json
from medgym_offline.progress import Progress
from medgym_offline.reports.blocks import Block, Cell, Estimate, Figure, Page, Section, Table, Warn, write_page
from medgym_offline.reports.figures import INK, MUTED, SERIES, draw_figure
from medgym_offline.simulators import checks
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import response_curves
from medgym_offline.simulators.data import fit_data
from medgym_offline.simulators.forecast import forecast_unseen, rollout_errors

if TYPE_CHECKING:
    from medgym_offline.cohorts import Cohort

__all__ = ["add_forecasts", "audit", "audit_page"]

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


LATE = 1 / 4
"""Share of the horizon after which effects are read."""

Verdict = tuple[str, bool, str]
"""What was checked, whether it holds, and the numbers found."""


def _world_facts(world: SimulatorBank) -> dict[str, Any]:
    disease, late = world.disease, torch.tensor([LATE * world.disease.process.horizon])
    effects = {name: curve[:, 0] for name, curve in checks.response_curves(world, late).items()}
    signed = {c: c.sign * effects[c.treatment][:, disease.column(c.component)] for c in disease.sign_checks}
    spread = {name: np.quantile(effect, (0.05, 0.5, 0.95), axis=0).T.round(3) for name, effect in effects.items()}
    facts = {
        "backend": world.backend,
        "constant_policies": checks.constant_policies(world),
        "signs": {check.statement: float((effect > 0).mean()) for check, effect in signed.items()},
        "effects": {t: dict(zip(disease.state_names, rows.tolist())) for t, rows in spread.items()},
        "bounded": checks.bounded(world),
        "noise": dict(zip(disease.state_names, world.noise_scale.mean(0).double().numpy().round(4).tolist())),
    }
    return facts | ({"solution_map": checks.map_checks(world)} if world.backend == "map" else {})


def add_forecasts(facts: dict[str, Any], bank: SimulatorBank, cohort: Cohort) -> None:
    """Add `forecast` (one step, held-out blocks) and `rollout` (full horizon) to the facts; see :mod:`.forecast`.

    Raises:
        BankError: The cohort table lacks patients of the bank.
    """
    missing = sorted(set(bank.patients) - set(cohort.patients))
    if missing:
        raise BankError(
            f"the cohort table lacks {len(missing)} of the {len(bank)} patients of bank {bank.name!r} "
            f"({', '.join(missing[:3])}, ...); give the table the bank was fitted to"
        )
    data = fit_data(cohort.select(bank.patients).to_grid(1.0, bank.disease.process.horizon), bank.disease, bank.scales)
    ordered = bank.world("own").select(list(data.patients))
    facts |= {"forecast": forecast_unseen(ordered, data), "rollout": rollout_errors(ordered, data)}


def _hard_checks(own: dict[str, Any], disease: Disease) -> list[Verdict]:
    """What a bank may not fail, from the facts of the world policies are trained in."""
    constant, bounded = own["constant_policies"], own["bounded"]
    order = ("maximal", "zero", "clinician", "best constant of the cohort", "best constant of each patient")
    severity = [constant["table"][name]["severity"] for name in order]
    falls = all(a > b for a, b in zip(severity[:-1], severity[1:]))
    gain, corners = constant["gain"], constant["corners"]
    safe = min(constant["table"][name]["safe"] for name in ("zero", "maximal"))
    out = [
        (" > ".join(order) + " in severity", falls, ", ".join(f"{s:.2f}" for s in severity)),
        ("per-patient best at least 10 % better than the cohort's best", gain >= 0.1, f"{100 * gain:.1f} %"),
        ("at most 30 % of the bests at extreme corners", corners <= 0.3, f"{100 * corners:.0f} %"),
        ("safe share at zero or at maximal treatment below 95 %", safe < 0.95, f"{100 * safe:.0f} %"),
    ]
    if disease.needed:
        share, what = constant["needed_best"], f"best {disease.needed} above 0 for a third of the patients"
        out.append((what, share >= 1 / 3, f"{100 * share:.0f} %"))
    for check in disease.sign_checks:
        if check.share is not None:
            have, what = own["signs"][check.statement], f"{check.statement} in {100 * check.share:.0f} % of patients"
            out.append((what, have >= check.share, f"{100 * have:.0f} %"))
    stuck = max(v for k, v in bounded.items() if k != "finite")
    out.append(("finite for an episode under random, zero and maximal treatment", bounded["finite"] == 1.0, ""))
    out.append(("no component stuck at its bound in most patients", stuck < 0.5, f"at most {100 * stuck:.0f} %"))
    if "solution_map" in own:
        error = own["solution_map"]["identity"]
        out.append(("solution map at dt = 0 is the identity", error <= 1e-6, f"{error:.1e} SD"))
    return out


def _goals(facts: dict[str, Any], unit: str) -> list[Verdict]:
    """The aims a bank may miss, as long as it says so."""
    out, learned = [], facts["worlds"]["own"].get("solution_map", {})
    for check, name in (("error", "map against the solver"), ("composition", "composition of the map")):
        if found := learned.get(check):
            *shorter, longest = sorted(found, key=float)
            median = max(m for m, _ in found.values())
            early, late = max(found[h][1] for h in shorter), found[longest][1]
            text = f"{name}: p99 below 0.2 SD to {float(shorter[-1]):g} {unit}, 0.25 at {float(longest):g} {unit}"
            out.append((f"{name}: median below 0.03 SD", median < 0.03, f"{median:.3f}"))
            out.append((text, early < 0.2 and late < 0.25, f"{early:.3f}, {late:.3f}"))
            out.append((f"{name}: p99 below 0.1 SD (stretch)", max(early, late) < 0.1, f"{max(early, late):.3f}"))
    for other, p in facts.get("forecast", {"paired": {}})["paired"].items():
        met, text = p["median_gain"] > 0 and p["ind_better"] > 0.5, f"better in {100 * p['ind_better']:.0f} %"
        out.append((f"held-out forecasts: Ind better than {other} in most patients", met, f"{text}, p {p['p']:.2g}"))
    return out


def audit(bank: SimulatorBank, output: str | Path, show: bool = True, cohort: Cohort | None = None) -> dict[str, Any]:
    """Run every check and write `audit.json` and `audit.html` into the folder `output`.

    Args:
        bank: The bank to check.
        output: Folder, made if absent.
        show: Progress on standard error.
        cohort: The cohort the bank was fitted to, for forecasts and rollouts against the record.

    Returns:
        The facts, with `hard_checks` and `goals`.

    Raises:
        BankError: A hard check failed; the report is written all the same. Or the bank has no world `own`, or the
            cohort is not the bank's.
    """
    if "own" not in bank.worlds:
        raise BankError(f"bank {bank.name!r} has no world 'own' to audit; its worlds are {', '.join(bank.worlds)}")
    facts: dict[str, Any] = {
        "bank": bank.name,
        "content_hash": bank.content_hash,
        "patients": len(bank),
        "never_given": bank.metadata.get("cohort", {}).get("never_given", []),
        "worlds": {},
    }
    with Progress("audit worlds", len(bank.worlds), enabled=show) as bar:
        for name in bank.worlds:
            facts["worlds"][name] = _world_facts(bank.world(name))
            bar.advance()
    if cohort is not None:
        add_forecasts(facts, bank, cohort)
    if "true" in bank.worlds and bank.disease.truth_facts is not None:
        facts["truth"] = bank.disease.truth_facts(bank)
    hard, soft = _hard_checks(facts["worlds"]["own"], bank.disease), _goals(facts, bank.disease.process.unit)
    facts["hard_checks"] = [{"check": what, "passed": passed, "found": found} for what, passed, found in hard]
    facts["goals"] = [{"goal": what, "met": met, "found": found} for what, met, found in soft]
    write_json(Path(output) / "audit.json", facts)
    write_page(Path(output) / "audit.html", audit_page(facts, bank))
    failed = [what for what, passed, _ in hard if not passed]
    if failed:
        words = f"bank {bank.name!r} fails {len(failed)} of {len(hard)} checks: {'; '.join(failed)}"
        if facts["never_given"]:
            words += (
                f". Its cohort charts no {' and no '.join(facts['never_given'])} at all (not charted is not 'not "
                "given'), so that only the prior says what it does: why checks of treatment fail. Add what was given"
            )
        raise BankError(words)
    return facts
