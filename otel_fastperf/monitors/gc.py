"""Pauses of the garbage collector, by generation: a metric, a segment of time budgets, and findings for long pauses.

Any allocation can start a collection, even one made while the same thread holds a lock of prometheus_client. So the
callback in `gc.callbacks` must not take a lock. It only records the pause. A later tick or scrape counts it; the end of
the request in which it happened, or a later tick, reports it.
"""

import gc
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, Final, NamedTuple

from otel_fastperf.detectors.gc_pause import WASTE, Allocations, Pause, Recent, detect_gc_pause
from otel_fastperf.findings import CallSite, Finding
from otel_fastperf.findings_outlet import event_attributes
from otel_fastperf.internals.frames import call_site, definition, may_be_application
from otel_fastperf.internals.spans import exemplar_of
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.metrics import Metrics
from otel_fastperf.requests.record import RequestRecord, current_record, route_of
from otel_fastperf.requests.route import Route
from otel_fastperf.requests.time_budget import Phase
from otel_fastperf.settings import MemorySettings
from otel_fastperf.signals import Delays, Signals

#: seconds between two counts if `/metrics` is not scraped
_INTERVAL: Final = 1.0

#: maximum number of pauses that are stored individually and counted in one go; the rest are stored as number and sum
_PENDING: Final = 4096

#: maximum number of long pauses that await the end of their request, and the maximum time that they do, in seconds
_MOST_LONG: Final = 256
_PATIENCE: Final = 30.0
#: maximum number of routes whose line is remembered
_MOST_ROUTES: Final = 256

_GENERATIONS: Final = 3
_YOUNGEST: Final = 0
_MINUTE: Final = 60.0
#: seconds after the start for which the collector's share is taken at least
_SHORTEST_WINDOW: Final = 10.0


@asynccontextmanager
async def monitor_gc(settings: MemorySettings, signals: Signals) -> AsyncIterator[None]:
    """Measure every collection of the process, in any thread."""
    long = _LongPauses(settings, signals)
    pauses = _Pauses(signals.metrics, signals.delays, long)

    def failed(error: Exception) -> None:
        signals.guard.failed("gc_monitor", error)

    def tick(_late: float = 0.0) -> None:
        pauses.count()
        long.report(_PATIENCE)

    def finish() -> None:
        try:
            pauses.count_all()
            long.report(0.0)
        except Exception as error:  # noqa: BLE001 - the app's shutdown must continue
            failed(error)

    with ExitStack() as exits:
        exits.callback(finish)
        gc.callbacks.append(pauses.collector_called)
        exits.callback(gc.callbacks.remove, pauses.collector_called)
        exits.callback(signals.metrics.on_refresh(pauses.count))
        exits.callback(signals.findings.add_request_listener(long.request_ended))
        exits.enter_context(ticking(_INTERVAL, tick, failed))
        yield


