"""Transfer: the policy of patient i on the simulator of patient j.

If individual policies are individual for a reason, the patient's own policy beats those of others on that patient.
With P patients there are P (P - 1) pairs; some partners per patient, evenly spaced around the bank, are enough for the
mean. The same noise meets every policy on a simulator, so the comparison is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from medgym_offline.errors import PolicyError, ProtocolError
from medgym_offline.evaluation.binding import BoundPolicy
from medgym_offline.evaluation.metrics import METRICS
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.statistics import paired_difference
from medgym_offline.evaluation.worlds import score_world

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["TRANSFER_METRIC", "partner_shifts", "transfer"]

TRANSFER_METRIC = "severity_mean"


@dataclass(frozen=True)
class _Exchanged:
    """A bound policy that treats each patient with another patient's."""

    bound: BoundPolicy
    whose: Mapping[str, str]

    def act_on(self, patients: Sequence[str], seeds: np.ndarray) -> Callable[[Tensor], Tensor]:
        return self.bound.act_on([self.whose[p] for p in patients], seeds)


def partner_shifts(patients: int, partners: int) -> list[int]:
    """Distinct distances around the circle of patients, evenly spaced; all of them if `partners` is P - 1 or more."""
    count = min(partners, patients - 1)
    return [1 + (k * (patients - 1)) // count for k in range(count)]


def transfer(
    bound: BoundPolicy,
    bank: SimulatorBank,
    protocol: Protocol,
    own: np.ndarray,
    partners: int,
    advance: Callable[[int], None] = lambda episodes: None,
) -> dict[str, Any]:
    """Score every patient under the policies of `partners` other patients.

    Args:
        bound: An individual policy.
        bank: P simulators in the world to score in.
        protocol: Settings.
        own: (P,) severity under the patient's own policy, of the same protocol.
        partners: Other policies per patient.
        advance: Called with the number of episodes done.

    Returns:
        What :class:`~medgym_offline.evaluation.statistics.Paired` says of own against the mean of the others; `metric`,
        `partners`, `own` and `others` (means); `policies` (S, P): whose policy treated each patient, and `scores` (S, P).

    Raises:
        PolicyError: If the policy is one for all patients.
        ProtocolError: If there is nobody to exchange with.
    """
    if bound.info["patients"] is None:
        raise PolicyError(
            f"policy {bound.name!r} is one for all patients: there is nothing to exchange; leave transfer out"
        )
    if len(bank) < 2 or partners < 1:
        raise ProtocolError(f"transfer needs two patients and one partner, got {len(bank)} and {partners}")
    policies, scores = [], []
    for shift in partner_shifts(len(bank), partners):
        order = [bank.patients[(i + shift) % len(bank)] for i in range(len(bank))]
        exchanged = _Exchanged(bound, dict(zip(bank.patients, order)))
        found = score_world(exchanged, bank, protocol, advance=advance)
        policies.append(order)
        scores.append(found.columns[TRANSFER_METRIC])
    others = np.mean(scores, axis=0)
    paired = paired_difference(own, others, METRICS[TRANSFER_METRIC].better, protocol.bootstrap)
    compared = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(paired).items()}
    return compared | {
        "metric": TRANSFER_METRIC,
        "partners": len(policies),
        "own": float(np.mean(own)),
        "others": float(np.mean(others)),
        "policies": policies,
        "scores": [[round(float(v), 5) for v in row] for row in scores],
    }
