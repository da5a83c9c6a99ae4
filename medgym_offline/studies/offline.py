"""`run_offline_study`: the paper's offline results (Table 7; Figures 11 to 13).

    train     every algorithm at every seed on the data of one behaviour: a policy per patient (Ind), one for all (Pop)
    score     all of them, and the behaviours that made the data, in every world of the bank, with support distances
    result    one JSON and one page

Ind learns from each patient's own episodes, Pop from the episodes of all. Every unit of work is kept as it finishes, so
that a killed study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.engine.results import RunFolder
from medgym_offline.errors import MedGymError, unknown_name
from medgym_offline.evaluation.protocol import Bootstrap, Protocol, load_protocol
from medgym_offline.evaluation.statistics import seed_label
from medgym_offline.files import write_text
from medgym_offline.offline import ALGORITHMS, PROFILES, OfflineConfig, algorithm_name
from medgym_offline.offline.data import SCOPES
from medgym_offline.online.runs import EngineOptions
from medgym_offline.studies.analysis import kept_metrics, pair, pair_list, row
from medgym_offline.studies.claims import Claims, headline_world
from medgym_offline.studies.entries import Entry, algorithm_label
from medgym_offline.studies.offline_units import OfflineRow, Source, load_source, run_rows
from medgym_offline.studies.online import RESULT, compact_json, read_result
from medgym_offline.studies.recipe import CheckedRecipe, Sets, read_recipe
from medgym_offline.studies.scoring import Scored

__all__ = ["FORMAT", "OfflineStudyRecipe", "load_offline_recipe", "load_offline_study", "run_offline_study"]

FORMAT = "medgym-study-offline/1"

_SUPPORTED = ("ind", "pop")  # behaviours that ship as policies and are rows of the table


@dataclass(frozen=True)
class OfflineStudyRecipe(CheckedRecipe):
    """An offline study.

    Args:
        datasets: Ids, one per timing, of one bank.
        algorithms: Names in `medgym_offline.offline.ALGORITHMS`.
        scopes: "ind" and "pop".
        patients: Evenly spread over the dataset; 0: all.
        seed: Root; trainings have seeds `seed`, `seed` + 1, ...
        seeds: Trainings per row.
        episodes: Per patient and world in evaluation; at least 50 for numbers to be cited.
        profile: Of the common settings: "quick" or "paper".
        settings: Settings of `OfflineConfig` for every algorithm.
        algorithm_settings: Algorithm -> settings that differ for it.

    Raises:
        MedGymError: If a value has the wrong type or is out of range, named; UnknownNameError for an unknown name.
    """

    datasets: tuple[str, ...] = ("medgym/sepsis-ind-fixed-v0", "medgym/sepsis-ind-v0")
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    scopes: tuple[str, ...] = SCOPES
    patients: int = 0
    seed: int = 0
    seeds: int = 5
    episodes: int = 50
    profile: str = "quick"
    settings: Mapping[str, Any] = field(default_factory=dict)
    algorithm_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_types()
        for name in ("datasets", "algorithms", "scopes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            values = getattr(self, name)
            self.require(name, 0 < len(set(values)) == len(values), "a list of at least one name, without repetition")
        for name in ("seeds", "episodes"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("patients", "seed"):
            self.require(name, getattr(self, name) >= 0, "0 or more")
        for kind, given, known in (
            ("algorithm", [*self.algorithms, *self.algorithm_settings], ALGORITHMS),
            ("scope", self.scopes, SCOPES),
            ("profile", [self.profile], PROFILES),
        ):
            for value in given:
                if value not in known:
                    raise unknown_name(f"{kind} of study {self.name!r}", value, list(known))
        for algorithm in self.algorithms:
            try:
                self.config(algorithm)
            except TypeError as error:
                raise MedGymError(f"settings of {algorithm}: an entry has the wrong type ({error})") from None
            except MedGymError as error:
                raise type(error)(f"settings of {algorithm}: {error}") from None

    def config(self, algorithm: str) -> OfflineConfig:
        """Settings of an algorithm."""
        own = self.algorithm_settings.get(algorithm, {})
        return OfflineConfig.from_dict({**PROFILES[self.profile].to_dict(), **self.settings, **own})


def load_offline_recipe(name_or_path: str | Path) -> OfflineStudyRecipe:
    """A recipe by name (`study-offline-quick`) or path; errors as :func:`medgym_offline.studies.recipe.read_recipe`."""
    return read_recipe(name_or_path, OfflineStudyRecipe, "study-offline*")


def load_offline_study(path: str | Path) -> dict[str, Any]:
    """What `run_offline_study` returned, from its `result.json`, the folder that holds it, or a record (`.json.gz`).

    Raises:
        MedGymError: If the file is missing or no result of an offline study.
    """
    return read_result(path, FORMAT, "an offline study")


def run_offline_study(
    recipe: OfflineStudyRecipe,
    output: str | Path,
    *,
    sources: Sequence[Source] | None = None,
    options: EngineOptions | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train, score and compare everything a recipe asks for.

    Args:
        recipe: Of the study.
        output: Folder of `result.json`, and `work/` with finished units.
        sources: Datasets with their banks and behaviours; by default the recipe's, from the release.
        options: Engine, workers, device.
        fresh: Forget what `output` holds.
        progress: Show progress on standard error.

    Returns:
        The result, plain JSON values (docs/studies.md lists its entries), `rows` by key; also written to `output`.

    Raises:
        MedGymError: If `output` holds a study of another recipe or other data (the difference is named), or the
            datasets do not belong together.
    """
    options = options or EngineOptions()
    options.check()
    if sources is None:
        sources = [load_source(d, recipe.patients, progress, _SUPPORTED) for d in recipe.datasets]
    _check_sources(sources)
    protocol, home = load_protocol(), Path(output)
    key = {"format": FORMAT, "recipe": recipe.to_dict(), "protocol": protocol.hash, "data": [s.facts for s in sources]}
    RunFolder(home / "work", key, fresh)
    rows = [one for source in sources for one in _rows(recipe, source)]
    scored = run_rows(rows, protocol, recipe.episodes, home / "work" / "units", options, progress, fresh)
    result = _result(recipe, sources, scored, protocol, options)
    # Rows as a list: their order is that of the tables, and JSON objects have none.
    write_text(home / RESULT, compact_json({**result, "rows": list(result["rows"].values())}))
    return result


