"""study {online, offline, gcql}: many policies trained, scored in every world, and written down as one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgym_offline.commands import completion
from medgym_offline.commands.common import (
    Address,
    Device,
    Engine,
    Json,
    MaybeBank,
    Resume,
    Workers,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from medgym_offline.evaluation.report_tables import Table

__all__ = ["register"]


Record = Annotated[
    Path | None,
    typer.Option("--record", help="Maintainers: also write this path with .md and .json.gz behind it.", metavar="STEM"),
]


def study_online(
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="Name of a recipe (study-online, study-online-quick), or a .toml file.",
            autocompletion=completion.study_recipes,
        ),
    ] = "study-online",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for result.json, report.html, report.md, policies, work.")
    ] = Path("runs/study-online"),
    bank: MaybeBank = None,
    engine: Engine = "process",
    workers: Workers = None,
    address: Address = None,
    device: Device = "cpu",
    resume: Resume = True,
    record: Record = None,
    json: Json = False,
) -> None:
    """Reproduce the paper's online results: algorithms, Ind and Pop, adaptive and fixed, in every world of a bank.

    Example: medgym-offline study online --recipe study-online-quick --output runs/study-quick
    """
    from medgym_offline.files import write_text
    from medgym_offline.online.runs import EngineOptions
    from medgym_offline.studies.markdown import online_markdown
    from medgym_offline.studies.online import RESULT, run_online_study
    from medgym_offline.studies.page import write_study_page
    from medgym_offline.studies.recipe import load_study_recipe
    from medgym_offline.studies.record import record_study
    from medgym_offline.studies.tables import main_table

    options = EngineOptions(engine, workers, address, device)
    options.check()
    settings = load_study_recipe(recipe)
    if bank is not None:
        settings = replace(settings, bank=bank)
    result = run_online_study(settings, output, options=options, fresh=not resume)
    markdown = online_markdown(result)
    write_text(output / "report.md", markdown)
    if record is not None:
        record_study(result, markdown, record)
    page = write_study_page(result, output / "report.html")
    if json:
        print_json({**result, "rows": list(result["rows"].values())})
        return
    _show(result, [main_table(result, result["headline_world"])])
    say(f"\nwrote {output / RESULT}, {page} and {output / 'report.md'}")


def _show(result: dict[str, Any], tables: Sequence[Table]) -> None:
    from medgym_offline.studies.tables import cell_text, claim_cell

    head = result["headline_world"]
    for table in tables:
        rows = [[cell_text(cell) for cell in row] for row in table.rows]
        print_table(table.heads, rows, title=table.caption)
        say()
    claims = [
        [c["requirement"], c["verdict"], claim_cell(c["worlds"][head], c["measure"])[0], c["measure"]]
        for c in result["claims"]
    ]
    print_table(["What must hold", "verdict", head, "measure"], claims, title=f"{head.capitalize()} world")
    for line in result["departures"]:
        say(f"note: {line}")


def study_offline(
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="Name of a recipe (study-offline, or with -twin, -pop, -quick behind it), or a .toml file.",
            autocompletion=completion.study_recipes,
        ),
    ] = "study-offline",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for result.json, report.html, report.md, work.")
    ] = Path("runs/study-offline"),
    engine: Engine = "process",
    workers: Workers = None,
    address: Address = None,
    device: Device = "cpu",
    resume: Resume = True,
    record: Record = None,
    json: Json = False,
) -> None:
    """Reproduce the paper's offline results: algorithms, Ind and Pop, adaptive and fixed, in every world of a bank.

    Example: medgym-offline study offline --recipe study-offline-quick --output runs/study-offline-quick
    """
    from medgym_offline.files import write_text
    from medgym_offline.online.runs import EngineOptions
    from medgym_offline.studies.markdown import offline_markdown
    from medgym_offline.studies.offline import load_offline_recipe, run_offline_study
    from medgym_offline.studies.offline_page import write_offline_page
    from medgym_offline.studies.offline_tables import table7
    from medgym_offline.studies.online import RESULT
    from medgym_offline.studies.record import record_study

    options = EngineOptions(engine, workers, address, device)
    options.check()
    result = run_offline_study(load_offline_recipe(recipe), output, options=options, fresh=not resume)
    markdown = offline_markdown(result)
    write_text(output / "report.md", markdown)
    if record is not None:
        record_study(result, markdown, record)
    page = write_offline_page(result, output / "report.html")
    if json:
        print_json({**result, "rows": list(result["rows"].values())})
        return
    _show(result, [table7(result, result["headline_world"], timing) for timing in result["timings"]])
    say(f"\nwrote {output / RESULT}, {page} and {output / 'report.md'}")


def study_gcql(
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe",
            help="Name of a recipe (ablation-gcql), or a .toml file.",
            autocompletion=completion.study_recipes,
        ),
    ] = "ablation-gcql",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for ablation.json, ablation.md, work.")] = Path(
        "runs/ablation-gcql"
    ),
    engine: Engine = "process",
    workers: Workers = None,
    address: Address = None,
    device: Device = "cpu",
    resume: Resume = True,
    record: Record = None,
    json: Json = False,
) -> None:
    """Compare GCQL's variants with each other and with CQL: every variant, dataset and seed, in every world.

    Example: medgym-offline study gcql --recipe ablation-gcql --output runs/ablation-gcql
    """
    from medgym_offline.online.runs import EngineOptions
    from medgym_offline.studies.ablation import load_ablation_recipe, run_ablation
    from medgym_offline.studies.record import write_record

    options = EngineOptions(engine, workers, address, device)
    options.check()
    result = run_ablation(load_ablation_recipe(recipe), output, options=options, fresh=not resume)
    tables = (output / "ablation.md").read_text(encoding="utf-8")
    if record is not None:
        write_record(result, tables, record)
    if json:
        print_json(result)
        return
    say(tables)
    say(f"wrote {output / 'ablation.json'} and {output / 'ablation.md'}")


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    study = typer.Typer(
        no_args_is_help=True,
        help="Studies of many policies. Example: study online --recipe study-online-quick",
    )
    study.command("online")(study_online)
    study.command("offline")(study_offline)
    study.command("gcql")(study_gcql)
    app.add_typer(study, name="study")
