"""train, behavior train: policies from data, and the policies that make the data."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, BadParameter, Option

from medgym_offline.commands import common
from medgym_offline.errors import MedGymError
from medgym_offline.patients import NEW_PEOPLE

if TYPE_CHECKING:
    from medgym_offline.datasets import Transitions

__all__ = ["COMMANDS", "fit"]


Log = list[dict[str, float]]


def train_command(
    algorithm: Annotated[
        str,
        Argument(
            metavar="ALGO",
            help="bc; dqn, cql or gcql; one of these with -discrete; or d3rlpy-bc, -iql, -td3bc, -cql, -discrete-cql.",
        ),
    ],
    dataset: common.Dataset,
    output: Annotated[Path, Option("--output", "-o", help="Folder for policies and logs.")],
    scope: Annotated[
        str | None,
        Option(
            help="ind: a policy per patient (default); clu: one per cluster; pop: one for all (d3rlpy's: always); "
            "context: one for all that reads the patient's record."
        ),
    ] = None,
    seeds: Annotated[int, Option(min=1, help="Number of training seeds: 0 to N-1.")] = 1,
    patients: common.Patients = None,
    split: common.Split = None,
    record: common.Record = 1,
    hours: common.Hours = None,
    profile: Annotated[str, Option(help="quick, or paper (the published sizes).")] = "quick",
    updates: Annotated[int | None, Option(min=1, help="Gradient steps (default: profile's).")] = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="NAME=VALUE", help="A setting, such as discount=elapsed; may be repeated."),
    ] = None,
    checkpoints: Annotated[int, Option(min=0, help="Also keep N policies along the way.")] = 0,
    view: common.View = None,
    device: common.Device = "cpu",
    evaluated: Annotated[bool, Option("--eval", help="Evaluate each policy afterwards.")] = False,
) -> None:
    """Train an offline algorithm on a dataset, all patients at once. An interrupted run resumes (not d3rlpy's).

    Example: medgym-offline train gcql --dataset medgym/sepsis-ind-v0 --scope ind --seeds 3 --output runs/gcql
    """
    import polars as pl

    from medgym_offline.commands.judge import keep
    from medgym_offline.compute import Compute, check_device, hardware
    from medgym_offline.datasets import load_dataset
    from medgym_offline.errors import unknown_name
    from medgym_offline.evaluation import evaluate, print_evaluations
    from medgym_offline.files import write_text
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
    results: dict[Path, Path] = {}
    for seed in range(seeds):
        path = output / f"{algorithm}-{scope}-seed{seed}{'.pt' if foreign else '.safetensors'}"
        resumed, started = path.with_suffix(".state").exists(), time.monotonic()
        log, note = (_fit_d3rlpy if foreign else fit)(path, algorithm, transitions, seed=seed, config=config, **given)
        wall = None if resumed else round(time.monotonic() - started, 1)
        Compute(hardware(device), wall, config.updates).save(path)
        write_text(path.with_suffix(".csv"), pl.from_dicts(log, infer_schema_length=None).write_csv())
        results[path] = path.with_suffix("")
        common.say(f"wrote {path}{note}")
    # Who is evaluated: those trained on, where that is not everybody in the bank; or new people.
    ids: list[str] | None = given["patients"] or list(transitions.present_ids)
    ids = None if ids is None or len(ids) == len(transitions.patients) else ids
    who = "" if ids is None else f" --patients {','.join(ids)}"
    if split == "train" and not patients and scope != "ind":
        who = " --split test" + (f" --takeover {hours:g}" if hours and scope in NEW_PEOPLE else "")
    bank = _bank_of(dataset)
    for path, result in results.items() if evaluated else ():
        found = evaluate(str(path), dataset=dataset, patients=ids, bank=bank, progress=True, workers=None)
        print_evaluations(found)
        keep(found, str(path), result, report=True)
    for path, result in results.items():
        command = f"eval --policy {path} --dataset {dataset} --bank {bank}{who} --output {result}"
        command = f"submit {result} --name NAME --output runs/submission" if evaluated else command
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
    from medgym_offline.third_party.training import train_baseline

    found = train_baseline(
        algorithm, transitions, on_checkpoint=lambda update, baseline: baseline.save(_early(path, update)), **given
    )
    found.save(path)
    return found.log, f", and d3rlpy's checkpoint {path.with_suffix('.d3').name}"


def _early(path: Path, update: int) -> Path:
    """The file of a checkpoint of the policy `path`."""
    return path.with_name(f"{path.stem}-update{update}{path.suffix}")


def _bank_of(dataset: str) -> str:
    from medgym_offline.datasets import dataset_info
    from medgym_offline.diseases.registry import disease, disease_of_id

    return dataset_info(dataset).bank or disease(disease_of_id(dataset)).bank


def behavior_train(
    bank: common.Bank = "",
    scope: Annotated[
        str,
        Option(
            help="ind, pop, dr, ind-scratch, oracle; for new people, with --split train: clu, context; "
            "early-stopped: ind-medium, pop-medium, dr-replay-25 (-50, -75); several separated by commas; all: "
            "whatever ships with a bank, in both timings."
        ),
    ] = "ind",
    timing: Annotated[str, Option(help="adaptive, fixed, or both separated by a comma.")] = "adaptive",
    seed: Annotated[int | None, Option(min=0, help="Root seed (default: the recipe's).")] = None,
    output: Annotated[Path, Option("--output", "-o", help="Folder of policies.")] = Path("runs/behaviors"),
    patients: common.Patients = None,
    split: common.Split = None,
    record: common.Record = 1,
    hours: common.Hours = None,
    view: common.View = None,
    recipe: Annotated[Path | None, Option(help="Recipe (.toml); default: the release's, of the disease.")] = None,
    updates: Annotated[int | None, Option(min=1, help="Updates of every scope (default: the recipe's).")] = None,
    engine: Annotated[str, Option(help="local (this process), process (all local cores) or ray.")] = "local",
    workers: Annotated[int | None, Option(min=1, help="Jobs at a time (default: every core).")] = None,
    address: Annotated[str | None, Option(help="Ray cluster, HOST:PORT (default: one started here).")] = None,
    device: common.Device = "cpu",
    resume: Annotated[bool, Option("--resume/--fresh", help="Go on from --output, or start again.")] = True,
    half: Annotated[bool, Option("--half", help="Store weights in float16: half the size.")] = False,
) -> None:
    """Train behavior policies of a bank, all patients at once. A killed run goes on where it was.

    Example: medgym-offline behavior train --bank sepsis-v0 --scope ind --timing adaptive --engine process
    """
    from medgym_offline.online.behavior import train_behavior_files
    from medgym_offline.online.config import RELEASE, SCOPES, behavior_path, load_recipe
    from medgym_offline.online.jobs import EngineOptions
    from medgym_offline.people import people_of
    from medgym_offline.simulators import load_simulators

    asked = [(s, t) for t in common.parse_list(timing) for s in common.parse_list(scope)]
    wanted = list(RELEASE) if scope == "all" else asked
    if not wanted:
        raise BadParameter("name at least one scope and one timing")
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


COMMANDS = (train_command, behavior_train)
