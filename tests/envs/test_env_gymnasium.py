"""The Gymnasium interfaces beyond the contract over diseases: made by name, options, autoreset, bad input."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence

from medgym_offline.envs import TreatmentEnv, TreatmentVectorEnv
from medgym_offline.errors import BankError, MedGymError, ProtocolError, UnknownNameError
from tests.helpers import refused

WANTED = np.array([91.0, 80.0, 1.1, 13.0, 900.0, 3.0])


def test_made_by_name_from_a_bank_file(tiny_bank, tmp_path):
    """Arguments of a specification are JSON: the bank comes from a file, as `recover_environment` needs it."""
    tiny_bank.save(tmp_path / "bank.safetensors")
    arguments = {"bank": str(tmp_path / "bank.safetensors"), "patient": tiny_bank.patients[1], "decisions": 5}
    env = gymnasium.make("medgym/Sepsis-v0", **arguments)
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert data_equivalence(env.reset(seed=4), again.reset(seed=4))
    assert env.unwrapped.patient == tiny_bank.patients[1]
    assert data_equivalence(env.step(np.zeros(4, np.float32)), again.step(np.zeros(4, np.float32)))


def test_the_vector_environment_is_made_by_name(tiny_bank):
    """It starts anew by Gymnasium's autoreset on the next step; what was returned is the caller's own."""
    envs = gymnasium.make_vec("medgym/Sepsis-v0", num_envs=6, bank=tiny_bank, decisions=5)
    assert isinstance(envs.unwrapped, TreatmentVectorEnv)
    mode = envs.metadata["autoreset_mode"]
    assert getattr(mode, "value", mode) == "NextStep"
    previous = envs.reset(seed=9)[0]
    kept = previous.copy()
    envs.step(envs.action_space.sample())
    np.testing.assert_array_equal(previous, kept)


def test_start_state_option(tiny_bank):
    envs = TreatmentVectorEnv(bank=tiny_bank)
    for given, balance in ((WANTED, 0.0), ([*WANTED, 2.5], 2.5), (np.tile(WANTED, (4, 1)), 0.0)):
        _, info = envs.reset(seed=0, options={"state": given})
        np.testing.assert_allclose(info["state"], np.tile([*WANTED, balance], (4, 1)), rtol=1e-4)


def test_options_name_the_patients_of_the_episodes(solver_bank):
    """One for all or one each, as datasets store them; after an autoreset each is its own patient's again."""
    ids = solver_bank.patients
    arguments = {"bank": solver_bank, "timing": "fixed", "decisions": 3}
    envs = TreatmentVectorEnv(num_envs=6, **arguments)
    treated = [2, 2, 0, 2, 3, 1]
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 3)).astype(np.float32)
    for options in ({"patient": [ids[p] for p in treated], "patient_index": np.array(treated)}, {"patient": ids[2]}):
        each = treated if len(options) > 1 else [2] * 6
        singles = [TreatmentEnv(patient=p, **arguments) for p in each]
        seen = [envs.reset(seed=5, options=options)[0]]
        assert envs.patients == tuple(ids[p] for p in each)
        wanted = [[env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]]
        for _ in range(3):
            seen.append(envs.step(actions)[0])
            wanted.append([env.step(action)[0] for env, action in zip(singles, actions)])
        np.testing.assert_allclose(seen, wanted, atol=1e-5)
        envs.step(actions)
        assert envs.patients == tuple(ids[i % 4] for i in range(6))
        np.testing.assert_allclose(envs.step(actions)[4]["dt"], 32.0)


