"""Basal-bolus treatment by a person: one who errs writes the records, one who errs little is the reference.

Both dose by the textbook rule: a basal rate, carbohydrate divided by a ratio, a correction of high glucose less the
insulin on board. Errors are what makes records informative: where every bolus fits its meal, insulin's effect cannot be
told from the meal's.

What happens from outside is here too: meals, what was announced of them, and what a sensor shows. Every number is a
function of (an episode's seed, a purpose, a place), so an episode's meals and readings do not depend on what it is
batched with, and a reading at tick 200 needs none of the 199 before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from medgym_offline.diseases.diabetes.people import TICK, Patients
from medgym_offline.diseases.diabetes.truth import PLASMA, SENSOR, Truth, play, start
from medgym_offline.seeds import derive_seed, generator

__all__ = [
    "HUMAN_ERROR", "Meals", "Prescription", "Records", "SENSOR_ERROR", "decide", "meals", "normals", "prescription",
    "readings", "record", "served", "uniforms",
]  # fmt: skip

# A day's six meals, as simglucose's random scenario draws them: probability; hour, spread, limits; grams, spread.
_PROBABILITY = np.array([0.95, 0.3, 0.95, 0.3, 0.95, 0.3])
_HOUR = np.array([7.0, 9.5, 12.0, 15.0, 18.0, 21.5])
_HOUR_SPREAD = np.array([1.0, 0.5, 1.0, 0.5, 1.0, 0.5])
_EARLIEST = np.array([5.0, 9.0, 10.0, 14.0, 16.0, 20.0])
_LATEST = np.array([9.0, 10.0, 14.0, 16.0, 20.0, 23.0])
_GRAMS = np.array([45.0, 10.0, 70.0, 10.0, 80.0, 10.0])
_GRAMS_SPREAD = np.array([10.0, 5.0, 10.0, 5.0, 10.0, 5.0])

ANNOUNCED_MINUTES = 10.0
"""Standard deviation of an announced time (chosen: a quarter of an hour still trains, an hour hides the meal)."""
ANNOUNCED_GRAMS = 0.10
"""Standard deviation of the logarithm of announced grams (chosen: an experienced carbohydrate counter)."""
SENSOR_ERROR = 5.0
"""Standard deviation of a sensor's error, mg/dL, beside the lag of its site (chosen: about 4 % at 130 mg/dL)."""
SENSOR_RANGE = (40.0, 400.0)
"""What commercial sensors show, mg/dL."""


