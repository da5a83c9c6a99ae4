"""Every code block of docs/environments.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medgym_offline.envs import interface
from medgym_offline.simulators import SimulatorBank

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=[str(i) for i in range(len(BLOCKS))])
def test_block(code: str, tiny_bank: SimulatorBank, monkeypatch: pytest.MonkeyPatch) -> None:
    # The release bank is replaced by a small one: what is tested is the page, not the bank.
    monkeypatch.setattr(interface, "_load", lambda name: tiny_bank)
    monkeypatch.setattr("medgym_offline.simulators.load_simulators", lambda name: tiny_bank)
    exec(compile(code, str(PAGE), "exec"), {})


def test_the_page_has_its_blocks() -> None:
    assert len(BLOCKS) == 4
