"""Dataset cards: a README with Hub front matter, from the manifest, and figures from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.datasets.records_card import records_card
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.registry import disease
from medgym_offline.diseases.views import FULL

if TYPE_CHECKING:
    from medgym_offline.datasets.card_figures import CardFigure
    from medgym_offline.datasets.transitions import Transitions

__all__ = ["dataset_card", "hub_tags", "write_card"]


def hub_tags(diseases: Sequence[str]) -> str:
    """Front matter that all cards on the Hub share."""
    tags = "\n".join(f"- {tag}" for tag in ("offline-rl", "minari", "medical", *diseases, "simulation"))
    return f"task_categories:\n- reinforcement-learning\ntags:\n{tags}\n"


def _single(disease: Disease) -> tuple[tuple[str, str], ...]:
    severity, cost, unit = disease.severity, disease.cost, disease.process.unit
    monitored = disease.components[disease.monitored]
    return (
        ("rewards", "reward of the decision"),
        ("costs", f"safety cost of the decision, {cost.definition} (`infos/cost`)"),
        ("dt", f"length of the interval, {unit} (`infos/dt`)"),
        ("time", f"when it ended, {unit} (`infos/time`)"),
        ("severity", f"{severity.label} at that time, {severity.unit} (`infos/{severity.name}`)"),
        ("monitored", f"{cost.component} at that time, {monitored.unit} (`infos/{cost.component}`)"),
    )


def _reward(kind: str, disease: Disease) -> str:
    severity = disease.severity
    return {
        "integral": f"-0.1 x the integral over the decision of ({severity.label} + {severity.burden_text})",
        "state": f"-0.1 x the integral over the decision of {severity.label} without treatment",
        "paper": f"-({severity.label} at the end) - {severity.burden_text}",
        "authors": "that of the paper's public code",
    }[kind]


def _numbers(statistics: dict[str, Any], index: int | None = None) -> str:
    values = [statistics[name] if index is None else statistics[name][index] for name in ("min", "mean", "max")]
    return " | ".join(f"{value:.4g}" for value in values)


def _columns(manifest: dict[str, Any], disease: Disease) -> str:
    columns, process = manifest["columns"], disease.process
    lines = ["| column | meaning | min | mean | max |", "|---|---|---|---|---|"]
    view = manifest["recipe"].get("view", FULL) if "records" in manifest else FULL
    for i, feature in enumerate(disease.seen(view)):
        numbers = _numbers(columns["observations"], i)
        unit = f"normalized from {feature.unit}" if feature in disease.observation else feature.unit
        lines.append(f"| `observations[{i}]` {feature.name} | {unit} | {numbers} |")
    meanings = [f"{t.label or t.name}, {t.unit}; -1 is {t.lower:g}" for t in disease.treatments]
    meanings.append(f"-1 is {process.min_interval:g} {process.unit}, 1 is {process.max_interval:g} {process.unit}")
    for i in range(len(columns["actions"]["min"])):
        numbers = _numbers(columns["actions"], i)
        lines.append(f"| `actions[{i}]` {disease.action_names[i]} | {meanings[i]} | {numbers} |")
    for name, meaning in _single(disease):
        lines.append(f"| `{name}` | {meaning} | {_numbers(columns[name])} |")
    for i, cost in enumerate(disease.costs):
        meaning = f"rate of {cost.name} ({cost.component}, {cost.side} {cost.limit:g}) along the path (`infos/costs_"
        lines.append(f"| `costs_path[{i}]` | integral of the {meaning}path`) | {_numbers(columns['costs_path'], i)} |")
        lines.append(f"| `costs_peak[{i}]` | largest {meaning}peak`) | {_numbers(columns['costs_peak'], i)} |")
    if "behavior_log_prob" in columns:
        numbers = _numbers(columns["behavior_log_prob"])
        lines.append(f"| `behavior_log_prob` | log-probability of the action (`infos/behavior_log_prob`) | {numbers} |")
    return "\n".join(lines)


def _size_category(rows: int) -> str:
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if rows < bound), "1M<n<10M")


def write_card(folder: Path, manifest: dict[str, Any], rows: Transitions, figures: bool = True) -> None:
    """Write `README.md` and, with `figures`, `figures/*.png` into a dataset's folder.

    Raises:
        MissingExtraError: figures are wanted and matplotlib is not installed.
    """
    from medgym_offline.datasets.card_figures import draw_figures

    drawn = draw_figures(folder / "figures", rows) if figures else []
    (folder / "README.md").write_text(dataset_card(manifest, drawn), encoding="utf-8")


def _gallery(figures: Sequence[CardFigure]) -> str:
    if not figures:
        return ""
    parts = [f"![{figure.caption}](figures/{figure.file})\n\n{figure.caption}" for figure in figures]
    return "\n## Figures\n\n" + "\n\n".join(parts) + "\n"


def _remake(manifest: dict[str, Any]) -> str:
    """The command that makes these rows again; of a part of a dataset as far as the manifest can name it."""
    command = f"medgym-offline generate {manifest['source']}"
    if manifest["id"] == manifest["source"]:
        return f"To make it again: `{command}`"
    patients, episodes = manifest["patients"], manifest["recipe"]["episodes"]
    if patients == list(range(len(patients))):
        command += f" --patients {len(patients)} --episodes {episodes} --as {manifest['id']}"
        return f"It is a part of `{manifest['source']}`; to make it again: `{command}`"
    return f"It is a part of `{manifest['source']}`: patients {', '.join(map(str, patients))} of the bank"


def _scores(references: dict[str, Any], policy: str) -> str:
    """Table of reference returns; a second column where the data come from another world than the own one."""
    there = references.get("data_world")
    columns = [references["returns"], *([there["returns"]] if there else [])]
    worlds = [references["world"], *([there["world"]] if there else [])]
    lines = [
        "| policy | " + " | ".join(f"return, `{world}`" for world in worlds) + " |",
        "|---" * (1 + len(worlds)) + "|",
    ]
    for key, label in (
        ("random", "random (uniform actions)"),
        ("zero", "zero treatment"),
        ("behavior", f"behavior ({policy}, unperturbed)"),
        ("expert", f"expert ({references['expert']})"),
    ):
        lines.append(f"| {label} | " + " | ".join(f"{column[key]:.2f}" for column in columns) + " |")
    return "\n".join(lines)


_WORLDS = {
    "own": "every patient's own simulator",
    "crossfit": "every patient's second simulator, fitted to the other half of the record",
    "true": "the true patients, whose dynamics are known, in place of fitted simulators",
}


def _origin(digest: str) -> str:
    return "built in" if digest.startswith("builtin:") else f"sha256 `{digest[:16]}`"


def _training(manifest: dict[str, Any]) -> str:
    """How the behavior relates to the simulators, as a limitation."""
    parts = manifest["behavior"].get("parts", [manifest["behavior"]])
    if all(part["sha256"].startswith("builtin:") for part in parts):
        return "The behavior is built in and learned nothing."
    if manifest["recipe"].get("world", "own") == "own":
        return "The behavior was trained in the same simulators that made the data."
    return "The behavior was trained in the patients' own simulators; the data come from another world."


def dataset_card(manifest: dict[str, Any], figures: Sequence[CardFigure] = ()) -> str:
    """Card of a dataset as markdown with Hub front matter.

    Args:
        manifest: From `generate` or `read_manifest`.
        figures: Those beside it, from `draw_figures`.
    """
    recipe, references = manifest["recipe"], manifest["references"]
    of = disease(manifest["disease"])
    head = f"""---
