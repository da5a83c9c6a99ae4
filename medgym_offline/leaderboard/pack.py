"""`submit`: result files in, a submission folder out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medgym_offline.errors import SubmissionError
from medgym_offline.leaderboard.entry import build_entry, policy_of
from medgym_offline.leaderboard.schema import require_valid
from medgym_offline.leaderboard.submission import Submission, write_submission

__all__ = ["submit"]


def submit(
    results: Sequence[str | Path],
    name: str,
    output: str | Path,
    authors: Sequence[str] = (),
    link: str | None = None,
) -> Submission:
    """Build a submission from evaluation results of one method.

    Args:
        results: One per training seed: `result.json`, or the folder that `eval --output` wrote.
        name: Of the method, as the board shows it.
        output: Folder to write: `entry.json` and `policies/`.
        authors: Names.
        link: Paper or code, http(s).

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
    entry = build_entry(evaluations, policies, name, authors, link)
    require_valid(entry, "the new entry")
    return write_submission(entry, policies, output)