WRONG_OPTIONS = [
    ({"State": [90, 80, 1, 10, 1000, 2]}, "did you mean 'state'"),
    ({"patient": "nobody"}, "patient"),
    ({"patient": 2.5}, "whole number"),
    ({"patient": True}, "whole number"),
    ({"patient_index": 4}, "give 0 to 3"),
    ({"patient": "prior/1", "patient_index": 2}, "two patients"),
    ({"patient": [0, 1]}, "2 .*for"),
    ([1, 2], "dictionary"),
    ({"patient": 2, "state": [*WANTED[:5], 99.0]}, "lactate must lie"),
    ({"state": [*WANTED[:5], float("nan")]}, "lactate must lie"),
    ({"state": [91.0, 80.0, 1.1, 16.0, 900.0, 3.0]}, r"gcs must lie in \[3, 15\] points"),
    ({"state": WANTED[:4]}, "6 values in physical units"),
    ({"state": "ill"}, "physical units"),
]


@pytest.mark.parametrize("kind", [TreatmentEnv, TreatmentVectorEnv])
def test_wrong_options_change_nothing(tiny_bank, kind):
    env, twin = kind(bank=tiny_bank), kind(bank=tiny_bank)
    for one in (env, twin):
        one.reset(seed=3)
    for options, message in WRONG_OPTIONS:
        refused(MedGymError, message, partial(env.reset, seed=4, options=options))
    refused(MedGymError, "seed is -1", lambda: env.reset(seed=-1))
    action = np.zeros(env.action_space.shape, np.float32)
    assert data_equivalence(env.step(action), twin.step(action))


def test_actions_of_finished_environments_are_ignored(tiny_bank):
    """Two environments end at different steps; the one that starts anew may be sent anything."""
    envs = TreatmentVectorEnv(bank=tiny_bank, num_envs=2, decisions=4)
    refused(MedGymError, "1 seeds for 2", lambda: envs.reset(seed=[1]))
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((2, 4), np.float32))
    envs.reset(seed=0)
    long, short = [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -0.5]
    for _ in range(3):
        _, _, over, _, _ = envs.step(np.array([long, short], np.float32))
    assert over.tolist() == [True, False]
    broken = np.array([[np.nan, 9.0, 0.0, 0.0], short], np.float32)
    _, rewards, over, _, infos = envs.step(broken)
    assert rewards[0] == 0.0
    assert infos["time"].tolist() == [0.0, 96.0]
    refused(MedGymError, r"component 0 \(fio2\) of environment 0 is nan", lambda: envs.step(broken))
    refused(MedGymError, r"shape \(1, 4\); expected \(2, 4\)", lambda: envs.step(broken[:1]))


def test_bad_actions_and_steps_out_of_turn(tiny_bank):
    env = TreatmentEnv(bank=tiny_bank, decisions=3)
    env.reset(seed=0)
    for action, words in (
        ([0, 0, 0], r"shape \(3,\); expected \(4,\)"),
        ([0, np.nan, 0, 0], r"component 1 \(vasopressor\) is nan; give a number in \[-1, 1\]"),
        ([0, 0, 0, 1.5], r"component 3 \(interval\) is 1.5"),
        ("oxygen", "no array of numbers"),
    ):
        refused(MedGymError, words, partial(env.step, action))
    # Overshoot by rounding is no mistake.
    assert env.step(np.array([1 + 5e-7, -1 - 5e-7, 0, 1]))[4]["dt"] == 36.0
    for _ in range(2):
        over = env.step(np.zeros(4, np.float32))[2]
    assert over
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, np.float32))


def test_bad_arguments(solver_bank):
    for error, words, arguments in (
        (UnknownNameError, "simulator bank", {"bank": "sepsis-v9"}),
        (UnknownNameError, "world", {"world": "true"}),
        (BankError, "solution map", {"backend": "map"}),
        (MedGymError, "both patient and patients", {"patient": 0, "patients": 2}),
        (UnknownNameError, "bank 'prior-4-0'", {"patients": [0, 0]}),
        (MedGymError, "num_envs is 0", {"num_envs": 0}),
        (ProtocolError, "max_episode_steps is 5", {"max_episode_steps": 5}),
        (ProtocolError, "did you mean 'timing'", {"timming": "fixed"}),
    ):
        refused(error, words, partial(TreatmentVectorEnv, **{"bank": solver_bank, **arguments}))
