"""Lets a long computation on a thread of ours rest, so that the event loop gets the GIL at once when it wants it.

Without a rest, the loop waits up to 5 ms (`sys.getswitchinterval`) whenever it has something to do.
"""

import time
from typing import Final

#: seconds of work between two rests, and of a rest
_WORK: Final = 0.001
_REST: Final = 0.0002


class Breath:
    """Called between two pieces of work, rests when it is time to."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __call__(self) -> None:
        """Rest if enough has been done since the last rest."""
        if time.perf_counter() - self._since >= _WORK:
            time.sleep(_REST)
            self._since = time.perf_counter()
