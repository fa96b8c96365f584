"""The time budget of a request: every moment from its first to its last byte belongs to exactly one segment.

Two things are noted while a request runs, and combined when it has ended:

    phases      the part of the app that is running, from middleware to router to endpoint and back, or that is
                suspended because it awaits something (`AWAITING`), or until the event loop has time for it (`READY`)
    intervals   what the request waited for (a statement, a connection, a thread, another service), and what delayed it
                (a garbage collection, a block of the event loop)

An interval takes precedence over the phase that it lies in, and the first in `Cause` over others that overlap it. So
parallel queries count once, and the segments always add up to the duration.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias


class Segment(StrEnum):
    """Where the time of a request goes; the label `segment` of `fastperf_request_time_seconds_total`.

    A part of the app has two segments: one while it runs, be it in a thread, and one, with `_AWAIT`, while its
    coroutine is suspended and waits for something that is in no other segment.

    Attributes:
        MIDDLEWARE: Middleware, the app's own and Starlette's, on the way in and out.
        MIDDLEWARE_AWAIT: What middleware awaits.
        DEPENDENCIES: Routing, reading the request, validation, dependencies.
        DEPENDENCIES_AWAIT: What dependencies await.
        HANDLER: The endpoint itself.
        HANDLER_AWAIT: What the endpoint awaits: a lock, a timer, another service, a task.
        DB: SQL statements.
        COMMIT: Ends of transactions: COMMIT and ROLLBACK.
        HTTP_CLIENT: HTTP requests to other services.
        RPC: Remote procedure calls, such as gRPC.
        CACHE: Calls of a cache or key-value store, such as Redis.
        MESSAGING: Messages to a broker or queue.
        POOL_WAIT: Waiting for a connection, be it a free one or a new one.
        THREADPOOL_WAIT: Waiting for one of anyio's threads.
        LOOP_WAIT: Ready to run, but the event loop ran something else.
        GC: The garbage collector stopped the process.
        SERIALIZATION: From the endpoint's return value to the first byte of the response.
        SEND: The server accepts the response, which depends on the client's network.
    """

    MIDDLEWARE = "middleware"
    MIDDLEWARE_AWAIT = "middleware_await"
    DEPENDENCIES = "dependencies"
    DEPENDENCIES_AWAIT = "dependencies_await"
    HANDLER = "handler"
    HANDLER_AWAIT = "handler_await"
    DB = "db"
    COMMIT = "commit"
    HTTP_CLIENT = "http_client"
    RPC = "rpc"
    CACHE = "cache"
    MESSAGING = "messaging"
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
    #: another task of the request takes a message, inside of `BaseHTTPMiddleware`, as soon as it has its turn
    HAND_OVER: Final = 5
    MIDDLEWARE: Final = 16


#: added to a phase while its coroutine is suspended, and while it is suspended but ready to run again
AWAITING: Final = 1 << 24
READY: Final = 2 << 24


class Cause:
    """Why an interval was noted, in order of precedence.

    A call to another service takes precedence over the call that carries it: a remote procedure call over its HTTP
    request.

    Attributes:
        IN_THREAD: The request works, although its coroutine is suspended: in a thread, which a blocked event loop does
            not delay, or in another task that blocks the loop.
    """

    GC: Final = 0
    LOOP_WAIT: Final = 1
    DB: Final = 2
    COMMIT: Final = 3
    POOL_WAIT: Final = 4
    THREADPOOL_WAIT: Final = 5
    CACHE: Final = 6
    MESSAGING: Final = 7
    RPC: Final = 8
    HTTP_CLIENT: Final = 9
    IN_THREAD: Final = 10


#: `(time.perf_counter(), Phase)`: start of a phase, with `AWAITING` or `READY` if it is suspended
Mark: TypeAlias = tuple[float, int]
#: `(start, end, Cause)` by `time.perf_counter()`
Interval: TypeAlias = tuple[float, float, int]

#: seconds by phase and cause in one number, see `_key`: a request has some ten, and a tuple for each would cost more
Sums: TypeAlias = dict[int, float]

_SEGMENT_OF_CAUSE: Final = (
    Segment.GC,
    Segment.LOOP_WAIT,
    Segment.DB,
    Segment.COMMIT,
    Segment.POOL_WAIT,
    Segment.THREADPOOL_WAIT,
    Segment.CACHE,
    Segment.MESSAGING,
    Segment.RPC,
    Segment.HTTP_CLIENT,
)
#: by phase: its segment while it runs, while it awaits something, and while it is ready
_SEGMENTS_OF_PHASE: Final = (
    (Segment.DEPENDENCIES, Segment.DEPENDENCIES_AWAIT, Segment.LOOP_WAIT),
    (Segment.DEPENDENCIES, Segment.DEPENDENCIES_AWAIT, Segment.LOOP_WAIT),
    (Segment.HANDLER, Segment.HANDLER_AWAIT, Segment.LOOP_WAIT),
    (Segment.SERIALIZATION, Segment.SERIALIZATION, Segment.LOOP_WAIT),
    (Segment.SEND, Segment.SEND, Segment.LOOP_WAIT),
    (Segment.MIDDLEWARE, Segment.MIDDLEWARE_AWAIT, Segment.LOOP_WAIT),
)
_SEGMENTS_OF_MIDDLEWARE: Final = (Segment.MIDDLEWARE, Segment.MIDDLEWARE_AWAIT, Segment.LOOP_WAIT)
_PHASES: Final = AWAITING - 1
_CAUSES: Final = len(_SEGMENT_OF_CAUSE)
#: combinations of phases and causes whose segments are remembered
_MOST_PATTERNS: Final = 1024
#: factor of the phase in a key of `Sums`
_PHASE: Final = 16
#: causes that do not count as a middleware's own time
_DELAYS: Final = (Cause.GC, Cause.LOOP_WAIT)


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
    changes: list[tuple[float, int, int]] = []
    for start, end, cause in intervals:
        first = max(start, started)
        if end > first and first < ended:
            changes += (first, 2, cause), (end, 0, cause)
    if not changes:
        return _phases_alone(started, ended, phases)
    changes += [(at, 1, phase) for at, phase in phases]
    changes.sort()
    return _swept(started, ended, changes)


def added(sums: Sums, more: Sums) -> Sums:
    """The sums of both."""
    return {key: sums.get(key, 0.0) + more.get(key, 0.0) for key in (*sums, *more)}


def _key(mark: int, cause: int) -> int:
    """Key of `Sums`. `mark` is a phase, with `AWAITING` or without; `cause` is `_CAUSES` if there is none."""
    return mark * _PHASE + cause


def _phases_alone(started: float, ended: float, phases: Sequence[Mark]) -> Sums:
    """The same as `_swept` for a request without intervals, as most are, in a third of the time."""
    sums: Sums = {}
    key, since = _key(Phase.MIDDLEWARE, _CAUSES), started
    for at, following in phases:
        if at >= ended:
            break
        if at > since:
            sums[key] = sums.get(key, 0.0) + at - since
            since = at
        key = following * _PHASE + _CAUSES
    if ended > since:
        sums[key] = sums.get(key, 0.0) + ended - since
    return sums


def _swept(started: float, ended: float, changes: list[tuple[float, int, int]]) -> Sums:
    """Seconds by phase and cause. The second item of a change: 1 for a phase, 2 for a cause's start, 0 for its end."""
    sums: Sums = {}
    active = [0] * (_CAUSES + 1)
    phase, cause, since, number, in_thread = Phase.MIDDLEWARE, _CAUSES, started, 0, 0
    for at, what, code in changes:
        if at > since:
            if at >= ended:
                break
            # whoever works in a thread is not waiting, though the coroutine that started the thread is suspended
            key = (phase & _PHASES if in_thread else phase) * _PHASE + cause
            sums[key] = sums.get(key, 0.0) + at - since
            since = at
        if what == 1:
            phase = code
            if not number:
                continue
        else:
            active[code] += what - 1
            number += what - 1
            in_thread = active[Cause.IN_THREAD]
        cause = _strongest(active, phase) if number else _CAUSES
    if ended > since:
        key = (phase & _PHASES if in_thread else phase) * _PHASE + cause
        sums[key] = sums.get(key, 0.0) + ended - since
    return sums


