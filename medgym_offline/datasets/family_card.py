"""Card of a repository that holds several datasets: the README beside the namespace's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgym_offline.datasets.card import hub_tags
from medgym_offline.datasets.catalogue import info_of
from medgym_offline.datasets.listing import listing_table
from medgym_offline.diseases.registry import disease, disease_of_id

__all__ = ["family_card"]


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
{hub_tags(kinds)}---

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
