"""A small dataset of unfitted patients, made once and copied for tests that damage it."""

import dataclasses
import json
import shutil

import pytest

from medgym_offline.datasets import Recipe, generate, load_dataset
from tests.helpers import write_recipe

ID = "medgym/sepsis-prior-v0"


@pytest.fixture(scope="session")
def bank_file(tiny_bank, tmp_path_factory):
    path = tmp_path_factory.mktemp("bank") / "prior.safetensors"
    tiny_bank.save(path)
    return path


@pytest.fixture(scope="session")
def recipe(bank_file):
    return Recipe(ID, "Uniform actions.", str(bank_file), "random", episodes=3, perturbation=0.0, seed=7)


@pytest.fixture(scope="session")
def zero_recipe(recipe):
    """Deterministic behavior, perturbed, at fixed times."""
    return dataclasses.replace(
        recipe, id="medgym/sepsis-zero-v0", behavior="zero", timing="fixed", decisions=8, perturbation=0.05
    )


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Folder of the shared datasets; what is made for the whole session has a cache of its own too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("minari")


@pytest.fixture(scope="session")
def made(recipe, root):
    return generate(recipe, root=root, progress=False)


@pytest.fixture(scope="session")
def made_zero(zero_recipe, root):
    return generate(zero_recipe, root=root, progress=False)


@pytest.fixture(scope="session")
def rows(made, root):
    return load_dataset(made.id, root=root, progress=False)


@pytest.fixture
def copy(made, root, tmp_path):
    """Root of a copy of the dataset that a test may damage."""
    shutil.copytree(root / "medgym" / "sepsis-prior-v0", tmp_path / "medgym" / "sepsis-prior-v0")
    return tmp_path


@pytest.fixture
def release(recipe, made, tmp_path, monkeypatch):
    """The folder of a release of this dataset's recipe and manifest, in place of the real one."""
    folder = tmp_path / "release"
    folder.mkdir()
    write_recipe(folder / "sepsis-prior-v0.toml", recipe)
    (folder / "sepsis-prior-v0.manifest.json").write_text(json.dumps(made.manifest))
    for module in ("catalogue", "recipes"):
        monkeypatch.setattr(f"medgym_offline.datasets.{module}.release_folder", lambda name: folder)
    return folder
