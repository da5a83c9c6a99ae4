"""The published truth: the UVA/Padova type 1 diabetes model S2008, stacked over patients and episodes.

Equations: Dalla Man, Rizza and Cobelli, IEEE Trans Biomed Eng 54:1740 (2007); Kovatchev, Breton, Dalla Man and Cobelli,
J Diabetes Sci Technol 3:44 (2009). With the table's symbols (`people.PARAMETERS`):

    dq1 = -kmax q1 + D;   dq2 = kmax q1 - kgut q2;   dq3 = kgut q2 - kabs q3;   Ra = f kabs q3 / BW
    dGp = max(kp1 - kp2 Gp - kp3 Id, 0) + Ra - Fsnc - ke1 max(Gp - ke2, 0) - k1 Gp + k2 Gt
    dGt = -(Vm0 + Vmx X) Gt / (Km0 + Gt) + k1 Gp - k2 Gt
    dIp = -(m2 + m4) Ip + m1 Il + ka1 S1 + ka2 S2;   dIl = -(m1 + m30) Il + m2 Ip;   I = Ip / Vi
    dX = p2u (I - Ib - X);   dI1 = ki (I - I1);   dId = ki (I1 - Id)
    dS1 = u - (ka1 + kd) S1;   dS2 = kd S1 - ka2 S2;   dGs = ksc (Gp - Gs);   glucose = Gp / Vg

Three structures make it fast and exact where it can be: the gut depends on meals alone and steps by the minute, with
exact exponentials and conserved mass (its fastest rate is 1.2 /min); insulin is linear in the dose, so a matrix
exponential steps it exactly; only the two glucose compartments need a Runge-Kutta step per tick. Every operation is
elementwise over (patients, episodes), so a patient's numbers do not depend on what it is stacked with.

:func:`simulate` is one published patient over one day, for anyone who wants to look at it or check it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.diabetes.people import PARAMETERS, PMOL_PER_UNIT, TICK, Patients, find
from medgym_offline.errors import ProtocolError
from medgym_offline.patients import whole_number

__all__ = [
    "BOLUS_MINUTES", "Gut", "PLASMA", "Path", "SENSOR", "Truth", "absorb", "follow", "play", "simulate", "start",
    "truth",
]  # fmt: skip

BOLUS_MINUTES = 5
"""Minutes over which a bolus is delivered (chosen: one tick, as a pump needs)."""
EATING = 5.0
"""Grams of carbohydrate eaten per minute (as simglucose does)."""

GUT, INSULIN = slice(0, 5), slice(5, 12)
PLASMA, TISSUE, SENSOR = 12, 13, 14
"""Where they stand in a state, whose components are

    stomach_solid             q1, mg
    stomach_liquid            q2, mg
    gut                       q3, mg
    plate                     served and not yet eaten, mg
    meal                      what was in the stomach when the meal began and was eaten since, mg
    insulin_action            X, pmol/L
    delayed_insulin_at_liver  Id, pmol/L
    delayed_insulin           I1, pmol/L
    plasma_insulin            Ip, pmol/kg
    liver_insulin             Il, pmol/kg
    second_depot              S2, pmol/kg
    first_depot               S1, pmol/kg
    plasma_glucose            Gp, mg/kg
    tissue_glucose            Gt, mg/kg
    sensor_glucose            Gs, mg/kg
"""

_REACH = [(6, slice(7)), (5, slice(6)), (4, slice(5)), (3, slice(5)), (2, slice(1, 3)), (1, slice(1, 2)), (0, slice(1))]
"""Components of insulin and those that each of them reaches; the rest of the matrix exponential is zero."""


@dataclass(frozen=True)
class Truth:
    """S2008 of P patients with everything that does not depend on the state computed.

    Attributes:
        patients: The table.
        tick: Minutes of a step, whole.
        values: Parameters and derived quantities by symbol, each (P, 1).
        insulin: Columns of the exact step of insulin: seven for the state, one for u, one for a constant; (9, 7, P, 1).
        basal_state: State at rest, (P, 15).
    """

    patients: Patients
    tick: int
    values: dict[str, Tensor]
    insulin: Tensor
    basal_state: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Type of all numbers."""
        return self.basal_state.dtype


@dataclass(frozen=True)
class Gut:
    """Rate of appearance of glucose, mg/kg/min: at the ends of T ticks (T + 1, P, E), and mean of each (T, P, E)."""

    ends: Tensor
    means: Tensor


@dataclass(frozen=True)
class Path:
    """What happened over T ticks.

    Attributes:
        state: At the end, (P, E, 15).
        glucose: Plasma glucose at every tick, both ends included, mg/dL, (P, E, T + 1).
        sensor: Glucose at the sensor's site, the same shape; a sensor adds its error.
    """

    state: Tensor
    glucose: Tensor
    sensor: Tensor


