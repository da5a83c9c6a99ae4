"""The networks of P learners: critic, target critic, deterministic actor.

Stacked ReLU networks go over many rows one network after the other, forward and backward. A critic sees a dozen
candidate actions per state, so a hidden layer of ten stacked learners has ten times 768 rows: two megabytes, more than
a core's cache. One operation on the whole stack after the other then waits for memory. Here all layers of one learner
are computed before the next learner's, in place where the derivative allows it.

    forward     h_0 = x,  h_i = max(0, h_{i-1} W_i + b_i),  y = h_{L-1} W_L + b_L
    backward    d_L = dy,  dW_i = h_{i-1}^T d_i,  db_i = sum of d_i over rows,  d_{i-1} = (d_i W_i^T) [h_{i-1} > 0]

A learner's numbers come from its own products alone, so they do not depend, in any bit, on who is stacked beside it.

:class:`Objective` is what a learner asks of an algorithm: networks, gradient steps, the rows and columns it needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import Batch, Seeds, StackedData
from medgym_offline.seeds import derive_seed
from medgym_offline.stack import StackedMLP

__all__ = ["Actors", "Networks", "Objective", "Step", "each_member", "follow", "member_seeds", "relu_network"]


def relu_network(net: StackedMLP, rows: Tensor) -> Tensor:
    """`net(rows)` for a stack with ReLU between layers: (P, N, in) -> (P, N, out), with gradients of its parameters.

    No gradient flows to `rows`. Other devices than the CPU have no such cache; there it is `net(rows)`.
    """
    if rows.device.type != "cpu" or rows.requires_grad:
        return net(rows)
    return _ReLUNetwork.apply(rows, *[p for layer in net.layers for p in (layer.weight, layer.bias)])


class _ReLUNetwork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        layers = [rows.new_empty(*rows.shape[:2], weight.shape[2]) for weight in weights]
        for p in range(len(rows)):
            h = rows[p]
            for weight, bias, out in zip(weights, biases, layers):
                h = torch.addmm(bias[p], h, weight[p], out=out[p])
                if out is not layers[-1]:
                    h.relu_()
        ctx.save_for_backward(*parameters, rows, *layers[:-1])
        return layers[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        count = len(ctx.saved_tensors) // 3  # layers: as many weights, biases and inputs
        parameters, inputs = ctx.saved_tensors[: 2 * count], ctx.saved_tensors[2 * count :]
        found = [torch.empty_like(parameter) for parameter in parameters]
        spare = [h.new_empty(h.shape[1:]) for h in inputs]
        for p in range(len(gradient)):
            d = gradient[p]
            for i in reversed(range(count)):
                torch.mm(inputs[i][p].T, d, out=found[2 * i][p])
                torch.sum(d, 0, keepdim=True, out=found[2 * i + 1][p])
                if i:
                    h, weight, below = inputs[i][p], parameters[2 * i][p], spare[i]
                    if d.shape[1] == 1:  # an outer product; several times faster than as a matrix product
                        torch.mul(d, weight.T, out=below)
                    else:
                        torch.mm(d, weight.T, out=below)
                    d = torch.ops.aten.threshold_backward.grad_input(below, h, 0, grad_input=below)
        return None, *found


def member_seeds(seeds: Sequence[int], members: int) -> list[int]:
    """Seeds of the critics of an ensemble, those of a learner side by side; the first does not depend on how many."""
    return [derive_seed(s, "offline-member", e) if e else 2 * s for s in seeds for e in range(members)]


def each_member(critic: StackedMLP, rows: Tensor, members: int) -> Tensor:
    """Every member on the learner's rows: (P, N, W) -> (P, E, N, out)."""
    spread = rows if members == 1 else rows.repeat_interleave(members, 0)
    values = critic(spread)
    return values.view(rows.shape[0], members, *values.shape[1:])


