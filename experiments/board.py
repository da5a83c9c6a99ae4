"""The release's own entries on the leaderboard, made by the commands that a contributor would type.

    python -m experiments.board                 # trains, evaluates, submits and verifies every entry

leaderboard/seed_entries.toml names the entries. Each command runs in a process of its own, and only while what it
makes is missing, so that an interrupted run goes on; delete an entry's folders to make it again. The commands are kept
in the README of each submission.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgym_offline.datasets import dataset_info
from medgym_offline.diseases.registry import disease, disease_of_id
from medgym_offline.errors import SubmissionError
from medgym_offline.files import read_toml, release_folder, write_text
from medgym_offline.leaderboard import default_board, read_board
from medgym_offline.leaderboard.entry import slug

RECIPE = release_folder("leaderboard") / "seed_entries.toml"
README = """# {label}

Made by `python -m experiments.board`, with these commands:

```bash
{commands}
```

A policy file that is named in entry.json and not here is trained again by `leaderboard verify --retrain`
(docs/leaderboard.md).
"""


def entries(recipe: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(Name of its submission's folder, what is made) of every entry."""
    for dataset in recipe["datasets"]:
        for method in recipe["entries"]:
            if dataset not in method.get("datasets", [dataset]):
                continue
            for scope in method.get("scopes", ("ind",)) if "algorithm" in method else ("",):
                label = f"{slug(method['name'])}-{dataset.rpartition('/')[2]}-{scope}".removesuffix("-")
                yield label, {**recipe, **method, "dataset": dataset, "scope": scope}


def steps(label: str, entry: dict[str, Any], work: Path, board: Path) -> Iterator[tuple[Path, list[str]]]:
    """(What exists once the step is done, arguments of `medgym-offline`), in order."""
    info, folder, submission = dataset_info(entry["dataset"]), work / label, board.parent / "submissions" / label
    data = ["--dataset", entry["dataset"]]
    bank = ["--bank", entry.get("bank") or info.bank or disease(disease_of_id(entry["dataset"])).bank]
    policies = {folder / "result": [str(entry.get("policy")), "--timing", info.timing]}
    if algorithm := entry.get("algorithm"):
        suffix = ".pt" if algorithm.startswith("d3rlpy") else ".safetensors"
        files = [folder / f"{algorithm}-{entry['scope']}-seed{n}{suffix}" for n in range(entry["seeds"])]
        train = ["train", algorithm, *data, "--scope", entry["scope"], "--seeds", str(entry["seeds"]), *entry["train"]]
        yield files[-1].with_suffix(".compute.json"), [*train, "--output", str(folder)]
        policies = {file.with_suffix(""): [str(file)] for file in files}
    for result, policy in policies.items():
        evaluate = ["eval", "--policy", *policy, *data, *bank, *entry["evaluate"]]
        yield result / "result.json", [*evaluate, "--output", str(result)]
    named = ["--name", entry["name"], "--authors", "; ".join(entry["authors"])]
    packed = submission / "entry.json"
    yield packed, ["submit", *map(str, policies), *named, "--output", str(submission)]
    known = json.loads(packed.read_text("utf-8"))["id"]
    if not any(one.id == known and one.verification for one in read_board(board)):
        yield folder / "absent", ["leaderboard", "verify", str(submission), *bank, "--file", str(board)]


def make(label: str, entry: dict[str, Any], work: Path, board: Path) -> None:
    """Run what is left of an entry's commands; ends the program where one fails."""
    commands = []
    for product, argv in steps(label, entry, work, board):
        commands.append(f"medgym-offline {shlex.join(argv)}")
        if product.exists():
            continue
        print(f"{label}: {commands[-1]}", flush=True)
        ended = subprocess.run([sys.executable, "-m", "medgym_offline", *argv], stdout=subprocess.DEVNULL, check=False)
        if ended.returncode:
            sys.exit(f"{label}: the command failed; run it to see why, and this again to go on")
        if argv[0] == "leaderboard":
            text = README.format(label=label, commands="\n".join(commands))
            write_text(board.parent / "submissions" / label / "README.md", text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--work", type=Path, default=Path("runs/board"), help="policies and results")
    parser.add_argument("--board", type=Path, default=default_board(), help="beside it lie the submissions")
    options = parser.parse_args()
    for label, entry in entries(read_toml(options.recipe, SubmissionError)):
        make(label, entry, options.work, options.board)


if __name__ == "__main__":
    main()
