"""How much perfusion support a patient needs, read from what clinicians gave and from lactate.

Confounding by indication is information here: a patient on 0.2 mcg/kg/min of norepinephrine is one whom less did not
keep perfused. The supply that the charted doses delivered, plus a share of the lactate above normal (need left unmet),
is taken as a noisy sight of n(t) = n_base + n_shock exp(-t/tau), fitted per patient with a prior. What one stay cannot
tell is drawn from the prior: a lognormal factor on each of the three numbers, from the patient's own stream.
"""

from __future__ import annotations

import numpy as np
import torch

from medgym_offline.config import configuration
from medgym_offline.diseases.sepsis.field import Physics, supply
from medgym_offline.errors import BankError
from medgym_offline.seeds import generator
from medgym_offline.simulators.data import FitData

__all__ = ["NeedPrior", "estimate_need", "shock_course"]

TAUS = np.array([6.0, 9.0, 13.0, 18.0, 25.0, 30.0])
LACTATE_SHARE = 0.35
DRAW_SD = 0.1


@configuration("prior", BankError)
class NeedPrior:
    """Prior of a patient's need, as if it had been seen for some hours.

    Doses alone overstate later need: they follow the sick first hours, and are weaned after the need has gone. A strong
    prior of a small base (100 hours, 0.02 and 0.6) is that of the release (docs/science.md).

    Attributes:
        base, shock: Means of n_base and n_shock.
        hours: Observed hours that it counts as.
    """

    base: float = 0.25
    shock: float = 0.4
    hours: float = 6.0


def estimate_need(
    data: FitData,
    hours: np.ndarray,
    physics: Physics,
    root: int,
    prior: NeedPrior | None = None,
    recency: float = 0.0,
) -> np.ndarray:
    """(P, 3) n_base, n_shock, tau from the charted hours in `hours`, with prior draws from stream `root`.

    Args:
        data: The cohort; `data.start` gives lactate.
        hours: (T,) or (P, T) bool, hours whose charts may be read.
        physics: Gives the supply function.
        root: Root seed of the prior draws; another root gives independent draws.
        prior: Default: `NeedPrior()`.
        recency: As `FitConfig.recency`: an hour so much older than the last charted one in `hours` counts 1/e.
    """
    prior = prior or NeedPrior()
    mean = np.array([prior.base, prior.shock])
    patients, count = data.u.shape[:2]
    time = np.arange(count)
    use = (hours if hours.ndim == 2 else np.broadcast_to(hours, (patients, count))).astype(float)
    use = use * (time[None] < data.length[:, None])
    if recency:
        age = (use * time).max(1, keepdims=True) - time
        use = use * np.exp(-np.maximum(age, 0.0) / recency)
    met = supply(physics, torch.from_numpy(data.u)).numpy()
    sight = met + LACTATE_SHARE * np.maximum(data.start[..., 5] - 0.3, 0.0)
    best = np.full(patients, np.inf)
    need = np.zeros((patients, 3))
    for tau in TAUS:
        basis = np.stack([np.ones(count), np.exp(-time / tau)], 1)
        gram = np.einsum("pt,ti,tj->pij", use, basis, basis) + prior.hours * np.eye(2)
        moment = np.einsum("pt,ti,pt->pi", use, basis, sight) + prior.hours * mean
        coefficient = np.maximum(np.linalg.solve(gram, moment[..., None])[..., 0], 0.0)
        error = (use * (sight - coefficient @ basis.T) ** 2).sum(1)
        error += prior.hours * (((coefficient - mean) ** 2).sum(1) + 0.05 * (np.log(tau / 14.0) / 0.4) ** 2)
        better = error < best
        best = np.where(better, error, best)
        need[better] = np.concatenate([coefficient, np.full((patients, 1), tau)], 1)[better]
    draws = np.stack([generator(root, "prior-need", p).normal(0.0, DRAW_SD, 3) for p in data.patients])
    need *= np.exp(draws)
    return np.clip(need, (0.02, 0.05, 4.0), (1.5, 2.0, 40.0)).astype(np.float32)


def shock_course(physics: Physics, need: np.ndarray, u: np.ndarray) -> np.ndarray:
    """(P, T) hidden shock severity at each hour under the charted treatment, from 1 at admission.

    It depends on needs and treatment alone, so it is known before the rest of the field is fitted.
    """
    met = supply(physics, torch.from_numpy(u)).numpy()
    m = np.ones(len(u))
    course = np.empty(u.shape[:2], np.float32)

    def rate(m: np.ndarray, t: int) -> np.ndarray:
        gap = need[:, 0] + need[:, 1] * m - met[:, t]
        unmet = np.logaddexp(0.0, 5.0 * gap) / 5.0
        renewed = physics.persistence * unmet * (1.0 - 0.5 * m) if physics.extension else 0.0
        return -m / need[:, 2] + renewed

    for t in range(u.shape[1]):
        course[:, t] = m
        first = rate(m, t)
        m = np.clip(m + 0.5 * (first + rate(m + first, t)), 0.0, 4.0)
    return course