def truth(patients: Patients, tick: int = TICK, dtype: torch.dtype = torch.float32) -> Truth:
    """The model of `patients`, stepped every `tick` minutes (1 to 5, whole; shorter is a little more accurate)."""
    if tick not in range(1, TICK + 1):
        raise ProtocolError(f"tick: {tick!r} min is no whole number of the 1-minute internal steps from 1 to {TICK}")
    people = {"CR", "CF", "age", "TDI"}
    v = {q: torch.from_numpy(patients[q].copy()).double() for q in PARAMETERS if q not in people}
    v["m30"] = v["HEb"] * v["m1"] / (1.0 - v["HEb"])
    # Rest: every derivative is zero under the infusion u2ss at glucose Gb and production EGPb.
    s1 = v["u2ss"] / (v["ka1"] + v["kd"])
    ip = v["u2ss"] / (v["m2"] + v["m4"] - v["m1"] * v["m2"] / (v["m1"] + v["m30"]))
    v["Ib"] = ip / v["Vi"]
    gp = v["Gb"] * v["Vg"]
    renal = v["ke1"] * (gp - v["ke2"]).clamp_min(0.0)
    gt = (v["Fsnc"] + renal - v["EGPb"] + v["k1"] * gp) / v["k2"]
    v["Vm0"] = (v["EGPb"] - v["Fsnc"] - renal) * (v["Km0"] + gt) / gt
    v["kp1"] = v["EGPb"] + v["kp2"] * gp + v["kp3"] * v["Ib"]
    zero = torch.zeros_like(gp)
    il, s2 = v["m2"] * ip / (v["m1"] + v["m30"]), v["kd"] * s1 / v["ka2"]
    rest = torch.stack([*[zero] * 5, zero, v["Ib"], v["Ib"], ip, il, s2, s1, gp, gt, gp], -1)
    # What does not change from step to step.
    v["emptied"], v["absorbed"] = torch.exp(-v["kmax"]), torch.exp(-v["kabs"])
    v["site_kept"] = torch.exp(-v["ksc"] * tick)
    v["swallowed_kept"], v["passed_kept"] = (1.0 - v["emptied"]) / v["kmax"], (1.0 - v["absorbed"]) / v["kabs"]
    v["site_new"] = 0.5 * (1.0 - v["site_kept"])
    v["quickening"] = 0.5 * (v["kmax"] - v["kmin"])
    v["slope_b"], v["slope_d"] = 2.5 / (1.0 - v["b"]), 2.5 / v["d"]
    v["shift_b"], v["shift_d"] = v["b"] * v["slope_b"], torch.full_like(v["d"], 2.5)
    v["half"], v["bite"] = torch.full_like(v["d"], 0.5), torch.full_like(v["d"], 1000.0 * EATING)
    v["one"], v["crumb"] = torch.ones_like(v["d"]), torch.full_like(v["d"], 1e-6)  # mg, so that no meal divides by zero
    v["appearing"], v["pmol"] = v["f"] / v["BW"], PMOL_PER_UNIT / 60.0 / v["BW"]
    return Truth(
        patients,
        tick,
        {name: value[:, None].to(dtype) for name, value in v.items()},
        _insulin_step(v, float(tick)).permute(2, 1, 0)[..., None].to(dtype).contiguous(),
        rest.to(dtype),
    )


def _insulin_step(v: dict[str, Tensor], minutes: float) -> Tensor:
    """exp(A minutes) of (X, Id, I1, Ip, Il, S2, S1, u, 1) with u and 1 held: its first seven rows, (P, 7, 9)."""
    a = torch.zeros(len(v["m1"]), 9, 9, dtype=torch.float64)
    x, i2, i1, ip, il, s2, s1, u, one = range(9)
    a[:, ip, ip], a[:, ip, il], a[:, ip, s1], a[:, ip, s2] = -(v["m2"] + v["m4"]), v["m1"], v["ka1"], v["ka2"]
    a[:, il, il], a[:, il, ip] = -(v["m1"] + v["m30"]), v["m2"]
    a[:, x, x], a[:, x, ip], a[:, x, one] = -v["p2u"], v["p2u"] / v["Vi"], -v["p2u"] * v["Ib"]
    a[:, i1, i1], a[:, i1, ip] = -v["ki"], v["ki"] / v["Vi"]
    a[:, i2, i2], a[:, i2, i1] = -v["ki"], v["ki"]
    a[:, s1, s1], a[:, s1, u] = -(v["ka1"] + v["kd"]), 1.0
    a[:, s2, s2], a[:, s2, s1] = -v["ka2"], v["kd"]
    # One at a time: a batch shares the order of its approximation, which would tie a patient to its neighbors.
    return torch.stack([torch.linalg.matrix_exp(matrix * minutes)[:7] for matrix in a])


