"""Evaluation: any policy in, an honest result out.

Names are imported on first use: the protocol and the console need neither torch nor SciPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgym_offline.evaluation.comparison import Comparison, compare
    from medgym_offline.evaluation.console import comparison_table, evaluation_table, print_evaluations
    from medgym_offline.evaluation.evaluator import evaluate
    from medgym_offline.evaluation.metrics import METRICS, Metric
    from medgym_offline.evaluation.protocol import Protocol, load_protocol
    from medgym_offline.evaluation.report import write_report
    from medgym_offline.evaluation.result import Evaluation, WorldResult
    from medgym_offline.evaluation.statistics import paired_difference, probability_of_improvement, summarize
    from medgym_offline.evaluation.support import SupportReference, split_halves, support_distance

_HOME = {
    "Comparison": "comparison",
    "Evaluation": "result",
    "METRICS": "metrics",
    "Metric": "metrics",
    "Protocol": "protocol",
    "SupportReference": "support",
    "WorldResult": "result",
    "compare": "comparison",
    "comparison_table": "console",
    "evaluate": "evaluator",
    "evaluation_table": "console",
    "load_protocol": "protocol",
    "paired_difference": "statistics",
    "print_evaluations": "console",
    "probability_of_improvement": "statistics",
    "split_halves": "support",
    "summarize": "statistics",
    "support_distance": "support",
    "write_report": "report",
}

__all__ = [
    "METRICS",
    "Comparison",
    "Evaluation",
    "Metric",
    "Protocol",
    "SupportReference",
    "WorldResult",
    "compare",
    "comparison_table",
    "evaluate",
    "evaluation_table",
    "load_protocol",
    "paired_difference",
    "print_evaluations",
    "probability_of_improvement",
    "split_halves",
    "summarize",
    "support_distance",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
