"""From flat parameters to policies that are saved and evaluated, and back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.errors import PolicyError
from medgym_offline.online.networks import GaussianActor
from medgym_offline.policies.actor import StackedActor
from medgym_offline.stack import StackedMLP, Steps

__all__ = ["actor_parameters", "fingerprint", "stacked_actor", "tensor_hash"]


def stacked_actor(
    shape: GaussianActor,
    theta: Tensor,
    patients: Sequence[str] | None,
    process: ProcessConfig,
    provenance: Mapping[str, Any] | None = None,
) -> StackedActor:
    """The policy with parameters `theta (P, n)`, to be saved and evaluated; `patients` None makes it shared (P = 1)."""
    network, log_std = shape.split(theta.detach().cpu())
    net = StackedMLP(theta.shape[0], shape.sizes, activation="tanh", steps=Steps(1, shape.action_dim))
    weights: dict[str, Tensor] = {}
    for i, (weight, bias) in enumerate(shape.network.layers(network)):
        weights |= {f"layers.{i}.weight": weight, f"layers.{i}.bias": bias}
    net.load_state_dict(weights)
    known = (process.decisions, log_std.clone(), provenance)
    return StackedActor(net, patients, *known, disease=process.disease, view=process.view)


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
        wanted = f"training expects a tanh network {shape.sizes} (check timing and hidden width)"
        raise PolicyError(f"the initial policy is a {actor.net.activation} network {actor.net.sizes}; {wanted}")
    if shared and actor.patients is not None:
        raise PolicyError("a shared policy cannot start from a policy per patient; give a shared one")
    chosen = actor.select(patients)
    weights = chosen.net.state_dict()
    layers = [(weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]) for i in range(len(shape.sizes) - 1)]
    network = shape.network.flatten(layers)
    log_std = network.new_full((1, shape.action_dim), math.log(default_std))
    if chosen.log_std is not None:
        log_std = chosen.log_std
    return torch.cat([network, log_std.expand(len(network), -1)], dim=1).expand(len(patients), -1).clone()


def tensor_hash(values: Tensor) -> str:
    """SHA-256 of the numbers of one tensor."""
    return hashlib.sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def fingerprint(actor: StackedActor) -> str:
    """SHA-256 of a policy's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(actor.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
