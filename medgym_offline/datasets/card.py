"""Dataset cards: a README with Hub front matter, from the manifest, and figures from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.datasets.catalogue import DATA_FILE

if TYPE_CHECKING:
    from medgym_offline.datasets.card_figures import CardFigure
    from medgym_offline.datasets.transitions import Transitions

__all__ = ["HUB_TAGS", "dataset_card", "write_card"]

HUB_TAGS = """task_categories:
- reinforcement-learning
tags:
- offline-rl
- minari
- medical
- sepsis
- simulation
"""
"""Front matter that all cards on the Hub share."""

_OBSERVED = (
    ("spo2", "oxygen saturation, normalised (%)"),
    ("pao2", "arterial oxygen pressure, normalised (mmHg)"),
    ("bilirubin", "total bilirubin, normalised (mg/dL)"),
    ("gcs", "Glasgow coma scale, normalised (points)"),
    ("urine", "urine output, normalised (mL/day)"),
    ("lactate", "lactate, normalised (mmol/L)"),
    ("fluid balance", "since the start, in 5 L"),
    ("remaining time", "hours / 96"),
    ("remaining decisions", "decisions / K"),
)
_TREATMENTS = (
    ("fio2", "inspired oxygen; -1 is room air"),
    ("vasopressor", "norepinephrine equivalents; -1 is none"),
    ("fluids", "intravenous fluids; -1 is none"),
    ("interval", "hours until the next decision: -1 is 0.5 h, 1 is 36 h"),
)
_SINGLE = (
    ("rewards", "reward of the decision"),
    ("costs", "safety cost of the decision, from lactate (`infos/cost`)"),
    ("dt", "hours the decision was held (`infos/dt`)"),
    ("time", "hour at which it ended (`infos/time`)"),
    ("sofa", "SOFA surrogate at that hour, points (`infos/sofa`); not the clinical score"),
    ("lactate", "lactate at that hour, mmol/L (`infos/lactate`)"),
)
_REWARDS = {
    "integral": "-0.1 x the integral over the decision of (SOFA surrogate + 0.2 x normalised vasopressor)",
    "paper": "-(SOFA surrogate at the end) - 0.2 x normalised vasopressor",
    "authors": "that of the paper's public code",
}


def _numbers(statistics: dict[str, Any], index: int | None = None) -> str:
    values = [statistics[name] if index is None else statistics[name][index] for name in ("min", "mean", "max")]
    return " | ".join(f"{value:.4g}" for value in values)


def _columns(manifest: dict[str, Any]) -> str:
    columns = manifest["columns"]
    lines = ["| column | meaning | min | mean | max |", "|---|---|---|---|---|"]
    for i, (name, meaning) in enumerate(_OBSERVED):
        lines.append(f"| `observations[{i}]` {name} | {meaning} | {_numbers(columns['observations'], i)} |")
    for i in range(len(columns["actions"]["min"])):
        name, meaning = _TREATMENTS[i]
        lines.append(f"| `actions[{i}]` {name} | {meaning} | {_numbers(columns['actions'], i)} |")
    for name, meaning in _SINGLE:
        lines.append(f"| `{name}` | {meaning} | {_numbers(columns[name])} |")
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
    worlds = ["own", *([there["world"]] if there else [])]
    lines = [
        "| policy | " + " | ".join(f"return, `{world}`" for world in worlds) + " |",
        "|---" * (1 + len(worlds)) + "|",
    ]
    for key, label in (
        ("random", "random (uniform actions)"),
        ("zero", "zero treatment"),
        ("behavior", f"behaviour ({policy}, unperturbed)"),
        ("expert", f"expert ({references['expert']})"),
    ):
        lines.append(f"| {label} | " + " | ".join(f"{column[key]:.2f}" for column in columns) + " |")
    return "\n".join(lines)


_WORLDS = {
    "own": "every patient's own simulator",
    "held-out": "every patient's held-out simulator, fitted to the other hours of the stay",
    "true": "the twin patients themselves, whose truth is known, in place of fitted simulators",
}


def _origin(digest: str) -> str:
    return "built in" if digest.startswith("builtin:") else f"sha256 `{digest[:16]}`"


def _training(manifest: dict[str, Any]) -> str:
    """How the behaviour relates to the simulators, as a limitation."""
    parts = manifest["behavior"].get("parts", [manifest["behavior"]])
    if all(part["sha256"].startswith("builtin:") for part in parts):
        return "The behaviour is built in and learned nothing."
    if manifest["recipe"].get("world", "own") == "own":
        return "The behaviour was trained in the same simulators that made the data."
    return "The behaviour was trained in the patients' own simulators; the data come from another world."


def dataset_card(manifest: dict[str, Any], figures: Sequence[CardFigure] = ()) -> str:
    """Card of a dataset as markdown with Hub front matter.

    Args:
        manifest: From `generate` or `read_manifest`.
        figures: Those beside it, from `draw_figures`.
    """
    recipe, references = manifest["recipe"], manifest["references"]
    name = manifest["id"]
    policy = manifest["behavior"]["name"]
    noise = f"actions perturbed by N(0, {recipe['perturbation']:g}^2) and clipped" if recipe["perturbation"] else ""
    origin = f" ({manifest['bank']['source']})" if manifest["bank"]["source"] else ""
    steps, file = manifest["episode_steps"], manifest["files"][DATA_FILE]
    returned = manifest["episode_returns"]
    return f"""---
