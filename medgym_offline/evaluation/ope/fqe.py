"""Fitted Q evaluation of a perturbed policy: P networks at once.

    L(phi) = E_D [ ( r + gamma**dt (1 - end) Qbar(s', a') - Q_phi(s, a) )^2 ],    a' ~ pi(.|s'),    V(s) = E_pi Q(s, a)

Qbar follows Q slowly; both see remaining time and decisions, so the horizon is part of the state. The value of a policy
is the mean of V over the first states of the data. Source: Le, Voloshin and Yue 2019; Voloshin et al. 2021.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from medgym_offline.config import configuration
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import MedGymError
from medgym_offline.evaluation.ope.estimators import Logged, PerturbedPolicy
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import BatchSampler, StackedData, stack_transitions
from medgym_offline.seeds import derive_seed, torch_generator
from medgym_offline.stack import StackedMLP, clip_gradients

__all__ = ["FqeConfig", "fit_fqe"]


_Count = Annotated[int, Field(ge=1)]
_Above0 = Annotated[float, Field(gt=0)]


@configuration("fitted Q evaluation")
class FqeConfig:
    """Settings.

    Attributes:
        updates, batch: Gradient steps, and transitions per patient and step.
        hidden: Width of the two hidden layers.
        lr: Adam's step size, falling to a tenth over the last half.
        tau: Step of Qbar per update.
        samples: Actions drawn per state for V.
        clip: Largest norm of a patient's gradient.
    """

    updates: _Count = 2000
    batch: _Count = 128
    hidden: _Count = 64
    lr: _Above0 = 1e-3
    tau: Annotated[float, Field(gt=0, le=1)] = 0.02
    samples: _Count = 16
    clip: _Above0 = 10.0


@dataclass(frozen=True)
class FqeValues:
    """What the fitted networks say of the logged decisions, in units of reward, (P, E, K) float64 each.

    Attributes:
        q: Of the logged state and action.
        v, v_next: Of the state before and after; `v_next` is 0 at the end of an episode.
        value: Of the policy, (P,): mean of V over first states.
    """

    q: Tensor
    v: Tensor
    v_next: Tensor
    value: Tensor


def fit_fqe(
    transitions: Transitions,
    logged: Logged,
    policy: PerturbedPolicy,
    gamma: float = 1.0,
    seed: int = 0,
    config: FqeConfig | None = None,
) -> FqeValues:
    """Fit one Q function per patient of `logged` to the rows of `transitions`.

    A patient's result depends on its own rows and (seed, patient id) alone, to float32 rounding.

    Args:
        transitions: The dataset that `logged` is the grid of.
        logged: The same rows as a grid.
        policy: To evaluate, for the same patients in the same order.
        gamma: Discount per unit of time, in (0, 1].
        seed: Root seed.
        config: Settings.

    Raises:
        MedGymError: The fit is not finite.
    """
    config = config or FqeConfig()
    # A patient's own scale: the rows at hand may be a few patients', and nobody's estimate depends on the others.
    reference = transitions.definition.process.reference_interval
    scale = OfflineConfig(gamma=gamma**reference, discount="elapsed", state_scaling="learner")
    data = stack_transitions(transitions, "ind", scale, logged.patients)
    following = policy.mean(_rows(logged.next_observations, logged, data))
    if following is not None:
        # Carried at the end of each row, so that the sampler draws them with the next states.
        data = dataclasses.replace(data, rows=torch.cat([data.rows, following], -1))
    sizes = (data.state_dim + data.action_dim, config.hidden, config.hidden, 1)
    seeds = [derive_seed(seed, "fqe-networks", key) >> 2 for key in data.keys]
    net, slow = (StackedMLP(len(data), sizes, "silu", seeds=seeds, output_gain=0.1) for _ in range(2))
    slow.requires_grad_(False)
    parameters: list[Tensor] = list(net.parameters())
    optimizer = torch.optim.Adam(parameters, lr=config.lr, foreach=True)
    sampler = BatchSampler(data, derive_seed(seed, "fqe"), config.batch, normals=1, uniforms=1)
    d = data.state_dim
    for update in range(config.updates):
        if 2 * update >= config.updates:
            share = 2.0 * update / config.updates - 1.0
            optimizer.param_groups[0]["lr"] = config.lr * 0.1**share
        batch = sampler.draw()
        with torch.no_grad():
            state, mean = batch.next_state[..., :d], batch.next_state[..., d:] if following is not None else None
            action = policy.sample(mean, batch.normal[:, 0], batch.uniform[:, 0])
            target = batch.reward + batch.discount * slow(torch.cat([state, action], -1)).squeeze(-1)
        q = net(torch.cat([batch.state, batch.action], -1)).squeeze(-1)
        loss = (q - target).square().mean(1).sum()
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            parameter.grad = gradient
        clip_gradients(parameters, config.clip)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(slow.parameters()), parameters, config.tau)
    return _values(slow, data, logged, policy, seed, config)


def _rows(values: Tensor, logged: Logged, data: StackedData) -> Tensor:
    """(P, E, K, ...) -> (P, N, ...): the rows of each patient in the order of `data`, padded with zeros."""
    rows = values.new_zeros(len(data), data.rows.shape[1], values.shape[-1])
    for p, valid in enumerate(logged.valid):
        rows[p, : int(data.counts[p])] = values[p][valid]
    return rows


@torch.no_grad()
def _values(
    net: StackedMLP, data: StackedData, logged: Logged, policy: PerturbedPolicy, seed: int, config: FqeConfig
) -> FqeValues:
    shape = logged.valid.shape

    def state_of(observations: Tensor) -> Tensor:
        return (observations.flatten(1, 2) - data.mean) / data.scale

    def q_of(state: Tensor, action: Tensor) -> Tensor:
        q = net(torch.cat([state, action], -1)).squeeze(-1) * data.reward_scale[:, None]
        return q.double().view(shape) * logged.valid

    def v_of(observations: Tensor, purpose: str) -> Tensor:
        state, mean = state_of(observations), policy.mean(observations.flatten(1, 2))
        sources = [torch_generator(seed, f"fqe-{purpose}", key) for key in data.keys]
        size = (state.shape[1], data.action_dim)
        total = torch.zeros(shape, dtype=torch.float64)
        for _ in range(config.samples):
            normal = torch.stack([torch.randn(size, generator=g) for g in sources])
            uniform = torch.stack([torch.rand(size, generator=g) for g in sources])
            total += q_of(state, policy.sample(mean, normal, 2.0 * uniform - 1.0))
        return total / config.samples

    goes_on = torch.zeros_like(logged.valid)
    goes_on[..., :-1] = logged.valid[..., 1:]
    q = q_of(state_of(logged.observations), logged.actions.flatten(1, 2))
    v = v_of(logged.observations, "values")
    v_next = torch.zeros_like(v)
    v_next[..., :-1] = v[..., 1:]  # the next state of a decision is the state of the one after it
    value = v[:, :, 0].mean(1)
    if not bool(torch.isfinite(value).all()):
        raise MedGymError("FQE did not stay finite; lower its learning rate, or check the dataset's rewards")
    return FqeValues(q, v, v_next * goes_on, value)
