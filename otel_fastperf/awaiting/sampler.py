"""Looks from time to time at the requests that are older than `awaiting.after`, and notes what they await.

It runs on the event loop of the requests, between two callbacks: every coroutine is suspended then, so what is seen is
exact. A look costs some 30 us. Three things bound the cost: an idle service has no tick at all, a tick lasts less than
a millisecond, and all ticks together take less than `_SHARE` of a core, however many requests are slow.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from math import inf
from typing import Any, Final

from otel_fastperf.awaiting.chain import awaited_by
from otel_fastperf.awaiting.threads import Threads
from otel_fastperf.requests.awaits import Awaits
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.requests.time_budget import AWAITING
from otel_fastperf.settings import AwaitingSettings
from otel_fastperf.signals import Signals

#: share of one core
_SHARE: Final = 0.006
#: seconds: longest tick
_SLICE: Final = 0.0005
#: seconds: longest rest after a tick, whose time may be that of a collection of garbage
_LONGEST_REST: Final = 0.5
#: seconds between two ticks
_LEAST_PAUSE: Final = 0.02
#: time between two samples of one request: a share of its age, within limits in seconds
_GROWTH: Final = 0.05
_LEAST_INTERVAL: Final = 0.02
_LONGEST_INTERVAL: Final = 1.0
#: seconds; a tick that is later than this knows nothing about the time by which it is late
_ON_TIME: Final = 0.02
#: seconds by which a tick may be late before its loop is taken for one that has ended
_PATIENCE: Final = 1.0


@contextmanager
def sample_awaits(settings: AwaitingSettings, signals: Signals) -> Iterator[None]:
    """Sample the slow requests of all event loops until the context manager exits."""
    in_flight, sampler = signals.in_flight, _AwaitSampler(settings.after, signals)
    in_flight.watch = sampler.watch
    try:
        yield
    finally:
        in_flight.watch = None
        in_flight.records.clear()
        in_flight.awake.clear()


class _AwaitSampler:
    def __init__(self, after: float, signals: Signals) -> None:
        self._after = after
        self._signals = signals
        self._in_flight = signals.in_flight
        # sampling at regular times would miss what happens at regular times
        self._random = random.Random()  # noqa: S311 - no cryptography

    def watch(self, record: RequestRecord) -> None:
        """Start the ticks on the thread of `record`, which is this one."""
        try:
            self._schedule(record.loop_thread, self._after)
        except Exception as error:  # noqa: BLE001 - the request goes on
            self._signals.guard.failed("awaiting", error)

    def _schedule(self, thread: int, pause: float) -> None:
        due = time.perf_counter() + pause
        until = self._in_flight.awake[thread] = due + _PATIENCE
        _call_later(pause, lambda: self._tick(thread, due, until))

    def _tick(self, thread: int, due: float, until: float) -> None:
        # after a fork, or if another series of ticks has taken over, this one ends
        if self._in_flight.awake.get(thread) != until:
            return
        try:
            pause = self._sample(thread, due)
        except Exception as error:  # noqa: BLE001 - a failure must not reach the loop
            self._signals.guard.failed("awaiting", error)
            pause = _PATIENCE
        if pause < inf:
            self._schedule(thread, pause)
        else:
            self._in_flight.awake.pop(thread, None)

    def _sample(self, thread: int, due: float) -> float:
        """Sample the requests whose turn it is. Returns the seconds until the next tick; infinity if none is needed."""
        began, cpu = time.perf_counter(), time.thread_time()
        mine = [record for record in list(self._in_flight.records) if record.loop_thread == thread]
        if not mine:
            return inf
        known_until = due if began - due > _ON_TIME else inf
        for record in sorted((each for each in mine if self._due(each) <= began), key=self._due):
            self._look(record, known_until)
            if time.perf_counter() - began > _SLICE:
                break
        now = time.perf_counter()
        spent = time.thread_time() - cpu
        rest = min(spent / _SHARE, _LONGEST_REST)
        return max(min(map(self._due, mine)) - now, _LEAST_PAUSE * self._jitter(), rest)

    def _due(self, record: RequestRecord) -> float:
        return record.started + self._after if record.awaits is None else record.awaits.due

    def _look(self, record: RequestRecord, known_until: float) -> None:
        coroutine = record.driven
        awaits = record.awaits
        if awaits is None:
            awaits = record.awaits = Awaits(record.started + self._after)
        now = time.perf_counter()
        interval = min(max(_LEAST_INTERVAL, _GROWTH * (now - record.started)), _LONGEST_INTERVAL)
        awaits.due = now + interval * self._jitter()
        if coroutine is None or record.ended:
            return
        threads = Threads(awaits.threads)
        found, is_same = awaited_by(coroutine, threads)
        if record.outermost is not coroutine and not any(each.call_site for each in found):
            # a middleware that goes on by itself once it has the response, while the task inside waits for it
            outer, _ = awaited_by(record.outermost, threads)
            if any(each.call_site for each in outer):
                found, is_same = outer, False
        if found:
            awaits.seen(found, now, min(now, known_until), _suspended_since(record) if is_same else now)

    def _jitter(self) -> float:
        return self._random.uniform(0.5, 1.5)


def _suspended_since(record: RequestRecord) -> float:
    """When the request was suspended, by `time.perf_counter()`; it has awaited the same thing since."""
    at, state = record.marks[-2:]
    return at if state >= AWAITING else inf


def _call_later(pause: float, call: Callable[[], None]) -> None:
    """Call it on the running event loop, asyncio's or trio's, outside of any task."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        _on_trio(pause, call)
    else:
        # an empty context: a copy of the caller's would keep its request alive
        loop.call_later(pause, call, context=Context())


def _on_trio(pause: float, call: Callable[[], None]) -> None:
    trio: Any = sys.modules["trio"]

    async def later() -> None:
        await trio.sleep(pause)
        call()

    trio.lowlevel.spawn_system_task(later, name="otel_fastperf-awaiting", context=Context())
