"""Distilling the solution map from the solver on states that policies visit.

The pool is what the map is trained on: from every patient's first state (with noise) three holds in a row under
random, extreme and small treatments, each solved for longer than any interval in use, because the error grows towards
the end of the range. Physics residual and composition error are measured
afterwards (:func:`.checks.map_checks`); as training losses they did not help.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.config import configuration
from medgym_offline.errors import BankError
from medgym_offline.progress import Progress
from medgym_offline.seeds import torch_generator
from medgym_offline.simulators.bank import SimulatorBank
from medgym_offline.simulators.fit import optimize
from medgym_offline.simulators.flow import BoundedField, SolutionMap, SolutionMapConfig

__all__ = ["CHECK_SD", "DistillConfig", "distill", "random_treatments"]

TIMES = (0.25, 0.5, 1.0, *range(2, 43))
"""Times of the pool, for intervals of up to 36."""
START_SD, CHECK_SD = (0.3, 0.0, 0.1), (0.15, 0.0, 0.05)
"""SD of the perturbation of first states, per kind of component, normalized. Chosen: check states lie inside the
pool."""


@configuration("distill", BankError)
class DistillConfig:
    """How the solution map is trained.

    Attributes:
        steps: Optimizer steps.
        pool: Starts per patient; three intervals each.
        batch: Holds per patient and step.
        times: Times per interval and step.
        lr: Peak learning rate (one-cycle).
        seed: Root seed.
    """

    steps: int = 2500
    pool: int = 120
    batch: int = 40
    times: int = 6
    lr: float = 4e-3
    seed: int = 0


def random_treatments(patients: int, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """(P, B, count): half uniform, a quarter small (as at the bedside), a quarter at corners of the box."""
    u = torch.rand((patients, rows, count), generator=generator)
    kind = torch.rand((patients, rows, 1), generator=generator)
    corner = (torch.rand((patients, rows, count), generator=generator) < 0.5).float()
    return torch.where(kind < 0.5, u, torch.where(kind < 0.75, u**3, corner))


def _pool(banks: Sequence[SimulatorBank], config: DistillConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Starts (F, N, D), treatments (F, N, treatments) and solutions (F, N, T, D) of all patients of all banks."""
    times, pools = torch.tensor(TIMES), []
    for number, bank in enumerate(banks):
        g, solver = torch_generator(config.seed, "distill-pool", number), bank.with_backend("ode")
        x = bank.initial_state().unsqueeze(1).repeat(1, config.pool, 1)
        noise = torch.randn(x.shape, generator=g)
        x = bank.clamp(x + noise * noise.new_tensor(bank.disease.by_kind(*START_SD)))
        parts = []
        for _ in range(3):
            u = random_treatments(len(bank), config.pool, len(bank.disease.treatments), g)
            curve = solver.trajectory(x, u, times)
            parts.append((x, u, curve))
            at = torch.randint(2, len(TIMES), x.shape[:2], generator=g)
            x = torch.take_along_dim(curve, at[..., None, None], 2).squeeze(2)
        pools.append([torch.cat(part, 1) for part in zip(*parts)])
    x, u, curve = (torch.cat(pool) for pool in zip(*pools))
    return x, u, curve


@own_defaults()
def distill(
    banks: Sequence[SimulatorBank],
    config: DistillConfig,
    shape: SolutionMapConfig | None = None,
    show: bool = True,
) -> tuple[SolutionMap, list[Tensor]]:
    """Train one map for all patients of all `banks` (worlds, population).

    Returns:
        The map (with the codes of all, one after the other) and the codes of each bank, (P_i, C).
    """
    shape = shape or SolutionMapConfig()
    sizes = [len(b) for b in banks]
    total, dim = sum(sizes), banks[0].state_dim
    learned = SolutionMap.initial(shape, total, dim, len(banks[0].disease.treatments), config.seed)
    g = torch_generator(config.seed, "distill-batches")
    with torch.no_grad():
        x, u, curve = _pool(banks, config)
    times = torch.tensor(TIMES)
    lower, upper = banks[0].lower, banks[0].upper

    with torch.no_grad():
        # The skeleton needs the fields, not the map: computed once for the pool.
        fields = [BoundedField(b.field, lower, upper) for b in banks]
        parts = zip(fields, x.split(sizes), u.split(sizes), (b.relaxation for b in banks))
        inputs = torch.cat([learned.inputs(*part) for part in parts])
    rows = torch.arange(total).unsqueeze(1)

    def loss_of() -> tuple[Tensor, Tensor]:
        pick = torch.randint(0, x.shape[1], (total, config.batch), generator=g)
        at = torch.randint(0, len(TIMES), (total, config.batch, config.times), generator=g)
        target = curve[rows.unsqueeze(-1), pick.unsqueeze(-1), at]
        change = learned.basis(times[at]) @ learned.amplitudes(inputs[rows, pick], dim)
        raw = x[rows, pick].unsqueeze(-2) + change
        # Where the truth sits at a bound, beyond it is as good as at it; elsewhere the prediction is not clamped, since
        # a clamped one has no gradient to come back.
        held = (target <= lower) | (target >= upper)
        error = torch.where(held, raw.clamp(lower, upper), raw) - target
        loss = 2.0 * torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)
        loss = loss + 2.0 * error.square().clamp(max=4.0).mean()
        return loss, loss.detach()

    progress = Progress("distill solution map", config.steps, enabled=show)
    optimize(learned.tensors(), loss_of, config.steps, config.lr, progress, warm=0.15, clip=math.inf)
    return learned, list(learned.code.detach().split(sizes))
