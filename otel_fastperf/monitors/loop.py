"""The event loop's heartbeat: timer lag, share of time it is busy, number of tasks.

Neither lag nor CPU time shows a saturated loop: one that runs 5 ms queries back to back is never more than 5 ms late,
and uses no CPU. So busy time is measured as in Node.js (`performance.eventLoopUtilization`): all time except that in
which the loop waits for events.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Final

from otel_fastperf.event_loop.clocks import Clock, idle_clock
from otel_fastperf.internals.loop_beats import LoopBeats
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import LoopSettings
from otel_fastperf.signals import Signals

#: seconds over which `fastperf_event_loop_utilization_ratio` is measured
_WINDOW: Final = 1.0

#: seconds between two beats of a loop that is busy for less than this share of its time
_IDLE_INTERVAL: Final = 0.25
_IDLE: Final = 0.1

#: asyncio and libuv wait for whole milliseconds: lag up to this is rounding, not a blocked loop
_TIMER_STEP: Final = 0.001

#: `asyncio.all_tasks()` costs 0.5 us a task: counting may take this share of the loop's time
_COUNTING_SHARE: Final = 0.004


@asynccontextmanager
async def monitor_loop(settings: LoopSettings, signals: Signals) -> AsyncIterator[None]:
    """Measure the running loop, asyncio's or uvloop's, with a heartbeat every `settings.interval` seconds.

    A loop that is mostly idle has a slower one, which costs less and sees the same lag: a late timer is as likely.
    """
    loop, metrics = asyncio.get_running_loop(), signals.metrics

    def failed(error: Exception) -> None:
        signals.guard.failed("loop_monitor", error)

    with ExitStack() as exits:
        idle = exits.enter_context(idle_clock(loop, failed))
        beats = None if idle is None else LoopBeats(idle)
        if beats is not None:
            exits.enter_context(signals.delays.beaten_by(beats))
        heartbeat = _Heartbeat(settings, metrics, idle, beats)
        tasks = _TaskCount(loop, metrics)
        exits.callback(metrics.on_refresh(heartbeat.refresh))
        exits.enter_context(ticking(heartbeat.interval, heartbeat.tick, failed))
        exits.enter_context(ticking(_WINDOW, tasks.tick, failed))
        yield


class _Heartbeat:
    """Updates the loop's metrics at each beat, and its `LoopBeats`. `idle` is the loop's `idle_clock`."""

    def __init__(self, settings: LoopSettings, metrics: Metrics, idle: Clock | None, beats: LoopBeats | None) -> None:
        self._fastest = settings.interval
        # without the clock, only lag shows that the loop was blocked
        self._slowest = settings.interval if idle is None else max(settings.interval, _IDLE_INTERVAL)
        self._is_idle = False
        self._metrics = metrics
        self._beats = beats
        self._idle_clock = idle or time.perf_counter
        self._wall, self._cpu, self._idle = time.perf_counter(), time.thread_time(), self._idle_clock()
        self._window_wall = self._window_busy = 0.0

    def interval(self) -> float:
        """Seconds to the next beat."""
        return self._slowest if self._is_idle else self._fastest

    def tick(self, late: float) -> None:
        self._metrics.loop_lag.observe(late)
        wall, busy = self._since_last_beat(late)
        self._is_idle = busy < _IDLE * wall
        self._metrics.loop_busy.inc(busy)
        self._window_wall += wall
        self._window_busy += busy
        if self._window_wall >= _WINDOW:
            self._metrics.loop_utilization.set(self._window_busy / self._window_wall)
            self._window_wall = self._window_busy = 0.0

    def refresh(self) -> None:
        """Show a loop that is blocked right now, and so has no heartbeat. Runs on the thread of the scrape."""
        if time.perf_counter() - self._wall > 2 * _WINDOW:
            self._metrics.loop_utilization.set(1.0)

    def _since_last_beat(self, late: float) -> tuple[float, float]:
        """Seconds since the last beat, and how many of them the loop was busy.

        Busy time is the largest of three lower bounds, each of which covers a case that the others miss: time not spent
        waiting (callbacks, blocking ones too); the thread's CPU time (waits that return at once); lag (a loop that had
        work and waited for the GIL).
        """
        wall, cpu, idle = time.perf_counter(), time.thread_time(), self._idle_clock()
        passed = wall - self._wall
        busy = max(passed - (idle - self._idle), cpu - self._cpu, late - _TIMER_STEP, 0.0)
        self._wall, self._cpu, self._idle = wall, cpu, idle
        if self._beats is not None:
            self._beats.note(wall, idle, late)
        return passed, min(busy, passed)


class _TaskCount:
    """Counts tasks as often as `_COUNTING_SHARE` allows: every second up to 8,000 tasks, then less often."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics) -> None:
        self._loop = loop
        self._gauge = metrics.loop_tasks
        self._not_before = 0.0

    def tick(self, _late: float) -> None:
        started = time.perf_counter()
        if started >= self._not_before:
            self._gauge.set(len(asyncio.all_tasks(self._loop)))
            self._not_before = started + (time.perf_counter() - started) / _COUNTING_SHARE
