"""A periodic call on an event loop, which drives the monitors.

It is a chain of timers, not a task: it costs no task switch, does not appear in `asyncio.all_tasks()`, does not keep a
loop running, and a loop that closes drops it without a warning. It uses only the loop's public API, so it works with
any loop.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Final

#: seconds
_ROUNDING: Final = 0.001


@contextmanager
def ticking(
    interval: float | Callable[[], float], tick: Callable[[float], object], failed: Callable[[Exception], None]
) -> Iterator[None]:
    """Call `tick(late)` on the running loop every `interval` seconds until the context manager exits.

    A function is asked for the interval before each tick.

    `late` is the timer's delay in seconds, at least 0; asyncio and uvloop round timers to a millisecond. The next timer
    starts when `tick` returns, so a loop that was blocked is late once, not once per interval. An exception of `tick`
    goes to `failed`, and ticking continues.
    """
    ticker = _Ticker(asyncio.get_running_loop(), interval, tick, failed)
    ticker.schedule()
    try:
        yield
    finally:
        ticker.stop()


class _Ticker:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interval: float | Callable[[], float],
        tick: Callable[[float], object],
        failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._tick = tick
        self._failed = failed
        # an empty context: a copy of the caller's would keep its request or span alive
        self._context = Context()
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._stopped = False

    def schedule(self) -> None:
        """Set the timer to the next multiple of the interval, so that tickers of one interval share a wake-up."""
        now, interval = time.perf_counter(), self._interval() if callable(self._interval) else self._interval
        # loops round timers to a millisecond, so this tick may have come a little before its multiple
        self._due = (max(now, self._due + _ROUNDING) // interval + 1) * interval
        self._handle = self._loop.call_later(self._due - now, self._run, context=self._context)

    def stop(self) -> None:
        self._stopped = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _run(self) -> None:
        late = max(0.0, time.perf_counter() - self._due)
        try:
            self._tick(late)
        except Exception as error:  # noqa: BLE001 - a failing monitor must not stop the ticker or reach the loop
            self._failed(error)
        if not self._stopped:
            self.schedule()
