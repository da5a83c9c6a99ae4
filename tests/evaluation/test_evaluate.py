import dataclasses
import itertools
import json
import threading
from types import SimpleNamespace as Answer

import jsonschema
import numpy as np
import polars as pl
import pytest
import torch

from medgym_offline import sepsis
from medgym_offline.datasets import catalogue
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense
from medgym_offline.errors import MedGymError, PolicyError, ProtocolError, UnknownNameError
from medgym_offline.evaluation import Evaluation, evaluate
from medgym_offline.evaluation import worlds as worlds_module
from medgym_offline.evaluation.result import COLUMNS
from medgym_offline.files import release_folder
from medgym_offline.policies import StackedActor, export_torchscript, save_policy
from medgym_offline.stack import StackedMLP
from tests.evaluation.conftest import Constant
from tests.helpers import refused
from tests.rolled import played


def actor(patients, seed=0):
    count = 1 if patients is None else len(patients)
    return StackedActor(StackedMLP(count, (9, 16, 4), seeds=range(seed, seed + count)), patients, 20)


def table(evaluation):
    return np.stack([v for k, v in evaluation.per_patient.items() if k != "patient"])


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_rollout(tiny_bank, behavior):
    """Every headline metric again, from the simulator up, without the evaluator's own code."""
    found = evaluate(behavior, bank=tiny_bank, episodes=2, seed=5, worlds=["crossfit"])
    bank = tiny_bank.world("crossfit")
    process = DecisionProcess(bank, ProcessConfig(timing="adaptive", decisions=20))
    again, _ = played(process, lambda o: torch.as_tensor(behavior.act(o)), 5, 2)
    np.testing.assert_allclose(found.per_patient["return"], again.rewards.double().sum(-1).mean(-1), rtol=1e-5)
    states, treatments = dense(process, again, torch.arange(97.0))
    physical = bank.denormalize(states)
    severity = sepsis.sofa(physical, bank.denormalize_treatment(treatments)[..., 1]).double()
    np.testing.assert_allclose(found.per_patient["severity_mean"], severity.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.per_patient["severity_end"], severity[..., -1].mean(1), rtol=1e-4)
    safe = (physical[:, :, 21:, 5] < 4.0).double().mean((1, 2))
    np.testing.assert_allclose(found.per_patient["safe_hourly"], 100 * safe, atol=0.7)
    assert found.metrics["severity_mean"] == pytest.approx(severity.mean().item(), rel=1e-4)
    np.testing.assert_allclose(found.curves["severity"]["mean"], severity.mean((0, 1)), rtol=1e-3)
    # The end of the last decision is the state at 96 h.
    np.testing.assert_allclose(found.per_patient["severity_end"], again.severity[:, :, -1].double().mean(1), rtol=1e-5)


# -- independence, seeds ---------------------------------------------------------------------------------------------


