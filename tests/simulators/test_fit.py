"""Fitting: causality, disjoint worlds, known noise and needs, batch mates, early stops; files of banks."""

from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from experiments.pooling import forecast_ahead
from medgym_offline import load_simulators
from medgym_offline.cohorts import Cohort
from medgym_offline.diseases.sepsis import DISEASE as SEPSIS
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.diseases.sepsis.field import Physics
from medgym_offline.diseases.sepsis.model import MODEL, NeedPrior, estimate_need, prior_bank, shock_course
from medgym_offline.diseases.sepsis.twin_bank import twin_cohort
from medgym_offline.errors import BankError
from medgym_offline.simulators.build import BankRecipe, build_bank
from medgym_offline.simulators.data import block_steps, clinician_schedule, fit_data, start_states
from medgym_offline.simulators.distill import DistillConfig
from medgym_offline.simulators.fit import FitConfig, fit_alone, fit_individuals, fit_population
from medgym_offline.simulators.flow import SolutionMapConfig
from medgym_offline.simulators.forecast import noise_variance
from tests.helpers import edit, refused

PATIENTS = 4


@pytest.fixture(scope="module")
def cohort():
    return twin_cohort(PATIENTS, 1)[0]


@pytest.fixture(scope="module")
def data(cohort):
    return fit_data(cohort.to_grid(1.0, 96.0), SEPSIS)


def _given(data):
    return MODEL.given(data, np.ones(96, bool), Physics(), NeedPrior(), 0, 0.0)


def _same(a, b):
    return all(torch.equal(x, b.tensors()[n]) for n, x in a.tensors().items())


@pytest.fixture(scope="module")
def quick(data):
    """A population fit of a few steps: what is given, the settings and the fit."""
    given, config = _given(data), FitConfig(population_steps=3, individual_steps=8, hours=3, windows=1)
    return given, config, fit_population(data, given, Physics(), config, show=False)


def test_a_fit_reads_what_was_before_and_its_own_hours(data):
    schedule, end = clinician_schedule(data), int(data.length[0])
    assert end < 96
    assert not data.mask[0, end:].any()
    assert np.allclose(schedule[0, end:], data.u[0, end - 24 : end].mean(0))
    later = data.values.copy()
    later[:, 50:] += 7.0
    first, second = (start_states(v, data.mask, SEPSIS) for v in (data.values, later))
    assert np.array_equal(first[:, :50], second[:, :50])
    slow = [j for j in range(6) if j not in (0, 4)]
    carried = first[:, :, slow][data.mask[:, :, slow]]
    assert np.array_equal(carried, data.values[:, :, slow][data.mask[:, :, slow]])
    even, odd = (data.restrict(block_steps(parity, SEPSIS)).mask for parity in (0, 1))
    assert np.array_equal(even ^ odd, data.mask)
    assert not (even & odd).any()


def test_needs_follow_what_was_given(data):
    quiet = replace(data, start=np.zeros_like(data.start))

    def need(root, dose=0.3, who=slice(None)):
        u = quiet.u.copy()
        u[..., 1] = dose
        return estimate_need(replace(quiet, u=u).select(np.arange(PATIENTS)[who]), np.ones(96, bool), Physics(), root)

    assert (need(1)[:, 0] > need(1, 0.0)[:, 0] + 0.4).all()
    assert not np.allclose(need(1), need(2))  # independent prior draws
    assert np.allclose(need(1, who=[2])[0], need(1)[2])


def test_shock_resolves_when_need_is_met():
    need = np.array([[0.3, 1.0, 12.0]], np.float32)
    u = np.zeros((1, 96, 3), np.float32)
    untreated = shock_course(Physics(), need, u)
    u[..., 1] = 0.5
    treated = shock_course(Physics(), need, u)
    assert (treated[0, 1:] < untreated[0, 1:]).all()
    plain = shock_course(Physics(extension=False), need, u)
    assert np.allclose(plain[0], np.exp(-np.arange(96) / 12.0), atol=2e-3)


def test_fit_improves_and_individuals_fit_better_than_the_population(data, quick):
    given, config = quick[0], FitConfig(population_steps=40, individual_steps=30, pooling=0.1, hours=6)
    start = fit_population(data, given, Physics(), replace(config, population_steps=2), show=False)
    population = fit_population(data, given, Physics(), config, show=False)
    individuals = fit_individuals(data, population, given, Physics(), config, show=False)
    assert population.loss < 0.9 * start.loss
    assert individuals.loss < population.loss
    assert (individuals.params.set_point.std(0) > 0).all()  # patients have come to differ
    assert individuals.params.w1.shape[0] == 1  # the first layers stay shared
    assert individuals.params.w3.shape[0] == PATIENTS


def test_a_patients_fit_does_not_depend_on_batch_mates_or_their_penalties(data, quick):
    given, config, population = quick
    one = fit_individuals(data, population, given, Physics(), replace(config, pooling=0.1), show=False)
    order, penalty = np.array([3, 0, 2, 1]), np.repeat([0.1, 30.0], PATIENTS)
    twice = {name: np.concatenate([array[order], array[order]]) for name, array in given.items()}
    mixed = data.select(order)
    both = fit_individuals(mixed.stack(mixed), population, twice, Physics(), config, show=False, penalty=penalty)
    assert torch.allclose(both.params.set_point[:PATIENTS], one.params.set_point[order], atol=1e-5)
    moved = (both.params.set_point - population.params.set_point).abs().mean(1)
    assert (moved[PATIENTS:] < moved[:PATIENTS]).all()  # the stronger penalty keeps patients nearer to the population


