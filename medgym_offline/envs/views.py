"""A view at work: measurements drawn from the episode's seed, read off the path, and shown once their results are in.

Every measurement is a slot, four numbers in a table (P, B, slots, 4) that travels with the episodes: when it is taken,
when its result is in (infinity: never), its error (standard normal), and what it gave (normalized). Times and errors
are drawn before the episode begins, so they depend on the seed alone; what an instrument gives that is read at every
decision depends on the number of the decision. A value is looked at only where its result is in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import SPREAD_LIMIT, Channel, Sight, View, default_observation
from medgym_offline.envs.reward import Held, held_path
from medgym_offline.seeds import generator

if TYPE_CHECKING:
    from medgym_offline.envs.timing import ProcessConfig
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Lens"]

_TAKEN, _IN, _ERROR, _VALUE = range(4)


class Lens:
    """The view of a decision process that is not "full".

    Args:
        config: Names disease and view; horizon and budget size the table.
        counts: Slots of each channel instead, where measurements are not drawn but come from records.
    """

    def __init__(self, config: ProcessConfig, counts: Sequence[int] | None = None) -> None:
        self._disease, self._config = config.definition, config
        view = self._disease.view(config.view)
        assert view is not None
        self.view: View = view
        channels, slots = view.channels, config.decisions + 1
        counts = counts or [slots if c.gap is None else _scheduled(c, config.horizon) for c in channels]
        ends = np.cumsum(counts).tolist()
        self._slots, self.slots = [slice(end - count, end) for count, end in zip(counts, ends)], ends[-1]
        self._columns = [self._disease.column(channel.component) for channel in view.channels]
        self._known = torch.tensor([c.kind == "derived" for c in self._disease.components])

    def draw(self, seed: int) -> np.ndarray:
        """The table of one episode (slots, 4) before anything is measured, float32."""
        table = np.zeros((self.slots, 4), np.float32)
        for channel, slots in zip(self.view.channels, self._slots):
            # A stream per channel: neither the budget nor another channel shifts it.
            source = generator(seed, "view", channel.component)
            (first, never), (between,) = source.random(2), source.standard_normal(1)
            rows = source.standard_normal((slots.stop - slots.start, 3))
            lost = rows[:, 0] < NormalDist().inv_cdf(channel.missing) if channel.missing else np.zeros(len(rows), bool)
            taken = np.full(len(rows), np.inf)
            if channel.gap is not None:
                spread = channel.spread * rows[:, 1].clip(-SPREAD_LIMIT, SPREAD_LIMIT)
                gaps = channel.gap * np.exp(spread + channel.between * np.clip(between, -SPREAD_LIMIT, SPREAD_LIMIT))
                taken = np.cumsum(np.r_[0.0 if channel.at_start else first * gaps[0], gaps[1:]])
                taken = np.round(taken / self._config.tick) * self._config.tick
            table[slots, _TAKEN] = taken
            lost |= never < channel.never
            table[slots, _IN] = np.where(lost, np.inf, taken + channel.delay if channel.gap is not None else 0.0)
            table[slots, _ERROR] = rows[:, 2]
        return table

    def read(self, bank: SimulatorBank, table: Tensor, x: Tensor, time: Tensor, left: Tensor) -> Tensor:
        """The table with what is measured at `time` (P, B) in states `x` (P, B, D), `left` decisions before the end."""
        parts = []
        number = (self._config.decisions - left)[..., None]
        for i, channel in enumerate(self.view.channels):
            taken, result, error, value = table[..., self._slots[i], :].unbind(-1)
            if channel.gap is None:
                due = torch.arange(taken.shape[-1], device=x.device) == number
                taken = torch.where(due, time[..., None], taken)
                result = torch.where(due & ~result.isinf(), time[..., None] + channel.delay, result)
            else:
                due = (taken - time[..., None]).abs() <= self._half
            found = self._measured(bank, i, x[..., self._columns[i], None].expand_as(error), error)
            parts.append(torch.stack([taken, result, error, torch.where(due, found, value)], -1))
        return torch.cat(parts, 2)

    def follow(self, bank: SimulatorBank, table: Tensor, held: Held) -> Tensor:
        """The table with what is measured inside intervals (ends excluded), on the path that the reward sees."""
        taken = table[..., _TAKEN]
        since = taken - held.time[..., None]
        scheduled = [slots for slots, c in zip(self._slots, self.view.channels) if c.gap is not None]
        inside = (since > self._half) & (since < held.dt[..., None] - self._half)
        width = int(inside.sum(-1).max()) if scheduled else 0
        if not width:
            return table
        ordered, order = torch.where(inside, since, held.dt[..., None]).sort(dim=-1, stable=True)
        path = held_path(bank, held, ordered[..., :width], between=True)
        place = order.argsort(-1).clamp(max=width - 1)
        values = table[..., _VALUE].clone()
        for i, slots in enumerate(self._slots):
            states = path[..., self._columns[i]].gather(-1, place[..., slots])
            found = self._measured(bank, i, states, table[..., slots, _ERROR])
            values[..., slots] = torch.where(inside[..., slots], found, values[..., slots])
        return torch.cat([table[..., :_VALUE], values[..., None]], -1)

    def observe(self, sight: Sight, table: Tensor) -> Tensor:
        """Observations (P, B, d): the last values whose results are in and, if the view is charted, ages and masks."""
        seen = sight.state * self._known.to(sight.state)
        now, more = sight.time[..., None] + self._half, []
        for i, slots in enumerate(self._slots):
            taken, result, _, value = table[..., slots, :].unbind(-1)
            there = (taken <= now) & (result <= now)
            latest, at = torch.where(there, taken, -torch.inf).max(-1)
            known = there.any(-1)
            seen[..., self._columns[i]] = torch.where(known, value.gather(-1, at[..., None])[..., 0], 0.0)
            age = torch.where(known, (sight.time - latest) / sight.horizon, 1.0).clamp(0.0, 1.0)
            more += [age, known.to(seen)]
        observe = self.view.observe or self._disease.observe or default_observation
        shown = observe(Sight(**{**vars(sight), "state": seen}))
        if not self.view.charted:
            return shown
        return torch.cat([shown[..., :-2], torch.stack(more, -1), shown[..., -2:]], -1)

    @property
    def _half(self) -> float:
        """Times are on the clock's ticks; those that are no binary fractions differ in their last digits."""
        return self._config.tick / 2

    def _measured(self, bank: SimulatorBank, i: int, states: Tensor, error: Tensor) -> Tensor:
        """Normalized readings of normalized values, within the component's bounds."""
        channel, j = self.view.channels[i], self._columns[i]
        if not channel.error and not channel.relative:
            return states
        value = bank.scales.physical_column(self._disease, states, j)
        deviation = (channel.error**2 + (channel.relative * value) ** 2).sqrt()
        read = bank.scales.normal_column(self._disease, value + deviation * error, j)
        return read.clamp(bank.lower[j], bank.upper[j])


def _scheduled(channel: Channel, horizon: float) -> int:
    """How many measurements a channel with gaps takes at most."""
    assert channel.gap is not None
    return math.floor(horizon / (channel.gap * math.exp(-SPREAD_LIMIT * (channel.spread + channel.between)))) + 2
