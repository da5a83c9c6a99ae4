"""Roll a policy out on every patient of one world and reduce it to per-patient columns and curves.

Patients are streamed in shards and episodes in blocks, so memory does not grow with the bank; a patient's numbers do
not depend on the shard it is in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

import numpy as np
import torch
from torch import Tensor

from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.evaluation import metrics
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.support import SupportReference, calibrated

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["SUPPORT_HOURS", "Acts", "PatientScores", "process_config", "score_world"]

SEED_PURPOSE = "evaluation"
SUPPORT_HOURS = np.arange(0.0, 97.0, 12.0)
"""Edges (hours) of the bins in which support distance is followed through the episode."""

# Dense state numbers held at once (72 MB; a few times that with temporaries). The protocol's size is one block: the
# twin's true world takes as many small steps per block whatever is in it.
_BUDGET = 18_000_000


class Acts(TypingProtocol):
    """What is rolled out: a :class:`~medgym_offline.evaluation.binding.BoundPolicy`, or one with patients exchanged."""

    def act_on(self, patients: Sequence[str], seeds: np.ndarray) -> Callable[[Tensor], Tensor]:
        """The policy as a function (P, B, 9) -> (P, B, A) of exactly these patients."""


@dataclass(frozen=True)
class PatientScores:
    """Per-patient results of one policy in one world.

    Attributes:
        columns: Metric -> (P,), mean over the patient's episodes.
        sofa, lactate: Mean curves (P, T) on the hourly grid.
        hours: (T,).
        distances: Support distances of all evaluated z, per patient; empty without a dataset.
        support_columns: Metric -> (P,) of the support distances; empty without a dataset.
        support_curve: "distance" and "percentile", means (P, bins) over decisions begun in each bin of
            :data:`SUPPORT_HOURS`; NaN where a patient has none. Empty without a dataset.
    """

    columns: dict[str, np.ndarray]
    sofa: np.ndarray
    lactate: np.ndarray
    hours: np.ndarray
    distances: list[np.ndarray]
    support_columns: dict[str, np.ndarray]
    support_curve: dict[str, np.ndarray]


def process_config(protocol: Protocol) -> ProcessConfig:
    """The decision process of a protocol whose timing is settled."""
    return ProcessConfig(
        timing=protocol.timing,  # type: ignore[arg-type]
        decisions=protocol.decisions,
        reward=protocol.reward,  # type: ignore[arg-type]
        noise=protocol.noise,
        horizon=protocol.horizon,
        min_interval=protocol.min_interval,
        max_interval=protocol.max_interval,
        initial_noise=protocol.initial_noise,
    )


def _blocks(patients: int, episodes: int, per_episode: int) -> Iterator[tuple[range, list[range]]]:
    """Shards of patients, and the blocks of episodes inside each, such that no block exceeds the budget."""
    together = max(1, min(episodes, _BUDGET // per_episode))
    shard = max(1, _BUDGET // (per_episode * together))
    cuts = [range(e, min(e + together, episodes)) for e in range(0, episodes, together)]
    for start in range(0, patients, shard):
        yield range(start, min(start + shard, patients)), cuts


def score_world(
    bound: Acts,
    bank: SimulatorBank,
    protocol: Protocol,
    support: SupportReference | None = None,
    advance: Callable[[int], None] = lambda episodes: None,
) -> PatientScores:
    """Roll `bound` out on every patient of `bank` and score it.

    Args:
        bound: The policy.
        bank: The patients, in the world to score in.
        protocol: Settings, timing settled.
        support: Behaviour data to measure support distances against.
        advance: Called with the number of episodes done, for progress.
    """
    config = process_config(protocol)
    points = round(protocol.horizon / protocol.safety_grid_hours) + 1
    stride = round(protocol.grid_hours / protocol.safety_grid_hours)
    grid = np.arange(points) * protocol.safety_grid_hours
    parts: list[dict[str, np.ndarray]] = []
    distances: list[np.ndarray] = []
    far: list[tuple[dict[str, float], np.ndarray, np.ndarray]] = []
    for rows, cuts in _blocks(len(bank), protocol.episodes, points * bank.state_dim):
        shard = bank.select(list(rows))
        process = DecisionProcess(shard, config)
        seeds = episode_seeds(protocol.seed, SEED_PURPOSE, shard.patients, protocol.episodes)
        pieces: dict[str, list[np.ndarray]] = defaultdict(list)
        for cut in cuts:
            part = _score_block(bound, process, protocol, seeds[:, cut.start : cut.stop], grid, stride)
            for name, values in part.items():
                pieces[name].append(values)
            advance(len(rows) * len(cut))
        block = {name: np.concatenate(values, axis=1) for name, values in pieces.items()}
        dt, valid = block.pop("dt"), block.pop("valid")
        observations, actions = block.pop("observations"), block.pop("actions")
        block |= metrics.hold_metrics(dt, valid)
        if support is not None:
            begun = np.cumsum(dt, axis=-1) - dt
            for p, patient in enumerate(shard.patients):
                took = valid[p]
                found = support.part_distances(patient, observations[p][took], actions[p][took])
                distances.append(found["all"])
                outside = protocol.support.outside_percentile
                far.append(_support_summary(found, begun[p][took], support, patient, outside))
        # Quantiles of intervals are per patient already; everything else has an episode axis to average over.
        parts.append({name: v if v.ndim == 1 else v.mean(axis=1, dtype=np.float64) for name, v in block.items()})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sofa, lactate = columns.pop("sofa"), columns.pop("lactate")
    support_columns = {name: np.array([f[0][name] for f in far]) for name in (far[0][0] if far else ())}
    curve = {"distance": np.stack([f[1] for f in far]), "percentile": np.stack([f[2] for f in far])} if far else {}
    return PatientScores(columns, sofa, lactate, grid[::stride], distances, support_columns, curve)


def _score_block(
    bound: Acts, process: DecisionProcess, protocol: Protocol, seeds: np.ndarray, grid: np.ndarray, stride: int
) -> dict[str, np.ndarray]:
    """Metrics (P, B), hourly curves (P, B, T) and raw decisions (P, B, K, ...) of one block of episodes."""
    bank, config = process.bank, process.config
    noise = draw_noise(seeds, config.decisions, bank.state_dim, config.action_dim)
    played = rollout(process, bound.act_on(bank.patients, seeds), noise, protocol.action_noise)
    states, treatments = dense(process, played, torch.from_numpy(grid).float())
    disease = bank.disease
    lactate_fine = bank.monitored(states).double().numpy()
    hourly_states = bank.denormalize(states[:, :, ::stride])
    hourly_doses = bank.denormalize_treatment(treatments[:, :, ::stride])
    sofa = disease.severity(hourly_states, hourly_doses).double().numpy()
    lactate, hours = lactate_fine[..., ::stride], grid[::stride]
    doses = bank.denormalize_treatment(played.treatments).double().numpy()
    dt, valid = played.dt.double().numpy(), played.valid.numpy()
    critical, threshold = protocol.critical_hour, protocol.lactate_threshold
    vasopressor, fluids = metrics.treatment_totals(doses[..., 1], doses[..., 2], dt * valid)
    return {
        "sofa_all": metrics.time_mean(sofa),
        "sofa_96h": sofa[..., -1],
        "safe_hourly": metrics.safe_share(lactate, hours, critical, threshold),
        "safe_dense": metrics.safe_share(lactate_fine, grid, critical, threshold),
        "return": (played.rewards * played.valid).double().sum(-1).numpy(),
        "lactate_mean": metrics.time_mean(lactate),
        "lactate_clearance_6h": metrics.clearance(lactate, hours, protocol.clearance_hours),
        "hours_lactate_above_2": metrics.hours_above(lactate_fine, grid, 2.0),
        "hours_lactate_above_4": metrics.hours_above(lactate_fine, grid, 4.0),
        "cost_mean": (played.costs * played.valid).double().sum(-1).numpy() / valid.sum(-1),
        "vasopressor_total": vasopressor,
        "fluids_total": fluids,
        "sofa": sofa,
        "lactate": lactate,
        "dt": dt,
        "valid": valid,
        "observations": played.observations[:, :, :-1].numpy(),
        "actions": played.actions.numpy(),
    }


def _support_summary(
    found: dict[str, np.ndarray], begun: np.ndarray, support: SupportReference, patient: str, outside: float
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Columns of one patient, and its mean distance and percentile in each bin of the hour a decision began."""
    whole, own = found["all"], support.own("all", patient)
    percentile = calibrated(whole, own)
    columns = {
        "support_distance": float(whole.mean()),
        "support_percentile": float(percentile.mean()),
        "support_states": float(found["states"].mean()),
        "support_actions": float(found["actions"].mean()),
        "support_outside": float(100.0 * (whole > np.percentile(own, outside)).mean()) if len(own) else float("nan"),
    }
    bins = len(SUPPORT_HOURS) - 1
    place = np.clip(np.searchsorted(SUPPORT_HOURS, begun, side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, values, minlength=bins) / count for values in (whole, percentile)]
    return columns, means[0], means[1]
