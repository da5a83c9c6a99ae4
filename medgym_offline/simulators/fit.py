"""Fitting the field: population first, then every patient as population plus a regularized deviation.

For patient p, from causal start states of the record (with state noise), the field is rolled out for up to a day
under the charted treatment, and compared with what was observed:

    L_p = sum_j (1/rate_j) mean_windows sum_t mask * huber( x_j(t) - observed_j(t) ) / hours  + lambda |deviation_p|^2

`rate_j` is how often variable j is observed per hour in the cohort, so a variable counts as much as another however
rarely it is measured. The deviation is of the rates k, the set points B, the reversion rates R and the residual's last
layer (partial pooling). Fitting each patient from scratch has a lower error on what it saw and a higher one on what it
did not: `docs/science.md`. `experiments/pooling.py` chooses lambda, and the step to stop at, on
later time.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medgym_offline.config import configuration
from medgym_offline.diseases.base import Dynamics
from medgym_offline.errors import BankError
from medgym_offline.progress import Progress
from medgym_offline.seeds import generator
from medgym_offline.simulators.data import FitData
from medgym_offline.simulators.flow import BoundedField

__all__ = ["FitConfig", "FittedField", "fit_alone", "fit_individuals", "fit_population", "optimize"]


@configuration("fit", BankError)
class FitConfig:
    """How the field is fitted.

    Attributes:
        population_steps, individual_steps: Optimizer steps.
        population_lr, individual_lr: Peak learning rates (one-cycle).
        windows: Rollouts per patient and step.
        hours: Length of a rollout.
        start_noise: State noise on the starts, SD, against overfitting and measurement error.
        pooling: lambda, penalty of a patient's deviation from the population.
        weight_decay: On the residual network's weights.
        recency: Hours; windows and charts so much older than the last hour count 1/e. 0, all hours alike, is right for
            a bank, whose patients start at admission; forecasts of the next day want what the patient is now.
        seed: Root seed.
    """

    population_steps: int = 600
    individual_steps: int = 300
    population_lr: float = 1e-2
    individual_lr: float = 2e-2
    windows: int = 3
    hours: int = 24
    start_noise: float = 0.1
    pooling: float = 1.0
    weight_decay: float = 0.1
    recency: Annotated[float, Field(ge=0)] = 0.0
    seed: int = 0


@dataclass
class FittedField:
    """Fitted parameters and the training loss at the end of the fit."""

    params: Dynamics
    loss: float
    raw: dict[str, Tensor]


class _Windows:
    """The data term on random rollout windows; every patient draws from its own stream."""

    def __init__(
        self, data: FitData, given: Mapping[str, np.ndarray], physics: Any, config: FitConfig, purpose: str
    ) -> None:
        self.data, self.physics, self.config, self.model = data, physics, config, data.disease.load_model()
        self.hidden = self.model.hidden_course(physics, given, data.u)
        self.given = {n: torch.from_numpy(a) for n, a in given.items()}
        # A patient stacked once per world draws a different stream in each: the n-th time it occurs.
        seen: Counter[str] = Counter()
        self.streams = []
        for p in data.patients:
            self.streams.append(generator(config.seed, purpose, p, seen[p]))
            seen[p] += 1
        rate = data.mask.sum((0, 1)) / max(1, int(data.length.sum()))
        self.weight = torch.tensor((1.0 / np.maximum(rate, 1e-3)).astype(np.float32))

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Starts (P, W, D), treatments (P, W, L, T), targets and weights (P, W, L, variables)."""
        data, config = self.data, self.config
        draws = np.stack([g.random(config.windows) for g in self.streams])
        last_start = np.maximum(data.length - 1, 1)[:, None]
        if config.recency:
            draws = _late(draws, last_start, config.recency)
        start = (draws * last_start).astype(int)
        noise = np.stack(
            [g.normal(0.0, config.start_noise, (config.windows, data.values.shape[-1])) for g in self.streams]
        )
        row = np.arange(len(data.patients))[:, None]
        x = np.concatenate([data.start[row, start] + noise, data.derived[row, start], self.hidden[row, start]], -1)
        last = data.u.shape[1] - 1
        hours = start[..., None] + np.arange(config.hours)  # treatment of hour t acts from t to t + 1
        inside = hours + 1 <= last
        at = np.minimum(hours + 1, last)
        target = data.values[row[..., None], at]
        usable = data.mask[row[..., None], at] & inside[..., None]
        u = data.u[row[..., None], np.minimum(hours, last)]
        weight = torch.from_numpy(usable.astype(np.float32)) * self.weight
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(u), torch.from_numpy(target), weight

    def parameters(self, raw: Mapping[str, Tensor]) -> Any:
        """Dynamics from free numbers, and what is given of the patients."""
        return self.model.parameters(raw, self.physics, self.given)

    def loss(self, raw: Mapping[str, Tensor]) -> Tensor:
        """(P,) data term of every patient on freshly drawn windows."""
        x, u, target, weight = self.draw()
        # The solver's step: at most the disease's cell.
        count = math.ceil(1.0 / self.data.disease.process.cell)
        step = torch.full((1, 1, 1), 1.0 / count)
        rate = functools.partial(self.parameters(raw).rate, self.data.disease, self.data.scales, self.physics)
        field = BoundedField(rate, *(torch.from_numpy(b) for b in self.data.scales.bounds(self.data.disease)))
        total = x.new_zeros(x.shape[0])
        for t in range(self.config.hours):
            for _ in range(count):
                x = field.heun_step(x, u[:, :, t], step)
            error = torch.nn.functional.smooth_l1_loss(
                x[..., : self.data.values.shape[-1]], target[:, :, t], reduction="none", beta=0.5
            )
            total = total + (weight[:, :, t] * error).sum((1, 2))
        return total / (self.config.windows * self.config.hours)


