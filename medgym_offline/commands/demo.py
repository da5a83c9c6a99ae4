"""The demo: the product's whole chain on a handful of patients of two diseases, in minutes, on a laptop.

dataset -> DQN, CQL, GCQL (Ind and Pop) -> evaluation in two worlds -> report, results, leaderboard entries
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from medgym_offline.compute import one_thread
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.files import shown_path

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation

__all__ = ["COMMANDS", "run_demo"]

DATASETS = (f"medgym/{DEFAULT}-ind-v0", "medgym/diabetes-ind-v0")
"""Simulators fitted to real patients, and patients whose truth is published."""
BASELINES = ("clinician", "random", "zero")


@one_thread()
def run_demo(
    output: Path,
    patients: int = 5,
    recipe: str | Path = DATASETS[0],
    updates: int | None = None,
    episodes: int | None = None,
) -> dict[str, Evaluation]:
    """Run the chain and say what came out.

    Writes into `output`: `minari/` (the dataset), `policies/`, `results/<policy>/result.json`, `report.html`,
    `submissions/<policy>/`, `leaderboard.json` and `leaderboard/index.html`.

    Args:
        output: Folder.
        patients: Data are made of the bank's first so many, which are trained and evaluated on; a part of the dataset
            takes a fraction of the time of the whole.
        recipe: Dataset id, or the path of a recipe: another dataset, of a bank of your own.
        updates, episodes: Of training and evaluation; by default the quick profile's and the protocol's.

    Returns:
        The evaluations by name.

    Raises:
        MedGymError: the bank or its behavior policies are missing, or it has fewer patients.
    """
    from medgym_offline.commands.judge import keep
    from medgym_offline.commands.learn import fit
    from medgym_offline.datasets import find_recipe, generate, load_dataset
    from medgym_offline.datasets.behaviors import SCOPES as SHIPPED
    from medgym_offline.evaluation import evaluate, print_evaluations, write_report
    from medgym_offline.leaderboard import add_entry, build_page, read_board, submit
    from medgym_offline.offline import OfflineConfig
    from medgym_offline.simulators import load_simulators

    folder, started = output.absolute(), time.monotonic()
    source = find_recipe(recipe)
    bank = load_simulators(source.bank).world(source.world)
    chosen = list(bank.patient_index.resolve(patients))
    ids, minari = [bank.patients[i] for i in chosen], folder / "minari"
    print("1/5 dataset", flush=True)
    name, _, version = source.id.rpartition("-v")
    part = source.id if len(chosen) == len(bank) else f"{name}-{len(chosen)}-v{version}"
    generate(source, root=minari, patients=chosen, output_id=part)
    data = load_dataset(part, root=minari)
    print("2/5 training", flush=True)
    policies = {"behavior": f"behavior:{source.behavior}" if source.behavior in SHIPPED else source.behavior}
    policies |= {name: name for name in BASELINES}
    config = OfflineConfig() if updates is None else OfflineConfig(updates=updates)
    for algorithm, scope in product(("dqn", "cql", "gcql"), ("ind", "pop")):
        path = folder / "policies" / f"{algorithm}-{scope}-seed0.safetensors"
        fit(path, algorithm, data, scope=scope, seed=0, config=config, patients=ids)
        policies[f"{algorithm}-{scope}"] = str(path)
    print("3/5 evaluation", flush=True)
    # Where the data come from, and a world that nobody learned in.
    worlds = [world for world in dict.fromkeys((bank.current_world, "crossfit")) if world in bank.worlds]
    asked: dict[str, Any] = {"timing": data.timing, "patients": ids, "episodes": episodes, "bank": bank}
    asked |= {"worlds": worlds, "dataset": data, "progress": True, "workers": None}
    with _datasets_in(minari):
        evaluations = {name: evaluate(policy, **asked) for name, policy in policies.items()}
    for name, policy in policies.items():
        keep(evaluations[name], policy, folder / "results" / name)
    print("4/5 report", flush=True)
    write_report(evaluations, folder / "report.html")
    print("5/5 leaderboard", flush=True)
    board = folder / "leaderboard.json"
    board.unlink(missing_ok=True)  # this run's entries only
    for name in evaluations:
        made = submit([folder / "results" / name], name, folder / "submissions" / name)
        add_entry(made.entry, board)
    build_page(read_board(board), folder / "leaderboard")
    print()
    print_evaluations(evaluations)
    shown, program = shown_path(folder), shown_path(Path(sys.executable).parent / "medgym-offline")
    command = f"MINARI_DATASETS_PATH={shown / 'minari'} {program}"
    print(f"""
Done in {time.monotonic() - started:.0f} s. What to do next:
  look at             {shown / "report.html"} and {shown / "leaderboard" / "index.html"}
  re-execute an entry {command} leaderboard verify {shown / "submissions" / "gcql-ind"}
  all patients        {command} train gcql --dataset {source.id} --seeds 3 -o runs/gcql --eval
  a policy of yours   {shown_path(Path(sys.executable))} -c "import medgym_offline as mgo; help(mgo.evaluate)\"""")
    return evaluations


@contextlib.contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    """Look datasets up in `folder`, as the commands do that are suggested at the end."""
    before = os.environ.copy()
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("MINARI_DATASETS_PATH")
        os.environ.update(before)


def demo_command(
    output: Annotated[Path, Option("--output", "-o", help="Folder for all of it.")] = Path("runs/demo"),
    patients: Annotated[int, Option(min=1, help="How many patients of each disease (the bank's first N).")] = 5,
) -> None:
    """Run the whole chain on a handful of patients of two diseases: dataset, training, evaluation, report, leaderboard.

    Example: medgym-offline demo --output runs/demo
    """
    from medgym_offline.datasets import find_recipe
    from medgym_offline.evaluation.tables import comparison_table
    from medgym_offline.reports.blocks import Link, Page, Section, Table, write_page
    from medgym_offline.simulators import load_simulators

    folder, links, sections = output.absolute(), [], []
    for dataset in DATASETS:
        disease = load_simulators(find_recipe(dataset).bank).disease
        print(f"\n== {disease.label} ==", flush=True)
        evaluations = run_demo(folder / disease.name, patients, dataset)
        pages = ("report.html", "leaderboard/index.html")
        links.append([disease.label, dataset, *(Link(page, f"{disease.name}/{page}") for page in pages)])
        sections.append(Section(f"In {disease.label}", comparison_table(evaluations)))
    where = Table("One folder per disease", ("Disease", "Dataset", "Report", "Leaderboard"), links)
    note = f"The whole chain on {patients} patients of each disease, one seed of training: no evidence beyond them."
    found = write_page(folder / "report.html", Page("Demo", (Section("Reports", where), *sections), note))
    print(f"\nAll in {shown_path(found)}")


COMMANDS = (demo_command,)
