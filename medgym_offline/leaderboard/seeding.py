"""The release's own entries, made by the commands a contributor would type, each only once.

A recipe (`leaderboard/seed_entries.toml`) names methods and datasets. Every entry is trained, evaluated, submitted and
verified onto the board by `medgym-offline` commands in processes of their own; the submission's README keeps them. An
entry's working folder is named after everything it depends on (commands, rows of the dataset, bank), so what lies there
is never stale: an interrupted run goes on where it stopped, and a new bank starts anew.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgym_offline.errors import SubmissionError
from medgym_offline.files import read_toml, release_folder, write_text
from medgym_offline.leaderboard.board import read_board
from medgym_offline.leaderboard.entry import slug

__all__ = ["SeedEntry", "SeedRecipe", "plan", "read_seed_recipe", "run_entry"]

_FIELDS = {"datasets", "bank", "seeds", "authors", "links", "code", "train", "evaluate", "entries"}
_ENTRY_FIELDS = {"name", "policy", "algorithm", "scopes"}


@dataclass(frozen=True)
class SeedRecipe:
    """What to make.

    Attributes:
        datasets: Ids; every entry is made on each.
        bank: Where to evaluate; None for the bank that a dataset was made in.
        seeds: Training seeds of a learned entry.
        train, evaluate: Further options of every `train` and `eval`.
        options: Of every `submit`: authors, links, code.
        entries: (name, built-in policy or None, algorithm or None, scopes).
    """

    datasets: tuple[str, ...]
    bank: str | None
    seeds: int
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    options: tuple[str, ...]
    entries: tuple[tuple[str, str | None, str | None, tuple[str, ...]], ...]


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
    """The recipe at `path`; the release's if None.

    Raises:
        SubmissionError: naming the file and the field that is missing, unknown or of another type.
    """
    source = Path(path) if path is not None else release_folder("leaderboard") / "seed_entries.toml"
    content = read_toml(source, SubmissionError)

    def texts(table: dict[str, Any], name: str, default: Sequence[str] | None = None) -> tuple[str, ...]:
        value = table.get(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise SubmissionError(f"{source}: {name} must be a list of texts, not {value!r}")
        return tuple(value)

    for name in sorted(set(content) - _FIELDS):
        raise SubmissionError(f"{source}: unknown field {name!r}; known: {', '.join(sorted(_FIELDS))}")
    seeds = content.get("seeds", 3)
    if not isinstance(seeds, int) or seeds < 1:
        raise SubmissionError(f"{source}: seeds must be a whole number of at least 1, not {seeds!r}")
    entries = []
    for number, table in enumerate(content.get("entries", []), 1):
        if not isinstance(table, dict) or not isinstance(table.get("name"), str) or set(table) - _ENTRY_FIELDS:
            raise SubmissionError(f"{source}, entry {number}: needs name, and policy, or algorithm and scopes")
        policy, algorithm = table.get("policy"), table.get("algorithm")
        if (policy is None) == (algorithm is None):
            raise SubmissionError(f"{source}, entry {table['name']!r}: give either policy or algorithm")
        entries.append((table["name"], policy, algorithm, texts(table, "scopes", ["ind"] if algorithm else [""])))
    options = [] if not content.get("authors") else ["--authors", "; ".join(texts(content, "authors"))]
    options += [part for link in texts(content, "links", []) for part in ("--link", link)]
    options += ["--code", str(content["code"])] if "code" in content else []
    train, evaluate = texts(content, "train", []), texts(content, "evaluate", [])
    bank = content.get("bank")
    if bank is not None and not isinstance(bank, str):
        raise SubmissionError(f"{source}: bank must be a name or a path, not {bank!r}")
    return SeedRecipe(texts(content, "datasets"), bank, seeds, train, evaluate, tuple(options), tuple(entries))


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
        info = dataset_info(dataset)
        released = release_manifest(dataset)
        if released is not None and info.identity != released["identity"]:
            raise SubmissionError(
                f"{dataset} at {info.path} was made by other means than this release's; make it again: "
                f"medgym-offline generate {dataset} --force"
            )
        bank = recipe.bank or info.bank or "sepsis-v0"
        inputs = [info.identity, load_simulators(bank).content_hash]
        for name, policy, algorithm, scopes in recipe.entries:
            for scope in scopes:
                label = "-".join(part for part in (slug(name), dataset.rpartition("/")[2], scope) if part)
                where = ("--dataset", dataset, "--bank", bank, *recipe.evaluate)
                packing = ("--name", name, *recipe.options)
                method = (label, policy, algorithm, scope, info.timing)
                make = functools.partial(
                    _entry, *method, where, packing, recipe.seeds, recipe.train, submissions, board
                )
                # Commands name the folder, which is named after the commands: those in a folder called WORK.
                steps = [argv for _, argv in make(Path("WORK")).steps]
                digest = hashlib.sha256(json.dumps([steps, inputs]).encode()).hexdigest()[:10]
                found.append(make(work / f"{label}-{digest}"))
    return found


def _entry(
    label: str,
    policy: str | None,
    algorithm: str | None,
    scope: str,
    timing: str,
    where: tuple[str, ...],
    packing: tuple[str, ...],
    seeds: int,
    train: tuple[str, ...],
    submissions: Path,
    board: Path,
    work: Path,
) -> SeedEntry:
    """An entry's commands; `where`: options of `eval` that name dataset and bank; `packing`: those of `submit`."""
    steps: list[tuple[Path, tuple[str, ...]]] = []
    results = []
    if algorithm is None:
        results = [work / "result"]
        evaluate = ("eval", "--policy", str(policy), "--timing", timing, *where)
        steps.append((results[0] / "result.json", (*evaluate, "--output", str(results[0]))))
    else:
        suffix = ".pt" if algorithm.startswith("d3rlpy") else ".safetensors"
        files = [work / f"{algorithm}-{scope}-seed{n}{suffix}" for n in range(seeds)]
        fit = ("train", algorithm, *where[:2], "--scope", scope, "--seeds", str(seeds))
        steps.append((files[-1].with_suffix(".compute.json"), (*fit, *train, "--output", str(work))))
        for file in files:
            results.append(file.with_suffix(""))
            evaluate = ("eval", "--policy", str(file), *where)
            steps.append((results[-1] / "result.json", (*evaluate, "--output", str(results[-1]))))
    submission = submissions / label
    steps.append((work / "submitted", ("submit", *map(str, results), *packing, "--output", str(submission))))
    verify = ("leaderboard", "verify", str(submission), *where[2:4], "--file", str(board))
    steps.append((work / "verified", verify))
    needs = "d3rlpy" if algorithm and algorithm.startswith("d3rlpy") else ""
    return SeedEntry(label, work, needs, tuple(steps), submission, board)


