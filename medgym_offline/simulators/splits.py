"""Who of a bank is learned from and who is new: its `train` and `test` people, drawn once.

A bank either was built with sides (its metadata have them), or they stand in `generation/splits.toml`, drawn by

    python -m experiments.people.draw

Beside the banks, not in them: a bank's file, and with it the identity of every dataset, is as it was before the draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from medgym_offline.config import configuration, from_values
from medgym_offline.errors import BankError
from medgym_offline.files import read_toml, release_folder
from medgym_offline.seeds import derive_seed

__all__ = ["FILE", "SIDES", "Draw", "drawn", "read_draws"]

SIDES = ("train", "test")
FILE = "splits.toml"


@configuration("split", BankError)
class Draw:
    """Sides of the people of `banks`, which have the same patients: `count` of them are new, by `seed`."""

    banks: Annotated[tuple[str, ...], Field(min_length=1)]
    count: Annotated[int, Field(ge=1)]
    seed: int
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def drawn(patients: Sequence[str], count: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Sides of people, in their order: test are the `count` whose own number is least, so nobody moves with others."""
    least = set(sorted(patients, key=lambda p: derive_seed(seed, "split of people", p))[:count])
    return {"train": tuple(p for p in patients if p not in least), "test": tuple(p for p in patients if p in least)}


def read_draws() -> dict[str, Draw]:
    """The draws of the release by name; a `BankError` names an entry that is wrong."""
    path = release_folder("generation") / FILE
    return {name: from_values(Draw, values, f"{path}: {name}") for name, values in read_toml(path, BankError).items()}
