"""What stands beside every learned policy: no treatment, all of it, chance, the clinicians, constants, and the
policies of the wrong patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.builtin import ConstantPolicy, builtin_policy
from medgym_offline.simulators.checks import constant_scores
from medgym_offline.studies.entries import Candidate, Entry

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["baseline_candidates", "wrong_patient"]


def wrong_patient(actor: StackedActor, patients: Sequence[str]) -> StackedActor:
    """The policies of other patients: patient i of n gets the policy of patient i + n // 2 (modulo n).

    Args:
        actor: A policy per patient.
        patients: Who is treated; their order is the circle.
    """
    n = len(patients)
    shifted = [patients[(i + max(1, n // 2)) % n] for i in range(n)]
    other = actor.select(shifted)
    other.patients = tuple(patients)
    other.provenance = {**actor.provenance, "control": "policy of another patient"}
    return other


def baseline_candidates(
    bank: SimulatorBank, patients: tuple[str, ...], timings: Sequence[str], decisions: int, individual: dict[str, Any]
) -> list[Candidate]:
    """Zero, max, random, clinician, the cohort's and each patient's best constant, and wrong-patient controls.

    Constants are chosen in the own world by mean severity over the benchmark's grid, without noise, scored by the
    bank's backend, and then scored in every world like any policy.

    Args:
        bank: The whole bank, with the backend that scores.
        patients: Ids of the study's patients; they are the cohort of the cohort's best constant.
        timings: Of the study; baselines that do not depend on timing use equal holds.
        decisions: K.
        individual: Timing -> individual policies, for the wrong-patient control.
    """
    bank = bank.select(patients)
    grid, severity, _ = constant_scores(bank.world("own"))
    cohort = grid[int(severity.mean(0).argmin())]
    best = grid[severity.argmin(1)]
    found = []

    def add(key: str, label: str, policy: Any, timing: str, **facts: Any) -> None:
        entry = Entry(f"{key}-{timing}-k{decisions}", label, "baseline", "", key, timing, decisions, patients)
        found.append(Candidate(entry, [policy], facts))

    for name, label in (("zero", "zero treatment"), ("max", "maximal treatment"), ("clinician", "clinicians' doses")):
        add(name, label, builtin_policy(name, bank, "fixed", decisions), "fixed")
    for timing in timings:
        add("random", f"random, {timing}", builtin_policy("random", bank, timing, decisions), timing)
    add(
        "cohort-constant",
        "cohort's best constant",
        ConstantPolicy(cohort, "fixed", decisions),
        "fixed",
        treatment=cohort.tolist(),
    )
    add("patient-constant", "patient's best constant", ConstantPolicy(best, "fixed", decisions, patients), "fixed")
    for timing, actor in individual.items():
        if len(patients) > 1:
            add("wrong-patient", f"wrong patient's Ind, {timing}", wrong_patient(actor, patients), timing)
    return found
