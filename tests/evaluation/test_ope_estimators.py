"""Off-policy estimators on a finite semi-Markov decision process whose values are known exactly."""

import itertools

import numpy as np
import pytest
import torch

from medgym_offline.evaluation.ope import estimators as ope
from medgym_offline.evaluation.ope.estimators import rank_correlation, regret_at, score_estimates
from medgym_offline.policies.protocol import clipped_normal_log_prob, clipped_uniform_log_prob

DECISIONS, GAMMA = 3, 0.97
HOLD = torch.tensor([2.0, 5.0], dtype=torch.float64)  # hours, by action
REWARD = torch.tensor([[1.0, 0.3], [-0.5, 0.8]], dtype=torch.float64)  # by state and action
MOVE = torch.tensor([[0.2, 0.7], [0.5, 0.9]], dtype=torch.float64)  # probability of state 1 next
TARGET = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
BEHAVIOR = torch.tensor([[0.4, 0.6], [0.5, 0.5]], dtype=torch.float64)


def values(policy, move):
    """Q (K, S, A) and V (K + 1, S) by backward induction."""
    v = torch.zeros(DECISIONS + 1, 2, dtype=torch.float64)
    q = torch.zeros(DECISIONS, 2, 2, dtype=torch.float64)
    for k in reversed(range(DECISIONS)):
        following = (1 - move) * v[k + 1, 0] + move * v[k + 1, 1]
        q[k] = REWARD + GAMMA**HOLD * following
        v[k] = (policy * q[k]).sum(-1)
    return q, v


class Log:
    """Episodes (P, E, K) of the behavior, from state 0."""

    def __init__(self, patients, episodes, move, seed=0):
        rng, shape = np.random.default_rng(seed), (patients, episodes)
        states, actions = [np.zeros(shape, int)], []
        for _ in range(DECISIONS):
            a = (rng.random(shape) < BEHAVIOR.numpy()[states[-1], 1]).astype(int)
            states.append((rng.random(shape) < move.numpy()[states[-1], a]).astype(int))
            actions.append(a)
        self.states = torch.from_numpy(np.stack(states, -1))
        self.actions = torch.from_numpy(np.stack(actions, -1))
        self.now = self.states[..., :-1]
        self.rewards, self.dt = REWARD[self.now, self.actions], HOLD[self.actions]
        self.valid = torch.ones_like(self.now, dtype=torch.bool)
        log_probs = (policy[self.now, self.actions].log() for policy in (TARGET, BEHAVIOR))
        self.log_rho = ope.log_ratios(*log_probs, self.valid)
        self.discount = ope.discount_at_start(self.dt, GAMMA)

    def robust(self, weights, q, v):
        k = torch.arange(DECISIONS)
        at = (k, self.now, self.actions)
        values = q[at], v[k, self.now], v[k + 1, self.states[..., 1:]]
        return ope.doubly_robust(self.rewards, self.dt, self.valid, weights, GAMMA, *values)


def z_score(estimates, truth):
    """How far the mean is from the truth, in standard errors."""
    return abs(float((estimates.mean() - truth) / (estimates.std() / len(estimates) ** 0.5)))


def test_unweighted_estimates_are_unbiased():
    """400 data sets of 20 episodes: their mean is the known value, also where DR has a wrong Q."""
    log = Log(400, 20, MOVE)
    _, v = values(TARGET, MOVE)
    truth = float(v[0, 0])
    weights = log.log_rho.exp() / log.log_rho.shape[1]
    weighted = ope.per_decision(log.rewards, weights, log.discount)
    assert z_score(weighted, truth) < 3.5
    nothing = torch.zeros(DECISIONS, 2, 2), torch.zeros(DECISIONS + 1, 2)
    torch.testing.assert_close(log.robust(weights, *nothing), weighted)
    wrong_q, wrong_v = values(TARGET.flip(1), MOVE)
    wrong_v = torch.cat([(TARGET * wrong_q).sum(-1), wrong_v[-1:]])
    assert z_score(log.robust(weights, wrong_q, wrong_v), truth) < 3.5
    # The behavior's own mean is another number: the test could fail.
    assert z_score((log.discount * log.rewards).sum(-1).mean(1), truth) > 10


