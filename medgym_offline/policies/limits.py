"""Time limits for modules from elsewhere: a file that loops forever is refused instead of hanging the evaluation."""

from __future__ import annotations

import atexit
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from torch import Tensor

from medgym_offline.errors import PolicyError

__all__ = ["TimeLimits"]


@dataclass
class TimeLimits:
    """How long a module may take; counts what it took.

    The module runs in a thread of its own. TorchScript and ONNX Runtime release Python's lock, so the limit holds even
    for a loop that never ends; such a thread cannot be stopped, only left behind.

    Attributes:
        call_s: Of any one call, besides what its rows may take: the first one compiles.
        row_s: Per observation.
        file_s: Of all calls together.
        used_s: Taken so far.
    """

    call_s: float = 30.0
    row_s: float = 0.01
    file_s: float = 3600.0
    used_s: float = field(default=0.0, init=False)

    def run(self, call: Callable[[], Tensor], rows: int, name: str) -> Tensor:
        """The answer of `call()` on `rows` observations, or what it raises.

        Raises:
            PolicyError: If it takes longer than allowed, naming the file.
        """
        one = self.call_s + self.row_s * rows
        allowed = min(one, self.file_s - self.used_s)
        answer: Future[Tensor] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:  # raised again in the thread that asked
                answer.set_exception(error)

        began = time.perf_counter()
        threading.Thread(target=work, name="policy", daemon=True).start()
        wait([answer], max(0.0, allowed))
        self.used_s += time.perf_counter() - began
        if not answer.done():
            _leave_behind()
            each = f"{rows} observations took more than {one:.3g} s"
            what = each if allowed == one else f"it took more than {self.file_s:.3g} s in all"
            raise PolicyError(f"{name}: {what}, the limit for a policy; export a smaller network without loops")
        return answer.result()


@functools.cache  # once is enough
def _leave_behind() -> None:
    """End the process at its exit without waiting: the interpreter aborts noisily while such a thread runs."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    atexit.register(leave)
