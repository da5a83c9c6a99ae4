"""How far the learned simulators of type 1 diabetes foresee glucose under treatment that nobody gave.

    python -m experiments.diabetes.fidelity

The published patients and the learned ones play the same 32 days: the same meals, doses redrawn every 2 hours.
R2 is that of glucose 1 to 23 h after 06:00, of all days of a patient; persistence says that glucose stays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

import medgym_offline as mgo
from experiments.common import plain_table
from experiments.diabetes.online import played_plans
from medgym_offline.envs import DecisionProcess, ProcessConfig, dense, draw_noise, episode_seeds
from medgym_offline.files import write_text

HOURS = (1, 2, 4, 8, 23)
DAYS = 32
HERE = Path(__file__).parent


def glucose(bank: mgo.SimulatorBank, like: mgo.SimulatorBank, actions: torch.Tensor) -> np.ndarray:
    """Glucose (P, B, hours) of `bank` under the events of `like` and given actions (P, B, 12, 2)."""
    config = ProcessConfig(timing="fixed", decisions=12, noise=False, disease="diabetes")
    noise = draw_noise(episode_seeds(11, "diabetes-fidelity", like.patients, DAYS), like, config)
    process = DecisionProcess(bank, config)
    states, _ = dense(process, played_plans(process, noise, actions), torch.tensor([0.0, *HOURS]))
    return bank.monitored(states).double().numpy()


def main() -> None:
    """Write the rows and the table."""
    bank = mgo.load_simulators("diabetes-v0")
    true = bank.world("true")
    random = np.random.default_rng(3)
    basal = random.uniform(0.0, 0.5, (len(bank), DAYS, 12))  # up to .03 U/kg/h
    bolus = random.uniform(0.0, 0.45, basal.shape) * (random.uniform(size=basal.shape) < 0.4)  # up to .06 U/kg
    actions = torch.from_numpy(2.0 * np.stack([basal, bolus], -1) - 1.0).float()
    truth = glucose(true, true, actions)
    everyone = bank.population().select([0] * len(bank)).replace(patients=bank.patients)
    found = {
        "own": glucose(bank.world("own"), true, actions),
        "crossfit": glucose(bank.world("crossfit"), true, actions),
        "population": glucose(everyone, true, actions),
        "persistence": np.broadcast_to(truth[..., :1], truth.shape),
    }
    rows = []
    for model, value in found.items():
        for j, hour in enumerate(HOURS, 1):
            error, now = value[..., j] - truth[..., j], truth[..., j]
            scores = {"r2": 1.0 - (error**2).mean(-1) / now.var(-1), "rmse": np.sqrt((error**2).mean(-1))}
            part = {"model": model, "hour": hour, "patient": bank.patients, **scores, "bias": error.mean(-1)}
            rows.append(pl.DataFrame(part))
    pl.concat(rows).write_parquet(HERE / "fidelity.parquet")
    write_text(HERE / "fidelity.md", markdown(pl.concat(rows)))


def markdown(table: pl.DataFrame) -> str:
    """R2 of every model and hour, and how far the last hour is off."""
    rows = []
    for (model,), mine in table.group_by("model", maintain_order=True):
        hours = [mine.filter(hour=hour) for hour in HOURS]
        r2 = [f"{part['r2'].median():.2f} ({part['r2'].min():.2f})" for part in hours]
        rows.append([str(model), *r2, f"{hours[-1]['bias'].mean():.0f}"])
    head = "# Forecasts under random treatment\n\nMade by `fidelity.py`. R2, median over the 30 patients (least).\n\n"
    return head + plain_table(["", *(f"{hour} h" for hour in HOURS), f"bias at {HOURS[-1]} h, mg/dL"], rows) + "\n"


if __name__ == "__main__":
    main()
