"""`run_ablation`: GCQL's variants against each other and against CQL, over training seeds and patients.

Every variant is trained on every dataset at every seed and scored by `evaluate` in every world of the dataset's bank.
Comparisons are paired over patients; intervals resample patients and, within each, training seeds. What is written:
`ablation.json` (all numbers, with the scores of every seed and patient) and `ablation.md` (tables).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgym_offline.engine.results import RunFolder
from medgym_offline.errors import MedGymError, unknown_name
from medgym_offline.evaluation.metrics import METRICS
from medgym_offline.evaluation.protocol import Bootstrap, load_protocol
from medgym_offline.files import write_text
from medgym_offline.offline import PROFILES, OfflineConfig, algorithm_name
from medgym_offline.offline.ball import Ball
from medgym_offline.offline.data import SCOPES, stack_transitions
from medgym_offline.online.runs import EngineOptions
from medgym_offline.studies.analysis import pair, statistics
from medgym_offline.studies.claims import MINIMUM, headline_world, verdict
from medgym_offline.studies.entries import Entry
from medgym_offline.studies.offline_units import OfflineRow, Source, load_source, run_rows
from medgym_offline.studies.online import compact_json
from medgym_offline.studies.recipe import CheckedRecipe, read_recipe
from medgym_offline.studies.scoring import Scored

__all__ = ["FORMAT", "COMPARED", "AblationRecipe", "load_ablation_recipe", "run_ablation"]

FORMAT = "medgym-ablation/1"
COMPARED = ("sofa_all", "return", "safe_hourly", "support_distance", "support_outside")
"""What variants are compared on."""

_WORDS = {"holds": "better", "does not hold": "worse", "not shown": "not shown"}
_OWN = ("algorithm", "label")  # entries of a variant that are no settings


@dataclass(frozen=True)
class AblationRecipe(CheckedRecipe):
    """An ablation.

    Args:
        datasets: Ids.
        variants: Name -> `algorithm`, `label`, and settings of `OfflineConfig` that differ from the common ones.
        reference: Variant that all others are compared with.
        default: Variant that ships as the default.
        scope: "ind" or "pop".
        patients: Per dataset, evenly spread; 0: all.
        seed: Root; trainings have seeds `seed`, `seed` + 1, ...
        seeds: Trainings per variant.
        episodes: Per patient and world in evaluation.
        profile: Of the common settings: "quick" or "paper".
        settings: Settings of `OfflineConfig` for every variant.

    Raises:
        MedGymError: If a value has the wrong type or is out of range, named; UnknownNameError for an unknown name.
    """

    datasets: tuple[str, ...] = ("medgym/sepsis-ind-v0", "medgym/sepsis-twin-ind-fixed-v0")
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: str = "cql"
    default: str = "gcql"
    scope: str = "ind"
    patients: int = 22
    seed: int = 0
    seeds: int = 5
    episodes: int = 10
    profile: str = "quick"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_types()
        object.__setattr__(self, "datasets", tuple(self.datasets))
        self.require("datasets", 0 < len(set(self.datasets)) == len(self.datasets), "a list without repetition")
        for name in ("seeds", "episodes"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("patients", "seed"):
            self.require(name, getattr(self, name) >= 0, "0 or more")
        self.require("variants", len(self.variants) > 1, "tables [variants.NAME], at least two")
        for kind, value, known in (
            ("scope", self.scope, SCOPES),
            ("profile", self.profile, PROFILES),
            ("reference", self.reference, self.variants),
            ("default", self.default, self.variants),
        ):
            if value not in known:
                raise unknown_name(f"{kind} of study {self.name!r}", value, list(known))
        for name in self.variants:
            try:
                self.algorithm(name)
                self.config(name)
            except TypeError as error:
                raise MedGymError(f"variant {name!r}: an entry has the wrong type ({error})") from None
            except MedGymError as error:
                raise type(error)(f"variant {name!r}: {error}") from None

    def algorithm(self, variant: str) -> str:
        """Of a variant; "gcql" unless it says so."""
        return algorithm_name(self.variants[variant].get("algorithm", "gcql"))

    def config(self, variant: str) -> OfflineConfig:
        """Settings of a variant."""
        own = {name: value for name, value in self.variants[variant].items() if name not in _OWN}
        return OfflineConfig.from_dict({**PROFILES[self.profile].to_dict(), **self.settings, **own})

    def rows(self, source: Source) -> dict[str, OfflineRow]:
        """Variant -> what to train on a dataset."""
        data = source.transitions
        return {
            name: OfflineRow(
                Entry(
                    key=f"{data.dataset_id.rpartition('/')[2]}-{name}",
                    label=str(self.variants[name].get("label", name)),
                    group="ablation",
                    algorithm=self.algorithm(name),
                    scope=self.scope,
                    timing=data.timing,
                    decisions=data.decisions,
                    patients=source.patients,
                ),
                self.algorithm(name),
                self.config(name),
                source,
                tuple(range(self.seed, self.seed + self.seeds)),
            )
            for name in self.variants
        }


def load_ablation_recipe(name_or_path: str | Path) -> AblationRecipe:
    """A recipe by name (`ablation-gcql`) or path; errors as :func:`medgym_offline.studies.recipe.read_recipe`."""
    return read_recipe(name_or_path, AblationRecipe, "ablation-*")


def run_ablation(
    recipe: AblationRecipe,
    output: str | Path,
    *,
    sources: Sequence[Source] | None = None,
    options: EngineOptions | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train, score and compare every variant.

    Args:
        recipe: Of the study.
        output: Folder of `ablation.json`, `ablation.md`, and `work/` with finished units.
        sources: Datasets with their banks; by default the recipe's, from the release.
        options: Engine, workers, device.
        fresh: Forget what `output` holds.
        progress: Show progress on standard error.

    Returns:
        The result, plain JSON values; also written to `output`.

    Raises:
        MedGymError: If `output` holds a study of another recipe or other data (the difference is named).
    """
    from medgym_offline.studies.ablation_table import ablation_markdown

    options = options or EngineOptions()
    options.check()
    found = [load_source(d, recipe.patients, progress) for d in recipe.datasets] if sources is None else list(sources)
    protocol, home = load_protocol(), Path(output)
    key = {"format": FORMAT, "recipe": recipe.to_dict(), "protocol": protocol.hash, "data": [s.facts for s in found]}
    RunFolder(home / "work", key, fresh)
    rows = [recipe.rows(source) for source in found]
    flat = [row for by_name in rows for row in by_name.values()]
    scored = run_rows(flat, protocol, recipe.episodes, home / "work" / "units", options, progress, fresh)
    result = {
        "format": FORMAT,
        "provenance": recipe.provenance(protocol.hash, recipe.seed, recipe.seeds) | {"device": options.device},
        "recipe": recipe.to_dict(),
        "datasets": [_dataset(recipe, source, by, scored, protocol.bootstrap) for source, by in zip(found, rows)],
    }
    write_text(home / "ablation.json", compact_json(result))
    write_text(home / "ablation.md", ablation_markdown(result))
    return result