def _check_sources(sources: Sequence[Source]) -> None:
    first = sources[0]
    for source in sources:
        name = source.transitions.dataset_id
        if source.bank.content_hash != first.bank.content_hash or source.patients != first.patients:
            raise MedGymError(
                f"{name}: made on other simulators or patients than {first.transitions.dataset_id}; an offline study "
                "has one bank: make a study of each"
            )
        if source.behavior not in source.behaviors:
            raise MedGymError(
                f"{name}: made by behaviour {source.behavior!r}; Table 7 compares with the behaviour that made the "
                f"data, which must be one of {', '.join(_SUPPORTED)}"
            )
    timings = [source.transitions.timing for source in sources]
    if len(set(timings)) < len(timings):
        raise MedGymError(f"datasets of an offline study have one timing each, these have: {', '.join(timings)}")


def _key(algorithm: str, scope: str, source: Source) -> str:
    return f"{algorithm}-{scope}-{source.transitions.timing}-k{source.transitions.decisions}"


def _rows(recipe: OfflineStudyRecipe, source: Source) -> list[OfflineRow]:
    """The behaviours, then every algorithm and scope."""
    data = source.transitions
    seeds = tuple(range(recipe.seed, recipe.seed + recipe.seeds))

    def entry(group: str, algorithm: str, scope: str) -> Entry:
        letter, name = {"adaptive": "A", "fixed": "F"}[data.timing], algorithm_label(algorithm)
        label = f"{name}-{letter}-{scope.capitalize()}" + (" (behaviour)" if group == "behaviour" else "")
        key = _key(algorithm, scope, source)
        return Entry(key, label, group, algorithm, scope, data.timing, data.decisions, source.patients)

    rows = [
        OfflineRow(entry("behaviour", "trpo-lag", scope), "bc", OfflineConfig(), source, (recipe.seed,), policy)
        for scope, policy in source.behaviors.items()
    ]
    for algorithm in recipe.algorithms:
        for scope in recipe.scopes:
            config = recipe.config(algorithm)
            rows.append(OfflineRow(entry("table", algorithm, scope), algorithm_name(algorithm), config, source, seeds))
    return rows


def _result(
    recipe: OfflineStudyRecipe,
    sources: Sequence[Source],
    scored: Mapping[str, Scored],
    protocol: Protocol,
    options: EngineOptions,
) -> dict[str, Any]:
    sets, bootstrap = Sets(sources[0].patients, sources[0].patients), protocol.bootstrap
    worlds = list(next(iter(scored.values())).worlds)
    made_by = {s.transitions.timing: _key("trpo-lag", s.behavior, s) for s in sources}
    return {
        "format": FORMAT,
        "provenance": recipe.provenance(protocol.hash, recipe.seed, recipe.seeds)
        | {
            "bank": sources[0].bank.name,
            "bank_hash": sources[0].bank.content_hash,
            "bank_patients": len(sources[0].bank),
            "datasets": {s.transitions.timing: s.facts | {"patients": len(s.patients)} for s in sources},
            "device": options.device,
            "backend_scores": sources[0].bank.backend,
        },
        "recipe": recipe.to_dict(),
        "protocol": protocol.to_dict(),
        "worlds": worlds,
        "headline_world": headline_world(worlds),
        "timings": [s.transitions.timing for s in sources],
        "patients": {"table": list(sets.table), "release": list(sets.release)},
        "behaviour": made_by,
        "departures": _departures(recipe, sources[0], protocol.episodes),
        "rows": {key: _row(one, sets, bootstrap) for key, one in scored.items()},
        "pairs": pair_list(scored, sets, bootstrap) + _against(scored, made_by, worlds, sets, bootstrap),
        "claims": offline_claims(recipe, scored, made_by, bootstrap),
    }