class _Pauses:
    def __init__(self, metrics: Metrics, delays: Delays, long: "_LongPauses") -> None:
        self._children = tuple(metrics.gc_pause.child(str(generation)) for generation in range(_GENERATIONS))
        self._delays = delays
        self._long = long
        self._least = long.settings.gc_pause
        self._started: float | None = None
        #: whether the current collection is explicit, and the CPU time of its thread at the start. Not set for the
        #: youngest generation, which is collected too often: reading the CPU time takes microseconds
        self._explicit = False
        self._cpu = 0.0
        self._pending: deque[tuple[int, float]] = deque()
        #: by generation: number and seconds of all pauses so far that found `_pending` full
        self._over = [(0, 0.0)] * _GENERATIONS
        self._over_counted = [(0, 0.0)] * _GENERATIONS
        self._counting = threading.Lock()

    def collector_called(self, phase: str, info: dict[str, int]) -> None:
        """Record a pause; called as one of `gc.callbacks`. Collections, and so these calls, never overlap."""
        if phase == "start":
            if info["generation"] != _YOUNGEST:
                self._explicit = _is_explicit(info["generation"], sys._getframe().f_back)  # noqa: SLF001 - the only way
                self._cpu = time.thread_time()
            self._started = self._delays.collecting_since = time.perf_counter()
        elif self._started is not None:
            ended, started, self._started = time.perf_counter(), self._started, None
            seconds, generation = ended - started, info["generation"]
            self._delays.pauses.append((started, ended))
            self._delays.collecting_since = None
            if seconds >= self._least and generation != _YOUNGEST:
                cpu = time.thread_time() - self._cpu
                # on a busy machine, most of a pause may be the wait for a processor
                self._long.seconds += cpu
                self._long.record(Pause(generation, seconds, cpu, info["collected"], self._explicit), ended)
            else:
                self._long.seconds += seconds
            if len(self._pending) < _PENDING:
                self._pending.append((generation, seconds))
            else:
                number, total = self._over[generation]
                self._over[generation] = number + 1, total + seconds

    def count_all(self) -> None:
        """Count the remaining pauses once the collector no longer calls back."""
        while self._pending or self._over != self._over_counted:
            self.count(wait=True)

    def count(self, *, wait: bool = False) -> None:
        """Count the recorded pauses in the histogram. If another thread is counting, return at once or wait for it.

        Counting allocates, so it may itself cause pauses. It ends anyway: later ones are left for the next call.
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
        """Observe the mean once for each pause, so that number and sum are exact."""
        (number, total), (counted, counted_total) = self._over[generation], self._over_counted[generation]
        left = number - counted
        if not left:
            return
        mean, now = (total - counted_total) / left, min(left, _PENDING)
        for _ in range(now):
            child.observe(mean)
        self._over_counted[generation] = (number, total) if now == left else (counted + now, counted_total + mean * now)


def _is_explicit(generation: int, frame: FrameType | None) -> bool:
    """Whether `gc.collect()` was called in `frame`, or the interpreter started the collection: None is one at its end.

    Call it at the start of a collection, which later resets the counts. The interpreter collects a generation if its
    count is above its threshold, and only if that of the youngest one is. That of the youngest one falls with each
    object that is freed: before the collection, which since Python 3.12 waits until C code has returned, or by another
    thread, which gets its turn when the callback starts. So it is no proof of a call.
    """
    thresholds, counts = gc.get_threshold(), gc.get_count()
    if not gc.isenabled() or thresholds[0] == 0 or counts[generation] <= thresholds[generation]:
        return True
    return counts[0] <= thresholds[0] and frame is not None and "collect" in frame.f_code.co_names


class _RecordedPause(NamedTuple):
    """A long pause, the `time.perf_counter()` at its end, and the request in which it happened.

    `is_own` if the request's own code was running inside of all middleware, not another task or thread for it.
    """

    pause: Pause
    ended: float
    record: RequestRecord | None
    is_own: bool


class _Start(NamedTuple):
    """Where a long automatic collection started."""

    at: float
    route: Route
    site: CallSite | None
    by_framework: bool
    is_wasteful: bool


class _LongPauses:
    """Long pauses between the collector's callback and their report. Those of one request are reported together."""

    def __init__(self, settings: MemorySettings, signals: Signals) -> None:
        self.settings = settings
        self._signals = signals
        self._recorded: deque[_RecordedPause] = deque(maxlen=_MOST_LONG)
        self._unreported: BaseException | None = None
        self._waiting: list[_RecordedPause] = []
        self._lock = threading.Lock()
        #: total of all pauses so far: CPU time of long ones
        self.seconds = 0.0
        #: ends of the latest long pauses
        self._ends: deque[float] = deque(maxlen=_MOST_LONG)
        #: the latest long automatic ones that were reported
        self._starts: deque[_Start] = deque(maxlen=_MOST_LONG)
        #: the line of a route's finding: without it, each line that allocates would be a finding of its own
        self._lines: dict[Route, tuple[CallSite | None, bool]] = {}
        self._since, self._cpu_since = time.perf_counter(), time.process_time()
        #: `time.perf_counter()`, `self.seconds` and `time.process_time()` at each tick of the last minute
        self._ticks: deque[tuple[float, float, float]] = deque()

    def record(self, pause: Pause, ended: float) -> None:
        """Record a pause. Runs in the collector's callback, so it takes no lock and never raises."""
        try:
            pause = pause._replace(site=call_site(sys._getframe()))  # noqa: SLF001 - the only way to the current frame
        except Exception as error:  # noqa: BLE001 - reported later, because logging takes a lock
            self._unreported = error
        if pause.cpu_seconds >= self.settings.gc_pause:
            self._ends.append(ended)
        record = current_record()
        self._recorded.append(_RecordedPause(pause, ended, record, record is not None and _is_running(record)))

    def request_ended(self, record: RequestRecord) -> None:
        """Report the pauses of a request that has ended."""
        if self._recorded or self._waiting:
            self._report(record, self._taken(lambda pause: pause.record is record))

    def report(self, patience: float) -> None:
        """Report pauses outside of requests, in ended requests, and older than `patience` seconds. Runs each tick."""
        now = time.perf_counter()
        while self._ticks and now - self._ticks[0][0] > _MINUTE:
            self._ticks.popleft()
        self._ticks.append((now, self.seconds, time.process_time()))
        if self._unreported is not None:
            error, self._unreported = self._unreported, None
            self._signals.guard.failed("gc_monitor", error)
        if not self._recorded and not self._waiting:
            return
        for pause in self._taken(lambda pause: pause.record is None):
            self._report(None, [pause])
        late = self._taken(lambda pause: _ended(pause.record) or now - pause.ended >= patience)
        # a dict instead of a set keeps the order of the pauses
        for record in {id(pause.record): pause.record for pause in late}.values():
            self._report(record, [pause for pause in late if pause.record is record])

    def _taken(self, wanted: Callable[[_RecordedPause], bool]) -> list[_RecordedPause]:
        """Remove and return the pauses that are `wanted`; the others stay."""
        taken: list[_RecordedPause] = []
        with self._lock:
            while self._recorded:
                self._waiting.append(self._recorded.popleft())
            waiting, self._waiting = self._waiting, []
            for pause in waiting:
                (taken if wanted(pause) else self._waiting).append(pause)
        return taken

    def _report(self, record: RequestRecord | None, pauses: list[_RecordedPause]) -> None:
        if record is not None and record.owner is not self._signals:
            return  # another app in this process, which has its own monitor
        found = [each.pause for each in pauses]
        self._started_by(record, pauses)
        if record is not None and record.has_large_result:
            # `large_result` reports what the collector does because of it
            found = [pause for pause in found if pause.explicit]
        if not found:
            return
        allocations = None if record is None else self._allocations(record.route_key)
        for finding in detect_gc_pause(
            found, self._recent(), self.settings, in_request=record is not None, allocations=allocations
        ):
            self._tell(finding, record, None if finding.evidence["explicit"] else allocations)

    def _tell(self, finding: Finding, record: RequestRecord | None, allocations: Allocations | None) -> None:
        if record is None:
            self._signals.findings.report(finding)
            return
        if allocations is not None and len(self._lines) < _MOST_ROUTES:
            self._lines.setdefault(record.route_key, (allocations.site, allocations.by_framework))
        if allocations is not None or finding.call_site is not None:
            self._signals.findings.report(finding, record)
        else:
            self._report_without_route(finding, record)

    def _started_by(self, record: RequestRecord | None, pauses: list[_RecordedPause]) -> None:
        """Remember where long automatic collections started. No record is kept, which would keep its request alive."""
        for each in pauses:
            pause = each.pause
            if pause.explicit or pause.cpu_seconds < self.settings.gc_pause:
                continue
            site, by_framework = pause.site, False
            if site is None and record is not None and each.is_own:
                endpoint = definition(record.scope.get("endpoint"))
                by_framework = endpoint is not None
                site = endpoint if endpoint is not None and may_be_application(endpoint.file) else None
            is_wasteful = pause.collected >= WASTE
            self._starts.append(_Start(each.ended, route_of(record), site, by_framework, is_wasteful))

    def _allocations(self, route: Route) -> Allocations | None:
        """What a route has started, if it has started most of the long collections of the last minute."""
        since = time.perf_counter() - _MINUTE
        starts = [start for start in self._starts.copy() if start.at >= since]
        own = [start for start in starts if start.route == route]
        if not route.template or len(own) * 2 <= len(starts):
            return None
        line = self._lines.get(route)
        if line is None:
            ((line, _number),) = Counter((start.site, start.by_framework) for start in own).most_common(1)
        wasteful = sum(start.is_wasteful for start in own)
        return Allocations(len(own), wasteful, *line)

    def _recent(self) -> Recent:
        now = time.perf_counter()
        window = min(_MINUTE, max(_SHORTEST_WINDOW, now - self._since))
        _, before, cpu_before = self._ticks[0] if self._ticks else (0.0, 0.0, self._cpu_since)
        seconds, cpu = self.seconds - before, time.process_time() - cpu_before
        long = sum(now - end <= _MINUTE for end in self._ends.copy())
        return Recent(seconds / window, long, seconds / cpu if cpu > 0 else 0.0)

    def _report_without_route(self, finding: Finding, record: RequestRecord) -> None:
        """Report with the span and trace of the request, but without its route, which is not the cause."""
        exemplar = exemplar_of(record.span)
        self._signals.findings.report(
            finding if exemplar is None else replace(finding, trace_ids=(exemplar["trace_id"],))
        )
        if record.span.is_recording():
            record.span.add_event(f"fastperf.{finding.kind}", event_attributes(finding))


def _is_running(record: RequestRecord) -> bool:
    on_its_loop = threading.get_ident() == record.loop_thread and not record.suspended
    return on_its_loop and not record.ended and record.phase <= Phase.SERIALIZATION


def _ended(record: RequestRecord | None) -> bool:
    return record is not None and record.ended > 0
