"""Offline algorithms, stacked over patients: DQN, CQL and GCQL with continuous actions."""

from __future__ import annotations

from medgym_offline.offline.algorithms import ALGORITHMS
from medgym_offline.offline.config import PROFILES, OfflineConfig
from medgym_offline.offline.train import TrainResult, train

__all__ = ["ALGORITHMS", "PROFILES", "OfflineConfig", "TrainResult", "train"]
