"""Scope `clu`: one policy per cluster of people whose simulators answer alike to the same treatments.

People of the train split are clustered by k-medoids (PAM; Kaufman and Rousseeuw, Finding Groups in Data, 1990) on the
distance between rollouts of their fitted simulators; k has the largest mean silhouette. A new person joins the cluster
whose medoid's simulator best predicts the person's record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import MedGymError
from medgym_offline.people.records import Record, record, true_world
from medgym_offline.policies.actor import StackedActor
from medgym_offline.simulators.bank import SimulatorBank

__all__ = [
    "Clusters", "assign", "distances", "find_clusters", "forecasts", "k_medoids", "prediction_errors", "silhouette",
]  # fmt: skip

DONORS = 12
"""People whose treatments all simulators are given (chosen: enough to hold small and large doses)."""
_FAR = 5.0
"""Beyond so many scales from the center all values count alike: there only the bounds of the state differ."""


@dataclass(frozen=True)
class Clusters:
    """Who shares a policy.

    Attributes:
        medoids: The person in the middle of each cluster.
        of: Person -> number of the cluster: train people, and those who joined.
        learned_from: The people that were clustered, who are learned from.
        silhouette: Mean over them.
        asked: Of :func:`~medgym_offline.people.people_of`.
    """

    medoids: tuple[str, ...]
    of: Mapping[str, int]
    learned_from: tuple[str, ...]
    silhouette: float
    asked: Mapping[str, Any] = field(default_factory=dict)

    scope = "clu"

    def arrange(self, transitions: Transitions) -> tuple[Transitions, dict[str, list[str]]]:
        """The rows, and the train people of each cluster by the name of its learner."""
        names, groups = (f"cluster of {medoid}" for medoid in self.medoids), self.groups(self.learned_from)
        return transitions, {name: ids for name, (ids, _) in zip(names, groups)}

    def groups(self, patients: Sequence[str]) -> list[tuple[list[str], None]]:
        """Those of `patients` from whom each cluster's policy is learned, which is told nothing of them.

        Raises:
            MedGymError: They are not the people that were clustered.
        """
        if odd := {*patients} ^ {*self.learned_from}:
            raise MedGymError(
                f"the clusters are of {len(self.learned_from)} people, not of the {len(patients)} that are learned "
                f"from ({min(odd)} is of one of them alone); give people_of('clu', bank, ...) of this bank"
            )
        return [([p for p in patients if self.of[p] == number], None) for number in range(len(self.medoids))]

    def finish(self, policy: StackedActor) -> StackedActor:
        """A stack of one network per cluster as one per person."""
        return policy.take(list(self.of.values()), tuple(self.of))

    def default_identity(self) -> Tensor:
        """(1,) the cluster of most of those who were clustered, for who is not identified yet."""
        return torch.tensor([self.of[p] for p in self.learned_from]).mode().values[None]

    def identify(self, bank: SimulatorBank, found: Record) -> Tensor:
        """(P,) the cluster whose medoid's fitted simulator, of `bank`, best predicts the record of each of P people."""
        return prediction_errors(bank.world("own").select(list(self.medoids)), found).argmin(0)

    def policy_for(self, policy: StackedActor, identities: Tensor, patients: Sequence[str]) -> StackedActor:
        """From a finished policy the networks of the clusters `identities` (P,), for these people."""
        return policy.take([policy.index(self.medoids[number]) for number in identities.tolist()], patients)

    def facts(self) -> dict[str, Any]:
        """What a policy's file says of them."""
        about = {"medoids": list(self.medoids), "silhouette": round(self.silhouette, 4)}
        return {"clusters": about, "record": dict(self.asked)}


@own_defaults()
@torch.no_grad()
def forecasts(bank: SimulatorBank, record: Record, read: bool = True) -> Tensor:
    """(M, R, L, V): what M simulators expect of the observed components after each interval of R sessions, normalized.

    From the session's start on, given what was given and what happened, and of the readings at most the first.

    Args:
        bank: M simulators.
        record: R sessions of all its people together, of L intervals.
        read: Whether a simulator starts from the first readings; else where its own person starts.
    """
    count, given = len(bank.disease.variables), record.treatments.flatten(0, 1)
    shape = len(bank), *given.shape[:-1]
    events = None if record.exogenous is None else record.exogenous.flatten(0, 1).expand(len(bank), -1, -1)
    x = bank.initial_state()[:, None].expand(-1, len(given), -1)
    if read:
        first = record.observed[:, :, 0, :count].flatten(0, 1)
        x = torch.cat([first.expand(len(bank), -1, -1), x[..., count:]], -1)
    u, dt, start = (
        part.flatten(0, 1).expand(*shape, *part.shape[3:])
        for part in (record.treatments, record.dt, record.times[..., :-1])
    )
    found = []
    for look in range(shape[2]):
        x = bank.flow(x, u[:, :, look], dt[..., look], start[..., look], events)
        found.append(x[..., :count])
    return torch.stack(found, 2).clamp(-_FAR, _FAR)


