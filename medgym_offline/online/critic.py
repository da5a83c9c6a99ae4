"""One critic with two outputs, the value of the reward and the value of the cost, fitted by Adam on lambda-returns.

    loss_p = mean over rows and outputs of ( V_p(s) - G(s) / scale_p )^2

Targets are divided by a per-patient scale, fixed from the first batch, so that one learning rate suits every patient;
the gradient is written out (:class:`medgym_offline.online.networks.TanhMLP`). Rows are visited in minibatches of
whole strides (rows i, i + m, i + 2m, ..), which needs no shuffle and no copy of the index.
"""

from __future__ import annotations

from torch import Tensor

from medgym_offline.online.networks import Adam, TanhMLP

__all__ = ["critic_network", "fit_critic", "return_scale"]

OUTPUTS = 2
"""Reward value, cost value."""


def critic_network(observation_dim: int, hidden: int) -> TanhMLP:
    """Shape of the critic: two tanh layers, two outputs."""
    return TanhMLP((observation_dim, hidden, hidden, OUTPUTS))


def return_scale(targets: Tensor, weights: Tensor, floor: float = 1e-2) -> Tensor:
    """Root mean square `(P, 2)` of `targets (P, N, 2)` under `weights (P, N)` that sum to 1 per patient."""
    return (targets.square() * weights.unsqueeze(-1)).sum(1).sqrt().clamp_min(floor)


def fit_critic(
    network: TanhMLP,
    theta: Tensor,
    optimiser: Adam,
    observations: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    epochs: int,
    minibatches: int,
    rate: float,
) -> Tensor:
    """Move `theta (P, n)` in place towards the scaled `targets (P, N, 2)`; returns the last loss per patient `(P,)`.

    Args:
        network: Shape of the critic.
        theta: Parameters, changed in place.
        optimiser: Adam moments, changed in place.
        observations: `(P, N, d)`.
        targets: Lambda-returns over their scale, `(P, N, 2)`.
        weights: `(P, N)`, 0 for padding.
        epochs: Passes over the rows.
        minibatches: Parts of one pass.
        rate: Adam's learning rate.
    """
    parts = []
    for start in range(minibatches):
        rows = slice(start, None, minibatches)
        share = weights[:, rows]
        share = share / share.sum(-1, keepdim=True).clamp_min(1e-12)
        parts.append((observations[:, rows].contiguous(), targets[:, rows].contiguous(), share.unsqueeze(-1)))
    loss = theta.new_zeros(theta.shape[0])
    for epoch in range(epochs):
        last = epoch == epochs - 1
        loss = loss.zero_() if last else loss
        for x, y, share in parts:
            activations = network.activations(theta, x)
            error = activations[-1] - y
            pull = error * share
            if last:
                loss += (pull * error).sum((1, 2)) / (OUTPUTS * minibatches)
            gradient = network.vjp(theta, activations, network.slopes(activations), pull)
            optimiser.step_(theta, gradient, rate)
    return loss
