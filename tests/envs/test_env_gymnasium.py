"""The Gymnasium interfaces: official checker, contract of the vector environment, replay, bad input."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence

from medgym_offline.envs import TreatmentEnv, TreatmentVectorEnv
from medgym_offline.errors import BankError, MedGymError, ProtocolError, UnknownNameError
from tests.helpers import refused


def test_made_by_name_from_a_bank_file(tiny_bank, tmp_path):
    """Arguments of a specification are JSON: the bank comes from a file, as `recover_environment` needs it."""
    path = tmp_path / "bank.safetensors"
    tiny_bank.save(path)
    env = gymnasium.make("medgym/Sepsis-v0", bank=str(path), patient=tiny_bank.patients[1], decisions=5)
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    first, second = env.reset(seed=4), again.reset(seed=4)
    assert data_equivalence(first, second)
    assert env.unwrapped.patient == tiny_bank.patients[1]
    assert data_equivalence(env.step(np.zeros(4, np.float32)), again.step(np.zeros(4, np.float32)))


def test_start_state_option(tiny_bank):
    env = TreatmentEnv(bank=tiny_bank)
    wanted = np.array([91.0, 80.0, 1.1, 13.0, 900.0, 3.0])
    for given, balance in ((wanted, 0.0), ([*wanted, 2.5], 2.5)):
        _, info = env.reset(seed=0, options={"state": given})
        np.testing.assert_allclose(info["state"], [*wanted, balance], rtol=1e-4)
    for state, words in (
        (wanted[:4], "6 values in physical units"),
        ([91.0, 80.0, 1.1, 16.0, 900.0, 3.0], r"gcs must lie in \[3, 15\] points"),
        ([91.0, 80.0, 1.1, 14.0, 900.0, float("nan")], "lactate must lie"),
        ("ill", "physical units"),
    ):
        refused(MedGymError, words, partial(env.reset, options={"state": state}))


ACTIONS = [
    ([0, 0, 0], r"shape \(3,\); expected \(4,\)"),
    ([0, np.nan, 0, 0], r"component 1 \(vasopressor\) is nan; give a number in \[-1, 1\]"),
    ([0, 0, 0, 1.5], r"component 3 \(interval\) is 1.5"),
    ("oxygen", "no array of numbers"),
]


def test_bad_actions_and_steps_out_of_turn(tiny_bank):
    env = TreatmentEnv(bank=tiny_bank, decisions=3)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, np.float32))
    env.reset(seed=0)
    for action, words in ACTIONS:
        refused(MedGymError, words, partial(env.step, action))
    # Overshoot by rounding is no mistake.
    _, _, _, _, info = env.step(np.array([1 + 5e-7, -1 - 5e-7, 0, 1]))
    assert info["dt"] == 36.0
    for _ in range(2):
        over = env.step(np.zeros(4, np.float32))[2]
    assert over
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, np.float32))


BAD = [
    (UnknownNameError, "simulator bank", {"bank": "sepsis-v9"}),
    (UnknownNameError, "world", {"world": "true"}),
    (BankError, "solution map", {"backend": "map"}),
]


def test_bad_arguments(tiny_bank, solver_bank):
    for error, words, arguments in BAD:
        refused(error, words, partial(TreatmentEnv, **{"bank": solver_bank, **arguments}))
    refused(MedGymError, "seed is -1", lambda: TreatmentEnv(bank=tiny_bank).reset(seed=-1))


def test_options_name_the_patient_of_the_episode(tiny_bank):
    """As datasets store them; the next episode is the environment's own patient's again."""
    env, ids = TreatmentEnv(bank=tiny_bank, patient=1), tiny_bank.patients
    other = TreatmentEnv(bank=tiny_bank, patient=3)
    action = np.array([0.1, -0.2, 0.3, -0.5], np.float32)
    for options in ({"patient": ids[3], "patient_index": np.int64(3)}, {"patient": ids[3]}, {"patient_index": 3}):
        assert data_equivalence(env.reset(seed=6, options=options), other.reset(seed=6))
        assert env.patient == ids[3]
        assert data_equivalence(env.step(action), other.step(action))
    env.reset(seed=6)
    assert env.patient == ids[1]


WRONG_OPTIONS = [
    ({"State": [90, 80, 1, 10, 1000, 2]}, "did you mean 'state'"),
    ({"seed": 3}, "reset option 'seed'"),
    ({"patient": "nobody"}, "patient"),
    ({"patient": 2.5}, "whole number"),
    ({"patient": True}, "whole number"),
    ({"patient_index": 4}, r"outside 0\.\.3"),
    ({"patient": "prior/1", "patient_index": 2}, "two patients"),
    ([1, 2], "dictionary"),
    ({"patient": 2, "state": [91.0, 80.0, 1.1, 14.0, 900.0, 99.0]}, "lactate must lie"),
]


@pytest.mark.parametrize("kind", [TreatmentEnv, TreatmentVectorEnv])
def test_wrong_options_change_nothing(tiny_bank, kind):
    action = np.zeros((4, 4) if kind is TreatmentVectorEnv else 4, np.float32)
    env, twin = kind(bank=tiny_bank, timing="adaptive"), kind(bank=tiny_bank, timing="adaptive")
    for one in (env, twin):
        one.reset(seed=3)
    for options, message in WRONG_OPTIONS:
        refused(MedGymError, message, partial(env.reset, seed=4, options=options))
    assert data_equivalence(env.step(action), twin.step(action))


# -- the vector environment -------------------------------------------------------------------------------------------


def test_the_vector_environment_is_made_by_name(tiny_bank):
    """It starts anew by Gymnasium's autoreset on the next step; what was returned is the caller's own."""
    envs = gymnasium.make_vec("medgym/Sepsis-v0", num_envs=6, bank=tiny_bank, decisions=5)
    assert isinstance(envs.unwrapped, TreatmentVectorEnv)
    assert envs.observation_space == gymnasium.vector.utils.batch_space(envs.single_observation_space, 6)
    mode = envs.metadata["autoreset_mode"]
    assert getattr(mode, "value", mode) == "NextStep"
    previous = envs.reset(seed=9)[0]
    kept = previous.copy()
    envs.step(envs.action_space.sample())
    np.testing.assert_array_equal(previous, kept)


def test_vector_options_name_patients(solver_bank):
    """One for all or one each, as of single environments; after an autoreset each is its own patient's again."""
    ids = solver_bank.patients
    envs = TreatmentVectorEnv(bank=solver_bank, num_envs=6, timing="fixed", decisions=3)
    singles = [TreatmentEnv(bank=solver_bank, patient=i % 4, timing="fixed", decisions=3) for i in range(6)]
    treated = [2, 2, 0, 2, 3, 1]
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 3)).astype(np.float32)
    for options in ({"patient": [ids[p] for p in treated], "patient_index": np.array(treated)}, {"patient": ids[2]}):
        each = treated if len(options) > 1 else [2] * 6
        seen = [envs.reset(seed=5, options=options)[0]]
        assert envs.patients == tuple(ids[p] for p in each)
        wanted = [[env.reset(seed=5 + i, options={"patient": p})[0] for i, (env, p) in enumerate(zip(singles, each))]]
        for _ in range(3):
            seen.append(envs.step(actions)[0])
            wanted.append([env.step(action)[0] for env, action in zip(singles, actions)])
        np.testing.assert_allclose(seen, wanted, atol=1e-5)
        envs.step(actions)
        assert envs.patients == tuple(ids[i % 4] for i in range(6))
        np.testing.assert_allclose(envs.step(actions)[4]["dt"], 32.0)
    for wrong in ([0, 1], [0, 1, 2, 3, 4, 5]):
        with pytest.raises(MedGymError):
            envs.reset(options={"patient": wrong})


