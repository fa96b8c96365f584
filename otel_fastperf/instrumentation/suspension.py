"""Notes when the coroutine of a request is suspended, because it awaits something, and when it runs again.

`driving` runs a coroutine as `await` would, and sees each of its suspensions: whatever the coroutine awaits passes
through it on the way to the event loop. It is around the request's coroutine, in the outermost layer. Code that goes on
in another task, as inside of Starlette's `BaseHTTPMiddleware`, is not seen from there, so the first layer inside of
that task drives its own part. Only one of them can run at a time.
"""

import time
from collections.abc import Awaitable, Coroutine, Generator
from math import inf
from types import CoroutineType, coroutine
from typing import Any, Final, TypeVar

from otel_fastperf.instrumentation.spent_time import MOST_MARKS, count_up
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import AWAITING, READY, Phase
from otel_fastperf.signals import Signals

_T = TypeVar("_T")

#: seconds: a coroutine that is ready runs sooner if the event loop is not busy
TURN: Final = 0.001


# one function, because a call would cost as much as the rest of a suspension
@coroutine
def driving(  # noqa: C901, PLR0912, PLR0915
    awaitable: Awaitable[_T], record: RequestRecord, signals: Signals
) -> Generator[Any, Any, _T]:
    """Run a coroutine of the request. Any other awaitable is awaited only; it counts as running until it ends."""
    if type(awaitable) is not CoroutineType:
        return (yield from awaitable.__await__())
    marks, send, now = record.marks, awaitable.send, time.perf_counter
    outer, depth = record.driven, len(record.nested)
    record.driven = awaitable
    if outer is None:
        record.outermost = awaitable
    step, argument = send, None
    phase, since, outside = record.phase, 0.0, 0
    try:
        while True:
            try:
                awaited = step(argument)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            finally:
                # a traceback keeps this frame, which must not keep the exception
                argument = None
            noted = not record.ended
            if noted:
                phase = record.phase
                state = phase | AWAITING
                if record.driven is awaitable:
                    record.awaiting = state
                    state = record.outside or state
                elif phase == Phase.SEND or Phase.MIDDLEWARE <= phase < max(record.nested[depth:], default=0):
                    # the inner tasks can only wait until it takes what they send
                    if not record.outside:
                        record.outside = outside = state
                else:
                    # it waits for the inner task, and so for what that one awaits
                    state = record.outside or record.awaiting
                record.suspended = AWAITING
                since = now()
                marks += since, state
            try:
                argument = yield awaited
                step = send
            except GeneratorExit:
                awaitable.close()
                raise
            except BaseException as error:  # noqa: BLE001 - the coroutine gets it
                # without this frame: it was thrown to the coroutine, as far as the traceback's reader is concerned
                error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
                step, argument = awaitable.throw, error
            if noted:
                at = now()
                if at - marks[-2] > TURN and marks[-1] >= AWAITING:
                    # a bare `yield`, as in `asyncio.sleep(0)`: it was ready all the time
                    _was_ready(record, since if awaited is None else _ready_since(record, signals), at)
                if outside:
                    record.outside = outside = 0
                record.suspended = 0
                record.phase = phase
                marks += at, phase
                if len(marks) > MOST_MARKS:
                    count_up(record, signals)
    finally:
        if outer is None:
            record.driven = record.outermost = None
        elif record.driven is awaitable:
            _back(record, outer, depth)


def _ready_since(record: RequestRecord, signals: Signals) -> float:
    """Since when it has been ready at the latest; infinite if unknown."""
    if record.marks[-1] == Phase.HAND_OVER | AWAITING:
        return record.marks[-2]
    try:
        return signals.delays.running_since(record.loop_thread)
    except Exception as error:  # noqa: BLE001 - the request goes on
        signals.guard.failed("requests", error)
        return inf


def _was_ready(record: RequestRecord, since: float, until: float) -> None:
    """It awaited nothing any more, and waited for its turn."""
    marks = record.marks
    state = int(marks[-1]) % AWAITING | READY
    if since <= marks[-2]:
        marks[-1] = state
    elif until - since > TURN:
        marks += since, state


def starting(record: RequestRecord, phase: int) -> None:
    """The request goes on with `phase` in another task, which was ready since the one that started it was suspended."""
    at, marks = time.perf_counter(), record.marks
    if marks[-1] >= AWAITING and at - marks[-2] > TURN:
        _was_ready(record, marks[-2], at)
    record.nested = (*record.nested, phase)
    record.suspended = 0
    record.enter(record.phase)


def _back(record: RequestRecord, outer: Coroutine[Any, Any, object], depth: int) -> None:
    """The inner task has ended; the outer one will run next."""
    record.driven = outer
    record.nested = record.nested[: depth - 1]
    record.suspended = AWAITING
    record.awaiting = record.phase | AWAITING
    record.enter(record.phase)
