"""The commands of `medgym-offline`, by theme. Each module has `register(app)` and imports nothing heavy at its top."""

from __future__ import annotations

__all__: list[str] = []
