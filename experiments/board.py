"""The release's own entries on the leaderboard, made by the commands that a contributor would type.

    python -m experiments.board                 # trains, evaluates, submits and verifies every entry

leaderboard/seed_entries.toml names the entries. Each command runs in a process of its own, and only while what it
makes is missing, so that an interrupted run goes on; delete an entry's folders to make it again. The commands are kept
in the README of each submission.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import typer

from medgym_offline.datasets import dataset_info
from medgym_offline.diseases.registry import disease, disease_of_id
from medgym_offline.errors import SubmissionError
from medgym_offline.files import read_toml, release_folder, write_text
from medgym_offline.leaderboard import default_board, read_board
from medgym_offline.leaderboard.entry import slug

BOARD = default_board()
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
    for dataset, method in product(recipe["datasets"], recipe["entries"]):
        if dataset in method.get("datasets", [dataset]):
            label = f"{slug(method['name'])}-{dataset.rpartition('/')[2]}-{method.get('scope', '')}".removesuffix("-")
            yield label, {**recipe, **method, "dataset": dataset}


def steps(label: str, entry: dict[str, Any], work: Path) -> Iterator[tuple[Path, list[str]]]:
    """(What exists once the step is done, arguments of `medgym-offline`), in order."""
    info, folder, submission = dataset_info(entry["dataset"]), work / label, BOARD.parent / "submissions" / label
    data = ["--dataset", entry["dataset"]]
    bank = ["--bank", info.bank or disease(disease_of_id(entry["dataset"])).bank]
    policies = {folder / "result": [str(entry.get("policy")), "--timing", info.timing]}
    if algorithm := entry.get("algorithm"):
        files = [folder / f"{algorithm}-{entry['scope']}-seed{n}.safetensors" for n in range(entry["seeds"])]
        train = ["train", algorithm, *data, "--scope", entry["scope"], "--seeds", str(entry["seeds"]), *entry["train"]]
        yield files[-1].with_suffix(".compute.json"), [*train, "--output", str(folder)]
        policies = {file.with_suffix(""): [str(file)] for file in files}
    for result, policy in policies.items():
        yield result / "result.json", ["eval", "--policy", *policy, *data, *bank, "--output", str(result)]
    named = ["--name", entry["name"], "--authors", "; ".join(entry["authors"])]
    packed = submission / "entry.json"
    yield packed, ["submit", *map(str, policies), *named, "--output", str(submission)]
    known = json.loads(packed.read_text("utf-8"))["id"]
    if not any(one.id == known and one.verification for one in read_board(BOARD)):
        yield folder / "absent", ["leaderboard", "verify", str(submission), *bank, "--file", str(BOARD)]


def make(label: str, entry: dict[str, Any], work: Path) -> None:
    """Run what is left of an entry's commands; ends the program where one fails."""
    commands = []
    for made, argv in steps(label, entry, work):
        commands.append(f"medgym-offline {shlex.join(argv)}")
        if made.exists():
            continue
        print(f"{label}: {commands[-1]}", flush=True)
        ended = subprocess.run([sys.executable, "-m", "medgym_offline", *argv], stdout=subprocess.DEVNULL, check=False)
        if ended.returncode:
            sys.exit(f"{label}: the command failed; run it to see why, and this again to go on")
        if argv[0] == "leaderboard":
            text = README.format(label=label, commands="\n".join(commands))
            write_text(BOARD.parent / "submissions" / label / "README.md", text)


def main(work: Path = Path("runs/board")) -> None:
    """Make what is missing of every entry: policies and results in WORK, submissions beside the board."""
    for label, entry in entries(read_toml(release_folder("leaderboard") / "seed_entries.toml", SubmissionError)):
        make(label, entry, work)


if __name__ == "__main__":
    typer.run(main)
