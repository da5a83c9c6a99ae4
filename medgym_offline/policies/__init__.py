"""Policies: the protocol, stacked actors, safe files, and policies without learning."""

from __future__ import annotations

from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.builtin import (
    BUILTIN_POLICIES,
    ClinicianPolicy,
    ConstantPolicy,
    RandomPolicy,
    RulePolicy,
    builtin_policy,
)
from medgym_offline.policies.export import export_onnx, export_program, export_torchscript
from medgym_offline.policies.files import save_policy
from medgym_offline.policies.foreign import ModulePolicy, PolicyCollection
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.policies.loading import load_policy
from medgym_offline.policies.protocol import Policy, reset_policy

__all__ = [
    "BUILTIN_POLICIES", "ClinicianPolicy", "ConstantPolicy", "HistoryPolicy", "ModulePolicy", "Policy",
    "PolicyCollection", "RandomPolicy", "RulePolicy", "StackedActor", "builtin_policy", "export_onnx", "export_program",
    "export_torchscript", "load_policy", "reset_policy", "save_policy",
]  # fmt: skip
