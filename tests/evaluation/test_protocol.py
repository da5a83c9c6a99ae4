from __future__ import annotations

import json
from pathlib import Path

import pytest

from medgym_offline.errors import ProtocolError
from medgym_offline.evaluation import load_protocol
from medgym_offline.files import release_folder


def test_file_states_every_field_that_is_not_the_diseases() -> None:
    """A field left to a default would change silently with the code."""
    stored = json.loads((release_folder("evaluation") / "protocol-v0.json").read_text())
    full = load_protocol().to_dict()
    of_disease = {"disease", "bank", "decisions", "horizon", "min_interval", "max_interval", "initial_noise"}
    assert set(full) - set(stored) == of_disease | {"grid", "fine", "settled"}
    assert stored == {name: full[name] for name in stored}


def test_hash_follows_content_not_layout(tmp_path: Path) -> None:
    value = load_protocol().to_dict()
    shuffled = tmp_path / "p.json"
    shuffled.write_text(json.dumps(dict(reversed(value.items()))))
    assert load_protocol(shuffled).hash == load_protocol().hash
    shuffled.write_text(json.dumps(value | {"seed": value["seed"] + 1}))
    assert load_protocol(shuffled).hash != load_protocol().hash


def test_override_records_only_what_differs() -> None:
    protocol = load_protocol()
    used, deviations = protocol.override(episodes=5, decisions=20, seed=None)
    assert used.episodes == 5
    assert deviations == {"episodes": {"protocol": 50, "used": 5}}
    assert used.hash != protocol.hash


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"episodes": 0}, "episodes"),
        ({"decisions": 2.5}, "decisions"),
        ({"timing": "sometimes"}, "timing"),
        ({"worlds": []}, "worlds"),
        ({"fine": 0.7}, "fine"),
        ({"settled": 200}, "settled"),
        ({"bootstrap": {"resamples": 0}}, "resamples"),
        ({"bootstrap": {"samples": 10}}, "samples"),
        ({"epsiodes": 50}, "epsiodes"),
    ],
)
def test_bad_field_is_named(tmp_path: Path, change: dict, names: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(load_protocol().to_dict() | change))
    with pytest.raises(ProtocolError, match=names) as error:
        load_protocol(path)
    assert "bad.json" in str(error.value)
