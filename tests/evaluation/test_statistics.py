"""Metrics by hand, statistics against SciPy, and the protocol that they follow."""

import json

import numpy as np
import pytest
import torch
from scipy import stats

from medgym_offline.diseases.base import Course
from medgym_offline.diseases.registry import disease
from medgym_offline.errors import ProtocolError
from medgym_offline.evaluation import metrics, statistics
from medgym_offline.evaluation.protocol import Bootstrap, load_protocol
from medgym_offline.evaluation.subgroups import subgroup_members, subgroup_rows
from medgym_offline.files import release_folder
from tests.helpers import refused


def test_iqm_is_the_trimmed_mean():
    rng = np.random.default_rng(0)
    for n in (4, 8, 100):  # SciPy trims whole observations, so n has to be a multiple of four
        values = rng.normal(size=(3, n))
        np.testing.assert_allclose(statistics.iqm(values), stats.trim_mean(values, 0.25, axis=-1))
    # Five values: weights 0, 3/4, 1, 3/4, 0 of the sorted ones, over 2.5.
    assert statistics.iqm(np.array([100.0, 1.0, 3.0, 2.0, -50.0])) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)


def test_worst_decile_follows_the_direction():
    values = np.arange(20.0)
    for of, better, worst in ((values, -1, 18.5), (values, 1, 0.5), (np.array([3.0, 4.0]), -1, 4.0)):
        assert statistics.worst_decile(of, better) == pytest.approx(worst)


def test_seeds_are_resampled_within_patients():
    """Patients all alike, seeds not: the interval is as wide as the spread over seeds makes it, not zero."""
    seeds = np.random.default_rng(3).normal(size=(6, 1)) + np.zeros((1, 40))
    low, high = statistics.summarize(seeds, None).mean_interval
    # Seeds are redrawn for every patient, so 40 patients average much of the spread away.
    assert high - low == pytest.approx(2 * 1.96 * seeds[:, 0].std() / np.sqrt(6 * 40), rel=0.15)
    assert statistics.summarize(np.full((6, 40), 2.5), None).mean_interval == pytest.approx((2.5, 2.5))


def test_coverage_of_the_mean():
    """About 95 % of 200 intervals contain the true mean (binomial: 0.89 is four standard errors below)."""
    rng = np.random.default_rng(5)
    settings = Bootstrap(resamples=400)
    inside = [low <= 0 <= high for low, high in statistics.mean_intervals(rng.normal(size=(200, 60)), settings)]
    assert np.mean(inside) > 0.89


def test_paired_interval_is_narrower_than_unpaired():
    rng = np.random.default_rng(7)
    base = rng.normal(5, 2, 80)
    better = base - 0.3 + rng.normal(0, 0.2, 80)
    found = statistics.paired_difference(better, base)
    low, high = found.difference_interval
    assert found.difference == pytest.approx((better - base).mean())
    assert high - 0.2 < low < high < 0
    assert found.percent == pytest.approx(100 * (base.mean() - better.mean()) / base.mean())
    assert found.percent_interval[0] > 0
    assert found.share == pytest.approx((better < base).mean())
    # Exchanged, or if larger is better: the same numbers, the other verdict.
    for other in (statistics.paired_difference(base, better), statistics.paired_difference(better, base, better=1)):
        assert other.share == pytest.approx(1 - found.share)


def test_groups_cover_everybody_once_per_kind_and_rows_are_means():
    g = np.random.default_rng(0)
    facts = {"patient": [f"a/{i}" for i in range(40)], "source": ["a"] * 25 + ["b"] * 15}
    facts |= {"initial_lactate": list(g.uniform(0.5, 8, 40)), "initial_sofa": list(g.uniform(0, 12, 40))}
    columns = {"severity_mean": g.uniform(0, 12, 40), "safe_hourly": g.uniform(0, 100, 40)}
    members = subgroup_members(facts, disease("sepsis"), columns["severity_mean"])
    for kind in ("initial lactate", "initial SOFA", "data source"):
        assert (np.sum([m for (by, _), m in members.items() if by == kind], axis=0) == 1).all()
    worst = members["outcome", "worst decile of SOFA surrogate"]
    assert worst.sum() == 4
    assert columns["severity_mean"][worst].min() >= columns["severity_mean"][~worst].max()
    settings = Bootstrap(resamples=400)
    for row in subgroup_rows(facts, columns, disease("sepsis"), settings):
        inside = members[row["by"], row["group"]]
        assert row["patients"] == inside.sum()
        for name, values in columns.items():
            assert row[name][0] == pytest.approx(values[inside].mean())
            assert row[name][1:] == pytest.approx(statistics.mean_intervals(values[inside][None], settings)[0])


def test_probability_of_improvement_is_mann_whitney():
    rng = np.random.default_rng(8)
    a, b = rng.normal(0, 1, (5, 3)), rng.normal(0.5, 1, (4, 3))
    expected = np.mean([stats.mannwhitneyu(b[:, p], a[:, p]).statistic / 20 for p in range(3)])
    assert statistics.probability_of_improvement(a, b, better=-1) == pytest.approx(expected)
    assert statistics.probability_of_improvement(a, a) == pytest.approx(0.5)