license: odbl
pretty_name: {name}
{HUB_TAGS}viewer: false
size_categories:
- {_size_category(manifest["steps"])}
---

# {name}

{recipe["description"]}

Simulated episodes of treating sepsis for 96 hours, for research on offline reinforcement learning. No row is a
record of a patient, and nothing learned from it is fit for care.

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
| timing | {recipe["timing"]}, at most K = {recipe["decisions"]} decisions in 96 h |
| reward | {_REWARDS[recipe["reward"]]} |
| return of an episode | mean {returned["mean"]:.2f}, standard deviation {returned["std"]:.2f} |
| file | `main_data.hdf5`, {file["bytes"] / 1e6:.1f} MB, sha256 `{file["sha256"]}` |
| identity | `{manifest["identity"]}` |

Every episode ends at 96 h with `terminated`; none is truncated. Patient id and seed are in each episode's metadata.

## How it was made

Simulator bank `{manifest["bank"]["name"]}` (sha256 `{manifest["bank"]["content_hash"][:16]}`), behaviour policy
`{policy}` ({_origin(manifest["behavior"]["sha256"])}){", " + noise if noise else ""}; initial states perturbed by
N(0, 0.05^2), residual noise on. Episodes run in {_WORLDS[recipe.get("world", "own")]}. Root seed {recipe["seed"]}, code
{manifest["code_version"]}. {_remake(manifest)}; to check it: `medgym-offline verify {name}`.

## Columns

{_columns(manifest)}

`next_observations`, `terminations`, `truncations`, `patient` (index into the bank) and `episode` complete a row.
{_gallery(figures)}
## Scores

Mean undiscounted returns of an episode, {references["episodes"]} episodes per patient; `own` is the world of the
patients' fitted simulators, in which the expert is chosen.

{_scores(references, policy)}

Normalised score: 100 x (return - random) / (expert - random).

## Limitations

- The simulators are fitted to few, short, confounded records; what those cannot identify is a stated prior. A
  policy's score here says how it does in these simulators, not on patients.
- The SOFA surrogate is smooth, has no coagulation term and reads oxygenation from SpO2.
- {_training(manifest)}

## Licence and lineage

Open Database Licence 1.0 (ODbL). The episodes are output of simulators{origin}. Those of the
release's banks were fitted or calibrated to the MIMIC-III Clinical Database Demo v1.4 and the MIMIC-IV Clinical
Database Demo v2.2 (PhysioNet, ODbL 1.0). The code is under the MIT licence.

## Citation

Cite MedGym Offline (code {manifest["code_version"]}), this dataset's id and its identity, and the two MIMIC
demo databases.
"""
