"""What a user, a full disk or an editor can do to datasets and recipes: one line that names the file and the field."""

import dataclasses
import json
import subprocess
import sys

import pytest

from medgym_offline.config import check
from medgym_offline.datasets import (
    Recipe,
    dataset_info,
    generate,
    list_datasets,
    listing_table,
    load_dataset,
    read_recipe,
    verify,
)
from medgym_offline.datasets.catalogue import DATA_FILE, Manifest, Metadata
from medgym_offline.errors import MedGymError
from medgym_offline.files import sha256_file
from tests.helpers import write_recipe

ODD = (None, -1, "many", {}, [])


def said(action):
    """The line of the error, empty if there is none; any other exception fails the test."""
    line = ""
    try:
        action()
    except MedGymError as error:
        line = str(error)
    assert "\n" not in line
    return line


def spoiled(text, path, value):
    whole = json.loads(text)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(whole)


FORMS = {"metadata": Metadata, "manifest": Manifest}
FIELDS = [(file, (name,)) for file, form in FORMS.items() for name in form.__annotations__ if name != "format"]
FIELDS += [("manifest", ("files", DATA_FILE, part)) for part in ("sha256", "bytes")]
FIELDS += [("manifest", ("references", "returns", "expert")), ("manifest", ("episode_steps", "mean"))]
FIELDS += [("manifest", ("bank", "content_hash")), ("manifest", ("files", "data/metadata.json"))]
FIELDS += [("metadata", ("medgym", part)) for part in ("patients", "timing", "decisions", "identity", "bytes")]


@pytest.mark.parametrize(("file", "path"), FIELDS, ids=lambda part: part if isinstance(part, str) else ".".join(part))
def test_odd_types_in_a_dataset_are_named(made, copy, file, path):
    """Whatever stands in a field: a result or a line with the file's name, never a crash."""
    place = copy / made.id / "data" / f"{file}.json"
    text = place.read_text()
    for value in (*ODD, ...):
        place.write_text(spoiled(text, path, value))
        actions = [lambda: load_dataset(made.id, root=copy, progress=False)]
        if file == "manifest":
            actions = [lambda: listing_table([dataset_info(made.id, copy)]), lambda: list_datasets(copy)]
        whole = json.loads(place.read_text())
        wrong = value is ... or bool(said(lambda whole=whole: check(FORMS[file], whole, "x")))
        for line in map(said, actions):
            assert bool(line) >= wrong, (value, line)
            assert not wrong or (place.name in line and path[-1] in line)
    faults = str(verify(made.id, root=copy, replay=0, progress=False))
    assert place.name in faults
    assert path[-1] in faults


TOML = {"text": "'many'", "whole": "7", "half": "1.5", "nan": "nan", "truth": "true", "list": "[1]", "table": "{a = 1}"}
TOML |= {"day": "1979-05-27", "minus": "-1", "huge": "9" * 30, "empty": "''", "line": '"medgym/x-v0\\n"'}
FITS = {"id": (), "description": ("text", "empty", "line"), "bank": (), "behavior": (), "timing": (), "reward": ()}
FITS |= {"world": (), "decisions": ("whole",), "episodes": ("whole",), "perturbation": ("half",), "seed": ("whole",)}
FITS |= {"view": (), "records": (), "license": ("text", "empty", "line")}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
def test_odd_types_in_a_recipe_are_named(recipe, tmp_path, field):
    path = tmp_path / "r.toml"
    fields = {name: json.dumps(value) for name, value in recipe.to_json().items()}
    for kind, value in TOML.items():
        path.write_text("\n".join(f"{k} = {v}" for k, v in (fields | {field: value}).items()))
        if kind in FITS[field]:
            read_recipe(path)
            continue
        line = said(lambda: generate(path, root=tmp_path, progress=False))
        assert line, (field, kind)
        # A value of the right type but of no sense is repeated; one of another type is named with its field.
        assert field in line or json.loads(value.replace("'", '"')).strip() in line, (kind, line)
    assert not any(tmp_path.rglob("*.hdf5"))


_FULL = """
import resource, sys
from medgym_offline.cli import main
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in (2_000, 20_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        main(sys.argv[1:])
    except SystemExit as ended:
        assert ended.code == 1
"""


def test_a_disk_that_takes_no_more(recipe, made, copy):
    """The operating system refuses to let a file grow: the work, or the rows, or what is written last."""
    before = sha256_file(copy / made.id / DATA_FILE)
    path = write_recipe(copy / "recipe.toml", recipe, seed=8)
    words = ["generate", str(path), "--root", str(copy)]
    done = subprocess.run(
        [sys.executable, "-B", "-c", _FULL, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 2
    assert all("file too large" in line.lower() and "free some space" in line for line in lines)
    assert sha256_file(copy / made.id / DATA_FILE) == before
    assert [p.name for p in (copy / "medgym").iterdir()] == ["sepsis-prior-v0"]


def _put(file, path, value):
    del file[path]
    file[path] = value


LAYOUTS = {
    "seed": lambda file: file["episode_3"].attrs.create("seed", "many"),
    "length": lambda file: file["episode_3"].attrs.modify("total_steps", 2**40),
    "flat": lambda file: _put(file, "episode_3/infos", [1.0, 2.0]),
    "number": lambda file: _put(file, "episode_3", 7),
    "gone": lambda file: file.pop("episode_3"),
    "wide": lambda file: _put(file, "episode_3/rewards", file["episode_3/rewards"][...].astype("float64")),
    "id": lambda file: file["episode_3"].attrs.modify("id", 4),
}


@pytest.mark.parametrize("change", LAYOUTS.values(), ids=LAYOUTS)
def test_a_data_file_of_another_layout(made, copy, change):
    import h5py

    with h5py.File(copy / made.id / DATA_FILE, "r+") as file:
        change(file)
    report = verify(made.id, root=copy, replay=0, progress=False)
    assert "episode_" in next(check.detail for check in report.faults if check.name == "readable")
    assert "\n" not in str(report.faults[-1].detail)
