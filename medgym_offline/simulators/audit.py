"""The audit of a bank: every check as a number, hard checks as passed or failed, goals as met or not.

Hard checks are what a bank may not fail; goals are what the specification aims for and an honest bank may miss
(`docs/simulators.md` says what each means). Facts go to `audit.json`, and to one page, `audit.html`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import Disease
from medgym_offline.errors import BankError
from medgym_offline.files import write_json
from medgym_offline.progress import Progress
from medgym_offline.reports.page import write_page
from medgym_offline.simulators import checks
from medgym_offline.simulators.audit_page import audit_page
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.data import fit_data
from medgym_offline.simulators.forecast import examples, forecast_unseen, rollout_errors
from medgym_offline.simulators.map_checks import map_checks

if TYPE_CHECKING:
    from medgym_offline.cohorts import Cohort

__all__ = ["add_forecasts", "audit", "audit_facts", "goals", "hard_checks"]

LATE = 1 / 4
"""Share of the horizon after which effects are read."""


def _signs(effects: dict[str, np.ndarray], disease: Disease) -> dict[str, float]:
    """Share of patients each statement of the disease holds for, from effects {treatment: (P, V)}."""
    found = ((c, c.sign * effects[c.treatment][:, disease.column(c.component)]) for c in disease.sign_checks)
    return {check.statement: float((effect > 0).mean()) for check, effect in found}


def audit_facts(bank: SimulatorBank, show: bool = True) -> dict[str, Any]:
    """All checks of a bank, per world, as plain numbers (see `medgym_offline.simulators.checks`)."""
    facts: dict[str, Any] = {
        "bank": bank.name,
        "content_hash": bank.content_hash,
        "patients": len(bank),
        "variables": list(bank.disease.state_names),
        "never_given": bank.metadata.get("cohort", {}).get("never_given", []),
        "worlds": {},
    }
    chosen = checks.best_constants(bank.world("own")) if "own" in bank.worlds else None
    with Progress("audit worlds", len(bank.worlds), enabled=show) as bar:
        for name in bank.worlds:
            facts["worlds"][name] = _world_facts(bank.world(name), None if name == "own" else chosen)
            bar.advance()
    return facts


def _world_facts(world: SimulatorBank, chosen: Tensor | None) -> dict[str, Any]:
    process = world.disease.process
    late = torch.tensor([LATE * process.horizon])
    effects = {name: curve[:, 0] for name, curve in checks.response_curves(world, late).items()}
    ranges = {t: np.quantile(e, (0.05, 0.95), axis=0) for t, e in effects.items()}
    return {
        "backend": world.backend,
        "constant_policies": checks.constant_policies(world, chosen),
        "signs": _signs(effects, world.disease),
        "effects_median": {t: [round(float(m), 3) for m in np.median(e, 0)] for t, e in effects.items()},
        "effects_range": {t: np.round(both, 3).tolist() for t, both in ranges.items()},
        "bounded": checks.bounded(world),
        "noise": [round(float(n), 4) for n in world.noise_scale.mean(0)],
        "noise_partition": checks.noise_partition(
            world, (process.grid, process.reference_interval, process.horizon / 8)
        ),
        **({"solution_map": map_checks(world)} if world.backend == "map" else {}),
    }


def add_forecasts(facts: dict[str, Any], bank: SimulatorBank, cohort: Cohort) -> dict[str, Any]:
    """Add `forecast` (one step, held-out blocks) and `rollout` (full horizon) to the facts; see :mod:`.forecast`.

    Returns:
        What the figures need: the grid `data`, the rollouts `paths`, and rows of `examples`.

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
    facts["forecast"] = forecast_unseen(ordered, data)
    facts["rollout"], paths = rollout_errors(ordered, data)
    return {"data": data, "paths": paths, "examples": examples(data, paths["ind"])}


