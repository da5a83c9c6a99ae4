"""submit and leaderboard {add, verify, build}: from results to the leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from medgym_offline.commands.common import Json, print_json, print_table, say

__all__ = ["COMMANDS"]

Folder = Annotated[Path, Argument(metavar="DIR", help="A submission folder, as `submit` writes it.")]
Board = Annotated[Path | None, Option(help="Another leaderboard.json (default: this checkout's leaderboard/).")]


def submit_command(
    results: Annotated[
        list[Path], Argument(metavar="RESULTS...", help="result.json files, or the folders of `eval --output`.")
    ],
    name: Annotated[str, Option(help="Name of the method, as the board shows it.")],
    output: Annotated[Path, Option("--output", "-o", help="Submission folder to write.")],
    authors: Annotated[str, Option(help="Names, separated by semicolons.")] = "",
    link: Annotated[list[str] | None, Option(help="Paper or project (http or https); may be repeated.")] = None,
    code: Annotated[str | None, Option(help="Where the code lies (http or https).")] = None,
    hardware: Annotated[str | None, Option(help="It was trained on (default: as `train` recorded it).")] = None,
    wall_seconds: Annotated[float | None, Option(min=0, help="Of all trainings (default: as recorded).")] = None,
    updates: Annotated[int | None, Option(min=1, help="Gradient steps of each (default: as recorded).")] = None,
) -> None:
    """Build a leaderboard submission: one method, one result per training seed.

    Example: medgym-offline submit runs/gcql/gcql-ind-seed* --name GCQL --output runs/submission
    """
    from medgym_offline.leaderboard import gaps, submit

    people = [person.strip() for person in authors.split(";") if person.strip()]
    # A shell pattern also finds the policy, log and other files beside the result folders.
    chosen = [p for p in results if p.is_dir() or (p.suffix == ".json" and not p.name.endswith(".compute.json"))]
    cost = {"hardware": hardware, "wall_seconds": wall_seconds, "updates": updates}
    made = submit(chosen or results, name, output, people, link or (), code, cost)
    say(f"{made.entry.id}: {len(made.policies)} run(s) in {made.folder}")
    for line in gaps(made.entry):
        say(f"lacks {line}")
    say(f"next: medgym-offline leaderboard verify {made.folder}")


def leaderboard_verify(
    folder: Folder,
    file: Annotated[Path | None, Option(help="On success, record it on this leaderboard.json.")] = None,
    bank: Annotated[str | None, Option(help="Bank file, where the bank does not ship.")] = None,
    fresh: Annotated[bool, Option("--fresh/--no-fresh", help="Also evaluate on fresh seeds.")] = True,
    retrain: Annotated[bool, Option("--retrain", help="Train the policies again; needs no policy file.")] = False,
    json: Json = False,
) -> None:
    """Run the policies of a submission again and compare every number. Exit code 1 if one does not hold.

    Example: medgym-offline leaderboard verify runs/submission
    """
    from medgym_offline.leaderboard import add_entry, read_submission, sealed, verify_submission

    report = verify_submission(folder, bank, fresh, retrain=retrain)
    if report.accepted and file is not None:
        add_entry(sealed(read_submission(folder, complete=False).entry, report.record), file)
    if json:
        print_json(report.to_json())
    else:
        heads = ("check", "world", "metric", "claimed", "found", "tolerance", "")
        rows = [
            (
                r.check,
                r.world,
                r.metric,
                f"{r.claimed:.4g}",
                f"{r.found:.4g}",
                f"{r.tolerance:.3g}",
                "ok" if r.ok else "NO",
            )
            for r in report.rows
            if r.metric in ("severity_mean", "safe_hourly", "return") and not r.check.endswith("interval")
        ]
        print_table(heads, rows)
        for fault in report.faults[:20]:
            say(f"fault: {fault}")
        if report.retrained:
            say(f"trained again: {report.retrained}")
        refused = f"refused, {len(report.faults)} of {len(report.rows)} numbers do not hold"
        say(f"{report.id}: {'accepted' if report.accepted else refused}")
        if report.accepted and file is not None:
            say(f"recorded on {file}")
        elif report.accepted and not report.retrained:
            say(f"next: medgym-offline leaderboard add {folder}")
    if not report.accepted:
        raise Exit(1)


def leaderboard_add(folder: Folder, file: Board = None) -> None:
    """Add a submission to the leaderboard; adding it twice changes nothing.

    Example: medgym-offline leaderboard add runs/submission
    """
    from medgym_offline.leaderboard import add_entry, default_board, read_submission
    from medgym_offline.policies import load_policy

    submission = read_submission(folder)
    for policy in submission.policies:
        if isinstance(policy, Path):
            load_policy(policy)
    target = file or default_board()
    changed = add_entry(submission.entry, target)
    say(f"{submission.entry.id}: {'added to' if changed else 'already in'} {target}")


def leaderboard_build(
    output: Annotated[Path, Option("--output", "-o", help="Folder for the pages.")],
    file: Board = None,
) -> None:
    """Write the leaderboard as static web pages: an index, and one for each table of entries that may be compared.

    Example: medgym-offline leaderboard build --output site
    """
    from medgym_offline.errors import SubmissionError
    from medgym_offline.leaderboard import build_page, read_board

    if file is not None and not file.exists():
        raise SubmissionError(f"{file}: no such leaderboard; `leaderboard add` makes one")
    entries = read_board(file)
    page = build_page(entries, output)
    say(f"{len(entries)} entries in {page}")


COMMANDS = (submit_command, leaderboard_add, leaderboard_verify, leaderboard_build)
