"""Re-execution: claims are compared with what the policies do when they are run, or trained, again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medgym_offline.evaluation import Evaluation
from medgym_offline.files import code_version, sha256_file
from medgym_offline.leaderboard import read_board, read_submission, verify_submission
from medgym_offline.leaderboard.verify import Row, fresh_metrics, fresh_rows, rows_of, training_rows
from medgym_offline.policies import load_policy, save_policy
from tests.leaderboard.workshop import change, refused, run

METRICS = fresh_metrics("sepsis")


def verify(folder, shop, *options):
    """A verification as a command, without fresh seeds."""
    return ("leaderboard", "verify", folder, "--bank", shop.bank, "--no-fresh", *options)


def test_an_honest_submission_is_accepted_and_recorded(folder, shop):
    assert run("leaderboard", "add", folder, "--file", "board.json").code == 0
    done = run("leaderboard", "verify", folder, "--bank", shop.bank, "--file", "board.json", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["accepted"], report["faults"], report["version"]) == (True, [], code_version())
    checks = {"mean", "interval", "run 1", "run 2", "patients of run 2", "fresh seeds run 2"}
    assert {row["check"] for row in report["rows"]} >= checks
    (entry,) = read_board("board.json")
    record = entry.verification
    told = (report["result_hash"], report["version"], True, None)
    assert (record.result_hash, record.version, record.fresh_seeds, record.retrained) == told
    assert 0 <= record.largest_deviation < 1
    assert verify_submission(folder, shop.bank, fresh=False, progress=False).result_hash == record.result_hash


def shift(run):
    """All patients of a run better by 0.5 points, consistently."""

    def edit(entry):
        column = entry["per_patient"]["own"]["severity_mean"][run]
        column[:] = [value - 0.5 for value in column]
        entry["runs"][run]["own"]["severity_mean"] -= 0.5

    return edit


FALSE = [
    lambda e: e["metrics"]["own"].update(severity_mean=e["metrics"]["own"]["severity_mean"] - 0.5),
    lambda e: e["metrics"]["crossfit"].update(safe_hourly=e["metrics"]["crossfit"]["safe_hourly"] + 5),
    lambda e: e["runs"][1]["own"].update({"return": e["runs"][1]["own"]["return"] + 2}),
    lambda e: e["metrics"]["own"].update(support_distance=0.1),
    lambda e: e["metrics"]["own"].pop("support_distance"),
    lambda e: e["metrics"]["own"].update(invented=1.0),
    lambda e: e["intervals"]["own"].update(severity_mean=[0.0, 1.0]),
    lambda e: e["intervals"]["own"].pop("return"),
    shift(1),
    lambda e: e["per_patient"]["own"]["severity_mean"][0].reverse(),  # every mean stays
]


@pytest.mark.parametrize("edit", FALSE)
def test_false_numbers_do_not_hold(folder, edit):
    honest = read_submission(folder).entry
    assert all(row.ok for row in rows_of(honest, honest))
    change(folder, edit)
    assert not all(row.ok for row in rows_of(read_submission(folder).entry, honest))


CHANGED = [
    (lambda e: e["bank"].update(content_hash="0" * 64), "bank"),
    (lambda e: e["protocol"].update(hash="0" * 64), "protocol.hash"),
    (lambda e: e["protocol"]["settings"].update(settled=0.0), "protocol.settings.settled"),
    (lambda e: e["protocol"].update(deviations={}), "protocol.deviations"),
    (lambda e: e["dataset"].update(identity="0" * 64), "dataset.identity"),
    (lambda e: e.update(seeds=[5, 6]), "seeds"),
    (lambda e: e["policies"][0]["training"].update(updates=10**9), "policies"),
    (lambda e: e.update(patients=["a", "b", "c"]), "patients"),
]


@pytest.mark.parametrize(("edit", "reason"), CHANGED)
def test_another_protocol_bank_or_history_is_refused(folder, shop, edit, reason):
    change(folder, edit)
    assert reason in refused(*verify(folder, shop))


def scaled(source, factor, target):
    """A policy with every weight multiplied by a factor."""
    policy = load_policy(source)
    with torch.no_grad():
        for weight in policy.net.parameters():
            weight *= factor
    return save_policy(policy, Path(target))


def test_a_policy_swapped_together_with_its_sha256_is_refused(folder, shop):
    """The entry's numbers are those of the first policy; the folder is consistent, and holds another one."""
    other = scaled(shop.policy(0), 3.0, "other.safetensors")
    first, digest = read_submission(folder).policies[0], sha256_file(other)
    target = first.rename(first.with_stem(f"{first.stem.rpartition('-')[0]}-{digest[:8]}"))
    shutil.copy(other, target)
    found = {"sha256": digest, "bytes": other.stat().st_size, "file": f"policies/{target.name}"}
    change(folder, lambda e: e["policies"][0].update(found))
    done = run(*verify(folder, shop, "--file", "board.json"))
    assert (done.code, Path("board.json").exists()) == (1, False)
    assert "fault: own" in done.out, done.err


