"""How fast are the simulators? Everything in one run on one core, ratios side by side.

    python benchmarks/simulators.py --bank sepsis-v0 --cohort runs/cohort.parquet       # about two minutes

(a) full environment steps, 110 patients x 64 episodes, against one environment in a torch loop: the authors' design
    (network 9-128-128-128-6 plus physics as the vector field, four Euler sub-steps, batch of 1, severity, reward, cost)
    rewritten here from the paper's formulas; none of their code was run;
(b) the dense hourly curve of a 36 h hold, (c) a hold of 4.8 h: solution map against the solver at steps of an hour,
    the same field in both;
(d) fitting the individual models of all patients as one stack, against one patient after another: a few steps each,
    extrapolated to the recipe's number of steps (the time of a step does not depend on its number);
(e) loading the bank, and its size.

CPU seconds of this process, so that a shared machine gives about the same ratios; the least of several repeats.
Writes `benchmarks/results/simulators.json`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import machine, rounded, seconds
from medgym_offline.compute import keep_memory
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.files import release_folder, write_json
from medgym_offline.simulators import SimulatorBank, load_simulators

RESULTS = Path(__file__).parent / "results" / "simulators.json"
EPISODES = 64


class OneEnvironment:
    """One patient, one episode, one step after another: what the authors' design costs."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for a, b in ((9, 128), (128, 128), (128, 128)):
            layers += [nn.Linear(a, b), nn.Tanh()]
        self.network = nn.Sequential(*layers, nn.Linear(128, 6))
        self.k = 0.1 * torch.rand(14)
        self.x = torch.zeros(1, 6)

    def physics(self, x: Tensor, u: Tensor) -> Tensor:
        spo2, pao2, bili, _, _, lactate = x.unbind(-1)
        fio2, vaso, fluids = u.unbind(-1)
        k, high, low = self.k, torch.relu(lactate), torch.relu(-spo2)
        return torch.stack(
            [
                k[3] * (pao2 - spo2),
                k[0] * (fio2 - pao2) - k[1] * lactate + k[2] * fluids,
                k[12] * high - k[13] * torch.relu(bili),
                -k[4] * high - k[5] * low,
                k[9] * fluids - k[10] * high - k[11] * vaso,
                k[6] * vaso + 0.05 * low - k[7] * high - k[8] * fluids,
            ],
            -1,
        )

    def score(self, x: Tensor, dose: Tensor) -> Tensor:
        """The severity surrogate, cut-off by cut-off."""

        def s(z: Tensor, a: float, b: float) -> Tensor:
            return 0.7 * torch.sigmoid(z / a) + 0.3 * torch.sigmoid(z / b)

        spo2, bili, gcs, urine = 97 + 3 * x[:, 0], 1 + x[:, 2], 10 + 4 * x[:, 3], 1500 + 1000 * x[:, 4]
        total = sum(0.7 * s(c - spo2, 1.0, 3.0) for c in (94.0, 90.0, 85.0, 80.0))
        total = total + sum(s(bili - c, 0.3, 1.5) for c in (1.2, 2.0, 6.0, 12.0))
        total = total + sum(s(c - gcs, 0.5, 1.5) for c in (15.0, 13.0, 10.0, 6.0))
        total = total + s(500 - urine, 50.0, 120.0) + 2 * s(200 - urine, 50.0, 120.0)
        for c, a, b in ((0.01, 0.003, 0.01), (0.05, 0.01, 0.03), (0.1, 0.02, 0.05), (0.25, 0.03, 0.08)):
            total = total + s(dose - c, a, b)
        return total

    def step(self, action: Tensor) -> tuple[Tensor, float, float]:
        """Observation, reward and cost of one decision."""
        u = (action[:3] + 1) / 2
        dt = 0.5 + float(action[3] + 1) / 2 * 35.5
        u = u[None]
        start = self.x
        for _ in range(4):
            rate = self.physics(self.x, u) + self.network(torch.cat([self.x, u], -1))
            self.x = (self.x + dt / 4 * rate).clamp(-3, 3)
        dose = 0.75 * u[:, 1]
        before, after = self.score(start, dose), self.score(self.x, dose)
        reward = 0.1 * dt * (-after - 0.2 * u[:, 1]) + 4 * (before - after) - 0.15 * dt - 0.02 / (dt + 0.001) + 0.3
        lactate = float(torch.expm1(1.25 + 0.5 * self.x[0, 5]))
        cost = 0.0 if lactate < 1.5 else 0.6 * (lactate - 1.5) if lactate < 2 else min(3.0, lactate - 2)
        return self.x, float(reward), cost