def start(model: Truth, episodes: int) -> Tensor:
    """All patients at rest: (P, episodes, 15)."""
    return model.basal_state[:, None].expand(-1, episodes, -1).clone()


def _minute(v: dict[str, Tensor], gut: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """One minute of the gut: the gut after, and the mg that passed from the stomach.

    Solids leave the stomach exactly; liquids and gut leave exactly for the emptying rate at the middle of the minute.
    What leaves one compartment is what enters the next, so mass is conserved to rounding.
    """
    solid, liquid, bowel, plate, meal = gut
    bite = torch.minimum(plate, v["bite"])
    plate, meal = plate - bite, meal + bite
    share = (meal + v["crumb"]).reciprocal()

    def emptying(stomach: Tensor) -> Tensor:
        part = stomach * share
        fuller = torch.tanh(part * v["slope_b"] - v["shift_b"]) - torch.tanh(part * v["slope_d"] - v["shift_d"])
        return v["kmax"] + v["quickening"] * fuller

    stomach = solid + liquid
    rate = emptying(stomach + v["half"] * (bite - emptying(stomach) * liquid))
    ground = solid * v["emptied"] + bite * v["swallowed_kept"]
    moved = solid + bite - ground
    kept = torch.exp(-rate)
    drained = liquid * kept + moved * (v["one"] - kept) / rate
    passed = liquid + moved - drained
    return [ground, drained, bowel * v["absorbed"] + passed * v["passed_kept"], plate, meal], passed


def absorb(model: Truth, gut: Tensor, served: Tensor) -> tuple[Tensor, Gut]:
    """The gut over T ticks; it depends on meals alone, so days that are played again need it once.

    Args:
        gut: First five components of a state, (5, P, E).
        served: Grams put on the plate at the start of each tick, (P, E, T).

    Returns:
        The gut at every end, (T + 1, 5, P, E), and the rate of appearance.
    """
    v, history, means = model.values, [gut], []
    served_mg = 1000.0 * served.movedim(-1, 0)
    for food in served_mg:
        solid, liquid, bowel, plate, meal = history[-1].unbind(0)
        begins = (plate <= 0) & (food > 0)
        parts = [solid, liquid, bowel, plate + food, torch.where(begins, solid + liquid, meal)]
        absorbed = bowel
        for _ in range(model.tick):
            parts, passed = _minute(v, parts)
            absorbed = absorbed + passed
        means.append((absorbed - parts[2]) * (v["appearing"] / model.tick))
        history.append(torch.stack(parts))
    states = torch.stack(history)
    return states, Gut(states[:, 2] * (v["kabs"] * v["appearing"]), torch.stack(means) if means else states[:0, 2])


def _glucose_step(
    v: dict[str, Tensor], h: float, sugar: Tensor, action: Tensor, liver: Tensor, appearing: tuple[Tensor, ...]
) -> Tensor:
    """One Runge-Kutta step of (Gp, Gt, Gs); insulin and appearance are given at start, middle and end, (3, P, E)."""
    uptake, making = v["Vm0"] + v["Vmx"] * action, v["kp1"] - v["kp3"] * liver
    source = [ra - v["Fsnc"] for ra in appearing]

    def slope(g: Tensor, i: int) -> Tensor:
        plasma, tissue = g[0], torch.relu(g[1])
        exchange = v["k1"] * plasma - v["k2"] * g[1]
        made = torch.relu(making[i] - v["kp2"] * plasma)
        renal = v["ke1"] * torch.relu(plasma - v["ke2"])
        return torch.stack([made + source[i] - renal - exchange, exchange - uptake[i] * tissue / (v["Km0"] + tissue)])

    g = sugar[:2]
    s1 = slope(g, 0)
    s2 = slope(g + (0.5 * h) * s1, 1)
    s3 = slope(g + (0.5 * h) * s2, 1)
    s4 = slope(g + h * s3, 2)
    after = torch.relu(g + (h / 6.0) * (s1 + 2.0 * (s2 + s3) + s4))
    site = sugar[2] * v["site_kept"] + v["site_new"] * (g[0] + after[0])
    return torch.cat([after, site[None]])


def play(model: Truth, state: Tensor, insulin: Tensor, served: Tensor) -> Path:
    """T ticks under given insulin and meals.

    Args:
        state: (P, E, 15).
        insulin: Infusion held over each tick, boluses included, U/h, (P, E, T).
        served: Grams put on the plate at the start of each tick, (P, E, T).
    """
    parts = state.movedim(-1, 0).contiguous()
    history, gut = absorb(model, parts[GUT], served)
    rest = torch.cat(follow(model, parts[INSULIN], parts[PLASMA:], gut, insulin), 1)
    final = torch.cat([history[-1], rest[-1]]).movedim(0, -1).contiguous()
    plasma, site = ((rest[:, i] / model.values["Vg"]).movedim(0, -1).contiguous() for i in (7, 9))
    return Path(final, plasma, site)


def follow(model: Truth, hormone: Tensor, sugar: Tensor, gut: Gut, insulin: Tensor) -> tuple[Tensor, Tensor]:
    """Insulin (7, P, E) and glucose (3, P, E) over T ticks of what the gut gives and an infusion (P, E, T), U/h.

    Returns:
        (T + 1, 7, P, E) and (T + 1, 3, P, E), the start first.
    """
    v, h = model.values, float(model.tick)
    infusion = insulin.movedim(-1, 0) * v["pmol"]
    hormones, sugars = [hormone], [sugar]
    # The middle value with which Simpson's rule gives what was absorbed.
    middle = (1.5 * gut.means - 0.25 * (gut.ends[:-1] + gut.ends[1:])).clamp_min(0.0)
    for tick in range(insulin.shape[-1]):
        after = model.insulin[7] * infusion[tick]
        after[0] += model.insulin[8, 0]
        for j, rows in _REACH:
            after[rows] += model.insulin[j, rows] * hormone[j]
        seen = hormone[:2], after[:2]
        action, liver = torch.stack([seen[0], v["half"] * (seen[0] + seen[1]), seen[1]], 1).unbind(0)
        sugar = _glucose_step(v, h, sugar, action, liver, (gut.ends[tick], middle[tick], gut.ends[tick + 1]))
        hormone = after
        hormones.append(hormone)
        sugars.append(sugar)
    return torch.stack(hormones), torch.stack(sugars)


Given = Sequence[tuple[int, float]]


def simulate(
    patient: str,
    basal: Given = (),
    boluses: Given = (),
    meals: Given = (),
    minutes: int = 1440,
    every: int = 5,
) -> np.ndarray:
    """Plasma glucose of a virtual patient who starts at rest.

    Args:
        patient: The table's name, `adolescent#001`, or an interpolated patient's.
        basal: `(minute, U/h)`: infusion from that minute on, until the next; none before the first.
        boluses: `(minute, U)`, each delivered evenly over 5 minutes from that minute on.
        meals: `(minute, g)` of carbohydrate, eaten at 5 g/min from that minute on.
        minutes: Length, whole minutes.
        every: Minutes between returned values, whole; the model itself steps by the minute.

    Returns:
        mg/dL at minutes 0, every, 2 every, ... up to `minutes`, float64.

    Raises:
        UnknownNameError: No such patient.
        ProtocolError: A time outside the simulated minutes or between two, a negative or missing amount.
    """
    people = find([patient])
    for name, value in (("minutes", minutes), ("every", every)):
        if (whole_number(value) or 0) < 1:
            raise ProtocolError(f"{name}: {value!r} is no whole number of the 1-minute internal steps; give 1 or more")
    if every > minutes:
        raise ProtocolError(f"every: {every} is longer than minutes={minutes}; give at most {minutes}")
    infusion, served = np.zeros(minutes), np.zeros(minutes)
    for minute, amount in sorted(_checked("basal", basal, minutes, "U/h")):
        infusion[minute:] = amount
    for minute, amount in _checked("boluses", boluses, minutes, "U"):
        infusion[minute : minute + BOLUS_MINUTES] += amount * 60.0 / BOLUS_MINUTES
    for minute, amount in _checked("meals", meals, minutes, "g"):
        served[minute] += amount
    model = truth(people, tick=1, dtype=torch.float64)
    with torch.no_grad():
        path = play(model, start(model, 1), *(torch.from_numpy(x)[None, None] for x in (infusion, served)))
    return path.glucose[0, 0, ::every].numpy().copy()


def _checked(name: str, given: Given, minutes: int, unit: str) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for i, entry in enumerate(given):
        try:
            minute, amount = entry
        except (TypeError, ValueError):
            raise ProtocolError(f"{name}[{i}]: {entry!r} is no pair; give (minute, {unit})") from None
        if whole_number(minute) not in range(minutes):
            raise ProtocolError(f"{name}[{i}]: minute {minute!r} is no whole minute from 0 to {minutes - 1}")
        if not isinstance(amount, Real) or isinstance(amount, bool) or not math.isfinite(amount) or amount < 0:
            raise ProtocolError(f"{name}[{i}]: {amount!r} {unit} is no amount; give a finite number of 0 or more")
        found.append((int(minute), float(amount)))
    return found
