"""anyio's thread pool, which runs `def` endpoints and dependencies: its size, and how long requests wait for a thread.

The limiter knows how many tasks wait, but not for how long. So while the monitor runs, the loop's default limiter
*object* gets a subclass of its own class that measures waits; anyio's classes and all other limiters are unchanged.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import anyio.to_thread
from anyio import CapacityLimiter

from otel_fastperf.detectors.threadpool_wait import ThreadWait, detect_threadpool_wait
from otel_fastperf.internals.frames import definition
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.requests.record import CURRENT
from otel_fastperf.requests.time_budget import Cause
from otel_fastperf.settings import ThreadsSettings
from otel_fastperf.signals import Signals

#: seconds between two readings without a scrape
_INTERVAL: Final = 1.0

#: class attribute of a timed limiter: the listeners of all monitors
_LISTENERS: Final = "_otel_fastperf_listeners"

_WaitListener = Callable[[float], None]


@asynccontextmanager
async def monitor_threads(settings: ThreadsSettings, signals: Signals) -> AsyncIterator[None]:
    """Measure the default thread limiter of the running loop."""
    limiter, metrics = anyio.to_thread.current_default_thread_limiter(), signals.metrics

    def read(_late: float = 0.0) -> None:
        now = limiter.statistics()
        metrics.threadpool_limit.set(now.total_tokens)
        metrics.threadpool_borrowed.set(now.borrowed_tokens)
        metrics.threadpool_waiting.set(now.tasks_waiting)

    with ExitStack() as exits:
        exits.enter_context(_waits_timed(limiter, settings, signals))
        exits.callback(metrics.on_refresh(read))
        exits.enter_context(ticking(_INTERVAL, read, lambda error: signals.guard.failed("threads_monitor", error)))
        yield


def _listener(limiter: CapacityLimiter, settings: ThreadsSettings, signals: Signals) -> _WaitListener:
    """A listener called with each wait, in the task that waited, so `record.CURRENT` is its request. Never raises."""

    def waited(seconds: float) -> None:
        try:
            signals.metrics.threadpool_wait.observe(seconds)
            if seconds:
                _note(seconds, limiter, settings, signals)
        except Exception as error:  # noqa: BLE001 - the caller has a token, which it must return
            signals.guard.failed("threadpool_wait", error)

    return waited


def _note(seconds: float, limiter: CapacityLimiter, settings: ThreadsSettings, signals: Signals) -> None:
    """Note the wait on its request; report it if it is over the threshold."""
    record = CURRENT.get()
    if record is None or record.owner is not signals or record.excluded:
        return
    now = time.perf_counter()
    record.waited(now - seconds, now, Cause.THREADPOOL_WAIT)
    if seconds >= settings.wait and not record.ended:
        pool = limiter.statistics()
        facts = ThreadWait(
            seconds, int(pool.total_tokens), pool.tasks_waiting, definition(record.scope.get("endpoint"))
        )
        for finding in detect_threadpool_wait(facts, settings):
            signals.findings.report(finding, record)


@contextmanager
def _waits_timed(limiter: CapacityLimiter, settings: ThreadsSettings, signals: Signals) -> Iterator[None]:
    """Measure each wait for a token of `limiter` until the context manager exits."""
    waited = _listener(limiter, settings, signals)
    listeners: list[_WaitListener] | None = getattr(type(limiter), _LISTENERS, None)
    if listeners is None:
        listeners = []
        try:
            limiter.__class__ = _timed(type(limiter), listeners)
        except Exception as error:  # noqa: BLE001 - the limiter's layout forbids it: no wait times, everything else works
            signals.guard.failed("threadpool_wait", error)
            yield
            return
    listeners.append(waited)
    try:
        yield
    finally:
        listeners.remove(waited)
        if not listeners and getattr(type(limiter), _LISTENERS, None) is listeners:
            limiter.__class__ = type(limiter).__mro__[1]


def _timed(base: type[CapacityLimiter], listeners: list[_WaitListener]) -> type[CapacityLimiter]:
    """A subclass of `base` with its name and layout. `acquire`, `async with` and anyio itself all use this method."""

    async def acquire_on_behalf_of(self: CapacityLimiter, borrower: object) -> None:
        now = self.statistics()
        if now.borrowed_tokens < now.total_tokens and not now.tasks_waiting:
            await base.acquire_on_behalf_of(self, borrower)
            waited(0.0)
            return
        started = time.perf_counter()
        try:
            await base.acquire_on_behalf_of(self, borrower)
        finally:
            # includes tasks that were cancelled while they waited
            waited(time.perf_counter() - started)

    def waited(seconds: float) -> None:
        for listener in tuple(listeners):
            listener(seconds)

    body: dict[str, Any] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "acquire_on_behalf_of": acquire_on_behalf_of,
        _LISTENERS: listeners,
    }
    return type(base.__name__, (base,), body)
