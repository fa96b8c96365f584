"""The blocked event loop: who holds it, at which line, for how long and why.

The loop has a heartbeat, a timer of its own: no part of asyncio or uvloop is replaced. A thread, the watchdog, sleeps
until a beat is overdue; then it looks at the loop's thread again and again, at growing intervals, until the loop beats
once more. Only then, on the loop's thread, is it decided what there was to see and who is to be told. A request that
ends before the next beat asks for that itself (`Obstacles.settle`), so that its own span can tell of it.

While nothing is wrong it costs a timer and three clocks a beat, and a thread that wakes up for a comparison.
"""

import asyncio
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from resource import RUSAGE_THREAD, getrusage
from typing import Any, Final, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from otel_fastperf.detectors.blocking_call import BlockedLoop, detect_blocking_call
from otel_fastperf.event_loop.blocks import Gap, Late, Moment, Run, Sample, longest_run, measured
from otel_fastperf.event_loop.cause import BlockedBy, blocked_by, by_other_threads, lost
from otel_fastperf.event_loop.clocks import Clock, wake_clock
from otel_fastperf.event_loop.stack_sampler import Sight, look
from otel_fastperf.findings import CallSite, Kind
from otel_fastperf.internals.frames import definition
from otel_fastperf.internals.spans import exemplar_of
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.requests.record import RequestRecord
from otel_fastperf.settings import LoopSettings
from otel_fastperf.signals import Hold, Signals

#: parts of what counts as blocked: between two beats, how much later the watchdog first looks, how often it looks then
_BEAT: Final = 0.5
_FIRST_LOOK: Final = 0.2
_DENSEST: Final = 0.03
#: parts of what counts as blocked: whoever asks for a hold and there is none yet, is not to ask again so soon
_BACKOFF: Final = 0.1
#: seconds between two beats at most
_LONGEST_BEAT: Final = 0.05
#: from then on the next look is after this part of the time that the loop has been held: some 100 looks in 10 s
_GROWTH: Final = 1 / 24
#: seconds; a sleep that took up to so much longer was on time
_ON_TIME: Final = 0.002
#: how much of a wait for the GIL its wake-ups may fall short of explaining
_TOLERANCE: Final = 1.2
#: functions whose lines are remembered
_MOST_LINES: Final = 256
_MINUTE: Final = 60.0

_T = TypeVar("_T")

_NAME: Final = "event loop blocked"


@asynccontextmanager
async def monitor_blocked_loop(settings: LoopSettings, signals: Signals) -> AsyncIterator[None]:
    """Watch the running loop for code that holds it for `settings.blocked` seconds.

    The first beat begins it; where a request waits for this, it begins at once.
    """
    loop, interval = asyncio.get_running_loop(), min(_LONGEST_BEAT, _BEAT * settings.blocked)

    def failed(error: Exception) -> None:
        signals.guard.failed("watchdog", error)

    with ExitStack() as stack:
        woke = stack.enter_context(wake_clock(loop, failed))
        watchdog = _Watchdog(loop, interval, woke, settings, signals)
        stack.enter_context(_settling(signals, watchdog))
        watchdog.start()
        stack.callback(watchdog.stop)
        stack.enter_context(ticking(interval, watchdog.beat, failed))
        if not settings.start_after:
            watchdog.begin()
        yield


@contextmanager
def _settling(signals: Signals, watchdog: "_Watchdog") -> Iterator[None]:
    """Let requests that end ask `watchdog`, for as long as the block lasts."""
    obstacles = signals.obstacles
    before, now, thread = obstacles.settle, time.perf_counter, threading.get_ident

    def ask() -> None:
        if not watchdog.on or thread() != watchdog.thread:
            # an app may serve on two loops at once, each with a watchdog of its own
            before()
        elif now() >= watchdog.overdue:
            watchdog.settle()

    obstacles.settle = ask
    try:
        yield
    finally:
        watchdog.on = False
        if obstacles.settle is ask:
            obstacles.settle = before


