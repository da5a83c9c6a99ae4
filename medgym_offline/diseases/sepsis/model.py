"""How sepsis is learned from records: free rates and residual, and what is estimated or drawn before the fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgym_offline.diseases.base import Dynamics
from medgym_offline.diseases.sepsis.field import K_MAX, K_MIN, R_MAX, FieldParameters, Physics
from medgym_offline.diseases.sepsis.needs import NeedPrior, estimate_need, shock_course
from medgym_offline.diseases.sepsis.prior import RESIDUAL_HIDDEN, draw_response, draw_threshold
from medgym_offline.diseases.sepsis.twin import TwinField
from medgym_offline.errors import BankError

__all__ = ["MODEL", "SepsisModel"]


class SepsisModel:
    """:class:`~medgym_offline.diseases.model.Model` of the hybrid field."""

    physics: type[Any] = Physics
    prior: type[Any] = NeedPrior
    kinds: Mapping[str, type[Any]] = {kind.kind: kind for kind in (FieldParameters, TwinField)}
    pooled = ("k", "set_point", "reversion", "w3", "b3")
    decayed = ("w1", "w2", "w3")

    def initial_raw(self, seed: int) -> dict[str, Tensor]:
        """Mid-range rates and an untrained residual network."""
        g = torch.Generator().manual_seed(seed)
        h = RESIDUAL_HIDDEN

        def uniform(a: int, b: int, gain: float) -> Tensor:
            return (2.0 * torch.rand((1, a, b), generator=g) - 1.0) * gain * (3.0 / a) ** 0.5

        return {
            "k": torch.full((1, 14), -1.0),
            "set_point": torch.zeros(1, 6),
            "reversion": torch.full((1, 6), -1.5),
            "w1": uniform(6, h, 1.0),
            "b1": torch.zeros(1, 1, h),
            "w2": uniform(h, h, 1.0),
            "b2": torch.zeros(1, 1, h),
            "w3": uniform(h, 6, 0.1),
            "b3": torch.zeros(1, 1, 6),
        }

    def given(
        self, data: Any, times: np.ndarray, physics: Physics, prior: NeedPrior, root: int, recency: float
    ) -> dict[str, np.ndarray]:
        """Needs estimated from the charts at `times`; responses and thresholds drawn from the prior."""
        return {
            "need": estimate_need(data, times, physics, root, prior, recency),
            "response": draw_response(root, data.patients),
            "threshold": draw_threshold(root, data.patients),
        }

    def parameters(self, raw: Mapping[str, Tensor], physics: Physics, given: Mapping[str, Tensor]) -> FieldParameters:
        """The field of free numbers: rates within their bounds."""
        high = raw["k"].new_tensor(K_MAX)
        # The floors are part of our extension, not of the paper's prior.
        low = raw["k"].new_tensor(K_MIN) if physics.extension else torch.zeros_like(high)
        return FieldParameters(
            k=low + torch.sigmoid(raw["k"]) * (high - low),
            set_point=raw["set_point"],
            reversion=R_MAX * torch.sigmoid(raw["reversion"]),
            **given,
            **{n: raw[n] for n in ("w1", "b1", "w2", "b2", "w3", "b3")},
        )

    def hidden_course(self, physics: Physics, given: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
        """(P, T, 1) severity of shock."""
        return shock_course(physics, np.broadcast_to(given["need"], (len(u), 3)), u)[..., None]

    def given_of(self, dynamics: Dynamics) -> dict[str, np.ndarray]:
        """Needs, responses and thresholds of a fitted field."""
        if not isinstance(dynamics, FieldParameters):
            raise BankError("this world is no fitted field, so its hidden components cannot be read from a record")
        return {n: getattr(dynamics, n).numpy() for n in ("need", "response", "threshold")}

    def average(self, dynamics: Dynamics, how: str) -> FieldParameters:
        """Mean responses and thresholds, mean or median needs (they are skewed; the median is nearer to most)."""
        assert isinstance(dynamics, FieldParameters)
        average = {n: getattr(dynamics, n).mean(0, keepdim=True) for n in ("need", "response", "threshold")}
        if how == "median":
            average["need"] = dynamics.need.median(0, keepdim=True).values
        return replace(dynamics, **average)


MODEL = SepsisModel()
