"""Policies of a submission trained again from what they record: a check that needs no policy file.

The networks of 110 patients take megabytes, and their training minutes. Where the files do not travel with an entry,
the training does: algorithm, settings, seed, and the identity of the data.
"""

from __future__ import annotations

from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.config import check, configuration
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.diseases.base import FULL
from medgym_offline.errors import MedGymError, SubmissionError
from medgym_offline.files import sha256_file
from medgym_offline.leaderboard.building import Submission
from medgym_offline.leaderboard.entry import BuiltIn, PolicyFile
from medgym_offline.patients import NEW_PEOPLE, RecordSettings

if TYPE_CHECKING:
    pass

__all__ = ["SAME_BYTES", "Training", "WITHIN_NOISE", "train_again"]

SAME_BYTES, WITHIN_NOISE = "same bytes", "within the noise of training"
"""What training again gave: the very files of the entry, or policies that score like them."""


@configuration("training", SubmissionError)
class Training:
    """What a policy must record of its training to be trained again."""

    algorithm: str
    dataset: str
    identity: str
    scope: str
    seed: int
    config: dict[str, Any]
    view: str = FULL
    people: dict[str, str] = field(default_factory=dict)
    record: RecordSettings | None = None


def train_again(submission: Submission, work: Path, progress: bool = True) -> tuple[Submission, str]:
    """Train every policy of a submission again.

    Args:
        submission: From `read_submission(folder, complete=False)`.
        work: Folder for the policy files.
        progress: Show progress on standard error.

    Returns:
        The submission with the new files as its policies, and `SAME_BYTES`; or `WITHIN_NOISE`, if a file has other
        bytes and the entry allows a comparison in spite of that: a learner per patient, and at least two seeds.

    Raises:
        SubmissionError: naming the policy and why it cannot be trained again: a built-in, another package's algorithm,
            a checkpoint, a record without a needed field, another dataset; or other bytes where no noise can be told.
    """
    from medgym_offline.datasets import dataset_info, load_dataset
    from medgym_offline.datasets.trust import require_release_rows
    from medgym_offline.offline import OfflineConfig, train
    from medgym_offline.people import people_of
    from medgym_offline.policies import save_policy
    from medgym_offline.simulators import load_simulators

    entry, described = submission.entry, []
    for policy in entry.policies:
        if isinstance(policy, BuiltIn):
            raise SubmissionError(f"{submission.folder}: {policy.builtin!r} is built in and was not trained")
        described.append(policy)
    tasks = [_task(policy) for policy in described]
    loaded: dict[str, Transitions] = {}
    files = []
    for policy, task in zip(described, tasks):
        if task.dataset not in loaded:
            require_release_rows(load_dataset(task.dataset))
            loaded[task.dataset] = load_dataset(task.dataset, split=task.people.get("split"), view=task.view)
        if loaded[task.dataset].identity != task.identity:
            made = f"was trained on data made by other means than {task.dataset} on this machine"
            raise SubmissionError(f"{policy.file} {made}; generate it again, with the release that the entry names")
        try:
            config = OfflineConfig.from_dict(task.config)
        except (MedGymError, TypeError, ValueError) as error:
            raise SubmissionError(f"{policy.file} cannot be trained again: config: {error}") from None
        people, asked = None, "it does not say what `people_of` was asked"
        if task.scope in NEW_PEOPLE:
            if task.record is None:
                raise SubmissionError(f"{policy.file} cannot be trained again: {asked}")
            people = people_of(task.scope, load_simulators(dataset_info(task.dataset).bank), **task.record)
        chosen = None if task.people or "patients" not in entry.protocol.deviations else list(entry.patients)
        rows = loaded[task.dataset]
        found = train(
            task.algorithm, rows, task.scope, task.seed, config, patients=chosen, progress=progress, people=people
        ).policy
        # The record is part of the file: with the entry's own, equal weights are equal bytes.
        found.provenance = dict(policy.training)
        files.append(save_policy(found, work / Path(policy.file).name))
    again = replace(submission, policies=tuple(files))
    if all(sha256_file(file) == policy.sha256 for file, policy in zip(files, described)):
        return again, SAME_BYTES
    if entry.scope != "ind" or len(files) < 2:
        why = "by how much training magnifies that can be told only of two or more seeds with a policy per patient"
        bits = "the weights differ in their last bits on this machine"
        raise SubmissionError(f"{submission.folder}: trained again, {bits}; {why}: verify with the policy files")
    return again, WITHIN_NOISE


def _task(policy: PolicyFile) -> Training:
    """What a policy records of its training, checked."""
    from medgym_offline.offline import ALGORITHMS

    refused, fields = f"{policy.file} cannot be trained again", Training.__annotations__
    stated = {name: policy.training[name] for name in fields if name in policy.training}
    task: Training = check(Training, stated, refused, SubmissionError, "`medgym-offline train` records it")
    if task.algorithm not in ALGORITHMS or not policy.file.endswith((".safetensors", ".pt")):
        own = ", ".join(ALGORITHMS)
        raise SubmissionError(f"{refused}: only this package's own algorithms can ({own}), not {task.algorithm!r}")
    if "update" in policy.training:
        raise SubmissionError(f"{refused}: it is a checkpoint; only what a training ends with can be repeated")
    return task