def hard_checks(facts: dict[str, Any], disease: Disease) -> list[tuple[str, bool, str]]:
    """(what, passed, numbers) of the checks a bank may not fail, in the world policies are trained in."""
    own = facts["worlds"]["own"]
    table, out = own["constant_policies"]["table"], []
    order = ("maximal", "zero", "clinician", "best constant of the cohort", "best constant of each patient")
    severity = [table[n]["severity"] for n in order]
    falls = all(a > b for a, b in zip(severity[:-1], severity[1:]))
    out.append((" > ".join(order) + " in severity", falls, ", ".join(f"{s:.2f}" for s in severity)))
    gain = own["constant_policies"]["gain"]
    out.append(("per-patient best at least 10 % better than the cohort's best", gain >= 0.1, f"{100 * gain:.1f} %"))
    if disease.needed:
        share = own["constant_policies"]["needed_best"] / facts["patients"]
        what = f"best {disease.needed} above 0 for a third of the patients"
        out.append((what, share >= 1 / 3, f"{100 * share:.0f} %"))
    corners = own["constant_policies"]["corners"]
    out.append(("at most 30 % of the bests at extreme corners", corners <= 0.3, f"{100 * corners:.0f} %"))
    safe = min(table[n]["safe"] for n in ("zero", "maximal"))
    out.append(("safe share at zero or at maximal treatment below 95 %", safe < 0.95, f"{100 * safe:.0f} %"))
    for check in disease.sign_checks:
        if check.share is not None:
            have, what = own["signs"][check.statement], f"{check.statement} in {100 * check.share:.0f} % of patients"
            out.append((what, have >= check.share, f"{100 * have:.0f} %"))
    out.append(("finite for an episode under random, zero and maximal treatment", own["bounded"]["finite"] == 1.0, ""))
    stuck = max(v for k, v in own["bounded"].items() if k != "finite")
    out.append(("no component stuck at its bound in most patients", stuck < 0.5, f"at most {100 * stuck:.0f} %"))
    if "solution_map" in own:
        error = own["solution_map"]["identity"]
        out.append(("solution map at dt = 0 is the identity", error <= 1e-6, f"{error:.1e} SD"))
    return out


def goals(facts: dict[str, Any], unit: str = "h") -> list[tuple[str, bool, str]]:
    """(what, met, numbers) of the aims a bank may miss, as long as it says so."""
    own, out = facts["worlds"]["own"], []
    if "solution_map" in own:
        found = own["solution_map"]
        for check, name in (("error", "map against the solver"), ("composition", "composition of the map")):
            median = max(m for m, _ in found[check].values())
            out.append((f"{name}: median below 0.03 SD", median < 0.03, f"{median:.3f}"))
            *shorter, longest = sorted(found[check], key=float)
            early, late = max(found[check][h][1] for h in shorter), found[check][longest][1]
            text = f"{name}: p99 below 0.2 SD to {float(shorter[-1]):g} {unit}, 0.25 at {float(longest):g} {unit}"
            out.append((text, early < 0.2 and late < 0.25, f"{early:.3f}, {late:.3f}"))
            worst = max(early, late)
            out.append((f"{name}: p99 below 0.1 SD (stretch)", worst < 0.1, f"{worst:.3f}"))
    for interval, found in list(own["noise_partition"].items())[:2]:
        spread = max(abs(two - one) for one, two in found["spread"].values())
        text = f"means {found['mean_difference']:.3f}, spreads {spread:.3f}"
        met = found["mean_difference"] < 0.05 and spread < 0.05
        out.append((f"noise of {interval} {unit} as of two halves: means and spreads within 0.05 SD", met, text))
    if "forecast" in facts:
        paired = facts["forecast"]["paired"]
        for other in ("pop", "patient mean", "persistence"):
            p = paired[other]
            met = p["median_gain"] > 0 and p["ind_better"] > 0.5
            text = f"better in {100 * p['ind_better']:.0f} %, p {p['p']:.2g}"
            out.append((f"held-out forecasts: Ind better than {other} in most patients", met, text))
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
    folder = Path(output)
    facts = audit_facts(bank, show)
    record = None if cohort is None else add_forecasts(facts, bank, cohort)
    if "true" in bank.worlds and bank.disease.truth_facts is not None:
        facts["truth"] = bank.disease.truth_facts(bank)
    facts["hard_checks"] = [{"check": c, "passed": p, "found": f} for c, p, f in hard_checks(facts, bank.disease)]
    facts["goals"] = [{"goal": c, "met": p, "found": f} for c, p, f in goals(facts, bank.disease.process.unit)]
    write_json(folder / "audit.json", facts)
    write_page(folder / "audit.html", audit_page(facts, bank, record))
    failed = [c["check"] for c in facts["hard_checks"] if not c["passed"]]
    if failed:
        words = f"bank {bank.name!r} fails {len(failed)} of {len(facts['hard_checks'])} checks: {'; '.join(failed)}"
        if facts["never_given"]:
            words += (
                f". Its cohort charts no {' and no '.join(facts['never_given'])} at all (not charted is not 'not "
                "given'), so that only the prior says what it does: why checks of treatment fail. Add what was given"
            )
        raise BankError(words)
    return facts
