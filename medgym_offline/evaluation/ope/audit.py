"""The audit: estimates of a set of policies from a dataset, beside their returns in the simulators."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medgym_offline.compute import one_thread
from medgym_offline.config import configuration, from_values
from medgym_offline.datasets.behaviors import Behavior, process_config, recipe_behavior
from medgym_offline.datasets.catalogue import MANIFEST, dataset_folder, read_manifest
from medgym_offline.datasets.load import load_dataset
from medgym_offline.datasets.recipes import Recipe
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.errors import DatasetError, MedGymError
from medgym_offline.evaluation.binding import resolve_policy
from medgym_offline.evaluation.ope import estimators
from medgym_offline.evaluation.ope.estimators import Logged, PerturbedPolicy, episode_grid, monte_carlo_returns
from medgym_offline.evaluation.ope.fqe import FqeConfig, fit_fqe
from medgym_offline.files import code_version
from medgym_offline.progress import Progress
from medgym_offline.simulators.bank import SimulatorBank

__all__ = ["OpeAudit", "OpeSettings", "audit", "audit_dataset"]

CLINICIAN_SPREAD = 0.2
"""Action noise of policies that are estimated from records, which perturb nothing. Chosen: that of the release's
strongly perturbed datasets."""
_CHARTED = (
    "behavior_log_prob is estimated (the dataset's card shows how well): WIS and DR carry its error",
    "the rows are charts, confounded by what clinicians saw and nobody charted: no estimate is a policy's effect on "
    "patients; for the simulators' opinion, evaluate the policy in the dataset's bank under its view",
)


@configuration("off-policy evaluation")
class OpeSettings:
    """Settings of an audit.

    Attributes:
        gamma: Discount per unit of time, in (0, 1]; 1 is undiscounted.
        episodes: Monte-Carlo episodes per patient and policy, of the truth and of the model-based estimate each.
        seed: Root seed.
        min_sample_size: Below this effective sample size (median over patients) WIS and DR carry a warning.
        fqe: Settings of fitted Q evaluation.
    """

    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    episodes: Annotated[int, Field(ge=2)] = 50
    seed: int = 0
    min_sample_size: float = 10.0
    fqe: FqeConfig = field(default_factory=FqeConfig)


@dataclass(frozen=True)
class OpeAudit:
    """Estimates and truths of N policies for P patients.

    Attributes:
        policies, patients: Names and ids.
        estimates: Estimator ("fqe", "wis", "dr", and "model" where there are simulators) -> (N, P).
        truth: World -> (N, P), of the perturbed policies.
        error: World -> (N,), standard error of the mean over patients of `truth`.
        sample_size: (N, P), effective sample sizes.
        scores: World -> estimator -> scores, see `score_estimates`.
        warnings: What to read before the numbers.
        info: Settings and provenance, JSON-able.
    """

    policies: tuple[str, ...]
    patients: tuple[str, ...]
    estimates: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    sample_size: np.ndarray
    scores: dict[str, dict[str, dict[str, Any]]]
    warnings: tuple[str, ...]
    info: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps({"format": "medgym-ope/1", **vars(self)}, default=np.ndarray.tolist))


def audit_dataset(
    dataset: str,
    policies: Sequence[Any],
    *,
    bank: str | Path | None = None,
    patients: int | str | Sequence[int | str] | None = None,
    worlds: Sequence[str] | None = None,
    settings: OpeSettings | None = None,
    root: str | Path | None = None,
    progress: bool = False,
) -> OpeAudit:
    """Audit on a dataset of this project: behavior and process follow from its manifest's recipe.

    Args:
        dataset: Id.
        policies: As `evaluate` takes them: built-in names, files, objects with `act`.
        bank: Simulators for truth and model; the recipe's by default. Another is named in a warning.
        patients: As `load_dataset`; all by default.
        worlds: For the truth; all that the bank has by default.
        settings, root, progress: As `audit` and `load_dataset`.

    Raises:
        DatasetError: The dataset is damaged, has no perturbation, or its behavior policy is no longer the same.
    """
    from medgym_offline.simulators import load_simulators

    transitions = load_dataset(dataset, patients, root=root, progress=progress)
    path = dataset_folder(dataset, root) / MANIFEST
    manifest = read_manifest(dataset_folder(dataset, root))
    recipe = from_values(Recipe, manifest["recipe"] | {"id": dataset}, str(path))
    home = load_simulators(recipe.bank)
    if recipe.records:
        # A person in the records has one stay or two.
        transitions = transitions.pooled()
        behavior = Behavior(recipe.behavior, manifest["behavior"]["sha256"], None)
    else:
        behavior = recipe_behavior(recipe, home)
    if (made := manifest.get("behavior", {}).get("sha256", behavior.digest)) != behavior.digest:
        made = f"behavior {recipe.behavior!r} (sha256 {made[:12]}, here {behavior.digest[:12]})"
        unknown = "so its action probabilities are unknown"
        raise DatasetError(f"{path}: made by another version of {made}, {unknown}; generate {dataset} again")
    place = home if bank is None else load_simulators(bank)
    found = audit(transitions, recipe, behavior, place, policies, worlds=worlds, settings=settings, progress=progress)
    if place.content_hash != manifest["bank"]["content_hash"]:
        note = f"bank {place.name!r} is not the one that made the dataset: estimates and truth differ in patients"
        found = replace(found, warnings=(note, *found.warnings))
    return found


@one_thread()
def audit(
    transitions: Transitions,
    recipe: Recipe,
    behavior: Behavior,
    bank: SimulatorBank,
    policies: Sequence[Any],
    *,
    worlds: Sequence[str] | None = None,
    settings: OpeSettings | None = None,
    progress: bool = False,
) -> OpeAudit:
    """Estimate every policy from `transitions` and compare with its returns in the worlds of `bank`.

    All policies are evaluated as they act with the dataset's own perturbation: a deterministic policy has no
    probability of a logged action, the perturbed one has.

    Args:
        transitions: Rows of whole episodes, all of a patient's.
        recipe: Timing, decisions, reward and perturbation of the dataset.
        behavior: Who acted in it.
        bank: Simulators that hold the dataset's patients.
        policies: To evaluate.
        worlds: For the truth; all of the bank's by default, the dataset's own world first.
        settings: Settings.
        progress: Show progress on standard error.

    Raises:
        DatasetError: No perturbation.
        PolicyError, UnknownNameError: As `evaluate`.
    """
    settings = settings or OpeSettings()
    if not policies:
        raise MedGymError("no policy to evaluate; name at least one")
    sigma = CLINICIAN_SPREAD if recipe.records else recipe.perturbation
    perturbs = "choose a dataset whose recipe perturbs actions"
    if not sigma > 0:
        raise DatasetError(f"{recipe.id}: perturbation is 0: a deterministic policy has no probabilities; {perturbs}")
    logged = episode_grid(transitions)
    if bool(torch.isnan(logged.behavior_log_prob).any()):
        raise DatasetError(f"{recipe.id}: behavior_log_prob is not known in some rows; {perturbs}")
    places: dict[str, SimulatorBank] = {}
    if not recipe.records:  # of those whom records describe there are no simulators
        bank = bank.select([bank.index(p) for p in logged.patients])
        named = worlds or sorted(bank.worlds, key=lambda w: w != recipe.world)
        places = {world: bank.world(world) for world in named}
    clock = recipe.timing, recipe.decisions
    bound = [resolve_policy(p, bank, *clock, recipe.decisions, transitions.view) for p in policies]
    names = tuple(policy.name for policy in bound)
    if twice := [name for name in names if names.count(name) > 1]:
        raise MedGymError(f"two policies are called {twice[0]!r}; rename one file, so that a table can tell them apart")
    config = replace(process_config(recipe, bank.disease.name), view=transitions.view)
    values: dict[str, list[Tensor]] = defaultdict(list)
    returns: dict[str, list[Tensor]] = {world: [] for world in places}
    with Progress("off-policy evaluation (policies)", len(bound), enabled=progress) as bar:
        for policy in bound:
            perturbed = PerturbedPolicy(policy, logged.patients, sigma)
            for name, value in _estimate(transitions, logged, perturbed, settings).items():
                values[name].append(value)
            how = config, settings.episodes, sigma, settings.gamma, settings.seed
            if places:
                values["model"].append(monte_carlo_returns(policy, bank.world("own"), *how, "ope-model").mean(1))
            for world, place in places.items():
                returns[world].append(monte_carlo_returns(policy, place, *how, "ope-truth"))
            bar.advance(1)
    estimates = {name: torch.stack(found).numpy() for name, found in values.items()}
    sample_size = estimates.pop("sample_size")
    played = {world: torch.stack(found).numpy() for world, found in returns.items()}  # (N, P, B)
    truth = {world: found.mean(2) for world, found in played.items()}
    error = {w: np.sqrt((v.var(2, ddof=1) / v.shape[2]).sum(1)) / v.shape[1] for w, v in played.items()}
    scores = {w: {name: estimators.score_estimates(own, truth[w]) for name, own in estimates.items()} for w in places}
    info = {
        "dataset": transitions.dataset_id,
        "identity": transitions.identity,
        "behavior": behavior.to_json(),
        "world_of_dataset": recipe.world,
        **{name: getattr(recipe, name) for name in ("reward", "timing", "decisions")},
        "perturbation": sigma,
        "logged_episodes": int(logged.valid.shape[1]),
        "bank": {"name": bank.name, "content_hash": bank.content_hash},
        "settings": asdict(settings),
        "code": code_version(),
    }
    data = (estimators.discount_at_start(logged.dt, settings.gamma) * logged.rewards).sum(-1).numpy()
    found = OpeAudit(names, logged.patients, estimates, truth, error, sample_size, scores, (), info)
    return replace(found, warnings=(*(_CHARTED if recipe.records else ()), *_warnings(found, data, settings)))


def _estimate(
    transitions: Transitions, logged: Logged, policy: PerturbedPolicy, settings: OpeSettings
) -> dict[str, Tensor]:
    """FQE, WIS, DR and the effective sample size of one policy, (P,) each."""
    gamma, dt, rewards, log_behavior = settings.gamma, logged.dt, logged.rewards, logged.behavior_log_prob
    flat = policy.log_prob(logged.observations.flatten(1, 2), logged.actions.flatten(1, 2))
    log_rho = estimators.log_ratios(flat.view(log_behavior.shape), log_behavior, logged.valid)
    weights = estimators.self_normalized(log_rho)
    fitted = fit_fqe(transitions, logged, policy, gamma, settings.seed, settings.fqe)
    discount = estimators.discount_at_start(dt, gamma)
    return {
        "fqe": fitted.value,
        "wis": estimators.per_decision(rewards, weights, discount),
        "dr": estimators.doubly_robust(rewards, dt, logged.valid, weights, gamma, fitted.q, fitted.v, fitted.v_next),
        "sample_size": estimators.effective_sample_size(log_rho),
    }


def _warnings(of: OpeAudit, data: np.ndarray, settings: OpeSettings) -> list[str]:
    """What to read before the numbers; `data` holds the logged returns (P, E)."""
    found, fqe, median = [], of.estimates["fqe"], np.median(of.sample_size, 1)
    if low := [f"{n} ({size:.1f})" for n, size in zip(of.policies, median) if size < settings.min_sample_size]:
        few = f"effective sample size below {settings.min_sample_size:g} episodes, so WIS and DR rest on a few: "
        found.append(few + ", ".join(low))
    beyond = ((fqe < data.min(1)) | (fqe > data.max(1))).sum(1)
    if far := [f"{n} ({count} of {fqe.shape[1]})" for n, count in zip(of.policies, beyond) if count]:
        found.append("FQE extrapolates beyond the patient's logged returns, patients: " + ", ".join(far))
    if of.info["world_of_dataset"] == "own" and "own" in of.truth:
        found.append("the dataset is of the own world: there the model-based estimate is the truth, up to sampling")
    return found
