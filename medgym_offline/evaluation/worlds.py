"""Roll a policy out on every patient of one world and reduce it to the world's result.

Patients are streamed in shards and episodes in blocks, so memory does not grow with the bank; a patient's numbers do
not depend on the shard it is in.

A policy may take over while an episode runs (:func:`taking_over`): the clinician treats until then, and what follows is
scored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from medgym_offline.evaluation.result import WorldResult
from medgym_offline.evaluation.statistics import mean_intervals, summarize
from medgym_offline.evaluation.subgroups import subgroup_rows
from medgym_offline.evaluation.support import SupportReference, calibrated
from medgym_offline.patients import NEW_PEOPLE, RecordSettings
from medgym_offline.people import IdentifyingPolicy, people_of
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["ActOn", "asked_of", "identifying", "process_config", "score_world", "taking_over"]

ActOn = Callable[[Sequence[str], np.ndarray], Callable[[Tensor], Tensor]]
"""What is rolled out: :meth:`~medgym_offline.evaluation.binding.BoundPolicy.act_on`, or two that take turns."""

SEED_PURPOSE = "evaluation"
_SUMMARIZED = ("severity_mean", "return")  # also as interquartile mean and worst decile
# Dense state numbers held at once (72 MB; a few times that with temporaries). The protocol's size is one block: the
# twin's true world takes as many small steps per block whatever is in it.
_BUDGET = 18_000_000


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
    act_on: ActOn,
    bank: SimulatorBank,
    protocol: Protocol,
    facts: Mapping[str, Sequence[Any]],
    support: SupportReference | None = None,
    references: Mapping[str, float] | None = None,
    advance: Callable[[int], None] = lambda episodes: None,
    takeover: float = 0.0,
) -> WorldResult:
    """Roll a policy out on every patient of `bank` and score it.

    Args:
        act_on: The policy.
        bank: The patients, in the world to score in.
        protocol: Settings, timing settled.
        facts: Of the patients (`subgroups.patient_facts`).
        support: Behavior data to measure support distances against.
        references: Reference returns of the behavior data, for the normalized score.
        advance: Called with the number of episodes done, for progress.
        takeover: What comes before this time does not count.
    """
    config, known, patients = process_config(protocol), metrics.metrics_of(bank.disease), bank.patients
    points = round(protocol.horizon / protocol.fine) + 1
    stride = round(protocol.grid / protocol.fine)
    grid = np.arange(round(takeover / protocol.fine), points) * protocol.fine
    parts: list[dict[str, np.ndarray]] = []
    distances: list[np.ndarray] = []
    for rows, cuts in _blocks(len(bank), protocol.episodes, points * bank.state_dim):
        shard = bank.select(list(rows))
        process = DecisionProcess(shard, config, takeover)
        seeds = episode_seeds(protocol.seed, SEED_PURPOSE, shard.patients, protocol.episodes)
        pieces = []
        for cut in cuts:
            pieces.append(_score_block(act_on, process, protocol, seeds[:, cut.start : cut.stop], grid, stride))
            advance(len(rows) * len(cut))
        block = {name: np.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}
        valid, observations, actions = (block.pop(name) for name in ("valid", "observations", "actions"))
        block |= metrics.interval_metrics(block.pop("dt"), valid)
        if support is not None:
            of = zip(shard.patients, observations, actions, valid)
            found = [support.part_distances(patient, seen[took], did[took]) for patient, seen, did, took in of]
            distances += [one["all"] for one in found]
            own, outside = [support.own("all", p) for p in shard.patients], protocol.support.outside_percentile
            far = [_support_summary(one, its_own, outside) for one, its_own in zip(found, own)]
            block |= {name: np.array([one[name] for one in far]) for name in far[0]}
        # Quantiles of intervals and distances are per patient already; all else has an episode axis to average over.
        parts.append({name: v if v.ndim == 1 else v.mean(axis=1, dtype=np.float64) for name, v in block.items()})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    curves: dict[str, Any] = {"times": grid[::stride].tolist()}
    for name in ("severity", "monitored"):
        curve = columns.pop(name)
        lines = {"mean": curve.mean(axis=0), **{f"q{q}": np.percentile(curve, q, axis=0) for q in (10, 50, 90)}}
        curves[name] = {key: _rounded(line).tolist() for key, line in lines.items()}
    if references and {"random", "expert"} <= set(references):
        random, expert = references["random"], references["expert"]
        columns["normalized_score"] = metrics.normalized_score(columns["return"], random, expert)
    distribution = {}
    if support is not None:
        measured = {"policy": distances, "behavior": [support.own("all", p) for p in patients]}
        for name, values in ((name, np.concatenate(several)) for name, several in measured.items()):
            if len(values):
                quantiles = _rounded(np.percentile(values, range(101))).tolist()
                distribution[name] = {"count": len(values), "mean": float(values.mean()), "quantiles": quantiles}
    columns = {name: _rounded(columns[name]) for name in known if np.isfinite(columns.get(name, np.nan)).all()}
    means = {name: float(v.mean()) for name, v in columns.items()}
    intervals = dict(zip(columns, mean_intervals(np.stack(list(columns.values())), protocol.bootstrap)))
    for name in _SUMMARIZED:
        summary = summarize(columns[name], protocol.bootstrap, known[name].better)
        means |= {f"{name}_iqm": summary.iqm, f"{name}_worst_decile": summary.worst_decile}
        intervals |= {f"{name}_iqm": summary.iqm_interval, f"{name}_worst_decile": summary.worst_decile_interval}
    groups = subgroup_rows(facts, columns, bank.disease, protocol.bootstrap)
    return WorldResult(means, intervals, {"patient": np.array(patients), **columns}, curves, distribution, groups)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Seven significant digits: single precision, and text that a person can read."""
    magnitude = np.where(values == 0, 1.0, np.abs(values))
    digits = 10.0 ** (6 - np.floor(np.log10(magnitude)))
    return np.round(values * digits) / digits


