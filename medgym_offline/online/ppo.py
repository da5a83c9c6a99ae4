"""Proximal policy optimization for a whole stack of policies at once (Schulman et al., 2017, arXiv:1707.06347, eq. 7).

    maximize  L(theta) = mean_s min( r A, clip(r, 1 - c, 1 + c) A ) + beta H(theta),     r = pi_theta(a|s) / pi_old(a|s)

by Adam on minibatches, several passes over the rows of one rollout. H is the entropy of the Gaussian before squashing,
sum_i log sigma_i + const: that of the squashed one has no closed form. With zeta = (z - mu) / sigma and z the action
before squashing, the gradient is written out:

    dL / d mu_i        = mean_s[ on r A zeta_i / sigma_i ]            on = 0 where A > 0, r > 1 + c or A < 0, r < 1 - c
    dL / d log sigma_i = mean_s[ on r A (zeta_i^2 - 1) ] + beta       (there the clipped branch is constant), else 1

The order of the rows comes from a generator per (seed, policy, update), and a policy whose rows are used up makes no
step while others of its stack still do, so its result does not depend on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medgym_offline.online import learner
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import Group, PolicyBatch, Shapes, critic_shape, on_policy_update
from medgym_offline.online.networks import Adam, GaussianActor, Streams
from medgym_offline.online.rollouts import Collected
from medgym_offline.seeds import generator

__all__ = ["critic_shape", "minibatch_rows", "proximal_gradient", "proximal_rows", "proximal_step", "start", "update"]

LOG_RATIO_MAX = 20.0
"""Log ratios are clamped to this: exp() stays finite, and with it one row cannot end a patient's training."""


@dataclass(frozen=True)
class ProximalRows:
    """Rows as one gradient sees them; leading axes `(P, N)`, or `(M, P, N)` for M minibatches.

    Args:
        observations: `(P, N, d)`.
        draws: Actions before squashing, `(P, N, A)`.
        old: Log density of the draws under the policy that acted, without its constant, `(P, N)`.
        advantages: `(P, N)`.
        weights: `(P, N)`, summing to 1 per patient, 0 for padding.
    """

    observations: Tensor
    draws: Tensor
    old: Tensor
    advantages: Tensor
    weights: Tensor

    def __getitem__(self, index: object) -> ProximalRows:
        return ProximalRows(*(value[index] for value in vars(self).values()))


