"""Bank files and partial pooling."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from experiments.pooling import forecast_ahead
from medgym_offline import load_simulators
from medgym_offline.diseases.sepsis import DISEASE
from medgym_offline.diseases.sepsis.field import FieldParameters, Physics
from medgym_offline.diseases.sepsis.model import MODEL
from medgym_offline.diseases.sepsis.needs import NeedPrior, estimate_need, shock_course
from medgym_offline.diseases.sepsis.prior import prior_bank
from medgym_offline.diseases.sepsis.twin_bank import twin_cohort
from medgym_offline.errors import BankError
from medgym_offline.simulators.data import fit_data
from medgym_offline.simulators.fit import FitConfig, fit_alone, fit_individuals, fit_population
from tests.helpers import refused

PATIENTS = 4


@pytest.fixture(scope="module")
def cohort():
    return twin_cohort(PATIENTS, 1)[0]


@pytest.fixture(scope="module")
def data(cohort):
    return fit_data(cohort.to_grid(1.0, 96.0), DISEASE)


def _given(data):
    return MODEL.given(data, np.ones(96, bool), Physics(), NeedPrior(), 0, 0.0)


def _same(a, b):
    return all(torch.equal(x, b.tensors()[n]) for n, x in a.tensors().items())


def test_early_stopping_is_a_cut_of_the_same_fit(data):
    config, given = FitConfig(population_steps=3, individual_steps=8, hours=3, windows=1), _given(data)
    population = fit_population(data, given, Physics(), config, show=False)
    seen: dict[int, FieldParameters] = {}

    def watch(done, params):
        seen[done] = params

    fit_individuals(data, population, given, Physics(), config, show=False, watch=watch, every=3)
    assert list(seen) == [3, 6, 8]
    cut = fit_individuals(data, population, given, Physics(), config, show=False, stop=6)
    assert _same(cut.params, seen[6])
    assert not _same(cut.params, seen[8])
    alone: dict[int, FieldParameters] = {}
    fit_alone(data, given, Physics(), config, show=False, watch=alone.__setitem__, every=4)
    assert list(alone) == [4, 8, 11]
    assert _same(fit_alone(data, given, Physics(), config, show=False, stop=4).params, alone[4])


def test_strengths_may_be_stacked(data):
    config, given = FitConfig(population_steps=2, individual_steps=6, hours=3, windows=1), _given(data)
    population = fit_population(data, given, Physics(), config, show=False)
    penalty = np.repeat([0.1, 30.0], PATIENTS)
    twice = {name: np.concatenate([array, array]) for name, array in given.items()}
    both = fit_individuals(data.stack(data), population, twice, Physics(), config, show=False, penalty=penalty)
    one = fit_individuals(data, population, given, Physics(), replace(config, pooling=0.1), show=False)
    assert torch.allclose(both.params.set_point[:PATIENTS], one.params.set_point, atol=1e-6)
    moved = (both.params.set_point - population.params.set_point).abs().mean(1)
    assert (moved[PATIENTS:] < moved[:PATIENTS]).all()  # the stronger penalty keeps patients nearer to the population


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


def test_round_trip(tiny_bank, tmp_path):
    tiny_bank.save(tmp_path / "b.safetensors")
    again = load_simulators(tmp_path / "b.safetensors")
    x, u = tiny_bank.initial_state().unsqueeze(1), torch.full((4, 1, 3), 0.3)
    assert torch.equal(again.flow(x, u, torch.full((4, 1), 7.0)), tiny_bank.flow(x, u, torch.full((4, 1), 7.0)))
    assert again.content_hash == tiny_bank.content_hash
    assert again.replace().content_hash == tiny_bank.content_hash
    assert (again.patients, again.scales, again.physics) == (tiny_bank.patients, tiny_bank.scales, tiny_bank.physics)
    held = (again.world("crossfit"), tiny_bank.world("crossfit"))
    assert torch.equal(*(b.field(x, u) for b in held))


def _edit_header(source, target, **changes):
    with safe_open(source, framework="pt") as stream:
        header = json.loads(stream.metadata()["medgym"])
        tensors = {k: stream.get_tensor(k) for k in stream.keys()}  # noqa: SIM118
    header.update(changes)
    save_file(tensors, target, metadata={"medgym": json.dumps(header)})


def test_damage_is_named(tiny_bank, tmp_path):
    good = tmp_path / "good.safetensors"
    tiny_bank.save(good)
    for cut in (0, 7, 100, 4000, good.stat().st_size - 10):
        bad = tmp_path / f"cut{cut}.safetensors"
        bad.write_bytes(good.read_bytes()[:cut])
        with pytest.raises(BankError, match=rf"cut{cut}\.safetensors: not a readable bank"):
            load_simulators(bad)
    for header in ({}, {"medgym": "[1]"}):
        save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors", metadata=header)
        refused(BankError, "without a bank header", lambda: load_simulators(tmp_path / "foreign.safetensors"))
    _edit_header(good, tmp_path / "later.safetensors", format="medgym-bank/9")
    refused(BankError, "medgym-bank/9", lambda: load_simulators(tmp_path / "later.safetensors"))
    _edit_header(good, tmp_path / "worlds.safetensors", worlds=["own", "mars"])
    refused(BankError, "missing", lambda: load_simulators(tmp_path / "worlds.safetensors"))
    _edit_header(good, tmp_path / "patients.safetensors", patients=["one"])
    refused(BankError, "shape", lambda: load_simulators(tmp_path / "patients.safetensors"))
