"""`submit`: evaluation results in, a submission folder out.

A submission is a folder with `entry.json` and the policy files it names, and nothing else. It comes from a stranger.
Nothing in it is executed here; every path is checked before it is opened.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.compute import Compute, read_compute
from medgym_offline.config import check, from_values, read_json, to_values
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import SubmissionError
from medgym_offline.evaluation import Evaluation
from medgym_offline.evaluation.protocol import Bootstrap
from medgym_offline.evaluation.statistics import Summary, seed_label, summarize
from medgym_offline.files import POLICY_SUFFIXES, atomic_path, json_text, sha256_file
from medgym_offline.leaderboard.entry import FORMAT, PAIRED, BuiltIn, Entry, PolicyFile, entry_id, side_of, slug

__all__ = ["MAX_POLICY_BYTES", "Submission", "build_entry", "read_submission", "submit"]

MAX_ENTRY_BYTES = 4 * 2**20
MAX_POLICY_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Submission:
    """A checked submission folder.

    Attributes:
        folder: Where it lies.
        entry: Content of `entry.json`.
        policies: What to evaluate, one per training seed: the path of a policy file, or a built-in's name.
    """

    folder: Path
    entry: Entry
    policies: tuple[Path | str, ...]


def read_submission(folder: str | Path, complete: bool = True) -> Submission:
    """Read and check a submission folder.

    Args:
        folder: `entry.json`, `policies/`, and a `README.md` if wanted.
        complete: Whether every policy file must be there; otherwise `policies` names those that are not where they
            would lie.

    Raises:
        MedGymError: the reason in one line: `entry.json` is missing or does not fit; a link; a file missing, oversize,
            of another type or sha256 than stated; a file nobody asked for.
    """
    root = Path(folder)
    source = root / "entry.json"
    if root.is_symlink() or not root.is_dir():
        raise SubmissionError(f"{root} is not a folder; build one with `medgym-offline submit`")
    _regular(source, MAX_ENTRY_BYTES)
    entry: Entry = check(Entry, read_json(source, SubmissionError), str(source), SubmissionError)
    if entry.verification is not None:
        raise SubmissionError(f"{source}: verification must be null; a board records it when policies are run again")
    policies = tuple(p.builtin if isinstance(p, BuiltIn) else _policy_file(root, p, complete) for p in entry.policies)
    inside, readme = root / "policies", root / "README.md"
    known = {source, inside, *(root / p.file for p in entry.policies if isinstance(p, PolicyFile))}
    for path in sorted([*root.iterdir(), *(inside.iterdir() if inside.exists() else ())]):
        if path not in known and not (path == readme and path.is_file()):
            raise SubmissionError(f"{path} does not belong in a submission, or is not named in entry.json; remove it")
    return Submission(root, entry, policies)


def _policy_file(root: Path, policy: PolicyFile, complete: bool) -> Path:
    path = root / policy.file
    if path.parent.is_symlink():
        raise SubmissionError(f"{path.parent} is a link; a submission holds its own files")
    if policy.bytes > MAX_POLICY_BYTES:
        raise SubmissionError(f"{path}: {policy.bytes >> 20} MB; at most {MAX_POLICY_BYTES >> 20} are accepted")
    if not path.exists() and not path.is_symlink():
        if complete:
            remedy = "put the file there, or have the policy trained again: `leaderboard verify --retrain`"
            raise SubmissionError(f"{path} is missing; {remedy}")
        return path
    _regular(path, MAX_POLICY_BYTES)
    if path.stat().st_size != policy.bytes or sha256_file(path) != policy.sha256:
        raise SubmissionError(f"{path}: sha256 does not match entry.json; changed after `submit`? build it again")
    return path


def _regular(path: Path, limit: int) -> None:
    if path.is_symlink():
        raise SubmissionError(f"{path} is a link; a submission holds its own files")
    if not path.is_file():
        raise SubmissionError(f"{path} is missing")
    if path.stat().st_size > limit:
        raise SubmissionError(f"{path} has {path.stat().st_size >> 20} MB; at most {limit >> 20} are accepted")


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
    """Build a submission from evaluation results of one method, whole or not at all, and read it through every check.

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
        PolicyError: a file is no policy that anybody could run.
    """
    from medgym_offline.policies import load_policy

    target = Path(output)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / "entry.json").is_file())):
        raise SubmissionError(f"{target} exists and is no submission; choose another --output")
    paths = [path / "result.json" if (path := Path(result)).is_dir() else path for result in results]
    evaluations = [Evaluation.from_json(path) for path in paths]
    policies = [_policy_of(path, evaluation) for path, evaluation in zip(paths, evaluations)]
    cost = {**_cost(evaluations, policies), **{k: v for k, v in (compute or {}).items() if v is not None}}
    told = {"authors": list(authors), "links": list(links), "code": code, "compute": cost}
    entry = build_entry(evaluations, policies, name, **told)
    with atomic_path(target) as temporary:
        temporary.mkdir()
        for described, source in zip(entry.policies, policies, strict=True):
            if isinstance(described, PolicyFile):
                load_policy(source)
                (temporary / "policies").mkdir(exist_ok=True)
                shutil.copyfile(source, temporary / described.file)
        (temporary / "entry.json").write_text(json_text(to_values(entry)), encoding="utf-8")
        read_submission(temporary)
    return read_submission(target)


def build_entry(evaluations: Sequence[Evaluation], policies: Sequence[Path | str], name: str, **told: Any) -> Entry:
    """The entry of a method from the evaluations of its training seeds.

    Metrics are means over (seed x patient), intervals the stratified bootstrap over both.

    Args:
        evaluations: One per training seed, all of the same scope, timing, protocol, patients, bank and dataset.
        policies: What each evaluated, in the same order: a policy file, or a built-in's name.
        name: Of the method.
        told: Its `authors`, `links`, `code`, `compute` as fields of the entry; the cost of a baseline is dropped.

    Raises:
        SubmissionError: no evaluation, or evaluations that do not belong together (says how).
    """
    if not evaluations:
        raise SubmissionError("no evaluation result given; run `medgym-offline eval --policy ... --output DIR` first")
    first, alike = evaluations[0], _alike(evaluations[0])
    if "takeover" in first.protocol:
        raise SubmissionError(f"result {first.name!r} is of a takeover, an entry of whole episodes; leave takeover out")
    for other in evaluations[1:]:
        for what, value in _alike(other).items():
            if alike.get(what) != value:
                differ = f"differ in {what} ({str(alike.get(what))[:60]} and {str(value)[:60]})"
                remedy = "an entry is one method under one protocol: submit two entries, or evaluate alike"
                raise SubmissionError(f"results {first.name!r} and {other.name!r} {differ}; {remedy}")
    scope, view = first.policy["scope"], first.protocol.get("view", FULL)
    kind = {"scope": scope, "timing": first.policy["timing"], "decisions": int(first.protocol["decisions"])}
    dataset, split, seeds = alike["dataset"], alike["split"], [_seed(e) for e in evaluations]
    summaries = {world: _summaries(evaluations, world) for world in first.worlds}
    told = {"authors": [], "links": [], "code": None, "compute": None, **told}
    entry = {
        **told,
        "format": FORMAT,
        "id": entry_id(name, dataset["id"] if dataset else first.bank["name"], **kind, view=view, split=split),
        "disease": first.protocol["disease"],
        "name": name,
        **kind,
        "dataset": dataset,
        "bank": {"name": first.bank["name"], "content_hash": first.bank["content_hash"]},
        "protocol": {"hash": first.protocol_hash, "settings": first.protocol, "deviations": first.deviations},
        "patients": alike["patients"],
        "seeds": seeds,
        "metrics": {w: {n: _digits(s.mean) for n, s in found.items()} for w, found in summaries.items()},
        "intervals": {w: {n: _rounded(s.mean_interval) for n, s in found.items()} for w, found in summaries.items()},
        "per_patient": {
            w: {m: [_rounded(e.worlds[w].per_patient[m]) for e in evaluations] for m in PAIRED} for w in first.worlds
        },
        "runs": [{w: _numbers(r.metrics) for w, r in e.worlds.items()} for e in evaluations],
        "policies": [_describe(e, p, n) for n, (e, p) in enumerate(zip(evaluations, policies, strict=True))],
        "compute": None if scope == "baseline" else told["compute"],
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
        raise SubmissionError(f"{result}: only policies in one file can be submitted; save it to a file, evaluate that")
    for path in sorted(result.parent.iterdir()):
        if path.is_file() and path.suffix in POLICY_SUFFIXES and sha256_file(path) == digest:
            return path
    again = "evaluate again with `eval --policy FILE --output DIR`, which keeps a copy there"
    raise SubmissionError(f"{result}: the policy it evaluated (sha256 {digest[:12]}...) is not beside it; {again}")


def _describe(evaluation: Evaluation, policy: Path | str, number: int) -> dict[str, Any]:
    if isinstance(policy, str):
        return {"builtin": policy}
    digest, seed = evaluation.policy["sha256"], _seed(evaluation)
    stem = f"{slug(evaluation.name)}-{f'run{number}' if seed is None else f'seed{seed}'}-{digest[:8]}"
    training = dict(list(evaluation.policy.get("provenance", {}).items())[:_TRAINING_KEYS])
    size = policy.stat().st_size
    return {"file": f"policies/{stem}{policy.suffix}", "sha256": digest, "bytes": size, "training": training}


def _seed(evaluation: Evaluation) -> int | None:
    seed = evaluation.policy.get("provenance", {}).get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def _alike(evaluation: Evaluation) -> dict[str, Any]:
    """What the evaluations of one entry have in common."""
    data = evaluation.dataset
    return {
        **evaluation.protocol,
        "scope": evaluation.policy["scope"],
        "timing": evaluation.policy["timing"],
        "bank": evaluation.bank["content_hash"],
        "dataset": {"id": data["id"], "identity": data.get("identity")} if data else None,
        "patients": [str(patient) for patient in evaluation.per_patient["patient"]],
        "worlds": list(evaluation.worlds),
        "split": side_of(evaluation.deviations),
    }


def _summaries(evaluations: Sequence[Evaluation], world: str) -> dict[str, Summary]:
    """Summary over (seed x patient) of every metric that all of the evaluations have."""
    found, bootstrap = {}, Bootstrap(**evaluations[0].protocol.get("bootstrap", {}))
    for name, metric in evaluations[0].definitions.items():
        columns = [e.worlds[world].per_patient.get(name) for e in evaluations]
        if all(c is not None and np.isfinite(c).all() for c in columns):
            found[name] = summarize(np.array(columns, dtype=float), bootstrap, metric.better)
    return found


def _rounded(values: Iterable[float]) -> list[float]:
    return [_digits(value) for value in values]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: _digits(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}


def _digits(value: float) -> float:
    """Seven significant digits: all that single precision holds, and a file that a person can compare."""
    return float(f"{float(value):.7g}")


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Every result's notes, the number of training seeds counted over all of them."""
    label = "" if evaluations[0].policy["scope"] == "baseline" else seed_label(len(evaluations))
    notes = [note for e in evaluations for note in e.notes if note != seed_label(1)]
    return [note for note in dict.fromkeys([*notes, label]) if note]


def _cost(evaluations: Sequence[Evaluation], policies: Sequence[Path | str]) -> dict[str, Any]:
    """What `train` recorded beside the policies: hardware, wall time of all runs, updates of each; None if unknown."""
    found = [(read_compute(p) if isinstance(p, Path) else None) or Compute() for p in policies]
    configs = [e.policy.get("provenance", {}).get("config") for e in evaluations]
    stated = [config.get("updates") if isinstance(config, Mapping) else None for config in configs]
    updates = {c.updates or told for c, told in zip(found, stated)}
    seconds = [c.wall_seconds for c in found if c.wall_seconds is not None]
    return {
        "hardware": "; ".join(dict.fromkeys(c.hardware for c in found if c.hardware)) or None,
        "wall_seconds": round(sum(seconds), 1) if len(seconds) == len(found) else None,
        "updates": updates.pop() if len(updates) == 1 else None,
    }
