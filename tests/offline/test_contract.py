"""The contract of every offline algorithm: what is registered in `ALGORITHMS` is tested here.

It learns the optimum of a semi-Markov process within a bound; it equals itself stacked and looped, reordered, repeated,
resumed, saved and exported.
"""

import dataclasses
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from medgym_offline.errors import MedGymError
from medgym_offline.offline import ALGORITHMS, OfflineConfig, train, train_seeds
from medgym_offline.offline.algorithms import settled
from medgym_offline.offline.data import stack_transitions
from medgym_offline.offline.learner import Learner
from medgym_offline.policies import load_policy, reset_policy, save_policy
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.export import export_onnx, export_torchscript
from tests.helpers import refused
from tests.offline.toy import DECISIONS, center, optimal_value, toy

SHORT = OfflineConfig(updates=10, hidden=16, batch=16, codewords=12)
PAIR = dataclasses.replace(SHORT, ensemble=2, hidden=8)
CASES = {name: (name, SHORT) for name in sorted(ALGORITHMS)}
CASES |= {f"{name}, ensemble": (name, PAIR) for name in ("dqn", "gcql", "gcql-discrete")}
CASES |= {f"{name}, history": (name, dataclasses.replace(SHORT, history=3)) for name in ("bc", "gcql", "bcq-discrete")}
EXPORTS = [(export_torchscript, ".pt"), *([(export_onnx, ".onnx")] if find_spec("onnxruntime") else [])]
each_case = pytest.mark.parametrize("case", CASES)
ROWS = toy(episodes=20)
ROWS = ROWS.select((ROWS.patient != 1) | (ROWS.episode < 35))  # one patient has fewer rows, so there is padding
OBSERVATIONS = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))
LATER = torch.cat([0.5 * OBSERVATIONS[..., :7], OBSERVATIONS[..., 7:] - 0.5], -1)


def answers(policy, observations=OBSERVATIONS, later=LATER):
    """To two observations in a row of the same episodes, (P, 10, A); some policies remember the first."""
    reset_policy(policy, np.zeros(observations.shape[:2], dtype=np.int64))
    return torch.cat([policy.act(observations), policy.act(later)], 1)


def short(case, **options):
    algorithm, config = CASES[case]
    return train(algorithm, ROWS, seed=1, config=config, progress=False, **options)


@cache
def trained(case, shard=None):
    return short(case, shard=shard)


def base(case):
    return trained(case).policy


