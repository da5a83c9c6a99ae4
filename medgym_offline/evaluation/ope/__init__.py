"""Off-policy evaluation, audited: what a dataset alone says a policy is worth, against what it is worth.

    estimators   a dataset as a grid of episodes, importance sampling, doubly robust, their errors
    fqe          fitted Q evaluation, stacked
    audit        everything, for a set of policies

See `docs/evaluation.md`.
"""

from medgym_offline.evaluation.ope.audit import OpeAudit, OpeSettings, audit, audit_dataset

__all__ = ["OpeAudit", "OpeSettings", "audit", "audit_dataset"]
