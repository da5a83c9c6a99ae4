"""General anesthesia as an environment: the contract, the clock, the worlds, the clinician, the bank file."""

import pytest
import torch

import medgym_offline as mgo
from medgym_offline.diseases.anesthesia import DISEASE
from medgym_offline.diseases.anesthesia.bank import build_anesthesia
from medgym_offline.diseases.anesthesia.patients import load_patients
from medgym_offline.envs.process import DecisionProcess
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.errors import DiseaseError
from medgym_offline.policies import builtin_policy


@pytest.fixture(scope="module")
def bank():
    return mgo.load_simulators("anesthesia-v0")


def _play(bank, world, timing="adaptive", decisions=6, episodes=2):
    chosen = bank.world(world)
    config = ProcessConfig(timing=timing, decisions=decisions, disease="anesthesia")
    noise = draw_noise(episode_seeds(0, "test", chosen.patients, episodes), chosen, config)
    act = builtin_policy("clinician", chosen, timing, decisions).act
    return rollout(DecisionProcess(chosen, config), act, noise)


def test_looking_before_events_harms_less_than_looking_by_the_clock(bank):
    harm = {t: -10.0 * _play(bank, "true", t).rewards.sum(-1).mean() / 120.0 for t in ("adaptive", "fixed")}
    assert harm["adaptive"] < 0.7 < harm["fixed"] < 1.0


def test_phase_and_events_agree_along_the_path(bank):
    few = bank.select(list(range(4)))
    played = _play(few, "true")
    process = DecisionProcess(few.world("true"), ProcessConfig(disease="anesthesia"))
    times = torch.arange(0.0, 120.25, 0.25)
    states, _ = dense(process, played, times)
    tube, _, end = (played.exogenous[..., i, None] for i in range(3))
    expected = ((times > tube) & (times <= end)).float() + 2.0 * (times > end)
    physical = few.denormalize(states)
    torch.testing.assert_close(physical[..., DISEASE.column("phase")], expected)
    bis, surgical = (physical[..., DISEASE.column(name)] for name in ("bis_now", "surgical_bis"))
    torch.testing.assert_close(surgical, bis * (expected == 1.0), rtol=1e-4, atol=1e-4)


def test_a_bank_survives_its_file(tmp_path):
    built = build_anesthesia(load_patients().select([3, 60]), name="small")
    built.save(tmp_path / "small.safetensors")
    read = mgo.load_simulators(tmp_path / "small.safetensors")
    assert read.content_hash == built.content_hash
    for world in built.worlds:
        assert torch.equal(_play(built, world).states, _play(read, world).states)
    with pytest.raises(DiseaseError, match="recorded operations"):
        DISEASE.load_model().initial_raw(0)