def _strongest(active: list[int], phase: int) -> int:
    """The cause with precedence; `_CAUSES` if there is none."""
    if active[Cause.GC]:
        return Cause.GC
    # nothing that runs, on the event loop or in a thread, waits for the loop
    if phase >= AWAITING and not active[Cause.IN_THREAD] and (active[Cause.LOOP_WAIT] or phase >= READY):
        return Cause.LOOP_WAIT
    for cause in range(Cause.DB, _CAUSES):
        if active[cause]:
            return cause
    return _CAUSES


_OF_DEPENDENCIES: Final = frozenset(
    {_key(Phase.DEPENDENCIES, _CAUSES), _key(Phase.DEPENDENCIES | AWAITING, _CAUSES)},
)


def _budget(sums: Sums) -> Budget:
    names, own = _places(tuple(sums))
    segments: dict[Segment, float] = {}
    for segment, seconds in zip(names, sums.values(), strict=True):
        segments[segment] = segments[segment] + seconds if segment in segments else seconds
    middleware: dict[int, float] = {}
    for key, number in own:
        middleware[number] = middleware.get(number, 0.0) + sums[key]
    return Budget(segments, middleware)


@lru_cache(_MOST_PATTERNS)
def _places(keys: tuple[int, ...]) -> tuple[tuple[Segment, ...], tuple[tuple[int, int], ...]]:
    """The segments of the keys, and the keys that are a middleware's own time, each with the middleware's number.

    Cached, since requests of a route hardly differ in what they go through.
    """
    fastapi = not _OF_DEPENDENCIES.isdisjoint(keys)
    places = [(key, *_place(key, fastapi=fastapi)) for key in keys]
    own = tuple((key, number) for key, _, number in places if number is not None)
    return tuple(segment for _, segment, _ in places), own


def _place(key: int, *, fastapi: bool) -> tuple[Segment, int | None]:
    """The segment of a key, and the middleware whose own time it is."""
    mark, cause = divmod(key, _PHASE)
    state, phase = mark // AWAITING, mark & _PHASES
    own = phase >= Phase.MIDDLEWARE and mark < READY and cause not in _DELAYS
    number = phase - Phase.MIDDLEWARE if own else None
    if cause < _CAUSES:
        return _SEGMENT_OF_CAUSE[cause], number
    if phase >= Phase.MIDDLEWARE:
        return _SEGMENTS_OF_MIDDLEWARE[state], number
    routing = Phase.ROUTING if fastapi else Phase.HANDLER
    return _SEGMENTS_OF_PHASE[phase or routing][state], number
