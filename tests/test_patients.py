"""Which patients are meant: the same words mean the same everywhere, and what means nobody is refused."""

from functools import partial

import numpy as np
import pytest
import torch

from medgym_offline.commands.common import parse_patients
from medgym_offline.envs import TreatmentEnv, TreatmentVectorEnv
from medgym_offline.errors import UnknownNameError
from medgym_offline.evaluation import evaluate
from medgym_offline.evaluation.ope.estimators import episode_grid
from medgym_offline.offline import PROFILES
from medgym_offline.offline.data import stack_transitions
from medgym_offline.patients import PatientIndex
from tests.helpers import refused
from tests.offline.toy import toy

INDEX = PatientIndex(("a/1", "a/2", "7", "b"), "bank 'toy'")
PART = PatientIndex(INDEX.ids, "part", (1, 3))


MEANT = [
    (None, [0, 1, 2, 3]),
    (2, [0, 1]),
    (np.int64(2), [0, 1]),
    (torch.tensor(2), [0, 1]),
    ("b", [3]),
    ("7", [2]),  # text is an id, whatever it looks like
    (["b", 0], [3, 0]),
    (np.array([2, 1]), [2, 1]),
    (torch.tensor([2]), [2]),
    (range(1, 3), [1, 2]),
    ((p for p in ("a/2", "b")), [1, 3]),
]


@pytest.mark.parametrize(("patients", "positions"), MEANT)
def test_words_for_patients(patients, positions):
    assert INDEX.resolve(patients) == positions


WRONG = [0, 5, -1, 2.0, 2.5, True, np.True_, torch.tensor(True), [], "", "a/9", "1", [4], [-1], [2.0], [True], [None]]
WRONG += [np.array([True, False, True, False]), ["b", 3], [0, 0], [b"b"], {"a": 1}]


@pytest.mark.parametrize("patients", WRONG, ids=repr)
def test_words_for_nobody(patients):
    refused(UnknownNameError, "bank 'toy'", lambda: INDEX.resolve(patients))


def test_a_part_has_only_those_present():
    for patients, positions in ((None, [1, 3]), (1, [1]), (["b", 1], [3, 1])):
        assert PART.resolve(patients) == positions
    for patients in (3, ["a/1"], [0], "7"):
        refused(UnknownNameError, "", partial(PART.resolve, patients))


def readers(bank):
    """Everything that is asked for patients, beside datasets on disk."""
    rows = toy(patients=3, episodes=2)
    return {
        "bank": bank.select,
        "environment": lambda p: TreatmentEnv(bank=bank, patient=p),
        "environments": lambda p: TreatmentVectorEnv(bank=bank, patients=p),
        "evaluate": lambda p: evaluate("zero", bank=bank, patients=p, episodes=1, worlds=["own"]),
        "rows": lambda p: rows.select(patients=p),
        "learners": lambda p: stack_transitions(rows, "ind", PROFILES["quick"], p),
        "logged": lambda p: episode_grid(rows, p),
        "command": lambda p: parse_patients(str(p), bank.patients, "bank"),
    }


def test_every_reader_refuses_alike(tiny_bank):
    for name, read in readers(tiny_bank).items():
        for patients in (9.0, "nobody"):
            refused(UnknownNameError, "patient", partial(read, patients))
        if name in ("environments", "evaluate", "learners", "logged"):
            refused(UnknownNameError, "twice", partial(read, [1, 1]))
    refused(UnknownNameError, "twice", lambda: parse_patients("prior/1,prior/1", tiny_bank.patients, "bank"))


def test_a_command_takes_a_number_or_ids(tiny_bank):
    told = {"2": ["prior/0", "prior/1"], "prior/3, prior/1": ["prior/3", "prior/1"], "all": None}
    assert {text: parse_patients(text, tiny_bank.patients, "bank") for text in told} == told
    for text in ("0", "5", "--3", "2.5", ",", "1,2"):
        refused(UnknownNameError, "", partial(parse_patients, text, tiny_bank.patients, "bank"))
