"""Bank files: round trip, and every kind of damage named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from medgym_offline import load_simulators
from medgym_offline.errors import BankError
from medgym_offline.simulators import SimulatorBank
from tests.helpers import refused


def test_round_trip(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    tiny_bank.save(tmp_path / "b.safetensors")
    again = load_simulators(tmp_path / "b.safetensors")
    x, u = tiny_bank.initial_state().unsqueeze(1), torch.full((4, 1, 3), 0.3)
    assert torch.equal(again.flow(x, u, torch.full((4, 1), 7.0)), tiny_bank.flow(x, u, torch.full((4, 1), 7.0)))
    assert again.content_hash == tiny_bank.content_hash
    assert again.replace().content_hash == tiny_bank.content_hash
    assert (again.patients, again.scales, again.physics) == (tiny_bank.patients, tiny_bank.scales, tiny_bank.physics)
    held = (again.world("crossfit"), tiny_bank.world("crossfit"))
    assert torch.equal(*(b.field(x, u) for b in held))


def _edit_header(source: Path, target: Path, **changes: object) -> None:
    with safe_open(source, framework="pt") as stream:
        header = json.loads(stream.metadata()["medgym"])
        tensors = {k: stream.get_tensor(k) for k in stream.keys()}  # noqa: SIM118
    header.update(changes)
    save_file(tensors, target, metadata={"medgym": json.dumps(header)})


def test_damage_is_named(tiny_bank: SimulatorBank, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    tiny_bank.save(good)
    for cut in (0, 7, 100, 4000, good.stat().st_size - 10):
        bad = tmp_path / f"cut{cut}.safetensors"
        bad.write_bytes(good.read_bytes()[:cut])
        with pytest.raises(BankError, match=rf"cut{cut}\.safetensors: not a readable bank"):
            load_simulators(bad)
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    refused(BankError, "without a bank header", lambda: load_simulators(tmp_path / "foreign.safetensors"))
    _edit_header(good, tmp_path / "later.safetensors", format="medgym-bank/9")
    refused(BankError, "medgym-bank/9", lambda: load_simulators(tmp_path / "later.safetensors"))
    _edit_header(good, tmp_path / "worlds.safetensors", worlds=["own", "mars"])
    refused(BankError, "missing", lambda: load_simulators(tmp_path / "worlds.safetensors"))
    _edit_header(good, tmp_path / "patients.safetensors", patients=["one"])
    refused(BankError, "shape", lambda: load_simulators(tmp_path / "patients.safetensors"))
