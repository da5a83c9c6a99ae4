"""The learners that stay near the data, and the safe ones, on one-step bandits whose answer is known."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch

from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.offline import OfflineConfig, train, train_seeds
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.learner import Learner
from tests.helpers import refused
from tests.offline.toy import toy

CONFIG = OfflineConfig(updates=400, hidden=32, critic_lr=3e-3, actor_lr=3e-3, tau=0.05, reward_scaling="none")
BEST = 0.4  # of the first action
OBSERVATION = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))


def bandit(patients=2, episodes=600):
    """Every third decision of the toy, as an episode by itself: r = 2 + patient - 4*(a_0 - 0.4)^2, cost (a_0 + 1)/2.

    Two behaviors in equal parts, around -0.4 and around 0.3: cloning plays their mean, -0.05.
    """
    rng = np.random.default_rng(0)
    rows = toy(patients=patients, episodes=episodes, width=3)
    rows = rows.select(np.flatnonzero(rows.terminations))
    action = rows.actions.copy()
    count = len(rows)
    action[:, 0] = np.where(np.arange(count) % 2, -0.4, 0.3) + rng.uniform(-0.5, 0.5, count)
    rewards = (2 + rows.patient - 4 * (action[:, 0] - BEST) ** 2).astype(np.float32)
    costs = ((action[:, 0] + 1) / 2).astype(np.float32)
    return dataclasses.replace(rows, actions=action, rewards=rewards, costs=costs, costs_path=costs[:, None] ** 2)


@cache
def learned(algorithm, config=CONFIG):
    """First action of each learner, the mean over states of the data, (P,)."""
    rows = bandit()
    policy = train(algorithm, rows, "ind", 1, config, progress=False).policy
    seen = torch.from_numpy(rows.observations[:200])[None].expand(len(policy.net.layers[0].weight), -1, -1)
    return policy.act(seen)[..., 0].mean(1)


@pytest.mark.parametrize("algorithm", ["bc-best", "td3bc", "iql", "awac", "rebrac", "bcq-discrete", "bcq-smdp"])
def test_better_than_cloning_and_near_the_optimum(algorithm):
    # An actor that climbs the critic needs one that has found the peak.
    climbs = algorithm in ("td3bc", "rebrac")
    regret = 4 * (learned(algorithm, dataclasses.replace(CONFIG, updates=1000 if climbs else 400)) - BEST).square()
    cloned = 4 * (learned("bc") - BEST).square()
    assert (cloned > 0.6).all()
    assert (regret < 0.15 * cloned).all()


def test_episodes_are_chosen_whole():
    rows = toy(episodes=25)
    kept = stack_transitions(rows, "ind", CONFIG)
    mask = kept.more[..., -2] < 0.1
    assert (mask.view(3, 25, 3).all(-1) == mask.view(3, 25, 3).any(-1)).all()
    assert (mask.sum(1) == 3 * 3).all()  # a tenth of 25 episodes, rounded up, three decisions each
    returns = rows.rewards.reshape(3, 25, 3).sum(-1)
    best = np.argsort(-returns, 1)[:, :3]
    for p in range(3):
        assert set(np.flatnonzero(mask.view(3, 25, 3).any(-1)[p])) == set(best[p])


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
def test_bcq_chooses_the_best_likely_codeword(threshold):
    config = dataclasses.replace(CONFIG, threshold=threshold, codewords=16, updates=100)
    learner = Learner("bcq-discrete", stack_transitions(bandit(), "ind", config), 1, config)
    for _ in range(config.updates):
        learner.update()
    nets = learner.networks
    with torch.no_grad():
        values, logits = nets.critic(OBSERVATION).chunk(2, -1)
        chosen, g = nets.chosen(OBSERVATION), torch.softmax(logits, -1)
    ratio = g / g.amax(-1, keepdim=True)
    own = ratio.gather(-1, chosen[..., None])
    assert (own >= threshold - 1e-5).all()
    allowed = values.masked_fill(ratio < threshold - 1e-5, -torch.inf)
    assert torch.equal(allowed.argmax(-1), chosen)
    if threshold == 1.0:
        assert torch.equal(chosen, logits.argmax(-1))
    else:  # the gate decides somewhere
        assert (values.argmax(-1) != chosen).any() or threshold < 0.3


def test_semi_markov_bcq_is_bcq_with_the_time_that_passes():
    config = dataclasses.replace(CONFIG, updates=30, codewords=12)
    rows = toy(episodes=40, elapsed=True)
    elapsed = dataclasses.replace(config, discount="elapsed")
    acts = [
        train(name, rows, "ind", 1, chosen, progress=False).policy.net.state_dict()["layers.0.weight"]
        for name, chosen in (("bcq-smdp", config), ("bcq-discrete", elapsed), ("bcq-discrete", config))
    ]
    assert torch.equal(acts[0], acts[1])
    assert not torch.equal(acts[0], acts[2])


@pytest.mark.parametrize(("algorithm", "cost"), [("cql-lagrangian", "end"), ("cpq", "end"), ("cpq", "path")])
def test_a_limit_that_binds_is_respected(algorithm, cost):
    """Rewards ask for a_0 = 0.4, the limit for a_0 <= its root: there is the constrained optimum.

    With a limit that does not bind, the same learner goes beyond.
    """
    config = dataclasses.replace(
        CONFIG, alpha=0.05, saturation=0.01, multiplier_lr=0.05, cost=cost, updates=400, candidates=(1, 2, 1), batch=32
    )
    rows = bandit()
    mean = float((rows.costs if cost == "end" else rows.costs_path).mean())
    allowed = mean if cost == "end" else mean**0.5  # of the cost (a_0 + 1)/2 or its square
    bound = 2 * allowed - 1
    found = learned(algorithm, config)
    assert ((found - bound).abs() < 0.12).all()
    if cost == "end":
        free = learned(algorithm, dataclasses.replace(config, cost_limit=5.0, updates=200))
        assert (free > bound + 0.2).all()


def test_a_limit_below_the_cheapest_episode_is_refused():
    rows = dataclasses.replace(bandit(), costs=bandit().costs + np.float32(1.0))
    with pytest.raises(DatasetError, match=r"toy/0: cost_limit 0.1 allows .* raise cost_limit to 0\.\d+"):
        train("cpq", rows, config=dataclasses.replace(CONFIG, cost_limit=0.1), progress=False)
    bare = dataclasses.replace(bandit(), costs_path=np.zeros((len(rows), 0), dtype=np.float32))
    with pytest.raises(DatasetError, match="costs_path"):
        train("bc-safe", bare, config=dataclasses.replace(CONFIG, cost="path"), progress=False)


@pytest.mark.parametrize("scope", ["ind", "pop"])
@pytest.mark.parametrize("algorithm", ["td3bc", "bcq-discrete", "cql-lagrangian"])
def test_a_stack_of_seeds_is_the_seeds_one_by_one(algorithm, scope):
    config = dataclasses.replace(CONFIG, updates=20, hidden=16, batch=16, codewords=12)
    rows = toy(episodes=20)
    stack = train_seeds(algorithm, rows, scope, [3, 1], config, progress=False)
    seen = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))
    for seed in (3, 1):
        alone = train(algorithm, rows, scope, seed, config, progress=False).policy
        assert stack[seed].policy.provenance == alone.provenance
        tolerance = 0.0 if scope == "ind" else 1e-4
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(stack[seed].policy.state_dict()[name], value, rtol=0, atol=tolerance)
    assert (stack[3].policy.act(seen) - stack[1].policy.act(seen)).abs().max() > 1e-3
    refused(MedGymError, "each once", lambda: train_seeds(algorithm, rows, scope, [1, 1], config))
