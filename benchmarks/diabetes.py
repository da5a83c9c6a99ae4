"""How fast are the virtual patients of type 1 diabetes? One run on one core, about half a minute.

    python benchmarks/diabetes.py [--simglucose]

Patient-days per second of 5-minute ticks with meals, basal rate and bolus, for the 30 published patients with 16, 128
and 512 days each; records of the erring clinician; the fit of the learned model. Beside it the time of simglucose
0.2.11 (T1DPatient, one-minute samples): measured with `--simglucose` where that package is installed, else the least of
its recorded times (181 s for 30 patient-days).

CPU seconds of this process, the least of several repeats. Writes `benchmarks/results/diabetes.json`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import machine, seconds
from medgym_offline.diseases.diabetes.clinician import meals, record, served
from medgym_offline.diseases.diabetes.minimal import fit
from medgym_offline.diseases.diabetes.people import published
from medgym_offline.diseases.diabetes.truth import play, start, truth
from medgym_offline.files import json_text, write_json

RESULTS = Path(__file__).parent / "results" / "diabetes.json"
RECORDED = 181.0 / 30
"""Seconds of a patient-day of simglucose, the least of two runs of 30 (181 and 324 s)."""


def simglucose() -> float:
    """CPU seconds of a patient-day of the other implementation."""
    from simglucose.patient.t1dpatient import Action, T1DPatient

    patient = T1DPatient.withName("adult#001")
    begin = time.process_time()
    for minute in range(1440):
        patient.step(Action(CHO=5 if 60 <= minute < 70 else 0, insulin=0.02))
    return time.process_time() - begin


def stacks(episodes: int) -> float:
    """CPU seconds of a patient-day in a stack of the 30 patients."""
    people = published()
    model = truth(people)
    plate = meals(np.arange(30 * episodes).reshape(30, episodes), people["BW"])
    grid = served(plate.minutes, plate.grams, 288)
    insulin = torch.ones(30, episodes, 288)  # U/h
    insulin[..., 0] = 40.0
    return seconds(lambda: play(model, start(model, episodes), insulin, grid)) / (30 * episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simglucose", action="store_true", help="measure it instead of taking its recorded time")
    measured = parser.parse_args().simglucose
    torch.set_num_threads(1)
    other = simglucose() if measured else RECORDED
    rows = []
    for episodes in (16, 128, 512):
        own = stacks(episodes)
        speeds = {"patient_days_per_second": round(1 / own), "times_simglucose": round(other / own)}
        rows.append({"days_per_patient": episodes, **speeds})
    model = truth(published())
    begin = time.process_time()
    found = record(model)
    recording = time.process_time() - begin
    weight = model.values["BW"]
    begin = time.process_time()
    fit(found.sensor, (found.basal / 12 + found.bolus) / weight, found.logged / weight, parity=0)
    results = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "simglucose": {"seconds_per_patient_day": round(other, 3), "measured": measured},
        "truth": rows,
        "records_of_30_patients_14_days_seconds": round(recording, 1),
        "fit_of_30_patients_seconds": round(time.process_time() - begin, 1),
    }
    write_json(RESULTS, results)
    print(json_text(results))


if __name__ == "__main__":
    main()
