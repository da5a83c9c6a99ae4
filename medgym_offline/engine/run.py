"""Run one function over many shards, keep what is finished, and do again only what is not."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medgym_offline.engine.backends import Outcome, check_engine, make_backend
from medgym_offline.engine.live import read_live
from medgym_offline.engine.results import RunFolder, decode
from medgym_offline.errors import MedGymError
from medgym_offline.progress import Progress

__all__ = ["blocks", "run"]

_POLL = 0.5


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
    fresh: bool = False,
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
        fresh: Forget what `folder` holds.
        retries: Further attempts at a shard whose worker died.
        title, progress: Shown on standard error.

    Raises:
        MedGymError: A shard was lost for good (named), the folder is another run's, or as `check_engine`; and
            whatever `function` raised, after the other shards have finished.
    """
    check_engine(engine, workers, address)
    kept = None if folder is None else RunFolder(folder, key, fresh)
    results: dict[str, bytes] = {}
    for shard in shards:
        data = None if kept is None else kept.read(shard)
        if data is not None:
            results[shard] = data
    todo = deque(shard for shard in shards if shard not in results)
    failed: dict[str, Outcome] = {}
    attempts: Counter[str] = Counter()
    if todo:
        with tempfile.TemporaryDirectory(prefix="medgym-live-") as live, contextlib.ExitStack() as stack:
            bar = stack.enter_context(Progress(title, len(shards), enabled=progress))
            board = _Board(bar, Path(live), len(results))
            backend = make_backend(engine, workers, address, board.direct)
            stack.callback(backend.close)
            running: set[str] = set()
            while todo or running:
                while todo and len(running) < backend.slots:
                    shard = todo.popleft()
                    attempts[shard] += 1
                    running.add(shard)
                    backend.submit(shard, function, shards[shard], board.file(shard))
                for outcome in backend.wait(_POLL):
                    running.discard(outcome.shard)
                    if outcome.data is not None:
                        results[outcome.shard] = outcome.data
                        if kept is not None:
                            kept.write(outcome.shard, outcome.data)
                    elif outcome.lost and attempts[outcome.shard] <= retries:
                        print(f"{title}: the worker of shard {outcome.shard} died; again", file=sys.stderr, flush=True)
                        todo.appendleft(outcome.shard)
                    else:
                        failed[outcome.shard] = outcome
                board.show(len(results) + len(failed), running)
    if failed:
        _raise(failed, len(results), len(shards), kept)
    return {shard: decode(results[shard]) for shard in shards}


def _raise(failed: Mapping[str, Outcome], done: int, total: int, kept: RunFolder | None) -> None:
    where = f"; {done} of {total} shards are kept in {kept.folder}, run it again for the rest" if kept else ""
    raised = [o for o in failed.values() if not o.lost]
    if raised:
        error = raised[0].error
        assert error is not None
        if not isinstance(error, MedGymError):
            print(f"shards that failed: {', '.join(o.shard for o in raised)}{where}", file=sys.stderr)
            raise error
        raise type(error)(f"shard {raised[0].shard}: {error}{where}") from error
    names = ", ".join(failed)
    cause = next(iter(failed.values())).error
    raise MedGymError(
        f"the worker of shard {names} died at every attempt (out of memory?){where}"
        if len(failed) == 1
        else f"the workers of shards {names} died at every attempt (out of memory?){where}"
    ) from cause


class _Board:
    """Turns finished shards and live numbers into one progress bar: shares add up, numbers are averaged."""

    def __init__(self, bar: Progress, folder: Path, done: int):
        self.bar, self.folder, self.done = bar, folder, float(done)
        self._finished = done
        if done:
            bar.skip(done)

    def file(self, shard: str) -> Path:
        return self.folder / f"{shard}.json"

    def direct(self, share: float, numbers: dict[str, float]) -> None:
        """Live numbers of the one shard that runs in this process."""
        self._move(self._finished + share, numbers)

    def show(self, finished: int, running: set[str]) -> None:
        self._finished = finished
        found = [read_live(self.file(shard)) for shard in running]
        names = dict.fromkeys(name for _, numbers in found for name in numbers)
        mean = {}
        for name in names:
            values = [numbers[name] for _, numbers in found if name in numbers]
            mean[name] = sum(values) / len(values)
        self._move(finished + sum(share for share, _ in found), mean)

    def _move(self, done: float, numbers: dict[str, float]) -> None:
        step = done - self.done
        if step > 0 or numbers:
            self.done = max(done, self.done)
            self.bar.advance(max(step, 0.0), **numbers)