@each_case
def test_stacked_equals_looped_in_any_order(case):
    """To the bit: all three together, in shards of two and of one, in another order; and a patient alone."""
    wanted = answers(base(case))
    assert torch.equal(answers(trained(case, 2).policy), wanted)
    mixed = short(case, patients=["toy/2", "toy/0", "toy/1"], shard=1).policy
    assert torch.equal(answers(mixed.select(["toy/0", "toy/1", "toy/2"])), wanted)
    alone = short(case, patients=["toy/1"]).policy
    assert alone.patients == ("toy/1",)
    torch.testing.assert_close(answers(alone, OBSERVATIONS[1:2], LATER[1:2])[0], wanted[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_seed_decides(algorithm):
    other = train(algorithm, ROWS, seed=2, config=SHORT, progress=False).policy
    assert (answers(other) - answers(base(algorithm))).abs().max() > 1e-3


@pytest.mark.parametrize("scope", ["ind", "pop"])
@pytest.mark.parametrize("algorithm", ["td3bc", "bcq-discrete", "cql-lagrangian"])
def test_a_stack_of_seeds_is_the_seeds_one_by_one(algorithm, scope):
    stack = train_seeds(algorithm, ROWS, scope, [3, 1], SHORT, progress=False)
    for seed in (3, 1):
        alone = train(algorithm, ROWS, scope, seed, SHORT, progress=False).policy
        assert stack[seed].policy.provenance == alone.provenance
        tolerance = 0.0 if scope == "ind" else 1e-4
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(stack[seed].policy.state_dict()[name], value, rtol=0, atol=tolerance)
    assert (answers(stack[3].policy) - answers(stack[1].policy)).abs().max() > 1e-3
    refused(MedGymError, "each once", lambda: train_seeds(algorithm, ROWS, scope, [1, 1], SHORT))


@each_case
def test_resume_equals_uninterrupted(case, tmp_path, monkeypatch):
    """Stopped in the second shard, between two writes of the state."""
    monkeypatch.setattr(sys.modules["medgym_offline.offline.train"], "_SAVE_EVERY", 5)

    def stop(done):
        if done == 18:
            raise KeyboardInterrupt

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        short(case, shard=2, resume=state, on_update=stop)
    assert state.exists()
    counted = []
    result = short(case, shard=2, resume=state, on_update=counted.append)
    assert counted[0] == 16  # five updates of the second shard were written
    assert torch.equal(answers(result.policy), answers(base(case)))
    assert result.log == trained(case, 2).log
    assert not state.exists()


@each_case
def test_files_and_exports_act_alike(case, tmp_path):
    policy, wanted = base(case), answers(base(case))
    found = load_policy(save_policy(policy, tmp_path / "own.safetensors"))
    assert torch.equal(answers(found), wanted)
    for export, suffix in EXPORTS:
        one = load_policy(export(policy, tmp_path / f"one{suffix}", patient="toy/1"))
        torch.testing.assert_close(answers(one, OBSERVATIONS[1:2], LATER[1:2])[0], wanted[1], rtol=0, atol=1e-6)
    provenance = policy.provenance
    assert (provenance["algorithm"], provenance["dataset"]) == (CASES[case][0], "medgym/toy")


@each_case
def test_finished_policy_is_the_learners_policy(case):
    """Folding the standardization into the first layer changes nothing."""
    algorithm, config = CASES[case][0], settled(*CASES[case])
    data = stack_transitions(ROWS, "ind", config)
    learner = Learner(algorithm, data, 1, config)
    for _ in range(5):
        learner.update()
    states = data.rows[:, :40, : data.state_dim]
    nets = learner.networks
    policy = StackedActor(learner.finished_actor(), data.keys, codebook=nets.codebook, gate=nets.gate)
    wanted = nets.policy(states)
    torch.testing.assert_close(policy.act(states * data.scale + data.mean), wanted, rtol=0, atol=1e-6)


GAMMA = 0.8
LEVELS = 5
# What each may lose (mean over learners; uniform actions lose about 0.75), and how far its value may lie below and
# above V*. The conservative term (alpha 0.2) lowers values of the data too, decision by decision; it never raises them.
BOUNDS = {
    "dqn": (0.12, 0.4, 0.4),
    "cql": (0.12, 0.9, 0.0),
    "gcql": (0.12, 0.9, 0.0),
    "dqn-discrete": (0.03, 0.05, 0.05),
    "cql-discrete": (0.12, 0.4, 0.02),
    "gcql-discrete": (0.12, 0.4, 0.02),
    "td3bc": (0.12, 0.4, 0.4),
    "rebrac": (0.12, 0.4, 0.4),
    "awac": (0.2, 0.9, 0.4),
    "iql": (0.2, 0.9, 0.4),
    "bcq-discrete": (0.05, 0.1, 0.1),
    "bcq-smdp": (0.05, 0.1, 0.1),
}
# The data are uniform in the box: imitation must weigh little, the better actions much, and no codeword be shut out.
CONFIG = OfflineConfig(
    updates=600, hidden=32, gamma=GAMMA, discount="elapsed", tau=0.03, critic_lr=5e-3, actor_lr=2e-3, alpha=0.2,
    codewords=LEVELS**2, weight=20.0, penalties=(0.01, 0.0), temperature=6.0, expectile=0.9, threshold=0.01,
)  # fmt: skip


@pytest.mark.parametrize("algorithm", sorted(BOUNDS))
def test_learns_the_optimum_of_a_semi_markov_process(algorithm):
    """Values and choices against dynamic programming; decisions differ in length, so gamma**dt matters."""
    discrete = algorithm.endswith("-discrete") or algorithm == "bcq-smdp"
    levels = LEVELS if discrete else None
    data = stack_transitions(toy(levels=levels, elapsed=True), "ind", CONFIG)
    learner = Learner(algorithm, data, 1, CONFIG)
    for _ in range(CONFIG.updates):
        learner.update()
    context = torch.linspace(-0.95, 0.95, 39)
    wanted = torch.tensor(center(np.arange(3)[:, None], context.numpy()[None]), dtype=torch.float32)
    loss, below, above = BOUNDS[algorithm]
    for left in range(DECISIONS, 0, -1):
        observations = torch.zeros(3, 39, 9)
        observations[..., 0] = context
        observations[..., 7:] = left / DECISIONS
        state = (observations - data.mean) / data.scale
        with torch.no_grad():
            action = learner.networks.policy(state)
            value = (learner.networks.q(state, action) * data.reward_scale[:, None]).mean(1)
        regret = []
        for p in range(3):
            # The value of choosing so now and optimally afterwards.
            a0, a3 = action[p, :, 0], action[p, :, 3]
            following = optimal_value(left - 1, GAMMA, patient=p, levels=levels, elapsed=True)
            reached = 1 - (a0 - wanted[p]).square() - (a3 - 0.2).square() + GAMMA ** (1 + a3) * following
            optimum = optimal_value(left, GAMMA, patient=p, levels=levels, elapsed=True)
            regret.append(optimum - float(reached.mean()))
            assert -below < float(value[p]) - optimum < above
        assert np.mean(regret) < loss
