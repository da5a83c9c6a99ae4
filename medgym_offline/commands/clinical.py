"""cohort {build, card} and simulators {fit, info, audit}: from clinical records to a bank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from medgym_offline.commands import common
from medgym_offline.diseases.registry import DEFAULT

__all__ = ["COMMANDS"]

CohortTable = Annotated[Path, Argument(metavar="COHORT", help="A table (.parquet), as `cohort build` writes.")]
DiseaseName = Annotated[str, Option(help="Whose variables and treatments are read.")]
Recipe = Annotated[Path | None, Option(help="Bank recipe (.toml); default: the release's settings.")]
Chosen = Annotated[int | None, Option(min=1, help="How many stays, chosen by the coverage rule (default: all).")]


def cohort_build(
    sources: Annotated[
        list[Path], Argument(metavar="SOURCE...", help="Folders of clinical tables, or cohort tables (.parquet).")
    ],
    output: Annotated[Path, Option("--output", "-o", help="The cohort table to write (.parquet).")],
    patients: Chosen = None,
    disease: DiseaseName = DEFAULT,
    json: common.Json = False,
) -> None:
    """Read clinical records, check them, and write one cohort table; says what was rejected and why.

    Example: medgym-offline cohort build mimic-iii-demo-1.4/raw_subset --output runs/cohort.parquet
    """
    from medgym_offline.cohorts import build_cohort, definition_named

    summary = build_cohort(sources, output, definition_named(disease, "--disease"), patients)
    if json:
        common.print_json(summary.to_json())
        return
    for line in summary.lines():
        common.say(line)
    common.say(f"next: medgym-offline simulators fit {output} --output runs/bank.safetensors")


def cohort_card(
    table: CohortTable,
    output: Annotated[Path | None, Option("--output", "-o", help="Markdown file (default: print it).")] = None,
) -> None:
    """Describe a cohort in numbers: stays, gaps, missing values, treatments, rejections, license.

    Example: medgym-offline cohort card runs/cohort.parquet --output runs/cohort.md
    """
    from medgym_offline import cohorts
    from medgym_offline.files import write_text

    card = cohorts.cohort_card(cohorts.Cohort.read(table))
    if output is not None:
        write_text(output, card)
    common.say(card if output is None else f"written to {output}")


def simulators_fit(
    table: CohortTable,
    output: Annotated[Path, Option("--output", "-o", help="The bank to write (.safetensors).")],
    recipe: Recipe = None,
    patients: Chosen = None,
    name: Annotated[str | None, Option(help="Name of the bank (default: the output's stem).")] = None,
) -> None:
    """Fit a simulator to every stay of a cohort table: the population first, then each patient.

    Example: medgym-offline simulators fit runs/cohort.parquet --patients 16 --output runs/bank.safetensors
    """
    from dataclasses import replace

    from medgym_offline.cohorts import Cohort
    from medgym_offline.errors import BankError
    from medgym_offline.simulators.build import BankRecipe, build_bank, cohort_provenance, read_recipe

    if output.suffix != ".safetensors":
        raise BankError(f"{output}: a bank is a .safetensors file; choose such an --output")
    cohort = Cohort.read(table)
    # The file's name, after the cohort's disease.
    begin = f"{cohort.definition.disease}-"
    named = begin + output.stem.removeprefix(begin)
    settings = BankRecipe(name=named, patients=0) if recipe is None else read_recipe(recipe)
    settings = replace(settings, name=name or settings.name, patients=patients or settings.patients)
    bank = build_bank(cohort, settings, cohort_provenance(cohort, table))
    bank.save(output)
    common.say(f"{output}: {len(bank)} patients, worlds {', '.join(bank.worlds)}, {output.stat().st_size / 1e6:.1f} MB")
    common.say(f"next: medgym-offline behavior train --bank {output}")


def simulators_info(bank: common.BankArgument, json: common.Json = False) -> None:
    """Show what a bank holds and where it came from.

    Example: medgym-offline simulators info sepsis-v0
    """
    from medgym_offline.simulators import load_simulators

    loaded = load_simulators(bank)
    names = ("name", "worlds", "backend", "state_dim", "content_hash")
    facts = {name: getattr(loaded, name) for name in names} | {"patients": len(loaded)}
    if json:
        common.print_json(facts | {"patient_ids": list(loaded.patients), "metadata": loaded.metadata})
        return
    facts |= {"license": loaded.metadata.get("license", ""), "patients": ", ".join(loaded.patients)}
    for key, value in facts.items():
        common.say(f"{key.replace('_', ' ')}: {', '.join(value) if isinstance(value, tuple) else value}")


def simulators_audit(
    bank: common.BankArgument,
    output: Annotated[Path, Option("--output", "-o", help="Folder for audit.html and audit.json.")],
    cohort: Annotated[Path | None, Option(help="Its cohort table: adds forecasts and rollouts.")] = None,
) -> None:
    """Check a bank before anyone trusts it: solution map, fit, treatment effects, bounds.

    Example: medgym-offline simulators audit sepsis-v0 --cohort runs/cohort.parquet --output runs/audit
    """
    from medgym_offline.cohorts import Cohort
    from medgym_offline.simulators import load_simulators
    from medgym_offline.simulators.audit import audit

    table = None if cohort is None else Cohort.read(cohort)
    # Raises after writing if a check that must hold does not.
    facts = audit(load_simulators(bank), output, cohort=table)
    common.print_table(("holds", "check", "found"), [("yes", c["check"], c["found"]) for c in facts["hard_checks"]])
    rows = [("met" if g["met"] else "missed", g["goal"], g["found"]) for g in facts["goals"]]
    common.print_table(("", "goal", "found"), rows)
    common.say(f"\nwritten to {output}")


COMMANDS = (cohort_build, cohort_card, simulators_fit, simulators_info, simulators_audit)
