"""`run_online_study`: the paper's online results (Tables 2, 4, 6; Figures 4 to 6, 8 to 10), and what they rest on.

    train     the table's rows, the budgets, the release behaviours
    score     every policy and baseline in every world of the bank
    ceilings  what timing could be worth at all, some patients
    cases     closed-loop courses of single patients
    result    one JSON and one page

Every unit of work is kept as it finishes under `work/`, so that a killed study goes on where it was.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgym_offline.engine.results import RunFolder
from medgym_offline.errors import MedGymError
from medgym_offline.evaluation.protocol import load_protocol
from medgym_offline.evaluation.statistics import seed_label
from medgym_offline.files import json_text, write_text
from medgym_offline.online.runs import EngineOptions
from medgym_offline.policies.files import save_policy
from medgym_offline.studies.analysis import pair_list, row
from medgym_offline.studies.baselines import baseline_candidates
from medgym_offline.studies.cases import case_studies
from medgym_offline.studies.ceiling import search_ceilings
from medgym_offline.studies.claims import headline_world, study_claims
from medgym_offline.studies.entries import Candidate, wanted_entries
from medgym_offline.studies.recipe import Sets, StudyRecipe
from medgym_offline.studies.scoring import score_candidates
from medgym_offline.studies.training import train_entries

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["FORMAT", "RESULT", "compact_json", "load_study", "read_result", "run_online_study"]

FORMAT = "medgym-study-online/1"
RESULT = "result.json"


def run_online_study(
    recipe: StudyRecipe,
    output: str | Path,
    *,
    bank: SimulatorBank | None = None,
    options: EngineOptions | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train, score and compare everything a recipe asks for.

    Args:
        recipe: Of the study.
        output: Folder of the study: `result.json`, `policies/`, and `work/` with finished units.
        bank: Simulators; by default the recipe's.
        options: Engine, workers, device.
        fresh: Forget what `output` holds.
        progress: Show progress on standard error.

    Returns:
        The result, plain JSON values (docs/studies.md lists its entries), `rows` by key; also written to `output`.

    Raises:
        MedGymError: If `output` holds a study of another recipe or bank (the difference is named), as
            `EngineOptions.check`, and for a recipe that does not fit the bank.
    """
    options = options or EngineOptions()
    options.check()
    if bank is None:
        from medgym_offline.simulators import load_simulators

        bank = load_simulators(recipe.bank)
    sets = recipe.sets(bank)
    protocol = load_protocol()
    home = Path(output)
    work = home / "work"
    if fresh and (work / "run.json").exists():  # else these are not a study's folders, and not ours to delete
        for old in (work, home / "policies"):
            shutil.rmtree(old, ignore_errors=True)
    RunFolder(
        work, {"format": FORMAT, "recipe": recipe.to_dict(), "bank": bank.content_hash, "protocol": protocol.hash}
    )

    scoring = bank.with_backend("ode") if recipe.backend == "ode" else bank
    trained = train_entries(bank, recipe, wanted_entries(recipe, sets), work / "training", options, progress)
    individual = {
        c.entry.timing: c.policies[0] for c in trained if c.entry.group == "release" and c.entry.scope == "ind"
    }
    baselines = baseline_candidates(scoring, sets.release, recipe.timings, recipe.decisions, individual)
    candidates = {c.entry.key: c for c in (*trained, *baselines)}
    scored = score_candidates(
        scoring, list(candidates.values()), protocol, recipe.episodes, work / "scores", options, progress
    )
    ceilings = search_ceilings(bank, recipe, sets, work / "ceilings", options, progress)
    cases = case_studies(scoring, recipe, candidates, scored, protocol, work / "cases", options, progress)

    result: dict[str, Any] = {
        "format": FORMAT,
        "provenance": _provenance(bank, recipe, sets, protocol.hash),
        "recipe": recipe.to_dict(),
        "protocol": protocol.to_dict(),
        "worlds": list(next(iter(scored.values())).worlds),
        "patients": {"release": list(sets.release), "table": list(sets.table)},
        "departures": _departures(bank, recipe, sets, protocol.episodes),
        "rows": {key: row(one, sets, protocol.bootstrap) for key, one in scored.items()},
        "pairs": pair_list(scored, sets, protocol.bootstrap),
        "ceilings": ceilings,
        "cases": cases,
        "claims": study_claims(scored, recipe, protocol.bootstrap, ceilings),
    }
    result["headline_world"] = headline_world(result["worlds"])
    shipped = "release" if recipe.behaviors == "shipped" else ""
    _save_policies([c for c in trained if c.entry.group != shipped], home / "policies")
    # Rows as a list: their order is that of the tables, and JSON objects have none.
    write_text(home / RESULT, compact_json({**result, "rows": list(result["rows"].values())}))
    return result


