"""Online learning on simulators: stacked policies, and the behavior policies of a release."""

from __future__ import annotations

from medgym_offline.online.behavior import train_behavior, train_behavior_files
from medgym_offline.online.config import TrainConfig, load_behavior
from medgym_offline.online.train import train
from medgym_offline.policies.files import TrainResult

__all__ = ["TrainConfig", "TrainResult", "load_behavior", "train", "train_behavior", "train_behavior_files"]
