"""One step of every algorithm, against torch's own operations and densities: gradients, trust regions, clipping."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import PolicyBatch
from medgym_offline.online.networks import Adam, GaussianActor, TanhMLP
from medgym_offline.online.ppo import minibatch_rows, proximal_gradient, proximal_rows, proximal_step
from medgym_offline.online.rollouts import Rows, append, draw_rows
from medgym_offline.online.sac import SoftLearner
from medgym_offline.online.trpo import trust_region_step

P, N, D, A = 4, 240, 9, 3
ACTOR, CRITIC = GaussianActor((D, 8, 8, A)), TanhMLP((D + A, 8, 8, 1))


def normals(seed, *shape):
    """Standard normal numbers, float64."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def streams(first=0, count=P):
    return [np.random.default_rng(first + p) for p in range(count)]


def initial(actor=ACTOR):
    return actor.initial(streams(), [0.0] * A, [0.5] * A, output_gain=1.0).double()


def output(network, theta, x):
    """`network(theta, x)` without operations in place, for autograd."""
    *hidden, (weight, bias) = network.layers(theta)
    for inner, offset in hidden:
        x = torch.tanh(x @ inner + offset)
    return x @ weight + bias


def density(actor, theta, x):
    """The Gaussian before squashing, (P, N, A)."""
    mean = output(actor.network, actor.split(theta)[0], x)
    return torch.distributions.Normal(mean, actor.split(theta)[1].exp().unsqueeze(1).expand_as(mean))


def surrogate(theta, old, batch):
    """Ratios of densities (P, N) of the actions that `old` took, and the surrogate (P,)."""
    new, was = density(ACTOR, theta, batch.observations), density(ACTOR, old, batch.observations)
    z = (was.mean + was.stddev * batch.noise).detach()
    ratio = (new.log_prob(z) - was.log_prob(z).detach()).sum(-1).exp()
    return ratio, (ratio * batch.advantages * batch.weights).sum(-1)


def gain(theta, old, batch):
    return surrogate(theta, old, batch)[1] - surrogate(old, old, batch)[1]


@pytest.fixture
def old():
    return initial()


@pytest.fixture
def batch():
    """Patients with 180 to 240 rows; the first action component pays, in some states more than in others."""
    weights = (torch.arange(N) < torch.tensor([180, 200, 220, 240]).unsqueeze(1)).double()
    observations, noise = normals(0, P, N, D), normals(1, P, N, A)
    advantages = noise[..., 0] * (1 + observations[..., 0]) + 0.3 * normals(2, P, N)
    return PolicyBatch(observations, noise, advantages, weights / weights.sum(1, keepdim=True))


# -- trust regions -----------------------------------------------------------------------------------------------------


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
def test_step_improves_within_the_radius(old, batch, radius):
    moved, log = trust_region_step(TrainConfig(radius=radius), ACTOR, old, batch)
    dists = [density(ACTOR, theta, batch.observations) for theta in (old, moved)]
    kl = (torch.distributions.kl_divergence(*dists).sum(-1) * batch.weights).sum(-1)
    assert log["accepted"].all()
    assert (kl <= radius * (1 + 1e-3)).all()
    assert (kl >= 0.1 * radius).all(), "a step that short wastes the update"
    assert (gain(moved, old, batch) > 0).all()
    torch.testing.assert_close(kl, log["kl"])
    torch.testing.assert_close(gain(moved, old, batch), log["gain"])


def test_full_fisher_step_is_the_natural_gradient(batch):
    """On all rows, with many iterations, the step is parallel to the solution of the dense system."""
    actor = GaussianActor((D, 4, A))
    small, settings = initial(actor), TrainConfig(radius=1e-4, iterations=200, fisher_stride=1)
    step = trust_region_step(settings, actor, small, batch)[0] - small
    seen, precision = actor.run(small, batch.observations), actor.precision(small, batch.weights)
    basis = torch.eye(actor.count, dtype=torch.float64)
    columns = torch.stack([actor.fisher_product(seen, precision, row.expand(P, -1)) for row in basis], -1)
    gradient = actor.policy_gradient(small, seen, batch.noise, batch.advantages * batch.weights)
    expected = torch.linalg.solve(columns + settings.damping * basis, gradient)
    assert (torch.nn.functional.cosine_similarity(step, expected, dim=-1) > 0.999).all()


def test_surrogate_is_never_worse(old, batch):
    """Pure noise as advantage, a radius far too large: every patient improves or stays exactly where it was."""
    noisy = dataclasses.replace(batch, advantages=normals(7, P, N))
    moved, log = trust_region_step(TrainConfig(radius=5.0, line_search=2), ACTOR, old, noisy)
    accepted = log["accepted"].bool()
    assert (gain(moved, old, noisy)[accepted] > 0).all()
    assert torch.equal(moved[~accepted], old[~accepted])


# -- clipped surrogates ------------------------------------------------------------------------------------------------


