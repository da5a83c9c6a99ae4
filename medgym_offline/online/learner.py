"""What algorithms share: the state of a run, the critic of the on-policy ones, the multiplier, and their update.

An algorithm is a module with three functions, which the loop of :mod:`medgym_offline.online.train` calls:

    critic_shape   widths of the critic
    start          first parameters of the critic, and what the algorithm carries along from update to update
    update         better parameters from the episodes of the simulators

:func:`on_policy_update` is the body of the last for algorithms that learn from the newest episodes alone; what differs
is the step (:mod:`~medgym_offline.online.trpo`, :mod:`~medgym_offline.online.ppo`). The Lagrangian forms of both

    maximize  E[return]  subject to  E[cost per decision] <= limit

    A_pen  = (A_r - lambda A_c) / (1 + lambda)
    lambda <- clip(lambda + rate (mean cost - limit), 0, ceiling)

have one multiplier per policy (arXiv 2606.01028). Both advantages are standardized first, so that one multiplier means
the same for every patient whatever the scale of its rewards. The ceiling keeps a patient whose limit is out of reach
from being trained on cost alone: at lambda = 1 the two count equally.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from medgym_offline.errors import MedGymError
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.networks import Adam, GaussianActor, TanhMLP
from medgym_offline.online.rollouts import Collected, advantages, centered, discounts, standardize
from medgym_offline.seeds import generator

__all__ = [
    "Group", "PolicyBatch", "Shapes", "Step", "TrainState", "accept", "center_rewards", "critic_shape", "first_scale",
    "fit_critic", "on_policy_update", "penalized", "start", "update_multiplier",
]  # fmt: skip

VALUES = 2
"""Outputs of an on-policy critic: value of the reward, value of the cost."""


@dataclass(frozen=True)
class Shapes:
    """Networks of a run (the critic of soft actor-critic is two of the shape), and the time that discounts are per."""

    actor: GaussianActor
    critic: TanhMLP
    reference: float


@dataclass
class TrainState:
    """State of P policies over S simulators (P = S, or P = 1 when shared) after `update` updates.

    Attributes:
        update: Updates done.
        actor: Flat actor parameters `(P, n)`.
        critic: Flat critic parameters `(P, m)`.
        optimizer: Adam moments of the critic.
        scale: Scale of the critic's targets `(P, 2)`; 0 before the first update. SAC uses the first.
        multiplier: Lagrange multipliers `(P,)`.
        harm: Mean harm per unit of time of each simulator, rho `(S,)`.
        stopped: Update at which a simulator's training was stopped by a non-finite number, else -1, `(S,)`.
        log: Name -> `(updates done, S or P)`.
        learner: What the algorithm itself carries along, name -> tensor with leading axis P (PPO: Adam moments of the
            actor; SAC: :func:`medgym_offline.online.sac.start`). Empty for TRPO.
        kept: What those who watch the training keep, name -> tensor with leading axis P, on the CPU.
    """

    update: int
    actor: Tensor
    critic: Tensor
    optimizer: Adam
    scale: Tensor
    multiplier: Tensor
    harm: Tensor
    stopped: Tensor
    log: dict[str, Tensor] = field(default_factory=dict)
    learner: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, as in a checkpoint."""
        found = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                found[name] = value
            elif isinstance(value, dict):
                found |= {f"{name}.{key}": inner for key, inner in value.items()}
        return found | self.optimizer.named("adam.")

    @classmethod
    def from_tensors(cls, update: int, tensors: dict[str, Tensor]) -> TrainState:
        """Inverse of :meth:`tensors`."""
        parts: dict[str, Any] = {
            group: {name.removeprefix(f"{group}."): t for name, t in tensors.items() if name.startswith(f"{group}.")}
            for group in ("log", "learner", "kept")
        }
        single: dict[str, Any] = {name: value for name, value in tensors.items() if "." not in name}
        return cls(update, optimizer=Adam.of(tensors, "adam."), **single, **parts)

    def to(self, device: torch.device | str) -> TrainState:
        """The same state on `device` (log and what is kept stay on the CPU)."""
        here = ("log.", "kept.")
        moved = {n: t if n.startswith(here) else t.to(device) for n, t in self.tensors().items()}
        return TrainState.from_tensors(self.update, moved)

    def without_replay(self) -> TrainState:
        """The same state without the replay buffer, which nobody needs once training is over."""
        return replace(self, learner={n: v for n, v in self.learner.items() if n not in ("replay", "filled")})

    def append(self, row: dict[str, Tensor]) -> None:
        """Add one update's numbers, name -> `(S,)` or `(P,)`, to the log."""
        for name, value in row.items():
            line = value.detach().to("cpu", torch.float32).unsqueeze(0)
            self.log[name] = torch.cat([self.log[name], line]) if name in self.log else line


