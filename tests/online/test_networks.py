"""Hand-written derivatives against autograd; the stack against its members."""

import numpy as np
import pytest
import torch

from medgym_offline.online.networks import Adam, GaussianActor, TanhMLP

P, N = 3, 17
SIZES = (5, 7, 6, 2)


def _double(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture
def network():
    return TanhMLP(SIZES)


@pytest.fixture
def theta(network):
    return 0.4 * _double(0, P, network.count)


def test_products_with_the_jacobian_are_autograds(network, theta):
    x, v, g = _double(1, P, N, 5), _double(2, *theta.shape), _double(3, P, N, 2)
    seen = network(theta, x)
    _, pushed = torch.func.jvp(lambda t: network_out(network, t, x), (theta,), (v,))
    _, back = torch.func.vjp(lambda t, inputs: network_out(network, t, inputs), theta, x)
    torch.testing.assert_close(seen.jvp(v), pushed, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen.vjp(g), back(g)[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(seen.input_vjp(g), back(g)[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((seen.jvp(v) * g).sum((1, 2)), (seen.vjp(g) * v).sum(1))


def network_out(network, theta, x):
    """The same function without in-place operations, which forward-mode autograd cannot trace."""
    for i, (weight, bias) in enumerate(network.layers(theta)):
        x = x @ weight + bias
        if i < len(SIZES) - 2:
            x = torch.tanh(x)
    return x


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
        gradient = _double(10 + step, *theta.shape)
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
    values = 0.4 * _double(0, P, actor.count)
    actor.split(values)[1].copy_(-1.0 + 0.3 * _double(1, P, 2))
    return values


def _weights(zeros=True):
    weights = torch.from_numpy(np.random.default_rng(5).uniform(0.5, 1.5, (P, N)))
    if zeros:
        weights[:, ::4] = 0
    return weights / weights.sum(1, keepdim=True)


def _kl(actor, old, new, x, weights):
    def mean(theta):
        return network_out(actor.network, actor.split(theta)[0], x)

    return actor.kl(mean(old), actor.split(old)[1], mean(new), actor.split(new)[1], weights)


def test_kl_is_torchs(actor, policy):
    from torch.distributions import Normal, kl_divergence

    x, weights = _double(2, P, N, 5), _weights()
    other = policy + 0.1 * _double(3, *policy.shape)
    dists = [Normal(actor.mean(t, x), actor.split(t)[1].exp().unsqueeze(1)) for t in (policy, other)]
    expected = (kl_divergence(*dists).sum(-1) * weights).sum(-1)
    torch.testing.assert_close(_kl(actor, policy, other, x, weights), expected)


def test_fisher_product_is_the_dense_hessian_of_kl(actor, policy):
    x, weights = _double(2, P, N, 5), _weights()
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
        vector = _double(9, P, actor.count)
        torch.testing.assert_close(actor.fisher_product(seen, precision, vector)[p], dense @ vector[p])
        form = actor.curvature(policy, seen, weights, vector)[p]
        torch.testing.assert_close(form, vector[p] @ dense @ vector[p])


def test_log_ratio_and_policy_gradient(actor, policy):
    x, noise = _double(2, P, N, 5), _double(3, P, N, 2)
    old_mean, old_log_std = actor.mean(policy, x), actor.split(policy)[1]
    z = old_mean + old_log_std.exp().unsqueeze(1) * noise

    def surrogate(theta, weighted):
        network, log_std = actor.split(theta)
        mean = network_out(actor.network, network, x)
        dist = torch.distributions.Normal(mean, log_std.exp().unsqueeze(1))
        old = torch.distributions.Normal(old_mean, old_log_std.exp().unsqueeze(1))
        return ((dist.log_prob(z) - old.log_prob(z)).sum(-1).exp() * weighted).sum()

    weighted = _double(4, P, N) * _weights()
    moved = policy + 0.05 * _double(6, *policy.shape)
    log_ratio = actor.log_ratio(actor.mean(moved, x), actor.split(moved)[1], noise, old_mean, old_log_std)
    torch.testing.assert_close((log_ratio.exp() * weighted).sum(), surrogate(moved, weighted))
    expected = torch.func.grad(surrogate)(policy, weighted)
    ours = actor.policy_gradient(policy, actor.run(policy, x), noise, weighted)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)