def test_adam_is_torchs_adam(old):
    ours, theirs = old.clone(), old.clone().requires_grad_()
    mine, reference = Adam.zeros(ours), torch.optim.Adam([theirs], lr=0.01)
    for step in range(5):
        gradient = normals(10 + step, *old.shape)
        mine.step_(ours, gradient, 0.01)
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


def clipped(theta, old, batch, entropy=0.0):
    """The objective (P,) and ratios (P, N) with clip 0.2."""
    ratio = surrogate(theta, old, batch)[0]
    least = torch.minimum(ratio * batch.advantages, ratio.clamp(0.8, 1.2) * batch.advantages)
    bonus = entropy * density(ACTOR, theta, batch.observations).entropy().sum(-1)
    return ((least + bonus) * batch.weights).sum(-1), ratio


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_clipped_gradient_is_that_of_autograd(old, batch, entropy):
    theta = (old + 0.05 * normals(3, *old.shape)).requires_grad_()
    objective, ratio = clipped(theta, old, batch, entropy)
    outside = ((ratio - 1).abs() > 0.2).double().mean()
    assert 0.2 < outside < 0.9, "some rows are clipped and some are not"
    (expected,) = torch.autograd.grad(objective.sum(), theta)
    with torch.no_grad():
        found = proximal_gradient(ACTOR, theta, proximal_rows(ACTOR, old, batch), 0.2, entropy)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "held"),
    [(1.3, 1.0, True), (0.7, -1.0, True), (1.3, -1.0, False), (0.7, 1.0, False), (1.1, 1.0, False)],
)
def test_gradient_is_zero_exactly_where_clipped_on_the_paying_side(old, ratio, advantage, held):
    one = torch.ones(1, 1, dtype=torch.float64)
    rows = proximal_rows(ACTOR, old[:1], PolicyBatch(normals(4, 1, 1, D), normals(5, 1, 1, A), one * advantage, one))
    rows = dataclasses.replace(rows, old=rows.old - np.log(ratio))
    gradient = proximal_gradient(ACTOR, old[:1], rows, 0.2, 0.0)
    assert bool((gradient == 0).all()) == held
    bonus = proximal_gradient(ACTOR, old[:1], rows, 0.2, 0.5) - gradient
    torch.testing.assert_close(bonus[:, -A:], torch.full((1, A), 0.5, dtype=torch.float64))
    assert (bonus[:, :-A] == 0).all(), "entropy depends on the spread only"


def test_minibatches_visit_every_valid_row_once_whatever_the_batch_mates():
    valid = torch.zeros(3, 50, dtype=torch.bool)
    valid[0, :17], valid[1], valid[2, 10:20] = True, True, True

    def order(members):
        return minibatch_rows(valid[members], [np.random.default_rng(10 + p) for p in members], 8)

    index, weights = order([0, 1, 2])
    for p in range(3):
        used = weights[:, p] > 0
        seen = index[:, p][used]
        assert sorted(seen.tolist()) == torch.nonzero(valid[p]).flatten().tolist()
        assert (used.sum(-1) <= 8).all()
        sums = weights[:, p].sum(-1)
        torch.testing.assert_close(sums[sums > 0], torch.ones(-(-len(seen) // 8), dtype=torch.float64))
        alone, share = order([p])
        assert torch.equal(alone[:, 0][share[:, 0] > 0], seen)
    assert not torch.equal(index[0, 1].sort()[0], torch.arange(8)), "the order is random"


def test_passes_improve_the_surrogate_and_stay_near(old, batch):
    config = TrainConfig("ppo", policy_epochs=10, minibatch=16, entropy=0.0, policy_rate=1e-3)
    before = old.clone()
    theta, log = proximal_step(config, ACTOR, old, batch, Adam.zeros(old), streams())
    assert torch.equal(old, before)
    objective, ratio = clipped(theta, old, batch)
    better = objective - clipped(old, old, batch)[0]
    assert (better > 0.02).all()
    torch.testing.assert_close(better, log["gain"], rtol=1e-8, atol=1e-10)
    assert ((log["kl"] > 0) & (log["kl"] < 0.2)).all()
    over = torch.where(batch.advantages > 0, ratio > 1.2, ratio < 0.8).double()
    torch.testing.assert_close(log["clipped"], (over * batch.weights).sum(-1), rtol=1e-8, atol=1e-10)
    assert (log["clipped"] > 0).all()


# -- soft actor-critic -------------------------------------------------------------------------------------------------


@pytest.fixture
def learner(old):
    critic = CRITIC.initial(streams(9, 2 * P)).double().view(P, -1)
    alpha = torch.tensor([[0.05], [0.1], [0.3], [1.0]], dtype=torch.float64).log()
    target = critic + 0.1 * normals(5, *critic.shape)
    moments = [Adam.zeros(value) for value in (old, critic, alpha)]
    return SoftLearner(ACTOR, CRITIC, old, critic, target, alpha, *moments)


@pytest.fixture
def rows():
    ended = (torch.arange(N) % 5 == 4).double().expand(P, N)
    scalars = [normals(20, P, N), 4.8 + normals(22, P, N).abs(), ended, torch.zeros(P, N, dtype=torch.float64)]
    return Rows(normals(23, P, N, D), torch.tanh(normals(24, P, N, A)), normals(25, P, N, D), *scalars)


def squashed(theta, observations, noise):
    """Action and log density from torch's own transformed distribution."""
    normal = density(ACTOR, theta, observations)
    reference = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform(cache_size=1)])
    z = normal.mean + normal.stddev * noise
    action = torch.tanh(z)
    found = normal.log_prob(z) - torch.log1p(-action.square())
    with torch.no_grad():
        torch.testing.assert_close(found, reference.log_prob(action), rtol=1e-4, atol=1e-4)
    return action, found.sum(-1)


def twins(critic, observations, actions):
    """Values of both critics, (P, 2, N)."""
    x = torch.cat([observations, actions], -1)
    return torch.cat([output(CRITIC, theta, x) for theta in critic.view(P, 2, -1).unbind(1)], -1).transpose(1, 2)


def test_soft_actor_gradient_is_that_of_autograd(learner, rows):
    noise, alpha = normals(1, P, N, A), learner.log_alpha.exp()
    theta = learner.actor.clone().requires_grad_()
    action, log_density = squashed(theta, rows.observations, noise)
    values = twins(learner.critic, rows.observations, action)
    assert 0 < float(values.argmin(1).double().mean()) < 1, "either critic is the smaller one somewhere"
    (expected,) = torch.autograd.grad((alpha * log_density - values.amin(1)).mean(1).sum(), theta)
    found, mean = learner.actor_gradient(rows.observations, noise)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(mean, log_density.detach().mean(1), rtol=1e-9, atol=1e-10)


def test_critic_gradient_is_that_of_autograd(learner, rows):
    targets, critic = normals(2, P, N), learner.critic.clone().requires_grad_()
    values = twins(critic, rows.observations, rows.actions)
    loss = 0.5 * (values - targets.unsqueeze(1)).square().mean(2)
    (expected,) = torch.autograd.grad(loss.sum(), critic)
    found, mean = learner.critic_gradient(rows.observations, rows.actions, targets)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean, loss.detach().mean(1))
    torch.testing.assert_close(learner.values(learner.critic, rows.observations, rows.actions), values.detach())


