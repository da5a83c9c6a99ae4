"""Opening a policy of any kind: our files, TorchScript, torch.export, ONNX, or a folder with one file per patient."""

from __future__ import annotations

from pathlib import Path

from medgym_offline.defaults import own_defaults
from medgym_offline.errors import PolicyError
from medgym_offline.files import POLICY_SUFFIXES
from medgym_offline.policies.actor import StackedActor
from medgym_offline.policies.files import (
    MAX_BYTES,
    REMEDY,
    load_checkpoint,
    load_safetensors,
    patient_of_stem,
    zip_names,
)
from medgym_offline.policies.foreign import PolicyCollection, policy_of, read_onnx, read_torchscript
from medgym_offline.policies.history import HistoryPolicy
from medgym_offline.policies.program import is_program, read_program
from medgym_offline.policies.protocol import Policy

__all__ = ["load_policy"]


@own_defaults()
def load_policy(
    path: str | Path, max_bytes: int = MAX_BYTES, disease: str | None = None, view: str | None = None
) -> Policy:
    """Open a policy file, or a folder with one file per patient; the kind is recognized by content.

    Accepted: our .safetensors and weights-only .pt; a TorchScript module from observations (N, d) to actions (N, A),
    as d3rlpy's `save_policy` writes; a program of `torch.export` (.pt2) or an ONNX model (extra `onnx`) of the same
    signature; a folder of such files named by patient id, "/" written as "__" (`patient_file_stem`). A policy is its
    file: an ONNX model whose weights lie in a second one is refused.

    Args:
        path: File or folder.
        max_bytes: Larger files are refused.
        disease: Name of the disease that a file is for which names none; the default one if not given.
        view: What a module sees whose file does not say; "full" if not given.

    Raises:
        PolicyError: One line with the file, what was found and the remedy. Pickles are refused unopened.
    """
    path = Path(path)
    if path.is_dir():
        return load_folder(path, max_bytes, disease, view)
    if not path.is_file():
        raise PolicyError(f"{path}: no such policy file or folder")
    size = path.stat().st_size
    if size == 0:
        raise PolicyError(f"{path}: the file is empty; {REMEDY}")
    if size > max_bytes:
        raise PolicyError(f"{path}: {size / 2**20:.0f} MB is over the limit of {max_bytes / 2**20:.0f} MB for a policy")
    with open(path, "rb") as stream:
        head = stream.read(16)
    if head[:4] == b"PK\x03\x04":
        names = zip_names(path, max_bytes)
        if any(part.split("/")[1:2] == ["code"] for part in names):
            return policy_of(*read_torchscript(path), path, disease, view)
        if is_program(names):
            return policy_of(*read_program(path), path, disease, view)
        return load_checkpoint(path, max_bytes)
    if len(head) > 8 and head[8:9] == b"{":
        return load_safetensors(path)
    if head[:1] == b"\x80":
        raise PolicyError(f"{path}: a Python pickle, which could run code when opened, so it was not; {REMEDY}")
    if head[:1] == b"\x08" and path.suffix == ".onnx":
        return policy_of(*read_onnx(path), path, disease, view)
    raise PolicyError(f"{path}: not a policy file (begins with {head[:8]!r}); {REMEDY}")


def load_folder(path: Path, max_bytes: int, disease: str | None = None, view: str | None = None) -> Policy:
    """A folder of policy files, one per patient, as one policy. See `load_policy`."""
    files = sorted(f for f in path.iterdir() if f.suffix in POLICY_SUFFIXES and not f.name.startswith("."))
    if not files:
        raise PolicyError(f"{path}: no policy files ({', '.join(POLICY_SUFFIXES)}) in this folder")
    policies: dict[str, Policy] = {}
    for file in files:
        patient = patient_of_stem(file.stem)
        policy = load_policy(file, max_bytes, disease, view)
        if patient in policies:
            raise PolicyError(f"{path}: two files for patient {patient}; keep one")
        if policy.patients is not None and policy.patients != (patient,):
            inside = ", ".join(policy.patients[:3])
            raise PolicyError(f"{file}: holds the policy of {inside}, its name says {patient}; rename the file")
        policies[patient] = policy
    try:
        histories = {getattr(p, "history", 1) for p in policies.values()}
        found = {patient: p.inner if isinstance(p, HistoryPolicy) else p for patient, p in policies.items()}
        actors = [p.take([0], (patient,)) for patient, p in found.items() if isinstance(p, StackedActor)]
        if len(actors) == len(policies) and len({(a.net.sizes, a.net.activation, *histories) for a in actors}) == 1:
            actor = StackedActor.concatenate(actors)
            return actor if histories == {1} else HistoryPolicy(actor, *histories)
        if len(histories) > 1:
            raise PolicyError("policies with a history are of one form in a folder, or in folders of their own")
        collection = PolicyCollection(found)
        return collection if histories == {1} else HistoryPolicy(collection, *histories)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None
