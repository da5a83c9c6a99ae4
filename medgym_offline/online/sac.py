"""Soft actor-critic for a whole stack of policies at once (Haarnoja et al., 2018, arXiv:1812.05905).

With a = tanh(z), z = mu(s) + sigma eps and two critics Q_1, Q_2 with slow copies Q'_1, Q'_2:

    log pi(a|s) = sum_i [ -eps_i^2 / 2 - log sigma_i - log(2 pi) / 2 - log(1 - a_i^2) ]
    y           = r + gamma^(dt / T) (1 - ended) ( min_j Q'_j(s', a') - alpha (log pi(a'|s') + H) ),   a' ~ pi(.|s')
    critics     minimize  mean (Q_j(s, a) - y)^2 / 2
    actor       minimize  mean ( alpha log pi(a|s) - min_j Q_j(s, a) )
    alpha       minimize  -log alpha (mean log pi(a|s) + H),   H = -A, the wanted entropy
    copies      Q' <- (1 - tau) Q' + tau Q

The bonus of a decision is counted from H, so that it is 0 on average at the wanted entropy. From 0, as usual, every
decision costs alpha A then, and an adaptive policy saves by deciding rarely; under fixed timing the difference is a
constant.

The actor is that of the on-policy algorithms (:mod:`medgym_offline.online.networks`: sigma does not depend on the
state), so that policies of all algorithms are one kind of file. Gradients are written out; with eps fixed and
q = dQ / da (1 - a^2):

    d/d mu = 2 alpha a - q          d/d log sigma = alpha (2 a sigma eps - 1) - q sigma eps

One update of a stack:

    1  rho, the mean harm per unit of time of every simulator, moves towards that of the new episodes
    2  the episodes' decisions replace the oldest in the buffer of their policy
    3  `soft_steps` times: draw `soft_batch` of what the policy holds, center (r + rho dt) and scale, and take one step

Scaling divides the rewards of a policy by the root mean square of the discounted sums to come in its first episodes, so
that one learning rate, and one alpha at the start, suit every patient. Rows and noise of the steps are drawn from the
stream (seed, policy, update): no policy's results depend on its stack mates, and a resumed run goes on with the same
draws.

The buffer is :mod:`medgym_offline.online.rollouts`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import Group, Shapes, TrainState, accept, center_rewards, first_scale
from medgym_offline.online.networks import Adam, GaussianActor, Pass, TanhMLP
from medgym_offline.online.rollouts import Collected, Rows, append, discounts, draw_rows, rows_of
from medgym_offline.seeds import generator

__all__ = ["SoftLearner", "critic_shape", "start", "update"]


@dataclass
class SoftLearner:
    """P policies and what they carry along; all tensors are changed in place.

    Args:
        policy, network: Shapes of policy and critic.
        actor: `(P, n)`.
        critic, target: Two critics side by side and their copies, `(P, 2 m)`.
        log_alpha: `(P, 1)`.
        actor_adam, critic_adam, alpha_adam: Moments.
    """

    policy: GaussianActor
    network: TanhMLP
    actor: Tensor
    critic: Tensor
    target: Tensor
    log_alpha: Tensor
    actor_adam: Adam
    critic_adam: Adam
    alpha_adam: Adam

    def carried(self) -> dict[str, Tensor]:
        """What a state keeps under `learner`; actor, critics and the critics' moments have places of their own."""
        kept = {"target": self.target, "log_alpha": self.log_alpha}
        return kept | self.actor_adam.named("actor_") | self.alpha_adam.named("alpha_")

    def seen(self, critics: Tensor, observations: Tensor, actions: Tensor) -> Pass:
        """Forward pass of `critics (P, 2 m)`, a stack of 2 P, on `observations (P, N, d)`, `actions (P, N, A)`."""
        pairs = torch.cat([observations, actions], -1).repeat_interleave(2, 0)
        return self.network(critics.reshape(2 * len(critics), -1), pairs)

    def values(self, critics: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
        """Both values `(P, 2, N)`."""
        return self.seen(critics, observations, actions).output.view(len(critics), 2, -1)

    def act(self, mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Action `(P, N, A)` and its log density `(P, N)`; log(1 - tanh^2 z) in a form that does not cancel."""
        log_std = self.policy.split(self.actor)[1].unsqueeze(1)
        z = mean + log_std.exp() * noise
        squash = 2.0 * (math.log(2.0) - z - torch.nn.functional.softplus(-2.0 * z))
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
        return torch.tanh(z), density.sum(-1)

    def targets(self, rows: Rows, reward: Tensor, discount: Tensor, noise: Tensor) -> Tensor:
        """y `(P, N)` from `reward` and `discount` `(P, N)` and standard normal `noise (P, N, A)`."""
        action, density = self.act(self.policy.mean(self.actor, rows.following), noise)
        bonus = self.log_alpha.exp() * (self.policy.action_dim - density)
        ahead = self.values(self.target, rows.following, action).amin(1) + bonus
        # where, not a product: what follows a terminal is no state.
        return reward + torch.where(rows.ended > 0, torch.zeros_like(ahead), discount * ahead)

    def critic_gradient(self, observations: Tensor, actions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient `(P, 2 m)` of the critics' loss, and the loss `(P,)`, mean of the two."""
        seen = self.seen(self.critic, observations, actions)
        error = seen.output - targets.repeat_interleave(2, 0).unsqueeze(-1)
        gradient = seen.vjp(error / targets.shape[-1])
        return gradient.view_as(self.critic), 0.5 * error.square().mean((1, 2)).view(-1, 2).mean(1)

    def actor_gradient(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient `(P, n)` of the actor's loss, and the mean log density `(P,)`."""
        seen = self.policy.run(self.actor, observations)
        action, density = self.act(seen.output, noise)
        inner = self.seen(self.critic, observations, action)
        values = inner.output.view(len(self.actor), 2, -1)
        smaller = torch.nn.functional.one_hot(values.argmin(1), 2).to(action.dtype).transpose(1, 2)
        slope = inner.input_vjp(smaller.reshape(inner.output.shape))
        slope = slope.view(len(self.actor), 2, *slope.shape[1:]).sum(1)[..., -self.policy.action_dim :]
        pull = slope * (1.0 - action.square())
        weight, share = self.log_alpha.exp().unsqueeze(-1), 1.0 / observations.shape[1]
        moved = noise * self.policy.split(self.actor)[1].exp().unsqueeze(1)
        g_mean = (2.0 * weight * action - pull) * share
        g_std = ((weight * (2.0 * action * moved - 1.0) - pull * moved) * share).sum(1)
        return torch.cat([seen.vjp(g_mean), g_std], 1), density.mean(-1)

    def step(
        self, rows: Rows, reward: Tensor, discount: Tensor, noise: Tensor, config: TrainConfig, acts: bool
    ) -> tuple[Tensor, Tensor]:
        """One gradient step of critics, actor, alpha and copies; the critics' loss and mean log density `(P,)`.

        Args:
            rows: Rows `(P, N, ..)`.
            reward, discount: Of each, `(P, N)`.
            noise: Standard normal draws `(2, P, N, A)`, for the next and for the present action.
            config: Rates (`soft_..`).
            acts: Actor and alpha learn too, and not the critics alone.
        """
        ahead, now = noise
        gradient, loss = self.critic_gradient(
            rows.observations, rows.actions, self.targets(rows, reward, discount, ahead)
        )
        self.critic_adam.step_(self.critic, gradient, config.soft_rate)
        gradient, density = self.actor_gradient(rows.observations, now)
        if acts:
            self.actor_adam.step_(self.actor, gradient, config.soft_rate)
            self.actor.copy_(self.policy.project(self.actor))
            missing = (self.policy.action_dim - density).unsqueeze(-1)  # -(mean log pi + H)
            self.alpha_adam.step_(self.log_alpha, missing, config.soft_rate)
        self.target.lerp_(self.critic, config.soft_tau)
        return loss, density


# -- in the training loop ----------------------------------------------------------------------------------------------


def critic_shape(observation_dim: int, action_dim: int, hidden: int) -> TanhMLP:
    """Shape of each of the two critics, Q(s, a)."""
    return TanhMLP((observation_dim + action_dim, hidden, hidden, 1))


def start(config: TrainConfig, shapes: Shapes, actor: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """First parameters of the critics side by side `(P, 2 m)`, and what is carried along, by name.

    `target` is the critics' copies, `log_alpha (P, 1)`; `actor_..` and `alpha_..` are Adam's moments of the actor and
    of log alpha; `replay (P, capacity, W)` is the buffer and `filled (P, 1)` the rows ever written to it.
    """
    streams = [generator(config.seed, "online-critic", name, number) for name in names for number in (1, 2)]
    critic = shapes.critic.initial(streams).view(len(names), -1)
    log_alpha = torch.full((len(names), 1), config.soft_alpha).log()
    moments = (Adam.zeros(value) for value in (actor, critic, log_alpha))
    tensors = (actor, critic, critic.clone(), log_alpha)
    learner = SoftLearner(shapes.actor, shapes.critic, *tensors, *moments).carried()
    width = 2 * shapes.actor.sizes[0] + shapes.actor.action_dim + 4
    learner["replay"] = torch.zeros(len(names), config.soft_capacity, width)
    return critic, learner | {"filled": torch.zeros(len(names), 1, dtype=torch.int64)}


def _learner(shapes: Shapes, state: TrainState, rows: slice) -> SoftLearner:
    """The learner of the policies `rows`: copies, but for the critics' moments, which are those of the state."""
    kept = {name: value[rows].clone() for name, value in state.learner.items() if name not in ("replay", "filled")}
    moments = Adam.of(kept, "actor_"), state.optimizer.rows(rows), Adam.of(kept, "alpha_")
    tensors = state.actor[rows].clone(), state.critic[rows].clone(), kept["target"], kept["log_alpha"]
    return SoftLearner(shapes.actor, shapes.critic, *tensors, *moments)


def update(group: Group, batch: Collected) -> dict[str, Tensor]:
    """One update of the policies of `group`, in place; the log's numbers `(P,)`.

    They are `value_loss`, `alpha`, `entropy` (-mean log pi, of the actions after squashing), and `kl` of the
    policies before and after on the new episodes.
    """
    config, shapes, state, rows = group.config, group.shapes, group.state, group.rows
    old = state.actor[rows]
    policies = len(old)
    rewards = center_rewards(group, batch)
    if state.update == 0:
        scale = first_scale((rewards,), discounts(batch.dt, config.discount, shapes.reference), batch, policies)
        state.scale[rows] = scale.expand(-1, 2)
    found, valid = rows_of(batch, policies)
    buffer, filled = (state.learner[name][rows] for name in ("replay", "filled"))
    append(buffer, filled, found.packed(), valid)

    learner = _learner(shapes, state, rows)
    streams = [generator(config.seed, "online-replay", name, state.update) for name in group.names]
    harm = state.harm[group.simulators].view(policies, -1)
    member = torch.arange(policies, device=buffer.device).unsqueeze(1)
    for _ in range(config.soft_steps):
        drawn = draw_rows(filled, buffer.shape[1], streams, config.soft_batch).to(buffer.device)
        part = Rows.unpacked(buffer[member, drawn], shapes.actor.sizes[0])
        reward = part.rewards
        if config.center:
            reward = reward + harm.gather(1, part.simulators.long()) * part.dt
        reward = reward / state.scale[rows, :1]
        sizes = (2, config.soft_batch, shapes.actor.action_dim)
        normal = np.stack([rng.standard_normal(sizes, dtype="float32") for rng in streams], 1)
        noise = torch.from_numpy(normal).to(buffer.device)
        shrink = discounts(part.dt, config.discount, shapes.reference)
        loss, density = learner.step(part, reward, shrink, noise, config, state.update >= config.value_warmup)
    weights = valid.to(old.dtype) / valid.sum(-1, keepdim=True).clamp_min(1)
    ends = [(shapes.actor.mean(t, found.observations), shapes.actor.split(t)[1]) for t in (old, learner.actor)]
    numbers = {
        "value_loss": loss,
        "alpha": learner.log_alpha.exp().squeeze(1),
        "entropy": -density,
        "kl": shapes.actor.kl(*ends[0], *ends[1], weights),
    }
    accept(group, learner.actor, learner.critic, learner.carried(), batch.broken)
    return numbers
