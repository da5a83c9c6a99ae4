"""Run one function over many shards, keep what is finished, and do again only what is not."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from medgym_offline.engine.workers import Ended, Slot, check_engine, claim, decode, open_engine, stored
from medgym_offline.errors import MedGymError
from medgym_offline.files import atomic_path
from medgym_offline.progress import Progress

__all__ = ["blocks", "run"]

_POLL = 0.5
"""Seconds between two looks at the live numbers of workers."""


def blocks(count: int, size: int) -> list[range]:
    """`count` patients cut into ranges of at most `size`, in order, as equal as can be.

    The cut belongs to a run's recipe, never to its number of workers: float32 sums of another batch differ in their
    last digits, and training amplifies them.
    """
    parts = max(1, -(-count // size))
    edges = [count * part // parts for part in range(parts + 1)]
    return [range(a, b) for a, b in zip(edges[:-1], edges[1:])]


def run(
    function: Callable[..., Any],
    shards: Mapping[str, tuple[Any, ...]],
    *,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    folder: str | Path | None = None,
    key: Any = None,
    retries: int = 1,
    title: str = "shards",
    progress: bool = True,
) -> dict[str, Any]:
    """`function(*arguments)` for every shard; results by name, in the order of `shards`.

    Shards do not see each other, run on one torch thread each, and are the same in every engine, bit for bit on one
    machine. A shard whose worker or node dies is started again, `retries` times; the others go on. A shard whose
    function raises is not: the others are finished first, then the error is raised. What is finished is in `folder`
    by then, so that the next call does only the rest.

    Args:
        function: Importable, pure; may call `medgym_offline.engine.report`. Returns numbers, text, tensors, NumPy
            arrays, and dicts, lists and tuples of these.
        shards: Name -> arguments (pickled for the workers). Names are file names.
        engine: "local" (in this process), "process" (local cores) or "ray".
        workers: Shards at a time; by default every core of the machine or the cluster.
        address: Of the Ray cluster, HOST:PORT; by default one is started on this machine.
        folder: Keeps results as they finish.
        key: What decides the results, as JSON: a folder of another key is refused. Needed with `folder`.
        retries: Further attempts at a shard whose worker died.
        title, progress: Shown on standard error.

    Raises:
        MedGymError: A shard was lost for good (named), the folder is another run's, or as `check_engine`; and
            whatever `function` raised, after the other shards have finished.
    """
    check_engine(engine, workers, address)
    kept = {} if folder is None else {shard: Path(folder) / f"{shard}.safetensors" for shard in shards}
    if folder is not None:
        claim(Path(folder), key)
    results = {shard: data for shard, path in kept.items() if (data := stored(path)) is not None}
    todo = deque(shard for shard in shards if shard not in results)
    attempts: Counter[str] = Counter()
    raised: dict[str, Exception] = {}
    lost: dict[str, BaseException] = {}
    running: dict[Future[Ended], tuple[str, Slot]] = {}
    with contextlib.ExitStack() as stack:
        if not todo:
            engine = "local"  # no need to start any other
        live = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medgym-live-")))
        bar = stack.enter_context(Progress(title, len(shards), enabled=progress))
        bar.advance(len(results))
        here = lambda share, numbers: _show(bar, len(results), [(share, numbers)])  # noqa: E731
        count, open_slot = open_engine(engine, workers, address, here, stack)
        free: list[Slot | None] = [None] * min(count, len(todo))  # None: not opened yet, or its worker died
        while todo or running:
            while todo and free:
                shard, slot = todo.popleft(), free.pop() or open_slot()
                attempts[shard] += 1
                running[slot(function, shards[shard], str(live / shard))] = shard, slot
            for future in wait(running, _POLL, FIRST_COMPLETED).done:
                shard, slot = running.pop(future)
                if death := future.exception():
                    free.append(None)
                    if attempts[shard] > retries:
                        lost[shard] = death
                    else:
                        print(f"{title}: the worker of shard {shard} died; again", file=sys.stderr, flush=True)
                        todo.appendleft(shard)
                    continue
                free.append(slot)
                data, error, trace = future.result()
                if error is not None:
                    error.__cause__ = error.__cause__ or RuntimeError(trace)
                    raised[shard] = error
                elif data is not None:
                    results[shard] = data
                    if kept:
                        with atomic_path(kept[shard]) as temporary:
                            temporary.write_bytes(data)
            _show(bar, len(results) + len(raised) + len(lost), [_live(live / shard) for shard, _ in running.values()])
    if raised or lost:
        kept_in = f"; {len(results)} of {len(shards)} shards are kept in {folder}, run it again for the rest"
        _fail(raised, lost, kept_in if kept else "")
    return {shard: decode(results[shard]) for shard in shards}


def _fail(raised: Mapping[str, Exception], lost: Mapping[str, BaseException], where: str) -> None:
    for shard, error in raised.items():
        if isinstance(error, MedGymError):
            raise type(error)(f"shard {shard}: {error}{where}") from error
        print(f"shards that failed: {', '.join(raised)}{where}", file=sys.stderr)
        raise error
    names, cause = ", ".join(lost), next(iter(lost.values()))
    raise MedGymError(f"the worker of shard {names} died at every attempt (out of memory?){where}") from cause


def _live(path: Path) -> tuple[float, dict[str, float]]:
    """What a worker last reported; (0, {}) before it has."""
    with contextlib.suppress(OSError):
        share, numbers = json.loads(path.read_text(encoding="utf-8"))
        return share, numbers
    return 0.0, {}


def _show(bar: Progress, ended: int, running: Sequence[tuple[float, Mapping[str, float]]]) -> None:
    """Move the bar: shards add up, what they report is averaged."""
    step = ended + sum(share for share, _ in running) - bar.done
    names = {name for _, numbers in running for name in numbers}
    found = {name: [numbers[name] for _, numbers in running if name in numbers] for name in sorted(names)}
    if step > 0 or found:
        bar.advance(max(step, 0.0), **{name: sum(values) / len(values) for name, values in found.items()})
