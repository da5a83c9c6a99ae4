"""The worlds of a bank: the published patients, and what was learned of them, both by ticks of 5 minutes.

States share their places (:data:`SLOTS` after glucose at the sensor's site and what was given), so that one observation
serves every world; the compartments of a world fill as many of the hidden ones as it has. Meals come from the episode's
events, so nothing of the gut is in the state of the published patients: theirs is a function of meals and time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.diabetes.clinician import INSULIN_HALF_LIFE, served
from medgym_offline.diseases.diabetes.episodes import DERIVED, SLOTS, carbohydrate
from medgym_offline.diseases.diabetes.minimal import advance
from medgym_offline.diseases.diabetes.people import TICK, Patients
from medgym_offline.diseases.diabetes.truth import Gut, Truth, absorb, follow, start, truth
from medgym_offline.diseases.scales import Scales
from medgym_offline.stack import StackedTensors, WorldsOnly

__all__ = ["Learned", "MODEL", "Published"]

HALF_HOUR = 30 // TICK
KEPT_DAYS = 30_000
"""Days whose absorption is kept: 70 MB."""


@dataclass
class _World(StackedTensors):
    """Parameters (P, n) of a world whose compartments :meth:`play` steps."""

    parameters: Tensor

    def play(self, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Glucose and that at the sensor (T, P, B), and compartments (T, slots, P, B), after each tick.

        Args:
            given: Glucose and that at the sensor, mg/dL (P, B); compartments (SLOTS, P, B); basal, U/kg/h, and bolus,
                U/kg, in each tick (T, P, B); the episodes' events (P, B, F); tick of the start (P, B).
        """
        raise NotImplementedError

    def path(self, disease: Disease, scales: Scales, physics: Any, *given: Any) -> Tensor:
        """(P, B, ticks, D): states at the end of each tick; see :class:`~medgym_offline.diseases.base.Dynamics`."""
        x, u, start, ticks, exogenous = given
        shape, names = x.shape[:2], disease.state_names
        if ticks == 0:
            return x.new_zeros(*shape, 0, len(names))
        now = scales.denormalize(disease, x).movedim(-1, 0)
        basal, bolus = scales.denormalize_treatment(disease, u).unbind(-1)
        pushes = torch.zeros(ticks, *shape, dtype=x.dtype, device=x.device)
        pushes[0] = bolus
        events = x.new_zeros(*shape, 0) if exogenous is None else exogenous
        at = names.index("glucose"), names.index("sensor_glucose"), len(names) - SLOTS
        begun = torch.round(start * (60.0 / TICK)).long()
        glucose, site, hidden = self.play(
            now[at[0]], now[at[1]], now[at[2] :], basal.expand(ticks, *shape), pushes, events, begun
        )
        minutes = TICK * torch.arange(1, ticks + 1, dtype=x.dtype, device=x.device)[:, None, None]
        before = torch.cat([now[at[1]].expand(HALF_HOUR, *shape), site])[:ticks]
        board = (now[names.index("insulin_on_board")] + bolus) * 0.5 ** (minutes / INSULIN_HALF_LIFE)
        known = {
            "glucose": glucose,
            "sensor_glucose": site,
            "earlier_glucose": before,
            "insulin_on_board": board,
            "last_bolus": bolus.expand(ticks, *shape),
            "running_basal": basal.expand(ticks, *shape),
            "since_decision": (minutes / 60.0).expand(ticks, *shape),
        }
        rest = [*hidden.unbind(1), *[torch.zeros_like(glucose)] * (SLOTS - hidden.shape[1])]
        columns = [*(known[name] for name in ("glucose", *DERIVED)), *rest]
        normal = [scales.normal_column(disease, column, j) for j, column in enumerate(columns)]
        return torch.stack(normal).permute(2, 3, 1, 0)


