"""Soft actor-critic in the training loop: learning, buffers, independence, resume, damage, scopes, the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.errors import MedGymError
from medgym_offline.online.config import ALGORITHMS, TrainConfig
from medgym_offline.online.gaussian import GaussianActor
from medgym_offline.online.recipe import SCOPES, BehaviorRecipe
from medgym_offline.online.replay import Transitions, transitions
from medgym_offline.online.report import log_figures
from medgym_offline.online.rollouts import Collected, collect, training_noise
from medgym_offline.online.runs import BehaviorRun
from medgym_offline.online.state import TrainState, load_state
from medgym_offline.online.train import train
from medgym_offline.policies.files import load_policy
from medgym_offline.simulators import SimulatorBank

SOFT = {"soft_capacity": 100, "soft_batch": 16, "soft_steps": 3, "soft_rate": 1e-3}
SMALL = TrainConfig("sac", updates=4, episodes=4, hidden=8, value_warmup=1, **SOFT)  # type: ignore[arg-type]
SHARED = dataclasses.replace(SMALL, shared=True)
FIXED = ProcessConfig(timing="fixed", decisions=5)
ADAPTIVE = ProcessConfig(timing="adaptive", decisions=5)


def _returns(bank: SimulatorBank, process: ProcessConfig, act: object) -> Tensor:
    """Mean return per patient `(P,)` over 16 episodes with seeds that training never used."""
    noise = draw_noise(
        episode_seeds(99, "test", bank.patients, 16), process.decisions, bank.state_dim, process.action_dim
    )
    return rollout(DecisionProcess(bank, process), act, noise).rewards.sum(-1).mean(-1)  # type: ignore[arg-type]


@pytest.mark.parametrize("process", [FIXED, ADAPTIVE], ids=["fixed", "adaptive"])
def test_learning_beats_random_for_every_patient(tiny_bank: SimulatorBank, process: ProcessConfig) -> None:
    config = TrainConfig("sac", updates=15, episodes=16, hidden=16, initial_std=1.0, soft_capacity=2000)
    config = dataclasses.replace(config, soft_batch=64, soft_steps=40, soft_rate=3e-3, soft_tau=0.02)
    learned = train(tiny_bank, process, config, progress=False)
    noise, width = torch.Generator().manual_seed(0), process.action_dim
    random = _returns(tiny_bank, process, lambda o: 2 * torch.rand((*o.shape[:2], width), generator=noise) - 1)
    ours = _returns(tiny_bank, process, learned.actor.act)
    assert (ours > random + 5).all(), (ours, random)
    assert learned.log["return"].shape == (15, 4)
    assert learned.stopped == {}
    assert (learned.log["kl"][:2] == 0).all(), "the critics learn first"
    assert (learned.log["kl"][2:] > 0).all()
    alpha = learned.log["alpha"]
    assert torch.allclose(alpha[:2], torch.tensor(0.005))
    assert (alpha[2] < alpha[1]).all(), "the first policy has more entropy than is wanted"
    assert log_figures(learned.log, "key")[-1].svg


def _episodes(bank: SimulatorBank, process: ProcessConfig) -> Collected:
    width = process.action_dim
    actor = GaussianActor((9, 8, 8, width))
    start = [0.0] * 3 + [1.0] * (width - 3)
    theta = actor.initial([np.random.default_rng(p) for p in range(len(bank))], start, [0.5] * width)
    sizes = {"episodes": 3, "decisions": 5, "state_dim": bank.state_dim, "action_dim": width}
    return collect(DecisionProcess(bank, process), actor, theta, training_noise(0, "test", bank.patients, 0, **sizes))


def test_rows_are_the_decisions_of_the_episodes(tiny_bank: SimulatorBank) -> None:
    """Written out one by one; long intervals leave some decisions of the budget unused."""
    batch = _episodes(tiny_bank, ADAPTIVE)
    assert 0 < float(batch.valid.mean()) < 1
    (rows, valid), (shared, used) = transitions(batch, 4), transitions(batch, 1)
    for s in range(4):
        expected = []
        for k in range(5):
            for b in range(3):
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
    assert float(rows.ended.sum()) == 4 * 3


def test_buffers_hold_what_was_played_and_targets_scale(tiny_bank: SimulatorBank) -> None:
    """Three updates of 20 decisions in a buffer of 100; then more than it holds."""
    state = train(tiny_bank, FIXED, dataclasses.replace(SMALL, updates=3), progress=False).state
    assert state.learner["filled"].flatten().tolist() == [60] * 4
    buffer = Transitions.unpacked(state.learner["replay"], 9)
    torch.testing.assert_close(buffer.dt[:, :60], torch.full((4, 60), 96 / 5))
    assert (buffer.dt[:, 60:] == 0).all()
    per_hour = -buffer.rewards[:, :20].sum(1) / (4 * 96)
    first = train(tiny_bank, FIXED, dataclasses.replace(SMALL, updates=1), progress=False).state
    torch.testing.assert_close(first.harm, per_hour)
    assert (state.scale > 0.1).all()
    more = train(tiny_bank, FIXED, dataclasses.replace(SMALL, updates=7), progress=False).state
    assert more.learner["filled"].flatten().tolist() == [140] * 4
    assert torch.equal(more.learner["replay"][:, 40:60], state.learner["replay"][:, 40:60])
    assert not torch.equal(more.learner["replay"][:, :40], state.learner["replay"][:, :40])


def test_results_do_not_depend_on_shards_or_order(tiny_bank: SimulatorBank) -> None:
    def parameters(bank: SimulatorBank, shard: int) -> Tensor:
        return train(bank, ADAPTIVE, SMALL, shard=shard, progress=False).state.actor

    together = parameters(tiny_bank, 4)
    torch.testing.assert_close(parameters(tiny_bank, 1), together, rtol=1e-3, atol=1e-3)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(parameters(tiny_bank.select(order), 3), together[order], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(parameters(tiny_bank.select([1]), 4), together[1:2], rtol=1e-3, atol=1e-3)


def test_shared_policy_does_not_depend_on_shards(tiny_bank: SimulatorBank) -> None:
    whole, cut = (train(tiny_bank, ADAPTIVE, SHARED, shard=shard, progress=False) for shard in (4, 1))
    torch.testing.assert_close(cut.state.actor, whole.state.actor, rtol=1e-3, atol=1e-3)
    assert whole.actor.patients is None
    assert whole.log["return"].shape == (4, 4)
    assert whole.log["alpha"].shape == (4, 1)
    assert whole.state.learner["replay"].shape == (1, 100, 26)


def test_centring_uses_each_simulators_own_harm_of_today(
    tiny_bank: SimulatorBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rewards that a shared policy learns from are r + rho dt over the scale, rho of the row's simulator."""
    import sys

    module = sys.modules["medgym_offline.online.soft_update"]
    step, seen = module.soft_step, []

    def spy(actor, network, learner, rows, reward, *rest):  # type: ignore[no-untyped-def]
        seen.append((rows, reward.clone()))
        return step(actor, network, learner, rows, reward, *rest)

    monkeypatch.setattr(module, "soft_step", spy)
    state = train(tiny_bank, ADAPTIVE, dataclasses.replace(SHARED, updates=2), progress=False).state
    rows, reward = seen[-1]
    expected = (rows.rewards + state.harm[rows.simulators.long()] * rows.dt) / state.scale[0, 0]
    torch.testing.assert_close(reward, expected)
    assert rows.simulators.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("config", [SMALL, SHARED], ids=["ind", "dr"])
