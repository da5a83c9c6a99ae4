"""Clinical records as a dataset: when there was a decision, what was seen then, and who scores whom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medgym_offline as mgo
from medgym_offline.cohorts.cohort import DecisionRule, Given, treatments_given
from medgym_offline.datasets import Recipe, Transitions, generate, list_recipes, load_dataset, publish, verify
from medgym_offline.datasets.charts import charted_episodes, read_charts
from medgym_offline.datasets.clone import CloneConfig, estimate_log_prob
from medgym_offline.diseases.sepsis.twin_bank import twin_cohort
from medgym_offline.errors import CohortError, DatasetError
from medgym_offline.evaluation.ope import OpeSettings, audit_dataset
from medgym_offline.evaluation.ope.fqe import FqeConfig
from medgym_offline.offline import OfflineConfig, train
from tests.helpers import refused

QUICK = CloneConfig(folds=2, hidden=4, updates=3, batch=8)
REAL = "medgym/sepsis-real-v0"


def with_outcomes(cohort):
    """Every third patient died; two stays are of one person."""
    died = pl.int_range(pl.len()) % 3 == 0
    subject = pl.when(pl.int_range(pl.len()) < 2).then(pl.lit("twin/first")).otherwise("subject")
    return replace(cohort, stays=cohort.stays.with_columns(died=died, subject=subject))


@pytest.fixture(scope="module")
def cohort():
    return with_outcomes(twin_cohort(9, 4)[0])


@pytest.fixture(scope="module")
def bank():
    return mgo.load_simulators("sepsis-v0")


@pytest.fixture(scope="module")
def recipe():
    return list_recipes(records=True)[REAL]


@pytest.fixture(scope="module")
def charts(recipe, cohort, bank):
    return charted_episodes(recipe, cohort, bank, clone=QUICK)


@pytest.fixture(scope="module")
def made(cohort, recipe, tmp_path_factory):
    """Root of a dataset made from a cohort table, and its recipe."""
    base = tmp_path_factory.mktemp("charts")
    cohort.write(base / "records" / "twin.parquet")
    own = replace(recipe, id="medgym/sepsis-charts-v0", records=("twin.parquet",))
    generate(own, root=base / "minari", records=base / "records", progress=False)
    return base / "minari", own


RATE = st.sampled_from([0.0, 0.0, 1.0, 1.03, 2.0, 50.0])
STEPS = st.lists(st.tuples(st.floats(0.01, 30.0), RATE, RATE), min_size=1, max_size=40)


@given(steps=STEPS, end=st.floats(1.0, 96.0), tolerance=st.sampled_from([0.0, 0.05, 0.5]))
@settings(max_examples=200, deadline=None)
def test_decisions_fill_the_stay_and_keep_apart(steps, end, tolerance):
    edges = np.r_[0.0, np.cumsum([gap for gap, *_ in steps])]
    rates = np.array([[0.0, 0.0], *([a, b] for _, a, b in steps)])
    inside = edges < end
    stay, rule = Given(edges[inside], rates[inside], end), DecisionRule(96.0, tolerance=tolerance)
    times = stay.decisions(rule)
    dt = np.diff(times)
    assert times[0] == 0.0
    assert times[-1] == end
    assert (dt >= rule.apart - 1e-5).all()
    assert (dt < rule.longest + rule.apart).all()
    changes = stay.changes(tolerance)
    for time in times[1:-1]:  # a change, or the decision to go on
        assert time in changes or np.isclose(time - times[np.searchsorted(times, time) - 1], rule.longest)
    length = np.diff(np.r_[stay.edges, end])
    np.testing.assert_allclose((stay.means(times) * dt[:, None]).sum(0), (stay.rates * length[:, None]).sum(0))


def test_records_without_an_eligible_stay_say_what_is_asked_of_one(cohort, recipe, tmp_path):
    blind = replace(cohort, table=cohort.table.filter(pl.col("variable") != "spo2"))
    blind.write(tmp_path / "twin.parquet")
    with pytest.raises(DatasetError, match=r"none of the 9 stays .* at least 24 h with spo2, gcs, urine"):
        read_charts(replace(recipe, records=("twin.parquet",)), "sepsis", tmp_path)


def test_doses_are_those_charted(cohort, charts, bank):
    columns = charts.block.columns
    dose = bank.denormalize_treatment((columns["actions"][:, :3].astype(float) + 1.0) / 2.0)
    for e, (_, patient) in enumerate(sorted(zip(cohort.subjects, cohort.patients))):
        rows = columns["episode"] == e
        steps = treatments_given(cohort, 96.0)[patient]
        wanted, found = steps.total(np.array([steps.end]))[0], (dose[rows] * columns["dt"][rows, None]).sum(0)
        clipped = (steps.rates > bank.scales.treatment_upper).any(0)
        np.testing.assert_allclose(found[~clipped], wanted[~clipped], rtol=1e-3, atol=1e-3)


def seen_at(block):
    """(N,) when each row's observation was seen."""
    times = np.r_[np.float32(0.0), block.columns["time"][:-1]]
    times[block.starts] = 0.0
    return times


