"""Pauses of the garbage collector, by generation: as metric, in the budgets of requests, and, if long, as findings.

A collection starts inside whatever allocates, also inside a lock of prometheus_client's on the same thread: what runs
in `gc.callbacks` may take no lock. It notes the pause; a later tick or scrape counts it, and the end of the request in
which it happened, or a later tick, reports it.
"""

import gc
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, NamedTuple

from otel_fastperf.detectors.gc_pause import Pause, detect_gc_pause
from otel_fastperf.findings import Finding
from otel_fastperf.findings_outlet import event_attributes
from otel_fastperf.internals.frames import call_site
from otel_fastperf.internals.spans import exemplar_of
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import CURRENT, RequestRecord
from otel_fastperf.settings import MemorySettings
from otel_fastperf.signals import Signals

#: seconds between two counts when nobody scrapes
_INTERVAL: Final = 1.0

#: pauses that are kept one by one, and most that are counted at once; what is over it is kept as number and sum
_PENDING: Final = 4096

#: long pauses that wait for the end of their request, and the seconds that they wait at most
_MOST_LONG: Final = 256
_PATIENCE: Final = 30.0

_GENERATIONS: Final = 3
_YOUNGEST: Final = 0
_MINUTE: Final = 60.0


@asynccontextmanager
async def monitor_gc(settings: MemorySettings, signals: Signals) -> AsyncIterator[None]:
    """Measure every collection of the process, in whichever thread it runs."""
    long = _LongPauses(settings, signals)
    pauses = _Pauses(signals.metrics, signals.obstacles.pauses, long)

    def failed(error: Exception) -> None:
        signals.guard.failed("gc_monitor", error)

    def tick(_late: float = 0.0) -> None:
        pauses.count()
        long.report(_PATIENCE)

    def finish() -> None:
        try:
            pauses.count_all()
            long.report(0.0)
        except Exception as error:  # noqa: BLE001 - the app's shutdown goes on
            failed(error)

    with ExitStack() as stack:
        stack.callback(finish)
        gc.callbacks.append(pauses.collector_called)
        stack.callback(gc.callbacks.remove, pauses.collector_called)
        stack.callback(signals.metrics.on_refresh(pauses.count))
        stack.callback(signals.findings.add_request_listener(long.request_ended))
        stack.enter_context(ticking(_INTERVAL, tick, failed))
        yield


class _Pauses:
    def __init__(self, metrics: Metrics, obstacles: "deque[tuple[float, float]]", long: "_LongPauses") -> None:
        self._children = tuple(metrics.gc_pause.child(str(generation)) for generation in range(_GENERATIONS))
        self._obstacles = obstacles
        self._long = long
        self._long_enough = long.settings.gc_pause
        self._started: float | None = None
        #: of the collection that runs: has somebody asked for it, and the CPU time of its thread when it began. Not
        #: known of the youngest generation: it has few objects, and to ask for the CPU time takes microseconds
        self._explicit = False
        self._cpu = 0.0
        self._pending: deque[tuple[int, float]] = deque()
        #: by generation, since the start: number and seconds of the pauses that found `_pending` full
        self._over = [(0, 0.0)] * _GENERATIONS
        self._over_counted = [(0, 0.0)] * _GENERATIONS
        self._counting = threading.Lock()

    def collector_called(self, phase: str, info: dict[str, int]) -> None:
        """See `gc.callbacks`. Collections never nest nor overlap, and neither do these calls."""
        if phase == "start":
            if info["generation"] != _YOUNGEST:
                self._explicit, self._cpu = _is_explicit(), time.thread_time()
            self._started = time.perf_counter()
        elif self._started is not None:
            ended, started, self._started = time.perf_counter(), self._started, None
            seconds, generation = ended - started, info["generation"]
            self._obstacles.append((started, ended))
            self._long.seconds += seconds
            if seconds >= self._long_enough and generation != _YOUNGEST:
                cpu = time.thread_time() - self._cpu
                self._long.note(Pause(generation, seconds, cpu, info["collected"], self._explicit), ended)
            if len(self._pending) < _PENDING:
                self._pending.append((generation, seconds))
            else:
                number, total = self._over[generation]
                self._over[generation] = number + 1, total + seconds

    def count_all(self) -> None:
        """Count the rest, once the collector calls here no longer."""
        while self._pending or self._over != self._over_counted:
            self.count(wait=True)

    def count(self, *, wait: bool = False) -> None:
        """Put what was noted into the histogram. When another thread is about it, returns at once or waits.

        Counting allocates, and so may itself make the collector pause: it ends, whatever comes in meanwhile.
        """
        if not self._counting.acquire(blocking=wait):
            return
        try:
            for _ in range(len(self._pending)):
                generation, seconds = self._pending.popleft()
                self._children[generation].observe(seconds)
            for generation, child in enumerate(self._children):
                self._count_over(generation, child)
        finally:
            self._counting.release()

    def _count_over(self, generation: int, child: Any) -> None:
        """Number and sum come out exact; each of these pauses is taken to be as long as their mean."""
        (number, total), (counted, counted_total) = self._over[generation], self._over_counted[generation]
        left = number - counted
        if not left:
            return
        mean, now = (total - counted_total) / left, min(left, _PENDING)
        for _ in range(now):
            child.observe(mean)
        self._over_counted[generation] = (number, total) if now == left else (counted + now, counted_total + mean * now)


