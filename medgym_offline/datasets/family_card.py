"""Card of a repository that holds several datasets: the README beside the namespace's metadata."""

from __future__ import annotations

from typing import Any

from medgym_offline.datasets.card import HUB_TAGS

__all__ = ["family_card"]


def _row(dataset: str, manifest: dict[str, Any] | None) -> str:
    folder = dataset.partition("/")[2]
    link = f"[`{dataset}`]({folder}/README.md)"
    if manifest is None:
        return f"| {link} | | | | | |"
    returns = manifest["references"]["returns"]
    recipe = manifest["recipe"]
    numbers = f"{manifest['episodes']:,} | {manifest['steps']:,} | {returns['random']:.2f} | {returns['behavior']:.2f}"
    return f"| {link} | {recipe['description']} | {numbers} |"


def family_card(namespace: str, remote: str, manifests: dict[str, dict[str, Any] | None]) -> str:
    """Card of a namespace as markdown with Hub front matter.

    Args:
        namespace: For example `medgym`.
        remote: `hf://ORG` it is published at.
        manifests: Of each dataset listed; None where it has none.
    """
    rows = "\n".join(_row(dataset, manifests[dataset]) for dataset in sorted(manifests))
    first = sorted(manifests)[0]
    return f"""---
license: odbl
pretty_name: {namespace}
viewer: false
{HUB_TAGS}---

# {namespace}

Datasets of simulated episodes of treating sepsis for 96 hours, for research on offline reinforcement learning, in
[Minari](https://minari.farama.org)'s format. No row is a record of a patient, and nothing learned from them is fit for
care.

| dataset | behaviour | episodes | decisions | random | behaviour's return |
|---|---|---|---|---|---|
{rows}

Returns are mean undiscounted returns of an episode. Each dataset has its own card, a manifest with the checksums of its
files (`data/manifest.json`) and a tag of its name.

## Download

```bash
medgym-offline download {first} --remote {remote}
MINARI_REMOTE={remote} minari download {first}
```

The first compares every file with the checksums that the package ships or the manifest states.

## Licence and lineage

Open Database Licence 1.0 (ODbL). The episodes are output of simulators fitted or calibrated to the MIMIC-III Clinical
Database Demo v1.4 and the MIMIC-IV Clinical Database Demo v2.2 (PhysioNet, ODbL 1.0), or, where a card says so, of a
twin of known truth calibrated to them. Cite both, MedGym Offline, and the dataset's id and content hash.
"""
