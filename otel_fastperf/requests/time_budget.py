"""The time budget of a request: every moment from its first to its last byte belongs to exactly one segment.

Two things are noted while a request runs, and combined when it has ended:

    phases      the part of the app that is running, from middleware to router to endpoint and back
    intervals   what the request waited for (a statement, a connection, a thread), and what delayed it (a garbage
                collection, a block of the event loop)

An interval takes precedence over the phase that it lies in, and the first in `Cause` over others that overlap it. So
parallel queries count once, and the segments always add up to the duration.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias


class Segment(StrEnum):
    """Where the time of a request goes; the label `segment` of `fastperf_request_time_seconds_total`.

    Attributes:
        MIDDLEWARE: Middleware, the app's own and Starlette's, on the way in and out.
        DEPENDENCIES: Routing, reading the request, validation, dependencies.
        HANDLER: The endpoint itself, and what it awaits that is in no other segment.
        DB: SQL statements.
        POOL_WAIT: Waiting for a connection, be it a free one or a new one.
        THREADPOOL_WAIT: Waiting for one of anyio's threads.
        LOOP_WAIT: Ready to run, but something else blocked the event loop.
        GC: The garbage collector stopped the process.
        SERIALIZATION: From the endpoint's return value to the first byte of the response.
        SEND: The server accepts the response, which depends on the client's network.
    """

    MIDDLEWARE = "middleware"
    DEPENDENCIES = "dependencies"
    HANDLER = "handler"
    DB = "db"
    POOL_WAIT = "pool_wait"
    THREADPOOL_WAIT = "threadpool_wait"
    LOOP_WAIT = "loop_wait"
    GC = "gc"
    SERIALIZATION = "serialization"
    SEND = "send"


class Phase:
    """The part of the app that is running. Middleware number n, from the outside in, is `MIDDLEWARE + n`.

    Plain numbers, because looking up a member of an enum takes 0.2 us on Python 3.11, and a request has about ten
    phases.
    """

    ROUTING: Final = 0
    DEPENDENCIES: Final = 1
    HANDLER: Final = 2
    SERIALIZATION: Final = 3
    SEND: Final = 4
    MIDDLEWARE: Final = 16


class Cause:
    """Why an interval was noted, in order of precedence.

    Attributes:
        IN_THREAD: The request works in a thread, so a blocked event loop does not delay it.
    """

    GC: Final = 0
    LOOP_WAIT: Final = 1
    DB: Final = 2
    POOL_WAIT: Final = 3
    THREADPOOL_WAIT: Final = 4
    IN_THREAD: Final = 5


#: `(time.perf_counter(), Phase)`: start of a phase
Mark: TypeAlias = tuple[float, int]
#: `(start, end, Cause)` by `time.perf_counter()`
Interval: TypeAlias = tuple[float, float, int]

#: seconds by `(Phase, Cause)`; the cause is one past the last if there is none
Sums: TypeAlias = dict[tuple[int, int], float]

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
#: causes that do not count as a middleware's own time
_DELAYS: Final = (Cause.GC, Cause.LOOP_WAIT)
_MIDDLEWARE: Final = Segment.MIDDLEWARE
_HANDLER: Final = Segment.HANDLER


class Budget(NamedTuple):
    """The time budget of one request.

    Attributes:
        segments: Seconds by segment, without those that are 0.
        middleware: Seconds by number of the middleware: the time it took itself, including its own waits.
    """

    segments: dict[Segment, float]
    middleware: dict[int, float]


def split(
    started: float,
    ended: float,
    phases: Sequence[Mark],
    intervals: Iterable[Interval] = (),
    counted: Sums | None = None,
) -> Budget:
    """The budget of a request. All times are `time.perf_counter()`; `phases` are in order and begin at `started`.

    The segments add up to `ended - started`; intervals are cut to that. `counted` is added: the time before `started`
    that has been summed already. If a request reached no endpoint of FastAPI's, it has no dependencies, and its routing
    counts for the handler.
    """
    sums = summed(started, ended, phases, intervals)
    return _budget(sums if counted is None else added(counted, sums))


def summed(started: float, ended: float, phases: Sequence[Mark], intervals: Iterable[Interval]) -> Sums:
    """The seconds between `started` and `ended` by phase and cause."""
    clipped = [(max(start, started), min(end, ended), cause) for start, end, cause in intervals]
    if not clipped:
        return _phases_alone(started, ended, phases)
    marks = [(at, 1, phase) for at, phase in phases if at < ended]
    marks += [(start, 2, cause) for start, end, cause in clipped if start < end]
    marks += [(end, 0, cause) for start, end, cause in clipped if start < end]
    marks.sort()
    return _swept(started, ended, marks)


def added(sums: Sums, more: Sums) -> Sums:
    """The sums of both."""
    return {key: sums.get(key, 0.0) + more.get(key, 0.0) for key in (*sums, *more)}


def _phases_alone(started: float, ended: float, phases: Sequence[Mark]) -> Sums:
    """The same as `_swept` for a request without intervals, as most are, in half of the time."""
    sums: Sums = {}
    phase, since = Phase.MIDDLEWARE, started
    for at, following in phases:
        if at >= ended:
            break
        if at > since:
            key = (phase, _CAUSES)
            sums[key] = sums.get(key, 0.0) + at - since
            since = at
        phase = following
    if ended > since:
        key = (phase, _CAUSES)
        sums[key] = sums.get(key, 0.0) + ended - since
    return sums


def _swept(started: float, ended: float, marks: list[tuple[float, int, int]]) -> Sums:
    """Seconds by phase and cause. The second item of a mark is 1 for a phase, 2 for a cause's start, 0 for its end."""
    sums: Sums = {}
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
    """The cause with precedence; `_CAUSES` if there is none."""
    for cause in range(_CAUSES):
        if active[cause] and not (cause == Cause.LOOP_WAIT and active[Cause.IN_THREAD]):
            return cause
    return _CAUSES


def _budget(sums: Sums) -> Budget:
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
        if phase >= Phase.MIDDLEWARE and cause not in _DELAYS:
            number = phase - Phase.MIDDLEWARE
            middleware[number] = middleware.get(number, 0.0) + seconds
    return Budget(segments, middleware)
