"""`submit`: evaluation results in, a submission folder out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.config import from_values
from medgym_offline.diseases.registry import disease
from medgym_offline.errors import SubmissionError
from medgym_offline.files import sha256_file
from medgym_offline.leaderboard.entry import FORMAT, PAIRED, Entry, entry_id, slug
from medgym_offline.leaderboard.submission import Submission, write_submission

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation

__all__ = ["build_entry", "submit"]

_CURVE_POINTS = 16  # intervals between the points of a curve that an entry keeps
_TRAINING_KEYS = 40  # facts kept of a policy file's provenance


def submit(
    results: Sequence[str | Path],
    name: str,
    output: str | Path,
    authors: Sequence[str] = (),
    links: Sequence[str] = (),
    code: str | None = None,
    compute: Mapping[str, Any] | None = None,
) -> Submission:
    """Build a submission from evaluation results of one method.

    Args:
        results: One per training seed: `result.json`, or the folder that `eval --output` wrote.
        name: Of the method, as the board shows it.
        output: Folder to write: `entry.json` and `policies/`.
        authors: Names.
        links: Of the method (paper, project), http(s).
        code: Where the method's code lies, http(s).
        compute: What the training cost (`hardware`, `wall_seconds` of all runs, `updates` of each), where it is not
            recorded beside the policy files or to state it otherwise; None values are left as recorded.

    Raises:
        ProtocolError: a file is missing or no evaluation result.
        SubmissionError: a policy file is missing beside its result or is not the one evaluated; results that do not
            belong together; `output` holds something else.
    """
    from medgym_offline.evaluation import Evaluation

    paths = [path / "result.json" if (path := Path(result)).is_dir() else path for result in results]
    evaluations = [Evaluation.from_json(path) for path in paths]
    policies = [_policy_of(path, evaluation) for path, evaluation in zip(paths, evaluations)]
    cost = {**_cost(evaluations, policies), **{k: v for k, v in (compute or {}).items() if v is not None}}
    return write_submission(build_entry(evaluations, policies, name, authors, links, code, cost), policies, output)


def build_entry(
    evaluations: Sequence[Evaluation],
    policies: Sequence[Path | str],
    name: str,
    authors: Sequence[str] = (),
    links: Sequence[str] = (),
    code: str | None = None,
    compute: Mapping[str, Any] | None = None,
) -> Entry:
    """The entry of a method from the evaluations of its training seeds.

    Metrics are means over (seed x patient), intervals the stratified bootstrap over both.

    Args:
        evaluations: One per training seed, all of the same scope, timing, protocol, patients, bank and dataset.
        policies: What each evaluated, in the same order: a policy file, or a built-in's name.
        name, authors, links, code, compute: As in :func:`submit`; the cost of a baseline is dropped.

    Raises:
        SubmissionError: no evaluation, or evaluations that do not belong together (says how).
    """
    if not evaluations:
        raise SubmissionError("no evaluation result given; run `medgym-offline eval --policy ... --output DIR` first")
    first = evaluations[0]
    for other in evaluations[1:]:
        _require_alike(first, other)
    dataset, scope, seeds = _dataset(first), first.policy["scope"], [_seed(e) for e in evaluations]
    decisions = int(first.protocol["decisions"])
    metrics, intervals = _summaries(evaluations)
    cost = compute and {"hardware": None, "wall_seconds": None, "updates": None, **compute}
    data = dataset["id"] if dataset else first.bank["name"]
    entry = {
        "format": FORMAT,
        "id": entry_id(name, data, scope, first.policy["timing"], decisions),
        "disease": first.protocol["disease"],
        "name": name,
        "authors": list(authors),
        "links": list(links),
        "code": code,
        "scope": scope,
        "timing": first.policy["timing"],
        "decisions": decisions,
        "dataset": dataset,
        "bank": {"name": first.bank["name"], "content_hash": first.bank["content_hash"]},
        "protocol": {"hash": first.protocol_hash, "settings": first.protocol, "deviations": first.deviations},
        "patients": [str(patient) for patient in first.per_patient["patient"]],
        "seeds": seeds,
        "metrics": metrics,
        "intervals": intervals,
        "per_patient": {
            w: {m: [_rounded(e.worlds[w].per_patient[m]) for e in evaluations] for m in PAIRED} for w in first.worlds
        },
        "curves": {world: _curves([e.worlds[world].curves for e in evaluations]) for world in first.worlds},
        "runs": [{w: _numbers(r.metrics) for w, r in e.worlds.items()} for e in evaluations],
        "policies": [_describe(e, p, n) for n, (e, p) in enumerate(zip(evaluations, policies, strict=True))],
        "compute": None if scope == "baseline" else cost or None,
        "software": {k: str(v) for k, v in first.software.items()},
        "notes": _notes(evaluations),
        "verification": None,
    }
    return from_values(Entry, entry, "the new entry")


def _policy_of(result: Path, evaluation: Evaluation) -> Path | str:
    """What a result evaluated: a built-in's name, or the copy of the policy file that lies beside the result."""
    if evaluation.policy.get("kind") == "built-in":
        return evaluation.name
    digest = evaluation.policy.get("sha256")
    if evaluation.policy.get("kind") != "file" or digest is None:
        raise SubmissionError(
            f"{result}: only policies in one file can be submitted; save the policy to a file, evaluate that"
        )
    for path in sorted(result.parent.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".pt", ".onnx") and sha256_file(path) == digest:
            return path
    raise SubmissionError(
        f"{result}: the policy it evaluated (sha256 {digest[:12]}...) is not beside it; "
        "evaluate again with `eval --policy FILE --output DIR`, which keeps a copy there"
    )


