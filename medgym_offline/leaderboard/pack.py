"""`submit`: result files in, a submission folder out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.errors import SubmissionError
from medgym_offline.leaderboard.entry import build_entry, policy_of
from medgym_offline.leaderboard.schema import require_valid
from medgym_offline.leaderboard.submission import Submission, write_submission

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation

__all__ = ["submit"]


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
        ProtocolError: a file is no evaluation result.
        SubmissionError: a policy file is missing beside its result or is not the one evaluated; results that do not
            belong together; `output` holds something else.
    """
    from medgym_offline.evaluation import Evaluation

    paths = [path / "result.json" if (path := Path(result)).is_dir() else path for result in results]
    for path in paths:
        if not path.is_file():
            raise SubmissionError(
                f"{path}: no such result; write one with `medgym-offline eval --policy ... --output DIR`"
            )
    evaluations = [Evaluation.from_json(path) for path in paths]
    policies = [policy_of(path, evaluation) for path, evaluation in zip(paths, evaluations)]
    cost = {**_cost(evaluations, policies), **{k: v for k, v in (compute or {}).items() if v is not None}}
    trained = evaluations[0].policy["scope"] != "baseline"
    entry = build_entry(evaluations, policies, name, authors, links, code, cost if trained else None)
    require_valid(entry, "the new entry")
    return write_submission(entry, policies, output)


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
