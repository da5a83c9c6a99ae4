"""Fitting: causality, disjoint worlds, recovery of known noise and needs, independence of batch mates."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from medgym_offline.cohorts import Cohort
from medgym_offline.cohorts.grid import GridCohort
from medgym_offline.diseases.sepsis import DISEASE as SEPSIS
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.diseases.sepsis.field import Physics
from medgym_offline.diseases.sepsis.model import MODEL
from medgym_offline.diseases.sepsis.needs import NeedPrior, estimate_need, shock_course
from medgym_offline.diseases.sepsis.prior import prior_bank
from medgym_offline.errors import BankError
from medgym_offline.simulators.build import BankRecipe, build_bank
from medgym_offline.simulators.data import block_steps, clinician_schedule, fit_data, start_states
from medgym_offline.simulators.distill import DistillConfig
from medgym_offline.simulators.fit import FitConfig, fit_individuals, fit_population
from medgym_offline.simulators.flow import SolutionMapConfig
from medgym_offline.simulators.noise import noise_variance
from tests.cohorts.conftest import Row, long_table

PATIENTS = 6


@pytest.fixture(scope="module")
def grid():
    """Records of prior patients: simulated with noise under a tapering treatment, observed irregularly."""
    bank = prior_bank(PATIENTS, seed=5)
    g = torch.Generator().manual_seed(0)
    x = bank.initial_state().unsqueeze(1)
    states, rng = [x], np.random.default_rng(0)
    vaso = 0.3 * np.exp(-np.arange(96) / 30.0)[None] * rng.random((PATIENTS, 1))
    u = np.stack([np.full_like(vaso, 0.4), vaso, np.full_like(vaso, 0.2)], -1).astype(np.float32)
    for t in range(95):
        x = bank.step(x, torch.from_numpy(u[:, t : t + 1]), torch.ones(PATIENTS, 1), g)
        states.append(x)
    path = torch.cat(states, 1)
    mask = rng.random((PATIENTS, 96, 6)) < np.array([0.9, 0.2, 0.1, 0.3, 0.9, 0.25])
    mask[:, 0] = True
    physical = bank.denormalize(path[..., :6]).numpy()
    ids = tuple(f"toy/{i}" for i in range(PATIENTS))
    treatment = bank.denormalize_treatment(torch.from_numpy(u)).numpy()
    length = np.array([96, 96, 80, 96, 60, 96])
    balance = 5.0 * path[..., 6].numpy()
    return GridCohort(
        ids, ids, 1.0, np.where(mask, physical, np.nan), mask, treatment, length, {"fluid_balance": balance}
    )


@pytest.fixture(scope="module")
def data(grid):
    return fit_data(grid, SEPSIS)


def test_nothing_after_the_stay_is_used(data):
    assert not data.mask[2, 80:].any()
    schedule = clinician_schedule(data)
    assert np.allclose(schedule[4, 60:], data.u[4, 36:60].mean(0))


def test_start_states_are_causal_after_the_first_value(data):
    later = data.values.copy()
    later[:, 50:] += 7.0
    first, second = (start_states(v, data.mask, SEPSIS) for v in (data.values, later))
    assert np.array_equal(first[:, :50], second[:, :50])
    slow = [j for j in range(6) if j not in (0, 4)]
    carried = first[:, :, slow][data.mask[:, :, slow]]
    assert np.array_equal(carried, data.values[:, :, slow][data.mask[:, :, slow]])


def test_worlds_read_disjoint_hours(data):
    even, odd = data.restrict(block_steps(0, SEPSIS)), data.restrict(block_steps(1, SEPSIS))
    assert not (even.mask & odd.mask).any()
    assert ((even.mask | odd.mask) == data.mask).all()


def test_needs_follow_what_was_given(data):
    hours = np.ones(96, bool)
    quiet = replace(data, start=np.zeros_like(data.start))
    given, none = quiet.u.copy(), quiet.u.copy()
    given[..., 1], none[..., 1] = 0.3, 0.0
    more = estimate_need(replace(quiet, u=given), hours, Physics(), root=1)
    less = estimate_need(replace(quiet, u=none), hours, Physics(), root=1)
    assert (more[:, 0] > less[:, 0] + 0.4).all()
    other = estimate_need(replace(quiet, u=given), hours, Physics(), root=2)
    assert not np.allclose(more, other)  # independent prior draws
    alone = estimate_need(quiet.select(np.array([2])), hours, Physics(), root=1)
    assert np.allclose(alone[0], estimate_need(quiet, hours, Physics(), root=1)[2])


def test_shock_resolves_when_need_is_met():
    need = np.array([[0.3, 1.0, 12.0]], np.float32)
    u = np.zeros((1, 96, 3), np.float32)
    untreated = shock_course(Physics(), need, u)
    u[..., 1] = 0.5
    treated = shock_course(Physics(), need, u)
    assert (treated[0, 1:] < untreated[0, 1:]).all()
    plain = shock_course(Physics(extension=False), need, u)
    assert np.allclose(plain[0], np.exp(-np.arange(96) / 12.0), atol=2e-3)


def test_fit_improves_and_individuals_fit_better_than_the_population(data):
    physics, hours = Physics(), np.ones(96, bool)
    given = MODEL.given(data, hours, physics, NeedPrior(), 0, 0.0)
    short = FitConfig(population_steps=2, individual_steps=1, hours=6)
    config = FitConfig(population_steps=60, individual_steps=50, pooling=0.1, hours=6)
    start = fit_population(data, given, physics, short, show=False)
    population = fit_population(data, given, physics, config, show=False)
    individuals = fit_individuals(data, population, given, physics, config, show=False)
    assert population.loss < 0.9 * start.loss
    assert individuals.loss < population.loss
    assert (individuals.params.set_point.std(0) > 0).all()  # patients have come to differ
    assert individuals.params.w1.shape[0] == 1  # the first layers stay shared
    assert individuals.params.w3.shape[0] == PATIENTS


def test_a_patients_fit_does_not_depend_on_batch_mates(data):
    physics, hours = Physics(), np.ones(96, bool)
    given = MODEL.given(data, hours, physics, NeedPrior(), 0, 0.0)
    config = FitConfig(population_steps=2, individual_steps=5, hours=6)
    population = fit_population(data, given, physics, config, show=False)
    together = fit_individuals(data, population, given, physics, config, show=False)
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = data.select(order)
    again = fit_individuals(
        shuffled, population, {name: array[order] for name, array in given.items()}, physics, config, show=False
    )
    assert torch.allclose(again.params.set_point, together.params.set_point[order], atol=1e-5)


def _holds(value, mask):
    """(12, P, T) differences of observed values 1..12 h apart: the errors of a simulator that stands still."""
    out = np.full((12, *value.shape), np.nan)
    for g in range(1, 13):
        pair = mask[:, g:] & mask[:, :-g]
        out[g - 1, :, g:] = np.where(pair, value[:, g:] - value[:, :-g], np.nan)
    return out


def _walk(rng, patients, observed):
    """Random walks of 0.08 SD per square root of an hour, measured with error 0.1, at some of 96 hours."""
    walk = rng.normal(0.0, 0.08, (patients, 96)).cumsum(1)
    return walk + rng.normal(0.0, 0.1, walk.shape), rng.random(walk.shape) < observed


def test_noise_variance_separates_measurement_from_process():
    for default in (0.02, 0.3):  # with this many observations the prior does not matter
        found = noise_variance(_holds(*_walk(np.random.default_rng(0), 300, 0.5)), default)
        assert found.sigma == pytest.approx(0.08, rel=0.1)
        assert np.sqrt(found.measurement / 2) == pytest.approx(0.1, rel=0.25)


def test_a_bank_from_a_cohort_table(toy_cohort, tmp_path):
    recipe = BankRecipe(
        name="sepsis-toy",
        patients=0,
        fit=FitConfig(population_steps=4, individual_steps=3, hours=4),
        distill=DistillConfig(steps=5, pool=4),
        solution_map=SolutionMapConfig(width=16, code=4),
    )
    # Nobody's urine was charted and nobody got fluids: as of any other, only the prior knows of them.
    charted = ~toy_cohort.table["variable"].is_in(["urine", "fluids"])
    bare = Cohort.from_table(toy_cohort.table.filter(charted), COHORT, toy_cohort.stays)
    bank = build_bank(bare, recipe, {"license": "none"}, show=False)
    assert len(bank) == len(toy_cohort)
    assert bank.worlds == ("own", "crossfit")
    assert bank.metadata["recipe_hash"] == recipe.hash
    assert bank.metadata["cohort"]["never_observed"]["bilirubin"] == [bank.patients[1]]
    assert bank.metadata["cohort"]["never_observed"]["urine"] == list(bank.patients)
    assert bank.metadata["cohort"]["never_given"] == ["fluids"]
    x, u = bank.initial_state().unsqueeze(1), torch.full((len(bank), 1, 3), 0.2)
    for world in bank.worlds:
        assert torch.isfinite(bank.world(world).flow(x, u, torch.full((len(bank), 1), 36.0))).all()
    with pytest.raises(BankError, match="asks for 99"):
        build_bank(toy_cohort, replace(recipe, patients=99), show=False)


@pytest.fixture
def toy_cohort():
    """Three stays; the second has no bilirubin at all."""
    rng = np.random.default_rng(1)
    values = {"spo2": 95.0, "pao2": 90.0, "gcs": 12.0, "urine": 1400.0, "lactate": 2.0, "bilirubin": 1.0}
    rows: list[Row] = []
    for i in range(3):
        for t, (name, value) in itertools.product(range(0, 72, 4), values.items()):
            if (name, i) != ("bilirubin", 1):
                rows.append((f"toy/{i}", float(t), None, name, value * (1 + 0.02 * rng.standard_normal())))
        rows += [(f"toy/{i}", 0.0, 60.0, "fio2", 40.0), (f"toy/{i}", 0.0, 60.0, "fluids", 80.0)]
        rows.append((f"toy/{i}", 0.0, 20.0, "vasopressor", 0.05 * i))
    return Cohort.from_table(long_table(rows), COHORT)
