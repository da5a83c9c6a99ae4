"""One update of a stack of on-policy learners: from the episodes of its simulators to better parameters.

This is where algorithms differ: what advantage they use, and what step they take with it. A further on-policy algorithm
is a step function like :func:`medgym_offline.online.trpo.trust_region_step` and a branch in :func:`improve`. One with a
replay buffer has an update of its own, of the same form (:mod:`medgym_offline.online.soft_update`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medgym_offline.errors import MedGymError
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.critic import fit_critic, return_scale
from medgym_offline.online.gae import advantages, centred, discounts, standardise
from medgym_offline.online.gaussian import GaussianActor
from medgym_offline.online.lagrange import penalised, update_multiplier
from medgym_offline.online.networks import Adam, TanhMLP
from medgym_offline.online.ppo import proximal_step
from medgym_offline.online.rollouts import Collected
from medgym_offline.online.state import TrainState
from medgym_offline.online.trpo import PolicyBatch, trust_region_step
from medgym_offline.seeds import generator

__all__ = ["Shapes", "accept", "centre_rewards", "episode_numbers", "first_scale", "improve"]


@dataclass(frozen=True)
class Shapes:
    """Networks of a run (the critic of soft actor-critic is two of the shape), and the time that discounts are per."""

    actor: GaussianActor
    critic: TanhMLP
    reference: float


def episode_numbers(batch: Collected) -> dict[str, Tensor]:
    """Per simulator `(S,)`: undiscounted return, cost per decision, decisions used, first and last interval."""
    used = batch.valid.sum((1, 2)).clamp_min(1.0)
    count = batch.valid.sum(1)
    last = (count.long() - 1).clamp_min(0).unsqueeze(1)
    return {
        "return": batch.rewards.sum(1).mean(-1),
        "cost": batch.costs.sum((1, 2)) / used,
        "decisions": count.mean(-1),
        "first": batch.dt[:, 0].mean(-1),
        "last": batch.dt.gather(1, last).squeeze(1).mean(-1),
    }


def centre_rewards(config: TrainConfig, state: TrainState, simulators: slice, batch: Collected) -> Tensor:
    """Bring rho, the mean harm per hour of `simulators`, up to date in `state`; the rewards around it `(S, K, B)`."""
    hours = batch.dt.sum((1, 2))
    now = torch.where(hours > 0, -batch.rewards.sum((1, 2)) / hours.clamp_min(1e-6), state.harm[simulators])
    rate = 1.0 if state.update == 0 else config.centre_rate
    state.harm[simulators] += rate * (now - state.harm[simulators])
    return centred(batch.rewards, batch.dt, state.harm[simulators]) if config.centre else batch.rewards


def first_scale(signals: Sequence[Tensor], discount: Tensor, batch: Collected, policies: int) -> Tensor:
    """Root mean square `(P, signals)` of the discounted sums to come of each signal `(S, K, B)`."""
    weights = batch.valid.reshape(policies, -1)
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1.0)
    ahead = [advantages(signal, torch.zeros_like(signal), discount, batch.valid, 1.0)[1] for signal in signals]
    return return_scale(torch.stack([value.reshape(policies, -1) for value in ahead], -1), weights)


def improve(
    config: TrainConfig,
    shapes: Shapes,
    state: TrainState,
    rows: slice,
    simulators: slice,
    batch: Collected,
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Update the policies `rows` of `state` in place from episodes of `simulators`; returns their numbers `(P,)`.

    `names` are those of the policies, to which their random streams belong.
    """
    theta, critic = state.actor[rows], state.critic[rows]
    policies = theta.shape[0]
    optimiser = Adam(state.optimiser.mean[rows], state.optimiser.square[rows], state.optimiser.steps[rows])

    def flat(value: Tensor) -> Tensor:
        return value.reshape(policies, -1, *value.shape[3:])

    rewards = centre_rewards(config, state, simulators, batch)
    observations, valid = flat(batch.observations), flat(batch.valid)
    weights = valid / valid.sum(-1, keepdim=True).clamp_min(1.0)
    shrink = discounts(batch.dt, config.discount, shapes.reference)
    signals = (rewards, batch.costs)
    scale = state.scale[rows]
    if state.update == 0:
        scale.copy_(first_scale(signals, shrink, batch, policies))
    values = (shapes.critic.forward(critic, observations) * scale.unsqueeze(1)).view(*batch.valid.shape, 2)
    found = [advantages(signal, values[..., i], shrink, batch.valid, config.gae) for i, signal in enumerate(signals)]
    advantage = standardise(flat(found[0][0]), weights)
    cost = (flat(batch.costs) * weights).sum(-1)
    if config.constrained:
        multiplier = update_multiplier(
            state.multiplier[rows], cost, config.cost_limit, config.multiplier_rate, config.multiplier_max
        )
        state.multiplier[rows] = multiplier
        advantage = penalised(advantage, standardise(flat(found[1][0]), weights), multiplier)
        advantage = standardise(advantage, weights)

    policy = PolicyBatch(observations, flat(batch.noise), advantage, weights)
    learner = {name: value[rows].clone() for name, value in state.learner.items()}
    improved, numbers = _policy_step(config, shapes, state.update, theta, policy, learner, names)
    targets = torch.stack([flat(f[1]) for f in found], -1) / scale.unsqueeze(1)
    fitted = critic.clone()
    loss = fit_critic(
        shapes.critic,
        fitted,
        optimiser,
        observations,
        targets,
        weights,
        epochs=config.value_epochs,
        minibatches=config.value_minibatches,
        rate=config.value_rate,
    )
    accept(config, state, rows, simulators, improved, fitted, learner, batch.broken)
    return numbers | {"multiplier": state.multiplier[rows].clone(), "value_loss": loss}


