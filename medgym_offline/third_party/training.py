"""Training of d3rlpy's algorithms on the rows of all patients, and the files it leaves.

d3rlpy draws its batches, computes its losses and takes its steps; ours are the rows, the scaling, the
codebook of a discrete algorithm, and the policy file.

Its replay buffer holds what its `MDPDataset` has no place for. `medgym_offline.datasets.to_d3rlpy` is the plain form
and says how rows line up. Here rewards are scaled, decisions take different times, and actions may be numbers of
codewords.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import BasicTransitionPicker, Episode, InfiniteBuffer, ReplayBuffer, Transition
from torch import Tensor, nn

from medgym_offline.compute import one_thread, own_defaults
from medgym_offline.datasets.adapters import require_whole_episodes
from medgym_offline.datasets.transitions import Transitions
from medgym_offline.diseases.base import FULL
from medgym_offline.diseases.registry import disease
from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path, code_version
from medgym_offline.offline.config import OfflineConfig
from medgym_offline.offline.data import StackedData, discount_powers, stack_transitions
from medgym_offline.offline.discrete import build_codebook, nearest
from medgym_offline.offline.learner import CHECK_EVERY
from medgym_offline.offline.train import asked, checkpoint_updates
from medgym_offline.policies.foreign import EXTRA_FILE
from medgym_offline.progress import Progress
from medgym_offline.third_party import BASELINES, default_settings

__all__ = ["Baseline", "make_algorithm", "replay_buffer", "seeded", "train_baseline"]


@dataclass(frozen=True)
class TimedEpisode(Episode):  # type: ignore[misc,unused-ignore]
    """An episode whose decisions take different times.

    Attributes:
        intervals: (T,) by which power of gamma the value after a decision is discounted.
    """

    intervals: np.ndarray


class TimedPicker(BasicTransitionPicker):  # type: ignore[misc,unused-ignore]
    """d3rlpy's picker, with the decision's own interval; its algorithms discount by gamma**interval."""

    def __call__(self, episode: TimedEpisode, index: int) -> Transition:
        return replace(super().__call__(episode, index), interval=float(episode.intervals[index]))


def replay_buffer(rows: Transitions, data: StackedData, config: OfflineConfig, book: Tensor | None) -> ReplayBuffer:
    """The learner's rows as a replay buffer: scaled rewards, our discount, codewords where there is a book.

    Args:
        rows: The dataset; observations and continuous actions are taken from it as they are.
        data: The same as the slice of one learner.
        config: Discount, and how many codewords there are (d3rlpy would guess it from those that occur).
        book: (C, A) codewords, whose numbers are then the actions; None takes the actions.

    Raises:
        DatasetError: Rows that do not follow one another to the end of their episode.
    """
    require_whole_episodes(rows)
    count, first, width = int(data.counts[0]), data.state_dim, data.action_dim
    rewards = data.rows[0, :count, first + width, None].numpy()
    actions = rows.actions
    if book is not None:
        parts = data.rows[:, :count, first : first + width].split(4096, 1)
        actions = torch.cat([nearest(book[None], part) for part in parts], 1)[0].numpy()[:, None]
    powers = discount_powers(rows.dt, config, rows.definition.process.reference_interval)
    starts = rows.episode_starts()
    episodes = [
        TimedEpisode(rows.observations[a:b], actions[a:b], rewards[a:b], True, powers[a:b])
        for a, b in zip(starts, np.r_[starts[1:], len(rows)])
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # d3rlpy tells what it found
        return ReplayBuffer(
            InfiniteBuffer(),
            transition_picker=TimedPicker(),
            episodes=episodes,
            action_space=ActionSpace.CONTINUOUS if book is None else ActionSpace.DISCRETE,
            action_size=width if book is None else config.codewords,
        )


class Exported(nn.Module):
    """d3rlpy's policy as a function from observations (N, 9) to actions (N, A) in the box.

    Args:
        choose: What d3rlpy exports: observations to actions (N, A), or to numbers of codewords (N,).
        codebook: (C, A), or None where `choose` gives actions.
    """

    codebook: Tensor

    def __init__(self, choose: nn.Module, codebook: Tensor | None):
        super().__init__()
        self.choose = choose
        self.discrete = codebook is not None
        self.register_buffer("codebook", torch.zeros(0) if codebook is None else codebook)

    def forward(self, observations: Tensor) -> Tensor:
        """See the class."""
        chosen = self.choose(observations)
        return self.codebook[chosen] if self.discrete else chosen.clamp(-1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A trained algorithm of d3rlpy.

    Attributes:
        algorithm: d3rlpy's object, as it is after the last update.
        codebook: (C, A) actions that a discrete algorithm chooses among, else None.
        facts: Where it comes from; kept in the policy file.
        log: One line per 50 updates: update, and the means of d3rlpy's metrics since the last line.
    """

    algorithm: Any
    codebook: Tensor | None
    facts: dict[str, Any]
    log: list[dict[str, float]]

    def save(self, path: str | Path) -> Path:
        """Write the policy to `path` (.pt, TorchScript) and d3rlpy's own checkpoint beside it (.d3).

        The policy is what d3rlpy's `save_policy` exports from the checkpoint on the CPU; with a codebook it gives the
        codeword instead of its number. `load_policy` reads it, d3rlpy's `load_learnable` reads the checkpoint.
        """
        target = Path(path)
        checkpoint = target.with_suffix(".d3")
        with atomic_path(checkpoint) as temporary:
            self.algorithm.save(str(temporary))
        with atomic_path(target) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces TorchScript's retirement on every call
            d3rlpy.load_learnable(str(checkpoint), device="cpu:0").save_policy(str(temporary))
            width = len(disease(self.facts["disease"]).seen(self.facts.get("view", FULL)))
            policy = Exported(torch.jit.load(str(temporary)), self.codebook)
            traced = torch.jit.trace(policy, torch.zeros(2, width))
            named = ("disease", "scope", "timing", "decisions", "view")
            about = {name: self.facts[name] for name in named if name in self.facts}
            header = json.dumps({**about, "provenance": self.facts}, sort_keys=True)
            torch.jit.save(traced, str(temporary), _extra_files={EXTRA_FILE: header})
        return target