class _Watchdog:
    """Of one loop. `beat` and `settle` run on the loop's thread, `_watch` on the watchdog's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interval: float, woke: Clock, settings: LoopSettings, signals: Signals
    ) -> None:
        """`interval` is in seconds between two beats; `woke()` when the loop last woke up."""
        self.on = True
        self._loop = loop
        self._woke_at = woke
        self._blocked = settings.blocked
        self._first_look = interval + _FIRST_LOOK * settings.blocked
        self._signals = signals
        self._reports = _Reports(settings, signals)
        #: when the watchdog wants to wake up, by `time.perf_counter()`
        self._due = inf
        self._base = 0
        self._process = os.getpid()
        self._settle_in()

    def _settle_in(self) -> None:
        """The loop runs in the thread that calls this."""
        self.thread = thread = threading.get_ident()
        self._status = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        # asked for here, on the thread itself: for one that has ended it may crash
        self._cpu_clock = time.pthread_getcpuclockid(thread)
        #: until the first beat nothing is overdue
        self._gap, self.overdue = Gap(Moment(inf, 0.0, 0.0), inf), inf

    def start(self) -> None:
        """Start the thread."""
        # a plain lock: whatever state the thread leaves it in at a fork, to release it never blocks
        self._awake = threading.Lock()
        self._awake.acquire()
        self._watching = threading.Thread(
            target=self._watch, args=(self._awake,), name="otel_fastperf watchdog", daemon=True
        )
        self._watching.start()

    def stop(self) -> None:
        """End the thread."""
        self._awake.release()
        self._watching.join()

    def beat(self, _late: float) -> None:
        """The loop is free. Called by `ticking`, which the loop calls."""
        if threading.get_ident() != self.thread:
            self._settle_in()
        self._base = id(sys._getframe(2))  # noqa: SLF001 - the frame that runs the loop, if the loop itself has none
        gap, now = self._gap, self._now()
        self._freed(now)
        run = self._hold(gap, now)
        if run is not None:
            self._tell(run, gap, now)

    def begin(self) -> None:
        """The loop is free, before its first beat."""
        self._freed(self._now())

    def settle(self) -> None:
        """Note a hold that has just ended, and that no beat has seen yet. Called once it is `overdue`."""
        try:
            gap, now = self._gap, self._now()
            run = self._hold(gap, now)
            if run is None:
                # who is at work may hold the loop yet
                self.overdue = now.at + _BACKOFF * self._blocked
            else:
                self._freed(now)
                self._tell(run, gap, now)
        except Exception as error:  # noqa: BLE001 - the request goes on
            self._signals.guard.failed("watchdog", error)

    def _now(self) -> Moment:
        return Moment(time.perf_counter(), time.clock_gettime(self._cpu_clock), time.process_time())

    def _freed(self, now: Moment) -> None:
        """The loop is free. What the watchdog sees from now on belongs to the next gap."""
        self._gap = Gap(now, now.at + self._first_look)
        self.overdue = now.at + self._blocked

    def _hold(self, gap: Gap, now: Moment) -> Run | None:
        # in the child of a fork there is no watchdog, and the loop is a copy
        if now.at - gap.free.at < self._blocked or os.getpid() != self._process:
            return None
        run = longest_run(gap, now)
        return run if run is not None and run.seconds >= self._blocked else None

    def _tell(self, run: Run, gap: Gap, now: Moment) -> None:
        lates = (*gap.lates, *self._still_late(run, now.at))
        measurement = measured(run, lates, tuple(self._signals.obstacles.pauses))
        cause = blocked_by(measurement, self._blocked)
        by_others = cause is BlockedBy.GIL_HELD and by_other_threads(measurement)
        innocent = by_others or cause is BlockedBy.DESCHEDULED
        self._reports.report(replace(run, samples=()) if innocent else run, cause, lost(measurement, cause))

    def _still_late(self, run: Run, now: float) -> Iterator[Late]:
        """A process that was stopped may come here before its watchdog wakes up: what it waits for is not known then.

        A loop's thread that computed meanwhile had the GIL.
        """
        due = self._due
        if now - due > _ON_TIME:
            yield Late(due, now, gil_wait=run.after.cpu - run.before.cpu)

    def _watch(self, awake: Any) -> None:
        while not self._loop.is_closed():
            gap, now = self._gap, time.perf_counter()
            # not longer: the next gap may have begun meanwhile
            sleep = min(max(gap.look_at - now, 0.0), self._first_look)
            due = self._due = now + sleep
            switches = getrusage(RUSAGE_THREAD).ru_nvcsw
            if awake.acquire(timeout=sleep):
                return
            try:
                # one switch is the sleep itself
                self._woke(due, getrusage(RUSAGE_THREAD).ru_nvcsw - switches - 1)
            except Exception as error:  # noqa: BLE001 - look again later
                self._signals.guard.failed("watchdog", error)

    def _woke(self, due: float, waits: int) -> None:
        """`waits` is how often the watchdog has asked for the GIL in vain since it was `due`."""
        now, gap = time.perf_counter(), self._gap
        if now - due > _ON_TIME:
            gap.lates.append(Late(due, now, _TOLERANCE * waits * sys.getswitchinterval()))
        if now < gap.look_at:
            return
        gap.look_at = now + max(_DENSEST * self._blocked, _GROWTH * (now - gap.free.at))
        moment, woke = Moment(now, time.clock_gettime(self._cpu_clock), time.process_time()), self._woke_at()
        asleep = waits <= 0 and self._is_asleep()
        sight = look(self._loop, self.thread, self._base)
        # the loop may have beaten in between
        if self._gap is gap:
            gap.samples.append(Sample(moment, sight, woke, asleep))

    def _is_asleep(self) -> bool:
        """False for a thread that runs, or would if it had a processor: https://man7.org/linux/man-pages/man5/proc.5.html."""
        try:
            status = self._status.read_bytes()
        except OSError:
            return True
        # the state is what comes after the name, which is in brackets and may hold some
        return status.rpartition(b")")[2].split()[0] != b"R"


