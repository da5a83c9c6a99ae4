"""Where shards of patients run: in this process, on all local cores, or on a Ray cluster. Results are the same.

    local    in this process, one shard after another
    process  one worker process per core (loky, the pool under joblib), one torch thread each
    ray      tasks of one core each on a Ray cluster

An engine is a number of slots. A slot takes a task and gives a `concurrent.futures.Future` of how it ended; a
future with an exception means that the worker died, for errors of the shard's function are returned.
Each slot of `process` is a pool of its own: when a worker is killed, a pool takes all its shards with it (measured with
`joblib.Parallel` on three workers: three shards begun, one worker killed, three lost).

Results are safetensors, with everything around the tensors as JSON in one more. Nothing that is read back can run, and
what a shard returned looks the same whichever engine ran it, because every engine passes it through :func:`encode` and
:func:`decode`. What is finished is kept, and only what is not is done again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cloudpickle import dumps
from torch import Tensor

from medgym_offline.compute import cores, keep_memory, one_thread
from medgym_offline.config import read_json
from medgym_offline.errors import MedGymError, MissingExtraError, unknown_name
from medgym_offline.files import atomic_path, json_difference, write_json, write_text
from medgym_offline.progress import Progress

__all__ = ["ENGINES", "blocks", "check_engine", "decode", "encode", "report", "run"]

_TREE = "tree"


def encode(value: Any) -> bytes:
    """Numbers, text, None, tensors and NumPy arrays in any nesting of dicts, lists and tuples, as safetensors bytes.

    Raises:
        TypeError: For anything else, and for a dict whose keys are not strings.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}

    def pack(value: Any) -> Any:
        """`value` as JSON; an object of one entry tells what is no list, text or number."""
        if isinstance(value, Tensor | np.ndarray):
            tensor = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.detach().cpu()
            name = str(len(tensors))
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
            return {"array" if isinstance(value, np.ndarray) else "tensor": name}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": [[key, pack(inner)] for key, inner in value.items()]}
        if isinstance(value, list | tuple):
            items = [pack(inner) for inner in value]
            return {"tuple": items} if isinstance(value, tuple) else items
        if value is None or isinstance(value, str | bool | int | float):
            return value
        raise TypeError(f"a shard returned a {type(value).__name__}; it may return numbers, text, arrays, lists, dicts")

    tree = json.dumps(pack(value))
    return save(tensors | {_TREE: torch.frombuffer(bytearray(tree.encode()), dtype=torch.uint8)})


def decode(data: bytes) -> Any:
    """Inverse of :func:`encode`; tensors are on the CPU.

    Raises:
        ValueError: If `data` is damaged or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    def unpack(found: dict[str, Any]) -> Any:
        ((kind, of),) = found.items()
        if kind in ("dict", "tuple"):
            return dict(of) if kind == "dict" else tuple(of)
        return tensors.pop(of) if kind == "tensor" else tensors.pop(of).numpy()

    try:
        tensors = load(data)
        return json.loads(tensors.pop(_TREE).numpy().tobytes(), object_hook=unpack)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a shard's result ({error})") from None


def claim(folder: Path, key: Any) -> None:
    """Make the folder of the finished shards of one run: `run.json` says what it is, `<shard>.safetensors` holds one.

    Args:
        folder: Made if it is missing.
        key: What decides the results (recipe, hashes of the data, sizes of the shards), as JSON.

    Raises:
        MedGymError: If the folder belongs to a run with another key; the entries that differ are named.
    """
    record, ours = folder / "run.json", json.loads(json.dumps({"key": key}))
    if not record.exists():
        write_json(record, ours)
    theirs = read_json(record, remedy=f"delete {folder} to start again")
    if theirs != ours:
        lines = "; ".join(json_difference(ours["key"], theirs.get("key") if isinstance(theirs, dict) else theirs))
        remedy = "use that recipe, another folder, or start again with --fresh"
        raise MedGymError(f"{folder}: holds the shards of another recipe ({lines}); {remedy}")


def stored(path: Path) -> bytes | None:
    """The encoded result in a file, or None if there is none that can be read (it is then computed again)."""
    try:
        data = path.read_bytes()
        decode(data)
    except (FileNotFoundError, ValueError):
        return None
    return data


ENGINES = ("local", "process", "ray")
_CONNECT, _EVERY = 5.0, 0.5
"""Seconds after which a cluster that does not answer is unreachable, and between two live numbers of a worker."""

Sink = Callable[[float, dict[str, float]], None]
Ended = tuple[bytes | None, Exception | None, str]
"""Encoded result, or else error and traceback."""
Slot = Callable[[Callable[..., Any], tuple[Any, ...], str], "Future[Ended]"]
"""Starts (function, arguments, file for live numbers)."""
_sink: Sink | None = None


def report(share: float, **numbers: float) -> None:
    """Say that `share` (0 to 1) of the current shard is done, with live numbers; does nothing outside an engine."""
    if _sink is not None:
        _sink(share, numbers)


def check_engine(engine: str, workers: int | None = None, address: str | None = None) -> None:
    """Raise what a wrong choice of engine deserves, before any work is done.

    Raises:
        UnknownNameError: Unknown engine.
        MedGymError: Fewer than one worker, or an address without `ray`, or one that does not answer.
        MissingExtraError: `ray` is not installed.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    if workers is not None and workers < 1:
        raise MedGymError(f"workers is {workers}; at least 1 is needed")
    if address is not None and engine != "ray":
        raise MedGymError(f"an address is for engine 'ray', not {engine!r}; leave one of them out")
    if engine == "ray":
        _import_ray()
        if address not in (None, "auto", "local"):
            _reach(address)