def test_a_patient_alone_and_in_any_block_equals_its_row(tiny_bank, behavior, transitions, monkeypatch):
    settings = {"bank": tiny_bank, "episodes": 2, "worlds": ["own"], "dataset": transitions}
    for policy, takeover in ((behavior, None), ("random", None), ("clinician", None), (behavior, 12.0)):
        whole = evaluate(policy, takeover=takeover, **settings)
        alone = evaluate(policy, takeover=takeover, patients=[2], **settings)
        with monkeypatch.context() as patch:
            patch.setattr(worlds_module, "_BUDGET", 1)  # one patient and one episode at a time
            cut = evaluate(policy, takeover=takeover, **settings)
        assert alone.per_patient["patient"].tolist() == ["prior/2"]
        assert "support_distance" in whole.per_patient
        np.testing.assert_allclose(table(alone)[:, 0], table(whole)[:, 2], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(table(cut), table(whole), rtol=1e-5, atol=1e-5)


def test_episodes_and_seed_of_any_kind_of_number_decide_the_result(tiny_bank):
    def found(episodes, seed):
        return evaluate("zero", bank=tiny_bank, episodes=episodes, seed=seed, worlds=["own"], patients=1)

    whole = found(2, 2)
    assert found(np.int64(2), np.int64(2)).to_json() == whole.to_json()
    assert len({e.metrics["return"] for e in (whole, found(1, 2), found(1, 9))}) == 3


def test_worlds_side_by_side_give_the_same_result(tmp_path, tiny_bank):
    files = [save_policy(actor(tiny_bank.patients), tmp_path / "own.safetensors")]
    files.append(export_torchscript(actor(None), tmp_path / "exported.pt"))  # d3rlpy's save_policy writes such files
    files.append(save_policy(actor(None), tmp_path / "shared.safetensors"))  # one network, asked from both threads
    for file in files:
        one, two = (evaluate(file, bank=tiny_bank, episodes=4, workers=n) for n in (1, 2))
        assert one.to_json() == two.to_json()
        assert list(two.worlds) == ["own", "crossfit"]


def test_what_may_not_bear_two_questions_at_once_is_asked_by_one_thread(tiny_bank):
    """An object, whose act anybody wrote."""
    asked = set()

    def act(observations):
        asked.add(threading.current_thread())
        return np.zeros((*observations.shape[:2], 3), np.float32)

    evaluate(Answer(act=act), bank=tiny_bank, episodes=1, workers=2)
    assert asked == {threading.current_thread()}


# -- which policy, which patients --------------------------------------------------------------------------------------


def test_individual_policies_are_matched_by_id(tiny_bank, treatments):
    order, stacked = [3, 0, 2, 1], actor(tiny_bank.patients)
    turned = tuple(tiny_bank.patients[i] for i in order)
    plain = Constant(treatments, tiny_bank.patients), Constant(treatments[order], turned)
    for pair, tolerance in ((plain, 0.0), ((stacked, stacked.select(turned)), 1e-5)):
        found, again = (table(evaluate(p, bank=tiny_bank, episodes=1, worlds=["own"])) for p in pair)
        np.testing.assert_allclose(again, found, rtol=tolerance)


def test_file_object_and_hash(tmp_path, tiny_bank):
    path = save_policy(actor(None), tmp_path / "policy.safetensors")
    loaded, direct = (evaluate(p, bank=tiny_bank, episodes=1, worlds=["own"]) for p in (path, actor(None)))
    assert np.array_equal(table(loaded), table(direct))
    assert (loaded.name, loaded.policy["kind"], loaded.policy["scope"]) == ("policy", "file", "pop")
    assert (len(loaded.policy["sha256"]), direct.policy["sha256"]) == (64, None)


def test_missing_patients_are_named(tiny_bank, treatments):
    some = Constant(treatments[:2], tiny_bank.patients[:2])
    refused(PolicyError, r"2 of the 4 patients.*prior/2, prior/3", lambda: evaluate(some, bank=tiny_bank))
    assert evaluate(some, bank=tiny_bank, patients=2, episodes=1).deviations["patients"] == {"protocol": 4, "used": 2}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_not_finite_name_the_patient(value, tiny_bank):
    def act(observations):
        actions = np.zeros((*observations.shape[:2], 3), np.float32)
        if observations[0, 0, 7] < 0.5 and len(actions) > 1:  # only in the second half of the stay
            actions[1] = value
        return actions

    policy = Answer(act=act)
    refused(PolicyError, "not finite for patient prior/1", lambda: evaluate(policy, bank=tiny_bank, episodes=1))


COUNT = itertools.count()
UNSTEADY = {
    "when asked again": lambda seen: torch.full((1, 1, 1), 0.01 * next(COUNT)),
    "episodes in another order": lambda seen: seen[:, :1, :3],
    "an episode alone differently": lambda seen: seen[..., :3] - seen[..., :3].mean(1, keepdim=True),
    "patients in another order": lambda seen: torch.arange(len(seen))[:, None, None] / 10.0,
    "a patient alone differently": lambda seen: seen[..., :3] - seen[..., :3].mean(0, keepdim=True),
}


@pytest.mark.parametrize("message", UNSTEADY)
def test_policies_that_depend_on_the_batch_are_refused(message, tiny_bank):
    policy = Answer(act=lambda seen: torch.tanh(UNSTEADY[message](seen)).expand(*seen.shape[:2], 3), timing="fixed")
    refused(PolicyError, message, lambda: evaluate(policy, bank=tiny_bank, episodes=2, worlds=["own"]))


def test_a_folder_has_a_hash_of_its_content(tiny_bank, tmp_path):
    """Otherwise a retrained folder of the same name would go on from the results of the old one."""

    def found(seed):
        for patient in tiny_bank.patients:
            path = tmp_path / "ind" / f"{patient.replace('/', '__')}.safetensors"
            save_policy(actor(tiny_bank.patients, seed).select([patient]), path)
        return evaluate(tmp_path / "ind", bank=tiny_bank, episodes=1, worlds=("own",)).policy["sha256"]

    assert found(0) == found(0) != found(1)


WRONG = [
    (PolicyError, "adaptive timing and cannot be evaluated with fixed", actor(None), {"timing": "fixed"}),
    (PolicyError, "width 3", Answer(act=lambda o: np.zeros((*o.shape[:2], 3)), timing="adaptive"), {}),
    (PolicyError, "observations of width 8", Answer(act=lambda o: o[..., :3], observation_dim=8), {}),
    (PolicyError, "shape", Answer(act=lambda o: np.zeros((*o.shape[:2], 5))), {}),
    (PolicyError, "shape", Answer(act=lambda o: np.zeros(o.shape[:2])), {}),
    (PolicyError, "not an array of numbers", Answer(act=lambda o: "treat"), {}),
    (PolicyError, "failed on observations", Answer(act=lambda o: o.no_such_method()), {}),
    (UnknownNameError, "timing", "zero", {"timing": "hourly"}),
    (UnknownNameError, "world", "zero", {"worlds": ["heaven"]}),
    (UnknownNameError, "did you mean 'zero'", "zerro", {}),
    (PolicyError, "no such policy file", "missing/policy.pt", {}),
    (PolicyError, "no act", 42, {}),
    (MedGymError, "no-such-bank", "zero", {"bank": "no-such-bank"}),
    (ProtocolError, "workers is 0; give at least 1", "zero", {"workers": 0}),
    (PolicyError, "decisions is 0; give a whole number", "zero", {"decisions": 0}),
    (PolicyError, "decisions is 5.5; give a whole number", "zero", {"decisions": 5.5}),
]


@pytest.mark.parametrize(("error", "words", "policy", "arguments"), WRONG, ids=[row[1] for row in WRONG])
def test_mistakes_are_one_line(tiny_bank, error, words, policy, arguments):
    refused(error, words, lambda: evaluate(policy, **{"bank": tiny_bank, "episodes": 1, **arguments}))


def test_worlds_of_the_bank_are_the_protocols(tiny_bank):
    """A bank without a `true` world follows the protocol; leaving out a world that it has does not."""
    both = evaluate("zero", bank=tiny_bank, episodes=1)
    assert (list(both.worlds), "worlds" in both.deviations) == (["own", "crossfit"], False)
    own = evaluate("zero", bank=tiny_bank, episodes=1, worlds=["own"])
    assert own.deviations["worlds"] == {"protocol": ["own", "crossfit"], "used": ["own"]}
    assert any("own world only" in note for note in own.notes)


# -- the dataset -------------------------------------------------------------------------------------------------------


def test_support_orders_policies(results):
    distance = {name: e.metrics["support_distance"] for name, e in results.items()}
    assert distance["behavior"] < distance["near-ind"] < distance["max"]
    own = results["behavior"].support
    assert (own["policy"]["count"], results["max"].metrics["support_outside"]) == (4 * 3 * 20, 100.0)
    assert own["behavior"]["mean"] > 0
    assert own["policy"]["quantiles"][0] <= own["policy"]["mean"] <= own["policy"]["quantiles"][100]


def test_normalized_score_only_for_the_datasets_patients(tiny_bank, transitions, monkeypatch):
    known = catalogue.DatasetInfo("medgym/unpublished-v0", "", None, None, None, {"random": -100.0, "expert": -50.0})
    monkeypatch.setattr(catalogue, "dataset_info", lambda name: known)
    settings = {"bank": tiny_bank, "episodes": 1, "worlds": ["own"], "dataset": transitions}
    whole = evaluate("zero", **settings).metrics
    assert whole["normalized_score"] == pytest.approx(2 * (whole["return"] + 100), rel=1e-5)
    assert "normalized_score" not in evaluate("zero", patients=2, **settings).metrics
    other = dataclasses.replace(known, reward="paper")
    monkeypatch.setattr(catalogue, "dataset_info", lambda name: other)
    assert "normalized_score" not in evaluate("zero", **settings).metrics


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_tidy_table_is_the_result(results):
    """Means of the table are the metrics; stacked tables are compared by group."""
    found = results["near-ind"]
    table = found.table()
    assert (table.columns, set(table["scope"])) == (list(COLUMNS), {"ind"})
    assert len(table) == sum((len(w.per_patient) - 1) * 4 for w in found.worlds.values())
    means = table.group_by("world", "metric").agg(pl.col("value").mean())
    for world, metric, value in means.iter_rows():
        assert value == pytest.approx(found.worlds[world].metrics[metric], rel=1e-12)
    both = pl.concat([table, results["zero"].table()])
    severity = both.filter(metric="severity_mean", world="own").pivot("method", index="patient", values="value")
    expected = found.per_patient["severity_mean"] - results["zero"].per_patient["severity_mean"]
    assert (severity["near-ind"] - severity["zero"]).to_list() == pytest.approx(expected.tolist())


def test_written_and_read_back(results, tmp_path):
    schema = json.loads((release_folder("evaluation") / "result.schema.json").read_text(encoding="utf-8"))
    found = results["behavior"]
    path = found.write(tmp_path / "a")
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), schema)
    jsonschema.validate(json.loads(found.to_json()), schema)
    assert "per_patient" not in path.read_text(encoding="utf-8")
    for source in (path, str(path), path.parent):
        again = Evaluation.from_json(source)
        assert again.to_json() == found.to_json()
        assert again.table().equals(found.table())
    results["zero"].write(tmp_path / "b")
    (tmp_path / "b" / "result.parquet").rename(tmp_path / "a" / "result.parquet")
    refused(ProtocolError, "its sha256 differs", lambda: Evaluation.from_json(tmp_path / "a"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"table": ["x"]}))
    refused(ProtocolError, "malformed", lambda: Evaluation.from_json(tmp_path / "a"))
    refused(ProtocolError, r"result\.parquet is not beside it", lambda: Evaluation.from_json(tmp_path / "b"))


def test_not_an_evaluation(results, tmp_path):
    path, value = tmp_path / "result.json", json.loads(results["zero"].to_json())
    bare = {name: part for name, part in value.items() if name != "protocol_hash"}
    for text, words in (
        ("{}", "not an evaluation"),
        ("[]", "format is 'list'"),
        ("{", "not readable as JSON"),
        (json.dumps(bare), "'protocol_hash' is missing"),
        (json.dumps(value | {"worlds": []}), "worlds is empty"),
        (json.dumps(value | {"policy": None}), "malformed"),
        (json.dumps(value | {"protocol": []}), "malformed"),
        (json.dumps(value | {"bank": {"name": "b"}}), "'bank.content_hash' is missing"),
    ):
        path.write_text(text)
        refused(ProtocolError, words, lambda: Evaluation.from_json(path))
    refused(ProtocolError, "no such file; write one", lambda: Evaluation.from_json(tmp_path / "none.json"))
    path.write_text(json.dumps(value))  # what `eval --json` prints
    assert Evaluation.from_json(path).to_json() == results["zero"].to_json()