def environment_steps(bank: SimulatorBank, repeats: int) -> dict[str, Any]:
    """(a): microseconds per environment step, ours and the loop's."""
    config = ProcessConfig(timing="adaptive", decisions=20, reward="integral")
    process = DecisionProcess(bank, config)
    g = torch.Generator().manual_seed(0)
    shape = (len(bank), EPISODES)
    start = torch.randn((*shape, bank.state_dim), generator=g)
    # Holds around 4.8 h, so that an episode has about the 20 decisions it may have.
    actions = 2 * torch.rand((config.decisions, *shape, 4), generator=g) - 1
    actions[..., 3] = 2 * (torch.rand(actions.shape[:-1], generator=g) * 8.6) / 35.5 - 1
    noise = torch.randn((config.decisions, *shape, bank.state_dim), generator=g)
    count = 0

    def ours() -> None:
        nonlocal count
        count = 0
        with torch.inference_mode():
            episodes = process.start(EPISODES, start)
            for a, n in zip(actions, noise):
                count += int(process.active(episodes).sum())
                episodes = process.step(episodes, a, n).next
                process.observe(episodes)

    per_step = seconds(ours, repeats) / max(count, 1)
    loop = OneEnvironment()

    def theirs() -> None:
        with torch.no_grad():
            for a in actions[:10, 0, :40].flatten(0, 1):
                loop.step(a)

    per_loop = seconds(theirs, repeats) / 400
    return {"ours_us": 1e6 * per_step, "loop_us": 1e6 * per_loop, "ratio": per_loop / per_step, "goal": 300}


def holds(bank: SimulatorBank, times: Tensor, repeats: int, goal: float) -> dict[str, Any]:
    """(b), (c): one call for 7040 holds, map against solver at steps of at most an hour."""
    g = torch.Generator().manual_seed(0)
    u = torch.rand((len(bank), EPISODES, 3), generator=g)
    x = bank.initial_state()[:, None].expand(-1, EPISODES, -1).contiguous()
    solver = bank.with_backend("ode")
    with torch.inference_mode():
        fast = seconds(lambda: bank.trajectory(x, u, times), repeats)
        slow = seconds(lambda: solver.trajectory(x, u, times), max(1, repeats // 3))
    return {"map_ms": 1e3 * fast, "solver_ms": 1e3 * slow, "ratio": slow / fast, "goal": goal}


def fits(cohort_path: Path, bank: SimulatorBank, steps: int = 3, sample: int = 4) -> dict[str, Any]:
    """(d): all Ind models stacked against one by one."""
    from medgym_offline.cohorts import Cohort
    from medgym_offline.diseases.sepsis.model import MODEL, NeedPrior
    from medgym_offline.simulators.data import fit_data
    from medgym_offline.simulators.fit import FitConfig, fit_individuals, fit_population

    cohort = Cohort.read(cohort_path)
    cohort = cohort.select([p for p in bank.patients if p in set(cohort.patients)])
    config, physics = replace(FitConfig(), population_steps=1), bank.physics

    def parts(patients: list[str]) -> tuple[Any, ...]:
        grid = cohort.select(patients).to_grid(1.0, bank.disease.process.horizon)
        data = fit_data(grid, bank.disease, bank.scales)
        hours = np.arange(data.u.shape[1])[None] < data.length[:, None]
        return data, MODEL.given(data, hours, physics, NeedPrior(), 0, 0.0)

    everyone = parts(list(cohort.patients))
    population = fit_population(*everyone, physics, config, False)

    def time_of(data: Any, given: Any) -> float:
        """Seconds per step: the difference of two lengths, so that set-up does not count."""
        took = []
        for count in (1, 1 + steps):
            fit = replace(config, individual_steps=count)
            fit_one = partial(fit_individuals, data, population, given, physics, fit, False)
            took.append(seconds(fit_one, 1, warm=False))
        return (took[1] - took[0]) / steps

    time_of(*everyone)
    stacked = time_of(*everyone)
    chosen = list(cohort.patients)[:: max(1, len(cohort) // sample)][:sample]
    alone = sum(time_of(*parts([p])) for p in chosen) / len(chosen)
    full = FitConfig().individual_steps
    return {
        "patients": len(cohort),
        "stacked_s": stacked * full,
        "loop_s": alone * len(cohort) * full,
        "ratio": alone * len(cohort) / stacked,
        "goal": 5,
        "measured": f"{steps} of {full} steps; the loop on {len(chosen)} patients",
    }


def loading(name: str, repeats: int) -> dict[str, Any]:
    """(e)."""
    shipped = release_folder("generation") / "banks" / f"{name}.safetensors"
    path = shipped if shipped.exists() else Path(name)
    took = seconds(lambda: load_simulators(path), repeats)
    return {"load_s": took, "megabytes": path.stat().st_size / 1e6, "goal_s": 0.5, "goal_megabytes": 10}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", default="sepsis-v0")
    parser.add_argument("--cohort", type=Path, help="cohort table, for (d)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--return-memory", action="store_true", help="without what the command line does to memory")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = not options.return_memory and keep_memory()
    bank = load_simulators(options.bank)
    results: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "bank": bank.name,
        "patients": len(bank),
        "episodes": EPISODES,
        "machine": machine(keep_memory=kept),
        "environment_step": environment_steps(bank, options.repeats),
        "dense_36h": holds(bank, torch.arange(1.0, 37.0), options.repeats, 10),
        "hold_4.8h": holds(bank, torch.tensor([4.8]), options.repeats, 2),
        "load": loading(options.bank, options.repeats),
    }
    if options.cohort:
        results["fit_individuals"] = fits(options.cohort, bank)
    write_json(options.output, rounded(results))
    print(options.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
