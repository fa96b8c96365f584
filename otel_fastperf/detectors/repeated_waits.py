"""Tells a wait that is one of several from one that happened once.

For a moment, a busy machine or a burst of requests makes somebody wait for slightly more than any threshold. That is no
bottleneck. So a wait that happened once has to be longer.
"""

from collections import deque
from typing import Final

#: waits within a minute that are several
_SEVERAL: Final = 3
_MINUTE: Final = 60.0
#: multiple of the threshold that a single wait has to take
ONCE: Final = 4


class RepeatedWaits:
    """The latest waits for one thing. Safe to call from any thread."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=_SEVERAL)

    def add(self, now: float) -> bool:
        """Note a wait that is over the threshold; whether it is one of several."""
        ends = self._ends
        ends.append(now)
        return len(ends) == _SEVERAL and now - ends[0] <= _MINUTE
