"""Off-policy evaluation: fitted Q on a process of known value, the whole audit on a small bank, and its command."""

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medgym_offline.datasets import generate
from medgym_offline.datasets.behaviors import Behavior
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.envs.process import ProcessConfig
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.evaluation.binding import BoundPolicy, resolve_policy
from medgym_offline.evaluation.ope import OpeSettings, audit
from medgym_offline.evaluation.ope.estimators import PerturbedPolicy, episode_grid, monte_carlo_returns
from medgym_offline.evaluation.ope.fqe import FqeConfig, fit_fqe
from tests.evaluation.conftest import Constant
from tests.helpers import refused, write_recipe
from tests.leaderboard.workshop import run
from tests.offline.toy import DECISIONS, toy

GAMMA = 0.99
RECIPE = Recipe("medgym/unpublished-v0", "Test.", "tiny", "ind")


class Near(Constant):
    """A behavior that differs a little; tables call it by its class."""


def test_fqe_finds_the_known_value():
    """r = 1 - (0.2 + 0.05 N)^2 - (0.05 N)^2 at hours 0, 32 and 64."""
    data = toy(patients=2, episodes=300)
    logged = episode_grid(data)
    center = torch.tensor([0.3 * (int(p.rsplit("/", 1)[1]) - 1) for p in logged.patients])[:, None]

    def act(observations):
        """The best action of the toy process, off by 0.2; a network per patient would do the same."""
        action = torch.zeros(*observations.shape[:2], 4)
        action[..., 0] = center + 0.4 * observations[..., 0] + 0.2
        action[..., 3] = 0.2
        return action

    follow = SimpleNamespace(act=act, patients=logged.patients, timing="adaptive")
    policy = PerturbedPolicy(BoundPolicy(follow, "follow", "adaptive", DECISIONS), logged.patients, 0.05)
    found = fit_fqe(data, logged, policy, GAMMA, config=FqeConfig(updates=1500, batch=128))
    reward = 1.0 - 0.2**2 - 2 * 0.05**2
    truth = sum(reward * GAMMA ** (32.0 * k) for k in range(DECISIONS))
    assert found.value.numpy() == pytest.approx(truth, abs=0.06)
    # Last decision: Q is the reward, which no expectation enters.
    last = logged.rewards[..., -1]
    assert float((found.q[..., -1] - last).abs().mean()) < 0.06
    assert bool((found.v_next[..., -1] == 0).all())


def test_grid_holds_the_rows_of_the_dataset(transitions):
    logged = episode_grid(transitions)
    assert logged.valid.shape[:2] == (4, 6)
    assert int(logged.valid.sum()) == len(transitions)
    np.testing.assert_array_equal(logged.rewards[logged.valid].numpy(), transitions.rewards.astype(float))
    assert torch.allclose(logged.dt.sum(-1), torch.full((4, 6), 96.0, dtype=torch.float64))
    chosen = episode_grid(transitions, transitions.patients[2:0:-1])
    torch.testing.assert_close(chosen.actions, logged.actions[[2, 1]])
    uneven = transitions.select(np.arange(len(transitions)) > transitions.episode_starts()[1] - 1)
    refused(DatasetError, "as many for everyone", lambda: episode_grid(uneven))


@pytest.fixture(scope="module")
def found(transitions, behavior, tiny_bank, treatments):
    policies = [behavior, Near(treatments + 0.005, tiny_bank.patients), "zero", "random"]
    settings = OpeSettings(episodes=4, fqe=FqeConfig(updates=60, batch=64, hidden=32), min_sample_size=3.0)
    return audit(transitions, RECIPE, Behavior("ind", "0", behavior), tiny_bank, policies, settings=settings)


def test_the_behavior_is_estimated_by_its_own_data(found, transitions):
    """Equal probabilities: weights are 1/E and WIS is the mean return of the data."""
    logged = episode_grid(transitions)
    i = found.policies.index("Constant")
    np.testing.assert_allclose(found.estimates["wis"][i], logged.rewards.sum(-1).mean(-1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.sample_size[i], 6.0, rtol=1e-5)
    assert (found.sample_size >= 1 - 1e-9).all()
    near, zero = (found.sample_size[found.policies.index(name)].mean() for name in ("Near", "zero"))
    assert near > zero


def test_model_and_truth_are_returns_of_the_simulators(found, tiny_bank):
    bound = resolve_policy("zero", tiny_bank, "adaptive", 20, 20)
    i = found.policies.index("zero")
    for purpose, shown in (("ope-model", found.estimates["model"]), ("ope-truth", found.truth["own"])):
        again = monte_carlo_returns(bound, tiny_bank, ProcessConfig(), 4, 0.05, 1.0, 0, purpose)
        np.testing.assert_allclose(shown[i], again.mean(1).numpy(), rtol=1e-12)
    alone = tiny_bank.select([2])
    one = monte_carlo_returns(bound, alone, ProcessConfig(), 4, 0.05, 1.0, 0, "ope-truth")
    np.testing.assert_allclose(one.mean(1).numpy(), found.truth["own"][i, [2]], rtol=1e-4)
    assert not np.allclose(found.estimates["model"], found.truth["own"], rtol=1e-6)


def test_mistakes_are_named(transitions, behavior, tiny_bank):
    def ask(*policies, rows=transitions, how=RECIPE):
        return audit(rows, how, Behavior("ind", "0", behavior), tiny_bank, list(policies))

    still, times = dataclasses.replace(RECIPE, perturbation=0.0), itertools.count()
    unknown = dataclasses.replace(transitions, behavior_log_prob=np.full(len(transitions), np.nan, np.float32))
    unsteady = SimpleNamespace(timing="adaptive", act=lambda o: np.full((*o.shape[:2], 4), 0.01 * next(times)))
    refused(DatasetError, "perturbation is 0", lambda: ask("zero", how=still))
    refused(DatasetError, "behavior_log_prob is not known", lambda: ask("zero", rows=unknown))
    refused(MedGymError, "two policies are called 'zero'", lambda: ask("zero", "zero"))
    refused(MedGymError, "'gamma' is 1.5", lambda: OpeSettings(gamma=1.5))
    refused(MedGymError, "no policy", ask)
    refused(MedGymError, "answers the same observations differently", lambda: ask(unsteady))


@pytest.fixture
def dataset(tiny_bank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_bank.save("bank.safetensors")
    fields = {"id": "medgym/mix-v0", "description": "Test.", "bank": "bank.safetensors", "behavior": "zero + random"}
    return generate(write_recipe(Path("mix.toml"), **fields, episodes=4, perturbation=0.05), progress=False).id


def test_tables_file_and_json(dataset):
    argv = ("ope", "--dataset", dataset, "--policy", "random", "--policy", "zero", "--episodes", "3", "--updates", "50")
    done = run(*argv, "--output", "out")
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    for words in ("4 patients x 4 logged episodes", "regret@1", "warning: effective sample size below 10 episodes"):
        assert words in text
    value = json.loads(Path("out/ope.json").read_text())
    assert value["policies"] == ["random", "zero"]
    assert [p["name"] for p in value["info"]["behavior"]["parts"]] == ["zero", "random"]
    found = json.loads(run(*argv, "--json", "--patients", "2").out)
    assert found["patients"] == value["patients"][:2]
    # A patient's numbers do not depend on who else is there, to float32 rounding.
    for name, estimates in found["estimates"].items():
        np.testing.assert_allclose(estimates, np.array(value["estimates"][name])[:, :2], rtol=2e-3, err_msg=name)
    np.testing.assert_allclose(found["truth"]["own"], np.array(value["truth"]["own"])[:, :2], rtol=1e-4)
