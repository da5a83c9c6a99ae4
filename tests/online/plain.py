"""What the stacked networks compute, written out with torch's own operations and densities, for autograd."""

import numpy as np
import torch


def normals(seed, *shape):
    """Standard normal numbers, float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def output(network, theta, x):
    """`network(theta, x)` without operations in place."""
    layers = network.layers(theta)
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = torch.tanh(x) if i < len(layers) - 1 else x
    return x


def density(actor, theta, x):
    """The Gaussian before squashing, (P, N, A)."""
    mean = output(actor.network, actor.split(theta)[0], x)
    return torch.distributions.Normal(mean, actor.split(theta)[1].exp().unsqueeze(1).expand_as(mean))


def surrogate(actor, theta, old, batch):
    """Ratios of densities (P, N) of the actions that `old` took, and the surrogate (P,)."""
    new, was = density(actor, theta, batch.observations), density(actor, old, batch.observations)
    z = (was.mean + was.stddev * batch.noise).detach()
    ratio = (new.log_prob(z) - was.log_prob(z).detach()).sum(-1).exp()
    return ratio, (ratio * batch.advantages * batch.weights).sum(-1)
