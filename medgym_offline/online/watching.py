"""What is watched during training: live numbers, policies of the way (snapshots), and early stop.

The last two keep parameters of earlier updates, in a file beside the training's checkpoint, so that a killed and
resumed run ends with the same ones. The file may be ahead of the checkpoint: updates that are done again find their
entry there.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from medgym_offline.files import atomic_path
from medgym_offline.online.state import TrainState

__all__ = ["Patience", "Snapshots", "live_numbers", "snapshot_updates"]

WINDOW = 10
"""Updates of the running mean that early stop looks at."""

_LIVE = {"return": "ret", "cost": "cost", "multiplier": "lam", "alpha": "alpha", "kl": "kl"}


def live_numbers(row: dict[str, Tensor]) -> dict[str, float]:
    """What progress shows of one row of a training log: means over those that have a number."""
    means = {short: float(row[name].nanmean()) for name, short in _LIVE.items() if name in row}
    return {short: value for short, value in means.items() if math.isfinite(value)}


def snapshot_updates(updates: int) -> tuple[int, ...]:
    """Updates at which the way is recorded: 0, 1, 2, .., about a quarter further each time, up to `updates`."""
    found = [0]
    while found[-1] < updates:
        found.append(min(updates, max(found[-1] + 1, round(1.25 * found[-1]))))
    return tuple(found)


class _File:
    """Tensors by name in a small safetensors file; without a path, in memory only."""

    def __init__(self, path: Path | None):
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        if path is not None and path.exists():
            from safetensors.torch import load_file

            self.tensors = load_file(path)

    def write(self) -> None:
        if self.path is not None:
            from safetensors.torch import save_file

            with atomic_path(self.path) as temporary:
                save_file(self.tensors, temporary)


class Snapshots:
    """Parameters `(P, n)` after chosen updates.

    Args:
        updates: Which updates.
        path: File that keeps them.
    """

    def __init__(self, updates: tuple[int, ...], path: Path | None = None):
        self._wanted = frozenset(updates)
        self._file = _File(path)

    def __call__(self, state: TrainState) -> None:
        """Record `state` if its update is one of those chosen."""
        name = str(state.update)
        if state.update in self._wanted and name not in self._file.tensors:
            self._file.tensors[name] = state.actor.detach().cpu().clone()
            self._file.write()

    def found(self) -> dict[int, Tensor]:
        """Update -> parameters, in order."""
        return {int(name): self._file.tensors[name] for name in sorted(self._file.tensors, key=int)}


class Patience:
    """Early stop of each policy by itself: its parameters are those of the update at which its return stopped growing.

    The return is the running mean over :data:`WINDOW` updates of the policy's simulators. The training of a
    stack ends when every policy of it has stopped; until then the parameters of those that have are kept here, so that
    a patient's policy does not depend on its stack mates.

    Args:
        updates: Updates without a better running mean after which a policy stops.
        path: File that keeps the parameters.
    """

    def __init__(self, updates: int, path: Path | None = None):
        self.updates = updates
        self._file = _File(path)

    def __call__(self, state: TrainState) -> bool:
        """Look at `state`; True when every policy has stopped."""
        kept = self._file.tensors
        if "at" not in kept:
            kept["at"] = torch.full((state.actor.shape[0],), -1, dtype=torch.int64)
            kept["actor"] = torch.zeros_like(state.actor, device="cpu")
        stops = (kept["at"] < 0) & (self._waited(state) >= self.updates)
        if bool(stops.any()):
            kept["actor"][stops] = state.actor.detach().cpu()[stops]
            kept["at"][stops] = state.update
            self._file.write()
        return bool((kept["at"] >= 0).all())

    def _waited(self, state: TrainState) -> Tensor:
        """Updates since the best running mean, `(P,)`."""
        returns = state.log["return"].double()
        if state.actor.shape[0] == 1:
            returns = returns.nanmean(1, keepdim=True)
        count = returns.shape[0] - WINDOW + 1
        if count < 1:
            return torch.zeros(state.actor.shape[0], dtype=torch.int64)
        mean = returns.nan_to_num(-torch.inf).unfold(0, WINDOW, 1).mean(-1)
        return count - 1 - mean.argmax(0)

    def apply(self, actor: Tensor) -> Tensor:
        """`actor (P, n)` with the rows of stopped policies as they were when they stopped."""
        at = self.at()
        if at is None:
            return actor
        return torch.where((at >= 0).unsqueeze(1), self._file.tensors["actor"], actor.cpu()).to(actor.device)

    def at(self) -> Tensor | None:
        """Update at which each policy stopped `(P,)`, -1 where it did not; None before the first update."""
        return self._file.tensors.get("at")