def test_resume_equals_uninterrupted(tiny_bank: SimulatorBank, tmp_path: Path, config: TrainConfig) -> None:
    config = dataclasses.replace(config, updates=5)
    whole = train(tiny_bank, ADAPTIVE, config, progress=False)

    class KilledError(Exception):
        pass

    def kill(state: TrainState) -> None:
        if state.update == 3:
            raise KilledError

    file = tmp_path / "run.safetensors"
    settings = {"checkpoint": file, "checkpoint_every": 2, "progress": False}
    with pytest.raises(KilledError):
        train(tiny_bank, ADAPTIVE, config, watch=kill, **settings)  # type: ignore[arg-type]
    size = file.stat().st_size
    resumed = train(tiny_bank, ADAPTIVE, config, **settings)  # type: ignore[arg-type]
    for name, value in whole.state.tensors().items():
        assert torch.equal(value, resumed.state.tensors()[name]), name
    assert int(whole.state.learner["filled"].min()) > 60
    buffer = whole.state.learner["replay"]
    assert size - file.stat().st_size > 0.9 * buffer.numel() * 4, "the last checkpoint has no buffer"
    again = train(tiny_bank, ADAPTIVE, config, **settings)  # type: ignore[arg-type]
    assert torch.equal(again.state.actor, whole.state.actor)


