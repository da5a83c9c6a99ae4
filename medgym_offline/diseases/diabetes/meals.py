"""What happens to a patient from outside: meals, what was announced of them, and what a sensor shows.

Every number is a function of (an episode's seed, a purpose, a place), so an episode's meals and readings do not depend
on what it is batched with, and a reading at tick 200 needs none of the 199 before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from medgym_offline.diseases.diabetes.people import TICK
from medgym_offline.seeds import derive_seed

__all__ = ["SENSOR_ERROR", "Meals", "meals", "normals", "readings", "served", "uniforms"]

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
