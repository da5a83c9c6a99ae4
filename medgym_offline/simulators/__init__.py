"""Patient simulators: the hybrid field, its solution map, and the bank that holds one per patient."""

from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.files import list_banks, load_simulators

__all__ = ["SimulatorBank", "World", "list_banks", "load_simulators"]
