"""From evaluation results to a leaderboard entry: one method, over one or more training seeds."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import sha256_file

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation

__all__ = ["FORMAT", "build_entry", "entry_id", "policy_of", "slug"]

FORMAT = "medgym-entry/1"

_CURVE_HOURS = 6.0
_TRAINING_KEYS = 40  # facts kept of a policy file's provenance


def slug(name: str) -> str:
    """`name` in lower-case ASCII letters, digits and hyphens.

    Raises:
        SubmissionError: nothing is left of it.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    found = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:60].strip("-")
    if not found:
        raise SubmissionError(f"--name {name!r} has no letter or digit; choose another")
    return found


def entry_id(entry: Mapping[str, Any]) -> str:
    """The id that follows from an entry's name, dataset (else bank), scope, timing and budget.

    Two names that look alike have the same id, so that neither can pass for the other.
    """
    data = entry["dataset"]["id"].rpartition("/")[2] if entry["dataset"] else entry["bank"]["name"]
    return f"{slug(entry['name'])}/{slug(data)}/{entry['scope']}/{entry['timing']}-{entry['decisions']}"


def build_entry(
    evaluations: Sequence[Evaluation],
    policies: Sequence[Path | str],
    name: str,
    authors: Sequence[str] = (),
    links: Sequence[str] = (),
    code: str | None = None,
    compute: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The entry of a method from the evaluations of its training seeds.

    Metrics are means over (seed x patient), intervals the stratified bootstrap over both.

    Args:
        evaluations: One per training seed, all of the same scope, timing, protocol, patients, bank and dataset.
        policies: What each evaluated, in the same order: a policy file, or a built-in's name.
        name: Of the method, as the board shows it.
        authors: Names.
        links: Of the method (paper, project), http(s).
        code: Where the method's code lies, http(s).
        compute: `hardware`, `wall_seconds` of all runs together, `updates` of each; None if nothing was trained.

    Raises:
        SubmissionError: no evaluation, two of the same policy, or evaluations that do not belong together (says how).
    """
    if not evaluations:
        raise SubmissionError("no evaluation result given; run `medgym-offline eval --policy ... --output DIR` first")
    first = evaluations[0]
    for other in evaluations[1:]:
        _same(first, other)
    described = [_describe(e, p, n) for n, (e, p) in enumerate(zip(evaluations, policies, strict=True))]
    keys = [d.get("sha256") or d["builtin"] for d in described]
    if len(set(keys)) < len(keys):
        raise SubmissionError("two of the results are of the same policy; give one result per training seed")
    metrics, intervals = _aggregate(evaluations)
    patients = [str(p) for p in first.per_patient["patient"]]
    entry: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "authors": list(authors),
        "links": list(links),
        "code": code,
        "scope": first.policy["scope"],
        "timing": first.policy["timing"],
        "decisions": int(first.protocol["decisions"]),
        "dataset": _dataset(first),
        "bank": {"name": first.bank["name"], "content_hash": first.bank["content_hash"]},
        "protocol": {
            "hash": first.protocol_hash,
            "settings": dict(first.protocol),
            "deviations": dict(first.deviations),
            "patients": patients if "patients" in first.deviations else None,
        },
        "seeds": [_seed(e) for e in evaluations],
        "metrics": metrics,
        "intervals": intervals,
        "curves": _curves(evaluations),
        "runs": [{w: _numbers(r.metrics) for w, r in e.worlds.items()} for e in evaluations],
        "policies": described,
        "compute": None if compute is None else dict(compute),
        "software": {k: str(v) for k, v in first.software.items()},
        "notes": _notes(evaluations),
        "verification": None,
    }
    return {**entry, "id": entry_id(entry)}


def policy_of(result: Path, evaluation: Evaluation) -> Path | str:
    """What a result evaluated: a built-in's name, or the copy of the policy file that lies beside the result.

    Raises:
        SubmissionError: the policy was neither, or no file beside the result has the sha256 that the result states.
    """
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
    training = dict(list(evaluation.policy.get("provenance", {}).items())[:_TRAINING_KEYS])
    seed = _seed(evaluation)
    stem = f"seed{seed}" if seed is not None else f"run{number}"
    file = f"policies/{slug(evaluation.name)}-{stem}-{digest[:8]}{policy.suffix}"
    return {"file": file, "sha256": digest, "bytes": policy.stat().st_size, "training": training}


def _seed(evaluation: Evaluation) -> int | None:
    seed = evaluation.policy.get("provenance", {}).get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _dataset(evaluation: Evaluation) -> dict[str, Any] | None:
    if not evaluation.dataset:
        return None
    return {"id": evaluation.dataset["id"], "identity": evaluation.dataset.get("identity")}


def _same(first: Evaluation, other: Evaluation) -> None:
    pairs = {
        "scope": (first.policy["scope"], other.policy["scope"]),
        "timing": (first.policy["timing"], other.policy["timing"]),
        "bank": (first.bank["content_hash"], other.bank["content_hash"]),
        "dataset": (_dataset(first), _dataset(other)),
        "patients": (list(first.per_patient["patient"]), list(other.per_patient["patient"])),
        **{
            key: (first.protocol.get(key), other.protocol.get(key))
            for key in sorted({*first.protocol, *other.protocol})
        },
        "worlds": (list(first.worlds), list(other.worlds)),
    }
    for what, (a, b) in pairs.items():
        if a != b:
            raise SubmissionError(
                f"results {first.name!r} and {other.name!r} differ in {what} ({str(a)[:60]} and {str(b)[:60]}); "
                "an entry is one method under one protocol: submit them as two entries, or evaluate alike"
            )


def _aggregate(evaluations: Sequence[Evaluation]) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    from medgym_offline.evaluation.metrics import METRICS
    from medgym_offline.evaluation.protocol import Bootstrap
    from medgym_offline.evaluation.statistics import summarize

    first = evaluations[0]
    bootstrap = Bootstrap(**first.protocol.get("bootstrap", {}))
    metrics: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for world in first.worlds:
        metrics[world], intervals[world] = {}, {}
        for name, metric in METRICS.items():
            columns = [e.worlds[world].per_patient.get(name) for e in evaluations]
            if any(c is None for c in columns):
                continue
            scores = np.array(columns, dtype=float)
            if not np.isfinite(scores).all():
                continue
            summary = summarize(scores, bootstrap, metric.better)
            metrics[world][name] = _digits(summary.mean)
            intervals[world][name] = [_digits(bound) for bound in summary.mean_interval]
    return metrics, intervals


def _curves(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """SOFA and lactate over time, mean over patients and runs, every few hours."""
    import numpy as np

    curves: dict[str, Any] = {}
    for world in evaluations[0].worlds:
        found = [e.worlds[world].curves for e in evaluations]
        hours = [hour for hour in found[0]["hours"] if hour % _CURVE_HOURS == 0]
        chosen = [found[0]["hours"].index(hour) for hour in hours]
        curves[world] = {"hours": hours}
        for name in ("sofa", "lactate"):
            mean = np.mean([curve[name]["mean"] for curve in found], axis=0)
            curves[world][name] = [_digits(mean[i]) for i in chosen]
    return curves


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: _digits(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}


def _digits(value: float) -> float:
    """Seven significant digits: all that single precision holds, and a file that a person can compare."""
    return float(f"{float(value):.7g}")


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Every result's notes, the number of training seeds counted over all of them."""
    from medgym_offline.evaluation.statistics import seed_label

    alone = seed_label(1)
    trained = evaluations[0].policy["scope"] != "baseline"
    notes = [note for e in evaluations for note in e.notes if note != alone]
    return list(dict.fromkeys([*notes, *filter(None, [seed_label(len(evaluations)) if trained else ""])]))
