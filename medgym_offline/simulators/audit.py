"""The audit of a bank: every check as a number, hard checks as passed or failed, goals as met or not.

Hard checks are what a bank may not fail; goals are what the specification aims for and an honest bank may miss
(`docs/simulators.md` says what each means). Facts go to `audit.json`, and to one page, `audit.html`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medgym_offline.diseases.base import Disease
from medgym_offline.errors import BankError
from medgym_offline.files import write_json
from medgym_offline.progress import Progress
from medgym_offline.reports.page import write_page
from medgym_offline.simulators import checks
from medgym_offline.simulators.audit_page import audit_page
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.data import fit_data
from medgym_offline.simulators.forecast import forecast_unseen, rollout_errors

if TYPE_CHECKING:
    from medgym_offline.cohorts import Cohort

__all__ = ["add_forecasts", "audit"]

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
