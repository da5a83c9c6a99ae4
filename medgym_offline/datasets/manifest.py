"""What is written beside the rows: Minari's metadata, our manifest, the namespace file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgym_offline.datasets.catalogue import MANIFEST_FORMAT, minari_root
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.datasets.trust import Fingerprint
from medgym_offline.files import code_version, sha256_file, write_json

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = [
    "NAMESPACE_DESCRIPTION", "build_manifest", "build_metadata", "facts", "facts_differ", "statistics",
    "write_namespace",
]  # fmt: skip

AUTHOR = "The MedGym Offline developers"
NAMESPACE_DESCRIPTION = "Offline reinforcement learning for treatment, on one simulator per patient."
"""What Minari shows of the namespace."""


def env_specs(recipe: Recipe, disease: str, patient: str) -> tuple[str, str]:
    """Gymnasium specs (JSON) of the environment that made the data and of the one to evaluate in.

    The entry point is a string, so `recover_environment()` works without importing this package first. Minari's
    users get the named patient; `recover_environment(patient=...)` gives another. `max_episode_steps` is K + 1:
    d3rlpy wants a positive number, and an episode ends by itself after at most K decisions, so it never truncates.
    """
    from gymnasium.envs.registration import EnvSpec

    kwargs = {"patient": patient, "timing": recipe.timing, "decisions": recipe.decisions, "bank": recipe.bank}
    kwargs |= {"world": recipe.world, "disease": disease} | ({"view": recipe.view} if recipe.records else {})

    def spec(reward: str) -> str:
        made = EnvSpec(
            id=f"medgym/{disease.capitalize()}-v0",
            entry_point="medgym_offline.envs:TreatmentEnv",
            vector_entry_point="medgym_offline.envs:TreatmentVectorEnv",
            max_episode_steps=recipe.decisions + 1,
            kwargs=kwargs | {"reward": reward, "noise": True},
        )
        return str(made.to_json())

    return spec(recipe.played_reward), spec("integral")


def build_metadata(
    recipe: Recipe, bank: SimulatorBank, made: dict[str, Any], rows: Transitions, ours: dict[str, Any]
) -> dict[str, Any]:
    """Minari's `metadata.json`: plain JSON values only, for any other value makes Minari destroy the file.

    Args:
        recipe: With the id of the dataset as it is written.
        bank: The whole bank.
        made: As of :func:`build_manifest`; the environment specs name the first of its patients.
        rows: All of the dataset.
        ours: `content_hash` of the rows, and `bytes` of the HDF5 file.
    """
    import minari
    from minari.serialization import serialize_space

    from medgym_offline import __version__
    from medgym_offline.envs import TreatmentEnv

    spec, eval_spec = env_specs(recipe, bank.disease.name, bank.patients[made["patients"][0]])
    env = TreatmentEnv(**json.loads(spec)["kwargs"])
    references = made["references"]
    return {
        "dataset_id": recipe.id,
        "total_episodes": len(rows.episode_starts()),
        "total_steps": len(rows),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": serialize_space(env.observation_space),
        "action_space": serialize_space(env.action_space),
        "env_spec": spec,
        "eval_env_spec": eval_spec,
        "minari_version": minari.__version__,
        "dataset_size": round(ours["bytes"] / 1e6, 1),
        "algorithm_name": recipe.behavior,
        "code_permalink": f"medgym-offline {code_version()}",
        "description": recipe.description,
        "requirements": [f"medgym-offline>={__version__}"],
        "ref_min_score": references["returns"].get("random"),
        "ref_max_score": references["returns"].get("expert"),
        "num_episodes_average_score": references["episodes"],
        "author": [AUTHOR],
        # Our own block: what the flat loader needs without the manifest.
        "medgym": {
            **ours,
            **{name: getattr(rows, name) for name in ("identity", "disease", "timing", "decisions")},
            "patients": list(rows.patients),
            "reward": recipe.reward,
            **({"view": recipe.view, "behavior_log_prob_estimated": True} if recipe.records else {}),
        },
    }


def statistics(transitions: Transitions) -> dict[str, dict[str, Any]]:
    """Minimum, maximum, mean and standard deviation of every column (lists for columns of vectors)."""
    found = {}
    for name in COLUMNS:
        array = getattr(transitions, name)
        if name in ("patient", "episode") or np.isnan(array).any():
            continue  # NaN: probabilities of a behavior without noise
        numbers = {"min": array.min(0), "max": array.max(0)}
        numbers |= {"mean": array.mean(0, dtype=np.float64), "std": array.std(0, dtype=np.float64)}
        found[name] = {k: np.round(np.asarray(v, np.float64), 6).tolist() for k, v in numbers.items()}
    return found


def facts(transitions: Transitions) -> dict[str, Any]:
    """What a manifest says of the rows alone: patients, counts, lengths, returns and column statistics."""
    starts = transitions.episode_starts()
    lengths = transitions.episode_lengths()
    returns = np.add.reduceat(transitions.rewards.astype(np.float64), starts)
    return {
        "patients": transitions.present.tolist(),
        "episodes": len(starts),
        "steps": len(transitions),
        "episode_steps": {"min": int(lengths.min()), "mean": float(lengths.mean()), "max": int(lengths.max())},
        "episode_returns": {"mean": float(returns.mean()), "std": float(returns.std())},
        "columns": statistics(transitions),
    }


def facts_differ(found: Any, stated: Any, name: str = "") -> str | None:
    """Name of the first entry in which stated facts are not those found, to 1e-5; None if all agree."""
    if isinstance(found, dict):
        if not isinstance(stated, dict) or found.keys() - stated.keys():
            return name
        differ = (facts_differ(found[key], stated[key], f"{name}.{key}" if name else key) for key in found)
        return next((entry for entry in differ if entry is not None), None)
    try:
        numbers = np.asarray(stated, np.float64)
    except (TypeError, ValueError):
        return name
    same = np.shape(numbers) == np.shape(found) and np.allclose(numbers, found, rtol=1e-5, atol=1e-5)
    return None if same else name


def build_manifest(
    made: dict[str, Any], metadata: dict[str, Any], rows: Transitions, seeds: np.ndarray, folder: Path
) -> dict[str, Any]:
    """The manifest of a finished dataset folder: what made it, what it is, and a checksum of every file.

    Args:
        made: What made it, of which the identity is; `references` of a normalized score, and further facts.
        metadata: Minari's, from :func:`build_metadata`.
        rows: All of the dataset.
        seeds: (E,) of the episodes.
        folder: The dataset's folder, with its files under `data/`.
    """
    files = sorted(p for p in (folder / "data").iterdir() if p.is_file() and p.name != "manifest.json")
    return {
        "format": MANIFEST_FORMAT,
        "id": rows.dataset_id,
        "disease": rows.disease,
        "identity": rows.identity,
        **made,
        **facts(rows),
        "content_hash": metadata["medgym"]["content_hash"],
        # Of records nothing goes where a manifest may go: a fingerprint keeps some episodes whole.
        "fingerprint": "" if made["recipe"].get("records") else Fingerprint.of(rows, seeds).to_text(),
        "env_spec": json.loads(metadata["env_spec"]),
        "eval_env_spec": json.loads(metadata["eval_env_spec"]),
        "code_version": code_version(),
        "files": {f"data/{p.name}": {"sha256": sha256_file(p), "bytes": p.stat().st_size} for p in files},
    }


def write_namespace(root: str | Path | None, dataset: str) -> None:
    """Create Minari's `namespace_metadata.json` of a dataset's namespaces where it is missing."""
    parts = dataset.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        path = minari_root(root).joinpath(*parts[:depth]) / "namespace_metadata.json"
        if not path.exists():
            write_json(path, {"description": NAMESPACE_DESCRIPTION})