def test_actions_of_finished_environments_are_ignored(tiny_bank):
    """Two environments end at different steps; the one that starts anew may be sent anything."""
    envs = TreatmentVectorEnv(bank=tiny_bank, num_envs=2, decisions=4)
    envs.reset(seed=0)
    long, short = [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -0.5]
    for _ in range(3):
        _, _, over, _, _ = envs.step(np.array([long, short], np.float32))
    assert over.tolist() == [True, False]
    _, rewards, over, _, infos = envs.step(np.array([[np.nan, 9.0, 0.0, 0.0], short], np.float32))
    assert rewards[0] == 0.0
    assert infos["time"].tolist() == [0.0, 96.0]
    with pytest.raises(MedGymError, match="of environment 0 is nan"):
        envs.step(np.array([[np.nan, 0.0, 0.0, 0.0], short], np.float32))


def test_vector_bad_input(tiny_bank):
    envs = TreatmentVectorEnv(bank=tiny_bank, num_envs=3, decisions=3)
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((3, 4), np.float32))
    envs.reset(seed=0)
    actions = np.zeros((3, 4), np.float32)
    actions[1, 2] = np.nan
    refused(MedGymError, r"component 2 \(fluids\) of environment 1 is nan", lambda: envs.step(actions))
    refused(MedGymError, r"shape \(2, 4\); expected \(3, 4\)", lambda: envs.step(actions[:2]))
    refused(MedGymError, "2 seeds for 3", lambda: envs.reset(seed=[1, 2]))
    for error, words, arguments in (
        (MedGymError, "both patient and patients", {"patient": 0, "patients": 2}),
        (UnknownNameError, "bank 'prior-4-0'", {"patients": [0, 0]}),
        (MedGymError, "num_envs is 0", {"num_envs": 0}),
        (ProtocolError, "max_episode_steps is 5", {"max_episode_steps": 5}),
    ):
        refused(error, words, partial(TreatmentVectorEnv, bank=tiny_bank, **arguments))
