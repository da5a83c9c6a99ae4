"""list, info, download, publish, verify, generate: datasets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from medgym_offline.commands.common import Json, ask_patients, print_json, print_table, say, terminal_width

__all__ = ["COMMANDS"]

DatasetId = Annotated[str, Argument(metavar="ID", help="Dataset id, for example medgym/sepsis-ind-v0.")]
Root = Annotated[Path | None, Option(help="Folder of datasets (default: Minari's, $MINARI_DATASETS_PATH).")]


def list_command(json: Json = False, root: Root = None) -> None:
    """Show the datasets of this release and those on this machine, with sizes and scores.

    Example: medgym-offline list
    """
    from medgym_offline.datasets.catalogue import LISTED, list_datasets, listing_row

    infos = list_datasets(root)
    if json:
        print_json([asdict(info) for info in infos])
        return
    columns, rows = (*LISTED, "here"), [(*listing_row(info), "yes" if info.path else "no") for info in infos]
    # A narrow terminal would fold every cell: it gets the columns that choose a dataset.
    few = columns if terminal_width() >= 120 else ("id", "timing", "score", "here")
    shown = [n for n, name in enumerate(columns) if name in few]
    print_table([columns[n] for n in shown], [[row[n] for n in shown] for row in rows])
    say("\nreturns are means per episode; score: the behavior's, 0 = random, 100 = the best policy shipped")
    say("next: medgym-offline info ID, or medgym-offline generate ID")


def info_command(dataset: DatasetId, json: Json = False, root: Root = None) -> None:
    """Show what is known of one dataset: size, checksums, scores, where it lies.

    Example: medgym-offline info medgym/sepsis-ind-v0
    """
    from medgym_offline.datasets.catalogue import dataset_info, normalized_score

    info = dataset_info(dataset, root)
    if json:
        print_json(asdict(info))
        return
    values = asdict(info)
    returns = values.pop("reference_returns")
    for name, value in values.items():
        if value not in (None, ""):
            say(f"{name.replace('_', ' '):>13}  {f'{value:,}' if isinstance(value, int) else value}")
    for key in sorted(returns, key=lambda key: returns[key]):
        score = normalized_score(returns, key)
        say(f"{key:>13}  mean return {returns[key]:.2f}" + ("" if score is None else f", normalized {score:.1f}"))
    where = "" if root is None else f" --root {root}"
    say(f"\nnext: medgym-offline {'verify' if info.path else 'generate'} {info.id}{where}")


def generate_command(
    dataset: Annotated[str, Argument(metavar="ID", help="Dataset id, or the path of a recipe (.toml).")],
    patients: Annotated[str | None, Option(help="Only the first N patients, or ids; needs --as.")] = None,
    episodes: Annotated[int | None, Option(min=1, help="Per patient; needs --as.")] = None,
    output_id: Annotated[str | None, Option("--as", metavar="ID", help="Id of a part of a dataset.")] = None,
    root: Root = None,
    workers: Annotated[int, Option(min=1, help="Processes; the result is the same.")] = 1,
    records: Annotated[Path | None, Option(help="Clinical records (default: $MEDGYM_CLINICAL_DATA).")] = None,
    release: Annotated[bool, Option("--release", help="Also write the manifest beside the recipe.")] = False,
) -> None:
    """Make a dataset from its recipe, where Minari finds it. An interrupted run continues where it stopped.

    Example: medgym-offline generate medgym/sepsis-ind-v0
    """
    from medgym_offline.datasets import generate

    made = generate(
        dataset,
        root=root,
        patients=ask_patients(patients),
        episodes=episodes,
        output_id=output_id,
        release=release,
        workers=workers,
        records=records,
    )
    say(f"{made.id}: {made.episodes:,} episodes, {made.steps:,} steps in {made.path}")
    where = "" if root is None else f"MINARI_DATASETS_PATH={root} "
    say(f"next: {where}medgym-offline train gcql --dataset {made.id} --output runs/gcql --eval")


def verify_command(dataset: DatasetId, json: Json = False, root: Root = None) -> None:
    """Check a dataset: checksums, layout, and the meaning of its rows. Exit code 1 if anything is wrong.

    Example: medgym-offline verify medgym/sepsis-ind-v0
    """
    from medgym_offline.datasets import verify

    report = verify(dataset, root=root)
    if json:
        print_json(report.to_json())
    else:
        say(str(report))
    if not report.ok:
        raise Exit(1)


def download_command(
    dataset: DatasetId,
    remote: Annotated[list[str] | None, Option(metavar="URL", help="hf://ORG (default: $MINARI_REMOTE).")] = None,
    force: Annotated[bool, Option("--force", help="Fetch it again although it is here.")] = False,
    root: Root = None,
) -> None:
    """Fetch a dataset to where Minari finds it, and compare it with the release's checksums.

    What is damaged here is fetched again, and an interrupted transfer is continued.

    Example: medgym-offline download medgym/sepsis-ind-v0
    """
    from medgym_offline.datasets import download

    say(download(dataset, remotes=remote, root=root, force=force).message)


def publish_command(
    datasets: Annotated[list[str], Argument(metavar="ID...", help="Dataset ids.")],
    remote: Annotated[str, Option(metavar="URL", help="hf://ORG to publish at.")],
    dry_run: Annotated[bool, Option("--dry-run", help="List the files; send nothing.")] = False,
    root: Root = None,
) -> None:
    """Publish datasets of this machine, each in one commit with its card and a tag. They are verified first.

    The token is read from HF_TOKEN or from the login (hf auth login), never from the command line.

    Example: medgym-offline publish medgym/sepsis-ind-v0 --remote hf://ORG --dry-run
    """
    from medgym_offline.datasets import publish

    for dataset in datasets:
        sent = publish(dataset, remote, root=root, dry_run=dry_run)
        where = f"{sent.repository}, tag {sent.tag}"
        say("\n".join(f"{digest}  {size:>12,}  {path}" for path, size, digest in sent.files))
        say(f"{dataset}: {where}, " + (f"commit {sent.commit[:12]} at {remote}" if sent.commit else "nothing sent"))


COMMANDS = (list_command, info_command, download_command, publish_command, verify_command, generate_command)