def test_a_broken_simulator_stops_its_patient_only(tiny_bank: SimulatorBank, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = train(tiny_bank, FIXED, SMALL, progress=False)
    observe, calls = DecisionProcess.observe, 0

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
    torch.testing.assert_close(result.state.actor[others], clean.state.actor[others], rtol=1e-3, atol=1e-3)
    assert int(result.state.learner["filled"][1]) == 40, "what it broke in is not learnt from"
    for value in (result.state.actor, result.state.critic, *result.state.learner.values()):
        assert torch.isfinite(value).all()


def test_a_learner_that_diverges_keeps_its_last_good_parameters(tiny_bank: SimulatorBank) -> None:
    """One patient's critic is poisoned after the second update; its actor stays, the others go on."""
    clean = train(tiny_bank, FIXED, SMALL, progress=False)
    kept = {}

    def poison(state: TrainState) -> None:
        if state.update == 2:
            kept["actor"] = state.actor[1].clone()
            state.learner["target"][1] = float("inf")

    result = train(tiny_bank, FIXED, SMALL, progress=False, watch=poison)
    assert result.stopped == {tiny_bank.patients[1]: 2}
    assert torch.equal(result.state.actor[1], kept["actor"])
    others = [0, 2, 3]
    torch.testing.assert_close(result.state.actor[others], clean.state.actor[others], rtol=1e-3, atol=1e-3)


def test_every_scope_and_timing_trains_and_says_so(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    quick = {"updates": 2, "episodes": 4, "hidden": 8, "value_warmup": 1, **SOFT}
    recipe = BehaviorRecipe(decisions=4, shard=1, algorithm="sac", settings=dict.fromkeys(SCOPES, quick))
    run = BehaviorRun(tiny_bank.select([0, 1]), recipe, tmp_path, progress=False)
    run.train([(scope, timing) for scope in SCOPES for timing in ("adaptive", "fixed")])
    assert len(run.results) == 8
    for (scope, timing), result in run.results.items():
        assert result.actor.provenance["algorithm"] == "sac"
        assert result.actor.provenance["training"]["soft_steps"] == 3
        assert (result.actor.patients is None) == (scope in ("dr", "pop")), (scope, timing)
        assert "replay" not in result.state.learner
        assert {"alpha", "entropy"} <= set(result.log)
    assert run.results["ind", "fixed"].actor.provenance["training"]["fine_tune_from"]


def test_the_command_trains_it_and_stops_early(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from medgym_offline.cli import app

    tiny_bank.save(tmp_path / "bank.safetensors")
    (tmp_path / "recipe.toml").write_text(
        "decisions = 4\nshard = 2\n[settings.ind-scratch]\nupdates = 60\nepisodes = 4\nhidden = 8\nvalue_warmup = 1\n"
        "soft_capacity = 64\nsoft_batch = 8\nsoft_steps = 1\nsoft_rate = 1e-9\n"
    )
    command = ["behavior", "train", "--algorithm", "sac", "--scope", "ind-scratch", "--timing", "adaptive"]
    command += ["--bank", str(tmp_path / "bank.safetensors"), "--recipe", str(tmp_path / "recipe.toml")]
    command += ["--patients", "2", "--patience", "2", "--output", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    policy = load_policy(tmp_path / f"{tiny_bank.name}-ind-scratch-adaptive.safetensors")
    assert policy.provenance["algorithm"] == "sac"
    early = policy.provenance["stopped_early"]
    assert len(early) == 2
    assert all(10 < update < 60 for update in early)


def test_settings_are_checked(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    assert "sac" in ALGORITHMS
    for name in ("soft_steps", "soft_batch", "soft_capacity", "soft_rate", "soft_tau", "soft_alpha"):
        with pytest.raises(MedGymError, match=name):
            TrainConfig("sac", **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(MedGymError, match="soft_capacity is 19, but one update brings a policy up to 20 decisions"):
        train(tiny_bank, FIXED, dataclasses.replace(SMALL, soft_capacity=19), progress=False)
    with pytest.raises(MedGymError, match="up to 80 decisions"):
        train(tiny_bank, FIXED, dataclasses.replace(SHARED, soft_capacity=79), progress=False)
    assert TrainConfig.from_dict(SMALL.to_dict()) == SMALL
    assert not any(name.startswith("soft_") for name in TrainConfig("ppo").to_dict())
    file = tmp_path / "run.safetensors"
    train(tiny_bank, FIXED, dataclasses.replace(SMALL, updates=1), checkpoint=file, progress=False)
    with pytest.raises(MedGymError, match=r"soft_tau: 0\.01 -> 0\.5"):
        train(tiny_bank, FIXED, dataclasses.replace(SMALL, updates=1, soft_tau=0.5), checkpoint=file, progress=False)
    with pytest.raises(MedGymError, match="delete it or use its recipe"):
        load_state(file, {})
