"""The audit as one page: no script, no request, readable on a phone, light or dark.

Figures need matplotlib (extra `report`); without it the page has the same numbers in tables, and says so.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medgym_offline.errors import MissingExtraError
from medgym_offline.simulators import audit_figures as draw
from medgym_offline.simulators.audit_html import STYLE, figures, table
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import response_curves
from medgym_offline.simulators.data import block_steps

__all__ = ["audit_page"]

_HOURS = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 9.0, 12.0, 16.0, 20.0, 24.0)


def _longest(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of the longest table: a world other than own has one more."""
    return max((list(t) for t in tables), key=len)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _verdict(facts: dict[str, Any]) -> str:
    rows = [(c["check"], "passed" if c["passed"] else "FAILED", c["found"]) for c in facts["hard_checks"]]
    out = table("Hard checks, world own", ("check", "", "found"), rows, (2,))
    rows = [(c["goal"], "met" if c["met"] else "missed", c["found"]) for c in facts["goals"]]
    return out + table("Goals: what the specification aims for", ("goal", "", "found"), rows, (2,))


def _map(facts: dict[str, Any]) -> str:
    kinds = {
        "error": "Error against the solver (SD)",
        "composition": "Composition: F over a third of the hold, then the rest, against the whole (SD)",
        "rate": "Rate: dF/dt by autograd against the field (SD per hour)",
    }
    out = ""
    for world, found in facts["worlds"].items():
        if "solution_map" not in found:
            out += f"<p>World {html.escape(world)} is computed by the solver: there is no map to check.</p>"
            continue
        checks = found["solution_map"]
        hours = list(checks["error"])
        rows = [(text, *(f"{checks[k][h][0]:.3f} / {checks[k][h][1]:.3f}" for h in hours)) for k, text in kinds.items()]
        heads = (f"median / p99, identity {checks['identity']:.0e}", *(f"{h} h" for h in hours))
        out += table(f"Solution map, world {world}, all variables", heads, rows)
        parts = []
        for k, text in kinds.items():
            by = checks["by_variable"][k]
            rows = [
                (draw.label(v), *(f"{by[h][v][0]:.3f} / {by[h][v][1]:.3f}" for h in hours)) for v in facts["variables"]
            ]
            parts.append(table(f"{text}, world {world}", ("median / p99", *(f"{h} h" for h in hours)), rows))
        out += f"<details><summary>Per variable, world {html.escape(world)}</summary>{''.join(parts)}</details>"
    return out


def _constants(facts: dict[str, Any]) -> str:
    worlds = facts["worlds"]
    names = _longest([w["constant_policies"]["table"] for w in worlds.values()])
    rows: list[Sequence[object]] = []
    for name in names:
        row: list[object] = [name]
        for world in worlds.values():
            found = world["constant_policies"]["table"].get(name)
            row += ["", ""] if found is None else [f"{found['severity']:.2f}", _percent(found["safe"])]
        rows.append(row)
    heads = ["treatment"] + [f"{w}: {k}" for w in worlds for k in ("severity", "safe hours")]
    out = table("Constant treatments over 96 h: mean severity, hours after 20 h with lactate below 4", heads, rows)
    rows = []
    for label, key in (("gain of the patient's over the cohort's best", "gain"), ("bests at corners", "corners")):
        rows.append((label, *(f"{100 * w['constant_policies'][key]:.1f} %" for w in worlds.values())))
    rows.append(("different bests", *(w["constant_policies"]["distinct"] for w in worlds.values())))
    best = [w["constant_policies"]["needed_best_treated"] for w in worlds.values()]
    counts = [w["constant_policies"]["needed_best"] for w in worlds.values()]
    rows.append(("best vasopressor above 0, patients", *counts))
    rows.append(("of them given it by clinicians", *(f"{a} (of {b} given it)" for a, b in best)))
    for q in ("median", "mean", "p90"):
        values = (w["constant_policies"]["wrong_patient_regret"][q] for w in worlds.values())
        rows.append((f"regret of another patient's best, {q}", *(f"{v:.2f}" for v in values)))
    return out + table("Do treatments matter, and whose?", ("", *worlds), rows)


def _effects(facts: dict[str, Any]) -> str:
    out = ""
    worlds = facts["worlds"]
    statements = next(iter(worlds.values()))["signs"]
    kinds = {"signs": "24 h", "signs_solver": "24 h, solver", "signs_early": "6 h, solver"}
    rows = [(s, *(_percent(w[k][s]) for w in worlds.values() for k in kinds)) for s in statements]
    heads = ("statement", *(f"{w}, {text}" for w in worlds for text in kinds.values()))
    out += table("Signs of the effect of a full step: share of patients", heads, rows)
    variables = list(map(draw.label, facts["variables"][:6]))
    for name, world in worlds.items():
        rows = []
        for t, median in world["effects_median"].items():
            low, high = world["effects_range"][t]
            rows.append((draw.label(t), *(f"{m:+.2f}\n{a:+.2f} to {b:+.2f}" for m, a, b in zip(median, low, high))))
        out += table(
            f"Effect of a full step after 24 h (SD): median and 5 to 95 % of patients, {name}", ("", *variables), rows
        )
    return out


