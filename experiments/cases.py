"""Case studies (the paper's Figure 8 and Table 4): single patients under the shipped policies, Ind and Pop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from experiments.common import Row, Scores, facts
from medgym_offline import SimulatorBank
from medgym_offline.envs.process import DecisionProcess
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout
from medgym_offline.evaluation.binding import resolve_policy
from medgym_offline.evaluation.protocol import load_protocol
from medgym_offline.evaluation.worlds import SEED_PURPOSE, process_config
from medgym_offline.online import load_behavior
from medgym_offline.policies import ClinicianPolicy, StackedActor
from medgym_offline.simulators.forecast import population_for_all

__all__ = ["case_studies", "chosen_patients", "model_errors"]

HOURS = 96


def chosen_patients(severity: dict[str, float], percentiles: Sequence[float]) -> list[str]:
    """The patients nearest to these percentiles (0 to 100) of severity, each once: by a rule, not by hand.

    >>> chosen_patients({"a": 3.0, "b": 1.0, "c": 2.0}, [50, 100])
    ['c', 'a']
    """
    order = sorted(severity, key=severity.__getitem__)
    return list(dict.fromkeys(order[round(p / 100.0 * (len(order) - 1))] for p in percentiles))


def model_errors(bank: SimulatorBank, reference: str) -> dict[str, np.ndarray]:
    """How far the Ind and the Pop simulators (P,) are from world `reference`, charted treatment, no noise.

    The mean over variables j of mean_t (x_j(t) - y_j(t))^2 / var_{p,t} y_j, t = 1..96 h, y the reference's course.
    """
    solver = bank.with_backend("ode")
    schedule = ClinicianPolicy(bank.clinician_treatment, bank.patients, "fixed", 20, bank.disease.name).schedule
    own = solver.world("own")
    paths = {}
    with torch.inference_mode():
        for name, world in {"ind": own, "pop": population_for_all(own), "y": solver.world(reference)}.items():
            x, path = world.initial_state().unsqueeze(1), []
            for t in range(HOURS):
                x = world.flow(x, schedule[:, t : t + 1], torch.ones(len(bank), 1))
                path.append(x)
            paths[name] = torch.cat(path, 1)[..., : len(bank.disease.variables)].double().numpy()
    spread = paths["y"].var((0, 1)).clip(1e-9)
    return {name: (((paths[name] - paths["y"]) ** 2).mean(1) / spread).mean(1) for name in ("ind", "pop")}


def _play(bank: SimulatorBank, world: str, actor: StackedActor, row: Row, episodes: int) -> pl.DataFrame:
    """Mean course of one patient (the bank's only one), and the intervals of the first episode."""
    here = bank.world(world)
    bound = resolve_policy(actor, here, None, row.decisions, row.decisions)
    used = load_protocol().override(episodes=episodes, timing=bound.timing, decisions=bound.decisions)[0]
    process = DecisionProcess(here, process_config(used))
    seeds = episode_seeds(used.seed, SEED_PURPOSE, here.patients, used.episodes)
    noise = draw_noise(seeds, here, process.config)
    played = rollout(process, bound.act_on(here.patients, seeds), noise)
    states, treatments = dense(process, played, torch.arange(HOURS + 1.0))
    x, u = here.denormalize(states), here.denormalize_treatment(treatments)
    courses = {"sofa": here.disease.severity.score(x, u)}
    courses |= {v.name: x[..., i] for i, v in enumerate(here.disease.variables)}
    courses |= {v.name: u[..., i] for i, v in enumerate(here.disease.treatments)}
    means = {name: values[0].double().mean(0).numpy() for name, values in courses.items()}
    found = {f"{name}@{h}": float(course[h]) for name, course in means.items() for h in range(0, HOURS + 1, 2)}
    found |= {f"interval@{i}": float(dt) for i, dt in enumerate(played.dt[0, 0][played.valid[0, 0]])}
    found |= {f"case_{name}": float(means[name].mean()) for name in ("sofa", "lactate")}
    return facts(bank.name, row, 0, found, world, here.patients[0])


def case_studies(
    bank: SimulatorBank, scores: Scores, percentiles: Sequence[float], decisions: int, episodes: int
) -> pl.DataFrame:
    """Courses, intervals and model errors of the patients at these percentiles of severity under the clinicians' doses.

    Args:
        bank: The study's patients, with the backend that scores.
        scores: Holds the clinicians' baseline.
        percentiles: 0 to 100.
        decisions: K.
        episodes: Per patient; the first of the evaluation's.
    """
    clinician = Row("clinician", "baseline", "fixed", decisions)
    severity = {p: scores.value(clinician, "own", "severity_mean", [p]) for p in bank.patients}
    chosen, parts = chosen_patients(severity, percentiles), []
    rows = [Row("release", scope, timing, decisions) for scope in ("ind", "pop") for timing in ("adaptive", "fixed")]
    for row in rows:
        actor = load_behavior(bank.name, row.scope, row.timing)
        for patient in chosen:
            parts += [_play(bank.select([patient]), world, actor, row, episodes) for world in bank.worlds]
    for world in (w for w in bank.worlds if w != "own"):
        errors = model_errors(bank, world)
        for row in rows:
            for p in chosen:
                error = {"model_nmse": float(errors[row.scope][bank.patients.index(p)])}
                parts.append(facts(bank.name, row, 0, error, world, p))
    return pl.concat(parts)
