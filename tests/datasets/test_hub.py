"""Publishing and downloading through a Hub on this machine: our commands, `minari` and `huggingface_hub`."""

import copy as copies
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from medgym_offline.datasets import download, generate, publish
from medgym_offline.datasets.catalogue import DATA_FILE
from medgym_offline.datasets.hub import parse_remote
from medgym_offline.datasets.publishing import layout
from medgym_offline.datasets.trust import Fingerprint, recipe_seeds
from medgym_offline.errors import DatasetError
from tests.datasets.conftest import ID
from tests.datasets.hub import ORG, READER, TOKEN, local_hub
from tests.helpers import refused

REMOTE = f"hf://{ORG}"
REPOSITORY = f"{ORG}/medgym"
ENTRY = {"sha256": "0" * 64, "bytes": 1}


@contextmanager
def connected(patch, home):
    """A Hub, and a process that talks to it as the writer."""
    from huggingface_hub import constants

    with local_hub() as server:
        here = {"ENDPOINT": server.url, "HUB_OFFLINE": "0", "HUB_DISABLE_XET": "1", "TOKEN": TOKEN, "HOME": str(home)}
        for name, value in here.items():
            patch.setenv(f"HF_{name}", value)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        yield server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub of the test's own."""
    with connected(monkeypatch, tmp_path / "hf") as server:
        yield server


@pytest.fixture(scope="session")
def publication(made, root, tmp_path_factory):
    """What one publication of the dataset leaves on a Hub: seconds of verifying and drawing, shared by all tests."""
    with pytest.MonkeyPatch.context() as patch, connected(patch, tmp_path_factory.mktemp("hf")) as server:
        assert send(root).commit == server.repositories[REPOSITORY].head
    return server


@pytest.fixture
def published(hub, publication):
    """A Hub of the test's own that holds the dataset."""
    hub.repositories = copies.deepcopy(publication.repositories)
    return hub


def send(root, dataset=ID):
    return publish(dataset, REMOTE, root=root, progress=False)


def get(root):
    return download(ID, remotes=[REMOTE], root=root, progress=False)


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def core(folder):
    """Without the flat cache, which is not published."""
    return {name: data for name, data in files_of(folder).items() if not name.startswith("flat-")}


def minari(root, *words, token):
    """Run its command."""
    own = {"MINARI_REMOTE": REMOTE, "MINARI_DATASETS_PATH": str(root), "HF_HOME": f"{root}-hf", "HF_TOKEN": token}
    command = [sys.executable, "-c", "from minari.cli import app; app()", *words]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_one_commit_and_a_tag(published):
    repository = published.repositories[REPOSITORY]
    assert len(repository.commits) == 2  # the Hub's own first one, and ours
    assert repository.tags == {"sepsis-prior-v0": repository.head}
    assert json.loads(repository.files["namespace_metadata.json"])["datasets"] == [ID]
    assert f"- [`{ID}`](sepsis-prior-v0/README.md)" in repository.files["README.md"].decode()
    assert repository.files["sepsis-prior-v0/README.md"].startswith(b"---\nlicense: odbl\n")


def test_a_folder_laid_out_is_what_publishing_sends(hub, publication, made, root, tmp_path):
    """Uploaded whole by the Hub's own client, it downloads like a published dataset."""
    folder, stored = tmp_path / "laid", publication.repositories[REPOSITORY].files
    written = layout([ID], folder, REMOTE, root=root, progress=False)
    assert [path.relative_to(folder).as_posix() for path in written] == sorted(files_of(folder))
    assert {".gitattributes": stored[".gitattributes"], **files_of(folder)} == stored
    api = parse_remote(REMOTE, "medgym").api()
    api.create_repo(REPOSITORY, repo_type="dataset")
    api.upload_folder(repo_id=REPOSITORY, folder_path=folder, repo_type="dataset")
    assert core(get(tmp_path / "fetched").path) == core(made.path)


def test_ours_and_minaris_client_give_the_same_bytes(published, made, tmp_path):
    ours = get(tmp_path / "ours").path
    minari(tmp_path / "minari", "download", ID, token="")
    assert core(made.path) == files_of(ours) == files_of(tmp_path / "minari" / ID)
    assert {path.name for path in ours.parent.iterdir()} == {"namespace_metadata.json", "sepsis-prior-v0"}


def test_what_minari_uploads_we_download(hub, copy, made, tmp_path):
    shutil.copyfile(made.path.parent / "namespace_metadata.json", copy / "medgym" / "namespace_metadata.json")
    minari(copy, "upload", ID, "--key-path", TOKEN, token=TOKEN)
    assert files_of(get(tmp_path / "ours").path) == core(made.path)


