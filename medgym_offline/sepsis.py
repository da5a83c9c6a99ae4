"""Sepsis: six physiological variables, three treatments, a smooth SOFA surrogate and a lactate cost.

The severity used throughout is a smooth surrogate of the Sequential Organ Failure Assessment with the paper's
cut-offs, so that it can be integrated and differentiated. It is not the clinical score: it has no coagulation
term, reads oxygenation from SpO2, and must not be used for care.
"""

from __future__ import annotations

from collections.abc import Sequence

from medgym_offline.disease import Array, Disease, Treatment, Variable, namespace

__all__ = ["LACTATE", "SEPSIS", "VASOPRESSOR", "cost", "sofa", "sofa_components"]

SPO2, PAO2, BILIRUBIN, GCS, URINE, LACTATE = range(6)
FIO2, VASOPRESSOR, FLUIDS = range(3)

VARIABLES = (
    Variable("spo2", "%", 0.0, 100.0, "identity", 96.9, 3.0),
    # Partial pressures are ratios in practice; the logarithm also fitted forecasts better. 20 mmHg is below survival.
    Variable("pao2", "mmHg", 20.0, 600.0, "log", 4.8, 0.49),
    Variable("bilirubin", "mg/dL", 0.0, 30.0, "log1p", 0.97, 0.80),
    Variable("gcs", "points", 3.0, 15.0, "identity", 10.4, 4.2),
    # Square root rather than log1p: anuric hours (0 mL) would sit 4 SD out and dominate the fit.
    Variable("urine", "mL/day", 0.0, 5000.0, "sqrt", 38.0, 17.0),
    Variable("lactate", "mmol/L", 0.0, 20.0, "log1p", 1.25, 0.48),
)

TREATMENTS = (
    Treatment("fio2", "%", 21.0, 100.0, 1.0),
    Treatment("vasopressor", "mcg/kg/min norepinephrine equivalents", 0.0, 0.75, 1.0),
    Treatment("fluids", "mL/h", 0.0, 1100.0, 100.0),
)


def _sigmoid(z: Array) -> Array:
    # tanh saturates without overflow, and exists under the same name in NumPy and torch.
    return 0.5 * (1.0 + namespace(z).tanh(0.5 * z))


def _steps(z: Array, cutoffs: Sequence[float], narrow: Sequence[float], wide: Sequence[float]) -> Array:
    """Sum over cut-offs c of s(z - c; a, b), s(z; a, b) = 0.7 sigmoid(z/a) + 0.3 sigmoid(z/b)."""
    total = 0.0
    for c, a, b in zip(cutoffs, narrow, wide):
        total = total + 0.7 * _sigmoid((z - c) / a) + 0.3 * _sigmoid((z - c) / b)
    return total


def sofa_components(state: Array, vasopressor: Array) -> Array:
    """The five organ terms of the SOFA surrogate (benchmark specification, section 4).

    Args:
        state: (..., 6 or more) physical units: SpO2 %, PaO2 mmHg, bilirubin mg/dL, GCS, urine mL/day, lactate mmol/L.
        vasopressor: (...) mcg/kg/min norepinephrine equivalents.

    Returns:
        (..., 5): respiratory, hepatic, neurologic, renal, cardiovascular.
    """
    xp = namespace(state)
    urine = state[..., URINE]
    respiratory = 0.7 * _steps(-state[..., SPO2], (-94, -90, -85, -80), (1,) * 4, (3,) * 4)
    hepatic = _steps(state[..., BILIRUBIN], (1.2, 2, 6, 12), (0.3,) * 4, (1.5,) * 4)
    neurologic = _steps(-state[..., GCS], (-15, -13, -10, -6), (0.5,) * 4, (1.5,) * 4)
    renal = _steps(-urine, (-500,), (50,), (120,)) + 2.0 * _steps(-urine, (-200,), (50,), (120,))
    cardio = _steps(vasopressor, (0.01, 0.05, 0.1, 0.25), (0.003, 0.01, 0.02, 0.03), (0.01, 0.03, 0.05, 0.08))
    # A vasopressor of another shape (one dose for many states) broadcasts.
    return xp.stack([respiratory, hepatic, neurologic, renal, cardio + 0.0 * urine], -1)


def sofa(state: Array, vasopressor: Array) -> Array:
    """Smooth SOFA surrogate: the sum of :func:`sofa_components`.

    Args:
        state: (..., 6 or 7 or more) physical units; the first six columns count.
        vasopressor: (...) mcg/kg/min norepinephrine equivalents.

    Returns:
        (...) severity points, between 0 and about 17.8.
    """
    return sofa_components(state, vasopressor).sum(-1)


def cost(lactate_start: Array, lactate_end: Array) -> Array:
    """Safety cost of one decision from lactate at its end and its rise (benchmark specification, section 4).

        base(l) = 0 below 1.5; 0.3 (l - 1.5)/0.5 to 2; 0.3 + 1.7 ((l - 2)/2)^0.7 to 4; 2 + (l - 4) above; at most 3
        cost    = min(base + 0.5 min(max(rise, 0)/1.5, 1), 3.5)

    Args:
        lactate_start, lactate_end: (...) mmol/L.

    Returns:
        (...) cost in [0, 3.5].
    """
    xp = namespace(lactate_end)
    level = lactate_end
    mild = 0.3 * (level - 1.5) / 0.5
    # Clipped inside the power, so that the branch not taken has no NaN and no infinite gradient.
    moderate = 0.3 + 1.7 * xp.clip((level - 2.0) / 2.0, 1e-6, 1.0) ** 0.7
    severe = 2.0 + (level - 4.0)
    base = xp.where(
        level < 1.5, 0.0 * level, xp.where(level < 2.0, mild, xp.where(level < 4.0, moderate, severe))
    )
    base = xp.clip(base, 0.0, 3.0)
    rise = xp.clip((lactate_end - lactate_start) / 1.5, 0.0, 1.0)
    return xp.clip(base + 0.5 * rise, 0.0, 3.5)


def _severity(state: Array, treatment: Array) -> Array:
    return sofa(state, treatment[..., VASOPRESSOR])


def _burden(u: Array) -> Array:
    return 0.2 * u[..., VASOPRESSOR]


SEPSIS = Disease(
    name="sepsis",
    variables=VARIABLES,
    treatments=TREATMENTS,
    balance_litres=5.0,
    balance_bounds=(-10.0, 30.0),
    hidden=("shock",),
    severity=_severity,
    burden=_burden,
    cost=cost,
    monitored=LACTATE,
    monitored_limit=4.0,
)
"""The disease of the benchmark."""
