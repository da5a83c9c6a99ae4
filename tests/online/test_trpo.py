"""The trust-region step: Fisher products against autograd, conjugate gradients, radius, line search."""

import dataclasses

import numpy as np
import pytest
import torch

from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import PolicyBatch
from medgym_offline.online.networks import GaussianActor
from medgym_offline.online.trpo import trust_region_step
from tests.online.plain import density, normals, surrogate

P, N, A = 6, 240, 3
ACTOR = GaussianActor((9, 16, 16, A))


def _tensor(seed, *shape):
    return normals(seed, *shape).float()


@pytest.fixture
def theta():
    rngs = [np.random.default_rng(p) for p in range(P)]
    return ACTOR.initial(rngs, [0.0] * A, [0.5] * A, output_gain=1.0)


@pytest.fixture
def batch():
    weights = torch.ones(P, N)
    weights[:, 200:] = 0.0
    noise = _tensor(1, P, N, A)
    # Advantage rewards the first action component, more in some states than in others.
    observations = _tensor(0, P, N, 9)
    advantages = noise[..., 0] * (1 + observations[..., 0]) + 0.3 * _tensor(2, P, N)
    return PolicyBatch(observations, noise, advantages, weights / weights.sum(1, keepdim=True))


def _gain(theta, old, batch):
    """Of the surrogate, from torch's own densities."""
    return surrogate(ACTOR, theta, old, batch)[1] - surrogate(ACTOR, old, old, batch)[1]


def test_fisher_product_is_the_dense_hessian_of_kl():
    actor = GaussianActor((5, 7, 6, 2))
    policy, x = 0.4 * normals(0, 3, actor.count), normals(2, 3, 17, 5)
    actor.split(policy)[1].copy_(-1.0 + 0.3 * normals(1, 3, 2))
    weights = torch.from_numpy(np.random.default_rng(5).uniform(0.5, 1.5, (3, 17)))
    weights[:, ::4] = 0
    weights /= weights.sum(1, keepdim=True)
    seen, precision = actor.run(policy, x), actor.precision(policy, weights)
    basis, vector = torch.eye(actor.count, dtype=torch.float64), normals(9, 3, actor.count)
    for p in range(3):
        own, rows, share = policy[p : p + 1], x[p : p + 1], weights[p : p + 1]

        def divergence(flat, own=own, rows=rows, share=share):
            before, after = (density(actor, theta, rows).mean for theta in (own, flat[None]))
            return actor.kl(before, actor.split(own)[1], after, actor.split(flat[None])[1], share)[0]

        dense = torch.autograd.functional.hessian(divergence, policy[p])
        single, row_precision = actor.run(own, rows), actor.precision(own, share)
        columns = torch.cat([actor.fisher_product(single, row_precision, row[None]) for row in basis])
        torch.testing.assert_close(columns, dense, rtol=1e-8, atol=1e-10)
        assert torch.linalg.eigvalsh(dense).min() > -1e-10
        torch.testing.assert_close(actor.fisher_product(seen, precision, vector)[p], dense @ vector[p])
        form = actor.curvature(policy, seen, weights, vector)[p]
        torch.testing.assert_close(form, vector[p] @ dense @ vector[p])


@pytest.mark.parametrize("radius", [0.001, 0.01, 0.1])
def test_step_improves_within_the_radius(theta, batch, radius):
    moved, log = trust_region_step(TrainConfig(radius=radius), ACTOR, theta, batch)
    dists = [density(ACTOR, t, batch.observations) for t in (theta, moved)]
    kl = (torch.distributions.kl_divergence(*dists).sum(-1) * batch.weights).sum(-1)
    assert log["accepted"].all()
    assert (kl <= radius * (1 + 1e-3)).all()
    assert (kl >= 0.1 * radius).all(), "a step that short wastes the update"
    torch.testing.assert_close(kl, log["kl"], rtol=1e-3, atol=1e-6)
    gain = _gain(moved, theta, batch)
    assert (gain > 0).all()
    torch.testing.assert_close(gain, log["gain"], rtol=1e-3, atol=1e-5)


def test_full_fisher_step_is_the_natural_gradient(theta, batch):
    """On all rows, with many iterations, the step is parallel to the solution of the dense system."""
    actor = GaussianActor((9, 4, A))
    rngs = [np.random.default_rng(p) for p in range(P)]
    small = actor.initial(rngs, [0.0] * A, [0.5] * A, output_gain=1.0)
    settings = TrainConfig(radius=1e-4, iterations=200, fisher_stride=1)
    step = trust_region_step(settings, actor, small, batch)[0] - small
    seen, precision = actor.run(small, batch.observations), actor.precision(small, batch.weights)
    basis = torch.eye(actor.count)
    columns = torch.stack([actor.fisher_product(seen, precision, row.expand(P, -1)) for row in basis], -1)
    dense = (columns + settings.damping * basis).double()
    weighted = batch.advantages * batch.weights
    gradient = actor.policy_gradient(small, seen, batch.noise, weighted).double()
    expected = torch.linalg.solve(dense, gradient)
    cosine = torch.nn.functional.cosine_similarity(step.double(), expected, dim=-1)
    assert (cosine > 0.999).all()


def test_surrogate_is_never_worse(theta, batch):
    """Pure noise as advantage, a radius far too large: every patient improves or stays exactly where it was."""
    noisy = dataclasses.replace(batch, advantages=_tensor(7, P, N))
    moved, log = trust_region_step(TrainConfig(radius=5.0, line_search=2), ACTOR, theta, noisy)
    gain = _gain(moved, theta, noisy)
    assert (gain[log["accepted"].bool()] > 0).all()
    assert torch.equal(moved[~log["accepted"].bool()], theta[~log["accepted"].bool()])
