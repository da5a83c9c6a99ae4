"""What tests of several folders ask of errors."""

import pytest


def refused(error, words, action):
    """The action fails with this error, in one line that matches the pattern `words`."""
    with pytest.raises(error, match=words) as caught:
        action()
    assert "\n" not in str(caught.value)
