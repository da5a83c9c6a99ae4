"""Evaluation: any policy in, an honest result out.

`evaluate` is imported on first use: reading and showing results needs neither torch nor SciPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medgym_offline.evaluation.comparison import Comparison, compare
from medgym_offline.evaluation.metrics import metrics_of
from medgym_offline.evaluation.protocol import Protocol, load_protocol
from medgym_offline.evaluation.report import write_report
from medgym_offline.evaluation.result import Evaluation, WorldResult
from medgym_offline.evaluation.support import SupportReference, split_halves, support_distance
from medgym_offline.evaluation.tables import print_evaluations
from medgym_offline.lazy import imported_late

if TYPE_CHECKING:
    from medgym_offline.evaluation.evaluator import evaluate

__all__ = [
    "Comparison", "Evaluation", "Protocol", "SupportReference", "WorldResult", "compare", "evaluate", "load_protocol",
    "metrics_of", "print_evaluations", "split_halves", "support_distance", "write_report",
]  # fmt: skip


__getattr__ = imported_late(__name__, {"evaluator": ["evaluate"]})
