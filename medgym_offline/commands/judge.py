"""eval, report and ope: what a policy is worth."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from medgym_offline.commands import common

if TYPE_CHECKING:
    from medgym_offline.evaluation import Evaluation
    from medgym_offline.evaluation.ope import OpeAudit

__all__ = ["COMMANDS", "keep"]


def keep(evaluation: Evaluation, policy: str, output: Path, report: bool = False) -> None:
    """Write the result into `output`, with copies of what `submit` needs: the policy file and what it cost.

    With `report` also `report.html`.
    """
    from medgym_offline.compute import compute_file
    from medgym_offline.evaluation import write_report

    evaluation.write(output)
    source = Path(policy)
    if evaluation.policy.get("kind") == "file" and source.is_file():
        copy = output / f"policy{source.suffix}"
        if not (copy.exists() and copy.samefile(source)):
            shutil.copyfile(source, copy)
            if compute_file(source).is_file():
                shutil.copyfile(compute_file(source), compute_file(copy))
    if report:
        write_report({evaluation.name: evaluation}, output / "report.html")


def eval_command(
    policy: Annotated[str, Option(help="Policy file or folder, or zero, max, random, clinician, behavior.")],
    patients: common.Patients = None,
    split: common.Split = None,
    episodes: Annotated[int | None, Option(min=1, help="Per patient (default: protocol's).")] = None,
    seed: Annotated[int | None, Option(min=0, help="Of the episodes (default: protocol's).")] = None,
    timing: Annotated[str | None, Option(help="adaptive or fixed (default: the policy's).")] = None,
    decisions: Annotated[int | None, Option(min=1, help="Of an episode (default: the policy's).")] = None,
    worlds: common.Worlds = None,
    view: common.View = None,
    takeover: Annotated[float | None, Option(help="The clinician treats until this time; metrics follow.")] = None,
    bank: common.MaybeBank = None,
    dataset: Annotated[str | None, Option(metavar="ID", help="Adds support distance, normalized score.")] = None,
    workers: Annotated[int | None, Option(min=1, help="Worlds scored at a time (default: one per core).")] = None,
    output: Annotated[Path | None, Option("--output", "-o", help="Folder for result, report, policy.")] = None,
    json: common.Json = False,
) -> None:
    """Score a policy on every patient's own simulator.

    Example: medgym-offline eval --policy runs/gcql/gcql-ind-seed0.safetensors --worlds own,crossfit -o runs/result
    """
    from medgym_offline.evaluation import evaluate, print_evaluations

    evaluation = evaluate(
        policy,
        timing,
        decisions,
        common.ask_patients(patients),
        episodes,
        seed,
        bank,
        None if worlds is None else common.parse_list(worlds),
        dataset,
        progress=True,
        view=view,
        workers=workers,
        split=split,
        takeover=takeover,
    )
    if not json:
        print_evaluations(evaluation)
    if output is not None:
        keep(evaluation, policy, output, report=True)
    if json:
        common.print_json(evaluation.to_dict())
    elif output is not None:
        common.say(f"\nwrote {output / 'result.json'} and {output / 'report.html'}")
        if takeover is None:
            common.say(f"next: medgym-offline submit {output} --name NAME --output runs/submission")


def report_command(
    results: Annotated[
        list[Path], Argument(metavar="RESULT...", help="result.json files, or the folders of `eval --output`.")
    ],
    output: Annotated[Path, Option("--output", "-o", help="HTML file to write.")],
) -> None:
    """Put results side by side in one self-contained HTML report, with paired intervals between those that pair.

    Example: medgym-offline report runs/a/result.json runs/b/result.json --output runs/report.html
    """
    from medgym_offline.evaluation import Evaluation, print_evaluations, write_report

    evaluations: dict[str, Evaluation] = {}
    for path in results:
        found = Evaluation.from_json(path)
        alike = sum(name == found.name or name.startswith(f"{found.name} (") for name in evaluations)
        evaluations[found.name if not alike else f"{found.name} ({alike + 1})"] = found
    print_evaluations(evaluations)
    write_report(evaluations, output)
    common.say(f"\nwrote {output}")


def print_audit(found: OpeAudit) -> None:
    """Two tables: values per policy, and scores per estimator and world."""
    info = found.info
    gamma = info["settings"]["gamma"]
    discount = "undiscounted" if gamma == 1 else f"discounted by {gamma:g} per unit of time"
    title = (
        f"{info['dataset']}: {len(found.patients)} patients x {info['logged_episodes']} logged episodes; returns "
        f"{discount}, of policies perturbed by N(0, {info['perturbation']:g}^2)"
    )
    columns = ("policy", *(f"true, {w}" for w in found.truth), *found.estimates, "ESS")
    rows = [
        (
            policy,
            *(f"{truth[i].mean():.2f} ± {found.error[w][i]:.2f}" for w, truth in found.truth.items()),
            *(f"{values[i].mean():.2f}" for values in found.estimates.values()),
            f"{median(found.sample_size[i]):.1f}",
        )
        for i, policy in enumerate(found.policies)
    ]
    common.print_table(columns, rows, title)
    if scores := [(w, name, of) for w, by_name in found.scores.items() for name, of in by_name.items()]:
        heads = ("truth", "estimator", *(key.replace("_", " ") for key in scores[0][2]))
        cells = [(w, name, *("" if v is None else f"{v:.2f}" for v in of.values())) for w, name, of in scores]
        common.print_table(heads, cells, "Estimates against the truth")
    for warning in found.warnings:
        common.say(f"warning: {warning}")


def ope_command(
    dataset: common.Dataset,
    policy: Annotated[
        list[str], Option(help="Policy file, or zero, max, random, clinician, behavior; repeat for several.")
    ],
    bank: common.MaybeBank = None,
    patients: common.Patients = None,
    episodes: Annotated[int, Option(min=2, help="Monte-Carlo episodes per patient.")] = 50,
    worlds: common.Worlds = None,
    gamma: Annotated[float, Option(help="Discount per unit of time, in (0, 1]; 1 is undiscounted.")] = 1.0,
    updates: Annotated[int, Option(min=1, help="Gradient steps of fitted Q evaluation.")] = 2000,
    min_ess: Annotated[float, Option(min=1.0, help="Warn below this effective sample size (episodes).")] = 10.0,
    seed: Annotated[int, Option(min=0, help="Of networks and episodes.")] = 0,
    output: Annotated[Path | None, Option("--output", "-o", help="Folder for ope.json.")] = None,
    json: common.Json = False,
) -> None:
    """Estimate policies from a dataset (FQE, WIS, doubly robust, simulator) and compare with their true returns.

    Example: medgym-offline ope --dataset medgym/sepsis-ind-v0 --policy random --policy zero --policy behavior
    """
    from medgym_offline.evaluation.ope import OpeSettings, audit_dataset
    from medgym_offline.evaluation.ope.fqe import FqeConfig
    from medgym_offline.files import write_json

    settings = OpeSettings(gamma, episodes, seed, min_ess, FqeConfig(updates=updates))
    who, where = common.ask_patients(patients), None if worlds is None else common.parse_list(worlds)
    found = audit_dataset(dataset, policy, bank=bank, patients=who, worlds=where, settings=settings, progress=True)
    if output is not None:
        write_json(output / "ope.json", found.to_dict())
    if json:
        common.print_json(found.to_dict())
        return
    print_audit(found)
    if output is not None:
        common.say(f"\nwrote {output / 'ope.json'}")


COMMANDS = (eval_command, report_command, ope_command)