def load_study(path: str | Path) -> dict[str, Any]:
    """What `run_online_study` returned, from its `result.json`, the folder that holds it, or a record (`.json.gz`).

    Raises:
        MedGymError: If the file is missing or no result of an online study.
    """
    return read_result(path, FORMAT, "an online study")


def read_result(path: str | Path, kind: str, words: str) -> dict[str, Any]:
    """The result of a study with format `kind` ("an online study", in words), `rows` by key; errors as `load_study`."""
    file = Path(path)
    file = file / RESULT if file.is_dir() else file
    try:
        data = file.read_bytes()
        value = json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)
        if value["format"] != kind:
            raise MedGymError(f"{file}: format {value['format']!r}; this version reads {kind!r}: run the study again")
        return {**value, "rows": {row["key"]: row for row in value["rows"]}}
    except (KeyError, TypeError, ValueError, EOFError, zlib.error, gzip.BadGzipFile):
        raise MedGymError(f"{file}: not the result of {words}") from None
    except OSError as error:
        raise MedGymError(f"{file}: cannot read the result of a study ({error.strerror})") from None


def _provenance(bank: SimulatorBank, recipe: StudyRecipe, sets: Sets, protocol_hash: str) -> dict[str, Any]:
    return recipe.provenance(protocol_hash, recipe.seed, recipe.seeds) | {
        "bank": bank.name,
        "bank_hash": bank.content_hash,
        "bank_patients": len(bank),
        "backend_training": bank.backend,
        "backend_scores": recipe.backend,
    }


def _departures(bank: SimulatorBank, recipe: StudyRecipe, sets: Sets, episodes: int) -> list[str]:
    """What makes this less than a full study, in words."""
    found = []
    if len(sets.release) < len(bank):
        found.append(f"{len(sets.release)} of the bank's {len(bank)} patients")
    if len(sets.table) < len(sets.release):
        found.append(f"the table's rows are trained and compared on {len(sets.table)} of them")
    if recipe.episodes < episodes:
        found.append(f"{recipe.episodes} episodes per patient, policy and world; the protocol asks for {episodes}")
    if recipe.seeds < 3:
        found.append(seed_label(recipe.seeds))
    if recipe.ceiling_steps and recipe.ceiling_patients and recipe.ceiling_patients < len(sets.release):
        found.append(f"open-loop ceilings of {recipe.ceiling_patients} patients, {recipe.ceiling_steps} search steps")
    if recipe.backend != "ode":
        found.append("scored by the solution map, whose errors policies may exploit")
    if len(sets.table) < 20:
        found.append("bootstrap intervals of fewer than 20 patients are too narrow")
    return found


def _save_policies(candidates: list[Candidate], folder: Path) -> None:
    """One file per candidate and seed."""
    for candidate in candidates:
        for number, policy in enumerate(candidate.policies):
            save_policy(policy, folder / f"{candidate.entry.key}-{number}.safetensors")


def compact_json(value: Any) -> str:
    """JSON with every list and dict of plain values on one line: the same values on a tenth of the lines."""
    # A line break inside a JSON text is always layout: in strings it is escaped.
    text = json_text(value)
    for pattern in (r"\[[^\[\]{}]*\]", r"\{[^\[\]{}]*\}"):
        text = re.sub(pattern, lambda m: re.sub(r"\s*\n\s*", " ", m[0]), text)
    return text
