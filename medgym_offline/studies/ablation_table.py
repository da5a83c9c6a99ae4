"""Tables of an ablation as Markdown, from its result alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgym_offline.studies.markdown import markdown_table

__all__ = ["ablation_markdown"]

_HEADS = ("Variant", "SOFA (all)", "Return", "Safe %", "Support distance", "Outside %", "Data outside %")
_DIGITS = {"sofa_all": 3, "return": 2, "safe_hourly": 1, "support_distance": 3, "support_outside": 1}
_WORDS = {"sofa_all": "SOFA (all)", "support_distance": "support distance", "return": "return"}


def _interval(found: Mapping[str, float], digits: int) -> str:
    return f"{found['mean']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def _score_rows(dataset: Mapping[str, Any], world: str) -> list[list[str]]:
    rows = []
    for variant in dataset["variants"]:
        found, share = variant["statistics"][world], variant["outside_share"]
        cells = [_interval(found[m], _DIGITS[m]) for m in _DIGITS]
        rows.append([variant["label"], *cells, "-" if share is None else f"{100 * share:.1f}"])
    return rows


def _pair_rows(dataset: Mapping[str, Any], world: str, other: str) -> list[list[str]]:
    rows = []
    for variant in dataset["variants"]:
        if other in variant["against"]:
            cells = []
            for metric in _WORDS:
                found = variant["against"][other][world][metric]
                low, high = found["percent_interval"]
                cells.append(f"{found['percent']:+.2f} ({low:+.2f} to {high:+.2f}), {found['verdict']}")
            rows.append([variant["label"], *cells])
    return rows


def _reading(dataset: Mapping[str, Any], world: str, other: str, label: str) -> list[str]:
    """One sentence per metric: which variants are better or worse than `other`, as far as intervals show."""
    lines = []
    for metric, words in _WORDS.items():
        groups: dict[str, list[str]] = {"better": [], "worse": []}
        for variant in dataset["variants"]:
            if other in variant["against"]:
                groups.get(variant["against"][other][world][metric]["verdict"], []).append(variant["label"])
        said = "; ".join(f"{word}: {', '.join(names) or 'none'}" for word, names in groups.items())
        lines.append(f"- {words}, against {label}: {said}.")
    return lines


def ablation_markdown(result: Mapping[str, Any]) -> str:
    """The result of `run_ablation` as Markdown: scores, comparisons and verdicts of every dataset and world."""
    recipe, made = result["recipe"], result["provenance"]
    seeds = len(made["training_seeds"])
    updates = {v["training"]["updates"] for dataset in result["datasets"] for v in dataset["variants"]}
    text = [
        f"# Ablation {made['study']}",
        "",
        f"    {made['command']}",
        "",
        f"{len(recipe['variants'])} variants, {seeds} training seed{'s' if seeds > 1 else ''}, scope "
        f"{recipe['scope']}, {', '.join(map(str, sorted(updates)))} updates, {recipe['episodes']} episodes per patient "
        "and world. In brackets: 95 % bootstrap intervals over patients and training seeds. Comparisons are paired "
        "over patients; a gain is in per cent of the other's mean, positive is better; better or worse: the whole "
        "interval of the difference lies on that side, without a correction for how many are looked at. Outside %: "
        "decisions beyond the behaviour's own 95th percentile of support distance; data outside %: rows of the data "
        f"outside the ball. Code {made['code']}.",
    ]
    for dataset in result["datasets"]:
        labels = {v["name"]: v["label"] for v in dataset["variants"]}
        head = dataset["headline_world"]
        text += ["", f"## {dataset['dataset']}: {len(dataset['patients'])} patients, {dataset['timing']} timing"]
        others = dict.fromkeys((recipe["reference"], recipe["default"]))
        text += ["", f"In the {head} world:", ""]
        for other in others:
            text += _reading(dataset, head, other, labels[other])
        for world in sorted(dataset["worlds"], key=lambda w: w != head):
            text += ["", f"### {world.capitalize()} world", "", markdown_table(_HEADS, _score_rows(dataset, world))]
            for other in others:
                heads = [f"Against {labels[other]}, gain %", *_WORDS.values()]
                text += ["", markdown_table(heads, _pair_rows(dataset, world, other))]
    return "\n".join(text) + "\n"
