"""One decision of the published patients, written apart from the process that carries it out for policies."""

import math

from medgym_offline.diseases.diabetes.truth import BOLUS_MINUTES, play

__all__ = ["flow"]


def flow(model, state, dose, served):
    """A basal rate held over T ticks and a bolus over its first 5 minutes.

    Args:
        model: The patients.
        state: (P, E, 15).
        dose: Basal, U/kg/h, and bolus, U/kg; (P, E, 2).
        served: Grams of meals that begin at each tick, (P, E, T).
    """
    weight = model.values["BW"]
    basal, bolus = dose[..., 0] * weight, dose[..., 1] * weight
    first = math.ceil(BOLUS_MINUTES / model.tick)
    insulin = basal[..., None].expand(*basal.shape, served.shape[-1]).clone()
    insulin[..., :first] += (bolus * (60.0 / (first * model.tick)))[..., None]
    return play(model, state, insulin, served)
