"""An episode as it is drawn and seen: its meals and sensor, the observation, and the reference clinician's rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medgym_offline.diseases.base import CLOCKS, Channel, Exogenous, Feature, View

if TYPE_CHECKING:
    from torch import Tensor

    from medgym_offline.diseases.base import Sight

__all__ = ["CONTEXT", "DERIVED", "EVENTS", "FEATURES", "SLOTS", "VIEWS", "carbohydrate", "clinician", "observe"]

CONTEXT = {
    "weight": "kg",
    "daily_insulin": "U",  # 0 where a policy is not told
    "basal": "U/kg/h",
    "carbohydrate_ratio": "g/U",
    "correction_factor": "mg/dL per U/kg",
}
"""What is known of a patient: the last three are the clinic's prescription."""
_SEEN, _GIVEN = ("sensor_glucose", "earlier_glucose"), ("insulin_on_board", "last_bolus", "running_basal")
DERIVED = (*_SEEN, *_GIVEN, "since_decision")
"""Components after glucose that follow from what was given or measured."""
SLOTS = 8
"""Compartments of a world's own, after the derived components."""
MEALS = 19
"""Most meals of an episode: six a day for three days, and a breakfast."""
NEVER = 1e6
"""Minute of a meal that is not eaten."""
SOON = 0.5
"""Hours: what was announced to come so soon after a decision was for it to treat (the shortest interval)."""
CARBOHYDRATE_DECAY = 70.0
"""Time constant of carbohydrate on board, minutes (chosen: most of a meal appears within two hours)."""
USUAL_DAILY_INSULIN = 0.6
"""U/kg (chosen: in the middle of the published patients)."""


def _draw(source: np.random.Generator, context: np.ndarray, horizon: float, episodes: int) -> np.ndarray:
    """Horizon (h), number of the sensor's errors, then minutes, g/kg, announced minutes and g/kg of the meals."""
    from medgym_offline.diseases.diabetes.clinician import meals

    # Whole numbers below 2^24 are exact in float32.
    seeds = source.integers(0, 2**24, episodes)
    plate = meals(seeds[None], context[:1], horizon)
    found = np.zeros((episodes, 2 + 4 * MEALS), np.float32)
    found[:, 0], found[:, 1] = horizon, seeds
    for i, name in enumerate(("minutes", "grams", "announced_minutes", "announced_grams")):
        values = getattr(plate, name)[0].numpy()[:, :MEALS]
        if i % 2:
            values = values / context[0]
        else:
            found[:, 2 + i * MEALS : 2 + (i + 1) * MEALS] = NEVER
        found[:, 2 + i * MEALS : 2 + i * MEALS + values.shape[1]] = np.minimum(values, NEVER)
    return found


_NAMES = [f"{name}_{i}" for name in ("minute", "grams", "said_minute", "said_grams") for i in range(MEALS)]
EVENTS = Exogenous(("horizon", "sensor", *_NAMES), _draw, unseen=("sensor",))