HOURS = np.arange(97.0)
FINE = np.arange(385) * 0.25


def test_safe_share_counts_times_after_twenty():
    # Unsafe through hour 39: of the 76 hours 21..96, 19 are unsafe and 57 safe.
    assert metrics.safe_share(HOURS < 40, HOURS, 20.0) == pytest.approx(100 * 57 / 76)
    # Trouble up to and including hour 20 does not count.
    assert metrics.safe_share(HOURS <= 20, HOURS, 20.0) == 100.0


def course(lactate, doses, dt):
    """The metrics of sepsis itself, from lactate (385,) and doses (K, 3) in physical units."""
    sepsis = disease("sepsis")
    scales = sepsis.default_scales()
    physical = np.array([[97.0, 90.0, 1.0, 14.0, 1500.0, 0.0, 0.0, 1.0]]).repeat(385, 0)
    physical[:, 5] = lactate
    states = torch.from_numpy(scales.normalize(sepsis, physical))
    given = torch.from_numpy(scales.normalize_treatment(sepsis, doses))
    read = Course(sepsis, scales, FINE, 4, states, given, dt)
    return {metric.name: metric.compute(read) for metric in sepsis.metrics}


def test_metrics_of_sepsis():
    doses, dt = np.array([[21.0, 0.1, 500.0], [21.0, 0.0, 100.0], [21.0, 0.5, 900.0]]), np.array([10.0, 86.0, 0.0])
    # Above 4 at 10.25 .. 12.75: trapezoid from 10 to 13 with half cells at both ends.
    found = course(np.where((FINE > 10) & (FINE < 13), 5.0, 1.0), doses, dt)
    # 0.1 mcg/kg/min for 10 h is 60 mcg/kg; 500 mL/h for 10 h is 5 L; the last decision was not made.
    wanted = {"hours_lactate_above_4": 2.75, "vasopressor_total": 0.06, "fluids_total": 5.0 + 8.6}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    falling = course(4.0 - FINE / 32.0, doses, dt)
    wanted = {"lactate_mean": 4.0 - 48 / 32, "lactate_clearance_6h": 100 * 6 / 32 / 4}
    assert {name: falling[name] for name in wanted} == pytest.approx(wanted)


def test_interval_metrics():
    dt = np.array([[[10.0, 20.0, 66.0, 0.0], [96.0, 0.0, 0.0, 0.0]]])
    found = metrics.interval_metrics(dt, dt > 0)
    per_episode = {"decisions_used": [3.0, 1.0], "first_interval": [10.0, 96.0], "last_interval": [66.0, 96.0]}
    assert {name: found[name].tolist()[0] for name in per_episode} == per_episode
    # Quantiles of (10, 20, 66, 96), linear interpolation.
    quantiles = {"dt_q25": 17.5, "dt_q50": 43.0, "dt_q95": 66 + 0.85 * 30}
    assert {name: found[name][0] for name in quantiles} == pytest.approx(quantiles)


def test_normalized_score():
    score = metrics.normalized_score(np.array([-80.0, -30.0, -55.0]), -80.0, -30.0)
    assert score.tolist() == [0.0, 100.0, 50.0]
    assert np.isnan(metrics.normalized_score(np.array([1.0]), 2.0, 2.0)).all()


def test_file_states_every_field_that_is_not_the_diseases():
    """A field left to a default would change silently with the code."""
    stored = json.loads((release_folder("evaluation") / "protocol-v0.json").read_text())
    full = load_protocol().to_dict()
    of_disease = {"disease", "bank", "decisions", "horizon", "min_interval", "max_interval", "initial_noise"}
    assert set(full) - set(stored) == of_disease | {"grid", "fine", "settled"}
    assert stored == {name: full[name] for name in stored}


def test_hash_follows_content_not_layout(tmp_path):
    value = load_protocol().to_dict()
    shuffled = tmp_path / "p.json"
    shuffled.write_text(json.dumps(dict(reversed(value.items()))))
    assert load_protocol(shuffled).hash == load_protocol().hash
    shuffled.write_text(json.dumps(value | {"seed": value["seed"] + 1}))
    assert load_protocol(shuffled).hash != load_protocol().hash


WRONG = [
    ({"episodes": 0}, "episodes"),
    ({"decisions": 2.5}, "decisions"),
    ({"timing": "sometimes"}, "timing"),
    ({"worlds": []}, "worlds"),
    ({"fine": 0.7}, "fine"),
    ({"settled": 200}, "settled"),
    ({"bootstrap": {"resamples": 0}}, "resamples"),
    ({"bootstrap": {"samples": 10}}, "samples"),
    ({"epsiodes": 50}, "epsiodes"),
]


@pytest.mark.parametrize(("change", "names"), WRONG)
def test_bad_field_is_named(tmp_path, change, names):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(load_protocol().to_dict() | change))
    refused(ProtocolError, rf"bad\.json.*{names}", lambda: load_protocol(path))
