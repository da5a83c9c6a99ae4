"""Progress for anything longer than two seconds: a live bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

__all__ = ["Progress"]


class Progress:
    """One task's progress on standard error.

    On a terminal it is a rich bar with the remaining time. Elsewhere (CI, a log file) a line is printed at
    most every 15 seconds, and at its end if it lasted two. `note` shows live numbers (loss, return).
    """

    def __init__(self, description: str, total: int, *, enabled: bool = True):
        self.description, self.total, self.enabled = description, total, enabled
        self.done, self.note = 0.0, ""
        self._started = self._last = time.monotonic()
        self._lock = threading.Lock()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self.enabled and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (*progress.Progress.get_default_columns(), progress.TextColumn("{task.fields[note]}"))
            self._bar = progress.Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._bar.add_task(self.description, total=self.total, note="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.enabled and exc[0] is None and time.monotonic() - self._started > 2:
            self._line()

    def _line(self) -> None:
        text = f"{self.description}: {round(self.done, 2):g}/{self.total}, {time.monotonic() - self._started:.0f} s"
        print(f"{text} {self.note}".rstrip(), file=sys.stderr, flush=True)

    def advance(self, steps: float = 1, **numbers: float | str) -> None:
        """Count `steps` more, done now or by an earlier run, from any thread; `numbers` are shown as name=value."""
        with self._lock:
            self.done += steps
            if numbers:
                self.note = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in numbers.items())
            if self._bar is not None:
                self._bar.update(0, completed=self.done, note=self.note)
            elif self.enabled and time.monotonic() - self._last > 15.0:
                self._last = time.monotonic()
                self._line()
