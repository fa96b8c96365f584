"""The time budget of a request: every moment from its first to its last byte belongs to exactly one segment.

Two things are noted while a request runs, and put together when it has ended:

    phases      whose turn it is, as the request passes from middleware to router to endpoint and back
    intervals   what it waited for: a statement, a connection, a thread; and what stood in its way: the collector of
                garbage, or somebody else who held the event loop

An interval wins over the phase it lies in, and of several that overlap the first in `PRECEDENCE` wins; so parallel
queries count once, and the segments add up to the duration whatever was noted.
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum, StrEnum
from typing import Final, NamedTuple, TypeAlias


class Segment(StrEnum):
    """Where the time of a request goes; the label `segment` of `fastperf_request_time_seconds_total`."""

    #: middleware, the app's own and Starlette's, on the way in and out
    MIDDLEWARE = "middleware"
    #: routing, reading the request, validation, dependencies
    DEPENDENCIES = "dependencies"
    #: the endpoint itself, and what it awaits that is none of the others
    HANDLER = "handler"
    #: SQL statements
    DB = "db"
    #: waiting for a connection: a free one, or a new one
    POOL_WAIT = "pool_wait"
    #: waiting for one of anyio's threads
    THREADPOOL_WAIT = "threadpool_wait"
    #: ready to go on, while somebody else held the event loop
    LOOP_WAIT = "loop_wait"
    #: the garbage collector stopped the process
    GC = "gc"
    #: from the endpoint's return value to the response's first byte
    SERIALIZATION = "serialization"
    #: the server takes the response: the client's network
    SEND = "send"


class Phase(IntEnum):
    """Whose turn it is. Middleware number n, from the outside in, is `MIDDLEWARE + n`."""

    ROUTING = 0
    DEPENDENCIES = 1
    HANDLER = 2
    SERIALIZATION = 3
    SEND = 4
    MIDDLEWARE = 16


class Cause(IntEnum):
    """What an interval is about, in order of precedence."""

    GC = 0
    LOOP_WAIT = 1
    DB = 2
    POOL_WAIT = 3
    THREADPOOL_WAIT = 4
    #: the request works in a thread: nobody who holds the loop is in its way
    IN_THREAD = 5


#: `(time.perf_counter(), Phase)`: from then on
Mark: TypeAlias = tuple[float, int]
#: `(start, end, Cause)` by `time.perf_counter()`
Interval: TypeAlias = tuple[float, float, int]

_SEGMENT_OF_CAUSE: Final = (
    Segment.GC,
    Segment.LOOP_WAIT,
    Segment.DB,
    Segment.POOL_WAIT,
    Segment.THREADPOOL_WAIT,
)
_SEGMENT_OF_PHASE: Final = (
    Segment.DEPENDENCIES,
    Segment.DEPENDENCIES,
    Segment.HANDLER,
    Segment.SERIALIZATION,
    Segment.SEND,
)
_CAUSES: Final = len(_SEGMENT_OF_CAUSE)


class Budget(NamedTuple):
    """Seconds by segment (those that are not 0), and by middleware: what it took itself, its own waits included."""

    segments: dict[Segment, float]
    middleware: dict[int, float]


def split(started: float, ended: float, phases: Sequence[Mark], intervals: Iterable[Interval] = ()) -> Budget:
    """The budget of a request. All times are `time.perf_counter()`; `phases` begin with one at `started`.

    The segments add up to `ended - started`. What lies outside of that is left out. A request that never reached an
    endpoint of FastAPI's has no dependencies: its routing is part of its handler.
    """
    sums: dict[tuple[int, int], float] = {}
    clipped = [(max(start, started), min(end, ended), cause) for start, end, cause in intervals]
    events: list[tuple[float, int, int]] = [(at, 1, phase) for at, phase in phases if at < ended]
    for start, end, cause in clipped:
        if start < end:
            events += ((start, 2, cause), (end, 0, cause))
    events.sort()
    active = [0] * (_CAUSES + 1)
    phase, since = int(Phase.MIDDLEWARE), started
    for at, what, code in (*events, (ended, 1, phase)):
        if at > since:
            key = (phase, _strongest(active))
            sums[key] = sums.get(key, 0.0) + at - since
            since = at
        if what == 1:
            phase = code
        else:
            active[code] += what - 1
    return _budget(sums)


def _strongest(active: list[int]) -> int:
    """The cause that counts; `_CAUSES` when none does."""
    for cause in range(_CAUSES):
        if active[cause] and not (cause == Cause.LOOP_WAIT and active[Cause.IN_THREAD]):
            return cause
    return _CAUSES


def _budget(sums: dict[tuple[int, int], float]) -> Budget:
    segments: dict[Segment, float] = {}
    middleware: dict[int, float] = {}
    fastapi = any(phase == Phase.DEPENDENCIES for phase, _ in sums)
    for (phase, cause), seconds in sums.items():
        if cause < _CAUSES:
            segment = _SEGMENT_OF_CAUSE[cause]
        elif phase >= Phase.MIDDLEWARE:
            segment = Segment.MIDDLEWARE
        elif phase == Phase.ROUTING and not fastapi:
            segment = Segment.HANDLER
        else:
            segment = _SEGMENT_OF_PHASE[phase]
        segments[segment] = segments.get(segment, 0.0) + seconds
        if phase >= Phase.MIDDLEWARE and cause not in {Cause.GC, Cause.LOOP_WAIT}:
            number = phase - Phase.MIDDLEWARE
            middleware[number] = middleware.get(number, 0.0) + seconds
    return Budget(segments, middleware)