def test_nothing_later_is_seen(recipe, cohort, bank, charts):
    """Cut all records at an hour: what was decided and seen until then stays to the bit."""
    hour, compared = 30.3, 0
    kept = cohort.table.filter(pl.col("time_h") <= hour).with_columns(pl.col("end_h").clip(upper_bound=hour))
    cut = charted_episodes(recipe, replace(cohort, table=kept), bank, clone=QUICK).block
    whole = charts.block
    for e in range(len(whole)):
        one, other = (np.flatnonzero(block.columns["episode"] == e) for block in (cut, whole))
        if whole.columns["time"][other[-1]] > hour:  # the cut ends what ran, which is a change at that hour
            count = int((seen_at(whole)[other] <= hour).sum())
            one, other = one[:count], other[:count]
            np.testing.assert_array_equal(seen_at(cut)[one], seen_at(whole)[other])
            np.testing.assert_array_equal(cut.columns["observations"][one], whole.columns["observations"][other])
            compared += count
    assert compared


def test_results_come_late(cohort, bank, charts):
    """A laboratory value is unknown until its result is in."""
    disease = bank.disease
    channels = {c.component: c.delay for c in disease.views["charted"].channels}
    slow = max(channels, key=lambda name: channels[name])
    column = disease.column(slow)
    block = charts.block
    names = sorted(zip(cohort.subjects, cohort.patients))
    seen = 0
    for e, (_, patient) in enumerate(names):
        own = cohort.table.filter((pl.col("patient") == patient) & (pl.col("variable") == slow)).sort("time_h")
        for row in np.flatnonzero(block.columns["episode"] == e):
            time = float(seen_at(block)[row])
            known = own.filter(pl.col("time_h") + channels[slow] <= time + 1e-6)
            value = bank.scales.normal_column(disease, known["value"].to_numpy()[-1:], column) if len(known) else [0.0]
            assert block.columns["observations"][row, column] == pytest.approx(float(value[0]), abs=1e-5)
            seen += len(known)
    assert channels[slow] > 0
    assert seen


def test_rewards_and_terminations(cohort, charts):
    columns = charts.block.columns
    assert columns["terminations"].sum() == len(cohort)
    assert not columns["truncations"].any()
    assert columns["rewards"].sum() == -sum(cohort.stays["died"].to_list())
    assert set(columns["rewards"][~columns["terminations"]]) == {0.0}
    assert charts.facts["persons"] == len(set(cohort.subjects)) == len(cohort) - 1


def test_no_person_scores_itself():
    g = np.random.default_rng(0)
    persons = [f"p{i % 6}" for i in range(120)]
    seen, actions = g.normal(size=(120, 3)), np.clip(g.normal(size=(120, 2)), -1.0, 1.0)
    config = replace(QUICK, updates=20)
    base = estimate_log_prob(seen, actions, persons, 0, config).log_prob
    own = np.array([p == "p2" for p in persons])
    first = int(np.flatnonzero(own)[0])
    rest = own & (np.arange(120) != first)
    other_seen, other_actions = seen.copy(), actions.copy()
    other_seen[rest] += 5.0
    other_actions[rest] = -1.0
    moved = estimate_log_prob(other_seen, other_actions, persons, 0, config).log_prob
    assert moved[first] == base[first]
    assert not np.array_equal(moved[~own], base[~own])  # others do learn from this person


def test_a_clone_knows_what_there_is_to_know():
    """Held-out likelihood and coverage where the truth is known: an atom at no dose, and a dose that follows."""
    g = np.random.default_rng(1)
    persons = [f"p{i % 20}" for i in range(2000)]
    seen = g.normal(size=(2000, 2))
    inside = np.tanh(0.5 * seen[:, 1] + 0.3 * g.normal(size=2000))
    actions = np.where(g.random(2000) < 1.0 / (1.0 + np.exp(-2.0 * seen[:, 0])), -1.0, inside)[:, None]
    found = estimate_log_prob(seen, actions, persons, 0)
    shown = found.calibration(("dose",), estimate_log_prob(seen[:, :0], actions, persons, 0))
    assert shown["log_likelihood"] > shown["log_likelihood_marginal"] + 0.1
    for level, share in shown["coverage"]["dose"].items():
        assert share == pytest.approx(float(level), abs=0.06)


