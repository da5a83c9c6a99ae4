"""Case studies (paper, figure 8 and table 4): single patients under the four policies Ind, Pop x adaptive, fixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medgym_offline.engine import run
from medgym_offline.envs.process import DecisionProcess
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.evaluation.binding import resolve_policy
from medgym_offline.evaluation.protocol import Protocol
from medgym_offline.evaluation.worlds import SEED_PURPOSE, process_config
from medgym_offline.online.runs import EngineOptions, fingerprint
from medgym_offline.policies.builtin import builtin_policy
from medgym_offline.simulators.forecast import population_for_all
from medgym_offline.studies.entries import Candidate
from medgym_offline.studies.recipe import StudyRecipe
from medgym_offline.studies.scoring import Scored, units_folder

if TYPE_CHECKING:
    from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["case_patients", "case_studies", "model_errors"]

HOURS = 96


def case_patients(severity: np.ndarray, patients: Sequence[str], percentiles: Sequence[float]) -> list[str]:
    """The patients nearest to these percentiles of severity, each once: chosen by a rule, not by hand.

    Args:
        severity: (P,) mean SOFA under the clinicians' doses.
        patients: P ids.
        percentiles: 0 to 100.
    """
    order = [patients[i] for i in np.argsort(severity, kind="stable")]
    places = [round(p / 100.0 * (len(order) - 1)) for p in percentiles]
    return list(dict.fromkeys(order[place] for place in places))


def model_errors(bank: SimulatorBank, reference: str) -> dict[str, dict[str, float]]:
    """How far the Ind and the Pop simulator are from world `reference`, under the charted treatment, without noise.

        NMSE_j = mean_t (x_j(t) - y_j(t))^2 / var_{p,t} y_j        j a variable, t = 1..96 h, y the reference's course

    Args:
        bank: P patients (the variances are those of all of them).
        reference: "true", or "held-out", which was fitted to observations that the own world never saw.

    Returns:
        Patient -> {"ind": mean over variables, "pop": the same}.
    """
    solver = bank.with_backend("ode")
    schedule = builtin_policy("clinician", bank, "fixed", 20).schedule  # type: ignore[union-attr]
    worlds = {
        "ind": solver.world("own"),
        "pop": population_for_all(solver.world("own")),
        "reference": solver.world(reference),
    }
    paths = {}
    with torch.inference_mode():
        hour = torch.ones(len(bank), 1)
        for name, world in worlds.items():
            x, path = world.initial_state().unsqueeze(1), []
            for t in range(HOURS):
                x = world.flow(x, schedule[:, t : t + 1], hour)
                path.append(x)
            paths[name] = torch.cat(path, 1)[..., : len(bank.disease.variables)].double().numpy()
    spread = paths["reference"].var((0, 1)).clip(1e-9)
    errors = {n: ((paths[n] - paths["reference"]) ** 2).mean(1) / spread for n in ("ind", "pop")}
    return {
        patient: {name: float(error[i].mean()) for name, error in errors.items()}
        for i, patient in enumerate(bank.patients)
    }


def _case(
    bank: SimulatorBank, policies: Mapping[str, Any], protocol: Protocol, decisions: int, worlds: Sequence[str]
) -> dict[str, Any]:
    """Closed-loop courses of one patient: world -> policy -> hourly means; runs in a worker."""
    out: dict[str, Any] = {}
    for world in worlds:
        here = bank.world(world)
        for key, policy in policies.items():
            bound = resolve_policy(policy, here, None, decisions, decisions)
            used = protocol.override(timing=bound.timing, decisions=bound.decisions)[0]
            process = DecisionProcess(here, process_config(used))
            seeds = episode_seeds(used.seed, SEED_PURPOSE, here.patients, used.episodes)
            noise = draw_noise(seeds, bound.decisions, here.state_dim, process.config.action_dim)
            played = rollout(process, bound.act_on(here.patients, seeds), noise)
            states, treatments = dense(process, played, torch.arange(HOURS + 1.0))
            physical, doses = here.denormalize(states), here.denormalize_treatment(treatments)
            courses = {"sofa": here.disease.severity(physical, doses)}
            courses |= {v.name: physical[..., i] for i, v in enumerate(here.disease.variables)}
            courses |= {v.name: doses[..., i] for i, v in enumerate(here.disease.treatments)}
            holds = played.dt[0, 0][played.valid[0, 0]]
            out.setdefault(world, {})[key] = {
                "courses": {n: values[0].double().mean(0).numpy().round(3).tolist() for n, values in courses.items()},
                "holds": [round(float(h), 2) for h in holds],
                "sofa_all": float(courses["sofa"].double().mean()),
                "lactate_mean": float(courses["lactate"].double().mean()),
            }
    return out


def case_studies(
    bank: SimulatorBank,
    recipe: StudyRecipe,
    candidates: Mapping[str, Candidate],
    scored: Mapping[str, Scored],
    protocol: Protocol,
    folder: Path,
    options: EngineOptions,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """The recipe's case studies; the episodes are those of the scores.

    Args:
        bank: The whole bank, with the backend that scores.
        recipe: Percentiles and episodes.
        candidates: Holds the release policies of scopes ind and pop.
        scored: Holds the clinicians' baseline.
        protocol: Of the evaluation.
        folder: Keeps finished cases.
        options: Engine and workers.
        progress: Show progress on standard error.
    """
    clinician = next(s for s in scored.values() if s.entry.scope == "clinician")
    severity = clinician.values("own", "sofa_all").mean(0)
    chosen = case_patients(severity, clinician.entry.patients, recipe.case_percentiles)
    worlds = tuple(w for w in protocol.worlds if w in bank.worlds)
    policies = {
        key: c.policies[0] for key, c in candidates.items() if c.entry.group == "release" and c.entry.scope != "dr"
    }
    used = protocol.override(episodes=recipe.case_episodes)[0]
    key = {
        "bank": bank.content_hash,
        "backend": bank.backend,
        "protocol": protocol.hash,
        "episodes": recipe.case_episodes,
        "policies": {name: fingerprint(policy) for name, policy in policies.items()},
        "worlds": list(worlds),
    }
    # Ids may hold characters that a file name may not.
    names = {patient: f"case-{bank.index(patient):04d}" for patient in chosen}
    shards = {
        name: (bank.select([patient]), policies, used, recipe.decisions, worlds) for patient, name in names.items()
    }
    found = run(
        _case,
        shards,
        engine=options.engine,
        workers=options.workers,
        address=options.address,
        folder=units_folder(folder, key),
        key=key,
        title="case studies",
        progress=progress,
    )
    errors = {w: model_errors(bank.select(clinician.entry.patients), w) for w in worlds if w != "own"}
    by_id = dict(zip(clinician.entry.patients, severity))
    return [
        {
            "patient": patient,
            "severity": float(by_id[patient]),
            "percentile": float(100.0 * (severity < by_id[patient]).mean()),
            "episodes": recipe.case_episodes,
            "worlds": found[names[patient]],
            "model_error": {w: by_patient[patient] for w, by_patient in errors.items()},
        }
        for patient in chosen
    ]
