"""Cards with Hub front matter: of a dataset, from its manifest, and of a repository that holds several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medgym_offline.datasets.catalogue import DATA_FILE, SCORED
from medgym_offline.diseases.base import FULL, Disease
from medgym_offline.diseases.registry import disease, disease_of_id

__all__ = ["dataset_card", "family_card"]


def _front(name: str, licenses: set[str], tags: Iterable[str]) -> str:
    """The Hub's front matter."""
    lines = "\n".join(f"- {tag}" for tag in ("offline-rl", "minari", "medical", *tags))
    known = licenses.pop() if len(licenses) == 1 else "other"
    about = f"license: {known}\npretty_name: {name}\nviewer: false\ntask_categories:\n- reinforcement-learning"
    return f"---\n{about}\ntags:\n{lines}\n---\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def _columns(manifest: dict[str, Any], of: Disease) -> str:
    """Table of the columns: the name and unit of each place in them, and its smallest, mean and largest value."""
    view = manifest["recipe"].get("view", FULL) if "records" in manifest else FULL
    severity, unit, costs = of.severity, of.process.unit, [one.name for one in of.costs]
    meanings = {
        "observations": [f"{feature.name}, {feature.unit}" for feature in of.seen(view)],
        "actions": of.action_names,
        "rewards": ["of the decision"],
        "costs": [f"of the decision, {of.cost.definition}"],
        "dt": [f"length of the interval, {unit}"],
        "time": [f"its end, {unit}"],
        "severity": [f"{severity.label} at its end, {severity.unit}"],
        "monitored": [f"{of.cost.component} at its end, {of.components[of.monitored].unit}"],
        "costs_path": [f"integral of {name}" for name in costs],
        "costs_peak": [f"largest {name}" for name in costs],
        "behavior_log_prob": ["of the action"],
    }
    rows = []
    for column, names in meanings.items():
        stated = manifest["columns"].get(column)  # a behavior without noise has no probabilities
        if stated is None:
            continue
        numbers = np.column_stack([np.atleast_1d(stated[kind]) for kind in ("min", "mean", "max")])
        rows += [(f"`{column}`", name, *(f"{x:.4g}" for x in place)) for name, place in zip(names, numbers)]
    return _table(("column", "meaning", "min", "mean", "max"), rows)


_REWARDS = {
    "integral": "-0.1 x the integral over the decision of severity and burden",
    "state": "-0.1 x the integral over the decision of severity without treatment",
    "paper": "-(severity and burden at the end)",
    "authors": "that of the paper's public code",
    "death": "-1 in the last row of a stay whose patient died in hospital, then or later, else 0",
}


def dataset_card(manifest: dict[str, Any]) -> str:
    """Card of a dataset as markdown with Hub front matter, from its manifest."""
    recipe, steps, name = manifest["recipe"], manifest["episode_steps"], manifest["id"]
    of, records = disease(manifest["disease"]), "records" in manifest
    returned, file = manifest["episode_returns"], manifest["files"][DATA_FILE]
    facts = {
        "patients": len(manifest["patients"]),
        "episodes": f"{manifest['episodes']:,}; at most {recipe['decisions']} decisions, {recipe['timing']} timing",
        "decisions": f"{manifest['steps']:,}; per episode {steps['min']} to {steps['max']}, mean {steps['mean']:.1f}",
        "reward": _REWARDS[recipe["reward"]],
        "return of an episode": f"mean {returned['mean']:.2f}, standard deviation {returned['std']:.2f}",
        "file": f"`main_data.hdf5`, {file['bytes'] / 1e6:.1f} MB, sha256 `{file['sha256']}`",
        "identity": f"`{manifest['identity']}`",
    }
    return f"""{_front(name, {of.license}, [of.name] if records else [of.name, "simulation"])}
# {name}

{recipe["description"]}

{of.description} {_about_records(manifest) if records else _ABOUT}

```python
import medgym_offline as mgo
data = mgo.load_dataset("{name}")  # flat NumPy arrays, one row per decision

import minari
dataset = minari.load_dataset("{name}")  # the same episodes in Minari's format
env = dataset.recover_environment()
```

{_table(("", ""), facts.items())}

{_charted(manifest, of) if records else _simulated(manifest, of)}
## Columns

{_columns(manifest, of)}

`next_observations`, `terminations`, `truncations`, `patient` (index into the bank) and `episode` complete a row.
"""


_ABOUT = """Simulated episodes for research on offline reinforcement learning: no row is a record of a patient, and
nothing learned from it is fit for care."""


