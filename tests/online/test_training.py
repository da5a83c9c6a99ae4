"""Training end to end on unfitted simulators: learning, independence, resume, damage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.errors import MedGymError, PolicyError, UnknownNameError
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.gaussian import GaussianActor
from medgym_offline.online.rollouts import collect, training_noise
from medgym_offline.online.state import TrainState, load_state
from medgym_offline.online.train import train
from medgym_offline.simulators import SimulatorBank

SMALL = TrainConfig(updates=4, episodes=4, hidden=8, value_warmup=1)
FIXED = ProcessConfig(timing="fixed", decisions=5)
ADAPTIVE = ProcessConfig(timing="adaptive", decisions=5)


def _returns(bank: SimulatorBank, process: ProcessConfig, act: object) -> Tensor:
    """Mean return per patient `(P,)` over 16 episodes with seeds that training never used."""
    seeds = episode_seeds(99, "test", bank.patients, 16)
    noise = draw_noise(seeds, process.decisions, bank.state_dim, process.action_dim)
    return rollout(DecisionProcess(bank, process), act, noise).rewards.sum(-1).mean(-1)  # type: ignore[arg-type]


@pytest.mark.parametrize("process", [FIXED, ADAPTIVE], ids=["fixed", "adaptive"])
def test_learning_beats_random_and_zero_for_every_patient(tiny_bank: SimulatorBank, process: ProcessConfig) -> None:
    config = TrainConfig(updates=25, episodes=16, hidden=32, radius=0.05, initial_std=1.0)
    learned = train(tiny_bank, process, config, progress=False)
    noise = torch.Generator().manual_seed(0)
    width = process.action_dim
    random = _returns(tiny_bank, process, lambda o: 2 * torch.rand((*o.shape[:2], width), generator=noise) - 1)
    zero = _returns(tiny_bank, process, lambda o: -torch.ones(*o.shape[:2], 3) if width == 3 else _zero_adaptive(o))
    ours = _returns(tiny_bank, process, learned.actor.act)
    assert (ours > random + 5).all(), (ours, random)
    assert (ours > zero + 2).all(), (ours, zero)
    assert learned.log["return"].shape == (25, 4)
    assert learned.stopped == {}


def _zero_adaptive(observations: Tensor) -> Tensor:
    action = -torch.ones(*observations.shape[:2], 4)
    action[..., 3] = 2 * (96 / 5 - 0.5) / 35.5 - 1
    return action


@pytest.mark.parametrize("decisions", [3, 5, 20])
def test_first_intervals_are_the_fixed_ones(tiny_bank: SimulatorBank, decisions: int) -> None:
    process = ProcessConfig(timing="adaptive", decisions=decisions)
    result = train(tiny_bank, process, dataclasses.replace(SMALL, updates=1, value_warmup=1), progress=False)
    state = DecisionProcess(tiny_bank, process)
    start = state.start(6, torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0)))
    _, dt = state.decode(start, result.actor.act(state.observe(start)))
    assert float(dt.mean()) == pytest.approx(96 / decisions, rel=0.02)


def test_rollouts_are_masked_and_fill_the_horizon(tiny_bank: SimulatorBank) -> None:
    actor = GaussianActor((9, 8, 8, 4))
    theta = actor.initial([np.random.default_rng(p) for p in range(4)], [0.0] * 3 + [1.0], [0.5] * 4)
    sizes = {"episodes": 6, "decisions": 5, "state_dim": tiny_bank.state_dim, "action_dim": 4}
    noise = training_noise(0, "test", tiny_bank.patients, 0, **sizes)
    batch = collect(DecisionProcess(tiny_bank, ADAPTIVE), actor, theta, noise)
    torch.testing.assert_close(batch.dt.sum(1), torch.full((4, 6), 96.0))
    assert (batch.valid.sum(1) < 5).any(), "long intervals leave decisions over"
    assert ((batch.dt > 0) == (batch.valid > 0)).all()
    assert (batch.rewards[batch.valid == 0] == 0).all()
    left = batch.observations[..., 8] * 5
    expected = torch.arange(5, 0, -1).view(1, 5, 1).expand_as(left)
    used = batch.valid > 0
    torch.testing.assert_close(left[used], expected[used].float())


def test_noise_belongs_to_the_patient_and_the_update() -> None:
    sizes = {"episodes": 3, "decisions": 4, "state_dim": 8, "action_dim": 3}
    both = training_noise(0, "x", ["a", "b"], 5, **sizes)
    alone = training_noise(0, "x", ["b"], 5, **sizes)
    later = training_noise(0, "x", ["b"], 6, **sizes)
    for name in ("initial", "process", "action"):
        assert torch.equal(getattr(both, name)[1:], getattr(alone, name))
        assert not torch.equal(getattr(alone, name), getattr(later, name))


def test_results_do_not_depend_on_shards_or_order(tiny_bank: SimulatorBank) -> None:
    process = dataclasses.replace(ADAPTIVE, max_interval=20.0)

    def parameters(bank: SimulatorBank, shard: int) -> Tensor:
        return train(bank, process, SMALL, shard=shard, progress=False).state.actor

    together = parameters(tiny_bank, 4)
    torch.testing.assert_close(parameters(tiny_bank, 1), together, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parameters(tiny_bank, 3), together, rtol=1e-4, atol=1e-4)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(parameters(tiny_bank.select(order), 4), together[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parameters(tiny_bank.select([1]), 4), together[1:2], rtol=1e-4, atol=1e-4)


def test_shared_policy_does_not_depend_on_shards(tiny_bank: SimulatorBank) -> None:
    config = dataclasses.replace(SMALL, shared=True)
    whole, cut = (train(tiny_bank, FIXED, config, shard=shard, progress=False) for shard in (4, 1))
    torch.testing.assert_close(cut.state.actor, whole.state.actor, rtol=1e-4, atol=1e-4)
    assert whole.actor.patients is None
    assert whole.state.actor.shape[0] == 1
    assert whole.log["return"].shape == (4, 4)
    assert whole.log["kl"].shape == (4, 1)


@pytest.mark.parametrize("shared", [False, True], ids=["ind", "dr"])
def test_resume_equals_uninterrupted(tiny_bank: SimulatorBank, tmp_path: Path, shared: bool) -> None:
    config = dataclasses.replace(SMALL, updates=5, shared=shared)
    whole = train(tiny_bank, FIXED, config, progress=False)
    file = tmp_path / "run.safetensors"
    settings = {"checkpoint": file, "checkpoint_every": 2, "progress": False}

    class KilledError(Exception):
        pass

    def kill(state: TrainState) -> None:
        if state.update == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train(tiny_bank, FIXED, config, watch=kill, **settings)  # type: ignore[arg-type]
    resumed = train(tiny_bank, FIXED, config, **settings)  # type: ignore[arg-type]
    for name, value in whole.state.tensors().items():
        assert torch.equal(value, resumed.state.tensors()[name]), name
    again = train(tiny_bank, FIXED, config, **settings)  # type: ignore[arg-type]
    assert torch.equal(again.state.actor, whole.state.actor)


def test_resume_of_another_recipe_is_refused(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    train(tiny_bank, FIXED, SMALL, checkpoint=file, progress=False)
    with pytest.raises(MedGymError, match=r"config\.radius: 0\.01 -> 0\.05"):
        train(tiny_bank, FIXED, dataclasses.replace(SMALL, radius=0.05), checkpoint=file, progress=False)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MedGymError, match="not a readable checkpoint"):
        load_state(file, {})


def test_a_broken_simulator_stops_its_patient_only(tiny_bank: SimulatorBank, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = train(tiny_bank, FIXED, SMALL, progress=False)
    observe = DecisionProcess.observe
    calls = 0

    def damaged(self: DecisionProcess, episodes: object) -> Tensor:
        nonlocal calls
        calls += 1
        seen = observe(self, episodes)  # type: ignore[arg-type]
        if calls > 10:  # from the third update on
            seen[1] = float("nan")
        return seen

    monkeypatch.setattr(DecisionProcess, "observe", damaged)
    result = train(tiny_bank, FIXED, SMALL, progress=False)
    assert result.stopped == {tiny_bank.patients[1]: 2}
    others = [0, 2, 3]
    torch.testing.assert_close(result.state.actor[others], clean.state.actor[others], rtol=1e-4, atol=1e-4)
    assert torch.isfinite(result.state.actor).all()
    assert result.actor.provenance["stopped"] == result.stopped


def test_fine_tuning_starts_from_the_shared_policy(tiny_bank: SimulatorBank) -> None:
    shared = train(tiny_bank, FIXED, dataclasses.replace(SMALL, shared=True), progress=False).actor
    config = dataclasses.replace(SMALL, updates=1, value_warmup=1, reset_std=0.35)
    copied = train(tiny_bank, FIXED, config, shared, progress=False).actor
    x = torch.randn(4, 5, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(copied.act(x), shared.act(x))
    assert copied.log_std is not None
    torch.testing.assert_close(copied.log_std, torch.full((4, 3), 0.35).log())
    with pytest.raises(PolicyError, match="training expects"):
        train(tiny_bank, ADAPTIVE, config, shared, progress=False)
    with pytest.raises(PolicyError, match="cannot start from a policy per patient"):
        train(tiny_bank, FIXED, dataclasses.replace(config, shared=True), copied, progress=False)


def test_multiplier_follows_the_cost_and_cost_alone_is_lowered(tiny_bank: SimulatorBank) -> None:
    """The logged multipliers are the hand-computed recursion; weighted that strongly, the cost goes down."""
    config = TrainConfig(updates=20, episodes=12, hidden=16, radius=0.05, initial_std=1.0, cost_limit=1.5)
    config = dataclasses.replace(config, multiplier_rate=4.0, multiplier_max=30.0)
    log = train(tiny_bank, FIXED, config, progress=False).log
    value = np.zeros(4)
    for cost, multiplier in zip(log["cost"].numpy(), log["multiplier"].numpy()):
        value = np.clip(value + 4.0 * (cost - 1.5), 0.0, 30.0)
        np.testing.assert_allclose(multiplier, value, rtol=1e-4, atol=1e-4)
    assert (log["multiplier"][-1] > 1).any(), "the limit binds for somebody"
    assert log["cost"][-4:].mean() < log["cost"][:4].mean() - 0.1


def test_settings_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="trpo-lag"):
        TrainConfig(algorithm="trpo-lagg")
    with pytest.raises(MedGymError, match="radius"):
        TrainConfig(radius=0.0)
    with pytest.raises(UnknownNameError, match="updates"):
        TrainConfig.from_dict({"update": 3})
    assert TrainConfig.from_dict(SMALL.to_dict()) == SMALL
