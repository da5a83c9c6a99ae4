"""Shared fixtures: one torch thread, isolated folders, no network, a small bank."""

import os
import socket
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "1")  # tables of a few rows: threads cost more than they do

import pytest
import torch

from medgym_offline.diseases.sepsis.model import prior_bank
from tests.helpers import mapped_bank

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path_factory):
    """Every test has its own Minari root and cache, and cannot reach beyond this machine."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
    monkeypatch.setenv("MEDGYM_CACHE", str(folder / "cache"))
    connect = socket.socket.connect

    def guarded(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"tests do not use the network ({address[0]})")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def tiny_bank():
    """Four patients with a solution map, several times faster than the solver in so small a batch."""
    return mapped_bank(4)


@pytest.fixture(scope="session")
def solver_bank():
    """Four unfitted patients, solver backend."""
    return prior_bank(patients=4, seed=0)


@pytest.fixture(scope="session")
def _workshop(tmp_path_factory):
    from tests.leaderboard.workshop import build

    return build(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def shop(_workshop, monkeypatch, tmp_path):
    """The workshop, with its datasets visible and an empty working directory."""
    _workshop.open(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return _workshop


@pytest.fixture(scope="session")
def clinical_data():
    """Folder of the open ICU data, or skip."""
    folder = os.environ.get("MEDGYM_CLINICAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the open ICU data: set MEDGYM_CLINICAL_DATA to the folder of mimic-iii-demo-1.4")
    return Path(folder)