def _describe(evaluation: Evaluation, policy: Path | str, number: int) -> dict[str, Any]:
    if isinstance(policy, str):
        return {"builtin": policy}
    digest = sha256_file(policy)
    if digest != evaluation.policy.get("sha256"):
        raise SubmissionError(f"{policy} is not the file that was evaluated (its sha256 differs); evaluate it again")
    seed = _seed(evaluation)
    stem = f"seed{seed}" if seed is not None else f"run{number}"
    return {
        "file": f"policies/{slug(evaluation.name)}-{stem}-{digest[:8]}{policy.suffix}",
        "sha256": digest,
        "bytes": policy.stat().st_size,
        "training": dict(list(evaluation.policy.get("provenance", {}).items())[:_TRAINING_KEYS]),
    }


def _seed(evaluation: Evaluation) -> int | None:
    seed = evaluation.policy.get("provenance", {}).get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _dataset(evaluation: Evaluation) -> dict[str, Any] | None:
    found = evaluation.dataset
    return {"id": found["id"], "identity": found.get("identity")} if found else None


def _require_alike(first: Evaluation, other: Evaluation) -> None:
    def facts(e: Evaluation) -> dict[str, Any]:
        return {
            **e.protocol,
            "scope": e.policy["scope"],
            "timing": e.policy["timing"],
            "bank": e.bank["content_hash"],
            "dataset": _dataset(e),
            "patients": list(e.per_patient["patient"]),
            "worlds": list(e.worlds),
        }

    a, b = facts(first), facts(other)
    for what in {**a, **b}:
        if a.get(what) != b.get(what):
            raise SubmissionError(
                f"results {first.name!r} and {other.name!r} differ in {what} ({str(a.get(what))[:60]} and "
                f"{str(b.get(what))[:60]}); an entry is one method under one protocol: submit them as two entries, or "
                "evaluate alike"
            )


def _summaries(evaluations: Sequence[Evaluation]) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    from medgym_offline.evaluation.metrics import metrics_of
    from medgym_offline.evaluation.protocol import Bootstrap
    from medgym_offline.evaluation.statistics import summarize

    first = evaluations[0]
    bootstrap = Bootstrap(**first.protocol.get("bootstrap", {}))
    metrics: dict[str, Any] = {world: {} for world in first.worlds}
    intervals: dict[str, Any] = {world: {} for world in first.worlds}
    for world in first.worlds:
        for name, metric in metrics_of(disease(first.protocol["disease"])).items():
            columns = [e.worlds[world].per_patient.get(name) for e in evaluations]
            if all(c is not None and np.isfinite(c).all() for c in columns):
                summary = summarize(np.array(columns, dtype=float), bootstrap, metric.better)
                metrics[world][name] = _digits(summary.mean)
                intervals[world][name] = _rounded(summary.mean_interval)
    return metrics, intervals


def _curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Curves over time, mean over patients and runs, at about 16 intervals."""
    times = list(runs[0]["times"])
    step = max(1, round((len(times) - 1) / _CURVE_POINTS))

    def mean(name: str) -> list[float]:
        return _rounded(sum(values) / len(runs) for values in zip(*(run[name]["mean"][::step] for run in runs)))

    return {"times": times[::step], "severity": mean("severity"), "monitored": mean("monitored")}


def _rounded(values: Any) -> list[float]:
    return [_digits(value) for value in values]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: _digits(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}


def _digits(value: float) -> float:
    """Seven significant digits: all that single precision holds, and a file that a person can compare."""
    return float(f"{float(value):.7g}")


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Every result's notes, the number of training seeds counted over all of them."""
    from medgym_offline.evaluation.statistics import seed_label

    alone = seed_label(1)
    label = "" if evaluations[0].policy["scope"] == "baseline" else seed_label(len(evaluations))
    notes = [note for e in evaluations for note in e.notes if note != alone]
    return list(dict.fromkeys([*notes, *([label] if label else [])]))


def _cost(evaluations: Sequence[Evaluation], policies: Sequence[Path | str]) -> dict[str, Any]:
    """What `train` recorded beside the policies: hardware, wall time of all runs, updates of each; None if unknown."""
    from medgym_offline.compute import read_compute

    found = [read_compute(policy) if isinstance(policy, Path) else None for policy in policies]
    seconds = [c.wall_seconds if c else None for c in found]
    stated = [e.policy.get("provenance", {}).get("config") for e in evaluations]
    updates = {
        c.updates if c else config.get("updates") if isinstance(config, Mapping) else None
        for c, config in zip(found, stated)
    }
    machines = dict.fromkeys(c.hardware for c in found if c and c.hardware)
    known = [s for s in seconds if s is not None]
    return {
        "hardware": "; ".join(machines) or None,
        "wall_seconds": round(sum(known), 1) if len(known) == len(seconds) else None,
        "updates": updates.pop() if len(updates) == 1 else None,
    }
