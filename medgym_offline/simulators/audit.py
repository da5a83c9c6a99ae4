"""The audit of a bank: every check as a number, hard checks as passed or failed, one JSON file and one HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.errors import BankError
from medgym_offline.files import write_json, write_text
from medgym_offline.progress import track
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.checks import bounded, constant_policies, treatment_effects
from medgym_offline.simulators.distill import map_errors

__all__ = ["audit", "audit_facts", "hard_checks"]

SIGNS = (
    ("FiO2 raises PaO2", "fio2", 1, 1.0, 0.95),
    ("FiO2 raises SpO2", "fio2", 0, 1.0, 0.85),
    ("fluids raise urine", "fluids", 4, 1.0, 0.95),
    ("fluids lower lactate", "fluids", 5, -1.0, 0.95),
)
"""Statement, treatment, variable, sign, share of patients it should hold for."""


def audit_facts(bank: SimulatorBank, show: bool = True) -> dict[str, Any]:
    """All checks of a bank, per world, as plain numbers (see `medgym_offline.simulators.checks`)."""
    facts: dict[str, Any] = {"bank": bank.name, "content_hash": bank.content_hash, "patients": len(bank), "worlds": {}}
    for name in track(bank.worlds, "audit worlds", enabled=show):
        world = bank.world(name)
        effects = treatment_effects(world)
        signs = {s: float((sign * effects[t][:, j] > 0).mean()) for s, t, j, sign, _ in SIGNS}
        signs["vasopressor raises lactate (either sign is right, by need)"] = float(
            (effects["vasopressor"][:, 5] > 0).mean()
        )
        facts["worlds"][name] = {
            "constant_policies": constant_policies(world),
            "signs": signs,
            "effects_median": {t: [round(float(m), 3) for m in np.median(e, 0)] for t, e in effects.items()},
            "bounded": bounded(world),
            "noise": [round(float(n), 4) for n in world.noise_scale.mean(0)],
            **({"solution_map": map_errors(world, rows=6)} if world.backend == "map" else {}),
        }
    return facts


def hard_checks(facts: dict[str, Any]) -> list[tuple[str, bool, str]]:
    """(what, passed, numbers) of the checks a bank may not fail, in the world policies are trained in."""
    own = facts["worlds"]["own"]
    table, out = own["constant_policies"]["table"], []
    order = ("maximal", "zero", "clinician", "best constant of the cohort", "best constant of each patient")
    severity = [table[n]["severity"] for n in order]
    falls = all(a > b for a, b in zip(severity[:-1], severity[1:]))
    out.append((" > ".join(order) + " in severity", falls, ", ".join(f"{s:.2f}" for s in severity)))
    gain = own["constant_policies"]["gain"]
    out.append(("per-patient best at least 10 % better than the cohort's best", gain >= 0.1, f"{100 * gain:.1f} %"))
    share = own["constant_policies"]["vasopressor_best"] / facts["patients"]
    out.append(("best vasopressor above 0 for a third of the patients", share >= 1 / 3, f"{100 * share:.0f} %"))
    corners = own["constant_policies"]["corners"]
    out.append(("at most 30 % of the bests at extreme corners", corners <= 0.3, f"{100 * corners:.0f} %"))
    safe = table["zero"]["safe"]
    out.append(("safe share at zero treatment below 95 %", safe < 0.95, f"{100 * safe:.0f} %"))
    for statement, _, _, _, needed in SIGNS:
        have = own["signs"][statement]
        out.append((f"{statement} in {100 * needed:.0f} % of patients", have >= needed, f"{100 * have:.0f} %"))
    out.append(("finite for 96 h under random, zero and maximal treatment", own["bounded"]["finite"] == 1.0, ""))
    stuck = max(v for k, v in own["bounded"].items() if k != "finite")
    out.append(("no component stuck at its bound in most patients", stuck < 0.5, f"at most {100 * stuck:.0f} %"))
    return out


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cells(row: Sequence[object], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in row)

    body = "".join(f"<tr>{cells(r, 'td')}</tr>" for r in rows)
    return f"<table><caption>{html.escape(caption)}</caption><tr>{cells(heads, 'th')}</tr>{body}</table>"


_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1.5rem 0; display: block; overflow-x: auto }
caption { text-align: left; font-weight: 600 }
td, th { padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: left }
"""


def audit(bank: SimulatorBank, output: str | Path, show: bool = True) -> dict[str, Any]:
    """Run every check and write `audit.json` and `audit.html` into the folder `output`.

    Args:
        bank: The bank to check.
        output: Folder, made if absent.
        show: Progress on standard error.

    Returns:
        The facts, with `hard_checks`.

    Raises:
        BankError: A hard check failed; the report is written all the same.
    """
    folder = Path(output)
    facts = audit_facts(bank, show)
    checks = hard_checks(facts)
    facts["hard_checks"] = [{"check": c, "passed": p, "found": f} for c, p, f in checks]
    write_json(folder / "audit.json", facts)
    parts = [
        _table("Checks in the own world", ("", "check", "found"), [("yes" if p else "NO", c, f) for c, p, f in checks])
    ]
    for name, world in facts["worlds"].items():
        table = world["constant_policies"]["table"]
        rows = [(n, f"{r['severity']:.2f}", f"{100 * r['safe']:.0f} %") for n, r in table.items()]
        parts.append(_table(f"Constant treatment, world {name}", ("treatment", "severity", "safe hours"), rows))
        variables = [v.name for v in bank.disease.variables]
        effects = [(t, *(f"{m:+.2f}" for m in e)) for t, e in world["effects_median"].items()]
        parts.append(_table(f"Median effect of a full step over 24 h (SD), {name}", ("", *variables), effects))
        if "solution_map" in world:
            errors = world["solution_map"]
            hours = list(errors["error"])
            rows = [(k, *(f"{errors[k][h][0]:.3f} / {errors[k][h][1]:.3f}" for h in hours)) for k in errors]
            heads = ("median / p99, SD", *(f"{h} h" for h in hours))
            parts.append(_table(f"Solution map against the solver, {name}", heads, rows))
    title = f"Audit of {html.escape(bank.name)}"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>{facts['patients']} patients, content hash {bank.content_hash[:16]}.</p>{''.join(parts)}</html>\n"
    )
    write_text(folder / "audit.html", page)
    failed = [c for c, passed, _ in checks if not passed]
    if failed:
        raise BankError(f"bank {bank.name!r} fails {len(failed)} of {len(checks)} checks: {'; '.join(failed)}")
    return facts
