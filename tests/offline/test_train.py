"""Training as a whole: bandits whose answer is known, limits, scopes, failing learners, states, and bad input."""

import dataclasses
import sys
from functools import cache, partial

import numpy as np
import pytest
import torch

from medgym_offline.errors import DatasetError, MedGymError, UnknownNameError
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.learner import Learner
from tests.helpers import refused
from tests.offline.toy import DECISIONS, center, toy

SHORT = OfflineConfig(updates=60, hidden=16, batch=16, codewords=12)
CONFIG = OfflineConfig(updates=400, hidden=32, critic_lr=3e-3, actor_lr=3e-3, tau=0.05, reward_scaling="none")
BEST = 0.4  # of the bandit's first action
OBSERVATIONS = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))


# -- known answers -----------------------------------------------------------------------------------------------------


def bandit():
    """Every third decision of the toy, as an episode by itself: r = 2 + patient - 4*(a_0 - 0.4)^2, cost (a_0 + 1)/2.

    Two behaviors in equal parts, around -0.4 and around 0.3: cloning plays their mean, -0.05.
    """
    rows = toy(patients=2, episodes=600, width=3)
    rows = rows.select(np.flatnonzero(rows.terminations))
    action, count = rows.actions.copy(), len(rows)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, count)
    action[:, 0] = np.where(np.arange(count) % 2, -0.4, 0.3) + noise
    rewards = (2 + rows.patient - 4 * (action[:, 0] - BEST) ** 2).astype(np.float32)
    costs = ((action[:, 0] + 1) / 2).astype(np.float32)
    return dataclasses.replace(rows, actions=action, rewards=rewards, costs=costs, costs_path=costs[:, None] ** 2)


@cache
def learned(algorithm, config=CONFIG):
    """First action of each learner, the mean over states of the data, (P,)."""
    rows = bandit()
    policy = train(algorithm, rows, "ind", 1, config, progress=False).policy
    return policy.act(torch.from_numpy(rows.observations[:200]).expand(2, -1, -1))[..., 0].mean(1)


@pytest.mark.parametrize("algorithm", ["bc-best", "td3bc", "iql", "awac", "rebrac", "bcq-discrete", "bcq-smdp"])
def test_better_than_cloning_and_near_the_optimum(algorithm):
    # An actor that climbs the critic needs one that has found the peak.
    climbs = algorithm in ("td3bc", "rebrac")
    regret = 4 * (learned(algorithm, dataclasses.replace(CONFIG, updates=1000 if climbs else 400)) - BEST).square()
    cloned = 4 * (learned("bc") - BEST).square()
    assert (cloned > 0.6).all()
    assert (regret < 0.15 * cloned).all()


@pytest.mark.parametrize(("algorithm", "cost"), [("cql-lagrangian", "end"), ("cpq", "end"), ("cpq", "path")])
def test_a_limit_that_binds_is_respected(algorithm, cost):
    """Rewards ask for a_0 = 0.4, the limit for a_0 <= its root: there is the constrained optimum.

    With a limit that does not bind, the same learner goes beyond.
    """
    given = {"alpha": 0.05, "saturation": 0.01, "multiplier_lr": 0.05, "candidates": (1, 2, 1), "batch": 32}
    config = dataclasses.replace(CONFIG, cost=cost, **given)
    rows = bandit()
    allowed = rows.costs.mean() if cost == "end" else rows.costs_path.mean() ** 0.5  # of (a_0 + 1)/2 or its square
    bound = 2 * float(allowed) - 1
    assert ((learned(algorithm, config) - bound).abs() < 0.12).all()
    if cost == "end":
        free = learned(algorithm, dataclasses.replace(config, cost_limit=5.0, updates=200))
        assert (free > bound + 0.2).all()


def test_cloning_finds_the_behavior_without_its_noise():
    """The expert's noise is symmetric (within +-0.3), so E[a | s] is the best action; its regret is bounded."""
    config = OfflineConfig(updates=600, hidden=32, actor_lr=3e-3)
    result = train("bc", toy(spread=0.3, expert=True), seed=1, config=config, progress=False)
    observations = toy(episodes=20, seed=9).observations.reshape(3, -1, 9)
    action = result.policy.act(observations)
    best = center(np.arange(3)[:, None], observations[..., 0])
    regret = (action[..., 0] - best) ** 2 + (action[..., 3] - 0.2) ** 2
    behavior = 2 * 0.3**2 / 3  # mean regret of the data itself: two uniform noises
    assert regret.mean() < 0.1 * behavior
    # What is left of the loss is the variance of four uniform noises.
    assert result.log[-1]["mse"] == pytest.approx(4 * 0.3**2 / 3, rel=0.2)


def test_the_best_episodes_are_chosen_whole():
    rows = toy(episodes=25)
    mask = (stack_transitions(rows, "ind", CONFIG).more[..., -2] < 0.1).view(3, 25, 3).numpy()
    returns = rows.rewards.reshape(3, 25, 3).sum(-1)
    chosen = returns >= np.sort(returns, 1)[:, -3:-2]  # a tenth of 25 episodes, rounded up
    np.testing.assert_array_equal(mask, chosen[..., None].repeat(3, 2))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
