"""From the trained actors of shards to one policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.offline.learner import Learner
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.sequences import NETWORKS
from medgym_offline.stack import Steps

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts

__all__ = ["actor_parts", "assembled", "concatenated"]


def actor_parts(learner: Learner, count: int) -> dict[str, Any]:
    """The actors of the first `count` learners as they are now, as plain tensors and text."""
    net, book = learner.finished_actor(), learner.codebook()
    return {
        "net": {key: value.detach()[:count].clone() for key, value in net.state_dict().items()},
        "kind": net.kind,
        "sizes": list(net.sizes),
        "activation": net.activation,
        "codebook": None if book is None else book[:count].clone(),
        "gate": learner.gate,
    }


def concatenated(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The actors of all shards as one stack."""
    nets, books = [part["net"] for part in parts], [part["codebook"] for part in parts]
    net = {key: torch.cat([tensors[key] for tensors in nets]) for key in nets[0]}
    return {**parts[0], "net": net, "codebook": None if books[0] is None else torch.cat(books)}


def assembled(
    whole: dict[str, Any],
    rows: slice,
    ids: Sequence[str] | None,
    data: Transitions,
    provenance: dict[str, Any],
    people: Clusters | Contexts | None,
) -> StackedActor | HistoryPolicy:
    """One policy from some `rows` of a whole stack, for everybody among `people`."""
    tensors = {name: value[rows] for name, value in whole["net"].items()}
    count, history = len(tensors["layers.0.weight"]), provenance["config"]["history"]
    steps = Steps(history, data.action_dim)
    net = NETWORKS[whole["kind"]](count, whole["sizes"], whole["activation"], seeds=[0] * count, steps=steps)
    net.load_state_dict(tensors)
    book, gate = whole["codebook"], whole["gate"]
    book = None if book is None else book[rows]
    actor = StackedActor(
        net, ids, data.decisions, provenance=provenance, codebook=book, disease=data.disease, gate=gate, view=data.view
    )
    actor = (actor if people is None else people.finish(actor)).requires_grad_(False)
    return actor if history == 1 else HistoryPolicy(actor, history)
