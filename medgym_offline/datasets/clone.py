"""The probability of logged actions where nobody knows it: a stochastic clone of whoever acted, cross-fitted by person.

Persons are dealt to folds. A row is scored by the network of its person's fold, which was trained on, and standardized
by, the rows of the other folds alone. Per action column the network gives the probability of each wall (-1 and 1: many
doses are exactly 0), and between them a mixture of Gaussians of atanh(a), the measure of
:mod:`medgym_offline.policies.protocol`:

    P(a = -1) = w_0,     P(a = 1) = w_1,     p(a) = (1 - w_0 - w_1) sum_m q_m N(atanh a; mu_m, s_m) / (1 - a^2)

Columns are modeled one after the other, each given those before it (a decision's parts go together).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import one_thread
from medgym_offline.errors import DatasetError
from medgym_offline.seeds import derive_seed, generator
from medgym_offline.stack import StackedMLP

__all__ = ["CloneConfig", "Estimate", "estimate_log_prob"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class CloneConfig:
    """Settings; all chosen on the log-likelihood of held-out persons of the open ICU demos.

    Attributes:
        folds: Networks; every person belongs to one fold by a draw of its own.
        hidden: Width of the two hidden layers.
        updates, batch, lr, decay: Steps of AdamW, rows a step, step size (falling to zero) and weight decay.
        components: Gaussians of a mixture.
    """

    folds: int = 5
    hidden: int = 32
    updates: int = 400
    batch: int = 128
    lr: float = 0.02
    decay: float = 0.3
    components: int = 5


@dataclass(frozen=True)
class Estimate:
    """What the clone says of N logged actions, each scored without its person's rows.

    Attributes:
        log_prob: (N,) float64.
        pit: (N, A) probability integral transform of every column; uniform in [0, 1] if the clone is right. At a wall,
            drawn uniformly from the step.
    """

    log_prob: np.ndarray
    pit: np.ndarray

    def calibration(self, names: Sequence[str], marginal: Estimate) -> dict[str, Any]:
        """How good it is, JSON-able: held-out log-likelihood, and how often central intervals cover.

        Args:
            names: Of the A columns.
            marginal: Of a clone that sees nothing, on the same actions.
        """
        inside = {level: (np.abs(self.pit - 0.5) <= level / 2).mean(axis=0) for level in _LEVELS}
        return {
            "log_likelihood": round(float(self.log_prob.mean()), 3),
            "log_likelihood_marginal": round(float(marginal.log_prob.mean()), 3),
            "coverage": {
                name: {f"{level:g}": round(float(inside[level][i]), 3) for level in _LEVELS}
                for i, name in enumerate(names)
            },
        }


@one_thread()
def estimate_log_prob(
    seen: np.ndarray, actions: np.ndarray, persons: Sequence[str], root: int, config: CloneConfig | None = None
) -> Estimate:
    """Score every action by a clone that knows nothing of its person's rows.

    Args:
        seen: (N, d) what the action may depend on; no columns: the marginal distribution.
        actions: (N, A) in [-1, 1].
        persons: (N,) whose row each is.
        root: Root seed.
        config: Settings.

    Raises:
        DatasetError: all persons are in one fold, or a number is not finite.
    """
    config = config or CloneConfig()
    fold_of = {person: derive_seed(root, "clone-fold", person) % config.folds for person in dict.fromkeys(persons)}
    fold = np.array([fold_of[person] for person in persons])
    if len(set(fold_of.values())) < 2:
        raise DatasetError(f"a clone is fitted without the person it scores: {len(fold_of)} persons are too few")
    others = [np.flatnonzero(fold != k) for k in range(config.folds)]
    x, a = _inputs(seen, actions, others), torch.from_numpy(actions.astype(np.float64))
    net = _fitted(x, a, others, root, config)
    uniform = np.zeros(actions.shape)
    for person in fold_of:
        mine = np.array([p == person for p in persons])
        uniform[mine] = generator(root, "clone-pit", person).random((int(mine.sum()), actions.shape[1]))
    with torch.no_grad():
        out = net(x).unflatten(0, (config.folds, -1))[torch.from_numpy(fold), :, torch.arange(len(a))]  # (N, A, .)
        log_prob = _log_density(out, a, config.components).sum(-1)
        pit = _transform(out, a, torch.from_numpy(uniform), config.components)
    if not bool(torch.isfinite(log_prob).all()):
        raise DatasetError("the clone's probabilities are not finite; check the actions and what they depend on")
    return Estimate(log_prob.numpy(), pit.numpy())


def _inputs(seen: np.ndarray, actions: np.ndarray, others: list[np.ndarray]) -> Tensor:
    """(folds * A, N, d + A + 1): what the network of a fold and an action column is shown, standardized by its rows.

    Clipped at 3 SD, for what lies further out is rare or wrong; columns of the action not yet decided are 0. A column
    of ones comes last: a network may see nothing else.
    """
    data = np.concatenate([seen, actions], axis=1).astype(np.float64)
    mean = np.stack([data[rows].mean(axis=0) for rows in others])
    scale = np.stack([data[rows].std(axis=0) for rows in others]).clip(0.1)
    x = np.clip((data - mean[:, None]) / scale[:, None], -3.0, 3.0)
    count, width = actions.shape[1], data.shape[1]
    known = np.arange(width) < seen.shape[1] + np.arange(count)[:, None]
    whole = (x[:, None] * known[None, :, None]).reshape(-1, len(data), width)
    return torch.from_numpy(np.concatenate([whole, np.ones((*whole.shape[:2], 1))], axis=-1))


def _fitted(x: Tensor, a: Tensor, others: list[np.ndarray], root: int, config: CloneConfig) -> StackedMLP:
    """A network per fold and action column: inputs (folds * A, N, .), actions (N, A), the rows each learns from."""
    count = a.shape[1]
    sizes = (x.shape[-1], config.hidden, config.hidden, 3 + 3 * config.components)
    seeds = [derive_seed(root, "clone", fold, column) >> 2 for fold in range(len(others)) for column in range(count)]
    net = StackedMLP(len(x), sizes, "silu", seeds=seeds, output_gain=0.1).double()
    with torch.no_grad():  # apart from each other at the start, or they stay one
        bias = net.layers[-1].bias[..., 3 + config.components : 3 + 2 * config.components]  # type: ignore[index]
        bias += torch.linspace(-1.0, 1.0, config.components, dtype=torch.float64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.decay, foreach=True)
    draws = [generator(root, "clone-rows", fold) for fold in range(len(others))]
    each, target = torch.arange(len(x))[:, None], a.T.repeat(len(others), 1)
    for update in range(config.updates):
        optimizer.param_groups[0]["lr"] = config.lr * (1.0 - update / config.updates)
        picked = np.stack([rows[g.integers(0, len(rows), config.batch)] for rows, g in zip(others, draws)])
        index = torch.from_numpy(picked).repeat_interleave(count, 0)
        loss = -_log_density(net(x[each, index]), target[each, index], config.components).mean(-1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def _parts(out: Tensor, components: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of below, above and between, log-weights, means and log-spreads of the mixture."""
    where, weight, mean, spread = out.split([3, components, components, components], -1)
    # No spread below 0.02 of atanh(a): a charted setting that comes again and again is no infinite density.
    return where.log_softmax(-1), weight.log_softmax(-1), mean, spread.clamp(math.log(0.02), 2.0)