def test_the_second_of_two_publishers_builds_on_the_first(hub, made_zero, root):
    send(root, made_zero.id)
    repository = hub.repositories[REPOSITORY]

    def other():
        text = json.dumps({"datasets": [made_zero.id, "medgym/other-v0"]}).encode()
        repository.commit(repository.files | {"namespace_metadata.json": text})

    hub.before_commit = other
    send(root)
    assert 412 in [status for _, path, status in hub.log if "/commit/" in path]
    names = ["medgym/other-v0", ID, made_zero.id]
    assert json.loads(repository.files["namespace_metadata.json"])["datasets"] == names


TOKENS = [("", "needs a valid token"), ("hf_wrong", "needs a valid token"), (READER, r"may not do this \(403\)")]


@pytest.mark.parametrize(("token", "message"), TOKENS)
def test_tokens(hub, made, root, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    refused(DatasetError, message, lambda: send(root))
    assert hub.repositories == {}


def test_what_does_not_verify_is_not_published(hub, copy):
    path = copy / ID / DATA_FILE
    path.write_bytes(path.read_bytes()[:-9] + b"corrupted")
    refused(DatasetError, "does not verify and is not published", lambda: send(copy))
    assert {method for method, *_ in hub.log} == {"GET"}


def test_published_rows_do_not_change(published, recipe, copy):
    generate(dataclasses.replace(recipe, seed=8), root=copy, progress=False)
    refused(DatasetError, "sepsis-prior-v1", lambda: send(copy))


def test_wrong_bytes_are_refused_and_fetched_anew(published, made, tmp_path):
    published.wrong = "main_data.hdf5"
    refused(DatasetError, r"main_data\.hdf5: missing or wrong checksum; run again", lambda: get(tmp_path))
    assert not (tmp_path / ID).exists()
    assert files_of(get(tmp_path).path) == core(made.path)


@pytest.mark.parametrize("name", [DATA_FILE, "data/metadata.json", "data/manifest.json"])
def test_damage_here_is_repaired(published, copy, made, name):
    path = copy / ID / name
    path.write_bytes(path.read_bytes()[:-9] + b"corrupted")
    assert "had been damaged" in get(copy).message
    assert files_of(copy / ID) == core(made.path)


def test_the_release_is_believed_before_the_remote(published, release, rows, tmp_path):
    assert "this release's manifest" in get(tmp_path / "good").message
    path = release / "sepsis-prior-v0.manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"generator": 1}))
    published.log.clear()
    refused(DatasetError, r"names: generator: 1 -> 3 here.*medgym-offline generate", lambda: get(tmp_path / "bad"))
    assert not any(path.endswith("main_data.hdf5") for _, path, _ in published.log)
    # Rows in other bytes are compared: those of another HDF5 library pass, other rows do not.
    manifest["files"][DATA_FILE]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    assert "this release's manifest" in get(tmp_path / "other-bytes").message
    rewards = np.array(rows.rewards)
    rewards[40] += 0.1
    other = Fingerprint.of(dataclasses.replace(rows, rewards=rewards), recipe_seeds(manifest, rows.present_ids))
    path.write_text(json.dumps(manifest | {"fingerprint": other.to_text()}))
    refused(DatasetError, r"other rows than this release: .*episode", lambda: get(tmp_path / "bad"))
    assert not (tmp_path / "bad" / ID).exists()


ODD = [
    ({"files": None}, "'files' is None"),
    ({"files": dict.fromkeys(("../x", DATA_FILE, "data/metadata.json"), ENTRY)}, "is '../x'; it should match"),
    ({"id": "medgym/other-v0"}, "manifest of 'medgym/other-v0'"),
    ({"format": 3}, "'format' is 3"),
    ({"env_spec": {"entry_point": "os:system"}}, "disagree on 'env_spec'"),
]


@pytest.mark.parametrize(("change", "message"), ODD)
def test_a_manifest_of_odd_types(published, tmp_path, change, message):
    repository, name = published.repositories[REPOSITORY], "sepsis-prior-v0/data/manifest.json"
    text = json.dumps(json.loads(repository.files[name]) | change).encode()
    repository.commit(repository.files | {name: text})
    refused(DatasetError, f"{REMOTE}.*{re.escape(message)}", lambda: get(tmp_path))
    assert not (tmp_path / ID).exists()
