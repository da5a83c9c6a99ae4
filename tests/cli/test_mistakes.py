"""What a user can get wrong: one line that names it, exit code 1, no traceback."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.leaderboard.workshop import DATASET, Workshop, refused, run


def test_unknown_names_suggest_the_nearest(shop: Workshop) -> None:
    zero = shop.evaluate("--policy", "zero")
    assert "prior/0" in refused(*zero, "--patients", "prior/00")
    assert "adaptive" in refused(*zero, "--timing", "adaptiv")
    assert "crossfit" in refused(*zero, "--worlds", "heldout")
    assert "clinician" in refused(*shop.evaluate("--policy", "clinican"))
    assert "medgym/sepsis-ind-v0" in refused("info", "medgym/sepsis-in-v0")
    assert "medgym/sepsis-ind-v0" in refused("verify", "medgym/sepsis-in-v0")
    assert "medgym/sepsis-ind-v0" in refused("generate", "medgym/sepsis-in-v0")
    assert "medgym/sepsis-ind-v0" in refused("download", "medgym/sepsis-in-v0")
    assert DATASET in refused("train", "cql", "--dataset", "medgym/workshp-v0", "--output", "x")
    assert "gcql" in refused("train", "gccql", "--dataset", DATASET, "--output", "x")
    assert "ind" in refused("train", "cql", "--dataset", DATASET, "--scope", "idn", "--output", "x")
    assert "no-such-bank" in refused("simulators", "info", "no-such-bank")


def test_numbers_out_of_range(shop: Workshop) -> None:
    assert "96" in refused(*shop.evaluate("--policy", "zero", "--decisions", "2"))
    assert "1 to 3" in refused(*shop.evaluate("--policy", "zero", "--patients", "4"))
    assert "1 to 3" in refused(*shop.evaluate("--policy", "zero", "--patients", "0"))
    assert "nobody" in refused(*shop.evaluate("--policy", "zero", "--patients", ","))


def test_a_truncated_bank(shop: Workshop, tmp_path: Path) -> None:
    content = shop.bank.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        broken = tmp_path / "broken.safetensors"
        broken.write_bytes(content[:size])
        assert str(broken) in refused("eval", "--policy", "zero", "--bank", broken)


def test_a_truncated_dataset(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(shop.minari, tmp_path / "minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    data = tmp_path / "minari" / DATASET / "data" / "main_data.hdf5"
    data.write_bytes(data.read_bytes()[:-1000])
    assert "main_data.hdf5" in refused("train", "dqn", "--dataset", DATASET, "--output", "x")
    done = run("verify", DATASET)
    assert done.code == 1
    assert "sha256 main_data.hdf5" in done.out


class _Marker:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.path)!r}, 'w').close()",))


def test_files_that_are_no_policy(shop: Workshop, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    text = tmp_path / "notes.pt"
    text.write_text("not a policy")
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(_Marker(marker)))
    zipped = tmp_path / "zipped.pt"
    torch.save({"header": "{}", "tensors": _Marker(marker)}, zipped)
    for path in (text, plain, zipped, shop.bank, tmp_path / "absent.pt"):
        assert path.name in refused(*shop.evaluate("--policy", path))
    assert not marker.exists()


def test_a_policy_of_another_input_width(shop: Workshop, tmp_path: Path) -> None:
    with safe_open(shop.policy(), framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["layers.0.weight"] = tensors["layers.0.weight"][:, :8].contiguous()
    header["medgym-policy"] = header["medgym-policy"].replace('"sizes": [9,', '"sizes": [8,')
    save_file(tensors, tmp_path / "narrow.safetensors", metadata=header)
    assert "8" in refused(*shop.evaluate("--policy", tmp_path / "narrow.safetensors"))


def test_a_policy_for_another_timing_or_without_the_patients(shop: Workshop) -> None:
    assert "timing" in refused(*shop.evaluate("--policy", shop.policy(), "--timing", "fixed"))
    done = run("train", "dqn", "--dataset", DATASET, "--updates", "1", "--patients", "1", "--output", "one")
    assert done.code == 0, done.err
    assert "prior/2" in refused(*shop.evaluate("--policy", "one/dqn-ind-seed0.safetensors"))


def test_results_that_are_none(shop: Workshop, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert "other.json" in refused("report", other, "--output", "r.html")
    assert "absent.json" in refused("report", "absent.json", "--output", "r.html")
    assert "absent" in refused("submit", "absent", "--name", "X", "--output", "s")


def test_clinical_files_that_are_none(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    assert "nowhere" in refused("cohort", "build", tmp_path / "nowhere", "--output", tmp_path / "c.parquet")
    table = tmp_path / "c.parquet"
    table.write_bytes(b"not parquet")
    assert "c.parquet" in refused("cohort", "card", table)
    assert "c.parquet" in refused("simulators", "fit", table, "--output", tmp_path / "b.safetensors")
    assert ".safetensors" in refused("simulators", "fit", table, "--output", tmp_path / "bank.bin")


def test_a_folder_that_cannot_be_written(shop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "file" in refused(
        *shop.evaluate("--policy", "zero", "--patients", "1", "--output", tmp_path / "file" / "out")
    )
