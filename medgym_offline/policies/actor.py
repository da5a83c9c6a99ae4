"""`StackedActor`: a network per patient, or one for all; squashed by tanh, or choosing from a codebook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.base import CLOCKS, FULL
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import PolicyError
from medgym_offline.patients import NEW_PEOPLE, PatientIndex
from medgym_offline.policies.protocol import timing_of_width, torch_or_numpy
from medgym_offline.stack import StackedMLP

__all__ = ["StackedActor", "gated"]

_EDGE = 1.0 - 1e-6


class StackedActor(nn.Module):
    """Squashed Gaussian policies of P patients as one stack, or one network shared by all patients.

        m = net_p(o)                     (P, B, A)
        act(o) = tanh(m)                 deterministic
        a = tanh(m + exp(log_std_p) * e), e ~ N(0, I)     the stochastic policy, when `log_std` is given

    With a `codebook` of C actions the network has one output per codeword, and the policy chooses:

        m = net_p(o)                     (P, B, C)
        act(o) = codebook_p[argmax_c m_c]                 the first of equals

    With a `gate` as well it has two outputs per codeword, a value q_c and a logit l_c of how likely the data choose it:

        act(o) = codebook_p[argmax_c q_c over those c with l_c - max l >= gate]

    `log_std` does not depend on the observation. It is stored with the network, so log-probabilities of actions
    of a dataset's behavior can be recomputed from its policy file.

    Args:
        net: Stack of P networks (P = 1 when shared) of sizes (d, ..., A), or (d, ..., C) with a codebook.
        patients: P ids in the order of the stack, or None: one network shared by all patients.
        decisions: Decisions per episode K it was trained for; None where unknown.
        log_std: (P, A) or (1, A), or None for a deterministic policy.
        provenance: JSON-able facts about its origin, kept in its file.
        codebook: (P, C, A) or (1, C, A) actions in [-1, 1], or None for a continuous policy.
        disease: Name of the disease it treats.
        gate: Logarithm of the smallest ratio to the likeliest codeword's probability, at most 0, or None.
        view: What it sees, a view of the disease.

    Raises:
        PolicyError: If P and the number of ids differ, A is neither the number of treatments (fixed timing) nor
            one more (adaptive), the codebook
            does not fit the network, or `log_std` is given with a codebook.
    """

    log_std: Tensor | None
    codebook: Tensor | None

    def __init__(
        self,
        net: StackedMLP,
        patients: Sequence[str] | None = None,
        decisions: int | None = None,
        log_std: Tensor | None = None,
        provenance: Mapping[str, Any] | None = None,
        codebook: Tensor | None = None,
        disease: str = DEFAULT,
        gate: float | None = None,
        view: str = FULL,
    ):
        super().__init__()
        self.patients: tuple[str, ...] | None = None if patients is None else tuple(patients)
        wanted = 1 if self.patients is None else len(self.patients)
        if net.patients != wanted:
            what = "a shared actor" if self.patients is None else f"{wanted} patient ids"
            raise PolicyError(f"{what} cannot hold a stack of {net.patients} networks")
        if self.patients is not None and len(set(self.patients)) != wanted:
            raise PolicyError("a policy names the same patient twice")
        self.net = net
        if codebook is not None:
            codebook = _checked_codebook(codebook, wanted, net.sizes[-1], log_std, gate)
        self.observation_dim = net.sizes[0]
        self.action_dim = net.sizes[-1] if codebook is None else codebook.shape[-1]
        self.disease, self.gate, self.view = disease, gate, view
        self.timing = timing_of_width(find_disease(disease), self.action_dim)
        self.decisions = decisions
        self.provenance: dict[str, Any] = dict(provenance or {})
        if log_std is not None:
            if log_std.dim() != 2 or log_std.shape[0] not in (1, wanted) or log_std.shape[1] != self.action_dim:
                shape = tuple(log_std.shape)
                raise PolicyError(f"log_std has shape {shape}, expected ({wanted} or 1, {self.action_dim})")
            log_std = log_std.detach().clone().to(torch.float32)
        self.register_buffer("log_std", log_std)
        self.register_buffer("codebook", codebook)

    @property
    def scope(self) -> str:
        """ "ind" (a network per patient), "pop" (one for all); "clu" or "context" where its provenance says so."""
        stated = self.provenance.get("scope")
        return "pop" if self.patients is None else stated if stated in NEW_PEOPLE else "ind"

    def extra_repr(self) -> str:
        count = "all" if self.patients is None else len(self.patients)
        text = f"scope={self.scope}, patients={count}, timing={self.timing}, decisions={self.decisions}"
        return text if self.codebook is None else f"{text}, codewords={self.codebook.shape[1]}"

    def mean(self, observations: Tensor) -> Tensor:
        """Output of the network, (P, B, d) -> (P, B, A), the mean before squashing; (P, B, C) with a codebook.

        A shared network is applied to each patient by itself, so that a patient's actions do not depend on how many
        others are in the batch.
        """
        return self.net(observations)

    @torch_or_numpy
    def act(self, observations: Tensor) -> Tensor:
        """Deterministic actions: (P, B, d) -> (P, B, A) in [-1, 1]; torch in, torch out; NumPy in, NumPy out.

        Raises:
            PolicyError: If the observations' width or number of patients is not the policy's.
        """
        output = self.mean(observations)
        if self.codebook is None:
            return torch.tanh(output)
        scores = output if self.gate is None else gated(output, self.gate)
        chosen = scores.argmax(-1, keepdim=True).expand(-1, -1, self.action_dim)
        return self.codebook.expand(len(output), -1, -1).gather(1, chosen)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Log-density of `actions` (P, B, A) under the squashed Gaussian -> (P, B).

        Actions are drawn in to +-(1 - 1e-6), where the density is finite.

        Raises:
            PolicyError: If the policy has no `log_std`.
        """
        if self.log_std is None:
            raise PolicyError("a deterministic policy has no action probabilities (its file holds no log_std)")
        inside = actions.clamp(-_EDGE, _EDGE)
        log_std = self.log_std[:, None, :]
        z = (torch.atanh(inside) - self.mean(observations)) * torch.exp(-log_std)
        normal = -0.5 * z.square() - log_std - 0.5 * math.log(2.0 * math.pi)
        return (normal - torch.log1p(-inside.square())).sum(-1)

    def index(self, patient: str) -> int:
        """Position of a patient in the stack (0 for a shared actor); `UnknownNameError` if absent."""
        if self.patients is None:
            return 0
        return PatientIndex(self.patients, "this policy").one(patient)

    @own_defaults()
    def select(self, patients: Sequence[str]) -> StackedActor:
        """A copy for these patient ids, in that order; a shared actor serves every patient and returns itself.

        Raises:
            UnknownNameError: If an id is not one of the policy's patients.
        """
        if self.patients is None:
            return self
        return self.take([self.index(p) for p in patients], patients)

    def take(self, index: Sequence[int], patients: Sequence[str], net: StackedMLP | None = None) -> StackedActor:
        """The networks at `index` (repeats allowed) for these patients; `net` in place of them, if given."""
        index = list(index)

        def rows(of: Tensor | None) -> Tensor | None:
            return of if of is None or len(of) == 1 else of[index]

        own = (self.decisions, rows(self.log_std), self.provenance, rows(self.codebook), *self._kind)
        return StackedActor(self.net.select(index) if net is None else net, patients, *own)

    def under(self, view: str) -> StackedActor:
        """A perceptron of view "full" that takes what `view` shows for what is.

        What the view adds, ages and masks, has the weight 0.
        """
        state, clocks = self.net.state_dict(), self.net.sizes[0] - len(CLOCKS)
        first, width = state["layers.0.weight"], len(find_disease(self.disease).seen(view))
        more = first.new_zeros(len(first), width - self.net.sizes[0], first.shape[-1])
        state["layers.0.weight"] = torch.cat([first[:, :clocks], more, first[:, clocks:]], 1)
        net = StackedMLP(len(first), (width, *self.net.sizes[1:]), self.net.activation, self.net.output)
        net.load_state_dict(state)
        own = (self.decisions, self.log_std, self.provenance, self.codebook, self.disease, self.gate)
        return StackedActor(net, self.patients, *own, view)

    @property
    def _kind(self) -> tuple[str, float | None, str]:
        """The last arguments of the constructor."""
        return self.disease, self.gate, self.view

    @classmethod
    @own_defaults()
    def concatenate(cls, actors: Sequence[StackedActor]) -> StackedActor:
        """One stack from several of equal shape, patients in the order given; provenance of the first.

        Raises:
            PolicyError: If one is shared, or sizes, activations, decisions or the presence of `log_std` or of a
                codebook differ.
        """
        first = actors[0]

        def form(actor: StackedActor) -> tuple[Any, ...]:
            code, net = None if actor.codebook is None else actor.codebook.shape[1:], actor.net
            own = (actor.decisions, actor.log_std is None, code, actor._kind)
            return (net.sizes, net.activation, net.output, net.kind, *own)

        def joined(name: str) -> Tensor | None:
            parts = [(getattr(actor, name), actor.net.patients) for actor in actors]
            if parts[0][0] is None:
                return None
            return torch.cat([part.expand(count, *part.shape[1:]) for part, count in parts])

        for actor in actors:
            if actor.patients is None:
                raise PolicyError("a shared actor cannot be stacked with others")
            if form(actor) != form(first):
                raise PolicyError("actors of different shape, activation or decisions cannot be stacked")
        ids = [p for actor in actors for p in actor.patients or ()]
        net = first.net.like(len(ids))
        states = [actor.net.state_dict() for actor in actors]
        net.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
        own = (first.decisions, joined("log_std"), first.provenance, joined("codebook"))
        return cls(net, ids, *own, *first._kind)


def gated(outputs: Tensor, gate: float) -> Tensor:
    """Values (..., C) of the likely codewords, and -inf of the others, from values and logits (..., 2C)."""
    values, logits = outputs.chunk(2, -1)
    return values.masked_fill(logits - logits.amax(-1, keepdim=True) < gate, -math.inf)


def _checked_codebook(book: Tensor, patients: int, outputs: int, log_std: Tensor | None, gate: float | None) -> Tensor:
    """A float32 copy, if it fits the network."""
    if log_std is not None:
        raise PolicyError("a policy with a codebook is deterministic; it cannot have a log_std")
    words = outputs if gate is None else outputs / 2
    if gate is not None and gate > 0:
        raise PolicyError(f"gate is {gate}, the logarithm of a ratio of probabilities; it is at most 0")
    if book.dim() != 3 or book.shape[0] not in (1, patients) or book.shape[1] != words:
        raise PolicyError(f"codebook has shape {tuple(book.shape)}, expected ({patients} or 1, {words}, A)")
    if not bool((book.abs() <= 1.0).all()):
        raise PolicyError("codebook holds actions outside [-1, 1]")
    return book.detach().clone().to(torch.float32)