def _simulated(manifest: dict[str, Any], of: Disease) -> str:
    """How simulated episodes were made, their scores, limitations and license."""
    recipe, references, bank = manifest["recipe"], manifest["references"], manifest["bank"]
    source, who, behavior = manifest["source"], manifest["patients"], manifest["behavior"]
    again = f"medgym-offline generate {source}"
    if manifest["id"] != source:
        chosen = len(who) if who == list(range(len(who))) else "IDS"
        again += f" --patients {chosen} --episodes {recipe['episodes']} --as {manifest['id']}"
    size = recipe["perturbation"]
    perturbed = f"perturbed by N(0, {size:g}^2) and clipped" if size else "not perturbed"
    worlds = [one for one in (references, references.get("data_world")) if one]
    scores = [[key, *(f"{one['returns'][key]:.2f}" for one in worlds)] for key in SCORED]
    return f"""Every episode ends at {of.process.horizon:g} {of.process.unit} with `terminated`; none is truncated.
Patient and seed are in each episode's metadata.

## How it was made

Bank `{bank["name"]}` (sha256 `{bank["content_hash"][:16]}`), world `{recipe["world"]}`; behavior `{behavior["name"]}`
(`{behavior["sha256"][:20]}`), actions {perturbed}; initial states perturbed by
N(0, {of.process.initial_noise:g}^2), residual noise on. Root seed {recipe["seed"]}, code
{manifest["code_version"]}. To make it again: `{again}`; to check it: `medgym-offline verify {manifest["id"]}`.

## Scores

Mean undiscounted returns of an episode, {references["episodes"]} episodes per patient, actions unperturbed. The expert,
`{references["expert"]}`, is chosen in the first world.

{_table(("policy", *(f"return, `{one['world']}`" for one in worlds)), scores)}

Normalized score: 100 x (return - random) / (expert - random).

## Limitations

- The simulators are fitted to few, short, confounded records; what those cannot identify is a stated prior. A
  policy's score here says how it does in these simulators, not on patients.
- {of.caution}

## License and citation

{of.license.upper()}. The episodes are output of simulators ({bank["source"] or bank["name"]}). {of.lineage} The code is
under the MIT license. Cite MedGym Offline, this dataset's id and its identity, and the sources above.
"""


def _about_records(manifest: dict[str, Any]) -> str:
    folders = ", ".join(manifest["recipe"]["records"])
    return f"""**Rows are records of real people, de-identified.** They stay under the license of the records:
{manifest["records"]["license"]}. No file of them is shipped: `medgym-offline generate {manifest["id"]}` makes them
where `MEDGYM_CLINICAL_DATA` names the folder of {folders}. Nothing learned from them is fit for care."""


def _charted(manifest: dict[str, Any], of: Disease) -> str:
    """How episodes of records came about, and their limitations."""
    facts, unit = manifest["records"], of.process.unit
    rule, found = facts["rule"], facts["calibration"]
    clipped = ", ".join(f"{drug} {count}" for drug, count in facts["clipped"].items())
    levels = [[name, *(f"{100 * share:.0f} %" for share in own.values())] for name, own in found["coverage"].items()]
    rejections = "\n".join(f"- {line}" for line in facts["rejections"]) or "- nothing"
    return f"""A patient is a person, an episode a stay.
{facts["stays"]} stays of {facts["persons"]} persons, all that are eligible by the cohort's rule; {facts["died"]}
ended in death in hospital. An episode terminates at death, discharge or {rule["horizon"]:g} {unit}.

## A decision

A change of any treatment's rate in force by more than {100 * rule["tolerance"]:g} % of the larger rate, at least
{rule["apart"]:g} {unit} after the decision before it (sooner changes belong to that one), or the decision to go on,
{rule["longest"]:g} {unit} after it. The last action asks for the interval. Doses are means over the interval, mapped by
the scales of bank `{manifest["bank"]["name"]}`; larger ones are clipped (decisions: {clipped}).

Seen are the last charted values whose results were in, their ages and masks, and what derives from what was charted
until then. Severity, {of.cost.component} and costs are read from charted values, each held until the next; what was
never charted counts as the least severe end of its usual range.

## Probability of the actions

Nobody knows it. `behavior_log_prob` is **estimated**: a stochastic clone of the clinicians, given the observation and
the doses before, cross-fitted by person. Held-out log-likelihood a decision: {found["log_likelihood"]:.2f} (of a clone
that sees nothing: {found["log_likelihood_marginal"]:.2f}). How often central intervals cover, held out:

{_table(("action", "50 %", "80 %", "95 %"), levels)}

## Limitations

- Confounded: clinicians saw and knew more than is charted, and treat the sicker more. No estimate from these rows is
  the effect of a policy on patients.
- Few stays, in which the practice of years, and of hospitals where there are several, is mixed.
- {of.caution}
- Rows of the records turned away, repaired or doubted:

{rejections}
"""


def family_card(remote: str, datasets: Sequence[str]) -> str:
    """Card of a namespace as markdown with Hub front matter.

    Args:
        remote: `hf://ORG` it is published at.
        datasets: Ids of its datasets.
    """
    first = datasets[0]
    namespace = first.partition("/")[0]
    links = "\n".join(f"- [`{one}`]({one.partition('/')[2]}/README.md)" for one in datasets)
    known = [disease(kind) for kind in sorted({disease_of_id(dataset) for dataset in datasets})]
    lineage = "\n".join(f"- {one.label}: {one.license.upper()}. {one.lineage}".rstrip() for one in known)
    return f"""{_front(namespace, {one.license for one in known}, [one.name for one in known] + ["simulation"])}
# {namespace}

Datasets of simulated episodes of treatment, for research on offline reinforcement learning, in [Minari](https://minari.farama.org)'s
format. No row is a record of a patient, and nothing learned from them is fit for care.

{links}

Each has a card with its returns and columns, and a manifest with checksums (`data/manifest.json`).

```bash
medgym-offline download {first} --remote {remote}
MINARI_REMOTE={remote} minari download {first}
```

{lineage}

Cite the sources, MedGym Offline, and the dataset's id and identity.
"""
