"""One contract over every disease, world and timing; one disease goes the whole way from records to scores."""

import json
import math
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

import medgym_offline as mgo
from medgym_offline.datasets import Recipe, generate, load_dataset, verify
from medgym_offline.envs import TreatmentEnv, TreatmentVectorEnv
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.offline import OfflineConfig, train
from medgym_offline.online.config import TrainConfig
from medgym_offline.online.train import train as train_online
from medgym_offline.policies import load_policy, save_policy

DISEASES = mgo.list_diseases()
TIMINGS = ("adaptive", "fixed")


@pytest.fixture(params=DISEASES)
def bank(request):
    """Some patients of a disease."""
    if request.param in ("sepsis", "toy"):
        return request.getfixturevalue({"sepsis": "solver_bank", "toy": "toy_bank"}[request.param])
    return mgo.load_simulators(f"{request.param}-v0").select(range(9))


@pytest.mark.parametrize("timing", TIMINGS)
def test_an_episode_is_replayed_from_its_seed_and_keeps_to_space_and_clock(bank, timing):
    config = ProcessConfig(timing=timing, disease=bank.disease.name)
    for world in bank.worlds:
        env = gymnasium.make(f"medgym/{bank.disease.name.title()}-v0", bank=bank, timing=timing, world=world)
        if world == bank.worlds[0]:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                check_env(env.unwrapped, skip_render_check=True)
        env.action_space.seed(0)
        actions, runs = [env.action_space.sample() for _ in range(config.decisions)], []
        for _ in range(2):
            rows, over = [env.reset(seed=5)[0]], False
            for action in actions:
                seen, reward, over, truncated, info = env.step(action)
                assert env.observation_space.contains(seen)
                assert not truncated
                assert round(info["dt"] / config.tick) * config.tick == pytest.approx(info["dt"], abs=1e-4)
                assert config.min_interval - 1e-4 <= info["dt"] <= config.max_interval + 1e-4
                rows.append(np.append(seen, [reward, info["dt"], info["cost"]]))
                if over:
                    break
            assert over
            assert info["time"] == config.horizon
            runs.append(np.concatenate(rows))
        np.testing.assert_array_equal(*runs)


def test_many_environments_are_as_many_single_ones(bank):
    """Same seeds, same actions, across autoresets: the same episodes, infos and types as Gymnasium's own vector."""
    budget = math.ceil(bank.disease.process.horizon / bank.disease.process.max_interval) + 1
    native = TreatmentVectorEnv(bank=bank, num_envs=2, decisions=budget)
    looped = SyncVectorEnv([lambda i=i: TreatmentEnv(bank=bank, patient=i, decisions=budget) for i in range(2)])
    native.action_space.seed(1)
    for seed, steps in (([9, 8], budget + 2), (None, 0)):  # without one, both draw from the streams set before
        (seen, infos), (wanted, others) = native.reset(seed=seed), looped.reset(seed=seed)
        np.testing.assert_array_equal(infos["seed"], others["seed"])
        np.testing.assert_allclose(seen, wanted, atol=1e-5)
        for _ in range(steps):
            actions = native.action_space.sample()
            ours, theirs = native.step(actions), looped.step(actions)
            assert ours[4].keys() == theirs[4].keys()
            pairs = [*zip(ours[:4], theirs[:4]), *((ours[4][name], theirs[4][name]) for name in ours[4])]
            for mine, other in pairs:
                assert mine.dtype == other.dtype
                np.testing.assert_allclose(mine, other, atol=2e-3, rtol=2e-3)


def played(bank, seeds, timing="adaptive"):
    """Episodes of a deterministic policy, a function of each observation alone."""
    config = ProcessConfig(timing=timing, disease=bank.disease.name, path_costs=True)
    mix = torch.sin(torch.arange(config.observation_dim * config.action_dim) * 7.0).view(-1, config.action_dim)

    def act(seen):  # without `@`, whose last bits depend on the batch
        return torch.sin(3 * sum(seen[..., i, None] * row for i, row in enumerate(mix)))

    return rollout(DecisionProcess(bank, config), act, draw_noise(seeds, bank, config), 0.05)


