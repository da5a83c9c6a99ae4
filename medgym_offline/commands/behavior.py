"""behavior {train, train-all}: the policies that make the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medgym_offline.commands import completion
from medgym_offline.commands.common import (
    Address,
    Bank,
    Device,
    Engine,
    Patients,
    Resume,
    Workers,
    parse_list,
    parse_patients,
    say,
)
from medgym_offline.errors import unknown_name

__all__ = ["register"]

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for policies and checkpoints.")]
Recipe = Annotated[
    Path | None,
    typer.Option(
        "--recipe", help="Recipe (.toml); default: the release's, <disease>-behaviors.toml or else behaviors.toml."
    ),
]
Half = Annotated[bool, typer.Option("--half", help="Store the policies in float16: half the size, weights rounded.")]
Updates = Annotated[
    int | None, typer.Option("--updates", min=1, help="Updates of every scope (default: the recipe's).")
]


def _train(
    bank: str,
    wanted: Sequence[tuple[str, str]],
    output: Path,
    patients: str | None,
    recipe: Path | None,
    changes: dict[str, object],
    updates: int | None,
    engine: tuple[str, int | None, str | None, str],
    resume: bool,
    half: bool,
) -> None:
    """Train the (scope, timing) pairs `wanted` and print what was written."""
    from medgym_offline.online.behavior import EngineOptions, train_behavior_files
    from medgym_offline.online.config import ALGORITHMS
    from medgym_offline.online.recipe import SCOPES, behavior_path, load_recipe
    from medgym_offline.simulators import load_simulators

    # Everything that can be wrong is looked at before anything is trained; what needs no bank, before it is read.
    for scope, timing in wanted:
        behavior_path("bank", scope, timing)
    options = EngineOptions(*engine)
    options.check()
    if (algorithm := changes.get("algorithm")) is not None and algorithm not in ALGORITHMS:
        raise unknown_name("algorithm", str(algorithm), ALGORITHMS)
    if recipe is not None:
        load_recipe(recipe)
    loaded = load_simulators(bank or None)
    settings = load_recipe(recipe, loaded.disease.name)
    if updates is not None:
        own = {str(name): dict(values) for name, values in settings.settings.items()}
        changes["settings"] = {name: {**own.get(name, {}), "updates": updates} for name in SCOPES}
        changes["early_updates"] = min(updates, settings.early_updates)
    settings = replace(settings, **changes)  # type: ignore[arg-type]
    for _, timing in wanted:
        settings.process(timing, loaded.disease.name)  # type: ignore[arg-type]
    chosen = parse_patients(patients, loaded.patients, f"bank {loaded.name!r}")
    simulators = loaded if chosen is None else loaded.select(chosen)
    paths = train_behavior_files(
        simulators,
        wanted,
        output,
        recipe=settings,
        checkpoints=output / "checkpoints" / loaded.name,
        options=options,
        fresh=not resume,
        half=half,
    )
    for path in paths:
        say(f"wrote {path}")
    extra = "" if chosen is None else f" --patients {','.join(chosen)}"
    say(f"next: medgym-offline eval --policy {paths[0]} --bank {bank}{extra}")


def behavior_train(
    bank: Bank = "",
    scope: Annotated[
        str,
        typer.Option(
            "--scope",
            help="ind, pop, dr, ind-scratch, oracle; early-stopped: ind-medium, pop-medium, dr-replay-25 (-50, -75); "
            "several separated by commas.",
            autocompletion=completion.several_of(*completion.BEHAVIORS),
        ),
    ] = "ind",
    timing: Annotated[
        str,
        typer.Option(
            "--timing",
            help="adaptive, fixed, or both separated by a comma.",
            autocompletion=completion.several_of("adaptive", "fixed"),
        ),
    ] = "adaptive",
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm",
            help="Default: the recipe's (trpo-lag).",
            autocompletion=completion.one_of(*completion.ONLINE_ALGORITHMS),
        ),
    ] = None,
    decisions: Annotated[
        int | None, typer.Option("--decisions", min=1, help="Budget K (default: the recipe's).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Root seed (default: the recipe's).")] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", min=0, help="Early stop after so many updates without a better return; 0: never."),
    ] = None,
    output: Output = Path("runs/behaviors"),
    patients: Patients = None,
    recipe: Recipe = None,
    updates: Updates = None,
    engine: Engine = "local",
    workers: Workers = None,
    address: Address = None,
    device: Device = "cpu",
    resume: Resume = True,
    half: Half = False,
) -> None:
    """Train behavior policies of a bank, all patients at once. A killed run goes on where it was.

    Example: medgym-offline behavior train --bank sepsis-v0 --scope ind --timing adaptive --engine process
    """
    given = {"algorithm": algorithm, "decisions": decisions, "seed": seed, "patience": patience}
    changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    wanted = [(s, t) for t in parse_list(timing) for s in parse_list(scope)]
    if not wanted:
        raise typer.BadParameter("name at least one scope and one timing")
    where = (engine, workers, address, device)
    _train(bank, wanted, output, patients, recipe, changes, updates, where, resume, half)


def behavior_train_all(
    bank: Bank = "",
    output: Output = Path("runs/behaviors"),
    patients: Patients = None,
    recipe: Recipe = None,
    updates: Updates = None,
    engine: Engine = "process",
    workers: Workers = None,
    address: Address = None,
    device: Device = "cpu",
    resume: Resume = True,
    half: Half = False,
) -> None:
    """Train every behavior policy that ships with a bank: ind, pop, dr in both timings, and the early-stopped ones.

    Example: medgym-offline behavior train-all --bank sepsis-v0 --output runs/behaviors
    """
    from medgym_offline.online.recipe import RELEASE

    _train(bank, RELEASE, output, patients, recipe, {}, updates, (engine, workers, address, device), resume, half)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    behavior = typer.Typer(
        no_args_is_help=True, help="Policies that generate the datasets. Example: behavior train --bank sepsis-v0"
    )
    behavior.command("train")(behavior_train)
    behavior.command("train-all")(behavior_train_all)
    app.add_typer(behavior, name="behavior")
