"""Tables of an offline study's page, from its result alone; gains and shares are cut, scores rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgym_offline.evaluation.report_tables import Cell, Table
from medgym_offline.studies.tables import cut_cell, pairs_by_method, percent_cell, score_cell

__all__ = ["offline_lead", "offline_provenance", "support_table", "table7", "training_cost_table"]

Result = Mapping[str, Any]
_NONE = "-"


def _rows(result: Result, timing: str) -> list[Mapping[str, Any]]:
    return [row for row in result["rows"].values() if row["timing"] == timing]


def _gain(found: Mapping[str, Any] | None) -> Cell:
    return _NONE if found is None else cut_cell(found["percent"], found["percent_interval"])


def _share(found: Mapping[str, Any] | None) -> Cell:
    return _NONE if found is None else cut_cell(100 * found["share"], [100 * v for v in found["share_interval"]])


def offline_lead(result: Result) -> str:
    """What the study is, in two sentences."""
    recipe, made = result["recipe"], result["provenance"]
    count = sum(row["group"] == "table" for row in result["rows"].values())
    data = ", ".join(made["datasets"][timing]["dataset"] for timing in result["timings"])
    patients = len(result["patients"]["table"])
    times = "each trained once" if recipe["seeds"] == 1 else f"each trained {recipe['seeds']} times"
    return (
        f"{count} policies, {times} on fixed data ({data}), and the behaviours that made them, "
        f"on {patients} patients of {made['bank']}, {recipe['episodes']} episodes each of 96 h, "
        f"in the worlds {', '.join(result['worlds'])}. Intervals: 95 % bootstrap over patients"
        + (" and training seeds." if recipe["seeds"] > 1 else ".")
    )


def table7(result: Result, world: str, timing: str) -> Table:
    """The paper's Table 7 in one world at one timing, with win rates."""
    pop_ind, against = (pairs_by_method(result, kind, world) for kind in ("PopInd", "BehaviorMethod"))
    body: list[list[Cell]] = []
    for row in _rows(result, timing):
        found, key = row["statistics"]["table"][world], row["key"]
        body.append(
            [
                row["label"],
                score_cell(found["sofa_all"]),
                _gain(pop_ind.get(key)),
                _share(pop_ind.get(key)),
                _gain(against.get(key)),
                score_cell(found["sofa_96h"]),
                percent_cell(found["safe_hourly"]),
            ]
        )
    heads = ["Policy", "SOFA (all)", "PopInd %", "Ind wins %", "BehaviorMethod %", "SOFA (96 h)", "Safe %"]
    patients = len(result["patients"]["table"])
    return Table(f"{timing.capitalize()} timing, {world} world, {patients} patients", heads, body)


def support_table(result: Result, world: str, timing: str) -> Table:
    """Figure 13 as numbers: support distance, its median and 95 % quantile over decisions, share outside."""
    against = pairs_by_method(result, "BehaviorSupport", world)
    body: list[list[Cell]] = []
    own = None
    for row in _rows(result, timing):
        found, quantiles = row["statistics"]["table"][world], row["support"][world]
        own = own or quantiles["behavior"]
        pair = against.get(row["key"])
        times = (
            _NONE if pair is None else f"{pair['method_mean'] / pair['reference_mean']:.1f}"
        )  # fmt: skip
        body.append(
            [
                row["label"],
                score_cell(found["support_distance"]),
                times,
                f"{quantiles['policy'][50]:.2f}",
                f"{quantiles['policy'][95]:.2f}",
                percent_cell(found["support_outside"]),
            ]
        )
    if own is not None:
        body.insert(0, ["held-out half of the data", _NONE, _NONE, f"{own[50]:.2f}", f"{own[95]:.2f}", "5.0"])
    heads = ["Policy", "Mean distance, SD", "Times the behaviour's", "Median", "95 % quantile", "Outside %"]
    return Table(f"Distance to the behaviour data, {timing} timing, {world} world", heads, body)


def training_cost_table(result: Result) -> Table:
    """What one training took, and which learners were stopped."""
    body: list[list[Cell]] = []
    for row in result["rows"].values():
        if row["group"] != "table":
            continue
        training = row["training"]
        config = training["config"]
        stopped = sum(len(names) for names in training["stopped"].values())
        body.append(
            [
                row["label"],
                f"{config['updates']:,}",
                f"{config['batch']}",
                f"{config['hidden']}",
                f"{row['seeds']}",
                f"{sum(s[0] for s in training['seconds']) / len(training['seconds']):.0f}",
                f"{stopped}" if stopped else "none",
            ]
        )
    heads = ["Policy", "Updates", "Batch", "Width", "Seeds", "Training, s", "Learners stopped"]
    return Table("Training; seconds are the wall time of one training, on whatever else ran beside it", heads, body)


def _made(data: Mapping[str, Any]) -> str:
    """What tells a study's data from others; records of generator 1 (float32) have the hash of their rounded rows."""
    return f"identity {data['identity']}" if "identity" in data else f"generator 1, content {data['content_hash']}"


def offline_provenance(result: Result) -> list[tuple[str, str]]:
    """Where everything came from."""
    made = result["provenance"]
    facts = [(timing, made["datasets"][timing]) for timing in result["timings"]]
    data = [
        (f"Data, {timing}", f"{one['dataset']}, {one['patients']} patients ({_made(one)})") for timing, one in facts
    ]
    return [
        ("Command", made["command"]),
        ("Code", made["code"]),
        ("Recipe", f"{made['study']} (sha256 {made['recipe_hash']})"),
        ("Bank", f"{made['bank']}, {made['bank_patients']} patients (content {made['bank_hash']})"),
        *data,
        ("Protocol", f"sha256 {made['protocol_hash']}"),
        ("Training seeds", ", ".join(map(str, made["training_seeds"]))),
        ("Flow", f"scores: {made['backend_scores']}"),
        ("Device", made["device"]),
    ]
