"""Soft actor-critic: gradients against autograd, targets by hand, buffers, independence of patients."""

import numpy as np
import torch

from medgym_offline.online.config import TrainConfig
from medgym_offline.online.networks import Adam, GaussianActor, TanhMLP
from medgym_offline.online.rollouts import Rows, append, draw_rows
from medgym_offline.online.sac import SoftLearner
from tests.online.plain import density, normals, output

P, N, D, A = 3, 40, 9, 3
ACTOR, CRITIC = GaussianActor((D, 8, 8, A)), TanhMLP((D + A, 8, 8, 1))


def _learner():
    actor = ACTOR.initial([np.random.default_rng(p) for p in range(P)], [0.1] * A, [0.5] * A, 1.0).double()
    critic = CRITIC.initial([np.random.default_rng(9 + i) for i in range(2 * P)]).double().view(P, -1)
    alpha = torch.tensor([[0.05], [0.3], [1.0]], dtype=torch.float64).log()
    target = critic + 0.1 * normals(5, *critic.shape)
    moments = [Adam.zeros(value) for value in (actor, critic, alpha)]
    return SoftLearner(ACTOR, CRITIC, actor, critic, target, alpha, *moments)


def _rows():
    ended = (torch.arange(N) % 5 == 4).double().expand(P, N)
    scalars = [normals(20, P, N), 4.8 + normals(22, P, N).abs(), ended, torch.zeros(P, N, dtype=torch.float64)]
    return Rows(normals(23, P, N, D), torch.tanh(normals(24, P, N, A)), normals(25, P, N, D), *scalars)


def _density(theta, observations, noise):
    """Action and log density from torch's own transformed distribution."""
    normal = density(ACTOR, theta, observations)
    squashed = torch.distributions.TransformedDistribution(normal, [torch.distributions.TanhTransform(cache_size=1)])
    z = normal.mean + normal.stddev * noise
    action = torch.tanh(z)
    found = normal.log_prob(z) - torch.log1p(-action.square())
    with torch.no_grad():
        torch.testing.assert_close(found, squashed.log_prob(action), rtol=1e-4, atol=1e-4)
    return action, found.sum(-1)


def _values(critic, observations, actions):
    x = torch.cat([observations, actions], -1)
    return torch.cat([output(CRITIC, theta, x) for theta in critic.view(P, 2, -1).unbind(1)], -1).transpose(1, 2)


def test_actor_gradient_is_that_of_autograd():
    learner, rows, noise = _learner(), _rows(), normals(1, P, N, A)
    alpha, theta = learner.log_alpha.exp(), learner.actor.clone().requires_grad_()
    action, log_density = _density(theta, rows.observations, noise)
    values = _values(learner.critic, rows.observations, action)
    assert 0 < float(values.argmin(1).double().mean()) < 1, "either critic is the smaller one somewhere"
    (expected,) = torch.autograd.grad((alpha * log_density - values.amin(1)).mean(1).sum(), theta)
    found, mean = learner.actor_gradient(rows.observations, noise)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(mean, log_density.detach().mean(1), rtol=1e-9, atol=1e-10)


def test_critic_gradient_is_that_of_autograd():
    learner, rows, targets = _learner(), _rows(), normals(2, P, N)
    critic = learner.critic.clone().requires_grad_()
    values = _values(critic, rows.observations, rows.actions)
    loss = 0.5 * (values - targets.unsqueeze(1)).square().mean(2)
    (expected,) = torch.autograd.grad(loss.sum(), critic)
    found, mean = learner.critic_gradient(rows.observations, rows.actions, targets)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean, loss.detach().mean(1))
    torch.testing.assert_close(learner.values(learner.critic, rows.observations, rows.actions), values.detach())


def test_targets_discount_by_elapsed_time_and_stop_at_the_end():
    learner, rows, noise = _learner(), _rows(), normals(3, P, N, A)
    rows.following[rows.ended > 0] = float("nan")  # nobody may look there
    discount = 0.9 ** (rows.dt / 4.8)
    found = learner.targets(rows, rows.rewards, discount, noise)
    action, log_density = _density(learner.actor, rows.following.nan_to_num(0.0), noise)
    ahead = _values(learner.target, rows.following.nan_to_num(0.0), action).amin(1)
    ahead = ahead - learner.log_alpha.exp() * (log_density - A)
    expected = torch.where(rows.ended > 0, rows.rewards, rows.rewards + discount * ahead)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_steps_move_alpha_towards_the_wanted_entropy_and_may_be_of_the_critics_alone():
    rows, settings, start = _rows(), TrainConfig("sac", soft_rate=1e-2, soft_tau=0.1), _learner()
    discount, noise = 0.99 ** (rows.dt / 4.8), normals(4, 2, P, N, A)
    moved, critics = _learner(), _learner()
    for learner, acts in ((moved, True), (critics, False)):
        learner.step(rows, rows.rewards, discount, noise, settings, acts)
    assert torch.equal(critics.actor, start.actor)
    assert torch.equal(critics.log_alpha, start.log_alpha)
    assert (critics.critic != start.critic).any(1).all()
    log_density = start.actor_gradient(rows.observations, noise[1])[1]
    # Entropy above -A: alpha falls; below: it grows.
    assert ((moved.log_alpha - start.log_alpha).flatten() * (A - log_density) < 0).all()


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
    drawn = draw_rows(filled, 50, [np.random.default_rng(p) for p in (1, 2)], 400)
    assert drawn[0].unique().tolist() == list(range(7))
    assert int(drawn[1].max()) == 49
    assert torch.equal(draw_rows(filled[1:], 50, [np.random.default_rng(2)], 400)[0], drawn[1])
