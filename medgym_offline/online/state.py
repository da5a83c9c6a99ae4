"""What training carries from one update to the next, and its checkpoint file.

A checkpoint is safetensors with a JSON header (format, recipe); nothing in it can run. Resuming from it continues the
very same run, because every random draw is derived from (seed, patient, update) and not from a generator that moves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, json_difference
from medgym_offline.online.networks import Adam

__all__ = ["REPLAY", "TrainState", "load_state", "save_state"]

FORMAT = "medgym-online-state/1"
REPLAY = ("replay", "filled")
"""Entries of a learner that hold its past transitions."""


@dataclass
class TrainState:
    """State of P policies over S simulators (P = S, or P = 1 when shared) after `update` updates.

    Args:
        update: Updates done.
        actor: Flat actor parameters `(P, n)`.
        critic: Flat critic parameters `(P, m)`.
        optimiser: Adam moments of the critic.
        scale: Scale of the critic's targets `(P, 2)`; 0 before the first update. SAC uses the first.
        multiplier: Lagrange multipliers `(P,)`.
        harm: Mean harm per hour of each simulator, rho `(S,)`.
        stopped: Update at which a simulator's training was stopped by a non-finite number, else -1, `(S,)`.
        log: Name -> `(updates done, S or P)`.
        learner: What the algorithm itself carries along, name -> tensor with leading axis P (PPO: Adam moments of the
            actor; SAC: `medgym_offline.online.soft_update`). Empty for TRPO.
    """

    update: int
    actor: Tensor
    critic: Tensor
    optimiser: Adam
    scale: Tensor
    multiplier: Tensor
    harm: Tensor
    stopped: Tensor
    log: dict[str, Tensor] = field(default_factory=dict)
    learner: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, as in a checkpoint."""
        own = {
            "actor": self.actor,
            "critic": self.critic,
            "adam.mean": self.optimiser.mean,
            "adam.square": self.optimiser.square,
            "adam.steps": self.optimiser.steps,
            "scale": self.scale,
            "multiplier": self.multiplier,
            "harm": self.harm,
            "stopped": self.stopped,
        }
        own |= {f"learner.{name}": value for name, value in self.learner.items()}
        return own | {f"log.{name}": value for name, value in self.log.items()}

    @classmethod
    def from_tensors(cls, update: int, tensors: dict[str, Tensor]) -> TrainState:
        """Inverse of :meth:`tensors`."""
        return cls(
            update,
            tensors["actor"],
            tensors["critic"],
            Adam(tensors["adam.mean"], tensors["adam.square"], tensors["adam.steps"]),
            tensors["scale"],
            tensors["multiplier"],
            tensors["harm"],
            tensors["stopped"],
            {name[4:]: value for name, value in tensors.items() if name.startswith("log.")},
            {name[8:]: value for name, value in tensors.items() if name.startswith("learner.")},
        )

    def to(self, device: torch.device | str) -> TrainState:
        """The same state on `device` (the log stays on the CPU)."""
        moved = {n: t if n.startswith("log.") else t.to(device) for n, t in self.tensors().items()}
        return TrainState.from_tensors(self.update, moved)

    def without_replay(self) -> TrainState:
        """The same state without the replay buffer, which nobody needs once training is over."""
        return replace(self, learner={n: v for n, v in self.learner.items() if n not in REPLAY})

    def append(self, row: dict[str, Tensor]) -> None:
        """Add one update's numbers, name -> `(S,)` or `(P,)`, to the log."""
        for name, value in row.items():
            line = value.detach().to("cpu", torch.float32).unsqueeze(0)
            self.log[name] = torch.cat([self.log[name], line]) if name in self.log else line


def save_state(path: str | Path, state: TrainState, recipe: dict[str, Any]) -> None:
    """Write a checkpoint atomically; `recipe` is what the run was started with (JSON-able)."""
    from safetensors.torch import save_file

    header = {"format": FORMAT, "update": str(state.update), "recipe": json.dumps(recipe, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in state.tensors().items()}, temporary, header)


def load_state(path: str | Path, recipe: dict[str, Any]) -> TrainState:
    """Read a checkpoint of exactly this `recipe`.

    Raises:
        MedGymError: If the file is no checkpoint, or of another recipe (the differing entries are named).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as stream:
            header = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise MedGymError(f"{path}: not a readable checkpoint ({error}); delete it to start again") from None
    if header.get("format") != FORMAT:
        raise MedGymError(f"{path}: not a training checkpoint (format {header.get('format')!r}, expected {FORMAT!r})")
    theirs = json.loads(header["recipe"])
    if theirs != json.loads(json.dumps(recipe)):
        lines = "; ".join(json_difference(json.loads(json.dumps(recipe)), theirs))
        raise MedGymError(f"{path}: checkpoint of another recipe ({lines}); delete it or use its recipe")
    return TrainState.from_tensors(int(header["update"]), tensors)
