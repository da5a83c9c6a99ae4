"""The evaluation protocol: a versioned file that says how every number was made, and its hash.

`evaluation/protocol-v0.json` is the release's protocol. A call that departs from it (fewer episodes, another seed)
is allowed and useful, but every departure is recorded beside the result, so that two results are never compared by
accident.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np

from medgym_offline.config import configuration, from_values, read_json, to_values
from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import DEFAULT as DEFAULT_DISEASE
from medgym_offline.diseases.registry import disease as find_disease
from medgym_offline.errors import ProtocolError
from medgym_offline.files import release_folder

__all__ = ["Bootstrap", "Protocol", "load_protocol"]

DEFAULT = "protocol-v0"


@configuration("bootstrap", ProtocolError)
class Bootstrap:
    """Settings of the stratified bootstrap: resamples, two-sided confidence, seed."""

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 7

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ProtocolError(f"bootstrap.resamples is {self.resamples}; it must be at least 1")
        if not 0 < self.confidence < 1:
            raise ProtocolError(f"bootstrap.confidence is {self.confidence}; it must lie between 0 and 1")


@configuration("support", ProtocolError)
class SupportSettings:
    """Which half of a dataset is the reference, and the behavior percentile beyond which z counts as outside."""

    reference: str = "even episodes"
    query: str = "odd episodes"
    outside_percentile: float = 95.0


@configuration("protocol", ProtocolError)
class Protocol:
    """How policies are scored.

    What a number may be is checked here, not in the types: those are part of the published schema of entries.

    Every policy is rolled out on every patient's own simulator in each of `worlds` that the bank has: `episodes`
    episodes until `horizon` and at most `decisions` decisions, from the patient's first state plus
    N(0, `initial_noise`^2), with residual noise if `noise`. Metrics are read on an absolute grid: at 0, `grid`, ... the
    state *at* that time. Safety is read after `settled`, on that grid and every `fine`. `timing` "policy" means: as the
    policy was trained. What is None takes its value from the process of the `disease`, in its unit of time. `view` is
    what policies see.
    """

    name: str = DEFAULT
    version: int = 0
    disease: str = DEFAULT_DISEASE
    bank: str = ""
    worlds: tuple[str, ...] = ("own", "crossfit", "true")
    timing: str = "policy"
    decisions: int = None  # type: ignore[assignment]
    episodes: int = 50
    seed: int = 20260
    horizon: float = None  # type: ignore[assignment]
    min_interval: float = None  # type: ignore[assignment]
    max_interval: float = None  # type: ignore[assignment]
    reward: str = "integral"
    noise: bool = True
    initial_noise: float = None  # type: ignore[assignment]
    action_noise: float = 0.0
    grid: float = None  # type: ignore[assignment]
    fine: float = None  # type: ignore[assignment]
    settled: float = None  # type: ignore[assignment]
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    support: SupportSettings = field(default_factory=SupportSettings)
    view: str = FULL

    def __post_init__(self) -> None:
        definition = find_disease(self.disease)
        definition.view(self.view)
        if not self.bank:
            object.__setattr__(self, "bank", definition.bank)
        for name in [name for name, value in vars(self).items() if value is None]:
            object.__setattr__(self, name, getattr(definition.process, name))
        if self.timing not in ("policy", "adaptive", "fixed"):
            raise ProtocolError(f"timing is {self.timing!r}; it must be 'policy', 'adaptive' or 'fixed'")
        for name in ("decisions", "episodes"):
            if getattr(self, name) < 1:
                raise ProtocolError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.worlds:
            raise ProtocolError("worlds is empty; name at least one of 'own', 'crossfit', 'true'")
        for name in ("grid", "fine"):
            if not _divides(getattr(self, name), self.horizon):
                raise ProtocolError(f"{name} is {getattr(self, name)}; it must divide the horizon of {self.horizon}")
        if not _divides(self.fine, self.grid):
            raise ProtocolError("fine must divide grid, so that one grid serves both")
        if not 0 <= self.settled < self.horizon:
            raise ProtocolError(f"settled is {self.settled}; it must lie in 0..{self.horizon}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in the protocol file."""
        return to_values(self)

    @property
    def hash(self) -> str:
        """SHA-256 of the protocol's canonical JSON: independent of the file's layout and key order."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def override(self, **changes: Any) -> tuple[Protocol, dict[str, Any]]:
        """The protocol with the `changes` that are not None, and the deviations {field: {protocol, used}}."""
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in changes.items()}  # NumPy's numbers too
        applied = {k: v for k, v in plain.items() if v is not None and v != getattr(self, k)}
        deviations = {k: {"protocol": getattr(self, k), "used": v} for k, v in applied.items()}
        return (dataclasses.replace(self, **applied) if applied else self), deviations


def load_protocol(name_or_path: str | Path = DEFAULT, disease: str = DEFAULT_DISEASE) -> Protocol:
    """A protocol by name (a file of the release's `evaluation/` folder) or by path, for a disease.

    Raises:
        ProtocolError: There is no such file, or it is not a protocol; the field that is unknown or wrong is named.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = release_folder("evaluation") / f"{name_or_path}.json"
    value = read_json(path, ProtocolError, f"the release's protocol is {DEFAULT!r}")
    if not isinstance(value, dict):
        raise ProtocolError(f"{path} is not a protocol file: it holds a {type(value).__name__}, not an object")
    return from_values(Protocol, {"disease": disease, **value}, str(path))


def _divides(step: float, whole: float) -> bool:
    return step > 0 and abs(whole / step - round(whole / step)) < 1e-9