def test_targets_discount_by_elapsed_time_and_stop_at_the_end(learner, rows):
    noise, discount = normals(3, P, N, A), 0.9 ** (rows.dt / 4.8)
    rows.following[rows.ended > 0] = float("nan")  # nobody may look there
    found = learner.targets(rows, rows.rewards, discount, noise)
    following = rows.following.nan_to_num(0.0)
    action, log_density = squashed(learner.actor, following, noise)
    ahead = twins(learner.target, following, action).amin(1) - learner.log_alpha.exp() * (log_density - A)
    expected = torch.where(rows.ended > 0, rows.rewards, rows.rewards + discount * ahead)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("acts", [True, False])
def test_steps_move_alpha_towards_the_wanted_entropy_and_may_be_of_the_critics_alone(learner, rows, acts):
    settings, noise = TrainConfig("sac", soft_rate=1e-2, soft_tau=0.1), normals(4, 2, P, N, A)
    start = copy.deepcopy(learner)
    log_density = start.actor_gradient(rows.observations, noise[1])[1]
    learner.step(rows, rows.rewards, 0.99 ** (rows.dt / 4.8), noise, settings, acts)
    assert (learner.critic != start.critic).any(1).all()
    assert torch.equal(learner.actor, start.actor) != acts
    # Entropy above -A: alpha falls; below: it grows.
    moved = (learner.log_alpha - start.log_alpha).flatten() * (A - log_density)
    assert (moved < 0 if acts else moved == 0).all()


def test_buffers_keep_the_newest_rows_of_each_patient():
    buffer, filled = torch.zeros(2, 5, 1), torch.zeros(2, 1, dtype=torch.int64)
    valid = torch.tensor([[True, True, True, True], [True, False, True, False]])
    for start in (0.0, 10.0):
        rows = (start + torch.arange(4.0)).expand(2, 4).unsqueeze(-1)
        append(buffer, filled, rows, valid)
    assert filled.flatten().tolist() == [8, 4]
    assert sorted(buffer[0].flatten().tolist()) == [3.0, 10.0, 11.0, 12.0, 13.0]
    assert buffer[1].flatten().tolist() == [0.0, 2.0, 10.0, 12.0, 0.0]


def test_draws_belong_to_the_patient_and_stay_among_its_rows():
    filled = torch.tensor([[7], [900]])
    drawn = draw_rows(filled, 50, streams(1, 2), 400)
    assert drawn[0].unique().tolist() == list(range(7))
    assert int(drawn[1].max()) == 49
    assert torch.equal(draw_rows(filled[1:], 50, streams(2, 1), 400)[0], drawn[1])
