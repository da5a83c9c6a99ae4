"""Comparisons, and what a report says."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from medgym_offline.errors import ProtocolError
from medgym_offline.evaluation import compare, evaluate, write_report
from medgym_offline.evaluation.comparison import find_pairs
from tests.helpers import refused


def test_percentages_are_those_of_the_benchmark(results):
    pop, ind = (results[n].per_patient["severity_mean"] for n in ("near-pop", "near-ind"))
    found = compare(results["near-pop"], results["near-ind"])
    assert found.percent == pytest.approx(100 * (pop.mean() - ind.mean()) / pop.mean())
    assert found.per_patient["method"] == pytest.approx(ind.tolist())
    # Return: larger is better, so a gain has the same sign as the gain in SOFA here.
    assert np.sign(compare(results["max"], results["near-pop"], "return").percent) == 1


def test_patients_are_matched_by_id(results):
    found = results["near-ind"]
    turned = {k: v[::-1].copy() for k, v in found.per_patient.items()}
    reversed_rows = replace(found, worlds={"own": replace(found.worlds["own"], per_patient=turned)})
    assert compare(results["near-pop"], reversed_rows) == compare(results["near-pop"], found)


def test_several_seeds(results):
    found = compare([results["max"], results["zero"]], [results["near-ind"]] * 3)
    assert found.seeds == (2, 3)
    assert "2 training seeds" in found.label
    mean = np.mean([results[n].metrics["severity_mean"] for n in ("max", "zero")])
    assert np.mean(found.per_patient["reference"]) == pytest.approx(mean, rel=1e-6)


def test_what_cannot_be_compared(results, tiny_bank):
    zero, other = results["zero"], replace(results["max"], bank=results["zero"].bank | {"content_hash": "x"})
    few, short = evaluate("max", bank=tiny_bank, episodes=3, patients=2), evaluate("max", bank=tiny_bank, episodes=1)
    for found, words in ((short, "episodes"), (few, "other patients"), (other, "different banks")):
        refused(ProtocolError, words, partial(compare, zero, found))
    refused(ProtocolError, "no metric 'sofas'", lambda: compare(zero, results["max"], "sofas"))
    refused(ProtocolError, "world 'true'", lambda: compare(zero, results["max"], world="true"))
    refused(ProtocolError, "nothing to compare", lambda: compare(zero, []))


def test_pairs_by_name():
    names = ["cql-ind", "dqn_pop", "DQN Ind", "cql-pop", "zero", "behavior-ind", "x-fixed-ind", "x-adaptive-ind"]
    assert find_pairs(names, ["pop"], ["ind"]) == [("dqn_pop", "DQN Ind"), ("cql-pop", "cql-ind")]
    assert find_pairs(names, ["fixed"], ["adaptive"]) == [("x-fixed-ind", "x-adaptive-ind")]
    assert find_pairs(["behavior:pop", "behavior"], ["pop"], ["ind"]) == [("behavior:pop", "behavior")]


def test_a_report_has_the_numbers(results, tmp_path):
    text = write_report(results, tmp_path / "r.html").read_text(encoding="utf-8")
    for name, evaluation in results.items():
        for result in evaluation.worlds.values():
            assert f"{result.metrics['severity_mean']:.3f}" in text, name
