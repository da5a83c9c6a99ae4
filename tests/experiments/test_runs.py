"""Every experiment from its start to its tables, tiny; harm of open-loop schedules."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch

from experiments import figures, offline, online, pooling
from experiments.ceilings import CeilingsRecipe, ceilings, interval_logits, intervals, schedule_harm
from experiments.common import Row, Scores
from medgym_offline import load_simulators
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.twin_bank import twin_cohort
from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.online import load_behavior
from medgym_offline.simulators.build import BankRecipe
from medgym_offline.simulators.data import fit_data
from medgym_offline.simulators.fit import FitConfig
from tests.rolled import rolled

SETTINGS = {"updates": 2, "episodes": 4, "hidden": 8, "value_warmup": 1, "radius": 0.1}


@pytest.fixture(scope="module")
def two():
    """Two patients with a solution map, which is several times faster than the solver in so small a batch."""
    return load_simulators("sepsis-v0").select([0, 1])


AGAIN = Mock(side_effect=AssertionError("a finished unit is run again"))


def test_online(two, tmp_path, monkeypatch):
    recipe = online.OnlineRecipe(
        name="tiny", bank="sepsis-v0", algorithms=("trpo", "trpo-lag"), episodes=2, shard=2,
        settings=dict.fromkeys(("pop", "dr", "ind", "ind-scratch"), SETTINGS),
    )  # fmt: skip
    monkeypatch.setattr(online, "BUDGETS", (5,))
    found = online.run(recipe, tmp_path, bank=two)
    text = online.markdown(recipe, Scores(found, 20))
    for line in ("| TRPO-Lag-A-Ind-scratch | 20 |", "| TRPO-Lag-F-Ind | 5 |", "| TRPO-Lag-F-Pop over TRPO-F-Pop |"):
        assert line in text
    rows = set(found.filter(pl.col("world") == "own").select(Row._fields).iter_rows())
    assert {tuple(row) for row in recipe.rows()} < rows
    monkeypatch.setattr(online, "train_behavior", AGAIN)
    monkeypatch.setattr(online, "evaluate", AGAIN)
    assert online.run(recipe, tmp_path, bank=two).equals(found)
    with pytest.raises(AssertionError, match="run again"):
        online.run(recipe.model_copy(update={"episodes": 1}), tmp_path, bank=two)


SMALL = {"updates": 12, "hidden": 8, "batch": 8, "codewords": 4, "candidates": [2, 2, 1]}


def test_offline(tmp_path, monkeypatch):
    bank = load_simulators("sepsis-v0").select(range(6))
    actor = load_behavior("sepsis-v0", "ind", "fixed").select(bank.patients)
    source = rolled(bank, actor.act, 4, ProcessConfig(timing="fixed"), "medgym/test-fixed-v0"), bank
    recipe = offline.OfflineRecipe(
        name="tiny", algorithms=("bc", "cql"), seeds=2, episodes=2, settings=SMALL,
        variants={"wide": {"theta": 0.75}},
    )  # fmt: skip
    found = offline.run(recipe, tmp_path, sources=[source])
    scores = Scores(found, 20)
    text = offline.markdown(recipe, scores)
    for line in ("| CQL-F-Ind |", "| data-F |", "| CQL-F-Ind over BC-F-Ind |", "| wide-F-Ind over CQL-F-Ind |"):
        assert line in text
    assert scores.course(Row("data", "data", "fixed", 20), "own", "support_distance")[0] == list(map(float, range(101)))
    page = figures.page(scores, "tiny")
    assert [section.heading for section in page.sections] == [f"{w} world, fixed timing" for w in ("Crossfit", "Own")]
    assert {len(section.blocks) for section in page.sections} == {5}
    monkeypatch.setattr(offline, "train", AGAIN)
    assert offline.run(recipe, tmp_path, sources=[source]).equals(found)


# -- pooling -----------------------------------------------------------------------------------------------------------

FIT = FitConfig(population_steps=4, individual_steps=4, hours=3, windows=2)
BANK = BankRecipe(name="sepsis-study", patients=0, fit=FIT)
POOLING = pooling.PoolingRecipe(name="tiny", strengths=(0.1, 1.0), recency=(0.0, 6.0), seeds=2, every=2, hours=6)


@pytest.fixture(scope="module")
def cohort():
    return twin_cohort(4, 1)[0]


@pytest.mark.parametrize("recency", [0.0, 6.0])
def test_forecasts_of_the_last_quarter_do_not_depend_on_what_happened_then(cohort, recency):
    data = fit_data(cohort.to_grid(1.0, 96.0), DISEASE)
    bank = replace(BANK, fit=replace(BANK.fit, recency=recency))
    split = pooling.Split(data, bank, 6, 7, 3)
    late = (np.arange(96)[None] > split.begin[:, None])[..., None]
    other = replace(data, values=np.where(late, data.values + 3.0, data.values).astype(np.float32))
    first, second = (pooling.score(s, 0.1, 3, 5) for s in (split, pooling.Split(other, bank, 6, 7, 3)))
    for model in first:
        shift = (second[model] - first[model])[split.scored()]
        assert shift.size > 10
        assert np.allclose(shift, 3.0, atol=1e-5), model


def test_pooling_chooses_the_lowest_error_of_the_third_quarter(cohort, tmp_path):
    cohort.write(tmp_path / "cohort.parquet")
    found = pooling.run(POOLING, tmp_path, 1, tmp_path / "cohort.parquet", BANK)
    third = found.filter(pl.col("world") == "third quarter", pl.col("method") == "ind")
    mean = third.group_by("scope", "decisions").agg(pl.col("value").mean())
    recency, strength, stop, alone = pooling.chosen(found)
    best = mean.filter(pl.col("value") == pl.col("value").min())
    assert (f"recency {recency:g}, strength {strength:g}", stop) in set(best.select("scope", "decisions").iter_rows())
    assert len(mean) == 8  # two recencies, two strengths, two stops
    assert alone in (2, 4, 6, 8)
    text = pooling.markdown(POOLING, Scores(found, 20))
    assert text.count("| persistence |") == 1


def test_no_class_of_schedules_is_worse_than_the_one_that_it_contains(two):
    found = ceilings(two, CeilingsRecipe(name="tiny", steps=3, refine=1))
    for better, worse in (("fixed", "constant"), ("adaptive", "fixed"), ("fine", "fixed")):
        assert (found[better].harm <= found[worse].harm).all()
    assert torch.allclose(found["adaptive"].hours.sum(-1), torch.full((2,), 96.0), atol=1e-4)


def test_intervals_are_feasible_and_inverted():
    process = DISEASE.process
    logits = 4.0 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    hours = intervals(logits, process)
    assert 0.5 - 1e-4 <= hours.min() <= hours.max() <= 36 + 1e-4
    assert torch.allclose(hours.sum(-1), torch.full((200,), 96.0), atol=1e-4)
    assert torch.allclose(intervals(interval_logits(hours, process), process), hours, atol=0.3)


def test_harm_is_severity_and_burden_over_time(solver_bank):
    u = torch.tensor([0.3, 0.2, 0.1]).expand(4, 1, 3)
    whole = schedule_harm(solver_bank, u[:, :, None].expand(-1, -1, 4, -1), torch.full((4, 1, 4), 24.0))
    cut = schedule_harm(solver_bank, u[:, :, None].expand(-1, -1, 6, -1), torch.full((4, 1, 6), 16.0))
    assert torch.allclose(whole, cut, atol=2e-3)
    curve = solver_bank.trajectory(solver_bank.initial_state()[:, None], u, torch.arange(0.0, 36.5, 0.5))
    physical, given = solver_bank.denormalize(curve), solver_bank.denormalize_treatment(u)[:, :, None]
    severity = solver_bank.disease.severity.score(physical, given)
    by_hand = (severity[..., :-1] + severity[..., 1:]).sum(-1) / 2 / 72 + 0.2 * 0.2
    first = schedule_harm(solver_bank, u[:, :, None], torch.full((4, 1, 1), 36.0))
    assert torch.allclose(first, by_hand, atol=5e-3)