def test_a_bank_comes_back_from_its_file(bank, tmp_path):
    bank.save(tmp_path / "bank.safetensors")
    again = mgo.load_simulators(tmp_path / "bank.safetensors")
    for name in ("patients", "worlds", "scales", "physics", "content_hash"):
        assert getattr(again, name) == getattr(bank, name), name
    assert again.replace().content_hash == bank.content_hash
    seeds = episode_seeds(0, "file", bank.patients, 1)
    for world in bank.worlds:
        assert torch.equal(played(again.world(world), seeds).states, played(bank.world(world), seeds).states)


@pytest.mark.parametrize("timing", TIMINGS)
def test_a_patient_and_an_episode_do_not_depend_on_their_mates(bank, timing):
    """States to the bit; sepsis multiplies matrices, whose last bits depend on the batch, and so do sums of costs."""
    seeds = episode_seeds(0, "test", bank.patients, 5)
    for world in bank.worlds:
        there = bank.world(world)
        together = played(there, seeds, timing)
        assert (together.time[..., -1] == np.float32(bank.disease.process.horizon)).all()
        assert (together.valid.sum(-1) <= bank.disease.process.decisions).all()
        for p, b in ((2, 4), (len(bank) - 1, 0)):
            alone = played(there.select([p]), seeds[p : p + 1, b : b + 1], timing)
            for name in ("states", "dt", "rewards", "costs", "costs_path", "severity"):
                mine, other = getattr(alone, name)[0, 0], getattr(together, name)[p, b]
                exact = bank.disease.name != "sepsis" and name in ("states", "dt")
                close = 0.0 if exact else 2e-3
                np.testing.assert_allclose(mine, other, atol=close, rtol=close, err_msg=name)


def test_records_say_who_needs_more_insulin(toy_bank):
    own, true = (toy_bank.current(w).params.tensors()["sensitivity"].log().flatten() for w in ("own", "true"))
    assert np.corrcoef(own, true)[0, 1] > 0.8
    assert toy_bank.worlds == ("own", "crossfit", "true")


def test_the_truth_is_the_minimal_model(toy_bank):
    """Untreated glucose follows the exact solution G(t) = Gb + (G0 - Gb) exp(-p1 t)."""
    truth = toy_bank.world("true")
    p = truth.current().params.tensors()
    x = truth.initial_state().unsqueeze(1)
    start = truth.denormalize(x)[:, 0, 0]
    end = truth.denormalize(truth.flow(x, torch.zeros(4, 1, 1), torch.full((4, 1), 5.0)))[:, 0, 0]
    basal = p["basal"][:, 0]
    torch.testing.assert_close(end, basal + (start - basal) * torch.exp(-5.0 * p["p1"][:, 0]), rtol=2e-3, atol=0.2)


def test_from_records_to_scores(toy_bank, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    bank_file, behavior_file = tmp_path / "toy-quick.safetensors", tmp_path / "behavior.safetensors"
    toy_bank.save(bank_file)
    process = ProcessConfig(disease="toy")
    found = train_online(toy_bank, process, TrainConfig(updates=2, episodes=8, hidden=16), progress=False)
    save_policy(found.policy, behavior_file)
    files = {"bank": str(bank_file), "behavior": str(behavior_file), "world": "true"}
    recipe = Recipe("medgym/toy-chain-v0", "A chain.", **files, decisions=6, episodes=6, perturbation=0.3)
    made = generate(recipe, progress=False)
    assert verify(made.id, progress=False).ok
    rows = load_dataset(made.id, progress=False)
    assert (rows.disease, rows.observation_dim, rows.action_dim) == ("toy", 3, 2)
    stored = json.loads((made.path / "data" / "metadata.json").read_text(encoding="utf-8"))
    assert stored["medgym"]["disease"] == "toy"
    for algorithm in ("bc", "cql"):
        policy = train(algorithm, rows, "ind", 0, OfflineConfig(updates=20, hidden=16, batch=16), progress=False).policy
        path = save_policy(policy, tmp_path / f"{algorithm}.pt")
        assert load_policy(path).disease == "toy"
        result = mgo.evaluate(path, bank=toy_bank, episodes=3, dataset=rows)
        assert set(result.worlds) == {"own", "crossfit", "true"}
        assert {"severity_mean", "safe_path", "support_distance"} <= set(result.metrics)
