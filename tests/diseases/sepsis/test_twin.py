"""The twin: a true field with known properties, records confounded by severity, and scores with known answers."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from experiments.twin_records import REAL, summarize
from medgym_offline import load_simulators
from medgym_offline.diseases.scales import Scales
from medgym_offline.diseases.sepsis import DISEASE as SEPSIS
from medgym_offline.diseases.sepsis.cohort.synthetic import live
from medgym_offline.diseases.sepsis.twin import WIDE, TwinPatients, bare_bank, true_world, twin_ids
from medgym_offline.diseases.sepsis.twin_bank import (
    STARTS,
    Model,
    bank_model,
    build_twin,
    score,
    true_cases,
    twin_cohort,
)
from medgym_offline.errors import BankError
from medgym_offline.simulators import World
from medgym_offline.simulators.build import BankRecipe
from medgym_offline.simulators.distill import DistillConfig
from medgym_offline.simulators.fit import FitConfig
from medgym_offline.simulators.flow import BoundedField, SolutionMapConfig
from tests.helpers import refused

SEED, RELEASE = 11, 20260102
VARIABLES = [v.name for v in SEPSIS.variables]


def _truth(patients, scales=WIDE, seed=SEED):
    ids = twin_ids(patients)
    return bare_bank(ids, scales, true_world(seed, ids, scales))


@pytest.fixture(scope="module")
def truth():
    return _truth(12)


@pytest.fixture(scope="module")
def records():
    return twin_cohort(110, RELEASE)


@pytest.fixture(scope="module")
def bank():
    fit, distill = FitConfig(population_steps=2, individual_steps=2, windows=1), DistillConfig(steps=2, pool=2, batch=2)
    shape = SolutionMapConfig(width=8, code=2)
    recipe = BankRecipe("tiny-twin", 4, seed=SEED, fit=fit, distill=distill, solution_map=shape)
    return build_twin(recipe, scratch=False, show=False)


def _hold(bank, dose, hours):
    """Physical state (P, 8) after holding physical doses."""
    x = bank.initial_state().unsqueeze(1)
    u = bank.normalize_treatment(torch.tensor(dose)).expand(len(bank), 1, 3)
    return bank.denormalize(bank.flow(x, u, torch.full(x.shape[:2], hours)))[:, 0]


# -- the field ---------------------------------------------------------------------------------------------------------


def test_every_treatment_has_an_optimum(truth):
    lactate = {v: _hold(truth, (40.0, v, 50.0), 12.0)[:, 5] for v in (0.0, 0.08, 1.2)}
    assert (lactate[0.08] < lactate[0.0] - 0.2).float().mean() > 0.6  # a little perfuses
    assert (lactate[1.2] > lactate[0.08] + 0.2).float().mean() > 0.6  # a lot starves the gut
    dry, filled, flooded = (_hold(truth, (40.0, 0.0, f), 30.0) for f in (0.0, 150.0, 1100.0))
    assert (filled[:, 4] > dry[:, 4]).float().mean() > 0.8
    assert (flooded[:, 1] < 0.8 * filled[:, 1]).all()  # the flooded lung
    room, some, full = (_hold(truth, (o, 0.05, 50.0), 36.0) for o in (21.0, 40.0, 100.0))
    assert (some[:, 0] > room[:, 0] + 0.5).float().mean() > 0.8
    assert (full[:, 7] > some[:, 7] + 0.02).float().mean() > 0.5  # injured by oxygen: severity outlives it
    assert (full[:, 7] >= some[:, 7] - 1e-4).all()


def test_solver_steps_of_an_hour_are_enough():
    truth = load_simulators("sepsis-twin-v0").world("true")
    g, count = torch.Generator().manual_seed(2), len(truth)
    x, u = truth.initial_state().unsqueeze(1).expand(-1, 4, -1), torch.rand((count, 4, 3), generator=g)
    hours = torch.tensor([2.0, 12.0, 36.0]).expand(count, 4, 3)
    parts = [BoundedField(truth.field, truth.lower, truth.upper).solve(x, u, hours, s) for s in (1.0, 0.1)]
    error = (parts[0] - parts[1]).abs()
    assert error.quantile(0.99) < 0.04
    assert error.median() < 2e-3


# -- the records -------------------------------------------------------------------------------------------------------


def test_calibrated_to_the_real_cohort(records):
    real = json.loads(REAL.read_text(encoding="utf-8"))
    twin = summarize(records[0])
    for name, r in real["variables"].items():
        t = twin["variables"][name]
        for at, rel in ((1, 0.5), (2, 0.25), (3, 0.5)):
            assert t["value"][at] == pytest.approx(r["value"][at], rel=rel), (name, at)
        assert t["gap"][1] == pytest.approx(r["gap"][1], rel=0.3), name
        assert t["per_stay"][1] == pytest.approx(r["per_stay"][1], rel=0.5, abs=2.0), name
        assert t["absent"] == pytest.approx(r["absent"], abs=0.08), name
    for name, r in real["treatments"].items():
        t = twin["treatments"][name]
        assert t["stays"] == pytest.approx(r["stays"], abs=0.1), name
        assert t["hours"] == pytest.approx(r["hours"], abs=0.15), name
        assert t["dose"][2] == pytest.approx(r["dose"][2], rel=0.3), name
    for pair in ("vasopressor, lactate", "vasopressor, gcs", "fio2, gcs", "fluids, lactate"):
        assert np.sign(twin["confounding"][pair]) == np.sign(real["confounding"][pair]), pair


def test_a_patient_is_the_same_alone(records):
    _, course = records
    seven = _truth(8, seed=RELEASE).select([7])
    alone = live(TwinPatients(seven), RELEASE)
    assert np.array_equal(alone.doses[0], course.doses[7])
    assert np.allclose(alone.states[0], course.states[7], rtol=1e-3, atol=1e-3)
    fewer, _ = twin_cohort(8, RELEASE)
    full, mine = (cohort.select(["twin/007"]).table for cohort in (records[0], fewer))
    assert full.drop("value").equals(mine.drop("value"))
    assert np.allclose(full["value"].to_numpy(), mine["value"].to_numpy(), rtol=1e-3, atol=0.11)


# -- the bank ----------------------------------------------------------------------------------------------------------


def test_the_world_of_a_truth_is_one_of_the_bank(bank):
    assert (bank.backend, bank.world("true").backend, bank.world("true").world("own").backend) == ("map", "ode", "map")
    x, u = bank.world("true").initial_state().unsqueeze(1), torch.full((4, 1, 3), 0.3)
    found = bank.world("true").flow(x, u, torch.full((4, 1), 7.0))
    chosen = bank.select(["twin/002", "twin/000"]).world("true")
    assert torch.allclose(chosen.flow(x[[2, 0]], u[:2], torch.full((2, 1), 7.0)), found[[2, 0]], atol=1e-5)
    refused(BankError, "'true' has no solution map", lambda: bank.world("true").with_backend("map"))
    with_other = bank.with_world("true", World(**{**bank.world_data["true"].__dict__, "noise": bank.noise_scale * 2}))
    assert with_other.content_hash != bank.content_hash
    refused(BankError, "first states", lambda: bank.with_world("true", true_world(SEED, twin_ids(3), bank.scales)))


def test_score_by_hand(bank):
    cases = true_cases(bank)
    assert score(bank_model(bank.world("true"), cases), cases, VARIABLES)["mae"]["mean"] == pytest.approx(0, abs=1e-5)
    still = score(Model(lambda x, u, dt: x, cases.states[..., 7]), cases, VARIABLES)
    true = (cases.ends["random"][:, :, 3, :6] - cases.states[:, STARTS, :6]).double().numpy().reshape(-1, 6)
    r2 = 1.0 - (true**2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    assert [still["r2"]["random"]["4 h"][v] for v in VARIABLES] == pytest.approx(list(r2), abs=1e-3)
    error = (cases.states[:, :1, :6] - cases.expected[..., :6]).double().numpy()
    spread = cases.states[:, 1:, :6].double().numpy().reshape(-1, 6).var(0)
    nmse = (error**2).mean((0, 1)) / spread
    assert [still["nmse"][v] for v in VARIABLES] == pytest.approx(list(nmse), rel=1e-3)


def test_mistakes_are_named(solver_bank):
    refused(BankError, "no world 'true'", lambda: SEPSIS.truth_facts(solver_bank))
    refused(BankError, "is fitted", lambda: TwinPatients(solver_bank))
    refused(BankError, "how many to draw", lambda: build_twin(replace(BankRecipe("sepsis-x"), patients=0)))
    for spread in (-1.0, float("nan"), "wide"):
        refused(BankError, "bank recipe: 'spread' is", partial(BankRecipe, "sepsis-x", spread=spread))


def test_truth_is_the_same_in_other_coordinates(truth):
    scales = Scales((95.0, 4.6, 0.8, 9.0, 35.0, 1.1), (2.0, 0.4, 0.6, 3.0, 15.0, 0.4), (100.0, 2.0, 5000.0))
    other = _truth(12, scales)
    start = [b.denormalize(b.initial_state()) for b in (truth, other)]
    assert torch.allclose(*start, rtol=2e-4, atol=2e-3)
    found = [_hold(b, (60.0, 0.2, 300.0), 17.0) for b in (truth, other)]
    assert torch.allclose(*found, rtol=2e-3, atol=5e-3)
