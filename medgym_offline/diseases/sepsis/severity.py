"""The severity of sepsis, a smooth SOFA surrogate, and the lactate cost.

The surrogate has the Sequential Organ Failure Assessment's cut-offs, so that it can be integrated and differentiated.
It is not the clinical score: it has no coagulation term, reads oxygenation from SpO2, and must not be used for care.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from medgym_offline.diseases.scales import Array, namespace

__all__ = ["BILIRUBIN", "GCS", "LACTATE", "PAO2", "SPO2", "URINE", "cost", "cost_level", "sofa"]

SPO2, PAO2, BILIRUBIN, GCS, URINE, LACTATE = range(6)
"""Columns of the state."""


class Cutoff(NamedTuple):
    """One step of an organ's term: `weight` points as the variable passes `at`, spread over two widths.

        weight * (0.7 sigmoid(z / narrow) + 0.3 sigmoid(z / wide)),   z = worse * (variable - at)

    Attributes:
        column: The variable; `DOSE` is the vasopressor.
        worse: +1 if the patient is worse above `at`, -1 if below.
        at: The cut-off, in the variable's unit.
        narrow, wide: Widths of the step, in that unit. Chosen: about the error of a measurement, and a few of it.
        weight: Points. SOFA gives one for each cut-off passed; respiration counts 0.7 of it (saturation stands in for
            the ratio of PaO2 to FiO2), the last renal step two (SOFA has none between 500 and 200 mL/day).
    """

    column: int
    worse: float
    at: float
    narrow: float
    wide: float
    weight: float


DOSE = 6

CUTOFFS = (
    *(Cutoff(SPO2, -1.0, at, 1.0, 3.0, 0.7) for at in (94.0, 90.0, 85.0, 80.0)),  # %
    *(Cutoff(BILIRUBIN, 1.0, at, 0.3, 1.5, 1.0) for at in (1.2, 2.0, 6.0, 12.0)),  # mg/dL
    *(Cutoff(GCS, -1.0, at, 0.5, 1.5, 1.0) for at in (15.0, 13.0, 10.0, 6.0)),  # points
    Cutoff(URINE, -1.0, 500.0, 50.0, 120.0, 1.0),  # mL/day
    Cutoff(URINE, -1.0, 200.0, 50.0, 120.0, 2.0),
    Cutoff(DOSE, 1.0, 0.01, 0.003, 0.01, 1.0),  # mcg/kg/min norepinephrine equivalents
    Cutoff(DOSE, 1.0, 0.05, 0.01, 0.03, 1.0),
    Cutoff(DOSE, 1.0, 0.1, 0.02, 0.05, 1.0),
    Cutoff(DOSE, 1.0, 0.25, 0.03, 0.08, 1.0),
)
"""Cut-offs of the paper (arXiv 2606.01028, appendix, "Reward Function"), after SOFA (Vincent et al., 1996). Its first
vasopressor cut-off is 0; a smooth step there would score half a point without any dose, so ours is 0.01."""
_COLUMNS = [cutoff.column for cutoff in CUTOFFS]


@functools.lru_cache(maxsize=16)
def _constants(like: tuple[Any, ...]) -> tuple[Array, ...]:
    """Column of each cut-off (7, 18), half of sign/narrow and of cut/narrow, narrow/wide and the weights (18,).

    As arrays of one kind, precision and device.
    """
    sign, cut, narrow, wide, weight = np.array([cutoff[1:] for cutoff in CUTOFFS]).T
    picked = np.zeros((7, len(CUTOFFS)))
    picked[_COLUMNS, np.arange(len(CUTOFFS))] = 1.0
    parts = (picked, 0.5 * sign / narrow, 0.5 * sign * cut / narrow, narrow / wide, weight)
    if like[0] == "numpy":
        return tuple(p.astype(like[1]) for p in parts)
    import torch

    # Made outside inference mode: these are cached, and gradients may flow past them later.
    with torch.inference_mode(False):
        return tuple(torch.tensor(p, dtype=like[1], device=like[2]) for p in parts)


def _exact_matmul(x: Array) -> bool:
    """Whether a product with zeros and ones keeps every digit: on a CPU torch multiplies far faster than it gathers.

    Not on a GPU or at lowered precision, and not in NumPy, where a record's NaN must stay in its own column.
    """
    torch = namespace(x)
    return torch is not np and x.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"


def sofa(state: Array, vasopressor: Array) -> Array:
    """Smooth SOFA surrogate: the sum over the cut-offs of weight (0.7 sigmoid(z/narrow) + 0.3 sigmoid(z/wide)).

    Args:
        state: (..., 6 or 7 or more) physical units: SpO2 %, PaO2 mmHg, bilirubin mg/dL, GCS, urine mL/day, lactate
            mmol/L; the first six columns count.
        vasopressor: (...) mcg/kg/min norepinephrine equivalents.

    Returns:
        (...) severity points, between 0 and about 17.8.
    """
    xp = namespace(state)
    dose = vasopressor + 0.0 * state[..., SPO2]  # a dose shared by many states broadcasts
    seven = xp.concatenate([state[..., :6], dose[..., None]], -1)
    like = ("numpy", np.result_type(seven, np.float32).str) if xp is np else ("torch", seven.dtype, seven.device)
    picked, gain, offset, ratio, weights = _constants(like)
    z = (seven @ picked if _exact_matmul(seven) else seven[..., _COLUMNS]) * gain
    z -= offset
    # sigmoid(2 z) = (1 + tanh z)/2: tanh saturates without overflow and has one name in NumPy and torch.
    scores = 0.35 * xp.tanh(z)
    scores += 0.5
    scores += 0.15 * xp.tanh(ratio * z)
    return scores @ weights


def cost_level(lactate: Array) -> Array:
    """Safety cost of a level of lactate (arXiv 2606.01028, appendix, "Cost Function").

        0 below 1.5; 0.3 (l - 1.5)/0.5 to 2; 0.3 + 1.7 ((l - 2)/2)^0.7 to 4; 2 + (l - 4) above; at most 3

    Args:
        lactate: (...) mmol/L.

    Returns:
        (...) cost in [0, 3].
    """
    xp = namespace(lactate)
    mild = 0.3 * (lactate - 1.5) / 0.5
    # Clipped inside the power, so that the branch not taken has no NaN and no infinite gradient.
    moderate = 0.3 + 1.7 * xp.clip((lactate - 2.0) / 2.0, 1e-6, 1.0) ** 0.7
    severe = 2.0 + (lactate - 4.0)
    level = xp.where(lactate < 2.0, mild, xp.where(lactate < 4.0, moderate, severe))
    return xp.clip(xp.where(lactate < 1.5, 0.0 * lactate, level), 0.0, 3.0)


def cost(lactate_start: Array, lactate_end: Array) -> Array:
    """Safety cost of one decision from lactate at its end and its rise.

        cost = min(level + 0.5 min(max(rise, 0)/1.5, 1), 3.5)

    Args:
        lactate_start, lactate_end: (...) mmol/L.

    Returns:
        (...) cost in [0, 3.5].
    """
    xp = namespace(lactate_end)
    rise = xp.clip((lactate_end - lactate_start) / 1.5, 0.0, 1.0)
    return xp.clip(cost_level(lactate_end) + 0.5 * rise, 0.0, 3.5)
