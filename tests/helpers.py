"""What tests of several folders share: errors in one line, a small bank, recipes as files, and files changed."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from medgym_offline.simulators import load_simulators


def refused(error, words, action):
    """The action fails with this error, in one line that matches the pattern `words`."""
    with pytest.raises(error, match=words) as caught:
        action()
    assert "\n" not in str(caught.value)


def mapped_bank(patients):
    """The first patients of the release's bank, under other names and without a split."""
    ids = tuple(f"prior/{i}" for i in range(patients))
    bank = load_simulators("sepsis-v0").select(patients).replace(patients=ids, name=f"prior-{patients}-0", metadata={})
    return bank.with_world("own", bank.world_data["own"])  # which gives it a hash of its own


def write_recipe(path, recipe=None, **changes):
    """A recipe as a TOML file, some fields changed."""
    fields = (recipe.to_json() if recipe else {}) | changes
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items()), encoding="utf-8")
    return path


def edit(source, target, header, **tensors):
    """A safetensors file with some fields of its JSON header and some tensors changed (None removes a tensor)."""
    with safe_open(source, framework="pt") as stream:
        ((key, text),) = stream.metadata().items()
        found = {name: stream.get_tensor(name) for name in stream.keys()} | tensors  # noqa: SIM118
    kept = {name: tensor for name, tensor in found.items() if tensor is not None}
    save_file(kept, target, {key: json.dumps(json.loads(text) | header)})
