"""Hand-written derivatives against autograd; the stack against its members."""

import numpy as np
import pytest
import torch

from medgym_offline.online.networks import Adam, GaussianActor, TanhMLP
from tests.online.plain import density, normals

P, N = 3, 17
SIZES = (5, 7, 6, 2)


@pytest.fixture
def network():
    return TanhMLP(SIZES)


@pytest.fixture
def theta(network):
    return 0.4 * normals(0, P, network.count)


def test_adam_is_torchs_adam(theta):
    ours, theirs = theta.clone(), theta.clone().requires_grad_()
    mine, reference = Adam.zeros(ours), torch.optim.Adam([theirs], lr=0.01)
    for step in range(5):
        gradient = normals(10 + step, *theta.shape)
        mine.step_(ours, gradient, 0.01)
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


# -- the Gaussian ---------------------------------------------------------------------------------------------------


@pytest.fixture
def actor():
    return GaussianActor(SIZES)


@pytest.fixture
def policy(actor):
    values = 0.4 * normals(0, P, actor.count)
    actor.split(values)[1].copy_(-1.0 + 0.3 * normals(1, P, 2))
    return values


def _weights(zeros=True):
    weights = torch.from_numpy(np.random.default_rng(5).uniform(0.5, 1.5, (P, N)))
    if zeros:
        weights[:, ::4] = 0
    return weights / weights.sum(1, keepdim=True)


def _kl(actor, old, new, x, weights):
    means = [density(actor, theta, x).mean for theta in (old, new)]
    return actor.kl(means[0], actor.split(old)[1], means[1], actor.split(new)[1], weights)


def test_fisher_product_is_the_dense_hessian_of_kl(actor, policy):
    x, weights = normals(2, P, N, 5), _weights()
    seen, precision = actor.run(policy, x), actor.precision(policy, weights)
    for p in range(P):
        one = slice(p, p + 1)

        def divergence(flat, one=one):
            return _kl(actor, policy[one], flat[None], x[one], weights[one])[0]

        dense = torch.autograd.functional.hessian(divergence, policy[p])
        basis = torch.eye(actor.count, dtype=torch.float64)
        single, row_precision = actor.run(policy[one], x[one]), actor.precision(policy[one], weights[one])
        columns = torch.cat([actor.fisher_product(single, row_precision, row[None]) for row in basis])
        torch.testing.assert_close(columns, dense, rtol=1e-8, atol=1e-10)
        assert torch.linalg.eigvalsh(dense).min() > -1e-10
        vector = normals(9, P, actor.count)
        torch.testing.assert_close(actor.fisher_product(seen, precision, vector)[p], dense @ vector[p])
        form = actor.curvature(policy, seen, weights, vector)[p]
        torch.testing.assert_close(form, vector[p] @ dense @ vector[p])