def distances(bank: SimulatorBank, seed: int = 0) -> np.ndarray:
    """(P, P) root mean square difference of the observed components under the same treatments and events, world `own`.

    The treatments are what was given in a session each to :data:`DONORS` people of the bank, so doses that some people
    need and others do not.
    """
    donors = [bank.patients[i * len(bank) // DONORS] for i in range(DONORS)] if len(bank) > DONORS else bank.patients
    common = record(true_world(bank.select(donors)), 1, seed)
    found = forecasts(bank.world("own"), common, read=False).flatten(1).double()
    return torch.cdist(found, found, compute_mode="donot_use_mm_for_euclid_dist").numpy() / found.shape[1] ** 0.5


def k_medoids(distance: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    """Medoids (k of them) and the place among them of each of P points (P,), by BUILD and SWAP of PAM.

    Args:
        distance: (P, P).
        k: 1 to P.
    """
    chosen: list[int] = []
    while len(chosen) < k:
        nearest = distance[:, chosen].min(1) if chosen else np.full(len(distance), np.inf)
        cost = np.minimum(nearest[:, None], distance).sum(0)
        cost[chosen] = np.inf
        chosen.append(int(cost.argmin()))
    total = distance[:, chosen].min(1).sum()
    while True:
        best = (total, chosen)
        for place in range(k):
            rest = [m for m in chosen if m != chosen[place]]
            nearest = distance[:, rest].min(1) if rest else np.full(len(distance), np.inf)
            cost = np.minimum(nearest[:, None], distance).sum(0)
            other = int(cost.argmin())
            if cost[other] < best[0] - 1e-12:
                best = (cost[other], [*chosen[:place], other, *chosen[place + 1 :]])
        if best[1] == chosen:
            return chosen, distance[:, chosen].argmin(1)
        total, chosen = best


def silhouette(distance: np.ndarray, labels: np.ndarray) -> float:
    """Mean silhouette of P points (Rousseeuw, J Comput Appl Math 20:53, 1987); 0 for one that is alone."""
    member = labels[None] == np.unique(labels)[:, None]
    sums, counts = distance @ member.T, member.sum(1)
    own = member.T
    inside = (sums * own).sum(1) / np.maximum((counts * own).sum(1) - 1, 1)
    outside = np.where(own, np.inf, sums / counts).min(1)
    alone = (counts * own).sum(1) == 1
    scores = (outside - inside) / np.maximum(np.maximum(inside, outside), 1e-12)
    return float(np.where(alone, 0.0, scores).mean())


def find_clusters(bank: SimulatorBank, seed: int = 0, most: int = 8) -> Clusters:
    """Clusters of all people of `bank`, as many as have the largest mean silhouette, from 2 to `most`.

    Raises:
        MedGymError: Fewer than three people.
    """
    if len(bank) < 3:
        raise MedGymError(f"bank {bank.name!r}: {len(bank)} people cannot be clustered; give at least 3")
    distance = distances(bank, seed)
    found = [k_medoids(distance, k) for k in range(2, min(most, len(bank) - 1) + 1)]
    scores = [silhouette(distance, labels) for _, labels in found]
    medoids, labels = found[int(np.argmax(scores))]
    names = tuple(bank.patients[m] for m in medoids)
    return Clusters(names, dict(zip(bank.patients, labels.tolist())), bank.patients, max(scores))


def prediction_errors(bank: SimulatorBank, record: Record) -> Tensor:
    """(M, P): mean square error, normalized, of M simulators' forecasts of the records of P people."""
    truth = record.observed[:, :, 1:, : len(bank.disease.variables)].clamp(-_FAR, _FAR)
    errors = (forecasts(bank, record) - truth.flatten(0, 1)).square().mean((2, 3))
    return errors.unflatten(1, truth.shape[:2]).mean(2)


def assign(clusters: Clusters, bank: SimulatorBank, record: Record) -> Clusters:
    """The clusters with the people of `record` in the one whose medoid's fitted simulator predicts them best."""
    joined = dict(zip(record.patients, clusters.identify(bank, record).tolist()))
    return replace(clusters, of={**clusters.of, **joined})