def test_noise_variance_separates_measurement_from_process():
    """Random walks of 0.08 SD per square root of an hour, measured with error 0.1, at some of 96 hours."""
    rng = np.random.default_rng(0)
    walk = rng.normal(0.0, 0.08, (300, 96)).cumsum(1)
    value, mask = walk + rng.normal(0.0, 0.1, walk.shape), rng.random(walk.shape) < 0.5
    holds = np.full((12, 300, 96), np.nan)  # differences over 1..12 h: the errors of a simulator that stands still
    for g in range(1, 13):
        holds[g - 1, :, g:] = np.where(mask[:, g:] & mask[:, :-g], value[:, g:] - value[:, :-g], np.nan)
    for default in (0.02, 0.3):  # with this many observations the prior does not matter
        found = noise_variance(holds, default)[1]
        assert found["sigma"] == pytest.approx(0.08, rel=0.1)
        assert np.sqrt(found["measurement_variance"] / 2) == pytest.approx(0.1, rel=0.25)


def test_early_stopping_is_a_cut_of_the_same_fit(data, quick):
    given, config, population = quick
    for fit, every, steps in (
        (partial(fit_individuals, data, population), 3, [3, 6, 8]),
        (partial(fit_alone, data), 4, [4, 8, 11]),
    ):
        seen = {}
        fit(given, Physics(), config, show=False, watch=seen.__setitem__, every=every)
        assert list(seen) == steps
        cut = fit(given, Physics(), config, show=False, stop=steps[0])
        assert _same(cut.params, seen[steps[0]])
        assert not _same(cut.params, seen[steps[-1]])


def test_forecasts_ahead_are_the_flow_hour_by_hour(data):
    bank = prior_bank(PATIENTS, seed=1)
    begin = np.array([3, 20, 50, 94])
    shock = shock_course(bank.physics, _given(data)["need"], data.u)[..., None]
    found = forecast_ahead(bank, data, shock, begin, 4)
    i = 1
    x = torch.tensor([*data.start[i, 20], *data.derived[i, 20], *shock[i, 20]]).float().expand(PATIENTS, 1, 8)
    for t in range(20, 24):
        x = bank.flow(x, torch.from_numpy(data.u[i, t]).expand(PATIENTS, 1, 3), torch.ones(PATIENTS, 1))
        assert np.allclose(found[i, t + 1], x[i, 0, :6].numpy(), atol=1e-5)
    assert np.isfinite(found).all(-1).sum(1).tolist() == [4, 4, 4, 1]  # the grid ends at hour 95
    assert np.isnan(found[0, :4]).all()


def test_recent_hours_decide_a_need(data):
    """Vasopressors begun half a day ago are a lasting need where late hours count more than early ones."""
    u, start = np.zeros_like(data.u), data.start.copy()
    u[:, 48:60, 1], start[..., 5] = 0.4, -1.0
    stay = replace(data, u=u, start=start, length=np.full(PATIENTS, 60))
    prior = NeedPrior(base=0.02, shock=0.6, hours=6.0)

    def base(hours, recency):
        return estimate_need(stay, np.arange(96) < hours, Physics(), 0, prior, recency)[:, 0]

    assert np.allclose(base(96, 0.0), base(96, 1e7), atol=1e-4)
    assert (base(96, 6.0) > 1.5 * base(96, 0.0)).all()
    assert (base(48, 6.0) < 0.1 * base(96, 6.0)).all()


def test_a_bank_says_what_its_cohort_table_lacks(cohort):
    quick = FitConfig(population_steps=4, individual_steps=3, hours=4)
    shape = SolutionMapConfig(width=16, code=4)
    recipe = BankRecipe("sepsis-toy", 0, fit=quick, distill=DistillConfig(steps=5, pool=4), solution_map=shape)
    # Nobody's urine was charted and nobody got fluids: as of the second one's bilirubin, only the prior knows of them.
    second, variable = cohort.patients[1], pl.col("variable")
    own = (variable == "bilirubin") & (pl.col("patient") == second)
    bare = Cohort.from_table(cohort.table.filter(~variable.is_in(["urine", "fluids"]) & ~own), COHORT, cohort.stays)
    bank = build_bank(bare, recipe, {"license": "none"}, show=False)
    assert (len(bank), bank.worlds, bank.metadata["recipe_hash"]) == (PATIENTS, ("own", "crossfit"), recipe.hash)
    lacking = bank.metadata["cohort"]
    assert second in lacking["never_observed"]["bilirubin"]
    assert (lacking["never_observed"]["urine"], lacking["never_given"]) == (list(bank.patients), ["fluids"])
    refused(BankError, "asks for 99", lambda: build_bank(cohort, replace(recipe, patients=99), show=False))


def test_damage_is_named(solver_bank, tmp_path):
    good = tmp_path / "good.safetensors"
    solver_bank.save(good)
    for cut in (0, 7, 100, 4000, good.stat().st_size - 10):
        bad = tmp_path / f"cut{cut}.safetensors"
        bad.write_bytes(good.read_bytes()[:cut])
        refused(BankError, rf"cut{cut}\.safetensors: not a readable bank", partial(load_simulators, bad))
    for header in ({}, {"medgym": "[1]"}):
        save_file({"a": torch.zeros(1)}, bad, metadata=header)
        refused(BankError, "without a bank header", lambda: load_simulators(bad))
    for words, change in (
        ("medgym-bank/9", {"format": "medgym-bank/9"}),
        ("missing", {"worlds": ["own", "mars"]}),
        ("martian", {"kinds": {"own": "martian"}}),
        ("shape", {"patients": ["one"]}),
    ):
        edit(good, bad, change)
        refused(BankError, words, partial(load_simulators, bad))