def test_weighted_estimates_are_consistent():
    truth = float(values(TARGET, MOVE)[1][0, 0])
    q, v = values(TARGET.flip(1), MOVE)
    v = torch.cat([(TARGET * q).sum(-1), v[-1:]])
    errors = []
    for episodes in (50, 50_000):
        log = Log(20, episodes, MOVE, seed=1)
        weights = ope.self_normalized(log.log_rho)
        found = torch.stack([ope.per_decision(log.rewards, weights, log.discount), log.robust(weights, q, v)])
        errors.append((found - truth).abs().mean(1))
    assert bool((errors[1] < 0.01).all())
    assert bool((errors[1] < errors[0] / 10).all())  # about 1 / sqrt(1000)


def test_a_perfect_model_in_a_deterministic_process_gives_the_truth():
    move = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    log = Log(5, 7, move)
    q, v = values(TARGET, move)
    for weights in (ope.self_normalized(log.log_rho), log.log_rho.exp() / log.log_rho.shape[1]):
        torch.testing.assert_close(log.robust(weights, q, v), v[0, 0].expand(5))


def test_far_policies_neither_overflow_nor_vanish():
    log_rho = torch.tensor([[[-4e4, -9e5], [-3e4, -8e5]]], dtype=torch.float64)
    torch.testing.assert_close(ope.self_normalized(log_rho).sum(1), torch.ones(1, 2, dtype=torch.float64))
    assert float(ope.effective_sample_size(log_rho)) == pytest.approx(1.0)


def test_discount_does_not_depend_on_how_time_is_cut():
    """A hold split in two changes no discount at the hours that both have; with gamma 1 no return either."""
    whole = torch.tensor([4.0, 10.0, 6.0], dtype=torch.float64)
    split = torch.tensor([4.0, 3.0, 7.0, 1.0, 5.0], dtype=torch.float64)
    for found in (ope.discount_at_start(whole, GAMMA), ope.discount_at_start(split, GAMMA)[[0, 1, 3]]):
        torch.testing.assert_close(found, GAMMA ** torch.tensor([0.0, 4.0, 14.0]).double())
    assert bool((ope.discount_at_start(split, 1.0) == 1).all())


@pytest.mark.parametrize("mean", [-1.0, -0.98, -0.3, 0.0, 0.93, 1.0])
def test_probabilities_sum_to_one_with_their_atoms(mean):
    grid = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1, None]
    ends = torch.tensor([[-1.0], [1.0]])
    for log_prob in (
        lambda a: clipped_normal_log_prob(a, torch.full_like(a, mean), 0.05),
        lambda a: clipped_uniform_log_prob(a, 0.05),
    ):
        inside = float(log_prob(grid).exp().sum()) * 1e-5
        assert inside + float(log_prob(ends).exp().sum()) == pytest.approx(1.0, abs=2e-4)


def test_scores():
    truth = np.array([3.0, 2.0, 1.0, 0.0])
    for order in itertools.permutations(range(4)):
        guess = -np.array(order, float)  # policy with order 0 looks best
        best = [int(np.argmax(guess)), int(np.argsort(-guess)[1])]
        assert regret_at(1, guess, truth) == 3.0 - truth[best[0]]
        assert regret_at(2, guess, truth) == 3.0 - truth[best].max()
        assert regret_at(4, guess, truth) == 0
    assert rank_correlation(truth * 5 - 7, truth) == pytest.approx(1.0)
    assert rank_correlation(-truth, truth) == pytest.approx(-1.0)
    assert rank_correlation(np.ones(4), truth) is None
    both = np.stack([truth, truth], 1)
    scores = score_estimates(both + np.array([1.0, -1.0]), both)
    wanted = {"absolute_error": 0.0, "patient_error": 1.0, "regret@1": 0.0}
    assert {name: scores[name] for name in wanted} == pytest.approx(wanted)
