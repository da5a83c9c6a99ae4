"""Fetching a dataset through Minari's own client, with our checks around it."""

from __future__ import annotations

import os

from medgym_offline.datasets import dataset_info, generate, verify
from medgym_offline.errors import DatasetError

__all__ = ["fetch"]


def fetch(dataset: str, remote: str | None = None, regenerate: bool = False, force: bool = False) -> str:
    """Bring `dataset` to this machine and say in one line what happened.

    Args:
        dataset: Its id.
        remote: Minari remote ("hf://ORG"); by default `$MINARI_REMOTE`, else Minari's own.
        regenerate: Make it from its recipe when no remote has it.
        force: Fetch again although it is here.

    Raises:
        UnknownNameError: no such dataset.
        DatasetError: no remote answered with it and `regenerate` is False, or what came does not verify.
    """
    info = dataset_info(dataset)
    if info.path is not None and not force:
        return f"{dataset} is already here: {info.path} (fetch it again with --force)"
    used = remote or os.environ.get("MINARI_REMOTE") or "hf://farama-minari"
    if reason := _download(dataset, used, force):
        if not regenerate:
            raise DatasetError(
                f"no remote gave {dataset}: {used} ({reason}); name another with --remote, or make it from its recipe: "
                f"medgym-offline download {dataset} --regenerate"
            )
        made = generate(dataset)
        return f"{used} did not have it; regenerated {dataset}: {made.episodes:,} episodes in {made.path}"
    report = verify(dataset)
    if not report.ok:
        faults = "; ".join(f"{check.name}: {check.detail}" for check in report.faults[:3])
        raise DatasetError(f"{dataset} from {used} does not verify ({faults}); fetch it again with --force")
    return f"{dataset} fetched from {used} and verified: {dataset_info(dataset).path}"


def _download(dataset: str, remote: str, force: bool) -> str:
    """Download through Minari; the reason as one line if that did not work, else an empty string."""
    before = os.environ.get("MINARI_REMOTE")
    os.environ["MINARI_REMOTE"] = remote  # the only place where Minari looks on first use of a namespace
    try:
        import minari

        minari.download_dataset(dataset, force_download=force)
    except Exception as error:  # the client's own errors, the hub's and the network's share no base class
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else 'no answer'}"
    finally:
        if before is None:
            del os.environ["MINARI_REMOTE"]
        else:
            os.environ["MINARI_REMOTE"] = before
    return ""
