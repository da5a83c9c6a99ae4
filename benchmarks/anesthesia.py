"""General anesthesia: speed and step error of the published truth, and how well fitted simulators know their patients.

    python -m benchmarks.anesthesia [PATIENTS]

Writes benchmarks/results/anesthesia.json. Speed is in ticks of one operation per second of one core's time, best of
five runs of an hour. Error is of 15-s against 1-s ticks under a bolus of 2 mg/kg and 8 mg/kg/h. Fits are to the
recorded operations named, scored on the truth's displacements over 15 min under random doses.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.anesthesia_scoring import RandomDoses, score_surrogate
from benchmarks.timing import arguments
from medgym_offline.diseases.anesthesia.clinician import record_operations
from medgym_offline.diseases.anesthesia.flow import Doses, flow
from medgym_offline.diseases.anesthesia.patients import Patients, load_patients
from medgym_offline.diseases.anesthesia.surrogate import Surrogate, fit_surrogate
from medgym_offline.diseases.anesthesia.truth import BIS_AWAKE, GAMMA_BELOW, Truth, published
from medgym_offline.files import write_json


def constant(
    patients: int, episodes: int, rate: float, bolus: float = 0.0, dtype: torch.dtype = torch.float32
) -> Doses:
    """The same propofol for all, no norepinephrine."""
    one = torch.ones(patients, episodes, dtype=dtype)
    return Doses(rate * one, bolus * one, 0 * one)


def speed(law: Truth | Surrogate, episodes: int) -> float:
    """Millions of ticks per second."""
    state, count, best = law.initial_state(episodes), len(law.lag), 0.0
    doses = constant(count, episodes, 8.0, 2.0)
    for _ in range(5):
        start = time.process_time()
        flow(law, state, doses, 240)
        best = max(best, count * episodes * 240 / (time.process_time() - start) / 1e6)
    return round(best, 2)


def step_error(people: Patients) -> dict[str, float]:
    """mmHg of 15-s ticks against 1-s ticks over an hour."""
    courses = []
    for seconds in (1, 15):
        law = published(people, seconds, torch.float64)
        doses = constant(len(people), 1, 8.0, 2.0, torch.float64)
        state, parts = law.initial_state(1), []
        for _ in range(3600 // seconds // 120):
            state, part = flow(law, state, doses, 120)
            doses = replace(doses, propofol_bolus=0 * doses.propofol_bolus)
            parts.append(part)
        courses.append(torch.cat(parts, 2))
    error = (courses[0][:, :, 14::15, 1] - courses[1][..., 1]).abs()
    return {"largest": round(float(error.max()), 3), "p99": round(float(error.quantile(0.99)), 3)}


def needs(law: Truth | Surrogate) -> np.ndarray:
    """(P,) log of the rate in mg/kg/h that gives BIS 50 after an hour, without stimulation."""
    _, path = flow(law, law.initial_state(1), constant(len(law.lag), 1, 1.0), 240)

    def inverse(awake: Tensor | float, half: Tensor, steepness: Tensor | float) -> Tensor:
        return half * torch.as_tensor(awake / 50.0 - 1.0) ** (1.0 / steepness)

    if isinstance(law, Truth):
        level = inverse(BIS_AWAKE, law.ce50, GAMMA_BELOW)
    else:
        level = inverse(law.value["bis_awake"], law.value["half_effect"], law.value["bis_steepness"])
    return (level[:, 0] / path[:, 0, -1, 2]).log().numpy()


def main() -> None:
    """Measure, print and write."""
    (count,) = arguments(__doc__, patients=110)
    torch.set_num_threads(1)
    people = load_patients()
    some = people.select(range(count))
    truth = published(people)
    result: dict[str, object] = {"command": " ".join(["python -m benchmarks.anesthesia", *sys.argv[1:]])}
    random = record_operations(some, range(2), doses=RandomDoses)
    fits = []
    for world, choices in (("own", ([0], [0, 2, 4])), ("crossfit", ([1], [1, 3, 5]))):
        for operations in choices:
            records = record_operations(some, operations)
            start = time.process_time()
            fit = fit_surrogate(some, records)
            seconds = time.process_time() - start
            row: dict[str, object] = {
                "world": world,
                "operations": [o + 1 for o in operations],
                "seconds": round(seconds, 1),
                "correlation_of_log_need": round(
                    float(np.corrcoef(needs(fit.individual), needs(published(some)))[0, 1]), 3
                ),
            }
            for name, law in (("individual", fit.individual), ("center", fit.center)):
                for component, score in zip(("bis", "pressure"), score_surrogate(law, random)):
                    row[f"{name}_{component}"] = {k: round(v, 3) for k, v in vars(score).items()}
            fits.append(row)
            print(row, flush=True)
    rates = {f"{e} episodes of 110 patients": speed(truth, e) for e in (16, 64, 256)}
    rates["4096 episodes of one patient"] = speed(published(people.select([0])), 4096)
    result["truth_million_ticks_per_second"] = rates
    result["learned_million_ticks_per_second"] = {"64 episodes": speed(fit.individual, 64)}
    result["pressure_error_mmhg"] = step_error(people)
    result["patients"], result["fits"] = len(some), fits
    print({k: v for k, v in result.items() if k != "fits"})
    write_json(Path(__file__).parent / "results" / "anesthesia.json", result)


if __name__ == "__main__":
    main()