def _bounds(facts: dict[str, Any]) -> str:
    worlds = facts["worlds"]
    rows = [("every state finite", *("yes" if w["bounded"]["finite"] == 1 else "NO" for w in worlds.values()))]
    rows += [
        (f"stuck: {draw.label(v)}", *(_percent(w["bounded"][v]) for w in worlds.values())) for v in facts["variables"]
    ]
    rows.append(("states where like patients are pushed apart", *(_percent(w["unstable"]) for w in worlds.values())))
    out = table("Patients stuck at a bound after 96 h of random, zero and maximal treatment alike", ("", *worlds), rows)
    rows = [
        (draw.label(v), *(f"{w['noise'][j]:.3f}" for w in worlds.values())) for j, v in enumerate(facts["variables"])
    ]
    out += table("Residual noise, mean over patients (SD per square root of an hour)", ("", *worlds), rows)
    heads = ("world, hold", "means differ by", *map(draw.label, facts["variables"][:6]))
    rows = [
        (f"{name}, {h} h", f"{f['mean_difference']:.3f}", *(f"{a:.3f}, {b:.3f}" for a, b in f["spread"].values()))
        for name, w in worlds.items()
        for h, f in w["noise_partition"].items()
    ]
    return out + table("Noise of one step, two half-steps: spread (SD, median over patients)", heads, rows)


def _record(facts: dict[str, Any]) -> str:
    variables = facts["variables"][:6]
    forecast = facts["forecast"]
    rows = [
        (name, f"{m['mae_mean']:.3f}", f"{m['nmse_mean']:.3f}", *(f"{e:.3f}" for e in m["mae"]))
        for name, m in forecast["models"].items()
    ]
    out = table(
        "Forecasts of held-out blocks, from a variable's previous value to its next (SD): MAE, NMSE, MAE per variable",
        ("", "MAE", "NMSE", *map(draw.label, variables)),
        rows,
    )
    rows = [
        (f"against {n}", _percent(p["ind_better"]), f"{p['median_gain']:+.4f}", f"{p['p']:.2g}")
        for n, p in forecast["paired"].items()
    ]
    out += table("Ind, paired over patients", ("", "Ind better", "median gain (SD)", "Wilcoxon p"), rows)
    rows = [
        (
            f"{model}, {blocks}",
            metric.upper(),
            f"{found['mean']:.3f}",
            *(f"{found.get(v, float('nan')):.3f}" for v in variables),
        )
        for blocks, models in facts["rollout"].items()
        for model, metrics in models.items()
        for metric, found in metrics.items()
    ]
    return out + table(
        "Free rollouts from the first state over the whole stay (SD)",
        ("", "", "mean", *map(draw.label, variables)),
        rows,
    )


def _truth(facts: dict[str, Any]) -> str:
    rows = []
    for model, found in facts["truth"].items():
        r2 = [found["r2"][regime][lead] for regime in found["r2"] for lead in found["r2"][regime]]
        rows.append((model, f"{found['nmse']['mean']:.2f}", *(f"{r['all']:.2f}" for r in r2)))
    regimes = next(iter(facts["truth"].values()))["r2"]
    heads = ("", "NMSE 96 h", *(f"R2 {regime} {lead}" for regime in regimes for lead in regimes[regime]))
    return table("Against the true patients: new trajectories, and responses to other treatment", heads, rows)


def _ceilings(facts: dict[str, Any]) -> str:
    found = facts["ceilings"]
    summary, count = found["summary"], found["config"]["decisions"]
    rows = [
        (
            key,
            f"{g['median']:.2f} %",
            f"{g['mean']:.2f} %",
            f"{g['q90']:.1f} %",
            _percent(g["share_above_2"]),
        )
        for key, g in summary.items()
        if " over " in key
    ]
    heads = ("", "median gain", "mean", "p90", "patients above 2 %")
    out = table(f"Open-loop ceilings, {count} decisions, world {found['world']}", heads, rows)
    harm = ", ".join(f"{n} {h:.3f}" for n, h in summary["harm"].items())
    quantiles = ", ".join(f"{q:g}" for q in summary["adaptive_hours"]["quantiles"])
    return out + (
        f"<p>Mean harm: {harm}. Intervals of the best adaptive schedules, 5/25/50/75/95 %: {quantiles} h. "
        f"Searched in {found['seconds']:.0f} s.</p>"
    )


