"""train: policies from data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgym_offline.commands import behavior, completion
from medgym_offline.commands.common import Device, Patients, parse_patients, say

if TYPE_CHECKING:
    from medgym_offline.datasets import Transitions
    from medgym_offline.evaluation import Evaluation

__all__ = ["register", "write_log"]


def write_log(path: str | Path, log: list[dict[str, Any]]) -> None:
    """Write a training log as CSV, one line per look."""
    import csv

    from medgym_offline.files import atomic_path

    columns = list(dict.fromkeys(name for line in log for name in line))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(log)


def train_command(
    algorithm: Annotated[
        str,
        typer.Argument(
            metavar="ALGO",
            help="bc; dqn, cql or gcql; or one of these three with -discrete.",
            autocompletion=completion.one_of(*completion.ALGORITHMS),
        ),
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="ID", help="Dataset id.", autocompletion=completion.datasets)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for policies and logs.")],
    scope: Annotated[
        str,
        typer.Option(
            "--scope",
            help="ind: a policy per patient; pop: one for all.",
            autocompletion=completion.one_of("ind", "pop"),
        ),
    ] = "ind",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of training seeds: 0 to N-1.")] = 1,
    patients: Patients = None,
    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            help="quick, or paper (the published sizes).",
            autocompletion=completion.one_of("quick", "paper"),
        ),
    ] = "quick",
    updates: Annotated[
        int | None, typer.Option("--updates", min=1, help="Gradient steps (default: profile's).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as discount=elapsed; may be repeated."),
    ] = None,
    checkpoints: Annotated[int, typer.Option("--checkpoints", min=0, help="Also keep N policies along the way.")] = 0,
    device: Device = "cpu",
    evaluate: Annotated[bool, typer.Option("--eval", help="Evaluate each policy afterwards.")] = False,
) -> None:
    """Train an offline algorithm on a dataset, all patients at once. An interrupted run resumes.

    Example: medgym-offline train gcql --dataset medgym/sepsis-ind-v0 --scope ind --seeds 3 --output runs/gcql
    """
    from medgym_offline.datasets import load_dataset
    from medgym_offline.errors import unknown_name
    from medgym_offline.offline import PROFILES, algorithm_name, train
    from medgym_offline.policies import save_policy

    for kind, value, known in (
        ("scope", scope, ["ind", "pop"]),
        ("profile", profile, list(PROFILES)),
    ):
        if value not in known:
            raise unknown_name(kind, value, known)
    algorithm = algorithm_name(algorithm)
    config = PROFILES[profile] if updates is None else replace(PROFILES[profile], updates=updates)
    config = config.changed(settings or [])
    transitions = load_dataset(dataset)
    chosen = parse_patients(patients, transitions.present_ids)
    output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    series: dict[Path, dict[int, Path]] = {}
    for seed in range(seeds):
        path = output / f"{algorithm}-{scope}-seed{seed}.safetensors"
        state = path.with_suffix(".state")
        found = train(
            algorithm,
            transitions,
            scope,
            seed,
            config,
            patients=chosen,
            resume=state,
            device=device,
            checkpoints=checkpoints,
        )
        save_policy(found.policy, path)
        for update, policy in found.checkpoints.items():
            early = path.with_name(f"{path.stem}-update{update}.safetensors")
            if update < config.updates:
                save_policy(policy, early)
            series.setdefault(path, {})[update] = early if update < config.updates else path
        write_log(path.with_suffix(".csv"), found.log)
        written.append(path)
        say(f"wrote {path}" + (f" ({len(found.stopped)} learners stopped early)" if found.stopped else ""))
    ids = _evaluated_patients(transitions, chosen)
    if evaluate:
        from medgym_offline.commands.judge import evaluate_to

        for path in written:
            last = evaluate_to(str(path), path.with_suffix(""), dataset=dataset, patients=ids, bank=_bank_of(dataset))
            if path in series:
                rows = []
                for update, file in series[path].items():
                    found_there = last
                    if file != path:
                        where = {"dataset": dataset, "patients": ids, "bank": _bank_of(dataset)}
                        found_there = evaluate_to(str(file), None, show=False, **where)  # type: ignore[arg-type]
                    rows.append({"update": update, **_scores(found_there)})
                table = path.with_name(f"{path.stem}-checkpoints.csv")
                write_log(table, rows)
                best = max(rows, key=lambda row: row["return"])
                say(f"checkpoints of {path.name}, own world: last (update {rows[-1]['update']}) {_told(rows[-1])};")
                say(f"  best return (update {best['update']}) {_told(best)}: chosen on this score, so optimistic")
                say(f"wrote {table}")
    for path in written:
        extra = "" if ids is None else f" --patients {','.join(ids)}"
        bank = "" if _bank_of(dataset) == "sepsis-v0" else f" --bank {_bank_of(dataset)}"
        command = f"eval --policy {path} --dataset {dataset}{bank}{extra} --output {path.with_suffix('')}"
        if evaluate:
            command = f"submit {path.with_suffix('')} --name NAME --output runs/submission"
        say(f"next: medgym-offline {command}")


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    """Return and mean SOFA of an evaluation in the patients' own simulators."""
    metrics = evaluation.worlds["own"].metrics
    return {"return": metrics["return"], "sofa": metrics["sofa_all"]}


def _told(row: dict[str, Any]) -> str:
    return f"return {row['return']:.2f}, SOFA {row['sofa']:.3f}"


def _evaluated_patients(transitions: Transitions, chosen: list[str] | None) -> list[str] | None:
    """Patients to evaluate on: those trained on, or None where that is everybody in the bank."""
    ids = list(transitions.present_ids) if chosen is None else chosen
    return None if len(ids) == len(transitions.patients) else ids


def _bank_of(dataset: str) -> str:
    from medgym_offline.datasets import dataset_info

    return dataset_info(dataset).bank or "sepsis-v0"


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("train")(train_command)
    behavior.register(app)
