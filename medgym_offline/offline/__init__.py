"""Offline algorithms, stacked over patients: behavior cloning, actor-critics near the data, and safe forms."""

from __future__ import annotations

from medgym_offline.offline.algorithms import ALGORITHMS, algorithm_name
from medgym_offline.offline.config import PROFILES, OfflineConfig
from medgym_offline.offline.train import train, train_seeds
from medgym_offline.policies.files import TrainResult

__all__ = ["ALGORITHMS", "OfflineConfig", "PROFILES", "TrainResult", "algorithm_name", "train", "train_seeds"]