@torch.no_grad()
def follow(slow: StackedMLP, fast: StackedMLP, tau: float) -> None:
    """slow <- slow + tau*(fast - slow)."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), tau)


@dataclass(frozen=True, kw_only=True)
class Actors:
    """pi alone, a stack of P, for algorithms without a critic.

    Attributes:
        codebook, gate: Of the discrete forms (`DiscreteNetworks`); here actions are continuous.
    """

    actor: StackedMLP
    codebook: ClassVar[None] = None
    gate: ClassVar[None] = None

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return (self.actor,)

    def acting(self) -> StackedMLP:
        """The stack that decides: a function of the standardized state whose tanh is the action."""
        return self.actor

    def policy(self, state: Tensor) -> Tensor:
        """pi(s): (P, B, d) -> (P, B, A) in [-1, 1]."""
        return torch.tanh(self.actor(state))

    def update_target(self, tau: float) -> None:
        """There is no target."""


@dataclass(frozen=True, kw_only=True)
class Networks(Actors):
    """pi (actor), Q_phi (critic) and Qbar (its slowly moving copy).

    Attributes:
        critic, target: Stacks of P*E, the E members of a learner side by side.
        members: E.
    """

    critic: StackedMLP
    target: StackedMLP
    members: int = 1

    def parts(self) -> tuple[StackedMLP, ...]:
        """Every stack, in the order of a saved state."""
        return self.critic, self.target, self.actor

    def q(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a), mean over members: (P, B, d), (P, B, A) -> (P, B)."""
        return self.q_each(state, action).mean(1)

    def q_each(self, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a) of each member: (P, B, d), (P, B, A) -> (P, E, B)."""
        return each_member(self.critic, torch.cat([state, action], -1), self.members).squeeze(-1)

    def target_q(self, state: Tensor, action: Tensor) -> Tensor:
        """Qbar(s, a), the smallest of the members': (P, B, d), (P, B, A) -> (P, B)."""
        return each_member(self.target, torch.cat([state, action], -1), self.members).squeeze(-1).amin(1)

    def q_candidates(self, state: Tensor, actions: Tensor) -> Tensor:
        """Q of C actions per state and member, in one pass: (P, B, d), (P, C, B, A) -> (P, E, C, B)."""
        count, candidates, batch, width = actions.shape
        rows = torch.empty((count, candidates, batch, state.shape[-1] + width), dtype=state.dtype, device=state.device)
        rows[..., : state.shape[-1]] = state[:, None]
        rows[..., state.shape[-1] :] = actions
        spread = rows.flatten(1, 2).repeat_interleave(self.members, 0) if self.members > 1 else rows.flatten(1, 2)
        return relu_network(self.critic, spread).view(count, self.members, candidates, batch)

    def update_target(self, tau: float) -> None:
        """Qbar <- Qbar + tau*(Q - Qbar)."""
        follow(self.target, self.critic, tau)


Step = tuple[StackedMLP, float, Callable[[Any, Batch], tuple[Tensor, dict[str, Tensor]]]]
"""What one gradient step changes, its step size, and its loss (P,) with numbers to watch (P,)."""


N = TypeVar("N")
"""Networks of an objective: `Actors`, `Networks` or `DiscreteNetworks`."""


class Objective(ABC, Generic[N]):
    """What P learners minimize, each on its own slice; every loss is (P,).

    Args:
        config: Settings.
        data: The learners' slices, for objectives that need constants of the dataset.
        seed: Root seed, for objectives that draw random numbers while they are set up.

    Attributes:
        name: As in `ALGORITHMS`.
        normals, uniforms: Random candidate actions per batch row that `Batch` has to carry.
        more: Whether it has to carry the columns of `StackedData.more`.
        delay: The last of `steps`, and the targets, are taken once in so many updates.
        history: Observations that it sees where the configuration says 1.
        settings: Settings that are part of the algorithm, whatever the configuration says.
    """

    name: ClassVar[str]
    normals = 0
    uniforms = 0
    more = False
    delay = 1
    history: ClassVar[int] = 1
    settings: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: OfflineConfig, data: StackedData, seed: Seeds = 0):
        self.config = config
        self._widths = data.state_dim, data.action_dim

    def rows(self, data: StackedData) -> StackedData:
        """The slices to learn from, given those it was made with."""
        return data

    def network(
        self, seeds: Sequence[int], outputs: int, activation: str = "relu", extra: int = 0, gain: float = 1.0
    ) -> StackedMLP:
        """A fresh network per seed, on states and `extra` columns behind them; its weights depend on its seed alone."""
        sizes = (self._widths[0] + extra, *[self.config.hidden] * self.config.depth, outputs)
        return StackedMLP(len(seeds), sizes, activation, seeds=seeds, output_gain=gain)

    def actor(self, seeds: Sequence[int]) -> StackedMLP:
        """Fresh actors, one per seed, the output before the tanh."""
        # A small last layer: the first actions are moderate and the tanh is not saturated from the start.
        return self.network([2 * s + 1 for s in seeds], self._widths[1], "tanh", gain=0.1)

    def critics(
        self, seeds: Sequence[int], outputs: int, activation: str = "relu", extra: int = 0
    ) -> tuple[StackedMLP, StackedMLP]:
        """Fresh critics, the ensembles of a learner side by side, and their copies to come."""
        members = member_seeds(seeds, self.config.ensemble)
        critic, target = (self.network(members, outputs, activation, extra) for _ in range(2))
        return critic, target.requires_grad_(False)

    @abstractmethod
    def build(self, seeds: Sequence[int]) -> Any:
        """Fresh networks `N`, one per seed."""

    @abstractmethod
    def steps(self, networks: N) -> list[Step]:
        """The gradient steps of one update, in order: which stack, its step size, and its loss.

        A loss takes (networks, batch) and returns (P,) and numbers to watch (P,); "q" among them is the largest |Q|,
        by which a learner that diverges is stopped.
        """