def run_entry(entry: SeedEntry, say: Callable[[str], None], limit: int | None = None) -> bool:
    """Run what is left of an entry's commands; True if it is on the board afterwards.

    Args:
        entry: From :func:`plan`.
        say: Told what happens, in lines.
        limit: Policy files of at least so many bytes are moved out of the submission (`assets.slim`); None: `LARGE`.

    Raises:
        SubmissionError: a command fails; what it printed on standard error is above it.
    """
    from medgym_offline.leaderboard.assets import LARGE, slim
    from medgym_offline.leaderboard.submission import read_submission

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
    moved = slim(entry.submission, read_submission(entry.submission).entry, LARGE if limit is None else limit)
    say(f"{entry.label}: verified" + (f"; {len(moved)} policy files moved to {moved[0].parent}" if moved else ""))
    return True


def _forget_lost(entry: SeedEntry) -> None:
    """Steps whose outcome was removed since, such as an entry of a board that was emptied, are to be done again."""
    packed = entry.submission / "entry.json"
    if not packed.is_file():
        (entry.work / "submitted").unlink(missing_ok=True)
    known = json.loads(packed.read_text("utf-8"))["id"] if packed.is_file() else None
    verified = {e["id"] for e in read_board(entry.board) if e["verification"] is not None}
    if known not in verified or not (entry.work / "submitted").exists():
        (entry.work / "verified").unlink(missing_ok=True)


def _readme(entry: SeedEntry) -> str:
    commands = "\n".join(f"medgym-offline {shlex.join(argv)}" for _, argv in entry.steps)
    return (
        f"# {entry.label}\n\nMade by `medgym-offline leaderboard seed`, with these commands:\n\n"
        f"```bash\n{commands}\n```\n\nPolicy files that are named in entry.json and not here are kept by their sha256, "
        "or trained again by `leaderboard verify --retrain` (docs/leaderboard.md).\n"
    )
