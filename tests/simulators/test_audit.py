"""The audit: its numbers against direct rollouts, its page; a failing bank is named."""

import html
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from medgym_offline.cohorts import Cohort
from medgym_offline.diseases.sepsis.cohort import COHORT
from medgym_offline.errors import BankError
from medgym_offline.simulators.audit import add_forecasts
from medgym_offline.simulators.checks import schedule_scores
from medgym_offline.simulators.data import fit_data
from medgym_offline.simulators.flow import SolutionMap, SolutionMapConfig
from medgym_offline.simulators.forecast import free_rollout
from tests.leaderboard.workshop import refused


@pytest.fixture(scope="module")
def cohort(solver_bank):
    """Records of the bank's own patients: their free course under constant doses, observed every third hour."""
    doses = torch.tensor([40.0, 0.05, 60.0])
    u = solver_bank.normalize_treatment(doses).float().expand(4, 1, 3)
    course = solver_bank.trajectory(solver_bank.initial_state()[:, None], u, torch.arange(0.0, 41.0))[:, 0]
    physical = solver_bank.denormalize(course[..., :6]).numpy()
    people, variables = enumerate(solver_bank.patients), list(enumerate(solver_bank.disease.variables))
    rows = [
        (patient, hour + 0.1, None, variable.name, float(physical[i, hour, j]), "test")
        for (i, patient), hour, (j, variable) in itertools.product(people, range(0, 40, 3), variables)
    ]
    given = itertools.product(solver_bank.patients, zip(solver_bank.disease.treatments, doses.tolist()))
    rows += [(patient, 0.0, 40.0, treatment.name, dose, "test") for patient, (treatment, dose) in given]
    names = ["patient", "time_h", "end_h", "variable", "value", "source"]
    table = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    return Cohort.from_table(table, COHORT, pl.DataFrame({"patient": list(solver_bank.patients), "los_h": [40.0] * 4}))


def test_scores_are_those_of_an_hourly_rollout(solver_bank):
    u = torch.tensor([0.3, 0.1, 0.25]).expand(4, 1, 3)
    x, total, safe = solver_bank.initial_state().unsqueeze(1), 0.0, 0.0
    for hour in range(1, 97):
        x = solver_bank.flow(x, u, torch.ones(4, 1))
        physical = solver_bank.denormalize(x[..., :6])
        total = total + solver_bank.disease.severity.score(physical, solver_bank.denormalize_treatment(u))
        safe = safe + ((physical[..., 5] < 4) & (hour > 20)).float()
    severity, share = schedule_scores(solver_bank, u.unsqueeze(2))
    assert torch.allclose(severity, total / 96, atol=1e-3)
    assert torch.allclose(share, safe / 76, atol=1e-6)


def test_rollouts_of_a_simulator_meet_its_own_record(solver_bank, cohort):
    facts = {}
    add_forecasts(facts, solver_bank, cohort)
    data = fit_data(cohort.to_grid(1.0, 96.0), solver_bank.disease, solver_bank.scales)
    path = free_rollout(solver_bank, data)
    seen = data.mask[..., 0]
    assert np.abs(path - data.values)[seen][:, [0, 1, 2, 3, 5]].max() < 0.1
    models = facts["rollout"]["held out"]["models"]
    assert models["ind"]["mae"][5] < 0.05 < models["pop"]["mae"][5]
    assert models["ind"]["rmse_mean"] >= models["ind"]["mae_mean"]
    with pytest.raises(BankError, match="lacks 1 of the 4 patients"):
        add_forecasts({}, solver_bank, cohort.select(solver_bank.patients[:3]))


def test_a_bank_that_fails_is_written_down_and_named(solver_bank, cohort, tmp_path):
    """The paper's prior, in which vasopressor only harms; crossfit has a map that was never trained."""
    trunk = SolutionMap.initial(SolutionMapConfig(width=16, code=4), 4, solver_bank.state_dim, 3, 0)
    own, crossfit = (solver_bank.world_data[name] for name in solver_bank.worlds)
    worlds = {"own": own, "crossfit": replace(crossfit, code=trunk.code)}
    physics, metadata = replace(solver_bank.physics, extension=False), {"cohort": {"never_given": ["fluids"]}}
    bank = solver_bank.replace(world_data=worlds, physics=physics, trunk=trunk, metadata=metadata)
    bank.save(tmp_path / "bank.safetensors")
    cohort.write(tmp_path / "cohort.parquet")
    arguments = (tmp_path / "bank.safetensors", "--cohort", tmp_path / "cohort.parquet", "--output", tmp_path / "out")
    line = refused("simulators", "audit", *arguments)
    assert re.search(r"fails .* checks: .* Its cohort charts no fluids at all", line)
    facts = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert any("vasopressor above 0" in c["check"] for c in facts["hard_checks"] if not c["passed"])
    page = (tmp_path / "out" / "audit.html").read_text()
    assert all(html.escape(c["check"]) in page for c in facts["hard_checks"])
    table = facts["worlds"]["own"]["constant_policies"]["table"]
    assert table["best constant of each patient"]["severity"] < table["best constant of the cohort"]["severity"]
    untrained = facts["worlds"]["crossfit"]["solution_map"]
    assert untrained["identity"] == 0.0
    assert untrained["error"]["36.0"][0] > 0.03