@own_defaults()
def train_baseline(
    algorithm: str,
    transitions: Transitions,
    seed: int = 0,
    config: OfflineConfig | None = None,
    own: Mapping[str, Any] | None = None,
    *,
    patients: Sequence[str] | None = None,
    progress: bool = True,
    device: str = "cpu",
    checkpoints: int = 0,
    on_checkpoint: Callable[[int, Baseline], object] | None = None,
) -> Baseline:
    """Train an algorithm of d3rlpy on a dataset, one policy for all patients.

    Args:
        algorithm: A name in `BASELINES`.
        transitions: The dataset.
        seed: Given to `d3rlpy.seed`; the states of the global generators are put back afterwards.
        config: The shared settings (`SHARED`); default the quick profile.
        own: d3rlpy's settings by its names, on top of its defaults; None takes `default_settings`.
        patients: Ids to learn from; None takes all that have episodes.
        progress: Show progress.
        device: Torch device of the training.
        checkpoints: How many times `on_checkpoint` is called, evenly spaced, the last update excluded.
        on_checkpoint: Called with the number of updates and what has been trained so far, to be saved at once.

    Raises:
        UnknownNameError: If a patient does not exist.
        DatasetError: If the dataset is malformed or empty, a patient has no episodes, or fewer distinct actions than
            a discrete algorithm has codewords.
        MedGymError: If the training diverged.
    """
    config = config or OfflineConfig()
    if config.history > 1:
        raise MedGymError(f"{algorithm} learns from single observations; leave history={config.history} out")
    own = dict(default_settings(algorithm) if own is None else own)
    data = stack_transitions(transitions, "pop", config, patients)
    rows = transitions if patients is None else transitions.select(patients=patients)
    discrete = "discrete" in algorithm
    book = build_codebook(data, config.codewords, seed)[0] if discrete else None
    facts = {
        **asked(algorithm, transitions, "pop", config, patients),
        "config": {**config.to_dict(), **own},
        "disease": transitions.disease,
        "timing": transitions.timing,
        "decisions": transitions.decisions,
        "seed": seed,
        "code": code_version(),
        "d3rlpy": d3rlpy.__version__,
        "torch": torch.__version__,
    }
    kept = checkpoint_updates(config.updates, checkpoints)
    with one_thread(device), seeded(seed), Progress(f"{algorithm} pop", config.updates, enabled=progress) as bar:
        result = Baseline(make_algorithm(algorithm, data, config, own, device), book, facts, [])
        buffer, done = replay_buffer(rows, data, config, book), 0
        for metrics in _epochs(result.algorithm, buffer, config.updates, bar):
            done = min(done + CHECK_EVERY, config.updates)
            numbers = {name: float(value) for name, value in metrics.items() if not name.startswith("time_")}
            if not all(math.isfinite(value) for value in numbers.values()):
                told = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
                raise MedGymError(
                    f"{algorithm}: seed {seed} diverged before update {done} ({told}); "
                    "lower the learning rates or check the rewards"
                )
            result.log.append({"update": float(done), **numbers})
            if done in kept and done < config.updates and on_checkpoint is not None:
                on_checkpoint(done, dataclasses.replace(result, facts={**facts, "update": done}))
    return result


