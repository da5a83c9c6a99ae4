"""The release's bank: 110 patients, the published truth, and simulators fitted to recorded operations.

python -m medgym_offline.diseases.anesthesia.bank OUTPUT.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medgym_offline.compute import own_defaults
from medgym_offline.diseases.anesthesia import DISEASE, SLOTS
from medgym_offline.diseases.anesthesia.clinician import RECORD_TICKS, Records, record_operations
from medgym_offline.diseases.anesthesia.flow import FIRST, Law
from medgym_offline.diseases.anesthesia.patients import Patients, load_patients
from medgym_offline.diseases.anesthesia.surrogate import Surrogate, fit_surrogate
from medgym_offline.diseases.anesthesia.truth import Truth, published
from medgym_offline.simulators.bank import SimulatorBank, World
from medgym_offline.simulators.files import ship
from medgym_offline.stack import WorldsOnly

__all__ = ["MODEL", "build_anesthesia"]

_NAME = "anesthesia-v0"


MODEL = WorldsOnly(
    {law.kind: law for law in (Truth, Surrogate)},
    "simulators of anesthesia are fitted to recorded operations, not to cohort tables; build them with: "
    "python -m medgym_offline.diseases.anesthesia.bank OUTPUT.safetensors",
)


def _world(law: Law) -> World:
    first = law.first_state()
    first = torch.nn.functional.pad(first, (0, FIRST + SLOTS - first.shape[-1]))
    # What is unexplained comes with the operation, minute by minute, not as residual noise of a decision.
    return World(law, torch.zeros_like(first), DISEASE.default_scales().normalize(DISEASE, first))


def _charted(records: Records) -> Tensor:
    """(P, 120, 3) what was given in each minute of the first operation, normalized; a minute's boluses add up."""
    minute = DISEASE.process.tick or 1.0
    doses = [dose[:, 0].unflatten(-1, (-1, round(1.0 / minute))) for dose in vars(records.doses).values()]
    given = torch.stack([doses[0].mean(-1), doses[1].sum(-1), doses[2].mean(-1)], -1)
    return DISEASE.default_scales().normalize_treatment(DISEASE, given[:, : round(DISEASE.process.horizon)])


@own_defaults()
def build_anesthesia(people: Patients | None = None, name: str = _NAME) -> SimulatorBank:
    """The bank of `people` (the release's 110): worlds `own` and `crossfit`, fitted to the first and to the second
    recorded operation of each, `true`, and the population."""
    people = load_patients() if people is None else people
    records = [record_operations(people, numbers) for numbers in ((0,), (1,))]
    first, second = (fit_surrogate(people, some) for some in records)
    middle = Surrogate(first.center.values[:1], first.center.lag.mean(0, keepdim=True), first.center.noise[:1])
    split = {side: [p for p, s in zip(people.ids, people.split) if s == side] for side in ("train", "test")}
    context = np.stack([people.age, people.weight, people.height, people.male], -1).astype(np.float32)
    worlds = {"own": _world(first.individual), "crossfit": _world(second.individual), "true": _world(published(people))}
    return SimulatorBank(
        name=name,
        patients=people.ids,
        disease=DISEASE,
        scales=DISEASE.default_scales(),
        world_data=worlds,
        population_data=_world(middle),
        clinician_treatment=_charted(records[0]),
        metadata={
            "license": "MIT",
            "split": split,
            "own_operations": [1],
            "crossfit_operations": [2],
            "record_minutes": RECORD_TICKS // 4,
            "command": f"python -m medgym_offline.diseases.anesthesia.bank {name}.safetensors",
        },
        context=torch.from_numpy(context),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1]) if sys.argv[1:] else None
    ship(build_anesthesia(name=where.stem if where else _NAME), where)
