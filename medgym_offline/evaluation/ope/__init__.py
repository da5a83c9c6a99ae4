"""Off-policy evaluation, audited: what a dataset alone says a policy is worth, against what it is worth.

    density      probabilities of clipped, perturbed actions        logged      a dataset as a grid of episodes
    estimators   importance sampling and doubly robust              fqe         fitted Q evaluation, stacked
    returns      returns in the simulators                          audit       everything, for a set of policies

See `docs/evaluation.md`.
"""

from medgym_offline.evaluation.ope.audit import OpeAudit, OpeSettings, audit, audit_dataset

__all__ = ["OpeAudit", "OpeSettings", "audit", "audit_dataset"]
