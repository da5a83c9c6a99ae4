"""behavior train: the policies that make the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from medgym_offline.commands import common
from medgym_offline.patients import NEW_PEOPLE

__all__ = ["register"]


def behavior_train(
    bank: common.Bank = "",
    scope: Annotated[
        str,
        typer.Option(
            help="ind, pop, dr, ind-scratch, oracle; for new people, with --split train: clu, context; "
            "early-stopped: ind-medium, pop-medium, dr-replay-25 (-50, -75); several separated by commas; all: "
            "whatever ships with a bank, in both timings."
        ),
    ] = "ind",
    timing: Annotated[str, typer.Option(help="adaptive, fixed, or both separated by a comma.")] = "adaptive",
    seed: Annotated[int | None, typer.Option(min=0, help="Root seed (default: the recipe's).")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of policies.")] = Path("runs/behaviors"),
    patients: common.Patients = None,
    split: common.Split = None,
    record: common.Record = 1,
    hours: common.Hours = None,
    view: common.View = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe (.toml); default: the release's, of the disease.")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Updates of every scope (default: the recipe's).")] = None,
    engine: Annotated[str, typer.Option(help="local (this process), process (all local cores) or ray.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Jobs at a time (default: every core).")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, HOST:PORT (default: one started here).")] = None,
    device: common.Device = "cpu",
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from --output, or start again.")] = True,
    half: Annotated[bool, typer.Option("--half", help="Store weights in float16: half the size.")] = False,
) -> None:
    """Train behavior policies of a bank, all patients at once. A killed run goes on where it was.

    Example: medgym-offline behavior train --bank sepsis-v0 --scope ind --timing adaptive --engine process
    """
    from medgym_offline.online.behavior import EngineOptions, train_behavior_files
    from medgym_offline.online.config import RELEASE, SCOPES, behavior_path, load_recipe
    from medgym_offline.people import people_of
    from medgym_offline.simulators import load_simulators

    asked = [(s, t) for t in common.parse_list(timing) for s in common.parse_list(scope)]
    wanted = list(RELEASE) if scope == "all" else asked
    if not wanted:
        raise typer.BadParameter("name at least one scope and one timing")
    # Everything that can be wrong is looked at before anything is trained; what needs no bank, before it is read.
    for name, when in wanted:
        behavior_path("bank", name, when)
        common.require_train_people(name, split, patients)
    options = EngineOptions(engine, workers, address, device)
    loaded = load_simulators(bank or None)
    settings = load_recipe(recipe, loaded.disease.name)
    settings = replace(settings, seed=settings.seed if seed is None else seed)
    if updates is not None:
        own: Any = settings.settings
        changed: Any = {name: {**own.get(name, {}), "updates": updates} for name in SCOPES}
        settings = replace(settings, settings=changed, early_updates=min(updates, settings.early_updates))
    for _, when in wanted:
        settings.process(when, loaded.disease.name, view or "full")  # type: ignore[arg-type]
    side = loaded.patients if split is None else loaded.people(split)
    chosen = common.parse_patients(patients, side, f"bank {loaded.name!r}")
    shared = [people_of(s, loaded, record, hours, view=view or "full") for s in NEW_PEOPLE if s in dict(wanted)]
    paths = train_behavior_files(
        loaded if chosen is None else loaded.select(chosen),
        wanted,
        output,
        recipe=settings,
        checkpoints=output / "checkpoints" / loaded.name,
        options=options,
        fresh=not resume,
        half=half,
        split=split,
        view=view or "full",
        people=shared,
    )
    for path in paths:
        common.say(f"wrote {path}")
    extra = "" if chosen is None else f" --patients {','.join(chosen)}"
    if split is not None:
        new = split == "train" and wanted[0][0] in ("dr", *NEW_PEOPLE)
        extra = " --split test" if new else f" --split {split}{extra}"
    common.say(f"next: medgym-offline eval --policy {paths[0]} --bank {bank}{extra}")


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    behavior = typer.Typer(
        no_args_is_help=True, help="Policies that make datasets. Example: behavior train --bank sepsis-v0"
    )
    behavior.command("train")(behavior_train)
    app.add_typer(behavior, name="behavior")
