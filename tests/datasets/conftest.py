"""A small dataset of unfitted patients, made once and copied for tests that damage it."""

import dataclasses
import json
import shutil

import pytest

from medgym_offline.datasets import Recipe, catalogue, generate, load_dataset, recipes
from tests.helpers import write_recipe

ID = "medgym/sepsis-prior-v0"


@pytest.fixture(scope="session")
def recipe(tiny_bank, tmp_path_factory):
    path = tmp_path_factory.mktemp("bank") / "prior.safetensors"
    tiny_bank.save(path)
    return Recipe(ID, "Uniform actions.", str(path), "random", episodes=3, perturbation=0.0, seed=7)


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
def made_zero(recipe, root):
    """Deterministic behavior, perturbed, at fixed times."""
    other = {"id": "medgym/sepsis-zero-v0", "behavior": "zero", "timing": "fixed", "decisions": 8}
    return generate(dataclasses.replace(recipe, **other, perturbation=0.05), root=root, progress=False)


@pytest.fixture(scope="session")
def rows(made, root):
    return load_dataset(made.id, root=root, progress=False)


@pytest.fixture
def copy(made, root, tmp_path):
    """Root of a copy of the dataset that a test may damage."""
    shutil.copytree(root / ID, tmp_path / ID)
    return tmp_path


@pytest.fixture
def release(recipe, made, tmp_path, monkeypatch):
    """The folder of a release of this dataset's recipe and manifest, in place of the real one."""
    folder = tmp_path / "release"
    folder.mkdir()
    write_recipe(folder / "sepsis-prior-v0.toml", recipe)
    (folder / "sepsis-prior-v0.manifest.json").write_text(json.dumps(made.manifest))
    for module in (catalogue, recipes):
        monkeypatch.setattr(module, "release_folder", lambda name: folder)
    return folder
