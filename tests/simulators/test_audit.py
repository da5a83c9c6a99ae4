"""The audit: its numbers against direct rollouts, and a failing bank is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medgym_offline.errors import BankError
from medgym_offline.simulators import SimulatorBank
from medgym_offline.simulators.audit import audit, hard_checks
from medgym_offline.simulators.checks import bounded, constant_scores, schedule_scores, treatment_effects


def test_scores_are_those_of_an_hourly_rollout(tiny_bank: SimulatorBank) -> None:
    u = torch.tensor([0.3, 0.1, 0.25]).expand(4, 1, 3)
    x, total, safe = tiny_bank.initial_state().unsqueeze(1), 0.0, 0.0
    for hour in range(1, 97):
        x = tiny_bank.flow(x, u, torch.ones(4, 1))
        physical = tiny_bank.denormalize(x[..., :6])
        total = total + tiny_bank.disease.severity(physical, tiny_bank.denormalize_treatment(u))
        safe = safe + ((physical[..., 5] < 4) & (hour > 20)).float()
    severity, share, final = schedule_scores(tiny_bank, u.unsqueeze(2))
    assert torch.allclose(severity, total / 96, atol=1e-3)
    assert torch.allclose(share, safe / 76, atol=1e-6)
    assert torch.allclose(final, x, atol=1e-3)


def test_a_schedule_that_does_not_change_is_a_constant(tiny_bank: SimulatorBank) -> None:
    u = torch.rand(4, 2, 1, 3, generator=torch.Generator().manual_seed(0))
    constant, hourly = (schedule_scores(tiny_bank, v)[0] for v in (u, u.expand(-1, -1, 96, -1)))
    assert torch.allclose(constant, hourly, atol=1e-3)


def test_effects_and_bounds(tiny_bank: SimulatorBank) -> None:
    effects = treatment_effects(tiny_bank)
    assert (effects["fio2"][:, 1] > 0).all()
    assert bounded(tiny_bank)["finite"] == 1.0
    grid, severity, _ = constant_scores(tiny_bank)
    assert severity.shape == (4, len(grid))


def test_a_bank_that_fails_is_named_and_its_report_written(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    plain = tiny_bank.replace_physics(extension=False)
    with pytest.raises(BankError, match="fails"):
        audit(plain, tmp_path, show=False)
    facts = json.loads((tmp_path / "audit.json").read_text())
    failed = [c["check"] for c in facts["hard_checks"] if not c["passed"]]
    assert any("vasopressor above 0" in c for c in failed)  # the paper's prior: vasopressor only harms
    assert "Checks in the own world" in (tmp_path / "audit.html").read_text()
    assert len(hard_checks(facts)) == len(facts["hard_checks"])