class _Reports:
    """What comes of a hold: metric, span, finding, and the news for the requests that waited. On the loop's thread."""

    def __init__(self, settings: LoopSettings, signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._spans: deque[float] = deque(maxlen=max(1, settings.spans_per_minute))
        #: what computes is seen now at one line of a function, now at another: how often in all, by route and function
        self._lines: dict[tuple[str, str, str], Counter[CallSite]] = {}

    def report(self, run: Run, cause: BlockedBy, lost_seconds: float) -> None:
        """Tell of it wherever it is to be told; `lost_seconds` are `blocked.lost`."""
        signals, owner = self._signals, self._owner(run)
        sights = [sample.sight for sample in run.samples if not sample.sight.idle]
        route = "" if owner is None else owner.route or ""
        blocked = BlockedLoop(
            seconds=run.seconds,
            cause=cause,
            call_site=self._call_site(sights, cause, owner, route),
            frames=_most_common(sight.frames for sight in sights) or (),
            route=route,
            waiting=self._waiting(owner),
            lost=lost_seconds,
            in_database=bool(_most_common(sight.in_database for sight in sights)),
        )
        exemplar = None if owner is None else exemplar_of(owner.span)
        signals.metrics.loop_blocked.child(cause.value, route).observe(run.seconds, exemplar)
        signals.obstacles.holds.append(Hold(run.start, run.end, owner, self._span(run, blocked, owner)))
        for finding in detect_blocking_call(blocked, self._settings):
            signals.findings.report(finding, owner)

    def _owner(self, run: Run) -> RequestRecord | None:
        record = run.record
        return None if record is None or record.owner is not self._signals or record.excluded else record

    def _call_site(
        self, sights: list[Sight], cause: BlockedBy, owner: RequestRecord | None, route: str
    ) -> CallSite | None:
        """The line to change.

        What waits, or calls into C code, does so at the innermost line. What computes moves from line to line: there it
        is the function that a coroutine has called, for that can be called elsewhere. What the framework does with an
        endpoint's parameters and its return value is the endpoint's.
        """
        if _most_common(sight.in_router for sight in sights):
            return None if owner is None else definition(owner.scope.get("endpoint"))
        innermost = _most_common(sight.frames[0] for sight in sights if sight.frames)
        if cause is not BlockedBy.CPU:
            return innermost
        return self._computing_line([sight.called for sight in sights if sight.called is not None], route) or innermost

    def _computing_line(self, sites: list[CallSite], route: str) -> CallSite | None:
        where = _most_common((site.file, site.function) for site in sites)
        if where is None:
            return None
        lines = Counter(site for site in sites if (site.file, site.function) == where)
        if len(self._lines) < _MOST_LINES:
            known = self._lines.setdefault((route, *where), Counter())
            known.update(lines)
            lines = known
        return lines.most_common(1)[0][0]

    def _waiting(self, owner: RequestRecord | None) -> int:
        """How many requests are in flight besides the owner's. One that has its budget is so no longer."""
        is_one = owner is not None and owner.budget is None and owner.scope["type"] == "http"
        return max(0, round(self._signals.metrics.active_requests.total()) - is_one)

    def _span(self, run: Run, blocked: BlockedLoop, owner: RequestRecord | None) -> SpanContext | None:
        """Make the span, if there may be one more. The one to link to: this, or else the owner's; None if not sampled.

        Its parent is the request's span, which may have ended: what a request leaves behind, such as a background task,
        stays in the request's trace.
        """
        parent = Context() if owner is None else trace.set_span_in_context(owner.span, Context())
        told = None if owner is None else owner.span.get_span_context()
        if self._may_have_span():
            now, wall = time.perf_counter(), time.time_ns()
            span = self._signals.tracer.start_span(
                _NAME, context=parent, attributes=_attributes(blocked), start_time=wall - _nanoseconds(now - run.start)
            )
            span.end(wall - _nanoseconds(now - run.end))
            told = span.get_span_context()
        return told if told is not None and told.trace_flags.sampled else None

    def _may_have_span(self) -> bool:
        now = time.monotonic()
        full = len(self._spans) == self._spans.maxlen and now - self._spans[0] < _MINUTE
        if full or not self._settings.spans_per_minute:
            self._signals.metrics.findings_suppressed.child(Kind.BLOCKING_CALL.value).inc()
            return False
        self._spans.append(now)
        return True


def _attributes(blocked: BlockedLoop) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "fastperf.blocked.cause": blocked.cause.value,
        "fastperf.blocked.seconds": blocked.seconds,
        "fastperf.blocked.frames": tuple(map(str, blocked.frames)),
        "fastperf.blocked.waiting_requests": blocked.waiting,
    }
    site = blocked.call_site
    if site is not None:
        attributes |= {
            "code.file.path": site.file,
            "code.line.number": site.line,
            "code.function.name": site.function,
        }
    return attributes


def _most_common(values: Iterable[_T]) -> _T | None:
    """The value that is there most often, and of several such the first; None if there is none."""
    common = Counter(values).most_common(1)
    return common[0][0] if common else None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
