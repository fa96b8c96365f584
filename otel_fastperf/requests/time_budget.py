"""The time budget of a request: every moment from its first to its last byte belongs to exactly one segment.

Two things are noted while a request runs, and put together when it has ended:

    phases      whose turn it is, as the request passes from middleware to router to endpoint and back
    intervals   what it waited for: a statement, a connection, a thread; and what stood in its way: the collector of
                garbage, or somebody else who held the event loop

An interval wins over the phase it lies in, and of several that overlap the first in `PRECEDENCE` wins; so parallel
queries count once, and the segments add up to the duration whatever was noted.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
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


class Phase:
    """Whose turn it is. Middleware number n, from the outside in, is `MIDDLEWARE + n`.

    Plain numbers: an enum's members cost 0.2 us a look-up on Python 3.11, and a request passes some ten phases.
    """

    ROUTING: Final = 0
    DEPENDENCIES: Final = 1
    HANDLER: Final = 2
    SERIALIZATION: Final = 3
    SEND: Final = 4
    MIDDLEWARE: Final = 16


class Cause:
    """What an interval is about, in order of precedence."""

    GC: Final = 0
    LOOP_WAIT: Final = 1
    DB: Final = 2
    POOL_WAIT: Final = 3
    THREADPOOL_WAIT: Final = 4
    #: the request works in a thread: nobody who holds the loop is in its way
    IN_THREAD: Final = 5


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
#: what is nobody's own time
_OBSTACLES: Final = (Cause.GC, Cause.LOOP_WAIT)
_MIDDLEWARE: Final = Segment.MIDDLEWARE
_HANDLER: Final = Segment.HANDLER


class Budget(NamedTuple):
    """Seconds by segment (those that are not 0), and by middleware: what it took itself, its own waits included."""

    segments: dict[Segment, float]
    middleware: dict[int, float]


def split(started: float, ended: float, phases: Sequence[Mark], intervals: Iterable[Interval] = ()) -> Budget:
    """The budget of a request. All times are `time.perf_counter()`; `phases` are in order and begin at `started`.

    The segments add up to `ended - started`. What lies outside of that is left out. A request that never reached an
    endpoint of FastAPI's has no dependencies: its routing is part of its handler.
    """
    clipped = [(max(start, started), min(end, ended), cause) for start, end, cause in intervals]
    marks = [(at, 1, phase) for at, phase in phases if at < ended]
    if clipped:
        marks += [(start, 2, cause) for start, end, cause in clipped if start < end]
        marks += [(end, 0, cause) for start, end, cause in clipped if start < end]
        marks.sort()
    return _budget(_swept(started, ended, marks))


def _swept(started: float, ended: float, marks: list[tuple[float, int, int]]) -> dict[tuple[int, int], float]:
    """Seconds by phase and strongest cause. A mark's second is 1 for a phase, 2 and 0 for a cause that begins, ends."""
    sums: dict[tuple[int, int], float] = {}
    active = [0] * (_CAUSES + 1)
    phase, cause, since = Phase.MIDDLEWARE, _CAUSES, started
    for at, what, code in marks:
        if at > since:
            key = (phase, cause)
            sums[key] = sums.get(key, 0.0) + at - since
            since = at
        if what == 1:
            phase = code
        else:
            active[code] += what - 1
            cause = _strongest(active)
    if ended > since:
        key = (phase, cause)
        sums[key] = sums.get(key, 0.0) + ended - since
    return sums


def _strongest(active: list[int]) -> int:
    """The cause that counts; `_CAUSES` when none does."""
    for cause in range(_CAUSES):
        if active[cause] and not (cause == Cause.LOOP_WAIT and active[Cause.IN_THREAD]):
            return cause
    return _CAUSES


def _budget(sums: dict[tuple[int, int], float]) -> Budget:
    segments: dict[Segment, float] = {}
    middleware: dict[int, float] = {}
    fastapi = (Phase.DEPENDENCIES, _CAUSES) in sums
    for (phase, cause), seconds in sums.items():
        if cause < _CAUSES:
            segment = _SEGMENT_OF_CAUSE[cause]
        elif phase >= Phase.MIDDLEWARE:
            segment = _MIDDLEWARE
        elif phase == Phase.ROUTING and not fastapi:
            segment = _HANDLER
        else:
            segment = _SEGMENT_OF_PHASE[phase]
        segments[segment] = segments.get(segment, 0.0) + seconds
        if phase >= Phase.MIDDLEWARE and cause not in _OBSTACLES:
            number = phase - Phase.MIDDLEWARE
            middleware[number] = middleware.get(number, 0.0) + seconds
    return Budget(segments, middleware)
