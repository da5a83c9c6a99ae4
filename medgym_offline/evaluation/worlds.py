"""Roll a policy out on every patient of one world and reduce it to per-patient columns and curves.

Patients are streamed in shards and episodes in blocks, so memory does not grow with the bank; a patient's numbers do
not depend on the shard it is in.

A policy may take over while an episode runs (:class:`Takeover`): the clinician treats until then, and what follows is
scored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol as TypingProtocol

import numpy as np
import torch
from torch import Tensor

from medgym_offline.config import check
from medgym_offline.diseases.base import Course
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.envs.timing import decisions_before
from medgym_offline.errors import MedGymError, ProtocolError
from medgym_offline.evaluation import metrics
from medgym_offline.evaluation.binding import BoundPolicy, resolve_policy
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.support import SupportReference, calibrated
from medgym_offline.patients import NEW_PEOPLE, RecordSettings
from medgym_offline.people import IdentifyingPolicy, people_of
from medgym_offline.simulators.bank import SimulatorBank

__all__ = [
    "Acts", "PatientScores", "Takeover", "asked_of", "identifying", "process_config", "score_world", "taking_over",
]  # fmt: skip

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


@dataclass(frozen=True)
class Takeover:
    """One policy for the first decisions of every episode, then another.

    The later one is asked at every decision and told what was played instead (`took`): what it remembers at the
    takeover is the episode so far.

    Attributes:
        before, policy: Who treats until the takeover, and from then on.
        decisions: How many are those of `before`.
    """

    before: BoundPolicy
    policy: BoundPolicy
    decisions: int

    def act_on(self, patients: Sequence[str], seeds: np.ndarray) -> Callable[[Tensor], Tensor]:
        """As :meth:`BoundPolicy.act_on`, for one run of episodes."""
        first, then = self.before.act_on(patients, seeds), self.policy.act_on(patients, seeds)
        number = itertools.count()

        def act(observations: Tensor) -> Tensor:
            own = then(observations)
            return first(observations) if next(number) < self.decisions else own

        act.took = getattr(then, "took", None)  # type: ignore[attr-defined]
        return act


def asked_of(policy: BoundPolicy) -> RecordSettings | None:
    """What `people_of` was asked for a policy of scope `clu` or `context`, if its file says so."""
    if policy.info["scope"] in NEW_PEOPLE:
        with contextlib.suppress(MedGymError):
            asked: RecordSettings = check(RecordSettings, policy.info["provenance"].get("record"), policy.name)
            return asked
    return None


def identifying(policy: BoundPolicy, bank: SimulatorBank, hours: float) -> BoundPolicy:
    """A policy whose file says that it knows people by the first `hours`: it finds out anew in every episode.

    Any other policy is returned as it is.

    Raises:
        ProtocolError: It knows them by other hours.
    """
    asked, unit = asked_of(policy), bank.disease.process.unit
    if asked is None or asked["hours"] is None or isinstance(policy.policy, IdentifyingPolicy):
        return policy
    if asked["hours"] != hours:
        known = f"knows people by their first {asked['hours']:g} {unit}"
        raise ProtocolError(f"policy {policy.name!r} {known}; takeover is {hours:g} {unit}, give {asked['hours']:g}")
    people = people_of(policy.info["scope"], bank, **asked)
    return replace(policy, policy=IdentifyingPolicy(policy.policy, people, bank, hours))


def taking_over(policy: BoundPolicy, bank: SimulatorBank, hours: float, protocol: Protocol) -> Takeover:
    """The policy after `hours` (in the disease's unit) of the disease's clinician, who sees what the policy sees.

    Raises:
        ProtocolError: The time is not on the grid on which metrics are read, not within the episode, or leaves the
            policy too few decisions.
        PolicyError: The bank has no clinician.
    """
    decisions = decisions_before(hours, process_config(protocol))
    steps = hours / protocol.grid
    if steps < 0.5 or abs(steps - round(steps)) > 1e-6:
        told = f"takeover is {hours:g} {bank.disease.process.unit}"
        raise ProtocolError(f"{told}; give a multiple of {protocol.grid:g}, the grid of metrics, above 0")
    clinician = resolve_policy("clinician", bank, policy.timing, policy.decisions, policy.decisions, policy.view)
    return Takeover(clinician, policy, decisions)