def minibatch_rows(valid: Tensor, generators: Streams, minibatch: int) -> tuple[Tensor, Tensor]:
    """One pass over each policy's valid rows in random order, cut into parts of nearly equal size.

    Args:
        valid: Which rows exist, `(P, N)` bool.
        generators: One per policy; each draws one permutation of its own valid rows.
        minibatch: Rows of a part at most.

    Returns:
        `(index, weights)`, both `(M, P, m)`: row numbers, and the weight of each, which sum to 1 within a part.
        Padding has weight 0; a policy with fewer than M parts has parts of weight 0 at the end.
    """
    orders = []
    for row, rng in zip(valid.cpu().numpy(), generators):
        rows = rng.permutation(np.flatnonzero(row))
        count = -(-len(rows) // minibatch)
        orders.append([rows[start::count] for start in range(count)])
    longest = max((len(parts) for parts in orders), default=0)
    widest = max((len(part) for parts in orders for part in parts), default=0)
    index = np.zeros((longest, len(orders), widest), np.int64)
    weights = np.zeros(index.shape, np.float64)
    for p, parts in enumerate(orders):
        for m, part in enumerate(parts):
            index[m, p, : len(part)] = part
            weights[m, p, : len(part)] = 1.0 / len(part)
    return torch.from_numpy(index).to(valid.device), torch.from_numpy(weights).to(valid.device)


def proximal_rows(actor: GaussianActor, theta: Tensor, batch: PolicyBatch) -> ProximalRows:
    """The rows of `batch`, whose actions the policy `theta (P, n)` took."""
    log_std = actor.split(theta)[1].unsqueeze(1)
    draws = actor.mean(theta, batch.observations) + log_std.exp() * batch.noise
    old = -(0.5 * batch.noise.square() + log_std).sum(-1)
    return ProximalRows(batch.observations, draws, old, batch.advantages, batch.weights)


def _ratio(log_std: Tensor, scaled: Tensor, old: Tensor) -> Tensor:
    return (-(0.5 * scaled.square() + log_std.unsqueeze(1)).sum(-1) - old).clamp_max(LOG_RATIO_MAX).exp()


def _held(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Where the clipped branch is the smaller one: the ratio has gone far enough in the direction that pays."""
    return ((advantages > 0) & (ratio > 1.0 + clip)) | ((advantages < 0) & (ratio < 1.0 - clip))


def proximal_gradient(actor: GaussianActor, theta: Tensor, rows: ProximalRows, clip: float, entropy: float) -> Tensor:
    """Gradient `(P, n)` of the clipped surrogate plus `entropy` times the entropy, at `theta (P, n)`."""
    log_std = actor.split(theta)[1]
    seen = actor.run(theta, rows.observations)
    scaled = (rows.draws - seen.output) * (-log_std).exp().unsqueeze(1)
    ratio = _ratio(log_std, scaled, rows.old)
    pull = ratio * rows.advantages * rows.weights
    pull = torch.where(_held(ratio, rows.advantages, clip), torch.zeros_like(pull), pull)
    gradient = actor.policy_gradient(theta, seen, scaled, pull)
    actor.split(gradient)[1].add_(entropy)
    return gradient


def proximal_step(
    config: TrainConfig, actor: GaussianActor, theta: Tensor, batch: PolicyBatch, optimizer: Adam, generators: Streams
) -> tuple[Tensor, dict[str, Tensor]]:
    """All passes of one update for every policy of the stack, from the policy `theta (P, n)` that acted.

    Args:
        config: Clip, passes, minibatch, entropy, rate.
        actor: Shape of the policies.
        theta: Parameters; not changed.
        batch: Rows of the rollout.
        optimizer: Adam moments of the policies, changed in place.
        generators: Order of the rows, one per policy.

    Returns:
        New parameters, and `kl`, `gain` (of the clipped surrogate) and `clipped` (share of rows), all `(P,)`.
    """
    rows = proximal_rows(actor, theta, batch)
    start, theta = theta, theta.clone()
    policies = torch.arange(theta.shape[0], device=theta.device).view(1, -1, 1)
    for _ in range(config.policy_epochs):
        index, weights = minibatch_rows(batch.weights > 0, generators, config.minibatch)
        weights = weights.to(theta.dtype)
        chosen = replace(rows[policies, index], weights=weights)
        active = weights.sum(-1) > 0
        full = active.all(-1).tolist()
        for m in range(len(index)):
            gradient = proximal_gradient(actor, theta, chosen[m], config.clip, config.entropy)
            optimizer.step_(theta, -gradient, config.policy_rate, active=None if full[m] else active[m])
            theta = actor.project(theta)
    log_std = actor.split(theta)[1]
    mean = actor.mean(theta, batch.observations)
    ratio = _ratio(log_std, (rows.draws - mean) * (-log_std).exp().unsqueeze(1), rows.old)
    plain, held = ratio * rows.advantages, ratio.clamp(1.0 - config.clip, 1.0 + config.clip) * rows.advantages
    gain = ((torch.minimum(plain, held) - rows.advantages) * rows.weights).sum(-1)
    clipped = (_held(ratio, rows.advantages, config.clip).to(theta.dtype) * rows.weights).sum(-1)
    old_mean = actor.mean(start, batch.observations)
    kl = actor.kl(old_mean, actor.split(start)[1], mean, log_std, batch.weights)
    return theta, {"kl": kl, "gain": gain, "clipped": clipped}


def start(config: TrainConfig, shapes: Shapes, actor: Tensor, names: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """First parameters of the critic `(P, m)`, and Adam's moments of `actor (P, n)`."""
    return learner.start(config, shapes, actor, names)[0], Adam.zeros(actor).named()


def update(group: Group, batch: Collected) -> dict[str, Tensor]:
    """One update of the policies of `group`, in place; the log's numbers `(P,)`."""
    config, state = group.config, group.state

    def step(theta: Tensor, policy: PolicyBatch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        moments = Adam.of({name: value[group.rows].clone() for name, value in state.learner.items()})
        order = [generator(config.seed, "online-minibatches", name, state.update) for name in group.names]
        return *proximal_step(config, group.shapes.actor, theta, policy, moments, order), moments.named()

    return on_policy_update(group, batch, step, ("kl", "gain", "clipped"))