def _score_block(
    act_on: ActOn, process: DecisionProcess, protocol: Protocol, seeds: np.ndarray, grid: np.ndarray, stride: int
) -> dict[str, np.ndarray]:
    """Metrics (P, B), curves (P, B, T) and raw decisions (P, B, K, ...) of one block of episodes."""
    bank, config = process.bank, process.config
    noise = draw_noise(seeds, bank, config)
    played = rollout(process, act_on(bank.patients, seeds), noise, protocol.action_noise)
    states, treatments = dense(process, played, torch.from_numpy(grid).float())
    played, disease = played.since(decisions_before(process.takeover, config)), bank.disease
    fine = bank.monitored(states).double().numpy()
    coarse = bank.denormalize(states[:, :, ::stride]), bank.denormalize_treatment(treatments[:, :, ::stride])
    severity = disease.severity.score(*coarse).double().numpy()
    monitored, times = fine[..., ::stride], grid[::stride]
    dt, valid = played.dt.double().numpy(), played.valid.numpy()
    course = Course(disease, bank.scales, grid, stride, states, played.treatments, dt * valid, played.exogenous)
    return {
        "severity_mean": severity.mean(-1),
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


def taking_over(policy: BoundPolicy, bank: SimulatorBank, hours: float, protocol: Protocol) -> ActOn:
    """The policy after `hours` (in the disease's unit) of the disease's clinician, who sees what the policy sees.

    The policy is asked at every decision and told what was played instead (`took`): what it remembers at the takeover
    is the episode so far.

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

    def act_on(patients: Sequence[str], seeds: np.ndarray) -> Callable[[Tensor], Tensor]:
        first, then = clinician.act_on(patients, seeds), policy.act_on(patients, seeds)
        number = itertools.count()

        def act(observations: Tensor) -> Tensor:
            own = then(observations)
            return first(observations) if next(number) < decisions else own

        act.took = getattr(then, "took", None)  # type: ignore[attr-defined]
        return act

    return act_on