@dataclass(frozen=True)
class Group:
    """The policies `rows` of a state, called `names` (to which their random streams belong), and their `simulators`."""

    config: TrainConfig
    shapes: Shapes
    state: TrainState
    rows: slice
    simulators: slice
    names: Sequence[str]


def center_rewards(group: Group, batch: Collected) -> Tensor:
    """Bring rho, the mean harm per unit of time of the simulators, up to date; the rewards around it `(S, K, B)`."""
    config, state, harm, time = group.config, group.state, group.state.harm[group.simulators], batch.dt.sum((1, 2))
    now = torch.where(time > 0, -batch.rewards.sum((1, 2)) / time.clamp_min(1e-6), harm)
    harm += (1.0 if state.update == 0 else config.center_rate) * (now - harm)
    return centered(batch.rewards, batch.dt, harm) if config.center else batch.rewards


def first_scale(signals: Sequence[Tensor], discount: Tensor, batch: Collected, policies: int) -> Tensor:
    """Root mean square `(P, signals)` of the discounted sums to come of each signal `(S, K, B)`."""
    weights = batch.valid.reshape(policies, -1)
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1.0)
    ahead = [advantages(signal, torch.zeros_like(signal), discount, batch.valid, 1.0)[1] for signal in signals]
    targets = torch.stack([value.reshape(policies, -1) for value in ahead], -1)
    return (targets.square() * weights.unsqueeze(-1)).sum(1).sqrt().clamp_min(1e-2)


def accept(group: Group, actor: Tensor, critic: Tensor, learner: dict[str, Tensor], broken: Tensor) -> None:
    """Take over new parameters where all is finite; a patient where it is not keeps its last good ones for ever.

    Raises:
        MedGymError: The policy is shared, and its parameters are not finite.
    """
    shared, state, rows = group.config.shared, group.state, group.rows
    finite = torch.isfinite(actor).all(-1) & torch.isfinite(critic).all(-1)
    if shared and not bool(finite.all()):
        met = f"training of the shared policy met a non-finite number at update {state.update}"
        raise MedGymError(f"{met}; lower the learning rate or the radius, or check the simulators")
    stopped = state.stopped[group.simulators]
    stopped[(broken if shared else broken | ~finite) & (stopped < 0)] = state.update
    go = finite if shared else stopped < 0
    pairs = [(state.actor, actor), (state.critic, critic), *((state.learner[n], v) for n, v in learner.items())]
    for old, new in pairs:
        old[rows] = torch.where(go.unsqueeze(-1), new, old[rows])


# -- on-policy ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyBatch:
    """Rows of a rollout as a policy step sees them.

    Attributes:
        observations: `(P, N, d)`.
        noise: Standard normal draws behind the actions, `(P, N, A)`.
        advantages: `(P, N)`.
        weights: `(P, N)`, 0 for padding, summing to 1 per patient.
    """

    observations: Tensor
    noise: Tensor
    advantages: Tensor
    weights: Tensor


Step = Callable[[Tensor, PolicyBatch], tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]]
"""(theta (P, n), rows) -> new theta, numbers of the log `(P,)`, and what the algorithm carries along, renewed."""


def critic_shape(observation_dim: int, action_dim: int, hidden: int) -> TanhMLP:
    """One critic with two outputs, value of the reward and value of the cost."""
    return TanhMLP((observation_dim, hidden, hidden, VALUES))


