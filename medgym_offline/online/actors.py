"""Between a flat stack of training parameters and the policy object that is saved and evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.errors import PolicyError
from medgym_offline.online.gaussian import GaussianActor

if TYPE_CHECKING:
    from medgym_offline.policies.actor import StackedActor

__all__ = ["actor_parameters", "stacked_actor"]


def stacked_actor(
    shape: GaussianActor,
    theta: Tensor,
    patients: Sequence[str] | None,
    decisions: int,
    provenance: Mapping[str, Any] | None = None,
    disease: str = DEFAULT,
) -> StackedActor:
    """The policy with parameters `theta (P, n)`; `patients` None makes it shared (P = 1)."""
    from medgym_offline.policies.actor import StackedActor
    from medgym_offline.stack import StackedLinear, StackedMLP

    network, log_std = shape.split(theta.detach().cpu())
    net = StackedMLP(theta.shape[0], shape.sizes, activation="tanh")
    with torch.no_grad():
        for layer, (weight, bias) in zip(net.layers, shape.network.layers(network)):
            assert isinstance(layer, StackedLinear)
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return StackedActor(net, patients, decisions, log_std.clone(), provenance, disease=disease)


def actor_parameters(
    actor: StackedActor, shape: GaussianActor, patients: Sequence[str], shared: bool, default_std: float
) -> Tensor:
    """Flat parameters `(P, n)` of `actor` for `patients` in that order; a shared actor is copied to each.

    Args:
        actor: The policies to start from.
        shape: What training expects.
        patients: Ids, or one entry when `shared`.
        shared: Train one policy for all; `actor` must then be shared too.
        default_std: Spread before squashing where `actor` has none.

    Raises:
        PolicyError: If the sizes differ, or `shared` and the actor is not.
    """
    if tuple(actor.net.sizes) != shape.sizes or actor.net.activation != "tanh":
        raise PolicyError(
            f"the initial policy is a {actor.net.activation} network {tuple(actor.net.sizes)}; "
            f"training expects a tanh network {shape.sizes} (check timing and hidden width)"
        )
    if shared and actor.patients is not None:
        raise PolicyError("a shared policy cannot start from a policy per patient; give a shared one")
    chosen = actor.select(patients)
    weights = chosen.net.state_dict()
    layers = [(weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]) for i in range(len(shape.sizes) - 1)]
    network = shape.network.flatten(layers)
    if chosen.log_std is None:
        log_std = torch.full((network.shape[0], shape.action_dim), math.log(default_std))
    else:
        log_std = chosen.log_std.expand(network.shape[0], -1)
    return torch.cat([network, log_std], dim=1).expand(len(patients), -1).clone()
