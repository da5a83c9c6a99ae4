"""MedGym Offline: offline reinforcement learning for treatment, on simulators learned from ICU records.

The public API is in this module; everything else is imported when it is first used, so `import medgym_offline`
costs neither torch nor Minari. Importing it registers the Gymnasium environments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gymnasium

from medgym_offline.errors import MedGymError
from medgym_offline.lazy import imported_late

if TYPE_CHECKING:
    from medgym_offline.datasets import DatasetInfo, Transitions, list_datasets, load_dataset
    from medgym_offline.diseases import Disease, disease, list_diseases, sepsis
    from medgym_offline.evaluation import Evaluation, evaluate, support_distance
    from medgym_offline.policies import Policy, load_policy, save_policy
    from medgym_offline.simulators import SimulatorBank, load_simulators

__version__ = "0.1.0.dev0"

__all__ = [
    "DatasetInfo", "Disease", "Evaluation", "MedGymError", "Policy", "SimulatorBank", "Transitions", "__version__",
    "disease", "evaluate", "list_datasets", "list_diseases", "load_dataset", "load_policy", "load_simulators",
    "save_policy", "sepsis", "support_distance",
]  # fmt: skip

_HOMES = {
    "datasets": ("DatasetInfo", "Transitions", "list_datasets", "load_dataset"),
    "diseases": ("Disease", "disease", "list_diseases", "sepsis"),
    "evaluation": ("Evaluation", "evaluate", "support_distance"),
    "policies": ("Policy", "load_policy", "save_policy"),
    "simulators": ("SimulatorBank", "load_simulators"),
}


__getattr__ = imported_late(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)


def _register() -> None:
    from medgym_offline.diseases.registry import list_diseases, own_environments

    chosen = {f"medgym/{name.capitalize()}-v0": {"disease": name} for name in list_diseases()} | own_environments()
    entry, vector = (f"medgym_offline.envs:{name}" for name in ("TreatmentEnv", "TreatmentVectorEnv"))
    for name, arguments in chosen.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry, vector_entry_point=vector, kwargs=arguments)


_register()
