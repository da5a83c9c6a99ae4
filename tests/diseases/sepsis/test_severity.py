"""The SOFA surrogate, the cost and the unit maps against independent scalar computations."""

import math

import numpy as np
import pytest
import torch

from medgym_offline.diseases import sepsis


def _s(z, a, b):
    return 0.7 / (1 + math.exp(-z / a)) + 0.3 / (1 + math.exp(-z / b))


def scalar_sofa(spo2, bilirubin, gcs, urine, dose):
    respiratory = 0.7 * sum(_s(c - spo2, 1, 3) for c in (94, 90, 85, 80))
    hepatic = sum(_s(bilirubin - c, 0.3, 1.5) for c in (1.2, 2, 6, 12))
    neurologic = sum(_s(c - gcs, 0.5, 1.5) for c in (15, 13, 10, 6))
    renal = _s(500 - urine, 50, 120) + 2 * _s(200 - urine, 50, 120)
    steps = ((0.01, 0.003, 0.01), (0.05, 0.01, 0.03), (0.1, 0.02, 0.05), (0.25, 0.03, 0.08))
    cardio = sum(_s(dose - c, a, b) for c, a, b in steps)
    return respiratory + hepatic + neurologic + renal + cardio


@pytest.mark.parametrize(
    "row", [(97, 90, 0.8, 15, 1500, 1.0, 0.0), (91, 60, 2.5, 9, 420, 3.0, 0.08), (75, 45, 14, 3, 30, 12, 0.6)]
)
def test_sofa_agrees_with_a_scalar_computation(row):
    spo2, _, bilirubin, gcs, urine, _, dose = row
    expected = scalar_sofa(spo2, bilirubin, gcs, urine, dose)
    assert sepsis.sofa(np.array(row[:6]), np.array(dose)) == pytest.approx(expected, rel=1e-12)
    stacked = torch.tensor([row[:6], row[:6]], dtype=torch.float64)
    both = sepsis.sofa(stacked, torch.tensor([dose, dose], dtype=torch.float64))
    assert both.tolist() == pytest.approx([expected, expected], rel=1e-12)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (1.0, 1.0, 0.0),
        (1.75, 1.75, 0.15),
        (2.0, 2.0, 0.3),
        (3.0, 3.0, 0.3 + 1.7 * 0.5**0.7),
        (5.0, 4.5, 2.5),
        (9.0, 9.0, 3.0),
        (1.0, 1.75, 0.15 + 0.25),
        (2.0, 9.0, 3.5),
    ],
)
def test_cost_at_hand_computed_points(start, end, expected):
    assert float(sepsis.cost(np.array(start), np.array(end))) == pytest.approx(expected, abs=2e-4)
    assert float(sepsis.cost(torch.tensor(start), torch.tensor(end))) == pytest.approx(expected, abs=2e-4)


def test_cost_is_continuous_and_does_not_fall_with_lactate():
    level = np.linspace(0, 12, 24001)
    cost = sepsis.cost(level, level)
    assert (np.diff(cost) >= -1e-12).all()
    assert np.abs(np.diff(cost)).max() < 0.02  # the 0.7 power is steep at 2 mmol/L, but has no jump


def test_severity_is_differentiable_after_use_in_inference_mode():
    state = torch.tensor([[91.0, 60, 2.5, 9, 420, 3]])
    with torch.inference_mode():
        sepsis.sofa(state, torch.tensor([0.1]))
    dose = torch.tensor([0.1], requires_grad=True)
    sepsis.sofa(state, dose).sum().backward()
    low, high = (sepsis.sofa(state, torch.tensor([0.1 + h])) for h in (-1e-3, 1e-3))
    assert float(dose.grad) == pytest.approx(float(high - low) / 2e-3, rel=1e-2)
