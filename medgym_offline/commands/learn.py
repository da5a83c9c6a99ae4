"""train: policies from data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgym_offline.commands import behavior, completion
from medgym_offline.commands.common import Device, Patients, Split, View, parse_patients, say
from medgym_offline.errors import MedGymError

if TYPE_CHECKING:
    from medgym_offline.datasets import Transitions
    from medgym_offline.evaluation import Evaluation
    from medgym_offline.offline import OfflineConfig
    from medgym_offline.people import Clusters, Contexts

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
            help="bc; dqn, cql or gcql; one of these with -discrete; or d3rlpy-bc, -iql, -td3bc, -cql, -discrete-cql.",
            autocompletion=completion.one_of(*completion.ALGORITHMS),
        ),
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="ID", help="Dataset id.", autocompletion=completion.datasets)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for policies and logs.")],
    scope: Annotated[
        str | None,
        typer.Option(
            "--scope",
            help="ind: a policy per patient (default); clu: one per cluster; pop: one for all (d3rlpy's: always); "
            "context: one for all that reads the patient's record.",
            autocompletion=completion.one_of("ind", "clu", "pop", "context"),
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of training seeds: 0 to N-1.")] = 1,
    patients: Patients = None,
    split: Split = None,
    record: Annotated[
        int,
        typer.Option(
            "--record", min=1, help="Of clu and context: sessions (days, operations) that tell who a patient is."
        ),
    ] = 1,
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
    view: View = None,
    device: Device = "cpu",
    evaluate: Annotated[bool, typer.Option("--eval", help="Evaluate each policy afterwards.")] = False,
) -> None:
    """Train an offline algorithm on a dataset, all patients at once. An interrupted run resumes (not d3rlpy's).

    Example: medgym-offline train gcql --dataset medgym/sepsis-ind-v0 --scope ind --seeds 3 --output runs/gcql
    """
    from medgym_offline.compute import Compute, hardware
    from medgym_offline.datasets import load_dataset
    from medgym_offline.errors import unknown_name
    from medgym_offline.offline import ALGORITHMS, PROFILES, algorithm_name
    from medgym_offline.third_party import BASELINES, read_settings

    foreign = algorithm.startswith("d3rlpy")
    if foreign and algorithm not in BASELINES:
        raise unknown_name("offline algorithm", algorithm, [*ALGORITHMS, *BASELINES])
    scope = scope or ("pop" if foreign else "ind")
    for kind, value, known in (
        ("scope", scope, ["ind", "clu", "pop", "context"]),
        ("profile", profile, list(PROFILES)),
    ):
        if value not in known:
            raise unknown_name(kind, value, known)
    if foreign and scope != "pop":
        raise MedGymError(f"{algorithm} learns one policy for all patients; use --scope pop, or leave it out")
    shared = scope in ("clu", "context")
    if shared and (split != "train" or patients is not None):
        raise MedGymError(f"--scope {scope} is for new patients: it learns from all train people; add --split train")
    config = PROFILES[profile] if updates is None else replace(PROFILES[profile], updates=updates)
    fit: Fit
    if foreign:
        config, own = read_settings(algorithm, config, settings or [])
        fit = _third_party(algorithm, config, own, device)
    else:
        algorithm, config = algorithm_name(algorithm), config.changed(settings or [])
        people = None
        if shared:
            from medgym_offline.people import people_of
            from medgym_offline.simulators import load_simulators

            people = people_of(scope, load_simulators(_bank_of(dataset)), record)
        fit = _stacked(algorithm, scope, config, device, people)
    transitions = load_dataset(dataset, split=split, view=view or "full")
    chosen = parse_patients(patients, transitions.present_ids, dataset)
    output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    series: dict[Path, dict[int, Path]] = {}
    for seed in range(seeds):
        path = output / f"{algorithm}-{scope}-seed{seed}{'.pt' if foreign else '.safetensors'}"
        resumed, started = path.with_suffix(".state").exists(), time.monotonic()
        early, log, note = fit(transitions, chosen, seed, path, checkpoints)
        wall = None if resumed else round(time.monotonic() - started, 1)
        Compute(hardware(device), wall, config.updates).save(path)
        if checkpoints:
            series[path] = {**early, config.updates: path}
        write_log(path.with_suffix(".csv"), log)
        written.append(path)
        say(f"wrote {path}{note}")
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
                        found_there = evaluate_to(str(file), None, show=False, **where)
                    rows.append({"update": update, **_scores(found_there)})
                table = path.with_name(f"{path.stem}-checkpoints.csv")
                write_log(table, rows)
                best = max(rows, key=lambda row: row["return"])
                say(f"checkpoints of {path.name}, own world: last (update {rows[-1]['update']}) {_told(rows[-1])};")
                say(f"  best return (update {best['update']}) {_told(best)}: chosen on this score, so optimistic")
                say(f"wrote {table}")
    for path in written:
        extra = "" if ids is None else f" --patients {','.join(ids)}"
        bank = f" --bank {_bank_of(dataset)}"
        command = f"eval --policy {path} --dataset {dataset}{bank}{extra} --output {path.with_suffix('')}"
        if evaluate:
            command = f"submit {path.with_suffix('')} --name NAME --output runs/submission"
        say(f"next: medgym-offline {command}")


Fit = Callable[["Transitions", "list[str] | None", int, Path, int], tuple[dict[int, Path], list[dict[str, float]], str]]
"""Trains one seed: (transitions, patients, seed, path, checkpoints) -> checkpoint files by update, log, note."""


def _stacked(algorithm: str, scope: str, config: OfflineConfig, device: str, people: Clusters | Contexts | None) -> Fit:
    """One of our algorithms."""
    from medgym_offline.offline import train
    from medgym_offline.policies import save_policy

    def fit(
        transitions: Transitions, patients: list[str] | None, seed: int, path: Path, checkpoints: int
    ) -> tuple[dict[int, Path], list[dict[str, float]], str]:
        found = train(
            algorithm,
            transitions,
            scope,
            seed,
            config,
            patients=patients,
            people=people,
            resume=path.with_suffix(".state"),
            device=device,
            checkpoints=checkpoints,
        )
        save_policy(found.policy, path)
        early = {at: _early(path, at) for at in found.checkpoints if at < config.updates}
        for at, file in early.items():
            save_policy(found.checkpoints[at], file)
        note = f" ({len(found.stopped)} learners stopped early)" if found.stopped else ""
        return early, found.log, note

    return fit


def _third_party(algorithm: str, config: OfflineConfig, own: dict[str, Any], device: str) -> Fit:
    """One of d3rlpy's algorithms."""
    from medgym_offline.third_party.training import Baseline, train_baseline

    def fit(
        transitions: Transitions, patients: list[str] | None, seed: int, path: Path, checkpoints: int
    ) -> tuple[dict[int, Path], list[dict[str, float]], str]:
        early: dict[int, Path] = {}

        def keep(at: int, baseline: Baseline) -> None:
            early[at] = baseline.save(_early(path, at))

        found = train_baseline(
            algorithm,
            transitions,
            seed,
            config,
            own,
            patients=patients,
            device=device,
            checkpoints=checkpoints,
            on_checkpoint=keep,
        )
        found.save(path)
        return early, found.log, f", and d3rlpy's checkpoint {path.with_suffix('.d3').name}"

    return fit


def _early(path: Path, update: int) -> Path:
    """The file of a checkpoint of the policy `path`."""
    return path.with_name(f"{path.stem}-update{update}{path.suffix}")


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    """Return and mean severity of an evaluation in its first world."""
    return {"return": evaluation.metrics["return"], "severity": evaluation.metrics["severity_mean"]}


def _told(row: dict[str, Any]) -> str:
    return f"return {row['return']:.2f}, severity {row['severity']:.3f}"


def _evaluated_patients(transitions: Transitions, chosen: list[str] | None) -> list[str] | None:
    """Patients to evaluate on: those trained on, or None where that is everybody in the bank."""
    ids = list(transitions.present_ids) if chosen is None else chosen
    return None if len(ids) == len(transitions.patients) else ids


def _bank_of(dataset: str) -> str:
    from medgym_offline.datasets import dataset_info
    from medgym_offline.diseases.registry import disease, disease_of_id

    return dataset_info(dataset).bank or disease(disease_of_id(dataset)).bank


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("train")(train_command)
    behavior.register(app)
