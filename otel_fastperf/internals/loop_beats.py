"""How long an event loop had nothing to do, and how late its timers were, as its heartbeat reads it.

An answer that has arrived waits until the loop has done what it does: between two looks at its sockets, a loop whose
requests compute in many short steps works for long, though no step of it is a block. Then whatever it waits for takes
long, and neither the database nor another service is to blame.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final, NamedTuple

#: beats that are kept: the last half minute of a busy loop
_MOST_BEATS: Final = 600
#: looks at its sockets that a loop takes for one statement or call: an answer comes in parts, each of which wakes a
#: task, which asks for the next one. Libraries need two to ten
_LOOKS: Final = 10


class _Beat(NamedTuple):
    """One beat of a loop, by `time.perf_counter()`: its idle seconds so far, and how late the beat was."""

    at: float
    idle: float
    late: float


class LoopBeats:
    """The beats of one event loop. Used on its thread."""

    __slots__ = ("_beats", "_idle")

    def __init__(self, idle: Callable[[], float]) -> None:
        """`idle` tells how many seconds the loop has had nothing to do so far."""
        self._idle = idle
        self._beats: deque[_Beat] = deque(maxlen=_MOST_BEATS)

    def note(self, at: float, idle: float, late: float) -> None:
        """Note a beat."""
        self._beats.append(_Beat(at, idle, late))

    def answer_seconds(self, start: float, end: float, running: float) -> float:
        """At most so long did an answer take that was awaited from `start` until `end`, which is the present.

        While the loop was idle, the answer had not come. While it worked, the answer may have waited for it, as often
        as the loop looks at its sockets, each time for as long as the loop does other things: the longest that a timer
        was late, or the seconds for which it has been `running`. Infinite if nothing is known of the time before.
        """
        idle, late, later = self._idle(), running, end
        for back in range(1, len(self._beats) + 1):
            beat = self._beats[-back]
            if beat.at <= start:
                waited = self._idle() - idle + min(idle - beat.idle, later - start)
                return max(waited, end - start - _LOOKS * late)
            idle, late, later = beat.idle, max(late, beat.late), beat.at
        return inf