def evaluation(shop, columns):
    """An evaluation in one world whose metrics per patient are these."""
    result, patients = Evaluation.from_json(shop.result(0) / "result.json"), np.arange(len(columns["return"]))
    world = replace(result.worlds["own"], per_patient=columns | {"patient": patients})
    return replace(result, worlds={"own": world})


def test_fresh_seeds_accept_noise_and_refuse_a_shift(shop):
    """Honest entries of pure noise pass; one whose runs were better on the claimed seeds does not."""
    rng = np.random.default_rng(0)

    def like(shift):
        return [evaluation(shop, {m: rng.normal(5.0 + shift, 0.3, 30) for m in METRICS})] * 2

    assert all(row.ok for _ in range(300) for row in fresh_rows(like(0.0), like(0.0), "sepsis"))
    assert not any(all(row.ok for row in fresh_rows(like(-1.0), like(0.0), "sepsis")) for _ in range(50))


# -- training again --------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(folder):
    """A submission of two seeds without its policy files."""
    shutil.rmtree(folder / "policies")
    return folder


def test_training_again_gives_the_same_bytes_and_needs_no_file(bare, shop):
    assert "--retrain" in refused(*verify(bare, shop))
    assert run(*verify(bare, shop, "--retrain", "--file", "board.json")).code == 0
    assert read_board("board.json")[0].verification.retrained == "same bytes"
    change(bare, shift(1))
    done = run(*verify(bare, shop, "--retrain", "--file", "b.json"))
    assert (done.code, Path("b.json").exists()) == (1, False)
    assert "fault: own severity_mean (run 2)" in done.out


def nudged(shop, scope, seeds, output):
    """A submission of policies as another CPU would have trained them: every weight a little off; without its files."""
    files = [scaled(shop.policy(n, scope), 1 + 1e-6, f"{scope}-{n}.safetensors") for n in range(seeds)]
    results = [shop.score(file, file.stem) for file in files]
    assert run("submit", *results, "--name", "Other", "--output", output).code == 0
    shutil.rmtree(output / "policies")
    return output


def test_weights_with_other_last_bits_are_judged_by_the_noise_of_training(shop, tmp_path):
    other = nudged(shop, "ind", 2, tmp_path / "other")
    done = run(*verify(other, shop, "--retrain"))
    assert done.code == 0, done.out + done.err
    assert "trained again: within the noise of training" in done.out
    change(other, lambda e: e["runs"][1]["own"].update(return_worst_decile=1000.0))
    change(other, lambda e: e["intervals"]["own"].update(severity_mean=[-100.0, 0.0]))
    done = run(*verify(other, shop, "--retrain"))
    assert done.code == 1
    for fault in ("own return_worst_decile (trained again, run 2)", "own severity_mean (trained again, interval)"):
        assert f"fault: {fault}" in done.out, done.out
    alone = nudged(shop, "pop", 1, tmp_path / "pop")  # one training alone says nothing of the noise
    assert "verify with the policy files" in refused(*verify(alone, shop, "--retrain"))


UNTRAINABLE = [
    (lambda e: e["policies"][0]["training"].pop("seed"), "'seed' is missing"),
    (lambda e: e["policies"][0]["training"].update(algorithm="d3rlpy-cql"), "this package's own"),
    (lambda e: e["policies"][0]["training"].update(update=50), "checkpoint"),
    (lambda e: e["policies"][0]["training"]["config"].update(invented=1), "invented"),
    (lambda e: e["policies"][0]["training"].update(identity="0" * 64), "made by other means"),
    (lambda e: e["policies"][0]["training"].update(dataset="medgym/nowhere-v0"), "nowhere"),
]


@pytest.mark.parametrize(("edit", "reason"), UNTRAINABLE)
def test_what_cannot_be_trained_again_is_refused_with_the_reason(bare, shop, edit, reason):
    change(bare, edit)
    assert reason in refused(*verify(bare, shop, "--retrain"))


def test_the_noise_of_training_accepts_other_seeds_and_refuses_a_shift(shop):
    """Trainings that differ as seeds do pass; a claim that is better than they are does not."""
    rng, patients = np.random.default_rng(1), 60

    def hold(shift):
        level = {m: rng.normal(5.0, 2.0, patients) for m in METRICS}  # patients differ more than seeds do
        trained = [{m: level[m] + rng.normal(0.0, 0.5, patients) for m in METRICS} for _ in range(6)]
        again = [evaluation(shop, columns) for columns in trained[:3]]
        rows = []
        for n, (found, claimed) in enumerate(zip(trained[:3], trained[3:])):
            for m in METRICS:
                a, b = claimed[m] + shift, found[m]
                rows.append(Row(f"run {n}", "own", m, float(a.mean()), float(b.mean()), 0.001))
                apart = float(np.sqrt(((a - b) ** 2).mean()))
                rows.append(Row(f"patients of run {n}", "own", m, apart, 0.0, 0.001))
        return all(row.ok for row in training_rows(rows, again))

    assert all(hold(0.0) for _ in range(300))
    assert not any(hold(-0.8) for _ in range(50))