def start(config: TrainConfig, shapes: Shapes, actor: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Its first parameters for each policy of `names`, `(P, m)`; nothing else is carried along."""
    return shapes.critic.initial([generator(config.seed, "online-critic", name) for name in names]), {}


def penalized(reward_advantage: Tensor, cost_advantage: Tensor, multiplier: Tensor) -> Tensor:
    """(A_r - lambda A_c) / (1 + lambda) for advantages `(P, N)` and `multiplier (P,)`."""
    weight = multiplier.unsqueeze(-1)
    return (reward_advantage - weight * cost_advantage) / (1.0 + weight)


def update_multiplier(multiplier: Tensor, mean_cost: Tensor, limit: float, rate: float, ceiling: float) -> Tensor:
    """lambda after one update, `(P,)`, from the mean cost per decision `(P,)`."""
    return (multiplier + rate * (mean_cost - limit)).clamp(0.0, ceiling)


def fit_critic(group: Group, theta: Tensor, observations: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Move `theta (P, n)` towards the scaled lambda-returns by Adam, in place; the last loss per patient `(P,)`.

        loss_p = mean over rows and outputs of ( V_p(s) - G(s) / scale_p )^2

    Targets are divided by a per-patient scale, fixed from the first batch, so that one learning rate suits every
    patient. Rows are visited in minibatches of whole strides (rows i, i + m, i + 2m, ..), which needs no shuffle and
    no copy of the index.

    Args:
        group: Shape of the critic, Adam's moments (changed in place), and passes over the rows, parts of one pass and
            learning rate (`value_..`).
        theta: Parameters, changed in place.
        observations: `(P, N, d)`.
        targets: Lambda-returns over their scale, `(P, N, 2)`.
        weights: `(P, N)`, 0 for padding.
    """
    config, optimizer, parts = group.config, group.state.optimizer.rows(group.rows), []
    for start in range(config.value_minibatches):
        rows = slice(start, None, config.value_minibatches)
        share = weights[:, rows]
        share = share / share.sum(-1, keepdim=True).clamp_min(1e-12)
        parts.append((observations[:, rows].contiguous(), targets[:, rows].contiguous(), share.unsqueeze(-1)))
    loss = theta.new_zeros(theta.shape[0])
    for epoch in range(config.value_epochs):
        for x, y, share in parts:
            seen = group.shapes.critic(theta, x)
            error = seen.output - y
            pull = error * share
            if epoch == config.value_epochs - 1:
                loss += (pull * error).sum((1, 2)) / (VALUES * config.value_minibatches)
            optimizer.step_(theta, seen.vjp(pull), config.value_rate)
    return loss


def on_policy_update(group: Group, batch: Collected, step: Step, logged: Sequence[str]) -> dict[str, Tensor]:
    """Update the policies of `group` in place from episodes of their simulators; returns their numbers `(P,)`.

    1. advantages of reward (centered) and cost from one critic with two outputs, discounted by elapsed time;
    2. Lagrangian forms: lambda from the mean cost per decision, A = (A_r - lambda A_c) / (1 + lambda); else A = A_r;
    3. one `step` of the policies, not before the critic has had `value_warmup` updates; it gives the numbers `logged`;
    4. the critic regresses on the lambda-returns.
    """
    config, shapes, state, rows = group.config, group.shapes, group.state, group.rows
    theta, critic = state.actor[rows], state.critic[rows].clone()
    policies = theta.shape[0]

    def flat(value: Tensor) -> Tensor:
        return value.reshape(policies, -1, *value.shape[3:])

    rewards = center_rewards(group, batch)
    observations, valid = flat(batch.observations), flat(batch.valid)
    weights = valid / valid.sum(-1, keepdim=True).clamp_min(1.0)
    shrink = discounts(batch.dt, config.discount, shapes.reference)
    signals, scale = (rewards, batch.costs), state.scale[rows]
    if state.update == 0:
        scale.copy_(first_scale(signals, shrink, batch, policies))
    values = (shapes.critic(critic, observations).output * scale.unsqueeze(1)).view(*batch.valid.shape, VALUES)
    found = [advantages(signal, values[..., i], shrink, batch.valid, config.gae) for i, signal in enumerate(signals)]
    advantage = standardize(flat(found[0][0]), weights)
    if config.constrained:
        multiplier, cost = state.multiplier[rows], (flat(batch.costs) * weights).sum(-1)
        settings = config.cost_limit, config.multiplier_rate, config.multiplier_max
        multiplier.copy_(update_multiplier(multiplier, cost, *settings))
        advantage = penalized(advantage, standardize(flat(found[1][0]), weights), multiplier)
        advantage = standardize(advantage, weights)
    improved, numbers = theta, {name: theta.new_zeros(policies) for name in logged}
    learner: dict[str, Tensor] = {}
    if state.update >= config.value_warmup:
        policy = PolicyBatch(observations, flat(batch.noise), advantage, weights)
        improved, numbers, learner = step(theta, policy)
    targets = torch.stack([flat(f[1]) for f in found], -1) / scale.unsqueeze(1)
    loss = fit_critic(group, critic, observations, targets, weights)
    accept(group, improved, critic, learner, batch.broken)
    return numbers | {"multiplier": state.multiplier[rows].clone(), "value_loss": loss}
