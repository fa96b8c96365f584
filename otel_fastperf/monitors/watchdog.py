"""Detects blocks of the event loop: which code caused one, for how long, and why.

The loop has a heartbeat, a timer: no part of asyncio or uvloop is replaced. A background thread, the watchdog, sleeps
until a beat is overdue. Then it samples the loop's thread, at growing intervals, until the loop beats again. The beat
then evaluates the samples and reports, on the loop's thread. A request that ends before the next beat asks for this
itself (`Delays.catch_up`), so that its own span can report the block.

A loop that is not blocked costs a timer and three clock readings per beat, and a thread that wakes up for a comparison.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from resource import RUSAGE_THREAD, getrusage
from typing import Any, Final

from otel_fastperf.event_loop.blocks import BeatInterval, LateWakeup, LoopRun, Moment, Sample, longest_run, measured
from otel_fastperf.event_loop.cause import BlockedBy, blocked_by, by_other_threads, lost
from otel_fastperf.event_loop.clocks import Clock, wake_clock
from otel_fastperf.event_loop.stack_sampler import look
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.monitors.block_reports import BlockReports
from otel_fastperf.settings import LoopSettings
from otel_fastperf.signals import Signals

#: shares of `loop.blocked`: time between two beats, delay of the first sample after a missed beat, minimum time between
#: two samples
_BEAT: Final = 0.5
_FIRST_LOOK: Final = 0.2
_DENSEST: Final = 0.03
#: share of `loop.blocked`: back-off before re-checking when no block was found
_BACKOFF: Final = 0.1
#: maximum time between two beats, in seconds
_LONGEST_BEAT: Final = 0.05
#: time to the next sample as a share of the time blocked so far, which makes about 100 samples in 10 s
_GROWTH: Final = 1 / 24
#: seconds; a sleep that ended at most this late was on time
_ON_TIME: Final = 0.002
#: tolerance when inferring GIL wait from context switches
_TOLERANCE: Final = 1.2


@asynccontextmanager
async def monitor_blocked_loop(settings: LoopSettings, signals: Signals) -> AsyncIterator[None]:
    """Watch the running loop for code that blocks it for `settings.blocked` seconds.

    Watching begins with the first beat, or at once if a request waits for the monitors to start.
    """
    loop, interval = asyncio.get_running_loop(), min(_LONGEST_BEAT, _BEAT * settings.blocked)

    def failed(error: Exception) -> None:
        signals.guard.failed("watchdog", error)

    with ExitStack() as exits:
        woke = exits.enter_context(wake_clock(loop, failed))
        watchdog = _Watchdog(loop, interval, woke, settings, signals)
        exits.enter_context(signals.delays.watched_by(watchdog.catch_up))
        watchdog.start()
        exits.callback(watchdog.stop)
        exits.enter_context(ticking(interval, watchdog.beat, failed))
        if not settings.start_after:
            watchdog.begin()
        yield


class _Watchdog:
    """The watchdog of one loop. `beat` and `catch_up` run on the loop's thread, `_watch` on the watchdog's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, interval: float, woke: Clock, settings: LoopSettings, signals: Signals
    ) -> None:
        """`interval` is the time between two beats in seconds; `woke()` tells when the loop last woke up."""
        self._loop = loop
        self._woke_at = woke
        self._blocked = settings.blocked
        self._first_look = interval + _FIRST_LOOK * settings.blocked
        self._signals = signals
        self._reports = BlockReports(settings, signals)
        #: when the watchdog should wake up, by `time.perf_counter()`
        self._due = inf
        self._base = 0
        self._process = os.getpid()
        self._adopt_thread()

    def _adopt_thread(self) -> None:
        """Take the calling thread for the one that runs the loop."""
        self._thread = thread = threading.get_ident()
        self._status = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        # taken on the thread itself: the call may crash for a thread that has ended
        self._cpu_clock = time.pthread_getcpuclockid(thread)
        #: before the first beat, nothing is overdue
        self._interval, self._overdue = BeatInterval(Moment(inf, 0.0, 0.0), inf), inf

    def start(self) -> None:
        """Start the thread."""
        # a plain lock: releasing it never blocks, in whatever state a fork caught it
        self._awake = threading.Lock()
        self._awake.acquire()
        self._watching = threading.Thread(
            target=self._watch, args=(self._awake,), name="otel_fastperf-watchdog", daemon=True
        )
        self._watching.start()

    def stop(self) -> None:
        """End the thread."""
        self._awake.release()
        self._watching.join()

    def beat(self, _late: float) -> None:
        """Note that the loop is free, and report a block that has ended. Called by `ticking`."""
        if threading.get_ident() != self._thread:
            self._adopt_thread()
        self._base = id(sys._getframe(2))  # noqa: SLF001 - the frame that runs a loop without frames of its own
        interval, now = self._interval, self._now()
        self._freed(now)
        run = self._block(interval, now)
        if run is not None:
            self._evaluate(run, interval, now)

    def begin(self) -> None:
        """Note that the loop is free, before its first beat."""
        self._freed(self._now())

    def catch_up(self) -> bool:
        """Report a block that has just ended and that no beat has noticed yet. False on another loop's thread."""
        if threading.get_ident() != self._thread:
            return False
        if time.perf_counter() >= self._overdue:
            try:
                self._report_overdue()
            except Exception as error:  # noqa: BLE001 - the request goes on
                self._signals.guard.failed("watchdog", error)
        return True

    def _report_overdue(self) -> None:
        interval, now = self._interval, self._now()
        run = self._block(interval, now)
        if run is None:
            # the code that runs now may go on to block the loop
            self._overdue = now.at + _BACKOFF * self._blocked
        else:
            self._freed(now)
            self._evaluate(run, interval, now)

    def _now(self) -> Moment:
        return Moment(time.perf_counter(), time.clock_gettime(self._cpu_clock), time.process_time())

    def _freed(self, now: Moment) -> None:
        """The loop is free: later samples belong to a new interval."""
        self._interval = BeatInterval(now, now.at + self._first_look)
        self._overdue = now.at + self._blocked

    def _block(self, interval: BeatInterval, now: Moment) -> LoopRun | None:
        # in a forked child there is no watchdog, and the loop is a copy
        if now.at - interval.free.at < self._blocked or os.getpid() != self._process:
            return None
        run = longest_run(interval, now)
        return run if run is not None and run.seconds >= self._blocked else None

    def _evaluate(self, run: LoopRun, interval: BeatInterval, now: Moment) -> None:
        late_wakeups = (*interval.late_wakeups, *self._still_late(run, now.at))
        measurement = measured(run, late_wakeups, tuple(self._signals.delays.pauses))
        cause = blocked_by(measurement, self._blocked)
        by_others = cause is BlockedBy.GIL_HELD and by_other_threads(measurement)
        innocent = by_others or cause is BlockedBy.DESCHEDULED
        self._reports.report(replace(run, samples=()) if innocent else run, cause, lost(measurement, cause))

    def _still_late(self, run: LoopRun, now: float) -> Iterator[LateWakeup]:
        """The wake-up that is overdue now: a process that was stopped may get here before its watchdog wakes up.

        Why it is late is not known yet. If the loop's thread computed meanwhile, it had the GIL.
        """
        due = self._due
        if now - due > _ON_TIME:
            yield LateWakeup(due, now, gil_wait=run.after.cpu - run.before.cpu)

    def _watch(self, awake: Any) -> None:
        while not self._loop.is_closed():
            interval, now = self._interval, time.perf_counter()
            # not longer than `_first_look`, because a new interval may have begun
            sleep = min(max(interval.look_at - now, 0.0), self._first_look)
            due = self._due = now + sleep
            switches = getrusage(RUSAGE_THREAD).ru_nvcsw
            if awake.acquire(timeout=sleep):
                return
            try:
                # one switch is the sleep itself
                self._woke(due, getrusage(RUSAGE_THREAD).ru_nvcsw - switches - 1)
            except Exception as error:  # noqa: BLE001 - the next sample may succeed
                self._signals.guard.failed("watchdog", error)

    def _woke(self, due: float, waits: int) -> None:
        """Sample the loop's thread if its beat is overdue. `waits`: failed attempts to get the GIL since `due`."""
        now, interval = time.perf_counter(), self._interval
        if now - due > _ON_TIME:
            interval.late_wakeups.append(LateWakeup(due, now, _TOLERANCE * waits * sys.getswitchinterval()))
        if now < interval.look_at:
            return
        interval.look_at = now + max(_DENSEST * self._blocked, _GROWTH * (now - interval.free.at))
        moment, woke = Moment(now, time.clock_gettime(self._cpu_clock), time.process_time()), self._woke_at()
        asleep = waits <= 0 and self._is_asleep()
        sight = look(self._loop, self._thread, self._base)
        # the loop may have beaten in between
        if self._interval is interval:
            interval.samples.append(Sample(moment, sight, woke, asleep))

    def _is_asleep(self) -> bool:
        """False for a thread that runs or is runnable: https://man7.org/linux/man-pages/man5/proc.5.html."""
        try:
            status = self._status.read_bytes()
        except OSError:
            return True
        # the state follows the name, which is in brackets and may contain brackets
        return status.rpartition(b")")[2].split()[0] != b"R"