def _row(scored: Scored, sets: Sets, bootstrap: Bootstrap) -> dict[str, Any]:
    """As in an online study, with `scores` (world -> metric -> seeds -> patients) and `support` (world -> quantiles of
    the distances of all decisions, mean over seeds; the behaviour data's own beside them)."""
    support = {}
    for world in scored.worlds:
        found = [e.worlds[world].support for e in scored.evaluations]
        support[world] = {
            "policy": np.mean([f["policy"]["quantiles"] for f in found], axis=0).round(5).tolist(),
            "behavior": found[0]["behavior"]["quantiles"] if "behavior" in found[0] else None,
        }
    scores = {w: {m: scored.values(w, m).round(6).tolist() for m in kept_metrics(scored, w)} for w in scored.worlds}
    return {**row(scored, sets, bootstrap), "scores": scores, "support": support}


def _against(
    scored: Mapping[str, Scored],
    made_by: Mapping[str, str],
    worlds: Sequence[str],
    sets: Sets,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """Every learned policy against the behaviour that made its data: SOFA (BehaviorMethod) and support distance."""
    return [
        pair(kind, scored[made_by[one.entry.timing]], one, world, sets.table, bootstrap, metric)
        for kind, metric in (("BehaviorMethod", "sofa_all"), ("BehaviorSupport", "support_distance"))
        for one in scored.values()
        if one.entry.group == "table"
        for world in worlds
    ]


def offline_claims(
    recipe: OfflineStudyRecipe, scored: Mapping[str, Scored], made_by: Mapping[str, str], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    """What the paper says of its offline policies, each with numbers and verdict."""
    claims = Claims(scored, bootstrap)
    for timing, behavior in made_by.items():
        keys = {
            (a, s): claims.key("table", s, timing, a) for a in recipe.algorithms for s in recipe.scopes
        }  # fmt: skip
        for algorithm in recipe.algorithms:
            name = f"{algorithm_label(algorithm)}, {timing}"
            ind, pop = keys.get((algorithm, "ind")), keys.get((algorithm, "pop"))
            claims.better_than("Ind and Pop", f"{name}: Ind beats Pop in most patients", pop, ind, True)
            for scope, method in (("Ind", ind), ("Pop", pop)):
                group = "Against the behaviour and its clone"
                claims.better_than(group, f"{name}: {scope} beats the behaviour", behavior, method, False)
                if algorithm != "bc":
                    clone = keys.get(("bc", scope.lower()))
                    claims.better_than(group, f"{name}: {scope} beats behaviour cloning", clone, method, False)
        for form in ("", "-discrete"):
            for scope in recipe.scopes:
                chain = [keys.get((f"{a}{form}", scope)) for a in ("dqn", "cql", "gcql")]
                names = [algorithm_label(f"{a}{form}") for a in ("dqn", "cql", "gcql")]
                for first, second in ((0, 1), (1, 2)):
                    words = f"{names[second]}, {scope.capitalize()}, {timing}: closer to the data than {names[first]}"
                    claims.better_than("Support", words, chain[first], chain[second], False, metric="support_distance")
                words = f"{names[2]}, {scope.capitalize()}, {timing}: beats {names[1]}"
                claims.better_than("GCQL and CQL", words, chain[1], chain[2], False)
    return claims.found


def _departures(recipe: OfflineStudyRecipe, source: Source, episodes: int) -> list[str]:
    """What makes this less than a full study, in words."""
    found = []
    if len(source.patients) < len(source.bank):
        found.append(f"{len(source.patients)} of the bank's {len(source.bank)} patients")
    if recipe.episodes < episodes:
        found.append(f"{recipe.episodes} episodes per patient, policy and world; the protocol asks for {episodes}")
    if recipe.seeds < 3:
        found.append(seed_label(recipe.seeds))
    if len(source.patients) < 20:
        found.append("bootstrap intervals of fewer than 20 patients are too narrow")
    return found
