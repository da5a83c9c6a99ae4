"""How far the learned simulators of type 1 diabetes foresee glucose under treatment that nobody gave.

    python experiments/diabetes/fidelity.py

The published patients and the learned ones play the same 32 days: the same meals, doses redrawn every 2 hours.
R2 is that of glucose 1 to 23 h after 06:00, of all days of a patient; persistence says that glucose stays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

import medgym_offline as mgo
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import dense, draw_noise, episode_seeds, rollout

HOURS = (1, 2, 4, 8, 23)
DAYS = 32
HERE = Path(__file__).parent


def glucose(bank: mgo.SimulatorBank, like: mgo.SimulatorBank, actions: torch.Tensor) -> np.ndarray:
    """Glucose (P, B, hours) of `bank` under the events of `like` and given actions (P, B, 12, 2)."""
    config = ProcessConfig(timing="fixed", decisions=12, noise=False, disease="diabetes")
    noise = draw_noise(episode_seeds(11, "diabetes-fidelity", like.patients, DAYS), like, config)
    steps = iter(actions.unbind(2))
    process = DecisionProcess(bank, config)
    played = rollout(process, lambda seen: next(steps), noise)
    states, _ = dense(process, played, torch.tensor([0.0, *HOURS]))
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
    center = bank.population()
    everyone = center.select([0] * len(bank)).replace(patients=bank.patients)
    found = {
        "own": glucose(bank.world("own"), true, actions),
        "crossfit": glucose(bank.world("crossfit"), true, actions),
        "population": glucose(everyone, true, actions),
        "persistence": np.broadcast_to(truth[..., :1], truth.shape),
    }
    rows = []
    for model, value in found.items():
        for j, hour in enumerate(HOURS, 1):
            error, spread = value[..., j] - truth[..., j], truth[..., j] - truth[..., j].mean(-1, keepdims=True)
            r2 = 1.0 - (error**2).sum(-1) / (spread**2).sum(-1)
            part = {"model": model, "hour": hour, "patient": bank.patients, "r2": r2}
            rows.append(pl.DataFrame({**part, "rmse": np.sqrt((error**2).mean(-1)), "bias": error.mean(-1)}))
    table = pl.concat(rows)
    table.write_parquet(HERE / "fidelity.parquet")
    lines = [
        "# Forecasts under random treatment",
        "",
        "Made by `fidelity.py`. R2, median over the 30 patients (least).",
        "",
    ]
    lines += [
        "| | " + " | ".join(f"{hour} h" for hour in HOURS) + " | bias at 23 h, mg/dL |",
        "|-" * (len(HOURS) + 2) + "|",
    ]
    for model in found:
        mine = table.filter(pl.col("model") == model)
        cells = [mine.filter(pl.col("hour") == hour)["r2"] for hour in HOURS]
        bias = mine.filter(pl.col("hour") == HOURS[-1])["bias"].mean()
        lines.append(
            f"| {model} | " + " | ".join(f"{c.median():.2f} ({c.min():.2f})" for c in cells) + f" | {bias:.0f} |"
        )
    (HERE / "fidelity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