def _policy_step(
    config: TrainConfig,
    shapes: Shapes,
    update: int,
    theta: Tensor,
    batch: PolicyBatch,
    learner: dict[str, Tensor],
    names: Sequence[str],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The algorithm's own step: new parameters `(P, n)` and its numbers `(P,)`; `learner` is changed in place."""
    extra = "accepted" if config.base == "trpo" else "clipped"
    if update < config.value_warmup:
        return theta, {name: theta.new_zeros(theta.shape[0]) for name in ("kl", "gain", extra)}
    if config.base == "trpo":
        region = trust_region_step(shapes.actor, theta, batch, config.trust_region(update))
        return region.theta, {"kl": region.kl, "gain": region.gain, "accepted": region.accepted.float()}
    order = [generator(config.seed, "online-minibatches", name, update) for name in names]
    moments = Adam(learner["mean"], learner["square"], learner["steps"])
    step = proximal_step(shapes.actor, theta, batch, moments, order, config.proximal)
    return step.theta, {"kl": step.kl, "gain": step.gain, "clipped": step.clipped}


def accept(
    config: TrainConfig,
    state: TrainState,
    rows: slice,
    simulators: slice,
    actor: Tensor,
    critic: Tensor,
    learner: dict[str, Tensor],
    broken: Tensor,
) -> None:
    """Take over new parameters where all is finite; a patient where it is not keeps its last good ones for ever."""
    finite = torch.isfinite(actor).all(-1) & torch.isfinite(critic).all(-1)
    stopped = state.stopped[simulators]
    if config.shared:
        if not bool(finite.all()):
            raise MedGymError(
                f"training of the shared policy met a non-finite number at update {state.update}; "
                "lower the learning rate or the radius, or check the simulators"
            )
        failing = broken
    else:
        failing = broken | ~finite
    stopped[failing & (stopped < 0)] = state.update
    go = finite if config.shared else stopped < 0
    state.actor[rows] = torch.where(go.unsqueeze(-1), actor, state.actor[rows])
    for name, value in learner.items():
        state.learner[name][rows] = torch.where(go.unsqueeze(-1), value, state.learner[name][rows])
    state.critic[rows] = torch.where(go.unsqueeze(-1), critic, state.critic[rows])
