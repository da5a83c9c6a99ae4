"""The demo: the product's whole chain on a handful of patients of two diseases, in minutes, on a laptop.

dataset -> DQN, CQL, GCQL (Ind and Pop) -> evaluation in two worlds -> report, results, leaderboard entries
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.files import shown_path
from medgym_offline.threads import one_thread

if TYPE_CHECKING:
    from medgym_offline.datasets import Recipe, Transitions
    from medgym_offline.evaluation import Evaluation
    from medgym_offline.simulators import SimulatorBank

__all__ = ["run_demo"]

DATASETS = (f"medgym/{DEFAULT}-ind-v0", "medgym/diabetes-ind-v0")
"""Simulators fitted to real patients, and patients whose truth is published."""
ALGORITHMS = ("dqn", "cql", "gcql")
SCOPES = ("ind", "pop")
BASELINES = ("clinician", "random", "zero")


def run_demos(output: str | Path = "runs/demo", patients: int = 5, seed: int = 0) -> Path:
    """Run the chain for every disease of :data:`DATASETS`, each in a folder of `output`, and write a page on both.

    Args:
        output: Folder; `report.html` in it leads to `<disease>/report.html`.
        patients: Of each bank, as in :func:`run_demo`.
        seed: Of the training.

    Returns:
        The page.
    """
    from medgym_offline.datasets import find_recipe
    from medgym_offline.evaluation.tables import comparison_table
    from medgym_offline.reports.blocks import Link, Page, Section, Table
    from medgym_offline.reports.page import write_page
    from medgym_offline.simulators import load_simulators

    folder, started = Path(output).absolute(), time.monotonic()
    links, sections = [], []
    for dataset in DATASETS:
        disease = load_simulators(find_recipe(dataset).bank).disease
        print(f"\n== {disease.label} ==", flush=True)
        evaluations = run_demo(folder / disease.name, patients, seed, recipe=dataset)
        pages = ("report.html", "leaderboard/index.html")
        links.append([disease.label, dataset, *(Link(page, f"{disease.name}/{page}") for page in pages)])
        sections.append(Section(f"In {disease.label}", comparison_table(evaluations)))
    where = Table("One folder per disease", ("Disease", "Dataset", "Report", "Leaderboard"), links)
    page = Page(
        "Demo",
        (Section("Reports", where), *sections),
        f"The whole chain on {patients} patients of each disease, one seed of training: no evidence beyond them.",
    )
    found = write_page(folder / "report.html", page)
    print(f"\nAll in {time.monotonic() - started:.0f} s: {shown_path(found)}")
    return found


@one_thread()
def run_demo(
    output: str | Path = "runs/demo",
    patients: int = 5,
    seed: int = 0,
    *,
    recipe: str | Path = DATASETS[0],
    updates: int | None = None,
    episodes: int | None = None,
) -> dict[str, Evaluation]:
    """Run the chain and say what came out.

    Writes into `output`: `minari/` (the dataset), `policies/`, `results/<policy>/result.json`, `report.html`,
    `submissions/<policy>/`, `leaderboard.json` and `leaderboard/index.html`. A dataset already there is used again.

    Args:
        output: Folder.
        patients: Data are made of the bank's first so many, which are trained and evaluated on; a part of the dataset
            takes a fraction of the time of the whole.
        seed: Of the training.
        recipe: Dataset id, or the path of a recipe: another dataset, of a bank of your own.
        updates, episodes: Of training and evaluation; by default the quick profile's and the protocol's.

    Returns:
        The evaluations by name.

    Raises:
        MedGymError: the bank or its behavior policies are missing, or it has fewer patients.
    """
    from medgym_offline.datasets import find_recipe, load_dataset
    from medgym_offline.evaluation import print_evaluations, write_report
    from medgym_offline.simulators import load_simulators

    folder, started = Path(output).absolute(), time.monotonic()
    minari = folder / "minari"
    folder.mkdir(parents=True, exist_ok=True)
    source = find_recipe(recipe)
    bank = load_simulators(source.bank)
    chosen = list(bank.patient_index.resolve(patients))
    ids = [bank.patients[i] for i in chosen]
    with _stage("1/5 dataset"):
        data = load_dataset(_dataset(source, bank, chosen, minari), root=minari)
    with _stage("2/5 training"):
        learned = _train(data, ids, seed, updates, folder / "policies")
    with _stage("3/5 evaluation"):
        policies = {"behavior": _behavior(source.behavior), **{name: name for name in BASELINES}, **learned}
        evaluations = _evaluate(policies, data, bank.world(source.world), ids, episodes, folder / "results")
    with _stage("4/5 report"):
        write_report(evaluations, folder / "report.html")
    with _stage("5/5 leaderboard"):
        _leaderboard(evaluations, folder)
    print()
    print_evaluations(evaluations)
    print(f"\nDone in {time.monotonic() - started:.0f} s. What to do next:")
    for line in _next(folder, source.id):
        print(f"  {line}")
    return evaluations


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    print(f"{name} ...", flush=True)
    started = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def _behavior(name: str) -> str:
    """What `evaluate` calls the policy that a recipe calls `name`."""
    from medgym_offline.datasets.behaviors import SCOPES as SHIPPED

    return f"behavior:{name}" if name in SHIPPED else name


def _dataset(source: Recipe, bank: SimulatorBank, chosen: list[int], root: Path) -> str:
    """Generate the dataset of the chosen patients, unless it is there, of this very recipe and bank; its id."""
    from medgym_offline.datasets import dataset_folder, generate
    from medgym_offline.datasets.behaviors import recipe_behavior
    from medgym_offline.datasets.forms import read_manifest
    from medgym_offline.datasets.manifest import making
    from medgym_offline.datasets.trust import identity_of

    name, _, version = source.id.rpartition("-v")
    part = source.id if len(chosen) == len(bank) else f"{name}-{len(chosen)}-v{version}"
    path = dataset_folder(part, root) / "data" / "manifest.json"
    if path.is_file():
        manifest = read_manifest(path)
        behavior = recipe_behavior(source, bank).to_json()
        if manifest["identity"] == identity_of(making(source, source, chosen, bank, behavior)):
            print(f"  {part} is there already: {manifest['episodes']:,} episodes")
            return part
    made = generate(source, root=root, patients=chosen, output_id=part)
    print(f"  {made.id}: {made.episodes:,} episodes, {made.steps:,} steps of {len(chosen)} patients")
    return part


def _train(data: Transitions, ids: list[str], seed: int, updates: int | None, folder: Path) -> dict[str, str]:
    from medgym_offline.commands.learn import fit, write_log
    from medgym_offline.offline import OfflineConfig

    config = OfflineConfig() if updates is None else OfflineConfig(updates=updates)
    written = {}
    for algorithm in ALGORITHMS:
        for scope in SCOPES:
            path = folder / f"{algorithm}-{scope}-seed{seed}.safetensors"
            log, _ = fit(path, algorithm, data, scope=scope, seed=seed, config=config, patients=ids)
            write_log(path.with_suffix(".csv"), log)
            written[f"{algorithm}-{scope}"] = str(path)
    return written


def _evaluate(
    policies: Mapping[str, str],
    data: Transitions,
    bank: SimulatorBank,
    ids: list[str],
    episodes: int | None,
    folder: Path,
) -> dict[str, Evaluation]:
    from medgym_offline.commands.judge import keep
    from medgym_offline.evaluation import evaluate

    # Where the data come from, and a world that nobody learned in.
    worlds = [world for world in dict.fromkeys((bank.current_world, "crossfit")) if world in bank.worlds]
    evaluations = {}
    for name, policy in policies.items():
        evaluations[name] = evaluate(
            policy,
            timing=data.timing,
            patients=ids,
            episodes=episodes,
            bank=bank,
            worlds=worlds,
            dataset=data,
            progress=True,
            workers=None,
        )
        keep(evaluations[name], policy, folder / name)
    return evaluations


def _leaderboard(evaluations: Mapping[str, Evaluation], folder: Path) -> None:
    from medgym_offline.leaderboard import add_entry, build_page, read_board, submit

    board = folder / "leaderboard.json"
    board.unlink(missing_ok=True)  # this run's entries only
    for name in evaluations:
        made = submit([folder / "results" / name], name, folder / "submissions" / name)
        add_entry(made.entry, board)
    build_page(read_board(board), folder / "leaderboard")


def _next(folder: Path, dataset: str) -> Sequence[str]:
    shown = shown_path(folder)
    # Inside a virtual environment that is not activated, the bare name would not be found.
    command = "medgym-offline"
    if shutil.which(command) is None:
        command = str(shown_path(Path(sys.executable).parent / command))
    minari = f"MINARI_DATASETS_PATH={shown / 'minari'}"
    return (
        f"look at             {shown / 'report.html'} and {shown / 'leaderboard' / 'index.html'}",
        f"re-execute an entry {minari} {command} leaderboard verify {shown / 'submissions' / 'gcql-ind'}",
        f"all patients        {minari} {command} train gcql --dataset {dataset} --seeds 3 -o runs/gcql --eval",
        "your own algorithm  examples/own_policy_torch.py",
    )


def demo_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything the demo makes.")] = Path(
        "runs/demo"
    ),
    patients: Annotated[int, typer.Option(min=1, help="How many patients of each disease (the bank's first N).")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
) -> None:
    """Run the whole chain on a handful of patients of two diseases: dataset, training, evaluation, report, leaderboard.

    Example: medgym-offline demo --output runs/demo
    """
    run_demos(output, patients, seed)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("demo")(demo_command)
