"""Type 1 diabetes: a published truth in which time, the person and what happens between decisions all matter."""

from medgym_offline.diseases.diabetes.simulate import simulate

__all__ = ["simulate"]
