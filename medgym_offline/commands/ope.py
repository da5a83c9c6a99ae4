"""ope: how well a dataset alone tells what policies are worth."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from medgym_offline.commands.common import (
    Dataset,
    Json,
    MaybeBank,
    Patients,
    Worlds,
    ask_patients,
    parse_list,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from medgym_offline.evaluation.ope import OpeAudit

__all__ = ["print_audit", "register"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def print_audit(found: OpeAudit) -> None:
    """Two tables: values per policy, and scores per estimator and world."""
    info = found.info
    gamma = info["settings"]["gamma"]
    discount = "undiscounted" if gamma == 1 else f"discounted by {gamma:g} per unit of time"
    worlds, names = list(found.truth), list(found.estimates)
    title = (
        f"{info['dataset']}: {len(found.patients)} patients x {info['logged_episodes']} logged episodes; returns "
        f"{discount}, of policies perturbed by N(0, {info['perturbation']:g}^2)"
    )
    columns = ("policy", *(f"true, {w}" for w in worlds), *names, "ESS")
    rows = []
    for i, policy in enumerate(found.policies):
        true = (f"{found.truth[w][i].mean():.2f} ± {found.error[w][i]:.2f}" for w in worlds)
        guessed = (f"{found.estimates[name][i].mean():.2f}" for name in names)
        ess = median(found.sample_size[i])
        rows.append((policy, *true, *guessed, f"{ess:.1f}"))
    print_table(columns, rows, title)
    if worlds:
        keys = list(found.scores[worlds[0]][names[0]])
        print_table(
            ("truth", "estimator", *(key.replace("_", " ") for key in keys)),
            [(w, name, *(_number(found.scores[w][name][key]) for key in keys)) for w in worlds for name in names],
            "Estimates against the truth",
        )
    for warning in found.warnings:
        say(f"warning: {warning}")


def ope_command(
    dataset: Dataset,
    policy: Annotated[
        list[str],
        typer.Option("--policy", help="Policy file, or zero, max, random, clinician, behavior; repeat for several."),
    ],
    bank: MaybeBank = None,
    patients: Patients = None,
    episodes: Annotated[int, typer.Option("--episodes", min=2, help="Monte-Carlo episodes per patient.")] = 50,
    worlds: Worlds = None,
    gamma: Annotated[
        float, typer.Option("--gamma", help="Discount per unit of time, in (0, 1]; 1 is undiscounted.")
    ] = 1.0,
    updates: Annotated[int, typer.Option("--updates", min=1, help="Gradient steps of fitted Q evaluation.")] = 2000,
    min_ess: Annotated[
        float, typer.Option("--min-ess", min=1.0, help="Warn below this effective sample size (episodes).")
    ] = 10.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of networks and episodes.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for ope.json.")] = None,
    json: Json = False,
) -> None:
    """Estimate policies from a dataset (FQE, WIS, doubly robust, simulator) and compare with their true returns.

    Example: medgym-offline ope --dataset medgym/sepsis-ind-v0 --policy random --policy zero --policy behavior
    """
    from medgym_offline.evaluation.ope import OpeSettings, audit_dataset
    from medgym_offline.evaluation.ope.fqe import FqeConfig
    from medgym_offline.files import write_json

    settings = OpeSettings(gamma, episodes, seed, min_ess, FqeConfig(updates=updates))
    found = audit_dataset(
        dataset,
        policy,
        bank=bank,
        patients=ask_patients(patients),
        worlds=None if worlds is None else parse_list(worlds),
        settings=settings,
        progress=True,
    )
    if output is not None:
        write_json(output / "ope.json", found.to_dict())
    if json:
        print_json(found.to_dict())
        return
    print_audit(found)
    if output is not None:
        say(f"\nwrote {output / 'ope.json'}")


def register(app: typer.Typer) -> None:
    """Add this module's command to `app`."""
    app.command("ope")(ope_command)
