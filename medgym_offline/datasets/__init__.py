"""Datasets: recipes -> perturbed rollouts -> Minari files, with a flat cache, checksums and cards.

Importing it costs neither torch nor h5py nor Minari: what needs them imports them where it runs.
"""

from medgym_offline.datasets.adapters import to_arrow, to_d3rlpy
from medgym_offline.datasets.catalogue import DatasetInfo, dataset_info, list_datasets
from medgym_offline.datasets.generation import generate
from medgym_offline.datasets.hub import download
from medgym_offline.datasets.load import load_dataset
from medgym_offline.datasets.publishing import publish
from medgym_offline.datasets.recipes import Recipe, find_recipe, list_recipes, read_recipe
from medgym_offline.datasets.transitions import COLUMNS, Transitions
from medgym_offline.datasets.verification import verify

__all__ = [
    "COLUMNS", "DatasetInfo", "Recipe", "Transitions", "dataset_info", "download", "find_recipe", "generate",
    "list_datasets", "list_recipes", "load_dataset", "publish", "read_recipe", "to_arrow", "to_d3rlpy", "verify",
]  # fmt: skip