def _drawn(facts: dict[str, Any], bank: SimulatorBank, record: dict[str, Any] | None) -> dict[str, str]:
    """Figures by section."""
    hours = torch.tensor(_HOURS)
    own = bank.world("own")
    shown = [draw.responses(t, np.array(_HOURS), c, bank.disease) for t, c in response_curves(own, hours).items()]
    note = "One line per patient, the median in ink. Own world; the other treatments at the patient's mean dose."
    tables = {name: w["constant_policies"]["table"] for name, w in facts["worlds"].items()}
    out = {
        "effects": figures(shown, [note] * len(shown)),
        "constants": figures([draw.bars(tables)], ["Lower is better. Without noise, from the first state."]),
    }
    if record is not None:
        data = record["data"]
        held_out = block_steps(1, bank.disease)
        charts, notes = [], []
        for number, i in enumerate(record["examples"]):
            observed = np.where(data.mask[i], bank.denormalize(data.values[i].astype(float)), np.nan)
            stay = slice(0, int(data.length[i]))
            paths = {k: bank.denormalize(p[i][stay].astype(float)) for k, p in record["paths"].items()}
            wide = {k: np.concatenate([p, np.full((len(observed) - len(p), 6), np.nan)]) for k, p in paths.items()}
            charts.append(draw.rollout(data.patients[i], number, observed, held_out, wide, bank.disease))
            error = {k: np.abs(record["paths"][k][i] - data.values[i])[data.mask[i]].mean() for k in wide}
            notes.append(f"MAE over the stay: Ind {error['ind']:.2f}, Pop {error['pop']:.2f} SD.")
        out["record"] = figures(charts, notes)
    if "ceilings" in facts:
        harm = {n: np.array(c["harm"]) for n, c in facts["ceilings"]["classes"].items()}
        pairs = (("schedule over constant", "fixed", "constant"), ("adaptive over fixed", "adaptive", "fixed"))
        groups = {name: list(100.0 * (1.0 - harm[a] / harm[b])) for name, a, b in pairs}
        out["ceilings"] = figures([draw.gains(groups)], ["Each curve is sorted by itself. Own world, no noise."])
    return out


_SECTIONS = (
    ("verdict", "Verdict", "", _verdict),
    ("map", "Solution map", "On states and holds it was not trained on; dF/dt leaves out states at a bound.", _map),
    ("record", "Against the record", "The own world read the even 12-hour blocks of every stay; errors are on the odd "
     "ones unless they say fitted. Six patients, from the best to the worst Ind rollout.", _record),
    ("truth", "Against the truth", "This bank's patients are synthetic: their true field is known.", _truth),
    ("effects", "Treatment effects", "What a step from none to the full dose does.", _effects),
    ("constants", "Do treatments matter?", "", _constants),
    ("ceilings", "Do schedules and timing matter?", "The best found by gradient search for each patient; a policy that "
     "does not know the patient need not reach it.", _ceilings),
    ("bounds", "Bounds and noise", "", _bounds),
)  # fmt: skip


def audit_page(facts: dict[str, Any], bank: SimulatorBank, record: dict[str, Any] | None = None) -> str:
    """The page of an audit.

    Args:
        facts: Of `audit`, with `hard_checks` and `goals`.
        bank: The bank audited, for response curves.
        record: Rollouts against the record, where a cohort was given.
    """
    title = f"Audit of {facts['bank']}"
    lead = (
        f"{facts['patients']} patients, worlds {', '.join(facts['worlds'])}, hash {facts['content_hash'][:16]}. "
        "Severity is the smooth SOFA surrogate, not the clinical score. Nothing here is about the care of anyone."
    )
    try:
        drawn = _drawn(facts, bank, record)
    except MissingExtraError as missing:
        drawn = {}
        lead += f" Figures are left out: {missing}."
    needs = {"record": "forecast", "truth": "truth", "ceilings": "ceilings"}
    sections, links = [], []
    for key, heading, intro, body in _SECTIONS:
        if key in needs and needs[key] not in facts:
            continue
        links.append(f'<li><a href="#{key}">{html.escape(heading)}</a></li>')
        text = f"<p>{html.escape(intro)}</p>" if intro else ""
        sections.append(
            f'<section><h2 id="{key}">{html.escape(heading)}</h2>{text}{drawn.get(key, "")}{body(facts)}</section>'
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main><h1>{html.escape(title)}</h1>"
        f'<p class="muted">{html.escape(lead)}</p><nav aria-label="Sections"><ul>{"".join(links)}</ul></nav>\n'
        f"{chr(10).join(sections)}\n</main></body></html>\n"
    )