def make_algorithm(
    algorithm: str, data: StackedData, config: OfflineConfig, own: Mapping[str, Any], device: str = "cpu"
) -> Any:
    """d3rlpy's object with our settings: widths, step sizes, and the scaling of observations as part of its policy."""
    kind = getattr(d3rlpy.algos, f"{BASELINES[algorithm]}Config")
    names = {field.name for field in dataclasses.fields(kind)}
    encoder = d3rlpy.models.VectorEncoderFactory(hidden_units=[config.hidden] * config.depth)
    scaler = d3rlpy.preprocessing.StandardObservationScaler(
        mean=data.mean[0, 0].numpy(), std=data.scale[0, 0].numpy(), eps=0.0
    )
    rates = {
        "actor_learning_rate": config.actor_lr,
        "critic_learning_rate": config.critic_lr,
        "learning_rate": config.critic_lr if "q_func_factory" in names else config.actor_lr,
    }
    settings: dict[str, Any] = {name: encoder for name in names if name.endswith("encoder_factory")}
    settings |= {name: rate for name, rate in rates.items() if name in names}
    settings |= {"batch_size": config.batch, "gamma": config.gamma, "observation_scaler": scaler, **own}
    return kind(**settings).create(device="cpu:0" if device == "cpu" else device)


def _epochs(algorithm: Any, buffer: Any, updates: int, bar: Progress) -> Iterator[dict[str, float]]:
    """Train for `updates`; yields the means of d3rlpy's metrics every 50, and at the end."""
    whole = updates - updates % CHECK_EVERY

    def count(_algorithm: object, _epoch: int, step: int) -> None:
        if step % 10 == 0:
            bar.advance(10)

    for length, each in ((whole, CHECK_EVERY), (updates - whole, updates - whole)):
        if not length:
            continue
        epochs = algorithm.fitter(
            buffer,
            n_steps=length,
            n_steps_per_epoch=each,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
            callback=count,
        )
        while True:
            with contextlib.redirect_stdout(io.StringIO()):
                found = next(epochs, None)
            if found is None:
                break
            yield found[1]
    bar.advance(updates % 10)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block the global generators are those of `d3rlpy.seed`; afterwards they are what they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - d3rlpy draws from these
    deterministic = torch.backends.cudnn.deterministic
    d3rlpy.seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
        torch.backends.cudnn.deterministic = deterministic
