"""Advantages against a Python loop, discounts, the multiplier by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medgym_offline.online.gae import advantages, centred, discounts, standardise
from medgym_offline.online.lagrange import penalised, update_multiplier


def test_discount_is_elapsed_time() -> None:
    dt = torch.tensor([4.8, 9.6, 0.5, 36.0], dtype=torch.float64)
    expected = [0.997, 0.997**2, 0.997 ** (0.5 / 4.8), 0.997**7.5]
    torch.testing.assert_close(discounts(dt, 0.997), torch.tensor(expected, dtype=torch.float64))


def test_discount_of_an_episode_does_not_depend_on_its_cuts() -> None:
    for cuts in ([96.0], [4.8] * 20, [30.0, 36.0, 29.5, 0.5]):
        whole = discounts(torch.tensor(cuts, dtype=torch.float64), 0.997).prod()
        assert float(whole) == pytest.approx(0.997**20, rel=1e-12)


def test_advantages_equal_a_python_loop() -> None:
    rng = np.random.default_rng(0)
    S, K, B, gae = 2, 7, 3, 0.95
    ends = rng.integers(1, K + 1, (S, B))
    rewards, values, dt = rng.normal(size=(S, K, B)), rng.normal(size=(S, K, B)), rng.uniform(0.5, 30, (S, K, B))
    valid = (np.arange(K)[None, :, None] < ends[:, None, :]).astype(float)
    shrink = 0.997 ** (dt / 4.8)
    expected = np.zeros((S, K, B))
    for s in range(S):
        for b in range(B):
            running = 0.0
            for k in reversed(range(ends[s, b])):
                following = values[s, k + 1, b] if k + 1 < ends[s, b] else 0.0
                delta = rewards[s, k, b] + shrink[s, k, b] * following - values[s, k, b]
                running = delta + shrink[s, k, b] * gae * running
                expected[s, k, b] = running
    tensors = [torch.from_numpy(a) for a in (rewards, values, shrink, valid)]
    found, returns = advantages(*tensors, gae)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(returns.numpy(), (expected + values) * valid, atol=1e-12)


def test_full_decay_gives_the_discounted_return() -> None:
    rewards = torch.tensor([[[1.0], [2.0], [3.0]]])
    shrink, ones = torch.full((1, 3, 1), 0.5), torch.ones(1, 3, 1)
    values = torch.tensor([[[0.7], [-0.2], [5.0]]])
    found, returns = advantages(rewards, values, shrink, ones, 1.0)
    torch.testing.assert_close(returns, torch.tensor([[[2.75], [3.5], [3.0]]]))
    torch.testing.assert_close(found, returns - values)


def test_centring_shifts_every_episode_by_the_same_amount() -> None:
    cuts = torch.tensor([[4.8] * 20, [36.0, 36.0, 24.0] + [0.0] * 17]).T.unsqueeze(0)
    rewards = -0.1 * cuts
    shifted = centred(rewards, cuts, torch.tensor([0.25])) - rewards
    torch.testing.assert_close(shifted.sum(1), torch.full((1, 2), 24.0))


def test_standardise_ignores_padding() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0], [2.0, 2.0, 2.0]])
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3]])
    torch.testing.assert_close(standardise(values, weights), torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_multiplier_by_hand() -> None:
    multiplier = torch.tensor([0.0, 0.0, 0.4])
    for cost, expected in (
        ([0.3, 0.05, 0.1], [0.01, 0.0, 0.4]),
        ([0.5, 0.0, 0.0], [0.03, 0.0, 0.395]),
        ([0.1, 3.1, 0.1], [0.03, 0.15, 0.395]),
        ([0.0, 20.0, 20.0], [0.025, 1.0, 1.0]),
    ):
        multiplier = update_multiplier(multiplier, torch.tensor(cost), limit=0.1, rate=0.05, ceiling=1.0)
        torch.testing.assert_close(multiplier, torch.tensor(expected))


def test_penalised_advantage_by_hand() -> None:
    a_r, a_c = torch.tensor([[1.0, -2.0], [1.0, -2.0]]), torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    found = penalised(a_r, a_c, torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([[1.0, -2.0], [-1.25, -1.25]]))
    assert math.isclose(float(penalised(a_r, a_c, torch.tensor([1e9, 1e9]))[0, 0]), -2.0, rel_tol=1e-6)