def open_engine(
    engine: str, workers: int | None, address: str | None, sink: Sink, stack: contextlib.ExitStack
) -> tuple[int, Callable[[], Slot]]:
    """The number of slots of an engine, and what opens one; `sink` hears of shards that run in this process.

    What was opened is closed when the stack is unwound.
    """
    if engine == "local":

        def here(function: Callable[..., Any], arguments: tuple[Any, ...], live: str) -> Future[Ended]:
            future: Future[Ended] = Future()
            future.set_result(_execute(function, arguments, sink))
            return future

        return 1, lambda: here
    if engine == "process":
        from loky import ProcessPoolExecutor

        def open_slot() -> Slot:
            pool = ProcessPoolExecutor(max_workers=1, env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
            stack.callback(pool.shutdown, wait=True, kill_workers=True)
            return lambda function, arguments, live: pool.submit(_in_worker, dumps((function, arguments)), live)

        return workers or cores(), open_slot
    ray = _connected(workers, address, stack)
    task = ray.remote(num_cpus=1, max_retries=0)(_in_worker)
    slots = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    return slots, lambda: lambda *job: task.remote(dumps(job[:2]), job[2]).future()


def _execute(function: Callable[..., Any], arguments: tuple[Any, ...], sink: Sink) -> Ended:
    """Run a shard's function on one thread: its encoded result, or its error and where that was raised."""
    global _sink
    before, _sink = _sink, sink
    try:
        with one_thread():
            return encode(function(*arguments)), None, ""
    except Exception as error:
        return None, error, traceback.format_exc()
    finally:
        _sink = before


def _in_worker(payload: bytes, live: str) -> Ended:
    """As `_execute`, of a pickled (function, arguments); live numbers go to a file, if its folder is here."""
    last = 0.0

    def to_file(share: float, numbers: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY and Path(live).parent.is_dir():
            last = time.monotonic()
            write_text(live, json.dumps([share, numbers]))

    keep_memory()
    function, arguments = pickle.loads(payload)
    data, error, trace = _execute(function, arguments, to_file)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error that cannot travel
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return data, error, trace


def _import_ray() -> Any:
    # Ray asks for usage statistics unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError.of("ray", "cluster", "engine 'ray'") from None
    return ray


def _reach(address: str) -> None:
    """Connect and hang up: Ray itself tries for minutes and ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise MedGymError(f"cluster address {address!r} is not HOST:PORT (Ray's own port is 6379)")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise MedGymError(f"no Ray cluster answers at {address} ({reason}); start one with: ray start --head") from None


def _connected(workers: int | None, address: str | None, stack: contextlib.ExitStack) -> Any:
    """Ray, connected until the stack is unwound; without an address a cluster is started here, for this run."""
    ray = _import_ray()
    if not ray.is_initialized():
        here = {"num_cpus": workers or cores(), "include_dashboard": False} if address in (None, "local") else {}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise MedGymError(f"no Ray cluster at {address or 'this machine'} ({first})") from None
        stack.callback(ray.shutdown)
    return ray


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
