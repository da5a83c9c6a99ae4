"""Trust-region policy optimization for a whole stack of policies at once (Schulman et al., 2015, arXiv:1502.05477).

    maximize  L(theta) = mean_s[ ratio_theta(a|s) A ]   subject to   mean_s KL(old || theta) <= radius

    x = F^-1 g              conjugate gradients on Fisher-vector products, (F + damping I) x = g
    beta = 0.9 sqrt(2 radius / x^T F x)
    theta <- theta + 0.5^j beta x    for the first j < 10 with L improved and KL <= radius

Patients share every matrix product but nothing else: step length, convergence and acceptance are per patient, under
masks. Conjugate gradients see F on every `fisher_stride`-th row. The step length and the KL of the line search use
all rows: the few rows underrate the curvature of the direction fitted to them. KL of a step that is exactly `radius`
in the quadratic model is 1-15 % more in truth; the factor 0.9 keeps the first candidate from being halved, to a
quarter of the radius, for those few percent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import Group, PolicyBatch, critic_shape, on_policy_update, start
from medgym_offline.online.networks import GaussianActor
from medgym_offline.online.rollouts import Collected

__all__ = ["conjugate_gradients", "critic_shape", "start", "trust_region_step", "update"]

LOGGED = ("kl", "gain", "accepted")
CONVERGED = 1e-10
"""Squared residual of conjugate gradients below which a patient is left alone."""
MARGIN = 0.9
"""Share of the quadratic model's longest step that the first candidate takes."""


def conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor, iterations: int) -> Tensor:
    """Solve `A x = target` per patient for symmetric positive definite A given by `product`.

    Args:
        product: `v (P, n) -> A v (P, n)`.
        target: `(P, n)`.
        iterations: At most this many products.

    Returns:
        `x (P, n)`.
    """
    solution, residual, direction = torch.zeros_like(target), target.clone(), target.clone()
    size = residual.square().sum(-1, keepdim=True)
    for _ in range(iterations):
        active = size > CONVERGED
        if not bool(active.any()):
            break
        image = product(direction)
        curvature = (direction * image).sum(-1, keepdim=True)
        length = torch.where(active & (curvature > 0), size / curvature, torch.zeros_like(size))
        solution = solution + length * direction
        residual = residual - length * image
        renewed = residual.square().sum(-1, keepdim=True)
        direction = residual + torch.where(active, renewed / size.clamp_min(1e-38), torch.zeros_like(size)) * direction
        size = torch.where(active, renewed, size)
    return solution


def trust_region_step(
    config: TrainConfig, actor: GaussianActor, theta: Tensor, batch: PolicyBatch
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step for every patient of the stack from `theta (P, n)`; a patient with no acceptable candidate stays.

    Returns the new parameters, and `kl`, `gain` (of the surrogate) and `accepted` (1 or 0), all `(P,)`.
    The log standard deviations are projected into their range in every candidate, so the KL that is checked is that
    of the policy that results.
    """
    old_log_std = actor.split(theta)[1]
    seen = actor.run(theta, batch.observations)
    old_mean = seen.output
    weighted = batch.advantages * batch.weights
    gradient = actor.policy_gradient(theta, seen, batch.noise, weighted)

    rows = slice(None, None, config.fisher_stride)
    few = batch.weights[:, rows]
    precision = actor.precision(theta, few / few.sum(-1, keepdim=True).clamp_min(1e-12))
    part = actor.run(theta, batch.observations[:, rows].contiguous())

    def product(vector: Tensor) -> Tensor:
        return actor.fisher_product(part, precision, vector).add_(vector, alpha=config.damping)

    direction = conjugate_gradients(product, gradient, config.iterations)
    curvature = actor.curvature(theta, seen, batch.weights, direction).unsqueeze(-1)
    length = MARGIN * (2.0 * config.radius / curvature).sqrt()
    step = direction * torch.where(curvature > 0, length, torch.zeros_like(length))

    before = weighted.sum(-1)
    found, numbers = theta.clone(), {name: torch.zeros_like(before) for name in LOGGED}
    pending = torch.arange(theta.shape[0], device=theta.device)
    for halvings in range(config.line_search):
        # Only patients still searching are evaluated: usually a few after the first candidate.
        every = len(pending) == theta.shape[0]

        def pick(value: Tensor, index: Tensor | None = None if every else pending) -> Tensor:
            return value if index is None else value.index_select(0, index)

        candidate = actor.project(pick(theta) + 0.5**halvings * pick(step))
        mean = actor.mean(candidate, pick(batch.observations))
        log_std, start = actor.split(candidate)[1], pick(old_log_std)
        ratio = actor.log_ratio(mean, log_std, pick(batch.noise), pick(old_mean), start).exp()
        gain = (ratio * pick(weighted)).sum(-1) - pick(before)
        kl = actor.kl(pick(old_mean), start, mean, log_std, pick(batch.weights))
        good = (gain > 0) & (kl <= config.radius) & torch.isfinite(candidate).all(-1)
        found[pending[good]] = candidate[good]
        for name, value in (("kl", kl), ("gain", gain), ("accepted", torch.ones_like(kl))):
            numbers[name][pending[good]] = value[good]
        pending = pending[~good]
        if not len(pending):
            break
    return found, numbers


def update(group: Group, batch: Collected) -> dict[str, Tensor]:
    """One update of the policies of `group`, in place; the log's numbers `(P,)`."""
    fallen = 1.0 - (1.0 - group.config.radius_fall) * group.state.update / group.config.updates
    config = replace(group.config, radius=group.config.radius * fallen)

    def step(theta: Tensor, policy: PolicyBatch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        return *trust_region_step(config, group.shapes.actor, theta, policy), {}

    return on_policy_update(group, batch, step, LOGGED)