def test_bcq_chooses_the_best_likely_codeword(threshold):
    config = dataclasses.replace(CONFIG, threshold=threshold, codewords=16, updates=100)
    learner = Learner("bcq-discrete", stack_transitions(bandit(), "ind", config), 1, config)
    for _ in range(config.updates):
        learner.update()
    nets = learner.networks
    with torch.no_grad():
        values, logits = nets.critic(OBSERVATIONS[:2]).chunk(2, -1)
        chosen, g = nets.chosen(OBSERVATIONS[:2]), torch.softmax(logits, -1)
    unlikely = g / g.amax(-1, keepdim=True) < threshold - 1e-5
    assert torch.equal(values.masked_fill(unlikely, -torch.inf).argmax(-1), chosen)
    if threshold == 1.0:
        assert torch.equal(chosen, logits.argmax(-1))
    if threshold == 0.3:  # the gate decides somewhere
        assert (values.argmax(-1) != chosen).any()


def test_semi_markov_bcq_is_bcq_with_the_time_that_passes():
    config, rows = dataclasses.replace(CONFIG, updates=30, codewords=12), toy(episodes=40, elapsed=True)
    elapsed = dataclasses.replace(config, discount="elapsed")
    acts = [
        train(name, rows, "ind", 1, chosen, progress=False).policy.net.state_dict()["layers.0.weight"]
        for name, chosen in (("bcq-smdp", config), ("bcq-discrete", elapsed), ("bcq-discrete", config))
    ]
    assert torch.equal(acts[0], acts[1])
    assert not torch.equal(acts[0], acts[2])


# -- scopes, states and failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [3, 4])
def test_population_and_timing(width):
    result = train("cql", toy(episodes=10, width=width), "pop", config=SHORT, progress=False)
    policy = result.policy
    expected = (None, {3: "fixed", 4: "adaptive"}[width], DECISIONS)
    assert (policy.patients, policy.timing, policy.decisions) == expected
    assert policy.act(OBSERVATIONS.repeat(3, 1, 1)).shape == (9, 5, width)
    assert [line["update"] for line in result.log] == [50.0, 60.0]


@pytest.mark.parametrize("algorithm", ["dqn", "gcql-discrete"])
def test_checkpoints_are_the_policies_of_shorter_trainings(algorithm, tmp_path, monkeypatch):
    """Also when the run is stopped between two of them and resumed; the state of another training is refused."""
    monkeypatch.setattr(sys.modules["medgym_offline.offline.train"], "_SAVE_EVERY", 10)
    state = tmp_path / "state.pt"

    def run(updates=120, seed=1, **options):
        config = dataclasses.replace(SHORT, updates=updates)
        return train(algorithm, toy(episodes=20), seed=seed, config=config, progress=False, shard=2, **options)

    def stop(done):
        if done == 75:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=3, resume=state, on_update=stop)
    refused(MedGymError, "another training", lambda: run(checkpoints=2, resume=state))
    refused(MedGymError, "another training", lambda: run(checkpoints=3, seed=9, resume=state))
    cut = tmp_path / "cut.pt"
    cut.write_bytes(state.read_bytes()[:1000])
    refused(MedGymError, "unreadable training state", lambda: run(checkpoints=3, resume=cut))
    result = run(checkpoints=3, resume=state)
    assert list(result.checkpoints) == [50, 100, 120]
    assert result.checkpoints[120] is result.policy
    assert result.checkpoints[50].provenance["update"] == 50
    assert torch.equal(result.checkpoints[50].act(OBSERVATIONS), run(50).policy.act(OBSERVATIONS))
    whole = run()
    assert torch.equal(result.policy.act(OBSERVATIONS), whole.policy.act(OBSERVATIONS))
    assert not whole.checkpoints


EXPLODING = dataclasses.replace(SHORT, reward_scaling="none", explosion=50.0, critic_lr=0.1, updates=150)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("algorithm", "column", "factor", "config", "why"),
    [
        # Next observations at the edge of float32 make the Bellman target overflow.
        ("dqn", "next_observations", 1e30, SHORT, "update"),
        ("cql", "rewards", 1e6, EXPLODING, "|Q| ="),
        ("gcql-discrete", "rewards", 1e6, EXPLODING, "|Q| ="),
    ],
)
def test_a_failing_learner_is_named_and_the_others_go_on(algorithm, column, factor, config, why):
    rows = toy(episodes=20)
    broken = getattr(rows, column).copy()
    broken[rows.patient == 1] *= np.float32(factor)
    options = {"seed": 1, "config": config, "progress": False}
    plain = train(algorithm, rows, **options)
    result = train(algorithm, dataclasses.replace(rows, **{column: broken}), **options)
    assert not plain.stopped
    assert list(result.stopped) == ["toy/1"]
    assert why in result.stopped["toy/1"]
    assert result.policy.provenance["stopped"] == result.stopped
    actions, wanted = result.policy.act(OBSERVATIONS), plain.policy.act(OBSERVATIONS)
    assert torch.isfinite(actions).all()
    assert torch.equal(actions[::2], wanted[::2])


def test_bad_input_is_named():
    rows, one_step = toy(episodes=4), bandit()
    everyone = dataclasses.replace(rows, next_observations=rows.next_observations * np.float32(1e30))
    dear = dataclasses.replace(one_step, costs=one_step.costs + np.float32(1.0))
    bare = dataclasses.replace(one_step, costs_path=np.zeros((len(one_step), 0), dtype=np.float32))
    low, path = dataclasses.replace(CONFIG, cost_limit=0.1), dataclasses.replace(CONFIG, cost="path")
    for error, words, algorithm, given, config in (
        (MedGymError, "every learner failed", "dqn", everyone, SHORT),
        (UnknownNameError, "did you mean 'gcql'", "gcqll", rows, SHORT),
        (DatasetError, r"toy/0: cost_limit 0.1 allows .* raise cost_limit to 0\.\d+", "cpq", dear, low),
        (DatasetError, "costs_path", "bc-safe", bare, path),
    ):
        refused(error, words, partial(train, algorithm, given, config=config, progress=False))