def _dataset(
    recipe: AblationRecipe,
    source: Source,
    rows: Mapping[str, OfflineRow],
    scored: Mapping[str, Scored],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Everything about one dataset: `variants` in the recipe's order, each with its comparisons."""
    by_name = {name: scored[row.entry.key] for name, row in rows.items()}
    worlds = list(by_name[recipe.reference].worlds)
    return {
        **source.facts,
        "timing": source.transitions.timing,
        "worlds": worlds,
        "headline_world": headline_world(worlds),
        "variants": [_variant(recipe, name, rows[name], by_name, worlds, bootstrap) for name in rows],
    }


def _variant(
    recipe: AblationRecipe,
    name: str,
    row: OfflineRow,
    scored: Mapping[str, Scored],
    worlds: Sequence[str],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    one, patients = scored[name], row.source.patients
    found = {w: statistics(one, w, patients, bootstrap) for w in worlds}
    against: dict[str, Any] = {}
    for other in dict.fromkeys((recipe.reference, recipe.default)):
        if other != name:
            against[other] = {
                w: {m: _compared(scored[other], one, w, m, patients, bootstrap) for m in COMPARED} for w in worlds
            }
    return {
        "name": name,
        "label": row.entry.label,
        "algorithm": row.algorithm,
        "outside_share": _outside_share(row) if row.algorithm == "gcql" else None,
        "training": dict(one.training),
        "statistics": {w: {m: s[m] for m in COMPARED} for w, s in found.items()},
        "scores": {w: {m: one.values(w, m).round(6).tolist() for m in COMPARED} for w in worlds},
        "against": against,
    }


def _compared(
    reference: Scored, method: Scored, world: str, metric: str, patients: Sequence[str], bootstrap: Bootstrap
) -> dict[str, Any]:
    """A paired comparison with its verdict on the difference."""
    found = pair("variant", reference, method, world, patients, bootstrap, metric)
    low, high = found["difference_interval"]
    word = _WORDS[verdict(low, high, 0.0, METRICS[metric].better)] if len(patients) >= MINIMUM else "too few"
    kept = ("difference", "difference_interval", "percent", "percent_interval", "share", "p")
    return {**{k: found[k] for k in kept}, "verdict": word}


def _outside_share(row: OfflineRow) -> float:
    """Share of the data's rows outside the ball, mean over learners."""
    data = stack_transitions(row.source.transitions, row.entry.scope, row.config, row.source.patients)
    d, a = data.state_dim, data.action_dim
    outside = Ball(row.config, data).outside(data.rows[..., :d], data.rows[..., d : d + a]) > 0
    shares = (outside & data.present).sum(1) / data.present.sum(1)
    return round(float(shares.mean()), 4)
