"""Rollouts: masks, noise, events; advantages against a Python loop, discounts, the multiplier by hand."""

import math

import numpy as np
import pytest
import torch

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.online import TrainConfig, train
from medgym_offline.online.learner import penalized, update_multiplier
from medgym_offline.online.networks import GaussianActor
from medgym_offline.online.rollouts import advantages, centered, collect, discounts, rows_of, training_noise
from medgym_offline.simulators import load_simulators

ADAPTIVE = ProcessConfig(timing="adaptive", decisions=5)


@pytest.fixture(scope="module")
def batch(tiny_bank):
    """Six episodes of each patient; long intervals leave some decisions of the budget unused."""
    actor = GaussianActor((9, 8, 8, 4))
    theta = actor.initial([np.random.default_rng(p) for p in range(4)], [0.0] * 3 + [1.0], [0.5] * 4)
    noise = training_noise(0, "test", tiny_bank, ADAPTIVE, 0, 6)
    return collect(DecisionProcess(tiny_bank, ADAPTIVE), actor, theta, noise)


def test_rows_of_a_buffer_are_the_decisions_of_the_episodes(batch):
    """Written out one by one."""
    (rows, valid), (shared, used) = rows_of(batch, 4), rows_of(batch, 1)
    for s in range(4):
        expected = []
        for k in range(5):
            for b in range(6):
                if batch.valid[s, k, b] == 0:
                    continue
                last = k == 4 or batch.valid[s, k + 1, b] == 0
                after = torch.zeros(9) if last else batch.observations[s, k + 1, b]
                facts = torch.tensor([batch.rewards[s, k, b], batch.dt[s, k, b], float(last), 0.0])
                expected.append(torch.cat([batch.observations[s, k, b], batch.actions[s, k, b], after, facts]))
        found = torch.stack(expected)
        assert torch.equal(rows.packed()[s][valid[s]], found)
        found[:, -1] = s
        mine = shared.packed()[0][used[0]]
        assert torch.equal(mine[mine[:, -1] == s], found)
    assert float(rows.ended.sum()) == 4 * 6


@pytest.mark.parametrize("algorithm", ["trpo-lag", "sac"])
@pytest.mark.parametrize("name", ["diabetes", "anesthesia"])
def test_diseases_with_events_train_and_events_belong_to_the_patient(name, algorithm):
    bank = load_simulators(f"{name}-v0").select([0, 1])
    process = ProcessConfig(timing="adaptive", disease=name)
    both, alone = (training_noise(0, "x", some, process, 2, 3).exogenous for some in (bank, bank.select([1])))
    assert torch.equal(both[1:2], alone)
    config = TrainConfig(algorithm, updates=2, episodes=3, hidden=8, value_warmup=0, soft_steps=2, soft_batch=8)
    result = train(bank, process, config, progress=False)
    assert torch.isfinite(result.state.actor).all()
    assert result.policy.disease == name


def test_discount_is_elapsed_time():
    dt = torch.tensor([4.8, 9.6, 0.5, 36.0], dtype=torch.float64)
    expected = [0.997, 0.997**2, 0.997 ** (0.5 / 4.8), 0.997**7.5]
    torch.testing.assert_close(discounts(dt, 0.997, 4.8), torch.tensor(expected, dtype=torch.float64))


def test_advantages_equal_a_python_loop():
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


def test_centering_shifts_every_episode_by_the_same_amount():
    cuts = torch.tensor([[4.8] * 20, [36.0, 36.0, 24.0] + [0.0] * 17]).T.unsqueeze(0)
    rewards = -0.1 * cuts
    shifted = centered(rewards, cuts, torch.tensor([0.25])) - rewards
    torch.testing.assert_close(shifted.sum(1), torch.full((1, 2), 24.0))


def test_multiplier_by_hand():
    multiplier = torch.tensor([0.0, 0.0, 0.4])
    for cost, expected in (
        ([0.3, 0.05, 0.1], [0.01, 0.0, 0.4]),
        ([0.5, 0.0, 0.0], [0.03, 0.0, 0.395]),
        ([0.1, 3.1, 0.1], [0.03, 0.15, 0.395]),
        ([0.0, 20.0, 20.0], [0.025, 1.0, 1.0]),
    ):
        multiplier = update_multiplier(multiplier, torch.tensor(cost), limit=0.1, rate=0.05, ceiling=1.0)
        torch.testing.assert_close(multiplier, torch.tensor(expected))


def test_penalized_advantage_by_hand():
    a_r, a_c = torch.tensor([[1.0, -2.0], [1.0, -2.0]]), torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    found = penalized(a_r, a_c, torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([[1.0, -2.0], [-1.25, -1.25]]))
    assert math.isclose(float(penalized(a_r, a_c, torch.tensor([1e9, 1e9]))[0, 0]), -2.0, rel_tol=1e-6)
