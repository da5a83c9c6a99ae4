"""Cards with Hub front matter: of a dataset, from its manifest and rows, and of a repository that holds several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.datasets.catalogue import DATA_FILE, info_of, listing_table
from medgym_offline.datasets.records_card import records_card
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.registry import disease, disease_of_id
from medgym_offline.diseases.views import FULL

if TYPE_CHECKING:
    from medgym_offline.datasets.card_figures import CardFigure
    from medgym_offline.datasets.transitions import Transitions

__all__ = ["dataset_card", "family_card", "write_card"]


def _hub_tags(diseases: Sequence[str]) -> str:
    """Front matter that all cards on the Hub share."""
    tags = "\n".join(f"- {tag}" for tag in ("offline-rl", "minari", "medical", *diseases, "simulation"))
    return f"task_categories:\n- reinforcement-learning\ntags:\n{tags}\n"


def _reward(kind: str, disease: Disease) -> str:
    severity = disease.severity
    return {
        "integral": f"-0.1 x the integral over the decision of ({severity.label} + {severity.burden_text})",
        "state": f"-0.1 x the integral over the decision of {severity.label} without treatment",
        "paper": f"-({severity.label} at the end) - {severity.burden_text}",
        "authors": "that of the paper's public code",
    }[kind]


def _columns(manifest: dict[str, Any], of: Disease) -> str:
    """Table of the columns: what each means, and its smallest, mean and largest value."""
    severity, cost, process = of.severity, of.cost, of.process
    unit, monitored = process.unit, of.components[of.monitored]
    view = manifest["recipe"].get("view", FULL) if "records" in manifest else FULL
    rows: list[tuple[str, int | None, str, str]] = []  # column, place in it, name of that place, meaning
    for i, feature in enumerate(of.seen(view)):
        normalized = "normalized from " if feature in of.observation else ""
        rows.append(("observations", i, feature.name, f"{normalized}{feature.unit}"))
    doses = [f"{t.label or t.name}, {t.unit}; -1 is {t.lower:g}" for t in of.treatments]
    interval = f"-1 is {process.min_interval:g} {unit}, 1 is {process.max_interval:g} {unit}"
    # Fixed timing has no action for the interval.
    named = zip(manifest["columns"]["actions"]["min"], of.action_names, (*doses, interval))
    rows += [("actions", i, name, meaning) for i, (_, name, meaning) in enumerate(named)]
    rows += [
        ("rewards", None, "", "reward of the decision"),
        ("costs", None, "", f"safety cost of the decision, {cost.definition} (`infos/cost`)"),
        ("dt", None, "", f"length of the interval, {unit} (`infos/dt`)"),
        ("time", None, "", f"when it ended, {unit} (`infos/time`)"),
        ("severity", None, "", f"{severity.label} at that time, {severity.unit} (`infos/{severity.name}`)"),
        ("monitored", None, "", f"{cost.component} at that time, {monitored.unit} (`infos/{cost.component}`)"),
    ]
    for i, one in enumerate(of.costs):
        rate = f"rate along the path ({one.component}, {one.side} {one.limit:g}; `infos/costs_"
        rows.append(("costs_path", i, one.name, f"integral of the {rate}path`)"))
        rows.append(("costs_peak", i, one.name, f"largest {rate}peak`)"))
    rows.append(("behavior_log_prob", None, "", "log-probability of the action (`infos/behavior_log_prob`)"))
    lines = ["| column | meaning | min | mean | max |", "|---|---|---|---|---|"]
    for column, place, name, meaning in rows:
        if column not in manifest["columns"]:
            continue  # a behavior without noise has no probabilities
        numbers = [manifest["columns"][column][kind] for kind in ("min", "mean", "max")]
        shown = " | ".join(f"{number if place is None else number[place]:.4g}" for number in numbers)
        title = f"`{column}`" if place is None else f"`{column}[{place}]` {name}"
        lines.append(f"| {title} | {meaning} | {shown} |")
    return "\n".join(lines)


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


def _scores(references: dict[str, Any], policy: str) -> str:
    """Table of reference returns; a second column where the data come from another world than the own one."""
    columns = [one for one in (references, references.get("data_world")) if one]
    heads = ["policy", *(f"return, `{column['world']}`" for column in columns)]
    labels = {
        "random": "random (uniform actions)",
        "zero": "zero treatment",
        "behavior": f"behavior ({policy}, unperturbed)",
        "expert": f"expert ({references['expert']})",
    }
    rows = [[label, *(f"{column['returns'][key]:.2f}" for column in columns)] for key, label in labels.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


_WORLDS = {
    "own": "every patient's own simulator",
    "crossfit": "every patient's second simulator, fitted to the other half of the record",
    "true": "the true patients, whose dynamics are known, in place of fitted simulators",
}


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
{_hub_tags([of.name])}viewer: false
---
"""
    if "records" in manifest:
        return records_card(manifest, head.replace("- simulation\n", ""), _columns(manifest, of))
    process = of.process
    end = f"{process.horizon:g} {process.unit}"
    name, source = manifest["id"], manifest["source"]
    part, again, who = "", f"medgym-offline generate {source}", manifest["patients"]
    if name != source:
        chosen = len(who) if who == list(range(len(who))) else "IDS"
        part = f" It is a part of `{source}`: patients {', '.join(map(str, who))} of the bank."
        again += f" --patients {chosen} --episodes {recipe['episodes']} --as {name}"
    policy = manifest["behavior"]["name"]
    sigma = recipe["perturbation"]
    noise = f", actions perturbed by N(0, {sigma:g}^2) and clipped" if sigma else ""
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
`{policy}` (`{manifest["behavior"]["sha256"][:20]}`){noise}; initial states perturbed by
N(0, {process.initial_noise:g}^2), residual noise on. Episodes run in {_WORLDS[recipe["world"]]}.
Root seed {recipe["seed"]}, code {manifest["code_version"]}.{part} To make it again:
`{again}`; to check it: `medgym-offline verify {name}`.

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