def uniforms(seeds: np.ndarray, purpose: str, places: np.ndarray) -> np.ndarray:
    """Numbers in (0, 1) by (seed, purpose, place): SplitMix64 (Steele, Lea and Flood, 2014) as a counter.

    Args:
        seeds: Whole numbers of any shape.
        purpose: Name of the stream.
        places: Whole numbers of 0 or more; broadcast with `seeds[..., None]`.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    key = _mixed(np.asarray(seeds).astype(np.uint64) ^ np.uint64(derive_seed(0, purpose)))
    with np.errstate(over="ignore"):
        bits = _mixed(key[..., None] + (np.asarray(places).astype(np.uint64) + np.uint64(1)) * golden)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mixed(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def normals(seeds: np.ndarray, purpose: str, places: np.ndarray) -> np.ndarray:
    """Standard normal numbers by (seed, purpose, place); arguments of :func:`uniforms`."""
    return ndtri(uniforms(seeds, purpose, places))


@dataclass(frozen=True)
class Meals:
    """Meals of an episode in order of time, (P, E, M); places that hold none are at minute infinity with 0 g.

    Attributes:
        minutes: When each begins, from the episode's start, a multiple of 5.
        grams: Carbohydrate.
        announced_minutes, announced_grams: What the patient said beforehand.
    """

    minutes: Tensor
    grams: Tensor
    announced_minutes: Tensor
    announced_grams: Tensor


def meals(seeds: np.ndarray, weight: np.ndarray, hours: float = 24.0, start_hour: float | np.ndarray = 6.0) -> Meals:
    """Meals of episodes from their seeds.

    Args:
        seeds: One per episode, (P, E).
        weight: Body weights, kg, (P,); grams are scaled by (weight / 70)^0.75, as energy need is (Kleiber).
        hours: Length of an episode.
        start_hour: Clock at an episode's start, a number or (P, E).
    """
    seeds, start = np.asarray(seeds), np.broadcast_to(start_hour, np.shape(seeds))[..., None]
    days = int(np.ceil((hours + 24.0) / 24.0))
    places = np.arange(6 * days)

    def tiled(x: np.ndarray) -> np.ndarray:
        return np.tile(x, days)

    low, high = (ndtr((tiled(x) - tiled(_HOUR)) / tiled(_HOUR_SPREAD)) for x in (_EARLIEST, _LATEST))
    z = ndtri(low + (high - low) * uniforms(seeds, "meal time", places))
    clock = tiled(_HOUR) + tiled(_HOUR_SPREAD) * z + 24.0 * (places // 6) - start
    minutes = TICK * np.round(clock * 60.0 / TICK)
    grams = np.round(tiled(_GRAMS) + tiled(_GRAMS_SPREAD) * normals(seeds, "meal size", places)).clip(0.0)
    eaten = (uniforms(seeds, "meal eaten", places) < tiled(_PROBABILITY)) & (grams > 0)
    eaten &= (minutes >= 0) & (minutes < 60.0 * hours)
    minutes = np.where(eaten, minutes, np.inf)
    grams = np.where(eaten, grams * ((np.asarray(weight) / 70.0) ** 0.75)[:, None, None], 0.0)
    said = minutes + ANNOUNCED_MINUTES * normals(seeds, "announced time", places)
    counted = grams * np.exp(ANNOUNCED_GRAMS * normals(seeds, "announced size", places))
    order = np.argsort(minutes, -1, kind="stable")[..., : max(1, int(eaten.sum(-1).max(initial=0)))]
    return Meals(*(torch.from_numpy(np.take_along_axis(x, order, -1)).float() for x in (minutes, grams, said, counted)))


def served(minutes: Tensor, grams: Tensor, ticks: int) -> Tensor:
    """Grams that begin at each of the first `ticks` ticks: (P, E, M) times and grams to (P, E, ticks)."""
    index = torch.where(torch.isfinite(minutes), minutes / TICK, float(ticks)).long().clamp(0, ticks)
    table = grams.new_zeros((*grams.shape[:-1], ticks + 1))
    return table.scatter_add_(-1, index, grams)[..., :ticks]


def readings(glucose: Tensor, seeds: np.ndarray, ticks: np.ndarray, purpose: str = "sensor") -> Tensor:
    """What a sensor shows: glucose at its site (P, E, T), mg/dL, at tick numbers `ticks`, (T,) or (P, E, T)."""
    error = torch.from_numpy(normals(seeds, purpose, ticks)).to(glucose.dtype)
    return (glucose + SENSOR_ERROR * error).clamp(*SENSOR_RANGE)


DAY = 1440 // TICK
"""Ticks of a day."""
INSULIN_HALF_LIFE = 125.0
"""Half-life of insulin on board, minutes (chosen: the depots' absorption in the middle of the table)."""
TARGET, TOLERATED = 130.0, 150.0
"""Glucose a correction aims at, and above which it is given, mg/dL (chosen)."""
SHORTEST, LONGEST = 0.5, 12.0
"""Hours of an interval of the reference."""
MEAL_SHARE, CORRECTION_SHARE = 0.9, 0.3
"""What the reference gives of a meal's bolus and of a correction, since nobody looks again for hours (chosen: on the
published patients the mean risk is least about there; in full they give 7 instead of 4 % of time below 70 mg/dL)."""


HUMAN_ERROR = {
    # Of the prescribed ratios and basal rate, for good.
    "ratio": 0.25,
    "basal": 0.20,
    # Of the basal rate, drawn anew every 6 hours.
    "temporary": 0.25,
    # Of counted carbohydrate.
    "counting": 0.20,
    # Minutes from the meal to its bolus, uniform.
    "earliest": -10.0,
    "latest": 30.0,
    # Probabilities that a meal gets no bolus, and that it is not written down.
    "missed": 0.10,
    "unlogged": 0.10,
}
"""How a person errs; standard deviations are of logarithms (all chosen; they give 70 to 80 % of time in range)."""


@dataclass(frozen=True)
class Prescription:
    """A patient's numbers, each (P, 1): basal U/kg/h, carbohydrate ratio g/U, correction factor mg/dL per U/kg."""

    basal: Tensor
    ratio: Tensor
    correction: Tensor


@dataclass(frozen=True)
class Records:
    """Days of P patients at 5-minute ticks, (P, T) each; tick i holds what was given from it on.

    Attributes:
        glucose: The true one, mg/dL, which nobody saw.
        sensor: Continuous sensor, mg/dL.
        finger: Fingersticks, mg/dL, NaN where none: before meals, 2 h after every second one, at bedtime.
        basal: U/h.
        bolus: U, delivered within the tick.
        grams: Carbohydrate eaten from that tick on, g.
        logged: Carbohydrate that was written down, g.
    """

    glucose: Tensor
    sensor: Tensor
    finger: Tensor
    basal: Tensor
    bolus: Tensor
    grams: Tensor
    logged: Tensor


def prescription(patients: Patients, seed: int | None = None) -> Prescription:
    """The published ratios and the infusion that holds the basal state; with a `seed`, each wrong for good."""
    z = np.zeros((len(patients), 3))
    if seed is not None:
        scale = np.array([HUMAN_ERROR[name] for name in ("basal", "ratio", "ratio")])
        z = scale * np.stack([generator(seed, "prescription", name).standard_normal(3) for name in patients.names])
    exact = np.stack([patients.basal, patients["CR"], patients["CF"] * patients["BW"]], -1)
    return Prescription(*(torch.from_numpy(exact * np.exp(z)).float()[:, i : i + 1] for i in range(3)))


def _correction(plan: Prescription, reading: Tensor, on_board: Tensor) -> Tensor:
    """U/kg for glucose above what is tolerated, less insulin on board."""
    return torch.where(reading > TOLERATED, (reading - TARGET) / plan.correction - on_board, 0.0).clamp_min(0.0)


def record(model: Truth, days: int = 14, seed: int = 0) -> Records:
    """Days of every patient of `model` (ticks of 5 minutes) under a basal-bolus regimen with human error.

    The person stops the basal rate below 75 mg/dL, eats 15 g (scaled by weight) below 70, at most every half hour, and
    sometimes corrects a glucose above 230 between meals, at most every 3 hours. A patient's days depend on `seed` and
    its name, not on who else is in the stack; more days begin with the same ones.
    """
    people, count, total = model.patients, len(model.patients), days * DAY
    weight = torch.from_numpy(people["BW"]).float()[:, None]
    seeds = np.array([[derive_seed(seed, "diabetes records", name)] for name in people.names])
    eaten = meals(seeds, people["BW"], 24.0 * days, 0.0)
    grid, plan = served(eaten.minutes, eaten.grams, total)[:, 0], prescription(people, seed)

    def stream(purpose: str) -> list[np.random.Generator]:
        return [generator(seed, purpose, name) for name in people.names]

    draws = torch.from_numpy(np.stack([g.random((total, 4)) for g in stream("diabetes habits")])).float()
    spread = torch.from_numpy(np.stack([g.standard_normal((total, 2)) for g in stream("diabetes errors")])).float()
    late, missed, unlogged, notices = draws.unbind(-1)
    counted = grid * torch.exp(HUMAN_ERROR["counting"] * spread[..., 0])
    logged = torch.where(unlogged < HUMAN_ERROR["unlogged"], 0.0, counted)
    given = torch.where((missed < HUMAN_ERROR["missed"]) | (grid <= 0), 0.0, counted / plan.ratio)
    delay = torch.round(
        (HUMAN_ERROR["earliest"] + (HUMAN_ERROR["latest"] - HUMAN_ERROR["earliest"]) * late) / TICK
    ).long()
    moment = (torch.arange(total) + delay).clamp(0, total - 1)
    for_meals = torch.zeros(count, total).scatter_add_(1, moment, given)
    temporary = torch.exp(HUMAN_ERROR["temporary"] * spread[:, :: DAY // 4, 1]).repeat_interleave(DAY // 4, 1)

    state, on_board = start(model, 1), torch.zeros(count, 1)
    rescued, corrected = torch.full((count, 1), -total), torch.full((count, 1), -total)
    rescue, kept = 15.0 * (weight / 70.0) ** 0.75, 0.5 ** (TICK / INSULIN_HALF_LIFE)
    columns: list[Tensor] = []
    for tick in range(total):
        true, site = state[..., PLASMA] / model.values["Vg"], state[..., SENSOR] / model.values["Vg"]
        reading = readings(site[..., None].float(), seeds, np.array([tick]))[..., 0]
        hungry = (reading < 70.0) & (tick - rescued >= 6)
        rescued = torch.where(hungry, tick, rescued)
        extra = torch.where(hungry, rescue, 0.0)
        meal = for_meals[:, tick : tick + 1]
        alarmed = (reading > 230.0) & (tick - corrected >= 36) & (notices[:, tick : tick + 1] < 0.05)
        corrected = torch.where(alarmed, tick, corrected)
        bolus = meal + torch.where(alarmed | (meal > 0), weight * _correction(plan, reading, on_board), 0.0)
        on_board = on_board * kept + bolus / weight
        basal = torch.where(reading > 75.0, weight * plan.basal * temporary[:, tick : tick + 1], 0.0)
        food = grid[:, tick : tick + 1] + extra
        insulin = basal + bolus * (60.0 / TICK)
        state = play(model, state, insulin[..., None].to(model.dtype), food[..., None].to(model.dtype)).state
        columns.append(torch.stack([true.float(), reading, basal, bolus, food, logged[:, tick : tick + 1] + extra]))
    true, reading, basal, bolus, food, written = torch.cat(columns, -1).unbind(0)
    return Records(true, reading, _fingersticks(true, grid, seeds), basal, bolus, food, written)


def _fingersticks(glucose: Tensor, meal: Tensor, seeds: np.ndarray) -> Tensor:
    """About seven a day, with an error of 5 % (ISO 15197 asks for 95 % within 15 %)."""
    total = glucose.shape[1]
    eaten = meal > 0
    second = torch.roll(eaten & (eaten.long().cumsum(1) % 2 == 0), 24, 1)
    second[:, :24] = False
    bedtime = (torch.arange(total) % DAY == 23 * DAY // 24).expand_as(eaten)
    error = readings(torch.full((*seeds.shape, total), 100.0), seeds, np.arange(total), "fingerstick")[:, 0] / 100.0
    return torch.where(eaten | second | bedtime, glucose * error, torch.nan)


def decide(
    plan: Prescription,
    reading: Tensor,
    on_board: Tensor,
    uncovered: Tensor,
    ahead: Tensor,
    grams: Tensor,
    left: Tensor,
    decisions: Tensor,
) -> tuple[Tensor, Tensor]:
    """The reference: treats meals that are eaten or due within half an hour, and holds until the next one after them.

    The interval, 0.5 to 12 h, is kept long enough that the decisions that remain can cover the hours that remain. Where
    a meal falls before the interval can end, its bolus is given now.

    Args:
        plan: The patients' numbers.
        reading: Sensor, mg/dL; this and the others (P, E).
        on_board: Insulin on board, U/kg.
        uncovered: Reported carbohydrate eaten without a bolus, g/kg.
        ahead: Hours to the next two announced meals (P, E, 2); overdue ones at 0, infinity where none.
        grams: Their announced carbohydrate, g/kg (P, E, 2).
        left: Hours left.
        decisions: Decisions left, this one included.

    Returns:
        Basal, U/kg/h, and bolus, U/kg, (P, E, 2), and for how many hours, (P, E).
    """
    least = (left - LONGEST * (decisions - 1.0)).clamp_min(SHORTEST)
    covered = ahead <= least[..., None]
    later = torch.where(covered, torch.inf, ahead).amin(-1)
    even = left / decisions.clamp_min(1.0)
    hours = torch.where(torch.isfinite(later), later, even).clamp(max=LONGEST)
    hours = torch.minimum(torch.maximum(hours, least).clamp(max=LONGEST), left)
    hours = torch.where(decisions <= 1.0, left, hours)
    carbohydrate = uncovered + torch.where(covered, grams, 0.0).sum(-1)
    bolus = MEAL_SHARE * carbohydrate / plan.ratio + CORRECTION_SHARE * _correction(plan, reading, on_board)
    basal = torch.where(reading > 80.0, plan.basal, 0.5 * plan.basal)
    return torch.stack([basal, bolus], -1), hours
