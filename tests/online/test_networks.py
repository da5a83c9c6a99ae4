"""Hand-written derivatives against autograd; the stack against its members."""

import numpy as np
import pytest
import torch

from medgym_offline.online.networks import Adam, GaussianActor, TanhMLP
from tests.online.plain import density, normals, output

P, N = 3, 17
SIZES = (5, 7, 6, 2)


@pytest.fixture
def network():
    return TanhMLP(SIZES)


@pytest.fixture
def theta(network):
    return 0.4 * normals(0, P, network.count)


def test_products_with_the_jacobian_are_autograds(network, theta):
    x, v, g = normals(1, P, N, 5), normals(2, *theta.shape), normals(3, P, N, 2)
    seen = network(theta, x)
    _, pushed = torch.func.jvp(lambda t: output(network, t, x), (theta,), (v,))
    _, back = torch.func.vjp(lambda t, inputs: output(network, t, inputs), theta, x)
    torch.testing.assert_close(seen.jvp(v), pushed, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen.vjp(g), back(g)[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen.input_vjp(g), back(g)[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((seen.jvp(v) * g).sum((1, 2)), (seen.vjp(g) * v).sum(1))


def test_initial_belongs_to_the_patient_not_to_the_batch(network):
    def draw(names):
        return network.initial([np.random.default_rng(name) for name in names], output_gain=0.1)

    together = draw([4, 5, 6])
    torch.testing.assert_close(draw([6, 4]), together[[2, 0]], rtol=0, atol=0)
    last = network.layers(together)[-1][0]
    assert last.abs().max() <= 0.1 * (6 / 8) ** 0.5


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


def test_kl_is_torchs(actor, policy):
    x, weights = normals(2, P, N, 5), _weights()
    other = policy + 0.1 * normals(3, *policy.shape)
    divergence = torch.distributions.kl_divergence(density(actor, policy, x), density(actor, other, x))
    expected = (divergence.sum(-1) * weights).sum(-1)
    torch.testing.assert_close(_kl(actor, policy, other, x, weights), expected)


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


def test_log_ratio_and_policy_gradient(actor, policy):
    x, noise = normals(2, P, N, 5), normals(3, P, N, 2)
    old_mean, old_log_std = actor.mean(policy, x), actor.split(policy)[1]
    z = old_mean + old_log_std.exp().unsqueeze(1) * noise

    def surrogate(theta, weighted):
        change = density(actor, theta, x).log_prob(z) - density(actor, policy, x).log_prob(z).detach()
        return (change.sum(-1).exp() * weighted).sum()

    weighted = normals(4, P, N) * _weights()
    moved = policy + 0.05 * normals(6, *policy.shape)
    log_ratio = actor.log_ratio(actor.mean(moved, x), actor.split(moved)[1], noise, old_mean, old_log_std)
    torch.testing.assert_close((log_ratio.exp() * weighted).sum(), surrogate(moved, weighted))
    expected = torch.func.grad(surrogate)(policy, weighted)
    ours = actor.policy_gradient(policy, actor.run(policy, x), noise, weighted)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)
