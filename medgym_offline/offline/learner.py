"""Training of P stacked learners: one objective, independent gradients, exact resume, failures kept apart.

:func:`assembled` makes one policy of the trained actors of shards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medgym_offline.datasets.transitions import Transitions
from medgym_offline.offline.algorithms import ALGORITHMS
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import BatchSampler, Seeds, StackedData
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.seeds import derive_seed
from medgym_offline.sequences import NETWORKS
from medgym_offline.stack import StackedMLP, Steps

if TYPE_CHECKING:
    from medgym_offline.people import Clusters, Contexts

__all__ = ["CHECK_EVERY", "Learner", "actor_parts", "assembled", "concatenated"]

CHECK_EVERY = 50
"""Updates between two looks at the learners' health, and between two lines of the log."""


class Learner:
    """P learners of one algorithm on their own slices, updated together.

    The losses are summed over learners and Adam works element by element, so each sees the gradients it would see
    alone. A learner whose loss or Q is not finite, or beyond `config.explosion`, is stopped: its networks go back to
    the last healthy look, its place and the update are kept in `stopped`, and the others go on.

    Args:
        algorithm: Name in `ALGORITHMS`.
        data: The slices.
        seed: Root seed, or one per learner; its streams and initial weights follow from (seed, its key).
        config: Settings.
    """

    def __init__(self, algorithm: str, data: StackedData, seed: Seeds, config: OfflineConfig):
        self.config = config
        self.objective = ALGORITHMS[algorithm](config, data, seed)
        seeds = [derive_seed(s, "offline-networks", key) >> 2 for s, key in zip(data.seeds(seed), data.keys)]
        data = self.objective.rows(data)
        self.networks = self.objective.build(seeds)
        for net in self.networks.parts():
            net.to(data.rows.device)
        self._steps = [(list(net.parameters()), loss) for net, _, loss in self.objective.steps(self.networks)]
        # Not fused: its vector and scalar paths round differently, so a result would depend on the place in the stack.
        self._optimizers = [
            torch.optim.Adam(parameters, lr=rate, foreach=True)
            for (parameters, _), (_, rate, _) in zip(self._steps, self.objective.steps(self.networks))
        ]
        asked = self.objective.normals, self.objective.uniforms, self.objective.more
        self._sampler = BatchSampler(data, seed, config.batch, *asked)
        self._data = data
        self.done = 0
        self.log: list[dict[str, float]] = []
        self.stopped: dict[int, str] = {}
        self._live = torch.ones(len(data), dtype=torch.bool, device=data.rows.device)
        self._healthy = [p.clone() for p in self._trained()]
        self._numbers: dict[str, Tensor] = {}

    def _trained(self) -> list[Tensor]:
        """The parameters as (P, numbers of that learner), sharing their memory."""
        return [p.detach().view(len(self._live), -1) for parameters, _ in self._steps for p in parameters]

    def update(self) -> None:
        """One pass through the objective's gradient steps, then the target critic; the last step and the targets only
        every `delay` updates."""
        batch = self._sampler.draw()
        self._numbers = {}
        waits = (self.done + 1) % self.objective.delay != 0
        for (parameters, loss_of), optimizer in list(zip(self._steps, self._optimizers))[: -1 if waits else None]:
            loss, numbers = loss_of(self.networks, batch)
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss.sum(), parameters)):
                parameter.grad = gradient  # of these parameters only
            optimizer.step()
            self._numbers |= numbers
        if not waits:
            self.networks.update_target(self.config.tau)
        self.done += 1
        if self.done % CHECK_EVERY == 0 or self.done == self.config.updates:
            self._check()

    def _check(self) -> None:
        """Log, and stop learners that have failed since the last look."""
        values = torch.stack(list(self._numbers.values()))
        finite = torch.isfinite(values).all(0)
        for parameter in self._trained():
            finite &= torch.isfinite(parameter).all(1)
        largest = self._numbers.get("q", torch.zeros_like(values[0]))
        healthy = finite & (largest <= self.config.explosion)
        for i in torch.nonzero(self._live & ~healthy).flatten().tolist():
            what = f"|Q| = {float(largest[i]):.3g}" if bool(finite[i]) else "values that are not finite"
            self.stopped[i] = f"stopped at update {self.done}: {what}"
        self._live &= healthy
        for kept, current in zip(self._healthy, self._trained()):
            kept[self._live] = current[self._live]
        if bool(self._live.any()):
            means = {name: float(v[self._live].mean()) for name, v in self._numbers.items()}
            self.log.append({"update": float(self.done), **means})

    def finished_actor(self) -> StackedMLP:
        """What decides, before tanh or argmax, on the CPU, as a function of the raw observation: (o - mean) / scale is
        folded into layer 0."""
        for kept, current in zip(self._healthy, self._trained()):
            current[~self._live] = kept[~self._live]
        actor: StackedMLP = self.networks.acting()
        copy = actor.like(actor.patients)
        state = {name: value.detach().cpu().double() for name, value in actor.state_dict().items()}
        first, wide = state["layers.0.weight"], actor.state_inputs
        mean, scale = (t[..., :wide].cpu().double() for t in (self._data.mean, self._data.scale))
        first_weight = first[:, :wide] / scale.transpose(1, 2)
        state["layers.0.bias"] = state["layers.0.bias"] - mean @ first_weight
        state["layers.0.weight"] = torch.cat([first_weight, first[:, wide:]], 1)
        copy.load_state_dict({name: value.float() for name, value in state.items()})
        return copy

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on as if never interrupted; tensors, numbers and text only."""
        return {
            "networks": [net.state_dict() for net in self.networks.parts()],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "healthy": self._healthy,
            "live": self._live,
            "sampler": self._sampler.state(),
            "done": self.done,
            "log": json.dumps(self.log),
            "stopped": dict(self.stopped),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        for net, saved in zip(self.networks.parts(), state["networks"]):
            net.load_state_dict(saved)
        for optimizer, saved in zip(self._optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self._healthy = [t.to(self._live.device) for t in state["healthy"]]
        self._live = state["live"].to(self._live.device)
        self._sampler.restore(state["sampler"])
        self.done, self.log, self.stopped = state["done"], json.loads(state["log"]), dict(state["stopped"])


def actor_parts(learner: Learner, count: int) -> dict[str, Any]:
    """The actors of the first `count` learners as they are now, as plain tensors and text."""
    net, book = learner.finished_actor(), learner.networks.codebook
    return {
        "net": {key: value.detach()[:count].clone() for key, value in net.state_dict().items()},
        "kind": net.kind,
        "sizes": list(net.sizes),
        "activation": net.activation,
        "codebook": None if book is None else book[:count].cpu().clone(),
        "gate": learner.networks.gate,
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
