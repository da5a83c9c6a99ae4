"""Card of a repository that holds several datasets: the README beside the namespace's metadata."""

from __future__ import annotations

from typing import Any

from medgym_offline.datasets.card import hub_tags
from medgym_offline.diseases.registry import disease, disease_of_id

__all__ = ["family_card"]


def _row(dataset: str, manifest: dict[str, Any] | None) -> str:
    folder = dataset.partition("/")[2]
    link = f"[`{folder}`]({folder}/README.md)"
    if manifest is None:
        return f"| {link} | | | | | | | |"
    returns = manifest["references"]["returns"]
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    cells = [manifest["recipe"]["description"], f"{manifest['episodes']:,}", f"{manifest['steps']:,}", f"{size:.1f}"]
    cells += [f"{returns[name]:.2f}" for name in ("random", "behavior", "expert")]
    return f"| {link} | {' | '.join(cells)} |"


def family_card(namespace: str, remote: str, manifests: dict[str, dict[str, Any] | None]) -> str:
    """Card of a namespace as markdown with Hub front matter.

    Args:
        namespace: For example `medgym`.
        remote: `hf://ORG` it is published at.
        manifests: Of each dataset listed; None where it has none.
    """
    rows = "\n".join(_row(dataset, manifests[dataset]) for dataset in sorted(manifests))
    first = sorted(manifests)[0]
    kinds = sorted({disease_of_id(dataset) for dataset in manifests})
    known = [disease(kind) for kind in kinds]
    lineage = "\n".join(f"- {one.label}: {one.license.upper()}. {one.lineage}".rstrip() for one in known)
    licenses = {one.license for one in known}
    license = licenses.pop() if len(licenses) == 1 else "other"
    return f"""---
license: {license}
pretty_name: {namespace}
viewer: false
{hub_tags(kinds)}---

# {namespace}

Datasets of simulated episodes of treatment, for research on offline reinforcement learning, in [Minari](https://minari.farama.org)'s
format. No row is a record of a patient, and nothing learned from them is fit for care.

| dataset | policy | episodes | decisions | MB | random | policy | expert |
|---|---|--:|--:|--:|--:|--:|--:|
{rows}

Ids start with `{namespace}/`. `random`, `policy` and `expert` (the best policy shipped for the simulators) are mean
undiscounted returns of an episode in the disease's default world (the truth where there is one). Each dataset has its
own card, a manifest with
the checksums of its files (`data/manifest.json`) and a tag of its name.

## Download

```bash
medgym-offline download {first} --remote {remote}
MINARI_REMOTE={remote} minari download {first}
```

The first compares every file with the checksums that the package ships or the manifest states. Without `MINARI_REMOTE`
Minari looks at `farama-minari/{namespace}` alone.

## License and lineage

{lineage}

Cite the sources, MedGym Offline, and the dataset's id and identity.
"""
