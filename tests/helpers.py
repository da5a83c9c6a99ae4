"""What tests of several folders ask of errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medgym_offline.errors import MedGymError


def refused(error: type[MedGymError], words: str, action: Callable[[], object]) -> None:
    """The action fails with this error, in one line that matches the pattern `words`."""
    with pytest.raises(error, match=words) as caught:
        action()
    assert "\n" not in str(caught.value)
