"""One contract over the environment of every disease, world and timing."""

import math
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

import medgym_offline as mgo
from medgym_offline.envs import TreatmentEnv, TreatmentVectorEnv
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout

DISEASES = mgo.list_diseases()
TIMINGS = ("adaptive", "fixed")


@pytest.fixture(params=DISEASES)
def bank(request):
    """Four patients of a disease."""
    made = {"sepsis": "tiny_bank", "toy": "toy_bank"}.get(request.param)
    if made is not None:
        return request.getfixturevalue(made)
    return mgo.load_simulators(f"{request.param}-v0").select(range(4))


@pytest.mark.parametrize("timing", TIMINGS)
def test_an_episode_is_replayed_from_its_seed_and_keeps_to_space_and_clock(bank, timing):
    config = ProcessConfig(timing=timing, disease=bank.disease.name)
    for world in bank.worlds:
        env = gymnasium.make(f"medgym/{bank.disease.name.title()}-v0", bank=bank, timing=timing, world=world)
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


@pytest.mark.parametrize("timing", TIMINGS)
def test_a_patient_and_an_episode_do_not_depend_on_their_mates(bank, timing):
    config = ProcessConfig(timing=timing, disease=bank.disease.name, path_costs=True)
    mix = torch.sin(torch.arange(config.observation_dim * config.action_dim) * 7.0)

    def act(seen):
        return torch.sin(3 * seen @ mix.view(config.observation_dim, config.action_dim))

    for world in bank.worlds:
        there = bank.world(world)
        seeds = episode_seeds(0, "test", there.patients, 5)
        together = rollout(DecisionProcess(there, config), act, draw_noise(seeds, there, config), 0.05)
        one = there.select([2])
        alone = rollout(DecisionProcess(one, config), act, draw_noise(seeds[2:3, 4:5], one, config), 0.05)
        assert (together.time[..., -1] == config.horizon).all()
        assert (together.valid.sum(-1) <= config.decisions).all()
        for name in ("states", "dt", "rewards", "costs", "costs_path", "severity"):
            mine, other = getattr(alone, name)[0, 0], getattr(together, name)[2, 4]
            torch.testing.assert_close(mine, other, atol=2e-3, rtol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
