"""The three engines: how one shard is started, and how its end or its loss is noticed.

    local    in this process, one shard after another
    process  one worker process per core (loky, joblib's pool), one torch thread each
    ray      tasks of one core each on a Ray cluster

Each worker of `process` is an executor of its own: when one is killed, the operating system takes one shard with it,
not the whole pool.
"""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medgym_offline.engine.live import Sink, file_sink, reporting_to
from medgym_offline.engine.results import encode
from medgym_offline.errors import MedGymError, MissingExtraError, unknown_name
from medgym_offline.threads import cores, keep_memory, one_thread

__all__ = ["ENGINES", "Backend", "Outcome", "check_engine", "make_backend"]

ENGINES: dict[str, str] = {
    "local": "in this process",
    "process": "a worker process per core of this machine",
    "ray": "a Ray cluster",
}
_CONNECT = 5.0
"""Seconds after which a cluster that does not answer counts as unreachable."""


@dataclass(frozen=True)
class Outcome:
    """How a shard ended: `data` (encoded result), or `error`; `lost` if its worker died rather than its function."""

    shard: str
    data: bytes | None = None
    error: BaseException | None = None
    lost: bool = False


class Backend(Protocol):
    """Runs shards. `slots` is how many at once; `submit` starts one, `wait` returns those that ended."""

    slots: int

    def submit(self, shard: str, function: Callable[..., Any], arguments: tuple[Any, ...], live: Path) -> None: ...

    def wait(self, seconds: float) -> list[Outcome]: ...

    def close(self) -> None: ...


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
        if address is not None and address not in ("auto", "local"):
            _reach(address)


def make_backend(
    engine: str, workers: int | None = None, address: str | None = None, sink: Sink | None = None
) -> Backend:
    """The backend called `engine`; errors as :func:`check_engine`."""
    check_engine(engine, workers, address)
    if engine == "local":
        return _Local(sink)
    if engine == "process":
        return _Process(workers or cores())
    return _Ray(workers, address)


# -- what runs in a worker ---------------------------------------------------------------------------------------------


def _execute(payload: bytes, live: str) -> tuple[bytes | None, bytes | None]:
    """Run a pickled (function, arguments) on one thread: (encoded result, None) or (None, pickled error)."""
    keep_memory()
    try:
        function, arguments = pickle.loads(payload)
        with one_thread(), reporting_to(file_sink(live)):
            return encode(function(*arguments)), None
    except Exception as error:
        return None, _pickled_error(error)


def _pickled_error(error: Exception) -> bytes:
    """The error with its traceback as text; one that does not survive pickling becomes a RuntimeError."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        data = pickle.dumps((error, text))
        pickle.loads(data)
        return data
    except Exception:
        return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), text))


def _payload(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    import cloudpickle

    return cloudpickle.dumps((function, arguments))


def _outcome(shard: str, returned: tuple[bytes | None, bytes | None]) -> Outcome:
    data, failure = returned
    if failure is None:
        return Outcome(shard, data)
    error, text = pickle.loads(failure)
    error.__cause__ = RuntimeError(f"in the worker:\n{text}")
    return Outcome(shard, error=error)


# -- engines -----------------------------------------------------------------------------------------------------------


class _Local:
    slots = 1

    def __init__(self, sink: Sink | None):
        self._sink = sink
        self._task: tuple[str, Callable[..., Any], tuple[Any, ...]] | None = None

    def submit(self, shard: str, function: Callable[..., Any], arguments: tuple[Any, ...], live: Path) -> None:
        self._task = shard, function, arguments

    def wait(self, seconds: float) -> list[Outcome]:
        if self._task is None:
            return []
        (shard, function, arguments), self._task = self._task, None
        try:
            with one_thread(), reporting_to(self._sink):
                return [Outcome(shard, encode(function(*arguments)))]
        except Exception as error:
            return [Outcome(shard, error=error)]

    def close(self) -> None:
        pass


class _Process:
    def __init__(self, workers: int):
        self.slots = workers
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[str, Any]] = {}

    def submit(self, shard: str, function: Callable[..., Any], arguments: tuple[Any, ...], live: Path) -> None:
        from loky import ProcessPoolExecutor

        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        worker = self._idle.pop() if self._idle else ProcessPoolExecutor(max_workers=1, env=threads)
        future = worker.submit(_execute, _payload(function, arguments), str(live))
        self._running[future] = shard, worker

    def wait(self, seconds: float) -> list[Outcome]:
        from concurrent.futures import FIRST_COMPLETED, wait

        done, _ = wait(list(self._running), seconds, FIRST_COMPLETED)
        found = []
        for future in done:
            shard, worker = self._running.pop(future)
            try:
                found.append(_outcome(shard, future.result()))
                self._idle.append(worker)
            except Exception as error:  # the pool is broken: killed, out of memory, or a crash in native code
                worker.shutdown(wait=False, kill_workers=True)
                found.append(Outcome(shard, error=error, lost=True))
        return found

    def close(self) -> None:
        for worker in self._idle:
            worker.shutdown(wait=True)
        for _, worker in self._running.values():
            worker.shutdown(wait=False, kill_workers=True)


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


class _Ray:
    def __init__(self, workers: int | None, address: str | None):
        import logging

        ray = self._ray = _import_ray()
        self._owned = not ray.is_initialized()
        if self._owned:
            # Without an address a cluster is started here, for this run.
            here = {"num_cpus": workers or cores(), "include_dashboard": False} if address in (None, "local") else {}
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
            except (ConnectionError, RuntimeError, ValueError) as error:
                first = str(error).strip().splitlines()[0]
                raise MedGymError(f"no Ray cluster at {address or 'this machine'} ({first})") from None
        self.slots = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._task = ray.remote(num_cpus=1, max_retries=0)(_execute)
        self._running: dict[Any, str] = {}

    def submit(self, shard: str, function: Callable[..., Any], arguments: tuple[Any, ...], live: Path) -> None:
        self._running[self._task.remote(_payload(function, arguments), str(live))] = shard

    def wait(self, seconds: float) -> list[Outcome]:
        ray, found = self._ray, []
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        for reference in done:
            shard = self._running.pop(reference)
            try:
                found.append(_outcome(shard, ray.get(reference)))
            except ray.exceptions.RayError as error:  # worker or node gone, or its result with it
                found.append(Outcome(shard, error=error, lost=True))
        return found

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        if self._owned:
            self._ray.shutdown()
