"""train: policies from data."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgym_offline.commands import behavior, common
from medgym_offline.errors import MedGymError
from medgym_offline.patients import NEW_PEOPLE

if TYPE_CHECKING:
    from medgym_offline.datasets import Transitions

__all__ = ["fit", "register", "write_log"]


Log = list[dict[str, float]]


def write_log(path: str | Path, log: Log) -> None:
    """Write a training log as CSV, one line per look."""
    import polars as pl

    from medgym_offline.files import write_text

    write_text(path, pl.from_dicts(log, infer_schema_length=None).write_csv())


def train_command(
    algorithm: Annotated[
        str,
        typer.Argument(
            metavar="ALGO",
            help="bc; dqn, cql or gcql; one of these with -discrete; or d3rlpy-bc, -iql, -td3bc, -cql, -discrete-cql.",
        ),
    ],
    dataset: common.Dataset,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for policies and logs.")],
    scope: Annotated[
        str | None,
        typer.Option(
            help="ind: a policy per patient (default); clu: one per cluster; pop: one for all (d3rlpy's: always); "
            "context: one for all that reads the patient's record."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of training seeds: 0 to N-1.")] = 1,
    patients: common.Patients = None,
    split: common.Split = None,
    record: common.Record = 1,
    hours: common.Hours = None,
    profile: Annotated[str, typer.Option(help="quick, or paper (the published sizes).")] = "quick",
    updates: Annotated[int | None, typer.Option(min=1, help="Gradient steps (default: profile's).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as discount=elapsed; may be repeated."),
    ] = None,
    checkpoints: Annotated[int, typer.Option(min=0, help="Also keep N policies along the way.")] = 0,
    view: common.View = None,
    device: common.Device = "cpu",
    evaluate: Annotated[bool, typer.Option("--eval", help="Evaluate each policy afterwards.")] = False,
) -> None:
    """Train an offline algorithm on a dataset, all patients at once. An interrupted run resumes (not d3rlpy's).

    Example: medgym-offline train gcql --dataset medgym/sepsis-ind-v0 --scope ind --seeds 3 --output runs/gcql
    """
    from medgym_offline.commands.judge import evaluate_to
    from medgym_offline.compute import Compute, check_device, hardware
    from medgym_offline.datasets import load_dataset
    from medgym_offline.errors import unknown_name
    from medgym_offline.offline import ALGORITHMS, PROFILES, algorithm_name
    from medgym_offline.people import people_of
    from medgym_offline.simulators import load_simulators
    from medgym_offline.third_party import BASELINES, read_settings

    foreign = algorithm.startswith("d3rlpy")
    if foreign and algorithm not in BASELINES:
        raise unknown_name("offline algorithm", algorithm, [*ALGORITHMS, *BASELINES])
    scope = scope or ("pop" if foreign else "ind")
    for kind, value, known in (("scope", scope, ["ind", "pop", *NEW_PEOPLE]), ("profile", profile, list(PROFILES))):
        if value not in known:
            raise unknown_name(kind, value, known)
    if foreign and scope != "pop":
        raise MedGymError(f"{algorithm} learns one policy for all patients; use --scope pop, or leave it out")
    common.require_train_people(scope, split, patients)
    config = PROFILES[profile] if updates is None else replace(PROFILES[profile], updates=updates)
    given: dict[str, Any] = {"checkpoints": checkpoints, "device": check_device(device)}
    if foreign:
        config, given["own"] = read_settings(algorithm, config, settings or [])
    else:
        algorithm, config = algorithm_name(algorithm), config.changed(settings or [])
        given["scope"] = scope
        if scope in NEW_PEOPLE:
            given["people"] = people_of(scope, load_simulators(_bank_of(dataset)), record, hours, view=view or "full")
    transitions = load_dataset(dataset, split=split, view=view or "full")
    given["patients"] = common.parse_patients(patients, transitions.present_ids, dataset)
    output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for seed in range(seeds):
        path = output / f"{algorithm}-{scope}-seed{seed}{'.pt' if foreign else '.safetensors'}"
        resumed, started = path.with_suffix(".state").exists(), time.monotonic()
        log, note = (_fit_d3rlpy if foreign else fit)(path, algorithm, transitions, seed=seed, config=config, **given)
        wall = None if resumed else round(time.monotonic() - started, 1)
        Compute(hardware(device), wall, config.updates).save(path)
        write_log(path.with_suffix(".csv"), log)
        written.append(path)
        common.say(f"wrote {path}{note}")
    # Who is evaluated: those trained on, where that is not everybody in the bank; or new people.
    ids: list[str] | None = given["patients"] or list(transitions.present_ids)
    ids = None if ids is None or len(ids) == len(transitions.patients) else ids
    who = "" if ids is None else f" --patients {','.join(ids)}"
    if split == "train" and not patients and scope != "ind":
        who = " --split test" + (f" --takeover {hours:g}" if hours and scope in NEW_PEOPLE else "")
    bank, results = _bank_of(dataset), {path: path.with_suffix("") for path in written}
    for path, result in results.items():
        if evaluate:
            evaluate_to(str(path), result, dataset=dataset, patients=ids, bank=bank)
    for path, result in results.items():
        command = f"eval --policy {path} --dataset {dataset} --bank {bank}{who} --output {result}"
        command = f"submit {result} --name NAME --output runs/submission" if evaluate else command
        common.say(f"next: medgym-offline {command}")


def fit(path: Path, algorithm: str, transitions: Transitions, **given: Any) -> tuple[Log, str]:
    """Train one of our algorithms to the file `path`, checkpoints beside it; the log, and what else to say."""
    from medgym_offline.offline import train
    from medgym_offline.policies import save_policy

    found = train(algorithm, transitions, resume=path.with_suffix(".state"), **given)
    save_policy(found.policy, path)
    for update, policy in found.checkpoints.items():
        if update < given["config"].updates:
            save_policy(policy, _early(path, update))
    return found.log, f" ({len(found.stopped)} learners stopped early)" if found.stopped else ""


def _fit_d3rlpy(path: Path, algorithm: str, transitions: Transitions, **given: Any) -> tuple[Log, str]:
    """The same for one of d3rlpy's."""
    from medgym_offline.third_party.training import Baseline, train_baseline

    def keep(update: int, baseline: Baseline) -> None:
        baseline.save(_early(path, update))

    found = train_baseline(algorithm, transitions, on_checkpoint=keep, **given)
    found.save(path)
    return found.log, f", and d3rlpy's checkpoint {path.with_suffix('.d3').name}"


def _early(path: Path, update: int) -> Path:
    """The file of a checkpoint of the policy `path`."""
    return path.with_name(f"{path.stem}-update{update}{path.suffix}")


def _bank_of(dataset: str) -> str:
    from medgym_offline.datasets import dataset_info
    from medgym_offline.diseases.registry import disease, disease_of_id

    return dataset_info(dataset).bank or disease(disease_of_id(dataset)).bank


def register(app: typer.Typer) -> None:
    """Add this module's commands to `app`."""
    app.command("train")(train_command)
    behavior.register(app)