def _late(draws: np.ndarray, hours: np.ndarray, recency: float) -> np.ndarray:
    """Uniform `draws` in [0, 1) as shares of `hours` with density exp(-age / recency), age counted from the end."""
    oldest = np.exp(-hours / recency)
    share = 1.0 + recency / hours * np.log(np.maximum(oldest + draws * (1.0 - oldest), 1e-300))
    return np.clip(share, 0.0, np.nextafter(1.0, 0.0))


def optimize(
    trained: dict[str, Tensor],
    loss_of: Callable[[], tuple[Tensor, Tensor]],
    steps: int,
    lr: float,
    progress: Progress,
    stop: int | None = None,
    watch: Callable[[int], None] | None = None,
    warm: float = 0.2,
    clip: float = 1.0,
) -> float:
    """Minimize by Adam, gradients clipped at `clip`; the mean of the last 50 losses shown.

    The learning rate rises linearly over the first `warm` share of `steps`, then falls as a cosine to zero; only the
    first `stop` steps are taken.
    """

    def rate(step: int) -> float:
        done = (step + 1) / steps
        return done / warm if done < warm else 0.5 * (1.0 + math.cos(math.pi * (done - warm) / (1.0 - warm)))

    variables = [t.requires_grad_(True) for t in trained.values()]
    optimizer = torch.optim.Adam(variables, lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    recent: list[float] = []
    with progress:
        for done in range(1, (stop or steps) + 1):
            optimizer.zero_grad(set_to_none=True)
            loss, shown = loss_of()
            loss.backward()
            torch.nn.utils.clip_grad_value_(variables, clip)
            optimizer.step()
            schedule.step()
            recent.append(float(shown))
            progress.advance(1, loss=float(np.mean(recent[-50:])))
            if watch is not None:
                with torch.no_grad():
                    watch(done)
    for t in variables:
        t.requires_grad_(False)
    return float(np.mean(recent[-50:]))


def fit_population(
    data: FitData, given: Mapping[str, np.ndarray], physics: Any, config: FitConfig, show: bool = True
) -> FittedField:
    """Fit one field to all patients; what is given of them is their own, the rest is shared.

    Args:
        data: P patients.
        given: (P, ...) each, from :meth:`~medgym_offline.diseases.model.Model.given`.
        physics, config, show: See there.

    Returns:
        Parameters with leading axis 1 (what was given keeps P).
    """
    windows = _Windows(data, given, physics, config, "fit-population")
    raw, decayed = windows.model.initial_raw(config.seed), windows.model.decayed

    def loss_of() -> tuple[Tensor, Tensor]:
        data_term = windows.loss(raw).mean()
        decay = sum(raw[n].square().sum() for n in decayed)
        return data_term + 1e-3 * config.weight_decay * decay, data_term.detach()

    progress = Progress("fit population", config.population_steps, enabled=show)
    loss = optimize(raw, loss_of, config.population_steps, config.population_lr, progress)
    return FittedField(windows.parameters(raw), loss, raw)


def fit_individuals(
    data: FitData,
    population: FittedField,
    given: Mapping[str, np.ndarray],
    physics: Any,
    config: FitConfig,
    show: bool = True,
    penalty: np.ndarray | None = None,
    stop: int | None = None,
    watch: Callable[[int, Any], None] | None = None,
    every: int = 50,
) -> FittedField:
    """Fit every patient as population plus deviation, all patients of the stack together.

    Args:
        data: P patients (patients of several worlds may be stacked one after the other).
        population: Where every patient starts, and what deviation is measured from.
        given: (P, ...) each.
        physics, config, show: See there.
        penalty: (P,) each patient's own, instead of `config.pooling`; a patient may be stacked once per strength.
        stop: Early stopping: take this many steps of a schedule of `config.individual_steps`.
        watch: Called as `(steps done, parameters)` after every `every` steps, and after the last.
        every: See `watch`.
    """
    windows = _Windows(data, given, physics, config, "fit-individual")
    patients, base = len(data.patients), {n: t.detach() for n, t in population.raw.items()}
    deviation = {n: torch.zeros(patients, *base[n].shape[1:]) for n in windows.model.pooled}
    strength = torch.full((patients,), config.pooling) if penalty is None else torch.from_numpy(np.float32(penalty))
    last = config.individual_steps if stop is None else stop

    def current() -> dict[str, Tensor]:
        return base | {n: base[n] + d for n, d in deviation.items()}

    def loss_of() -> tuple[Tensor, Tensor]:
        data_term = windows.loss(current())
        deviated = torch.stack([d.square().flatten(1).sum(1) for d in deviation.values()]).sum(0)
        return (data_term + strength * deviated).sum(), data_term.detach().mean()

    def look(done: int) -> None:
        if watch is not None and (done % every == 0 or done == last):
            watch(done, windows.parameters(current()))

    progress = Progress("fit individuals", last, enabled=show)
    loss = optimize(deviation, loss_of, config.individual_steps, config.individual_lr, progress, last, look)
    raw = {n: t.detach() for n, t in current().items()}
    return FittedField(windows.parameters(raw), loss, raw)


def fit_alone(
    data: FitData, given: Mapping[str, np.ndarray], physics: Any, config: FitConfig, show: bool = True, **how: Any
) -> FittedField:
    """Fit every patient from scratch: no population and no penalty, as many steps as both fits together.

    Every patient starts from the same untrained network and mid-range rates. Arguments, `stop`, `watch` and `every`
    among them, are as for :func:`fit_individuals`.
    """
    model = data.disease.load_model()
    raw, fixed = model.initial_raw(config.seed), {n: torch.from_numpy(a) for n, a in given.items()}
    nobody = FittedField(model.parameters(raw, physics, fixed), math.nan, raw)
    alone = replace(config, individual_steps=config.individual_steps + config.population_steps, pooling=0.0)
    return fit_individuals(data, nobody, given, physics, alone, show, **how)
