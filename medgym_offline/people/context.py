"""Scope `context`: one policy for all that reads an embedding of the person, inferred from a record.

    z = rho( mean over rows r of  phi(r) )                 r: time, what was seen, what was given, for how long, and
                                                            what was read then
    reading after dt  =  reading + psi(z, seen, given, dt, time)

phi, rho and psi are perceptrons. They are learned together on the train people's fitted simulators, by predicting what
follows under other treatments than the record's: z has to hold what makes the person differ. A mean over rows knows no
order (deep sets; Zaheer et al., 2017), so events of one time cannot come in a wrong one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgym_offline.compute import one_thread, own_defaults
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.diseases.base import CLOCKS, FULL
from medgym_offline.errors import MedGymError
from medgym_offline.patients import PatientIndex
from medgym_offline.people.records import Record, record
from medgym_offline.policies.actor import StackedActor
from medgym_offline.seeds import generator, torch_generator
from medgym_offline.sequences import observation_width
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.stack import StackedMLP

__all__ = ["ContextConfig", "Contexts", "Encoder", "learn_encoder"]

_CLOCKS = len(CLOCKS)


@dataclass(frozen=True)
class ContextConfig:
    """How the embedding is learned; all numbers chosen, on train people.

    Attributes:
        numbers: Of an embedding.
        hidden: Width of the perceptrons.
        steps, lr: Of Adam.
        sessions: Recorded, and predicted, of each train person.
        people, targets: In a step so many people, and rows to predict of each.
        seed: Root of the streams.
    """

    numbers: int = 8
    hidden: int = 64
    steps: int = 1000
    lr: float = 3e-3
    sessions: int = 10
    people: int = 24
    targets: int = 64
    seed: int = 0


def _rows(found: Record, readings: int) -> Tensor:
    """(P, S, L, d + T + 2 + V): seen, given, its length and time as shares of a session, and the readings after it."""
    span = found.times[..., -1:]
    clock = torch.stack([found.dt / span, found.times[..., :-1] / span], -1)
    return torch.cat([found.observed[:, :, :-1], found.treatments, clock, found.observed[:, :, 1:, :readings]], -1)


class Encoder(nn.Module):
    """A record to the numbers of an embedding; see the module.

    Args:
        inputs: Columns of a row.
        readings: The last so many of them, V.
        config: Sizes and seed.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, inputs: int, readings: int, config: ContextConfig):
        super().__init__()
        h, z = config.hidden, config.numbers
        sizes = {"phi": (inputs, h, h), "rho": (h, h, z), "psi": (z + inputs - readings, h, h, readings)}
        seeds = {name: int(torch_generator(config.seed, "encoder", name).initial_seed()) for name in sizes}
        self.parts = nn.ModuleDict({n: StackedMLP(1, s, "relu", seeds=[seeds[n]]) for n, s in sizes.items()})
        self.readings = readings
        self.register_buffer("center", torch.zeros(1, z))
        self.register_buffer("scale", torch.ones(1, z))

    def pooled(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Rows (P, R, inputs), of which those of `weight` (P, R) 1 count -> (P, numbers), not yet standardized."""
        features = torch.relu(self.parts["phi"](rows.flatten(0, 1)[None])[0].unflatten(0, rows.shape[:2]))
        mean = (features * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        found: Tensor = self.parts["rho"](mean[None])[0]
        return found

    def predicted(self, z: Tensor, rows: Tensor) -> Tensor:
        """Embeddings (P, numbers) and rows (P, R, inputs) without looking at their last columns -> change (P, R, V)."""
        given = torch.cat([z[:, None].expand(-1, rows.shape[1], -1), rows[..., : -self.readings]], -1)
        found: Tensor = self.parts["psi"](given.flatten(0, 1)[None])[0].unflatten(0, rows.shape[:2])
        return found

    @own_defaults()
    @torch.no_grad()
    def embed(self, found: Record) -> Tensor:
        """(P, numbers) standardized over train people; each by itself, and summed finely enough to forget the order."""
        rows = _rows(found, self.readings).flatten(1, 2).double()
        exact = copy.deepcopy(self).double()
        one = torch.ones(1, rows.shape[1], dtype=torch.double)
        return ((torch.cat([exact.pooled(r[None], one) for r in rows]) - exact.center) / exact.scale).float()


@own_defaults()
@one_thread()
def learn_encoder(
    bank: SimulatorBank, config: ContextConfig | None = None, hours: float | None = None, view: str = FULL
) -> Encoder:
    """The encoder of the people of `bank` (train people), learned in its world `own`.

    Each step a person's embedding is made of a random number of recorded sessions, so that it serves short records and
    long ones, and predicts rows of other sessions, under random treatments and under the clinician's. `hours` and
    `view` are those of :func:`~medgym_offline.people.records.record`.
    """
    config = config or ContextConfig()
    own, readings = bank.world("own"), len(bank.disease.variables)
    known = _rows(record(own, config.sessions, config.seed, hours=hours, view=view), readings)
    other = [record(own, config.sessions, config.seed + 1, who, view=view) for who in ("random", "clinician")]
    asked = torch.cat([_rows(one, readings) for one in other], 1).flatten(1, 2)
    encoder = Encoder(known.shape[-1], readings, config)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=config.lr)
    draws = generator(config.seed, "encoder batches")
    sessions, looks = known.shape[1:3]
    rows = known.flatten(1, 2)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.5 * (1.0 + np.cos(np.pi * step / config.steps))
        who = torch.from_numpy(draws.permutation(len(bank))[: config.people])
        order = draws.random((len(who), sessions)).argsort(1).argsort(1)
        weight = torch.from_numpy(order < draws.integers(1, sessions + 1, (len(who), 1))).float()
        target = asked[who[:, None], torch.from_numpy(draws.integers(0, asked.shape[1], (len(who), config.targets)))]
        z = encoder.pooled(rows[who], weight.repeat_interleave(looks, 1))
        change = target[..., -readings:] - target[..., :readings]
        loss = (encoder.predicted(z, target) - change).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        z = encoder.pooled(rows, torch.ones(rows.shape[:2]))
        encoder.center.copy_(z.mean(0, keepdim=True))
        encoder.scale.copy_(z.std(0, keepdim=True).clamp_min(1e-6))
    return encoder.requires_grad_(False)


@dataclass(frozen=True)
class Contexts:
    """Embeddings of people, and how to have those of others.

    Attributes:
        patients: P ids.
        embeddings: (P, numbers).
        asked: Of :func:`~medgym_offline.people.people_of`, if it can be asked again.
        encoder: Made them.
    """

    patients: tuple[str, ...]
    embeddings: Tensor
    asked: Mapping[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None

    scope = "context"

    def arrange(self, transitions: Transitions) -> tuple[Transitions, None]:
        """The rows, each observation with the embedding of its person before its clocks.

        Raises:
            MedGymError: Somebody has rows and no embedding.
        """
        if missing := [p for p in transitions.present_ids if p not in self.patients]:
            raise MedGymError(
                f"{transitions.dataset_id}: {missing[0]} has rows and no record; embed everybody, or load a split"
            )
        table = np.zeros((len(transitions.patients), self.embeddings.shape[1]), np.float32)
        for row, patient in zip(self.embeddings.numpy(), self.patients):
            if patient in transitions.patients:
                table[transitions.patients.index(patient)] = row
        more = table[transitions.patient]
        now, then = (
            np.concatenate([o[:, :-_CLOCKS], more, o[:, -_CLOCKS:]], 1)
            for o in (transitions.observations, transitions.next_observations)
        )
        return dataclasses.replace(transitions, observations=now, next_observations=then, embedded=table.shape[1]), None

    def groups(self, patients: Sequence[str]) -> list[tuple[list[str], Tensor]]:
        """All `patients`, from whom one policy is learned, with their embeddings, which it is told.

        Raises:
            UnknownNameError: One has none.
        """
        index = PatientIndex(self.patients, "these embeddings").resolve(patients)
        return [(list(patients), self.embeddings[index])]

    def finish(self, policy: StackedActor) -> StackedActor:
        """The policy as a stack, an embedding being a bias per person: W (o, z) + b = W_o o + (W_z z + b).

        Of a window every observation has it.

        Raises:
            MedGymError: The network is no perceptron.
        """
        net, count, steps = policy.net, len(self.patients), policy.net.steps
        if net.kind != "mlp":
            raise MedGymError(f"scope {self.scope!r} is for perceptrons, not for a network {net.kind!r}")
        numbers = self.embeddings.shape[1]
        seen = observation_width(net.sizes[0], steps.action, steps.history)
        place = torch.arange(net.sizes[0]) % (seen + steps.action + 2) - (seen - _CLOCKS - numbers)
        told = (place >= 0) & (place < numbers)
        state = {name: value.repeat(count, 1, 1).double() for name, value in net.state_dict().items()}
        first = state["layers.0.weight"]
        of_person = first[:, told].unflatten(1, (steps.history, numbers)).sum(1)
        state["layers.0.bias"] = state["layers.0.bias"] + self.embeddings.double()[:, None] @ of_person
        state["layers.0.weight"] = first[:, ~told]
        sizes = (int((~told).sum()), *net.sizes[1:])
        narrow = StackedMLP(count, sizes, net.activation, net.output, seeds=[0] * count, steps=steps)
        narrow.load_state_dict({name: value.float() for name, value in state.items()})
        return policy.take([0] * count, self.patients, narrow)

    def default_identity(self) -> Tensor:
        """(1, numbers) the mean embedding of train people, for who is not identified yet."""
        return torch.zeros_like(self.embeddings[:1])

    def identify(self, bank: SimulatorBank, found: Record) -> Tensor:
        """(P, numbers) embeddings of the people of a record; nothing of `bank` is looked at.

        Raises:
            MedGymError: There is no encoder.
        """
        if self.encoder is None:
            raise MedGymError("these embeddings came without their encoder; take those of `people_of`")
        return self.encoder.embed(found)

    def policy_for(self, policy: StackedActor, identities: Tensor, patients: Sequence[str]) -> StackedActor:
        """From a finished policy the networks of people with the embeddings `identities` (P, numbers).

        The bias is affine in the embedding, b + W_z z, so the people of the policy determine b and W_z.

        Raises:
            MedGymError: They do not: the policy was learned with other embeddings, or its people are too few.
        """
        order = PatientIndex(self.patients, "these embeddings").resolve(policy.patients or ())
        known, bias = self.embeddings[order].double(), policy.net.state_dict()["layers.0.bias"][:, 0].double()
        rows = torch.cat([torch.ones_like(known[:, :1]), known], 1)
        # Directions in which no two people differ say nothing, of new people too: the encoder has none there.
        affine = torch.linalg.lstsq(rows, bias, rcond=1e-5, driver="gelsd").solution
        off = float((rows @ affine - bias).abs().max())
        if len(rows) < rows.shape[1] or off > 1e-4 * float(bias.abs().max()):
            raise MedGymError(
                f"a policy of {len(rows)} people does not say what an embedding does to it; train it again with "
                "`people_of` of this bank, for more people than the embedding has numbers"
            )
        net = policy.net.select([0] * len(identities))
        moved = torch.cat([torch.ones_like(identities[:, :1]), identities], 1).double() @ affine
        net.load_state_dict({**net.state_dict(), "layers.0.bias": moved[:, None].float()})
        return policy.take([0] * len(identities), patients, net)

    def facts(self) -> dict[str, Any]:
        """What a policy's file says of them."""
        return {"context": {"numbers": self.embeddings.shape[1]}, "record": dict(self.asked)}
