"""The clipped surrogate: gradient against autograd, clipping, entropy, minibatches, independence; Adam."""

import dataclasses

import numpy as np
import pytest
import torch

from medgym_offline.online.config import TrainConfig
from medgym_offline.online.learner import PolicyBatch
from medgym_offline.online.networks import Adam, GaussianActor
from medgym_offline.online.ppo import minibatch_rows, proximal_gradient, proximal_rows, proximal_step
from tests.online.plain import density, normals, surrogate

P, N, A = 4, 90, 3
ACTOR = GaussianActor((9, 8, 8, A))
THREE = TrainConfig("ppo", policy_epochs=3, minibatch=16)


@pytest.fixture
def old():
    rngs = [np.random.default_rng(p) for p in range(P)]
    return ACTOR.initial(rngs, [0.0] * A, [0.5] * A, output_gain=1.0).double()


@pytest.fixture
def batch():
    """Patients with 60, 70, 80 and 90 rows."""
    weights = (torch.arange(N) < torch.tensor([60, 70, 80, 90]).unsqueeze(1)).double()
    observations, noise = normals(0, P, N, 9), normals(1, P, N, A)
    advantages = noise[..., 0] * (1 + observations[..., 0]) + 0.3 * normals(2, P, N)
    return PolicyBatch(observations, noise, advantages, weights / weights.sum(1, keepdim=True))


def test_adam_is_torchs_adam(old):
    ours, theirs = old.clone(), old.clone().requires_grad_()
    mine, reference = Adam.zeros(ours), torch.optim.Adam([theirs], lr=0.01)
    for step in range(5):
        gradient = normals(10 + step, *old.shape)
        mine.step_(ours, gradient, 0.01)
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-7)


def _objective(theta, old, batch, clip, entropy):
    """Objective `(P,)` and ratios `(P, N)` from torch's own densities."""
    ratio = surrogate(ACTOR, theta, old, batch)[0]
    clipped = torch.minimum(ratio * batch.advantages, ratio.clamp(1 - clip, 1 + clip) * batch.advantages)
    bonus = entropy * density(ACTOR, theta, batch.observations).entropy().sum(-1)
    return ((clipped + bonus) * batch.weights).sum(-1), ratio


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_gradient_is_that_of_autograd(old, batch, entropy):
    theta = (old + 0.05 * normals(3, *old.shape)).requires_grad_()
    objective, ratio = _objective(theta, old, batch, 0.2, entropy)
    outside = ((ratio - 1).abs() > 0.2).double().mean()
    assert 0.2 < outside < 0.9, "some rows are clipped and some are not"
    (expected,) = torch.autograd.grad(objective.sum(), theta)
    with torch.no_grad():
        found = proximal_gradient(ACTOR, theta, proximal_rows(ACTOR, old, batch), 0.2, entropy)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def _one_row(ratio, advantage):
    theta = ACTOR.initial([np.random.default_rng(0)], [0.0] * A, [0.5] * A).double()
    x, noise = normals(4, 1, 1, 9), normals(5, 1, 1, A)
    one = torch.ones(1, 1, dtype=torch.float64)
    rows = proximal_rows(ACTOR, theta, PolicyBatch(x, noise, one * advantage, one))
    return theta, dataclasses.replace(rows, old=rows.old - np.log(ratio))


@pytest.mark.parametrize(
    ("ratio", "advantage", "held"),
    [(1.3, 1.0, True), (0.7, -1.0, True), (1.3, -1.0, False), (0.7, 1.0, False), (1.1, 1.0, False)],
)
def test_gradient_is_zero_exactly_where_clipped_on_the_paying_side(ratio, advantage, held):
    theta, rows = _one_row(ratio, advantage)
    gradient = proximal_gradient(ACTOR, theta, rows, 0.2, 0.0)
    assert bool((gradient == 0).all()) == held
    bonus = proximal_gradient(ACTOR, theta, rows, 0.2, 0.5) - gradient
    torch.testing.assert_close(bonus[:, -A:], torch.full((1, A), 0.5, dtype=torch.float64))
    assert (bonus[:, :-A] == 0).all(), "entropy depends on the spread only"


def test_minibatches_visit_every_valid_row_once_whatever_the_batch_mates():
    valid = torch.zeros(3, 50, dtype=torch.bool)
    valid[0, :17], valid[1], valid[2, 10:20] = True, True, True

    def order(members, size):
        return minibatch_rows(valid[members], [np.random.default_rng(10 + p) for p in members], size)

    index, weights = order([0, 1, 2], 8)
    for p in range(3):
        used = weights[:, p] > 0
        seen = index[:, p][used]
        assert sorted(seen.tolist()) == torch.nonzero(valid[p]).flatten().tolist()
        assert (used.sum(-1) <= 8).all()
        sums = weights[:, p].sum(-1)
        torch.testing.assert_close(sums[sums > 0], torch.ones(-(-len(seen) // 8), dtype=torch.float64))
        alone, share = order([p], 8)
        assert torch.equal(alone[:, 0][share[:, 0] > 0], seen)
    assert not torch.equal(index[0, 1].sort()[0], torch.arange(8)), "the order is random"


def test_passes_improve_the_surrogate_and_stay_near(old, batch):
    config = dataclasses.replace(THREE, policy_epochs=10, entropy=0.0, policy_rate=1e-3)
    before = old.clone()
    rngs = [np.random.default_rng(p) for p in range(P)]
    theta, log = proximal_step(config, ACTOR, old, batch, Adam.zeros(old), rngs)
    assert torch.equal(old, before)
    gain = _objective(theta, old, batch, 0.2, 0.0)[0] - _objective(old, old, batch, 0.2, 0.0)[0]
    assert (gain > 0.02).all()
    torch.testing.assert_close(gain, log["gain"], rtol=1e-8, atol=1e-10)
    assert ((log["kl"] > 0) & (log["kl"] < 0.2)).all()
    ratio = _objective(theta, old, batch, 0.2, 0.0)[1]
    over = torch.where(batch.advantages > 0, ratio > 1.2, ratio < 0.8).double()
    torch.testing.assert_close(log["clipped"], (over * batch.weights).sum(-1), rtol=1e-8, atol=1e-10)
    assert (log["clipped"] > 0).all()
