"""The release's own entries, made by the commands a contributor would type, each only once.

A recipe (`leaderboard/seed_entries.toml`) names methods and datasets. Every entry is trained, evaluated, submitted and
verified onto the board by `medgym-offline` commands in processes of their own; the submission's README keeps them. An
entry's working folder is named after everything it depends on (commands, rows of the dataset, bank), so what lies there
is never stale: an interrupted run goes on where it stopped, and a new bank starts anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from medgym_offline.config import configuration, read
from medgym_offline.diseases.registry import disease, disease_of_id
from medgym_offline.errors import SubmissionError
from medgym_offline.files import release_folder, write_text
from medgym_offline.leaderboard.board import read_board
from medgym_offline.leaderboard.entry import slug
from medgym_offline.leaderboard.submission import LARGE, read_submission, slim

__all__ = ["SeedEntry", "SeedMethod", "SeedRecipe", "plan", "read_seed_recipe", "run_entry"]


@configuration("method", SubmissionError)
class SeedMethod:
    """A built-in `policy`, or an `algorithm` in each of the `scopes`; on `datasets`, or all of the recipe's."""

    name: str
    policy: str | None = None
    algorithm: str | None = None
    scopes: tuple[Literal["ind", "pop"], ...] = ("ind",)
    datasets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.policy is None) == (self.algorithm is None):
            raise SubmissionError(f"entry {self.name!r}: give either policy or algorithm")


@configuration("seed recipe", SubmissionError)
class SeedRecipe:
    """What to make.

    Attributes:
        datasets: Ids; every entry is made on each.
        entries: Methods.
        bank: Where to evaluate; None for the bank that a dataset was made in.
        seeds: Training seeds of a learned entry.
        train, evaluate: Further options of every `train` and `eval`.
        authors, links, code: Of every `submit`.
    """

    datasets: tuple[str, ...]
    entries: tuple[SeedMethod, ...]
    bank: str | None = None
    seeds: Annotated[int, Field(ge=1)] = 3
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    code: str | None = None


@dataclass(frozen=True)
class SeedEntry:
    """One entry to be made.

    Attributes:
        recipe, method, scope, dataset: What; the scope of a built-in is "".
        bank, timing: Where and how it is evaluated.
        inputs: Identity of the dataset and content hash of the bank.
        root, submissions: Folders of all entries' working folders and submissions.
        board: Where it is recorded.
    """

    recipe: SeedRecipe
    method: SeedMethod
    scope: str
    dataset: str
    bank: str
    timing: str
    inputs: tuple[str | None, str]
    root: Path
    submissions: Path
    board: Path

    @property
    def label(self) -> str:
        """Name of its submission's folder."""
        return "-".join(p for p in (slug(self.method.name), self.dataset.rpartition("/")[2], self.scope) if p)

    @property
    def submission(self) -> Path:
        """Where it is packed."""
        return self.submissions / self.label

    @property
    def work(self) -> Path:
        """Its working folder, named after everything that it depends on."""
        given = self.recipe
        training = [given.seeds, given.train] if self.method.algorithm else []
        options = [given.evaluate, given.authors, given.links, given.code]
        depends = [asdict(self.method), self.scope, self.dataset, self.bank, self.inputs, training, options]
        return self.root / f"{self.label}-{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:10]}"

    def steps(self) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """(File that exists once the step is done, arguments of `medgym-offline`), in order."""
        given, algorithm, work = self.recipe, self.method.algorithm, self.work
        policies: dict[Path, tuple[str, ...]] = {work / "result": (str(self.method.policy), "--timing", self.timing)}
        if algorithm:
            suffix = ".pt" if algorithm.startswith("d3rlpy") else ".safetensors"
            files = [work / f"{algorithm}-{self.scope}-seed{n}{suffix}" for n in range(given.seeds)]
            fit = ("train", algorithm, "--dataset", self.dataset, "--scope", self.scope, "--seeds", str(given.seeds))
            yield files[-1].with_suffix(".compute.json"), (*fit, *given.train, "--output", str(work))
            policies = {file.with_suffix(""): (str(file),) for file in files}
        where = ("--dataset", self.dataset, "--bank", self.bank, *given.evaluate)
        for result, policy in policies.items():
            yield result / "result.json", ("eval", "--policy", *policy, *where, "--output", str(result))
        said = ["--authors", "; ".join(given.authors)] if given.authors else []
        said += [part for link in given.links for part in ("--link", link)]
        said += ["--code", given.code] if given.code else []
        packing = ("--name", self.method.name, *said, "--output", str(self.submission))
        yield work / "submitted", ("submit", *map(str, policies), *packing)
        checked = ("verify", str(self.submission), "--bank", self.bank, "--file", str(self.board))
        yield work / "verified", ("leaderboard", *checked)

    def done(self, mark: Path) -> bool:
        """Whether the step that ends with `mark` is done, and its outcome still there."""
        packed = self.submission / "entry.json"
        if not mark.exists() or mark.name not in ("submitted", "verified") or not packed.is_file():
            return mark.exists() and mark.name not in ("submitted", "verified")
        known = json.loads(packed.read_text("utf-8"))["id"]
        return mark.name == "submitted" or any(e.id == known and e.verification for e in read_board(self.board))


