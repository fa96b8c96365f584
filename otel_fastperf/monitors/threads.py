"""anyio's thread pool, which runs `def` endpoints and dependencies: its size, and how long requests wait for a thread.

The limiter knows how many tasks wait, but not for how long. So while the monitor runs, the loop's default limiter
*object* gets a subclass of its own class that measures waits; anyio's classes and all other limiters are unchanged.

The request that waits is the victim. When a wait has lasted for the threshold, one look at the stacks of anyio's
threads tells what occupies them; waits at about the same time share it.
"""

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
from anyio import CapacityLimiter

from otel_fastperf.detectors.repeated_waits import RepeatedWaits
from otel_fastperf.detectors.threadpool_wait import Occupant, ThreadWait, detect_threadpool_wait
from otel_fastperf.internals.frames import application_frames, definition
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.requests.record import current_record
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import ThreadsSettings
from otel_fastperf.signals import Signals

if TYPE_CHECKING:
    from otel_fastperf.findings import CallSite

#: seconds between two readings without a scrape
_INTERVAL: Final = 1.0

#: seconds for which a look at the threads is shared by all waits
_SHARED_FOR: Final = 0.25
#: most frames of the application on a thread's stack that are read
_MOST_FRAMES: Final = 20
#: name of anyio's threads; on trio it is followed by more
_WORKER: Final = ("AnyIO worker thread", "Trio thread")

#: class attribute of a timed limiter: the listeners of all monitors
_LISTENERS: Final = "_otel_fastperf_listeners"


@asynccontextmanager
async def monitor_threads(settings: ThreadsSettings, signals: Signals) -> AsyncIterator[None]:
    """Measure the default thread limiter of the running loop."""
    limiter, metrics = anyio.to_thread.current_default_thread_limiter(), signals.metrics

    def read(_late: float = 0.0) -> None:
        now = limiter.statistics()
        metrics.threadpool_limit.set(now.total_tokens)
        metrics.threadpool_borrowed.set(now.borrowed_tokens)
        metrics.threadpool_waiting.set(now.tasks_waiting)

    listener = _WaitListener(limiter, settings, signals)
    with ExitStack() as exits:
        exits.enter_context(_waits_timed(limiter, listener, signals))
        exits.callback(metrics.on_refresh(read))
        exits.enter_context(ticking(_INTERVAL, read, lambda error: signals.guard.failed("threads_monitor", error)))
        yield


