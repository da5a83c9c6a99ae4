"""Soft actor-critic for a whole stack of policies at once (Haarnoja et al., 2018, arXiv:1812.05905).

One gradient step is here; what an update of the training loop does with it is in `soft_update`.

With a = tanh(z), z = mu(s) + sigma eps and two critics Q_1, Q_2 with slow copies Q'_1, Q'_2:

    log pi(a|s) = sum_i [ -eps_i^2 / 2 - log sigma_i - log(2 pi) / 2 - log(1 - a_i^2) ]
    y           = r + gamma^(dt / 4.8) (1 - ended) ( min_j Q'_j(s', a') - alpha (log pi(a'|s') + H) ),   a' ~ pi(.|s')
    critics     minimise  mean (Q_j(s, a) - y)^2 / 2
    actor       minimise  mean ( alpha log pi(a|s) - min_j Q_j(s, a) )
    alpha       minimise  -log alpha (mean log pi(a|s) + H),   H = -A, the wanted entropy
    copies      Q' <- (1 - tau) Q' + tau Q

The bonus of a decision is counted from H, so that it is 0 on average at the wanted entropy. From 0, as usual, every
decision costs alpha A then, and an adaptive policy saves by deciding rarely; under fixed timing the difference is a
constant.

The actor is that of the on-policy algorithms (:mod:`medgym_offline.online.gaussian`: sigma does not depend on the
state), so that policies of all algorithms are one kind of file. Gradients are written out; with eps fixed and
q = dQ / da (1 - a^2):

    d/d mu = 2 alpha a - q          d/d log sigma = alpha (2 a sigma eps - 1) - q sigma eps
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.online.gaussian import GaussianActor
from medgym_offline.online.networks import Adam, TanhMLP
from medgym_offline.online.replay import Transitions

__all__ = [
    "SoftLearner",
    "SoftSettings",
    "actor_gradient",
    "critic_gradient",
    "soft_step",
    "soft_targets",
    "twin_values",
]


@dataclass(frozen=True)
class SoftSettings:
    """Settings of soft actor-critic.

    Args:
        steps: Gradient steps per update of the loop.
        batch: Transitions of one step.
        rate: Adam's learning rate of actor, critics and log alpha.
        tau: Share of the critics that their copies take over in each step.
        alpha: Entropy weight at the start.
        capacity: Transitions a policy holds at most.
    """

    steps: int = 20
    batch: int = 256
    rate: float = 1e-3
    tau: float = 0.01
    alpha: float = 0.005
    capacity: int = 50_000


@dataclass
class SoftLearner:
    """What P policies carry along; all are changed in place.

    Args:
        actor: `(P, n)`.
        critic, target: Two critics side by side and their copies, `(P, 2 m)`.
        log_alpha: `(P, 1)`.
        actor_adam, critic_adam, alpha_adam: Moments.
    """

    actor: Tensor
    critic: Tensor
    target: Tensor
    log_alpha: Tensor
    actor_adam: Adam
    critic_adam: Adam
    alpha_adam: Adam


def _twins(critic: Tensor) -> Tensor:
    """`(P, 2 m)` as a stack of 2 P networks."""
    return critic.reshape(2 * critic.shape[0], -1)


def _pairs(observations: Tensor, actions: Tensor) -> Tensor:
    return torch.cat([observations, actions], -1).repeat_interleave(2, 0)


def twin_values(network: TanhMLP, critic: Tensor, observations: Tensor, actions: Tensor) -> Tensor:
    """Both values `(P, 2, N)` of `observations (P, N, d)`, `actions (P, N, A)`."""
    out = network.forward(_twins(critic), _pairs(observations, actions))
    return out.view(critic.shape[0], 2, -1)


def _act(actor: GaussianActor, theta: Tensor, mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Action `(P, N, A)` and its log density `(P, N)`; log(1 - tanh^2 z) in a form that does not cancel."""
    log_std = actor.split(theta)[1].unsqueeze(1)
    z = mean + log_std.exp() * noise
    squash = 2.0 * (math.log(2.0) - z - torch.nn.functional.softplus(-2.0 * z))
    density = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
    return torch.tanh(z), density.sum(-1)