def read_seed_recipe(path: str | Path | None = None) -> SeedRecipe:
    """The recipe at `path`; the release's if None. `SubmissionError` names the file and the field that is wrong."""
    return read(SeedRecipe, path if path is not None else release_folder("leaderboard") / "seed_entries.toml")


def plan(recipe: SeedRecipe, work: Path, submissions: Path, board: Path) -> list[SeedEntry]:
    """Every entry of a recipe; nothing is run.

    Raises:
        MedGymError: a dataset or its bank does not exist, or the dataset here is not the release's.
    """
    from medgym_offline.datasets import dataset_info
    from medgym_offline.datasets.trust import release_manifest
    from medgym_offline.simulators import load_simulators

    found = []
    for dataset in recipe.datasets:
        info, released = dataset_info(dataset), release_manifest(dataset)
        if released is not None and info.identity != released["identity"]:
            remedy = f"make it again: medgym-offline generate {dataset} --force"
            raise SubmissionError(f"{dataset} at {info.path} was made by other means than this release's; {remedy}")
        bank = recipe.bank or info.bank or disease(disease_of_id(dataset)).bank
        where = (
            dataset,
            bank,
            info.timing,
            (info.identity, load_simulators(bank).content_hash),
            work,
            submissions,
            board,
        )
        methods = [m for m in recipe.entries if m.datasets is None or dataset in m.datasets]
        found += [SeedEntry(recipe, m, s, *where) for m in methods for s in (m.scopes if m.algorithm else ("",))]
    return found


def run_entry(entry: SeedEntry, say: Callable[[str], None], limit: int = LARGE) -> bool:
    """Run what is left of an entry's commands; True if it is on the board afterwards.

    Args:
        entry: From :func:`plan`.
        say: Told what happens, in lines.
        limit: Policy files of at least so many bytes are moved out of the submission.

    Raises:
        SubmissionError: a command fails; what it printed on standard error is above it.
    """
    if (entry.method.algorithm or "").startswith("d3rlpy") and importlib.util.find_spec("d3rlpy") is None:
        say(f'{entry.label}: skipped, needs d3rlpy: pip install "medgym-offline[d3rlpy]"')
        return False
    for mark, argv in entry.steps():
        if entry.done(mark):
            continue
        command = f"medgym-offline {shlex.join(argv)}"
        say(f"{entry.label}: {command}")
        code = "from medgym_offline.cli import main; main()"
        ended = subprocess.run([sys.executable, "-c", code, *argv], stdout=subprocess.DEVNULL, check=False)
        if ended.returncode:
            raise SubmissionError(f"{entry.label}: `{command}` failed; run it to see why")
        if mark.name == "submitted":
            write_text(entry.submission / "README.md", _readme(entry))
        if mark.name in ("submitted", "verified"):
            write_text(mark, "")
    moved = slim(entry.submission, read_submission(entry.submission).entry, limit)
    say(f"{entry.label}: verified" + (f"; {len(moved)} policy files moved to {moved[0].parent}" if moved else ""))
    return True


def _readme(entry: SeedEntry) -> str:
    commands = "\n".join(f"medgym-offline {shlex.join(argv)}" for _, argv in entry.steps())
    return (
        f"# {entry.label}\n\nMade by `medgym-offline leaderboard seed`, with these commands:\n\n"
        f"```bash\n{commands}\n```\n\nPolicy files that are named in entry.json and not here are kept by their sha256, "
        "or trained again by `leaderboard verify --retrain` (docs/leaderboard.md).\n"
    )
