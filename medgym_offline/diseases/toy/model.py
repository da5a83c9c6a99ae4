"""The minimal model, stacked over patients, and how its parameters are learned.

    dG/dt = p1 (Gb - G) - S Y G          dY/dt = p2 (I - Y)                     per hour

with G glucose, Y insulin where it acts, I plasma insulin above basal; the paper's X is S Y, its p3 is S p2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from medgym_offline.config import configuration
from medgym_offline.diseases.base import Disease, Dynamics
from medgym_offline.diseases.scales import Scales, stack_last
from medgym_offline.errors import BankError
from medgym_offline.seeds import generator
from medgym_offline.stack import NoChoices, StackedTensors

__all__ = ["MODEL", "MinimalModel", "draw_people"]

P2 = 1.5
"""Per hour: 0.025 per minute (Fisher, IEEE Trans Biomed Eng 38:57, 1991)."""
SENSITIVITY = 0.0312
"""S = p3/p2 per hour and uU/mL: 1.3e-5 / 0.025 per minute (Fisher, 1991)."""
P1 = 0.3
"""Per hour. Chosen: between 0 (Fisher's diabetic) and 1.7 (healthy), as a little glucose clears by itself."""
BASAL = 260.0
"""mg/dL without treatment. Chosen: clearly too high."""


@dataclass
class MinimalModel(StackedTensors):
    """Parameters, each (P, 1): p1, p2, sensitivity (S) and basal (Gb)."""

    kind: ClassVar[str] = "minimal"
    shares: ClassVar[bool] = True

    p1: Tensor
    p2: Tensor
    sensitivity: Tensor
    basal: Tensor

    def rate(self, disease: Disease, scales: Scales, physics: Any, x: Tensor, u: Tensor) -> Tensor:
        """dx/dt, (P, B, 2) normalized per hour, at states (P, B, 2) and treatment (P, B, 1)."""
        glucose, action = (scales.physical_column(disease, column, j) for j, column in enumerate(x.unbind(-1)))
        insulin = scales.denormalize_treatment(disease, u)[..., 0]
        # The state is the logarithm, so its rate is relative.
        relative = self.p1 * (self.basal / glucose - 1.0) - self.sensitivity * action
        return stack_last([relative / scales.scale[0], self.p2 * (insulin - action) / disease.components[1].scale])

    def relaxation(self) -> Tensor:
        """(P, 2) rough linear rates per hour."""
        patients = max(t.shape[0] for t in self.tensors().values())
        return torch.cat([self.p1.expand(patients, 1), self.p2.expand(patients, 1)], -1)


@configuration("prior", BankError)
class SpeedPrior:
    """What hourly records cannot tell: the SD of the logarithm of p2 between people. Chosen."""

    spread: float = 0.2


class ToyModel:
    """:class:`~medgym_offline.diseases.base.Model` of the minimal model."""

    physics: type[Any] = NoChoices
    prior: type[Any] = SpeedPrior
    kinds: Mapping[str, type[Any]] = {"minimal": MinimalModel}
    pooled = ("p1", "sensitivity", "basal")
    decayed = ()

    def initial_raw(self, seed: int) -> dict[str, Tensor]:
        """Logarithms relative to the published values; 0 to begin with."""
        return {name: torch.zeros(1, 1) for name in self.pooled}

    def given(
        self, data: Any, times: np.ndarray, physics: Any, prior: SpeedPrior, root: int, recency: float
    ) -> dict[str, np.ndarray]:
        """p2, drawn from the prior."""
        draws = [generator(root, "toy-speed", p).normal(0.0, prior.spread, 1) for p in data.patients]
        return {"p2": (P2 * np.exp(np.stack(draws))).astype(np.float32)}

    def parameters(self, raw: Mapping[str, Tensor], physics: Any, given: Mapping[str, Tensor]) -> MinimalModel:
        """Published values times what is fitted."""
        return MinimalModel(
            p1=P1 * torch.exp(raw["p1"]),
            p2=given["p2"],
            sensitivity=SENSITIVITY * torch.exp(raw["sensitivity"]),
            basal=BASAL * torch.exp(raw["basal"]),
        )

    def hidden_course(self, physics: Any, given: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
        """(P, T, 1) insulin action at each hour of the record's treatment; exact for treatment held by the hour."""
        keep = np.exp(-np.broadcast_to(given["p2"], (len(u), 1)))[:, 0]
        action, course = np.zeros(len(u)), np.empty((*u.shape[:2], 1), np.float32)
        for t in range(u.shape[1]):
            course[:, t, 0] = action
            # u = 1 is 60 uU/mL, the state's scale 30.
            action = keep * action + (1.0 - keep) * 2.0 * u[:, t, 0]
        return course

    def given_of(self, dynamics: Dynamics) -> dict[str, np.ndarray]:
        """p2 of a world."""
        if not isinstance(dynamics, MinimalModel):
            raise BankError("this world is no minimal model, so its hidden component cannot be read from a record")
        return {"p2": dynamics.p2.numpy()}

    def average(self, dynamics: Dynamics, how: str) -> MinimalModel:
        """The mean or median of p2; the rest is shared already."""
        assert isinstance(dynamics, MinimalModel)
        p2 = dynamics.p2.mean(0, keepdim=True) if how == "mean" else dynamics.p2.median(0, keepdim=True).values
        return dataclasses.replace(dynamics, p2=p2)


MODEL = ToyModel()


def draw_people(root: int, patients: Sequence[str]) -> tuple[MinimalModel, np.ndarray]:
    """True parameters of the named people, each from its own stream, and their first glucose (P,), mg/dL.

    Spreads are chosen: a factor of about 1.6 in sensitivity between people, less in the rest.
    """
    z = np.stack([generator(root, "toy-person", p).normal(size=5) for p in patients])
    centers, spreads = np.array([P1, P2, SENSITIVITY, BASAL]), np.array([0.2, 0.2, 0.45, 0.12])
    values = torch.tensor((centers * np.exp(spreads * z[:, :4])).astype(np.float32))
    return MinimalModel(*values.split(1, -1)), np.clip(values[:, 3].numpy() * np.exp(0.1 * z[:, 4]), 150.0, 400.0)