def soft_targets(
    actor: GaussianActor,
    network: TanhMLP,
    learner: SoftLearner,
    rows: Transitions,
    reward: Tensor,
    discount: Tensor,
    noise: Tensor,
) -> Tensor:
    """y `(P, N)` from `reward` and `discount` `(P, N)` and standard normal `noise (P, N, A)`."""
    mean = actor.mean(learner.actor, rows.following)
    action, density = _act(actor, learner.actor, mean, noise)
    bonus = learner.log_alpha.exp() * (actor.action_dim - density)
    ahead = twin_values(network, learner.target, rows.following, action).amin(1) + bonus
    # where, not a product: what follows a terminal is no state.
    return reward + torch.where(rows.ended > 0, torch.zeros_like(ahead), discount * ahead)


def critic_gradient(
    network: TanhMLP, critic: Tensor, observations: Tensor, actions: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient `(P, 2 m)` of the critics' loss, and the loss `(P,)`, mean of the two."""
    twins = _twins(critic)
    activations = network.activations(twins, _pairs(observations, actions))
    error = activations[-1] - targets.repeat_interleave(2, 0).unsqueeze(-1)
    gradient = network.vjp(twins, activations, network.slopes(activations), error / targets.shape[-1])
    return gradient.view_as(critic), 0.5 * error.square().mean((1, 2)).view(-1, 2).mean(1)


def actor_gradient(
    actor: GaussianActor,
    theta: Tensor,
    network: TanhMLP,
    critic: Tensor,
    observations: Tensor,
    noise: Tensor,
    alpha: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradient `(P, n)` of the actor's loss at `alpha (P, 1)`, and the mean log density `(P,)`."""
    mean_net, log_std = actor.split(theta)
    activations = actor.network.activations(mean_net, observations)
    action, density = _act(actor, theta, activations[-1], noise)
    twins = _twins(critic)
    inner = network.activations(twins, _pairs(observations, action))
    values = inner[-1].view(theta.shape[0], 2, -1)
    smaller = torch.nn.functional.one_hot(values.argmin(1), 2).to(theta.dtype).transpose(1, 2)
    slope = network.input_vjp(twins, network.slopes(inner), smaller.reshape(inner[-1].shape))
    slope = slope.view(theta.shape[0], 2, *slope.shape[1:]).sum(1)[..., -actor.action_dim :]
    pull = slope * (1.0 - action.square())
    weight = alpha.unsqueeze(-1)
    share = 1.0 / observations.shape[1]
    moved = noise * log_std.exp().unsqueeze(1)
    g_mean = (2.0 * weight * action - pull) * share
    g_std = ((weight * (2.0 * action * moved - 1.0) - pull * moved) * share).sum(1)
    back = actor.network.vjp(mean_net, activations, actor.network.slopes(activations), g_mean)
    return torch.cat([back, g_std], 1), density.mean(-1)


def soft_step(
    actor: GaussianActor,
    network: TanhMLP,
    learner: SoftLearner,
    rows: Transitions,
    reward: Tensor,
    discount: Tensor,
    noise: Tensor,
    settings: SoftSettings,
    acts: bool,
) -> tuple[Tensor, Tensor]:
    """One gradient step of critics, actor, alpha and copies; returns the critics' loss and mean log density `(P,)`.

    Args:
        actor, network: Shapes of policy and critic.
        learner: Changed in place.
        rows: Transitions `(P, N, ..)`.
        reward, discount: Of each, `(P, N)`.
        noise: Standard normal draws `(2, P, N, A)`, for the next and for the present action.
        settings: Rates.
        acts: Actor and alpha learn too, and not the critics alone.
    """
    target = soft_targets(actor, network, learner, rows, reward, discount, noise[0])
    gradient, loss = critic_gradient(network, learner.critic, rows.observations, rows.actions, target)
    learner.critic_adam.step_(learner.critic, gradient, settings.rate)
    alpha = learner.log_alpha.exp()
    gradient, density = actor_gradient(
        actor, learner.actor, network, learner.critic, rows.observations, noise[1], alpha
    )
    if acts:
        learner.actor_adam.step_(learner.actor, gradient, settings.rate)
        learner.actor.copy_(actor.project(learner.actor))
        missing = (actor.action_dim - density).unsqueeze(-1)  # -(mean log pi + H)
        learner.alpha_adam.step_(learner.log_alpha, missing, settings.rate)
    learner.target.lerp_(learner.critic, settings.tau)
    return loss, density
