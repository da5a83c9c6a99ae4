"""Roll a policy out on every patient of one world and reduce it to per-patient columns and curves.

Patients are streamed in shards and episodes in blocks, so memory does not grow with the bank; a patient's numbers do
not depend on the shard it is in.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as TypingProtocol

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import Course
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import decisions_before
from medgym_offline.evaluation import metrics
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.support import SupportReference, calibrated
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["Acts", "PatientScores", "process_config", "score_world"]

SEED_PURPOSE = "evaluation"
# Dense state numbers held at once (72 MB; a few times that with temporaries). The protocol's size is one block: the
# twin's true world takes as many small steps per block whatever is in it.
_BUDGET = 18_000_000


class Acts(TypingProtocol):
    """What is rolled out: a :class:`~medgym_offline.evaluation.binding.BoundPolicy`, or one with patients exchanged."""

    def act_on(self, patients: Sequence[str], seeds: np.ndarray) -> Callable[[Tensor], Tensor]:
        """The policy as a function (P, B, d) -> (P, B, A) of exactly these patients."""


@dataclass(frozen=True)
class PatientScores:
    """Per-patient results of one policy in one world.

    Attributes:
        columns: Metric -> (P,), mean over the patient's episodes.
        severity, monitored: Mean curves (P, T) on the coarse grid.
        times: (T,), from the takeover on.
        distances: Support distances of all evaluated z, per patient; empty without a dataset.
        support_columns: Metric -> (P,) of the support distances; empty without a dataset.
    """

    columns: dict[str, np.ndarray]
    severity: np.ndarray
    monitored: np.ndarray
    times: np.ndarray
    distances: list[np.ndarray]
    support_columns: dict[str, np.ndarray]


def process_config(protocol: Protocol) -> ProcessConfig:
    """The decision process of a protocol whose timing is settled."""
    shared = {f.name for f in dataclasses.fields(Protocol)} & {f.name for f in dataclasses.fields(ProcessConfig)}
    return ProcessConfig(**{name: getattr(protocol, name) for name in shared})


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
    takeover: float = 0.0,
) -> PatientScores:
    """Roll `bound` out on every patient of `bank` and score it.

    Args:
        bound: The policy.
        bank: The patients, in the world to score in.
        protocol: Settings, timing settled.
        support: Behavior data to measure support distances against.
        advance: Called with the number of episodes done, for progress.
        takeover: What comes before this time does not count.
    """
    config = process_config(protocol)
    points = round(protocol.horizon / protocol.fine) + 1
    stride = round(protocol.grid / protocol.fine)
    grid = np.arange(round(takeover / protocol.fine), points) * protocol.fine
    parts: list[dict[str, np.ndarray]] = []
    distances: list[np.ndarray] = []
    far: list[dict[str, float]] = []
    for rows, cuts in _blocks(len(bank), protocol.episodes, points * bank.state_dim):
        shard = bank.select(list(rows))
        process = DecisionProcess(shard, config, takeover)
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
        block |= metrics.interval_metrics(dt, valid)
        if support is not None:
            for p, patient in enumerate(shard.patients):
                took = valid[p]
                found = support.part_distances(patient, observations[p][took], actions[p][took])
                distances.append(found["all"])
                outside = protocol.support.outside_percentile
                far.append(_support_summary(found, support.own("all", patient), outside))
        # Quantiles of intervals are per patient already; everything else has an episode axis to average over.
        parts.append({name: v if v.ndim == 1 else v.mean(axis=1, dtype=np.float64) for name, v in block.items()})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    severity, monitored = columns.pop("severity"), columns.pop("monitored")
    support_columns = {name: np.array([f[name] for f in far]) for name in (far[0] if far else ())}
    return PatientScores(columns, severity, monitored, grid[::stride], distances, support_columns)


def _score_block(
    bound: Acts, process: DecisionProcess, protocol: Protocol, seeds: np.ndarray, grid: np.ndarray, stride: int
) -> dict[str, np.ndarray]:
    """Metrics (P, B), curves (P, B, T) and raw decisions (P, B, K, ...) of one block of episodes."""
    bank, config = process.bank, process.config
    noise = draw_noise(seeds, bank, config)
    played = rollout(process, bound.act_on(bank.patients, seeds), noise, protocol.action_noise)
    states, treatments = dense(process, played, torch.from_numpy(grid).float())
    played, disease = played.since(decisions_before(process.takeover, config)), bank.disease
    fine = bank.monitored(states).double().numpy()
    coarse = bank.denormalize(states[:, :, ::stride]), bank.denormalize_treatment(treatments[:, :, ::stride])
    severity = disease.severity.score(*coarse).double().numpy()
    monitored, times = fine[..., ::stride], grid[::stride]
    dt, valid = played.dt.double().numpy(), played.valid.numpy()
    course = Course(disease, bank.scales, grid, stride, states, played.treatments, dt * valid, played.exogenous)
    return {
        "severity_mean": metrics.time_mean(severity),
        "severity_end": severity[..., -1],
        "safe_hourly": metrics.safe_share(disease.unsafe(monitored), times, protocol.settled),
        "safe_path": metrics.safe_share(disease.unsafe(fine), grid, protocol.settled),
        "return": (played.rewards * played.valid).double().sum(-1).numpy(),
        **{metric.name: metric.compute(course) for metric in disease.metrics if metric.compute is not None},
        "cost_mean": (played.costs * played.valid).double().sum(-1).numpy() / valid.sum(-1),
        "severity": severity,
        "monitored": monitored,
        "dt": dt,
        "valid": valid,
        "observations": played.observations[:, :, :-1].numpy(),
        "actions": played.actions.numpy(),
    }


def _support_summary(found: dict[str, np.ndarray], own: np.ndarray, outside: float) -> dict[str, float]:
    """Columns of one patient, from the distances of its decisions and those of the behavior's other half."""
    whole = found["all"]
    return {
        "support_distance": float(whole.mean()),
        "support_percentile": float(calibrated(whole, own).mean()),
        "support_states": float(found["states"].mean()),
        "support_actions": float(found["actions"].mean()),
        "support_outside": float(100.0 * (whole > np.percentile(own, outside)).mean()) if len(own) else float("nan"),
    }
