"""The recipe of a release's behaviour policies: `generation/behaviors.toml`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgym_offline.envs.timing import ProcessConfig
from medgym_offline.errors import MedGymError, unknown_name
from medgym_offline.files import read_toml, release_folder
from medgym_offline.online.config import TrainConfig

__all__ = ["BEHAVIORS", "EARLY", "SCOPES", "BehaviorRecipe", "load_recipe"]

SCOPES: dict[str, str] = {
    "pop": "one policy trained on the population simulator",
    "dr": "one policy trained on every patient's own simulator",
    "ind": "the dr policy, fine-tuned for each patient on the patient's own simulator",
    "ind-scratch": "a policy per patient, trained from scratch on the patient's own simulator",
    "oracle": "a policy per patient, trained from scratch on the known truth: the expert of what can be known",
}

EARLY: dict[str, tuple[str, float]] = {
    "ind-medium": ("ind-scratch", 0.5),
    "pop-medium": ("pop", 0.5),
    "dr-replay-25": ("dr", 0.25),
    "dr-replay-50": ("dr", 0.5),
    "dr-replay-75": ("dr", 0.75),
}
"""Early-stopped policy -> (whose training it is taken from, share of the return gap between random and expert).

The expert is the fully trained policy of the first word: ind for ind-medium, although that starts from dr and its early
form cannot (dr is past nine tenths of the gap before the first update)."""

BEHAVIORS: tuple[str, ...] = (*SCOPES, *EARLY)
"""Names of the behaviour policies of a bank."""


@dataclass(frozen=True)
class BehaviorRecipe:
    """How behaviour policies are trained.

    Args:
        seed: Root of every random stream.
        decisions: Budget K.
        reward: Reward kind of the process.
        algorithm: One of `medgym_offline.online.config.ALGORITHMS`.
        shard: Patients trained together. It is part of the result: float32 sums of another batch differ in their
            last digits. The number of workers is not.
        path_costs: Whether the constraint is on the first cost's integral along the path instead of the cost at a
            decision's end; `cost_limit` is then of that, per decision.
        early_world: World in which a share of the return gap is measured; "": the one trained in.
        patience: Stop a policy after this many updates without a better return (running mean of 10 updates); 0: never.
        early_updates: Longest training of ind-medium.
        early_episodes: Episodes per patient from which a share of the return gap is measured.
        settings: Scope -> settings of :class:`TrainConfig` that differ from its defaults.

    Raises:
        MedGymError: If a number is out of range; UnknownNameError for an unknown scope.
    """

    seed: int = 0
    decisions: int = 20
    reward: str = "integral"
    algorithm: str = "trpo-lag"
    path_costs: bool = False
    early_world: str = ""
    shard: int = 55
    patience: int = 0
    early_updates: int = 80
    early_episodes: int = 16
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("shard", 1), ("patience", 0), ("early_updates", 1), ("early_episodes", 1)):
            if getattr(self, name) < least:
                raise MedGymError(f"recipe entry {name} is {getattr(self, name)}; it must be at least {least}")
        for scope in self.settings:
            if scope not in SCOPES:
                raise unknown_name("behaviour scope", scope, SCOPES)

    def config(self, scope: str, fine_tune_from: str | None = None) -> TrainConfig:
        """Training settings of one scope.

        Raises:
            UnknownNameError: If there is no such scope, or a setting has an unknown name.
        """
        if scope not in SCOPES:
            raise unknown_name("behaviour scope", scope, SCOPES)
        fixed = {
            "algorithm": self.algorithm,
            "seed": self.seed,
            "shared": scope in ("pop", "dr"),
            "fine_tune_from": fine_tune_from,
        }
        return TrainConfig.from_dict({**self.settings.get(scope, {}), **fixed})

    def process(self, timing: str, disease: str) -> ProcessConfig:
        """The decision process that is trained in; infeasible budgets are refused here."""
        return ProcessConfig(
            timing=timing,  # type: ignore[arg-type]
            decisions=self.decisions,  # type: ignore[arg-type]
            reward=self.reward,  # type: ignore[arg-type]
            path_costs=self.path_costs,
            disease=disease,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able recipe."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def content_hash(self) -> str:
        """SHA-256 of the recipe."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def load_recipe(path: str | Path | None = None) -> BehaviorRecipe:
    """Read a recipe file; by default the release's `generation/behaviors.toml`.

    Raises:
        MedGymError: If the file is missing, is not TOML, or holds an unknown or ill-typed entry.
    """
    file = Path(path) if path is not None else release_folder("generation") / "behaviors.toml"
    values = read_toml(file, MedGymError)
    known = {f.name for f in dataclasses.fields(BehaviorRecipe)}
    for name in values:
        if name not in known:
            raise unknown_name(f"entry of {file.name}", name, known)
    try:
        recipe = BehaviorRecipe(**values)
        for scope in SCOPES:
            recipe.config(scope)
    except TypeError as error:
        raise MedGymError(f"{file}: a setting has the wrong type ({error})") from None
    except MedGymError as error:
        raise type(error)(f"{file}: {error}") from None
    return recipe