def _is_explicit() -> bool:
    """Has somebody called `gc.collect()`? The interpreter begins by itself only over the threshold, which is one more.

    Asked when a collection starts: it sets the counts to 0.
    """
    threshold = gc.get_threshold()[0]
    return not gc.isenabled() or threshold == 0 or gc.get_count()[0] <= threshold


class _Noted(NamedTuple):
    pause: Pause
    #: `time.perf_counter()`
    ended: float
    record: RequestRecord | None


class _LongPauses:
    """Long pauses, from the collector's call to their report: together with all others of the same request."""

    def __init__(self, settings: MemorySettings, signals: Signals) -> None:
        self.settings = settings
        self._signals = signals
        self._noted: deque[_Noted] = deque(maxlen=_MOST_LONG)
        self._unseen: BaseException | None = None
        self._waiting: list[_Noted] = []
        self._lock = threading.Lock()
        #: of all pauses so far, long or not
        self.seconds = 0.0
        #: `(time.perf_counter(), seconds of all pauses by then)` of the ticks of the last minute
        self._ticks: deque[tuple[float, float]] = deque()

    def note(self, pause: Pause, ended: float) -> None:
        """Called by the collector, in whichever thread, context and lock it ran: takes no lock, and never raises."""
        try:
            pause = pause._replace(site=call_site(sys._getframe()))  # noqa: SLF001 - there is no other way
        except Exception as error:  # noqa: BLE001 - told later: to log takes a lock
            self._unseen = error
        self._noted.append(_Noted(pause, ended, CURRENT.get()))

    def request_ended(self, record: RequestRecord) -> None:
        """Report the pauses of a request that has ended."""
        if self._noted or self._waiting:
            self._report(record, self._taken(lambda noted: noted.record is record))

    def report(self, patience: float) -> None:
        """Report what belongs to no request that is still to end, within `patience` seconds. Called at each tick."""
        now = time.perf_counter()
        while self._ticks and now - self._ticks[0][0] > _MINUTE:
            self._ticks.popleft()
        self._ticks.append((now, self.seconds))
        if self._unseen is not None:
            error, self._unseen = self._unseen, None
            self._signals.guard.failed("gc_monitor", error)
        if not self._noted and not self._waiting:
            return
        for noted in self._taken(lambda noted: noted.record is None):
            self._report(None, [noted])
        late = self._taken(lambda noted: _ended(noted.record) or now - noted.ended >= patience)
        # a dict and not a set: in the order in which they came
        for record in {id(noted.record): noted.record for noted in late}.values():
            self._report(record, [noted for noted in late if noted.record is record])

    def _taken(self, wanted: Callable[[_Noted], bool]) -> list[_Noted]:
        """Those that are `wanted`; the others go on waiting."""
        taken: list[_Noted] = []
        with self._lock:
            while self._noted:
                self._waiting.append(self._noted.popleft())
            waiting, self._waiting = self._waiting, []
            for noted in waiting:
                (taken if wanted(noted) else self._waiting).append(noted)
        return taken

    def _report(self, record: RequestRecord | None, noted: list[_Noted]) -> None:
        if record is not None and record.owner is not self._signals:
            return  # of another app in this process, which has a monitor of its own
        share = (self.seconds - (self._ticks[0][1] if self._ticks else 0.0)) / _MINUTE
        for finding in detect_gc_pause([each.pause for each in noted], share, self.settings):
            if record is None:
                self._signals.findings.report(finding)
            elif finding.call_site is not None:
                self._signals.findings.report(replace(finding, route=record.route or ""), record)
            else:
                self._report_without_route(finding, record)

    def _report_without_route(self, finding: Finding, record: RequestRecord) -> None:
        """The request has suffered, and is not the cause: its route is not told, its span and trace are."""
        exemplar = exemplar_of(record.span)
        self._signals.findings.report(
            finding if exemplar is None else replace(finding, trace_ids=(exemplar["trace_id"],))
        )
        if record.span.is_recording():
            record.span.add_event(f"fastperf.{finding.kind}", event_attributes(finding))


def _ended(record: RequestRecord | None) -> bool:
    return record is not None and record.ended > 0
