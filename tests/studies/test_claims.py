"""Verdicts, percentages and the statistics behind them, against hand computation."""

from __future__ import annotations

import numpy as np
import pytest

from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import bootstrap_interval, mean_intervals
from medgym_offline.studies.analysis import wilcoxon
from medgym_offline.studies.cases import case_patients
from medgym_offline.studies.ceiling import ceiling_gains
from medgym_offline.studies.claims import headline_world, verdict
from medgym_offline.studies.entries import training_facts
from medgym_offline.studies.tables import cut


@pytest.mark.parametrize(
    ("low", "high", "null", "better", "wanted"),
    [
        (50.1, 60.0, 50.0, 1, "holds"),
        (50.0, 60.0, 50.0, 1, "not shown"),
        (40.0, 60.0, 50.0, 1, "not shown"),
        (40.0, 49.9, 50.0, 1, "does not hold"),
        (50.0, 50.0, 50.0, 1, "not shown"),
        (0.1, 0.2, 0.275, -1, "holds"),
        (0.3, 0.4, 0.275, -1, "does not hold"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, null: float, better: int, wanted: str) -> None:
    assert verdict(low, high, null, better) == wanted


def test_the_headline_is_never_the_own_world_where_there_is_another() -> None:
    assert headline_world(["own", "held-out", "true"]) == "true"
    assert headline_world(["own", "held-out"]) == "held-out"
    assert headline_world(["own"]) == "own"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(49.999, "49.9"), (66.67, "66.6"), (-0.01, "-0.1"), (33.3, "33.3"), (0.3 * 3, "0.9"), (0, "0.0")],
)
def test_percentages_are_cut_never_rounded_up(value: float, wanted: str) -> None:
    assert cut(value) == wanted


def test_gains_of_ceilings_are_shares_of_the_worse_harm() -> None:
    harm = {"constant": np.array([4.0, 5.0]), "fixed": np.array([3.0, 5.0]), "adaptive": np.array([3.0, 4.0])}
    gains = ceiling_gains(harm | {"fine": harm["fixed"]}, Bootstrap(resamples=100))
    assert gains["fixed over constant"]["per_patient"] == [25.0, 0.0]
    assert gains["adaptive over fixed"]["per_patient"] == [0.0, 20.0]
    assert gains["adaptive over fixed"]["mean"] == pytest.approx(10.0)
    assert gains["adaptive over constant"]["median"] == pytest.approx(22.5)
    assert gains["fine over fixed"]["high"] == 0.0


def test_case_patients_are_those_at_the_percentiles_each_once() -> None:
    severity, names = np.array([3.0, 1.0, 2.0, 5.0, 4.0]), list("abcde")
    assert case_patients(severity, names, (0.0, 50.0, 100.0)) == ["b", "a", "d"]
    assert case_patients(severity, names, (50.0, 51.0)) == ["a"]


def test_wilcoxon_of_no_difference_is_one_and_of_a_clear_one_is_exact() -> None:
    assert wilcoxon(np.zeros(5)) == 1.0
    assert wilcoxon(np.arange(1.0, 9.0)) == pytest.approx(2 / 2**8)


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_of_many_metrics_at_once_are_those_of_each(seeds: int) -> None:
    scores = np.random.default_rng(0).normal(size=(4, seeds, 9))
    settings = Bootstrap(resamples=500)
    together = mean_intervals(scores, settings)
    for row, interval in zip(scores, together):
        assert interval == pytest.approx(bootstrap_interval(row, settings))


def test_facts_of_a_training_that_was_stopped_hold_no_nan() -> None:
    made = {
        "updates": 3,
        "training": {"episodes": 5, "cost_limit": 0.25},
        "process": {"decisions": 20},
        "final": {"cost": float("nan"), "decisions": float("nan"), "multiplier": 0.5},
        "stopped": {"p": 3},
    }
    facts = training_facts(made, "trpo-lag", "dr", 7)
    assert (facts["final_cost"], facts["final_multiplier"], facts["cost_limit"]) == (None, 0.5, 0.25)
    assert (facts["episodes"], facts["steps"]) == (3 * 5 * 7, 3 * 5 * 7 * 20)
    assert training_facts(made | {"final": {"decisions": 6.5}}, "trpo", "pop", 7)["steps"] == round(3 * 5 * 6.5)
    assert facts["stopped"] == {"p": 3}
