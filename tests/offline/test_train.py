"""Training as a whole: scopes, timing, failing learners, states, bad input, and what cloning learns."""

import dataclasses
import sys

import numpy as np
import pytest
import torch

from medgym_offline.errors import MedGymError, UnknownNameError
from medgym_offline.offline import OfflineConfig, train
from tests.helpers import refused
from tests.offline.toy import DECISIONS, center, toy

SHORT = OfflineConfig(updates=60, hidden=16, batch=16)
OBSERVATIONS = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0))


def test_a_state_of_another_training_is_refused(tmp_path):
    state, rows, config = tmp_path / "state.pt", toy(episodes=20), dataclasses.replace(SHORT, updates=260)

    def stop(done):
        if done > 250:
            raise KeyboardInterrupt

    def run(seed=0, **options):
        return train("dqn", rows, seed=seed, config=config, progress=False, resume=state, **options)

    with pytest.raises(KeyboardInterrupt):
        run(on_update=stop)
    refused(MedGymError, "another training", lambda: run(seed=9))
    state.write_bytes(state.read_bytes()[:1000])
    refused(MedGymError, "unreadable training state", run)


@pytest.mark.parametrize("width", [3, 4])
def test_population_and_timing(width):
    result = train("cql", toy(episodes=10, width=width), "pop", config=SHORT, progress=False)
    assert result.policy.patients is None
    assert result.policy.timing == {3: "fixed", 4: "adaptive"}[width]
    assert result.policy.decisions == DECISIONS
    assert result.policy.act(OBSERVATIONS.repeat(3, 1, 1)).shape == (9, 5, width)
    assert [line["update"] for line in result.log] == [50.0, 60.0]


EXPLODING = dataclasses.replace(
    SHORT, codewords=12, reward_scaling="none", explosion=50.0, critic_lr=0.1, updates=150
)  # fmt: skip


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
    rows = toy(episodes=4)
    everyone = dataclasses.replace(rows, next_observations=rows.next_observations * np.float32(1e30))
    refused(MedGymError, "every learner failed", lambda: train("dqn", everyone, config=SHORT, progress=False))
    refused(UnknownNameError, "did you mean 'gcql'", lambda: train("gcqll", rows, progress=False))


@pytest.mark.parametrize("algorithm", ["dqn", "gcql-discrete"])
def test_checkpoints_are_the_policies_of_shorter_trainings(algorithm, tmp_path, monkeypatch):
    """Also when the run is stopped between two of them and resumed."""
    monkeypatch.setattr(sys.modules["medgym_offline.offline.train"], "_SAVE_EVERY", 10)
    config = dataclasses.replace(SHORT, updates=120, codewords=12)
    state = tmp_path / "state.pt"

    def run(**options):
        return train(algorithm, toy(episodes=20), seed=1, config=config, progress=False, shard=2, **options)

    def stop(done):
        if done == 75:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoints=3, resume=state, on_update=stop)
    refused(MedGymError, "another training", lambda: run(checkpoints=2, resume=state))
    result = run(checkpoints=3, resume=state)
    assert list(result.checkpoints) == [50, 100, 120]
    assert result.checkpoints[120] is result.policy
    assert result.checkpoints[50].provenance["update"] == 50
    shorter = dataclasses.replace(config, updates=50)
    wanted = train(algorithm, toy(episodes=20), seed=1, config=shorter, progress=False).policy
    assert torch.equal(result.checkpoints[50].act(OBSERVATIONS), wanted.act(OBSERVATIONS))
    assert torch.equal(result.policy.act(OBSERVATIONS), run().policy.act(OBSERVATIONS))
    assert not run().checkpoints


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