license: {of.license}
pretty_name: {manifest["id"]}
{hub_tags([of.name])}viewer: false
size_categories:
- {_size_category(manifest["steps"])}
---
"""
    if "records" in manifest:
        return records_card(manifest, head.replace("- simulation\n", ""), _columns(manifest, of))
    process = of.process
    end = f"{process.horizon:g} {process.unit}"
    name = manifest["id"]
    policy = manifest["behavior"]["name"]
    noise = f"actions perturbed by N(0, {recipe['perturbation']:g}^2) and clipped" if recipe["perturbation"] else ""
    origin = f" ({manifest['bank']['source']})" if manifest["bank"]["source"] else ""
    steps, file = manifest["episode_steps"], manifest["files"][DATA_FILE]
    returned = manifest["episode_returns"]
    return f"""{head}
# {name}

{recipe["description"]}

{of.description} Simulated episodes for research on offline reinforcement learning: no row is a record of a patient, and
nothing learned from it is fit for care.

```python
import medgym_offline as mgo
data = mgo.load_dataset("{name}")  # flat NumPy arrays, one row per decision

import minari
dataset = minari.load_dataset("{name}")  # the same episodes in Minari's format
env = dataset.recover_environment()
```

## What is in it

| | |
|---|---|
| patients | {len(manifest["patients"])} |
| episodes | {manifest["episodes"]:,} ({recipe["episodes"]} per patient) |
| decisions | {manifest["steps"]:,}; per episode {steps["min"]} to {steps["max"]}, mean {steps["mean"]:.1f} |
| timing | {recipe["timing"]}, at most K = {recipe["decisions"]} decisions in {end} |
| reward | {_reward(recipe["reward"], of)} |
| return of an episode | mean {returned["mean"]:.2f}, standard deviation {returned["std"]:.2f} |
| file | `main_data.hdf5`, {file["bytes"] / 1e6:.1f} MB, sha256 `{file["sha256"]}` |
| identity | `{manifest["identity"]}` |

Every episode ends at {end} with `terminated`; none is truncated. Patient id and seed are in each episode's metadata.

## How it was made

Simulator bank `{manifest["bank"]["name"]}` (sha256 `{manifest["bank"]["content_hash"][:16]}`), behavior policy
`{policy}` ({_origin(manifest["behavior"]["sha256"])}){", " + noise if noise else ""}; initial states perturbed by
N(0, {process.initial_noise:g}^2), residual noise on. Episodes run in {_WORLDS[recipe["world"]]}.
Root seed {recipe["seed"]}, code {manifest["code_version"]}. {_remake(manifest)}; to check
it: `medgym-offline verify {name}`.

## Columns

{_columns(manifest, of)}

`next_observations`, `terminations`, `truncations`, `patient` (index into the bank) and `episode` complete a row.
{_gallery(figures)}
## Scores

Mean undiscounted returns of an episode, {references["episodes"]} episodes per patient, in
{_WORLDS[references["world"]]} (`{references["world"]}`), in which the expert is chosen.

{_scores(references, policy)}

Normalized score: 100 x (return - random) / (expert - random).

## Limitations

- The simulators are fitted to few, short, confounded records; what those cannot identify is a stated prior. A
  policy's score here says how it does in these simulators, not on patients.
- {of.caution}
- {_training(manifest)}

## License and lineage

{of.license.upper()}. The episodes are output of simulators{origin}. {of.lineage} The code is under the MIT license.

## Citation

Cite MedGym Offline (code {manifest["code_version"]}), this dataset's id and its identity, and the sources above.
"""