def test_the_whole_way(made, cohort, monkeypatch):
    root, recipe = made
    data = load_dataset(recipe.id, root=root)
    assert isinstance(data, Transitions)
    assert data.view == "charted"
    assert data.decisions == 96
    assert data.observation_dim == len(data.definition.seen("charted"))
    report = verify(recipe.id, root=root, progress=False)
    assert report.ok, str(report)
    card = (root / recipe.id / "README.md").read_text()
    assert "estimated" in card
    assert "no row is a record" not in card
    for algorithm in ("bc", "iql"):
        policy = train(
            algorithm, data, "pop", config=OfflineConfig(updates=4, hidden=8, batch=16), progress=False
        ).policy
        assert policy.decisions == 96
    found = mgo.evaluate(policy, bank="sepsis-v0", patients=2, episodes=2, worlds=["own"])
    assert np.isfinite(found.worlds["own"].metrics["severity_mean"])
    settings = OpeSettings(fqe=FqeConfig(updates=3, hidden=4, batch=8))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    audit = audit_dataset(recipe.id, [policy, "zero"], settings=settings, root=root)
    assert set(audit.estimates) == {"fqe", "wis", "dr"}
    assert not audit.truth
    assert any("estimated" in line for line in audit.warnings)
    assert any("confounded" in line for line in audit.warnings)
    refused(DatasetError, "not passed on", lambda: publish(recipe.id, "hf://nobody", root=root, dry_run=True))


def _without(variable):
    return lambda cohort: replace(cohort, table=cohort.table.filter(pl.col("variable") != variable))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("fluids"), "records hold no fluids"),
        (lambda c: replace(c, stays=c.stays.with_columns(died=pl.lit(None, pl.Boolean))), "does not say whether"),
    ],
)
def test_records_that_lack_something(recipe, cohort, bank, change, message):
    refused(DatasetError, message, lambda: charted_episodes(recipe, change(cohort), bank, clone=QUICK))


def test_where_the_records_are(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("MEDGYM_CLINICAL_DATA", raising=False)
    refused(DatasetError, "set MEDGYM_CLINICAL_DATA", lambda: load_dataset(REAL, root=tmp_path, progress=False))
    monkeypatch.setenv("MEDGYM_CLINICAL_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=r"mimic-iii-demo-1\.4 is not there"):
        load_dataset(REAL, root=tmp_path, progress=False)
    for name in recipe.records:
        (tmp_path / name).mkdir()
    refused(CohortError, "no known layout", lambda: generate(REAL, root=tmp_path, progress=False))
    for arguments in ({"patients": 2, "output_id": "medgym/some-v0"}, {"release": True}):
        with pytest.raises(DatasetError, match="whole, and never shipped"):
            generate(REAL, root=tmp_path, progress=False, **arguments)


@pytest.mark.parametrize("fields", [{"reward": "death"}, {"behavior": "records"}, {"records": ("x",)}])
def test_recipes_of_records_and_of_simulators_differ(fields):
    with pytest.raises(DatasetError, match="go together"):
        Recipe(**({"id": "medgym/b-v0", "description": "", "bank": "sepsis-v0", "behavior": "random"} | fields))


@pytest.mark.clinical
def test_the_open_records(clinical_data, recipe, bank):
    """Counts and statistics of the open demos, the same on every machine."""
    cohort = read_charts(recipe, "sepsis", clinical_data)
    found = charted_episodes(recipe, cohort, bank, clone=QUICK)
    facts, columns = found.facts, found.block.columns
    assert (facts["stays"], facts["persons"], facts["died"]) == (225, 168, 45)
    assert (len(columns["dt"]), facts["decisions_found"]) == (5209, 73)
    assert "ODbL" in facts["license"]
    assert columns["dt"].mean() == pytest.approx(2.819, abs=1e-3)
    assert columns["severity"].mean() == pytest.approx(4.03, abs=0.02)
    assert (columns["actions"][:, 1] <= -1.0).mean() == pytest.approx(0.669, abs=0.002)