## License and citation

{of.license.upper()}. The episodes are output of simulators{origin}. {of.lineage} The code is under the MIT license.
Cite MedGym Offline (code {manifest["code_version"]}), this dataset's id and its identity, and the sources above.
"""


def family_card(remote: str, manifests: Mapping[str, dict[str, Any] | None]) -> str:
    """Card of a namespace as markdown with Hub front matter.

    Args:
        remote: `hf://ORG` it is published at.
        manifests: Of each of its datasets, by id; None where it has none, and is not in the table.
    """
    first = min(manifests)
    namespace = first.partition("/")[0]
    table = listing_table(info_of(manifest) for _, manifest in sorted(manifests.items()) if manifest is not None)
    for dataset in manifests:
        table = table.replace(f"`{dataset}`", f"[`{dataset}`]({dataset.partition('/')[2]}/README.md)")
    kinds = sorted({disease_of_id(dataset) for dataset in manifests})
    known = [disease(kind) for kind in kinds]
    lineage = "\n".join(f"- {one.label}: {one.license.upper()}. {one.lineage}".rstrip() for one in known)
    licenses = {one.license for one in known}
    return f"""---
license: {licenses.pop() if len(licenses) == 1 else "other"}
pretty_name: {namespace}
viewer: false
{_hub_tags(kinds)}---

# {namespace}

Datasets of simulated episodes of treatment, for research on offline reinforcement learning, in [Minari](https://minari.farama.org)'s
format. No row is a record of a patient, and nothing learned from them is fit for care.

{table}

`random`, `behavior` and `expert` (the best policy shipped for the simulators) are mean undiscounted returns of an
episode; `score` is the behavior's between the two others, in percent. Each dataset has a card and a manifest with
checksums (`data/manifest.json`).

```bash
medgym-offline download {first} --remote {remote}
MINARI_REMOTE={remote} minari download {first}
```

The first compares every file with the checksums that the package ships or the manifest states.

{lineage}

Cite the sources, MedGym Offline, and the dataset's id and identity.
"""