@dataclass
class Published(_World):
    """Patients of the published model: their rows of the table, columns in the order of `people.PARAMETERS`."""

    kind: ClassVar[str] = "uva-padova"
    _models: dict[torch.dtype, Truth] = field(default_factory=dict, init=False, repr=False, compare=False)
    _guts: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def model(self) -> Truth:
        """Of the parameters' precision, computed once."""
        if self.parameters.dtype not in self._models:
            values = self.parameters.detach().cpu().double().numpy()
            model = truth(Patients(tuple(map(str, range(len(values)))), values), dtype=self.parameters.dtype)
            where = self.parameters.device
            moved = {name: value.to(where) for name, value in model.values.items()}
            self._models[self.parameters.dtype] = replace(
                model, values=moved, insulin=model.insulin.to(where), basal_state=model.basal_state.to(where)
            )
        return self._models[self.parameters.dtype]

    def _gut(self, events: Tensor, begun: Tensor, ticks: int) -> Gut:
        """Absorption in the window of each row, from whole episodes, each of which is computed once."""
        model, (patients, rows) = self.model, begun.shape
        hours, minutes, grams = carbohydrate(events)
        if not bool((grams > 0).any()):
            none = model.basal_state.new_zeros(1, 1, 1)
            return Gut(none.expand(ticks + 1, patients, rows), none.expand(ticks, patients, rows))
        length = int(hours.max() * 60 / TICK)
        keys = torch.cat([minutes, grams], -1).cpu().numpy()
        names = [[(p, length, row.tobytes()) for row in keys[p]] for p in range(patients)]
        if len(self._guts) + patients * rows > KEPT_DAYS:
            self._guts.clear()
        new = [{n: b for b, n in enumerate(row) if n not in self._guts} for row in names]
        if width := max(map(len, new)):
            index = torch.tensor([[*row.values(), *[0] * (width - len(row))] for row in new])
            who = torch.arange(patients)[:, None]
            weight = model.values["BW"][..., None]
            plate = served(minutes[who, index], grams[who, index] * weight, length)
            found = absorb(model, model.basal_state.new_zeros(5, patients, width), plate)[1]
            curves = torch.cat([found.ends, found.means]).permute(1, 2, 0).contiguous()
            self._guts.update({n: curves[p, i] for p, row in enumerate(new) for i, n in enumerate(row)})
        table = torch.stack([self._guts[n] for row in names for n in row]).view(patients, rows, -1)
        window = (begun[..., None] + torch.arange(ticks + 1, device=begun.device)).clamp(max=length)
        ends, means = table[..., : length + 1].gather(-1, window), table[..., length + 1 :]
        means = means.gather(-1, window[..., :-1].clamp(max=length - 1))
        return Gut(ends.movedim(-1, 0).contiguous(), means.movedim(-1, 0).contiguous())

    def play(self, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """S2008: seven compartments of insulin, then glucose in tissue."""
        glucose, site, hidden, basal, bolus, meals, start = given
        model = self.model
        volume, weight = model.values["Vg"], model.values["BW"]
        sugar = torch.stack([glucose * volume, hidden[7], site * volume])
        insulin = ((basal + bolus * (60.0 / TICK)) * weight).movedim(0, -1)
        gut = self._gut(meals, start, len(basal))
        hormones, sugars = (found[1:] for found in follow(model, hidden[:7].contiguous(), sugar, gut, insulin))
        return sugars[:, 0] / volume, sugars[:, 2] / volume, torch.cat([hormones, sugars[:, 1:2]], 1)

    def rest(self) -> tuple[Tensor, Tensor]:
        """Glucose (P,) and compartments (P, slots) at rest."""
        state = start(self.model, 1)[:, 0]
        return state[:, 12] / self.model.values["Vg"][:, 0], torch.cat([state[:, 5:12], state[:, 13:14]], -1)


@dataclass
class Learned(_World):
    """Patients of the learned minimal model: parameters in the order of `minimal.PARAMETERS`."""

    kind: ClassVar[str] = "minimal"

    def play(self, *given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Insulin's action, two depots, two compartments of the gut; a sensor shows glucose itself."""
        glucose, _, hidden, basal, bolus, meals, start = given
        p = list(self.parameters[:, None].unbind(-1))
        state, ticks = torch.cat([glucose[None], hidden[:5]]), len(basal)
        hours, minutes, grams = carbohydrate(meals)
        length = int(hours.max() * 60 / TICK) if hours.numel() else 1
        table = torch.cat([served(minutes, grams, length), grams.new_zeros(*grams.shape[:-1], 1)], -1)
        window = (start[..., None] + torch.arange(ticks, device=start.device)).clamp(max=length)
        eaten = table.gather(-1, window).movedim(-1, 0) * (1000.0 / TICK)
        insulin, found = basal / 60.0 + bolus / TICK, []
        for tick in range(ticks):
            state = advance(state, insulin[tick], eaten[tick], p)
            found.append(state)
        after = torch.stack(found)
        return after[:, 0], after[:, 0], after[:, 1:]

    def rest(self, glucose: Tensor, basal: Tensor) -> Tensor:
        """Compartments (P, slots) after a night at a basal rate (P,), U/kg/h; glucose (P,) is where it is."""
        depot = basal / 60.0 * self.parameters[:, 0]
        return torch.stack([self.parameters[:, 3] * basal, depot, depot, 0.0 * depot, 0.0 * depot], -1)


MODEL = WorldsOnly(
    {world.kind: world for world in (Published, Learned)},
    "banks of diabetes are not fitted to cohort tables; build them with: "
    "python -m medgym_offline.diseases.diabetes.bank RECIPE",
)
