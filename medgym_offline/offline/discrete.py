"""The networks of P learners with discrete actions: one value per codeword."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from medgym_offline.offline.codebook import nearest
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.networks import each_member, follow, member_seeds
from medgym_offline.stack import StackedMLP

__all__ = ["DiscreteNetworks", "build_discrete"]


@dataclass(frozen=True)
class DiscreteNetworks:
    """f_phi(s, .) (critic) and its slowly moving copy fbar: networks from the state to a score of each codeword.

        c*(s)      = argmax_c f_phi(s, c)             the choice, on the members' mean
        Q_phi(s, c) = f_phi(s, c) + extra(s, c)       the value; Qbar likewise with fbar

    Attributes:
        critic, target: Stacks of P*E, the E members of a learner side by side.
        codebook: a_1 .. a_C, (P, C, A).
        extra: (P, B, d) -> (P, B, C); None is nothing: the score is the value in all but GCQL.
        members: E.
        gate: As in `StackedActor`.
    """

    critic: StackedMLP
    target: StackedMLP
    codebook: Tensor
    extra: Callable[[Tensor], Tensor] | None = None
    members: int = 1
    gate: float | None = None

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return self.critic, self.target

    def acting(self) -> StackedMLP:
        """The stack that decides, from the standardized state to f (mean over members); the critic itself if E = 1."""
        return self.critic if self.members == 1 else _mean_network(self.critic, self.members)

    def _values(self, scores: Tensor, state: Tensor) -> Tensor:
        """Q from f, (P, E, B, C)."""
        return scores if self.extra is None else scores + self.extra(state)[:, None]

    def values_each(self, state: Tensor) -> Tensor:
        """Q(s, .) of each member: (P, B, d) -> (P, E, B, C)."""
        return self._values(each_member(self.critic, state, self.members), state)

    def target_value(self, state: Tensor) -> Tensor:
        """Qbar(s, c*), c* chosen on the members' mean, the smallest of their values: (P, B, d) -> (P, B)."""
        scores = each_member(self.target, state, self.members)
        chosen = scores.mean(1).argmax(-1)[:, None, :, None].expand(-1, self.members, -1, 1)
        return self._values(scores, state).gather(-1, chosen).squeeze(-1).amin(1)

    def policy(self, state: Tensor) -> Tensor:
        """The chosen codeword, the first of equals: (P, B, d) -> (P, B, A)."""
        scores = each_member(self.critic, state, self.members).mean(1)
        chosen = scores.argmax(-1, keepdim=True)
        return self.codebook.gather(1, chosen.expand(-1, -1, self.codebook.shape[-1]))

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Q (mean over members) of the codeword nearest to an action: (P, B, d), (P, B, A) -> (P, B)."""
        values = self.values_each(state).mean(1)
        return values.gather(-1, nearest(self.codebook, action)[..., None]).squeeze(-1)

    def update_target(self, tau: float) -> None:
        """Qbar <- Qbar + tau*(Q - Qbar)."""
        follow(self.target, self.critic, tau)


def build_discrete(
    seeds: Sequence[int],
    state_dim: int,
    codebook: Tensor,
    config: OfflineConfig,
    extra: Callable[[Tensor], Tensor] | None = None,
    heads: int = 1,
) -> DiscreteNetworks:
    """Fresh networks, one per seed; a learner's initial weights depend on its own seed alone."""
    sizes = (state_dim, *[config.hidden] * config.depth, heads * codebook.shape[1])
    members = member_seeds(seeds, config.ensemble)
    critic, target = (StackedMLP(len(members), sizes, "relu", seeds=members) for _ in range(2))
    target.requires_grad_(False)
    return DiscreteNetworks(critic, target, codebook, extra, config.ensemble)


def _mean_network(net: StackedMLP, members: int) -> StackedMLP:
    """P networks whose outputs are the means of E members': their hidden layers side by side."""
    patients, last = net.patients // members, len(net.sizes) - 2
    sizes = (net.sizes[0], *[members * width for width in net.sizes[1:-1]], net.sizes[-1])
    merged = StackedMLP(patients, sizes, net.activation, net.output, seeds=[0] * patients)
    state = {}
    for i, (a, b) in enumerate(zip(net.sizes[:-1], net.sizes[1:])):
        weight = net.state_dict()[f"layers.{i}.weight"].view(patients, members, a, b)
        bias = net.state_dict()[f"layers.{i}.bias"].view(patients, members, b)
        if i == last:
            state[f"layers.{i}.weight"] = (weight / members).flatten(1, 2) if i else weight.mean(1)
            state[f"layers.{i}.bias"] = bias.mean(1, keepdim=True)
            continue
        blocks = weight.new_zeros(patients, 1 if i == 0 else members, a, members, b)
        for e in range(members):
            blocks[:, 0 if i == 0 else e, :, e] = weight[:, e]
        state[f"layers.{i}.weight"] = blocks.flatten(3).flatten(1, 2)
        state[f"layers.{i}.bias"] = bias.view(patients, 1, -1)
    merged.load_state_dict(state)
    return merged.to(weight.device)