def carbohydrate(events: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Horizon (h) (...), minutes of meals and g/kg eaten (..., MEALS) of events (..., F); without events nothing."""
    if not events.shape[-1]:
        return events[..., 0:0].sum(-1), events, events
    minutes = events[..., 2 : 2 + MEALS]
    return events[..., 0], minutes.masked_fill(minutes >= NEVER, float("inf")), events[..., 2 + MEALS : 2 + 2 * MEALS]


def _feature(name: str, unit: str) -> Feature:
    return Feature(name, unit, -5.0, 5.0)


FEATURES = (
    _feature("sensor", "mg/dL"),
    _feature("trend", "mg/dL per half hour"),
    _feature("insulin on board", "U/kg"),
    _feature("next meal in", "h"),
    _feature("next meal", "g/kg"),
    _feature("next meal is near", "1"),
    _feature("second meal in", "h"),
    _feature("second meal", "g/kg"),
    _feature("eaten unforeseen", "g/kg"),
    _feature("carbohydrate on board", "g/kg"),
    _feature("last bolus", "U/kg"),
    _feature("hours per decision left", "h"),
    _feature("running basal", "U/kg/h"),
    _feature("since last decision", "h"),
    _feature("daily insulin", "U/kg"),
    *(Feature(name, "1", 0.0, 1.0) for name in CLOCKS),
)


def _value(sight: Sight, name: str) -> Tensor:
    j = sight.disease.column(name)
    return sight.scales.physical_column(sight.disease, sight.state[..., j], j)


def _events(sight: Sight) -> Tensor:
    if sight.exogenous is not None:
        return sight.exogenous
    events = sight.state.new_zeros(*sight.time.shape, len(EVENTS.names))  # nobody eats
    events[..., 2 : 2 + MEALS] = NEVER
    return events


def observe(sight: Sight) -> Tensor:
    """(P, B, 17): :data:`FEATURES`, clipped to -5..5. A meal is shown by plan until it is eaten, and overdue at 0 h."""
    import torch

    from medgym_offline.diseases.diabetes.clinician import readings

    seeds = _events(sight)[..., 1].long().cpu().numpy()
    ticks = torch.round(sight.time * 12.0).long().cpu().numpy()
    sensor = torch.stack([_value(sight, name) for name in _SEEN], -1)
    return _columns(sight, *readings(sensor, seeds, np.stack([ticks, np.maximum(ticks - 6, 0)], -1)).unbind(-1))


def _fingerstick(sight: Sight) -> Tensor:
    """As :func:`observe` without a sensor: the last fingerstick, which has no trend."""
    glucose = _value(sight, "glucose")
    return _columns(sight, glucose, glucose)


def _columns(sight: Sight, shown: Tensor, before: Tensor) -> Tensor:
    """The observation with a glucose, and one of half an hour ago, mg/dL (P, B)."""
    import torch

    x, events, hours = sight.state, _events(sight), sight.time
    value = {name: _value(sight, name) for name in (*_GIVEN, "since_decision")}
    since, left = value["since_decision"], sight.left.clamp_min(1.0)
    eat, _, said, grams = (events[..., 2 + i * MEALS : 2 + (i + 1) * MEALS] for i in range(4))
    now, last = 60.0 * hours[..., None], 60.0 * (hours - since)[..., None]
    eaten = eat <= now + 0.01
    # Announced beyond the horizon, a meal is not on the plan.
    coming = ~eaten & (eat < NEVER) & (said < 60.0 * sight.horizon)
    ahead, order = torch.where(coming, ((said - now) / 60.0).clamp(0.0, 12.0), 99.0).topk(2, largest=False)
    next_grams = torch.where(ahead < 99.0, grams.gather(-1, order), 0.0)
    ahead = ahead.clamp(max=12.0)
    news = eaten & (eat > last + 0.01) & (said > last + 60.0 * SOON)
    unforeseen = torch.where(news, grams, 0.0).sum(-1)
    age = torch.where(eaten, now - eat, 0.0)
    on_board = torch.where(eaten, grams * torch.exp(-age / CARBOHYDRATE_DECAY), 0.0).sum(-1)
    remaining = sight.horizon - hours
    weight, insulin = sight.context[:, :1], sight.context[:, 1:2]
    told = torch.where(insulin > 0, 2.0 * torch.log(insulin.clamp_min(1.0) / weight / USUAL_DAILY_INSULIN), 0.0)
    columns = [
        (shown - 140.0) / 60.0,
        (shown - before) / 40.0,
        10.0 * value["insulin_on_board"],
        ahead[..., 0] / 3.0 - 1.0,
        next_grams[..., 0],
        torch.exp(-2.0 * ahead[..., 0]),
        ahead[..., 1] / 3.0 - 1.0,
        next_grams[..., 1],
        unforeseen,
        on_board,
        10.0 * value["last_bolus"],
        remaining / left / 4.0 - 1.0,
        40.0 * value["running_basal"],
        since / 4.0 - 1.0,
        told.expand_as(hours),
        remaining / sight.horizon,
        sight.left / sight.decisions,
    ]
    return torch.stack([column.to(x.dtype) for column in columns], -1).clamp(-5.0, 5.0)


# ISO 15197:2013: 95 % of a meter's readings lie within 15 % (below 100 mg/dL within 15 mg/dL, which is laxer).
_METER = 0.15 / 1.96
VIEWS = {
    # The sensor of "full" errs already; this is another instrument, asked at every decision.
    "noisy": View((Channel("glucose", relative=_METER),), _fingerstick),
    # Chosen: six tests a day, the least that the ADA's Standards of Care name for intensive insulin (6 to 10), a result
    # within seconds, one in twenty strips wasted.
    "charted": View(
        (Channel("glucose", relative=_METER, gap=4.0, spread=0.4, at_start=True, missing=0.05),), _fingerstick
    ),
}


def clinician(context: Tensor, observations: Tensor, horizon: float, decisions: int) -> tuple[Tensor, Tensor]:
    """The reference clinician's doses (P, B, 2) and intervals (P, B), h, from what a policy sees (P, B, 17)."""
    import torch

    from medgym_offline.diseases.diabetes.clinician import MEAL_SHARE, Prescription, decide

    o = list(observations.unbind(-1))
    plan = Prescription(*(context[:, i : i + 1] for i in (2, 3, 4)))
    hours, left = horizon * o[15], torch.round(decisions * o[16])
    grams = torch.stack([o[4], o[7]], -1)
    ahead = torch.where(grams > 0, 3.0 * (torch.stack([o[3], o[6]], -1) + 1.0), torch.inf)
    # Where the last interval had to be long, its bolus was for all meals within it.
    since = 4.0 * (o[13] + 1.0)
    forced = hours + since - 12.0 * left > SOON
    uncovered = torch.where(forced, (o[8] - o[10] / 10.0 * plan.ratio / MEAL_SHARE).clamp_min(0.0), o[8])
    return decide(plan, 140.0 + 60.0 * o[0], o[2] / 10.0, uncovered, ahead, grams, hours, left)
