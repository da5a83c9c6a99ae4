"""Which dose costs the release's policies on the true patients? Fixed-timing policies with one dose capped, per world.

    python benchmarks/dose_caps.py [EPISODES] [BANK]

Writes benchmarks/results/dose_caps-BANK.json: mean return of the policies in every world, on the same episodes, for
each treatment capped at some shares of its range. docs/studies.md quotes it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import arguments
from medgym_offline.envs.process import DecisionProcess, ProcessConfig
from medgym_offline.envs.rollout import draw_noise, episode_seeds, rollout
from medgym_offline.files import write_json
from medgym_offline.online import load_behavior
from medgym_offline.policies.actor import StackedActor
from medgym_offline.simulators import load_simulators

SCOPES = ("ind", "dr", "pop")
CAPS = (1.0, 0.65, 0.5, 0.35)
"""Shares of a treatment's normalized range; 1 is no cap."""


def capped(policy: StackedActor, index: int, cap: float) -> Callable[[Tensor], Tensor]:
    """The policy with treatment `index` never above `cap` of its range."""

    def act(observations: Tensor) -> Tensor:
        action = policy.act(observations).clone()
        action[..., index] = action[..., index].clamp(max=2.0 * cap - 1.0)
        return action

    return act


def main() -> None:
    """Roll out, print a line per policy and cap, and write them all."""
    episodes, name = arguments(__doc__, episodes=10, bank="sepsis-twin-v0")
    bank, process = load_simulators(name), ProcessConfig(timing="fixed")
    seeds = episode_seeds(0, "dose-caps", bank.patients, episodes)
    noise = draw_noise(seeds, bank, process)
    rows = []
    for scope in SCOPES:
        policy = load_behavior(name, scope, "fixed").select(bank.patients)
        for index, treatment in enumerate(bank.disease.treatments):
            for cap in CAPS if index == 0 else CAPS[1:]:
                returns = {}
                for world in bank.worlds:
                    with torch.no_grad():
                        played = rollout(DecisionProcess(bank.world(world), process), capped(policy, index, cap), noise)
                    returns[world] = round(float(played.rewards.double().sum(-1).mean()), 3)
                what = None if cap == 1.0 else treatment.name
                rows.append({"policy": scope, "capped": what, "cap": cap, "return": returns})
                print(scope, what or "nothing", cap, returns, sep="\t", flush=True)
    target = Path(__file__).parent / "results" / f"dose_caps-{name}.json"
    write_json(target, {"command": "python " + " ".join(sys.argv), "bank_hash": bank.content_hash, "rows": rows})


if __name__ == "__main__":
    main()
