"""Functions that the tests run in workers (importable there, unlike a test's local functions)."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from medgym_offline.engine import encode, report, run
from medgym_offline.seeds import torch_generator

NAMES = ("a", "b", "c", "d")


def chain(name, steps=40):
    """A computation whose last digits depend on threads and order: products of random matrices."""
    x = torch.eye(48)
    for step in range(steps):
        x = torch.tanh(x @ torch.randn(48, 48, generator=torch_generator(0, "chain", name, step)))
        report((step + 1) / steps, norm=float(x.norm()))
    return {"x": x, "sum": np.asarray(x.double().sum()), "name": name, "threads": torch.get_num_threads()}


def killed(name, marks, victim="", times=1):
    """:func:`chain`, but the first workers on `victim` are killed as by the operating system; each leaves a mark."""
    mark = Path(marks) / name
    with open(mark, "a") as stream:
        stream.write(f"{os.getpid()}\n")
    if name == victim and len(mark.read_text().split()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return chain(name)


def fails(name, victim, error):
    """:func:`chain`, but `victim` raises."""
    if name == victim:
        raise error
    return chain(name)


def slow_on_node(name, marks):
    """Writes which process works on `name`, then takes its time, so that a node can be killed under it."""
    import ray

    with open(Path(marks) / name, "a") as stream:
        stream.write(ray.get_runtime_context().get_node_id() + "\n")
    time.sleep(1.5)
    return chain(name)


def computed(function, *arguments, **options):
    """Results of a shard for each name, as bytes."""
    return encode(run(function, {name: (name, *arguments) for name in NAMES}, progress=False, **options))


def attempts(marks):
    """How often each name was worked on."""
    return [len((Path(marks) / name).read_text().split()) for name in NAMES]
