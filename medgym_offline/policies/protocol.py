"""What a policy is: a function from observations to actions, stacked over patients.

Anything with `act` and the attributes below is a policy; no base class is needed. Two methods are optional and
reached through the functions here: `reset(seeds)` for policies that draw random numbers, and `select(patients)`
for policies that hold something per patient.

The probability of a perturbed action: a Gaussian clipped to [-1, 1] has a density inside and two atoms.

    a = clip(m + sigma*N(0, 1), -1, 1)              (a component; components are independent)

    P(a = -1) = Phi((-1 - m)/sigma)        P(a = 1) = Phi((m - 1)/sigma)        p(a) = phi((a - m)/sigma)/sigma between

These are densities with respect to one reference measure, Lebesgue on (-1, 1) plus a unit mass at each of -1 and 1.
It is the same for every m, so the ratio of two of them is the likelihood ratio, at the atoms too. Treating a clipped
action as if its density were the Gaussian's would give the wrong weight to every action at a bound.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.base import Disease
from medgym_offline.diseases.registry import DEFAULT
from medgym_offline.errors import PolicyError, UnknownNameError

__all__ = [
    "Policy", "clipped_normal_log_prob", "clipped_uniform_log_prob", "disease_of_policy", "reset_policy", "seen_width",
    "timing_of_width", "torch_or_numpy",
]  # fmt: skip


@runtime_checkable
class Policy(Protocol):
    """Acts for every patient at once.

    Attributes:
        timing: "adaptive" (the policy chooses when to decide next) or "fixed".
        decisions: Decisions per episode K it was made for, or None where any will do.
        patients: Ids in the order of the patient axis, or None for a policy shared by all patients.
        observation_dim, action_dim: Widths d and A.

    Optional attribute:
        disease: Name of the disease it was made for; the default one if it says none.
        view: What it sees, a name of `Disease.views`; "full" if it says none.

    Optional methods:
        reset(seeds): called before an episode with integer seeds (P, B), one per patient and episode.
        took(actions): called after `act` with the actions that were played (P, B, A), noise added, clipped.
        select(patients): the same policy for these patient ids, in that order.
    """

    @property
    def timing(self) -> str: ...
    @property
    def decisions(self) -> int | None: ...
    @property
    def patients(self) -> tuple[str, ...] | None: ...
    @property
    def observation_dim(self) -> int: ...
    @property
    def action_dim(self) -> int: ...

    def act(self, observations: Any) -> Any:
        """Observations (P, B, d) -> actions (P, B, A) in [-1, 1]; torch in, torch out; NumPy in, NumPy out."""
        ...


def reset_policy(policy: Any, seeds: np.ndarray) -> None:
    """Call `policy.reset(seeds)` if it has that method. `seeds` is (P, B) int64, one per patient and episode."""
    reset = getattr(policy, "reset", None)
    if reset is not None:
        reset(np.asarray(seeds, dtype=np.int64))


def disease_of_policy(policy: Any) -> str:
    """Name of the disease that a policy was made for."""
    return str(getattr(policy, "disease", None) or DEFAULT)


def seen_width(disease: Disease, view: str, whose: str) -> int:
    """Columns of an observation under a view; `PolicyError`, naming `whose` policy it is, if there is no such view."""
    try:
        return len(disease.seen(view))
    except UnknownNameError as error:
        raise PolicyError(f"{whose}: {error}") from None


def timing_of_width(disease: Disease, width: int) -> str:
    """ "fixed" for actions of as many columns as the disease has treatments, "adaptive" for one more; `PolicyError`."""
    few, many = disease.action_dim("fixed"), disease.action_dim("adaptive")
    if width not in (few, many):
        needs = f"fixed timing needs {few}, adaptive timing {many}"
        raise PolicyError(f"actions have width {width}; {disease.name}: {needs}")
    return "fixed" if width == few else "adaptive"


def _check_observations(policy: Policy, observations: Tensor) -> None:
    """Raise `PolicyError` unless `observations` is (P, B, d) with the policy's d and number of patients."""
    shape = tuple(observations.shape)
    if observations.dim() != 3 or shape[-1] != policy.observation_dim:
        raise PolicyError(f"observations have shape {shape}, expected (patients, episodes, {policy.observation_dim})")
    if policy.patients is not None and shape[0] != len(policy.patients):
        remedy = "choose the policy's patients with policy.select(ids)"
        raise PolicyError(f"observations hold {shape[0]} patients, the policy {len(policy.patients)}; {remedy}")


P = TypeVar("P")


def torch_or_numpy(act: Callable[[P, Tensor], Tensor]) -> Callable[[P, Any], Any]:
    """Let a method over float32 tensors also take NumPy arrays, and answer in kind; shapes are checked.

    No gradient flows through it: acting is not training.
    """

    @own_defaults()
    @functools.wraps(act)
    def wrapped(self: P, observations: Any) -> Any:
        given = isinstance(observations, Tensor)
        tensor = observations if given else torch.as_tensor(np.asarray(observations, dtype=np.float32))
        _check_observations(self, tensor)  # type: ignore[arg-type]
        with torch.no_grad():
            actions = act(self, tensor)
        return actions if given else actions.numpy()

    return wrapped


_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def clipped_normal_log_prob(actions: Tensor, mean: Tensor, sigma: float) -> Tensor:
    """Log-probability of clip(mean + sigma*N): actions and mean (..., A) -> (...), float64, summed over components."""
    a, m = actions.double(), mean.double()
    inside = -0.5 * ((a - m) / sigma).square() - math.log(sigma) - _LOG_SQRT_2PI
    low = torch.special.log_ndtr((-1.0 - m) / sigma)
    high = torch.special.log_ndtr((m - 1.0) / sigma)
    return torch.where(a <= -1.0, low, torch.where(a >= 1.0, high, inside)).sum(-1)


def clipped_uniform_log_prob(actions: Tensor, sigma: float) -> Tensor:
    """Log-probability of clip(U + sigma*N), U uniform in [-1, 1], sigma 0 too: actions (..., A) -> (...), float64.

    Inside, p(a) = (Phi((a + 1)/sigma) - Phi((a - 1)/sigma))/2. Each atom is the mean of Phi((u - 1)/sigma) over u,
    sigma*(h(0) - h(-2/sigma))/2 with h(z) = z*Phi(z) + phi(z), the antiderivative of Phi.
    """
    a = actions.double()
    if sigma == 0.0:
        return torch.full_like(a, -math.log(2.0)).sum(-1)
    inside = 0.5 * (torch.special.ndtr((a + 1.0) / sigma) - torch.special.ndtr((a - 1.0) / sigma))
    z = torch.tensor([0.0, -2.0 / sigma], dtype=torch.float64)
    h = z * torch.special.ndtr(z) + torch.exp(-0.5 * z.square() - _LOG_SQRT_2PI)
    atom = 0.5 * sigma * (h[0] - h[1])
    return torch.where(a.abs() >= 1.0, atom, inside).log().sum(-1)
