"""CQL with discrete actions: the logsumexp over every codeword, exactly.

    L(phi) = L_DQN(phi) + alpha*E_s,a~D [ log sum_c exp Q_phi(s, c) - Q_phi(s, c(a)) ]

    alpha    weight of the conservative term.  L_DQN, c, c(a) and pi: `dqn_discrete.py`.

No candidates are drawn: the sum is the one of the definition. The data's codeword is in it, so the bracket is never
negative; it is the negative log-likelihood of c(a) under softmax(Q).

Source: Kumar et al. 2020, CQL(H); MedGym paper, appendix C.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medgym_offline.offline.data import Batch
from medgym_offline.offline.dqn_discrete import DiscreteDQN

__all__ = ["DiscreteCQL"]


class DiscreteCQL(DiscreteDQN):
    """Objective of the module's docstring, for P learners at once; every loss is (P,)."""

    name = "cql-discrete"

    def guard(self, batch: Batch) -> Tensor | float:
        """Added to Q of every member inside the logsumexp, (P, 1, B, C); nothing in CQL."""
        return 0.0

    def conservative(self, batch: Batch, values: Tensor, q: Tensor) -> Tensor | None:
        """The bracket, (P, E)."""
        return (torch.logsumexp(values + self.guard(batch), -1) - q).mean(2)