def _standardized(a: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return (torch.atanh(a.clamp(-1 + 1e-6, 1 - 1e-6))[..., None] - mean) / spread.exp()


def _log_density(out: Tensor, a: Tensor, components: int) -> Tensor:
    """Outputs (..., 3 + 3 M) and actions (...): (...)."""
    where, weight, mean, spread = _parts(out, components)
    normal = -0.5 * _standardized(a, mean, spread).square() - spread - _LOG_SQRT_2PI
    between = where[..., 2] + (weight + normal).logsumexp(-1) - torch.log1p(-a.clamp(-1 + 1e-6, 1 - 1e-6).square())
    return torch.where(a <= -1.0, where[..., 0], torch.where(a >= 1.0, where[..., 1], between))


def _transform(out: Tensor, a: Tensor, uniform: Tensor, components: int) -> Tensor:
    """The probability integral transform (...); within the step at a wall as `uniform` (...) says."""
    where, weight, mean, spread = _parts(out, components)
    low, high, middle = where.exp().unbind(-1)
    below = (weight.exp() * torch.special.ndtr(_standardized(a, mean, spread))).sum(-1)
    between = low + middle * below
    return torch.where(a <= -1.0, low * uniform, torch.where(a >= 1.0, 1.0 - high * uniform, between))
