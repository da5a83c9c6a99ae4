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
    """A built-in `policy`, or an `algorithm` in each of the `scopes`."""

    name: str
    policy: str | None = None
    algorithm: str | None = None
    scopes: tuple[Literal["ind", "pop"], ...] = ("ind",)

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
        label: Folder of its submission.
        work: Its working folder.
        needs: Package that must be installed, or "".
        steps: (file that exists once the step is done, arguments of `medgym-offline`), in order.
        submission: Where it is packed.
        board: Where it is recorded.
    """

    label: str
    work: Path
    needs: str
    steps: tuple[tuple[Path, tuple[str, ...]], ...]
    submission: Path
    board: Path


def read_seed_recipe(path: str | Path | None = None) -> SeedRecipe:
    """The recipe at `path`; the release's if None. `SubmissionError` names the file and the field that is wrong."""
    return read(SeedRecipe, path if path is not None else release_folder("leaderboard") / "seed_entries.toml")


def plan(recipe: SeedRecipe, work: Path, submissions: Path, board: Path) -> list[SeedEntry]:
    """Every entry of a recipe with its commands; nothing is run.

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
            raise SubmissionError(
                f"{dataset} at {info.path} was made by other means than this release's; make it again: "
                f"medgym-offline generate {dataset} --force"
            )
        bank = recipe.bank or info.bank or disease(disease_of_id(dataset)).bank
        content = load_simulators(bank).content_hash
        for method in recipe.entries:
            for scope in method.scopes if method.algorithm else ("",):
                label = "-".join(part for part in (slug(method.name), dataset.rpartition("/")[2], scope) if part)
                training = [recipe.seeds, recipe.train] if method.algorithm else []
                options = [recipe.evaluate, recipe.authors, recipe.links, recipe.code]
                depends = [asdict(method), scope, dataset, bank, info.identity, content, training, options]
                folder = work / f"{label}-{hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:10]}"
                steps = tuple(
                    _steps(recipe, method, scope, dataset, bank, info.timing, folder, submissions / label, board)
                )
                needs = "d3rlpy" if (method.algorithm or "").startswith("d3rlpy") else ""
                found.append(SeedEntry(label, folder, needs, steps, submissions / label, board))
    return found


def _steps(
    recipe: SeedRecipe,
    method: SeedMethod,
    scope: str,
    dataset: str,
    bank: str,
    timing: str,
    work: Path,
    submission: Path,
    board: Path,
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    policies, results = {work / "result": (str(method.policy), "--timing", timing)}, [work / "result"]
    if method.algorithm:
        suffix = ".pt" if method.algorithm.startswith("d3rlpy") else ".safetensors"
        files = [work / f"{method.algorithm}-{scope}-seed{n}{suffix}" for n in range(recipe.seeds)]
        fit = ("train", method.algorithm, "--dataset", dataset, "--scope", scope, "--seeds", str(recipe.seeds))
        yield files[-1].with_suffix(".compute.json"), (*fit, *recipe.train, "--output", str(work))
        policies, results = {f.with_suffix(""): (str(f),) for f in files}, [f.with_suffix("") for f in files]
    for result in results:
        where = ("--dataset", dataset, "--bank", bank, *recipe.evaluate)
        yield result / "result.json", ("eval", "--policy", *policies[result], *where, "--output", str(result))
    said = ["--authors", "; ".join(recipe.authors)] if recipe.authors else []
    said += [part for link in recipe.links for part in ("--link", link)]
    said += ["--code", recipe.code] if recipe.code else []
    packing = ("--name", method.name, *said, "--output", str(submission))
    yield work / "submitted", ("submit", *map(str, results), *packing)
    yield work / "verified", ("leaderboard", "verify", str(submission), "--bank", bank, "--file", str(board))


def run_entry(entry: SeedEntry, say: Callable[[str], None], limit: int = LARGE) -> bool:
    """Run what is left of an entry's commands; True if it is on the board afterwards.

    Args:
        entry: From :func:`plan`.
        say: Told what happens, in lines.
        limit: Policy files of at least so many bytes are moved out of the submission.

    Raises:
        SubmissionError: a command fails; what it printed on standard error is above it.
    """
    if entry.needs and importlib.util.find_spec(entry.needs) is None:
        say(f'{entry.label}: skipped, needs {entry.needs}: pip install "medgym-offline[{entry.needs}]"')
        return False
    _forget_lost(entry)
    for done, argv in entry.steps:
        if done.exists():
            continue
        say(f"{entry.label}: medgym-offline {shlex.join(argv)}")
        code = "from medgym_offline.cli import main; main()"
        ended = subprocess.run([sys.executable, "-c", code, *argv], stdout=subprocess.DEVNULL, check=False)
        if ended.returncode:
            raise SubmissionError(f"{entry.label}: `medgym-offline {shlex.join(argv)}` failed; run it to see why")
        if done.name == "submitted":
            write_text(entry.submission / "README.md", _readme(entry))
        if done.name in ("submitted", "verified"):
            write_text(done, "")
    moved = slim(entry.submission, read_submission(entry.submission).entry, limit)
    say(f"{entry.label}: verified" + (f"; {len(moved)} policy files moved to {moved[0].parent}" if moved else ""))
    return True


def _forget_lost(entry: SeedEntry) -> None:
    """Steps whose outcome was removed since, such as an entry of a board that was emptied, are to be done again."""
    packed = entry.submission / "entry.json"
    if not packed.is_file():
        (entry.work / "submitted").unlink(missing_ok=True)
    known = json.loads(packed.read_text("utf-8"))["id"] if packed.is_file() else None
    verified = {e.id for e in read_board(entry.board) if e.verification is not None}
    if known not in verified or not (entry.work / "submitted").exists():
        (entry.work / "verified").unlink(missing_ok=True)


def _readme(entry: SeedEntry) -> str:
    commands = "\n".join(f"medgym-offline {shlex.join(argv)}" for _, argv in entry.steps)
    return (
        f"# {entry.label}\n\nMade by `medgym-offline leaderboard seed`, with these commands:\n\n"
        f"```bash\n{commands}\n```\n\nPolicy files that are named in entry.json and not here are kept by their sha256, "
        "or trained again by `leaderboard verify --retrain` (docs/leaderboard.md).\n"
    )
