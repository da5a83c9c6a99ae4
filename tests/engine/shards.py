"""Functions that the tests run in workers (importable there, unlike a test's local functions)."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from medgym_offline.engine import report
from medgym_offline.errors import MedGymError
from medgym_offline.seeds import torch_generator


def chain(name, steps=40):
    """A computation whose last digits depend on threads and order: products of random matrices."""
    x = torch.eye(48)
    for step in range(steps):
        x = torch.tanh(x @ torch.randn(48, 48, generator=torch_generator(0, "chain", name, step)))
        report((step + 1) / steps, norm=float(x.norm()))
    return {"x": x, "sum": np.asarray(x.double().sum()), "name": name, "threads": torch.get_num_threads()}


def killed_once(name, marks, victim):
    """:func:`chain`, but the worker that first works on `victim` is killed as by the operating system."""
    mark = Path(marks) / name
    first = not mark.exists()
    with open(mark, "a") as stream:
        stream.write(f"{os.getpid()}\n")
    if name == victim and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return chain(name)


def always_killed(name, victim):
    if name == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return chain(name)


def refuses(name, victim, user):
    if name == victim:
        raise MedGymError("dose is -1; it must be 0 or more") if user else ZeroDivisionError("a bug")
    return chain(name)


def counted(name, marks):
    with open(Path(marks) / name, "a") as stream:
        stream.write("x")
    return name


def slow_on_node(name, marks):
    """Writes which process works on `name`, then takes its time, so that a node can be killed under it."""
    import ray

    with open(Path(marks) / name, "a") as stream:
        stream.write(ray.get_runtime_context().get_node_id() + "\n")
    time.sleep(1.5)
    return chain(name)
