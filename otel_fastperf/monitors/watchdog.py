"""Detects blocks of the event loop: which code caused one, for how long, and why.

A background thread, the watchdog, asks the loop's clock from time to time since when it has been running. If that is
too long, it samples the loop's thread, at growing intervals, and asks the loop for a beat, which runs as soon as the
loop is free again: it evaluates the samples and reports, on the loop's thread. A request that ends before that beat
asks for this itself (`Delays.catch_up`), so that its own span can report the block. No part of asyncio or uvloop is
replaced but the `select` of one selector object.

A loop that is not blocked costs a thread that wakes up for a comparison, and few beats: they notice what kept the
watchdog from running too. A loop of another kind has no such clock, and beats more often to show that it is free. So
does every loop on macOS and Windows.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from contextvars import Context
from dataclasses import replace
from inspect import CO_COROUTINE
from math import inf
from types import FrameType
from typing import Any, Final

from otel_fastperf.event_loop.blocks import BeatInterval, LateWakeup, LoopRun, Moment, Sample, longest_run, measured
from otel_fastperf.event_loop.cause import BlockedBy, blocked_by, by_other_threads, lost
from otel_fastperf.event_loop.clocks import Clock, run_clock
from otel_fastperf.event_loop.stack_sampler import base_of, look
from otel_fastperf.internals.frames import is_own
from otel_fastperf.internals.operating_system import PROC, ThreadClock
from otel_fastperf.internals.thread_schedule import ScheduleFile, SleepFile, ThreadSchedule
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.monitors.block_reports import BlockReports
from otel_fastperf.monitors.gil_waits import GilWaits
from otel_fastperf.settings import LoopSettings
from otel_fastperf.signals import Signals

#: seconds that the loop runs before the first sample, at most
_LONGEST_FIRST_LOOK: Final = 0.1
#: shares of `loop.blocked`: the same, minimum time between two samples, delay of the watchdog from which the loop may
#: have been delayed too
_FIRST_LOOK: Final = 0.75
#: share of `loop.blocked`, and maximum of seconds: from one look at a loop that waits for events to the next. What
#: begins meanwhile is seen before it is a block
_NEXT_LOOK: Final = 0.95
_LONGEST_NEXT_LOOK: Final = 0.25
_DENSEST: Final = 0.03
_KEPT: Final = 0.5
#: share of `loop.blocked`: back-off before re-checking when no block was found
_BACKOFF: Final = 0.1
#: seconds between two beats
_BEAT: Final = 0.25
#: seconds between two beats of a loop without a clock, at most; shares of `loop.blocked`: the same, and the delay of a
#: beat after which such a loop is sampled
_FAST_BEAT: Final = 0.05
_FAST_BEAT_SHARE: Final = 0.5
_OVERDUE: Final = 0.2
#: time to the next sample as a share of the time blocked so far, which makes about 100 samples in 10 s
_GROWTH: Final = 1 / 24
#: seconds; a sleep that ended at most this late was on time
_ON_TIME: Final = 0.002
#: tolerance when inferring GIL wait from context switches
_TOLERANCE: Final = 1.2
#: share of the usual context switches from which a thread waited for the GIL all the time: on a busy machine, one that
#: wakes up to ask for it again waits for a processor first
_SWITCHES: Final = 0.2


@asynccontextmanager
async def monitor_blocked_loop(settings: LoopSettings, signals: Signals) -> AsyncIterator[None]:
    """Watch the running loop for code that blocks it for `settings.blocked` seconds.

    Watching begins with the first beat, or at once if a request waits for the monitors to start.
    """
    loop = asyncio.get_running_loop()

    def failed(error: Exception) -> None:
        signals.guard.failed("watchdog", error)

    with ExitStack() as exits:
        # without the CPU time of another thread, the loop has to beat often and note its own, as one without a clock
        clock = exits.enter_context(run_clock(loop, failed)) if ThreadClock().is_exact else None
        if clock is not None:
            exits.enter_context(signals.delays.timed_by(clock))
        watchdog = _Watchdog(loop, clock, settings, signals)
        exits.enter_context(signals.delays.watched_by(watchdog.catch_up))
        watchdog.start()
        exits.callback(watchdog.stop)
        exits.enter_context(ticking(watchdog.interval, watchdog.beat, failed))
        if not settings.start_after:
            watchdog.begin()
        yield


class _Watchdog:
    """The watchdog of one loop. `beat` and `catch_up` run on the loop's thread, `_watch` on the watchdog's."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, running_since: Clock | None, settings: LoopSettings, signals: Signals
    ) -> None:
        """`running_since` is the loop's `run_clock`."""
        self._loop = loop
        self._running_since = running_since or (lambda: -inf)
        self._has_clock = running_since is not None
        self._blocked = settings.blocked
        self._beat = _BEAT if self._has_clock else min(_FAST_BEAT, _FAST_BEAT_SHARE * settings.blocked)
        self._first_look = min(_LONGEST_FIRST_LOOK, _FIRST_LOOK * settings.blocked)
        self._next_look = min(_LONGEST_NEXT_LOOK, _NEXT_LOOK * settings.blocked)
        if not self._has_clock:
            self._first_look = self._next_look = self._beat + _OVERDUE * settings.blocked
        self._signals = signals
        self._reports = BlockReports(settings, signals)
        #: when the watchdog should wake up, by `time.perf_counter()`
        self._due = inf
        #: its last look at the loop's clock
        self._looked = Moment(-inf, 0.0, 0.0)
        self._base = 0
        self._process = os.getpid()
        self._adopt_thread()

    def _adopt_thread(self) -> None:
        """Take the calling thread for the one that runs the loop."""
        self._thread = threading.get_ident()
        self._native = threading.get_native_id()
        self._schedule = ScheduleFile(self._native)
        self._sleep = SleepFile(self._native)
        #: the thread's CPU time when its schedule was read, and what was read
        self._known: tuple[float, ThreadSchedule | None] = (-1.0, None)
        self._cpu_clock = ThreadClock()
        #: before the first beat, nothing is overdue
        self._interval, self._overdue = BeatInterval(Moment(inf, 0.0, 0.0), inf), inf

    def start(self) -> None:
        """Start the thread."""
        # a plain lock: releasing it never blocks, in whatever state a fork caught it
        self._awake = threading.Lock()
        self._awake.acquire()
        threading.Thread(target=self._watch, args=(self._awake,), name="otel_fastperf-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end. Called on the loop, which must not wait for it."""
        self._awake.release()

    def interval(self) -> float:
        """Seconds to the next beat of the ticker."""
        return self._beat if self._has_begun else min(self._beat, _FAST_BEAT)

    def beat(self, _late: float = 0.0) -> None:
        """Note that the loop is free, and report a block that has ended. Called by `ticking`, or on demand."""
        if threading.get_ident() != self._thread:
            self._adopt_thread()
        self._base = base_of(_running_loop_frame())
        interval = self._interval
        if self._has_clock and self._has_begun and not (interval.samples or interval.late_wakeups or self._is_late()):
            return
        now, since = self._now(), self._running_since()
        self._freed(now)
        run = self._block(interval, now, since)
        if run is not None:
            self._evaluate(run, interval, now)

    @property
    def _has_begun(self) -> bool:
        return self._overdue != inf

    def begin(self) -> None:
        """Note that the loop is free, before its first beat. Called by a coroutine."""
        self._base = base_of(_running_loop_frame())
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
        interval, now, since = self._interval, self._now(), self._running_since()
        run = self._block(interval, now, since)
        if run is None:
            # the code that runs now may go on to block the loop
            self._overdue = max(now.at + _BACKOFF * self._blocked, since + self._blocked)
        else:
            self._freed(now)
            self._evaluate(run, interval, now)

    def _now(self) -> Moment:
        cpu, process = self._cpu_clock.seconds(), time.process_time()
        if cpu != self._known[0]:
            # the kernel notes how long a thread waited for a processor when it gets one
            self._known = cpu, self._schedule.read()
        return Moment(time.perf_counter(), cpu, process, self._known[1])

    def _freed(self, now: Moment) -> None:
        """The loop is free: later samples belong to a new interval."""
        self._interval = BeatInterval(now, now.at + self._first_look)
        self._overdue = now.at + self._blocked

    def _block(self, interval: BeatInterval, now: Moment, since: float) -> LoopRun | None:
        # in a forked child there is no watchdog, and the loop is a copy
        if now.at - interval.free.at < self._blocked or os.getpid() != self._process:
            return None
        run = longest_run(interval, now, since, self._late_wakeups(interval, now))
        return run if run is not None and run.seconds >= self._blocked else None

    def _evaluate(self, run: LoopRun, interval: BeatInterval, now: Moment) -> None:
        delays = self._signals.delays
        others_starved = delays.starvation.of_another(self._native, run.before.at, run.after.at)
        measurement = measured(
            run, self._late_wakeups(interval, now), delays.pauses_until(now.at), others_starved=others_starved
        )
        cause = blocked_by(measurement, self._blocked)
        by_others = cause is BlockedBy.GIL_HELD and by_other_threads(measurement)
        innocent = by_others or cause is BlockedBy.DESCHEDULED
        self._reports.report(
            replace(run, samples=()) if innocent else run, cause, lost(measurement, cause), by_others=by_others
        )

    def _is_late(self) -> bool:
        return time.perf_counter() - self._due > _ON_TIME

    def _late_wakeups(self, interval: BeatInterval, now: Moment) -> tuple[LateWakeup, ...]:
        """Those so far, and the one that is overdue: a stopped process may get here before its watchdog wakes up.

        Why that one is late is not known yet. If the loop's thread computed meanwhile, it had the GIL.
        """
        due, late = self._due, tuple(interval.late_wakeups)
        if now.at - due <= _ON_TIME:
            return late
        return *late, LateWakeup(due, now.at, gil_wait=now.cpu - interval.free.cpu)

    def _watch(self, awake: Any) -> None:
        while not self._loop.is_closed():
            interval, now = self._interval, time.perf_counter()
            # not longer than `_next_look`, because a new interval may have begun
            sleep = min(max(interval.look_at - now, 0.0), self._next_look)
            due = self._due = now + sleep
            waits = GilWaits()
            if awake.acquire(timeout=sleep):
                return
            try:
                self._woke(due, waits)
                self._signals.delays.starvation.note()
            except Exception as error:  # noqa: BLE001 - the next sample may succeed
                self._signals.guard.failed("watchdog", error)

    def _woke(self, due: float, gil_waits: GilWaits) -> None:
        """Sample the loop's thread if it runs for long."""
        now, interval = time.perf_counter(), self._interval
        late = now - due
        waits = gil_waits.failed(late)
        if late > _ON_TIME:
            interval.late_wakeups.append(LateWakeup(due, now, _gil_wait(late, waits)))
        if now < interval.look_at:
            return
        since = max(self._running_since(), interval.free.at)
        moment = self._now()._replace(at=now)
        if now - since < self._first_look:
            interval.look_at = now + self._next_look if since >= now else since + self._first_look
            if late >= _KEPT * self._blocked:
                self._ask_for_beat(interval)
            else:
                self._saw_free(interval, moment, since)
            return
        interval.look_at = now + max(_DENSEST * self._blocked, _GROWTH * (now - since))
        asleep = waits <= 0 and self._is_asleep()
        locked = self._sleep.waits_for_lock()
        sight = look(self._loop, self._thread, self._base)
        # the loop may have beaten in between
        if self._interval is interval:
            interval.samples.append(Sample(moment, sight, since, asleep, locked))
            if sight.running:
                self._ask_for_beat(interval)
        if locked:
            self._signals.delays.starvation.note(waits=True)

    def _saw_free(self, interval: BeatInterval, moment: Moment, since: float) -> None:
        """Move the start of an interval in which nothing was noted: the loop waits, or its iteration has just begun."""
        looked, self._looked = self._looked, moment
        if interval.beat_asked:
            return  # the beat evaluates what was noted
        interval.late_wakeups.clear()
        if since >= moment.at:
            interval.free = moment
        elif interval.free.at < looked.at <= since:
            interval.free = looked
        interval.first_look = interval.look_at
        self._overdue = since + self._blocked

    def _ask_for_beat(self, interval: BeatInterval) -> None:
        if not interval.beat_asked:
            interval.beat_asked = True
            with suppress(RuntimeError):  # the loop has been closed
                self._loop.call_soon_threadsafe(self._asked_beat, context=Context())

    def _asked_beat(self) -> None:
        try:
            self.beat()
        except Exception as error:  # noqa: BLE001 - the loop goes on
            self._signals.guard.failed("watchdog", error)

    def _is_asleep(self) -> bool:
        """False for a thread that runs or is runnable: https://man7.org/linux/man-pages/man5/proc.5.html.

        True where this is not told: the CPU time decides there, which `blocked_by` looks at first.
        """
        try:
            status = (PROC / f"task/{self._native}/stat").read_bytes()
        except OSError:
            return True
        # the state follows the name, which is in brackets and may contain brackets
        return status.rpartition(b")")[2].split()[0] != b"R"


def _gil_wait(late: float, waits: int) -> float:
    """Seconds of `late` in which the calling thread waited for the GIL, from the number of its attempts to get it."""
    seconds = waits * sys.getswitchinterval()
    return late if seconds >= _SWITCHES * late else _TOLERANCE * seconds


def _running_loop_frame() -> FrameType | None:
    """The frame outside of the running callback or coroutine: it runs the loop, if that has no frames of its own."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - the only way to the current frame
    while frame is not None and (is_own(frame.f_code.co_filename) or frame.f_code.co_flags & CO_COROUTINE):
        frame = frame.f_back
    return frame
