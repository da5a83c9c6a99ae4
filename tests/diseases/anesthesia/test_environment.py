"""General anesthesia as an environment: the contract, the clock, the worlds, the clinician, the bank file."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import medgym_offline as mgo
from medgym_offline.diseases.anesthesia import DISEASE
from medgym_offline.diseases.anesthesia.bank import build_anesthesia
from medgym_offline.diseases.anesthesia.patients import load_patients
from medgym_offline.envs.process import DecisionProcess
from medgym_offline.envs.rollout import Rollout, dense, draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.errors import DiseaseError
from medgym_offline.policies import builtin_policy
from medgym_offline.simulators.bank import SimulatorBank


@pytest.fixture(scope="module")
def bank() -> SimulatorBank:
    return mgo.load_simulators("anesthesia-v0")


def _play(bank: SimulatorBank, world: str, timing: str = "adaptive", decisions: int = 6, episodes: int = 2) -> Rollout:
    chosen = bank.world(world)
    config = ProcessConfig(timing=timing, decisions=decisions, disease="anesthesia")  # type: ignore[arg-type]
    noise = draw_noise(episode_seeds(0, "test", chosen.patients, episodes), chosen, config)
    act = builtin_policy("clinician", chosen, timing, decisions).act
    return rollout(DecisionProcess(chosen, config), act, noise)


@pytest.mark.parametrize("arguments", [{}, {"timing": "fixed"}, {"world": "own", "decisions": 5}])
def test_the_environment_keeps_the_contract(arguments: dict[str, object]) -> None:
    env = gym.make("medgym/Anesthesia-v0", patient="surgical/007", **arguments)  # type: ignore[arg-type]
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("world", ["true", "own", "crossfit"])
def test_an_operation_is_replayed_from_its_seed_and_ends_on_time(world: str) -> None:
    env = gym.make("medgym/Anesthesia-v0", world=world)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)
    runs = []
    for _ in range(2):
        rows, done = [env.reset(seed=5)[0]], False
        elapsed = 0.0
        for action in actions:
            observation, reward, done, _, info = env.step(action)
            rows.append(np.append(observation, reward))
            elapsed += info["dt"]
            assert info["dt"] % 0.25 == 0
            if done:
                break
        assert done
        assert elapsed == info["time"] == 120.0
        runs.append(np.concatenate(rows))
    np.testing.assert_array_equal(*runs)


def test_the_vector_environment_plays_what_single_ones_play() -> None:
    ids = ["surgical/002", "surgical/050"]
    many = gym.make_vec("medgym/Anesthesia-v0", num_envs=2, patients=ids)
    singles = [gym.make("medgym/Anesthesia-v0", patient=patient) for patient in ids]
    seen, _ = many.reset(seed=[3, 4])
    alone = [env.reset(seed=seed)[0] for env, seed in zip(singles, (3, 4))]
    np.testing.assert_array_equal(seen, np.stack(alone))
    action = np.array([[-0.2, -0.8, -0.9, -0.5], [0.1, -1.0, -0.5, -0.8]], np.float32)
    seen, reward, *_ = many.step(action)
    for i, env in enumerate(singles):
        observation, r, *_ = env.step(action[i])
        np.testing.assert_array_equal(seen[i], observation)
        assert reward[i] == pytest.approx(r, rel=1e-6)


@pytest.mark.parametrize("decisions", [2, 5, 6, 20])
def test_decisions_fill_the_operation_and_never_exceed_the_budget(bank: SimulatorBank, decisions: int) -> None:
    played = _play(bank.select(list(range(8))), "true", decisions=decisions)
    assert (played.dt.sum(-1) == 120.0).all()
    assert (played.valid.sum(-1) <= decisions).all()
    within = played.dt[played.valid]
    assert ((within >= 1) & (within <= 60) & (within % 0.25 == 0)).all()


def test_looking_before_events_harms_less_than_looking_by_the_clock(bank: SimulatorBank) -> None:
    harm = {t: -10.0 * _play(bank, "true", t).rewards.sum(-1).mean() / 120.0 for t in ("adaptive", "fixed")}
    assert harm["adaptive"] < 0.7 < harm["fixed"] < 1.0


@pytest.mark.parametrize("world", ["true", "own"])
def test_a_patient_does_not_depend_on_batch_mates(bank: SimulatorBank, world: str) -> None:
    few = bank.select(["surgical/004", "surgical/090"])
    many, alone = _play(bank, world), _play(few, world)
    for i, patient in enumerate(few.patients):
        j = bank.index(patient)
        for name in ("states", "dt", "costs"):
            assert torch.equal(getattr(many, name)[j], getattr(alone, name)[i]), name
        torch.testing.assert_close(many.rewards[j], alone.rewards[i])


def test_phase_and_events_agree_along_the_path(bank: SimulatorBank) -> None:
    few = bank.select(list(range(4)))
    played = _play(few, "true")
    process = DecisionProcess(few.world("true"), ProcessConfig(disease="anesthesia"))
    times = torch.arange(0.0, 120.25, 0.25)
    states, _ = dense(process, played, times)
    assert played.exogenous is not None
    tube, _, end = (played.exogenous[..., i, None] for i in range(3))
    expected = ((times > tube) & (times <= end)).float() + 2.0 * (times > end)
    physical = few.denormalize(states)
    torch.testing.assert_close(physical[..., DISEASE.column("phase")], expected)
    bis, surgical = (physical[..., DISEASE.column(name)] for name in ("bis_now", "surgical_bis"))
    torch.testing.assert_close(surgical, bis * (expected == 1.0), rtol=1e-4, atol=1e-4)


def test_the_released_bank_has_its_worlds_and_split(bank: SimulatorBank) -> None:
    assert bank.worlds == ("own", "crossfit", "true")
    people = load_patients()
    assert list(bank.patients) == list(people.ids)
    split = bank.metadata["split"]
    assert (len(split["train"]), len(split["test"])) == (80, 30)
    assert not set(split["train"]) & set(split["test"])
    assert len(bank.population()) == 1


def test_a_bank_survives_its_file(tmp_path: Path) -> None:
    built = build_anesthesia(load_patients().select([3, 60]), name="small")
    built.save(tmp_path / "small.safetensors")
    read = mgo.load_simulators(tmp_path / "small.safetensors")
    assert read.content_hash == built.content_hash
    for world in built.worlds:
        assert torch.equal(_play(built, world).states, _play(read, world).states)
    with pytest.raises(DiseaseError, match="recorded operations"):
        DISEASE.load_model().initial_raw(0)
