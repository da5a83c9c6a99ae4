"""The smallest disease: Bergman's minimal model of glucose and insulin, for tests and as a model of how to add one.

A person whose glucose is too high, plasma insulin above its basal level as the treatment, one day. The minimal model
(Bergman et al., Am J Physiol 236:E667, 1979) is the truth; what is learned from records is the same law with parameters
fitted. It is not a model of care: there are no meals, and nobody controls plasma insulin directly.
"""

from __future__ import annotations

from functools import partial
from pkgutil import resolve_name

from medgym_offline.diseases import base
from medgym_offline.diseases.scales import Array, namespace

__all__ = ["DISEASE", "risk"]


def risk(glucose: Array) -> Array:
    """Risk of a glucose in mg/dL, 10 f^2 with f = 1.509 (ln(G)^1.084 - 5.381) (Kovatchev et al., Diabetes Care,
    1997)."""
    f = 1.509 * (namespace(glucose).log(glucose) ** 1.084 - 5.381)
    return 10.0 * f * f


def _low(glucose: Array) -> Array:
    """Cost per hour: 1 below 70 mg/dL, rising from 0 over the 10 above it."""
    return namespace(glucose).clip((80.0 - glucose) / 10.0, 0.0, 1.0)


COST = base.Cost(
    "low", "glucose", 70.0, "below", lambda _, end: _low(end), _low, definition="1 where glucose ends below 70 mg/dL"
)

DISEASE = base.Disease(
    name="toy",
    label="the toy disease",
    components=(
        # Ratios matter, so the logarithm; 10 to 1000 mg/dL is what meters can tell. Center and scale: chosen, about
        # 180.
        base.Component("glucose", "mg/dL", 10.0, 1000.0, "log", 5.2, 0.4, noise=0.05),
        # Insulin where it acts, which lags behind plasma: X / (p3/p2) of the paper.
        base.Component("insulin_action", "uU/mL", 0.0, 60.0, scale=30.0, kind="hidden"),
    ),
    treatments=(base.Treatment("insulin", "uU/mL above basal", 0.0, 60.0, transform="identity"),),
    process=base.Process(
        horizon=24.0, min_interval=0.5, max_interval=12.0, decisions=6, cell=0.25, reference_interval=4.0
    ),
    severity=base.Severity(
        "risk", "risk of glucose", "points", lambda state, dose: risk(state[..., 0]), definition="the risk of a glucose"
    ),
    costs=(COST,),
    views={
        # Chosen: a meter that errs by 5 %, at every decision, or every three hours or so with a delay of half an hour.
        "noisy": base.View((base.Channel("glucose", relative=0.05),)),
        "charted": base.View((base.Channel("glucose", relative=0.05, gap=3.0, spread=0.3, delay=0.5, missing=0.1),)),
    },
    subgroups=(base.Subgroup("initial glucose", "initial_glucose", lambda state, severity: state[..., 0]),),
    sign_checks=(base.SignCheck("insulin lowers glucose", "insulin", "glucose", -1, 0.95),),
    bank="toy-v0",
    # Torch and polars are imported when they are asked for.
    model=partial(resolve_name, f"{__name__}.model:MODEL"),
    cohort=partial(resolve_name, f"{__name__}.cohort:COHORT"),
    caution="It is an example: no meals, and plasma insulin is set directly.",
    description="Lowering a high glucose for a day with plasma insulin.",
)
"""The disease."""