class _WaitListener:
    """Takes the waits of one telemetry, in the tasks that wait: `current_record` is their request. Never raises."""

    def __init__(self, limiter: CapacityLimiter, settings: ThreadsSettings, signals: Signals) -> None:
        self._limiter = limiter
        self._settings = settings
        self._signals = signals
        self._occupants: tuple[Occupant, ...] = ()
        self._long = RepeatedWaits()
        #: when the threads were last looked at, by `time.perf_counter()`
        self._looked = 0.0

    def begins(self) -> asyncio.TimerHandle | None:
        """Have the threads looked at when the wait that begins has reached the threshold; the timer of that."""
        try:
            return asyncio.get_running_loop().call_later(self._settings.wait, self._look)
        except Exception:  # noqa: BLE001 - not an asyncio event loop: the finding names no line
            return None

    def waited(self, seconds: float) -> None:
        """Note a wait that has ended."""
        try:
            self._signals.metrics.threadpool_wait.observe(seconds)
            if seconds:
                self._note(seconds)
        except Exception as error:  # noqa: BLE001 - the caller has a token, which it must return
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Count a failure."""
        self._signals.guard.failed("threadpool_wait", error)

    def _note(self, seconds: float) -> None:
        """Note the wait on its request; report it if it is over the threshold."""
        record, signals = current_record(), self._signals
        if record is None or record.owner is not signals or record.excluded:
            return
        now = time.perf_counter()
        record.waited(now - seconds, now, Cause.THREADPOOL_WAIT)
        if seconds >= self._settings.wait and not record.ended:
            signals.delays.catch_up()
            own = signals.delays.unexplained_seconds(now - seconds, now, seconds, on_loop=True)
            pool = self._limiter.statistics()
            occupants = self._occupants if self._looked >= now - seconds - _SHARED_FOR else ()
            repeated = own >= self._settings.wait and self._long.add(now)
            facts = ThreadWait(own, int(pool.total_tokens), pool.tasks_waiting, occupants, repeated)
            for finding in detect_threadpool_wait(facts, self._settings):
                signals.findings.report(finding, record)

    def _routes(self) -> dict[tuple[str, str], str]:
        """The routes of the requests in flight by file and function of their endpoints."""
        routes: dict[tuple[str, str], str] = {}
        for record in tuple(self._signals.in_flight.records):
            endpoint = definition(record.scope.get("endpoint"))
            if endpoint is not None:
                routes[endpoint.file, endpoint.function] = str(record.route_key)
        return routes

    def _look(self) -> None:
        now = time.perf_counter()
        try:
            if now - self._looked >= _SHARED_FOR or not self._occupants:
                self._looked, self._occupants = now, _occupants(self._routes())
        except Exception as error:  # noqa: BLE001 - costs the lines of a finding
            self._signals.guard.failed("threadpool_wait", error)


def _occupants(routes: Mapping[tuple[str, str], str]) -> tuple[Occupant, ...]:
    """What anyio's threads are doing, most threads first."""
    frames = sys._current_frames()  # noqa: SLF001 - there is no other way to the frames of other threads
    found: Counter[tuple[str, CallSite, str]] = Counter()
    for thread in threading.enumerate():
        if not thread.name.startswith(_WORKER):
            continue
        sites = application_frames(frames.get(thread.ident or 0), _MOST_FRAMES)
        if sites:
            function = sites[-1].function
            found[function, sites[0], routes.get((sites[-1].file, function), "")] += 1
    return tuple(Occupant(function, threads, site, route) for (function, site, route), threads in found.most_common())


@contextmanager
def _waits_timed(limiter: CapacityLimiter, listener: _WaitListener, signals: Signals) -> Iterator[None]:
    """Measure each wait for a token of `limiter` until the context manager exits."""
    listeners: list[_WaitListener] | None = getattr(type(limiter), _LISTENERS, None)
    if listeners is None:
        listeners = []
        try:
            limiter.__class__ = _timed(type(limiter), listeners)
        except Exception as error:  # noqa: BLE001 - the limiter's layout forbids it: no wait times, everything else works
            signals.guard.failed("threadpool_wait", error)
            yield
            return
    listeners.append(listener)
    try:
        yield
    finally:
        listeners.remove(listener)
        if not listeners and getattr(type(limiter), _LISTENERS, None) is listeners:
            limiter.__class__ = type(limiter).__mro__[1]


def _timed(base: type[CapacityLimiter], listeners: list[_WaitListener]) -> type[CapacityLimiter]:
    """A subclass of `base` with its name and layout. `acquire`, `async with` and anyio itself all use this method."""

    async def acquire_on_behalf_of(self: CapacityLimiter, borrower: object) -> None:
        if not _is_exhausted(self, listeners):
            await base.acquire_on_behalf_of(self, borrower)
            waited(0.0)
            return
        timers = [listener.begins() for listener in tuple(listeners)]
        started = time.perf_counter()
        try:
            await base.acquire_on_behalf_of(self, borrower)
        finally:
            # includes tasks that were cancelled while they waited
            waited(time.perf_counter() - started)
            for timer in timers:
                if timer is not None:
                    timer.cancel()

    def waited(seconds: float) -> None:
        for listener in tuple(listeners):
            listener.waited(seconds)

    body: dict[str, Any] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "acquire_on_behalf_of": acquire_on_behalf_of,
        _LISTENERS: listeners,
    }
    return type(base.__name__, (base,), body)


def _is_exhausted(limiter: CapacityLimiter, listeners: list[_WaitListener]) -> bool:
    try:
        now = limiter.statistics()
    except Exception as error:  # noqa: BLE001 - the caller gets its token
        for listener in tuple(listeners):
            listener.failed(error)
        return False
    return now.borrowed_tokens >= now.total_tokens or bool(now.tasks_waiting)
