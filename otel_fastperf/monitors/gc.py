"""Pauses of the garbage collector, by generation.

A collection starts inside whatever allocates, also inside a lock of prometheus_client's on the same thread: what runs
in `gc.callbacks` may take no lock. It notes the pause, and a later tick or scrape counts it.
"""

import gc
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final

from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import MemorySettings
from otel_fastperf.signals import Signals
from otel_fastperf.ticker import ticking

#: seconds between two counts when nobody scrapes
_INTERVAL: Final = 1.0

#: pauses that are kept one by one, and most that are counted at once; what is over it is kept as number and sum
_PENDING: Final = 4096

_GENERATIONS: Final = 3


@asynccontextmanager
async def monitor_gc(settings: MemorySettings, signals: Signals) -> AsyncIterator[None]:  # noqa: ARG001 - as all monitors
    """Measure every collection of the process, in whichever thread it runs."""
    pauses = _Pauses(signals.metrics)

    def failed(error: Exception) -> None:
        signals.guard.failed("gc_monitor", error)

    def finish() -> None:
        try:
            pauses.count_all()
        except Exception as error:  # noqa: BLE001 - the app's shutdown goes on
            failed(error)

    with ExitStack() as stack:
        stack.callback(finish)
        gc.callbacks.append(pauses.collector_called)
        stack.callback(gc.callbacks.remove, pauses.collector_called)
        stack.callback(signals.metrics.on_refresh(pauses.count))
        stack.enter_context(ticking(_INTERVAL, lambda _late: pauses.count(), failed))
        yield


class _Pauses:
    def __init__(self, metrics: Metrics) -> None:
        self._children = tuple(metrics.gc_pause.child(str(generation)) for generation in range(_GENERATIONS))
        self._started: float | None = None
        self._pending: deque[tuple[int, float]] = deque()
        #: by generation, since the start: number and seconds of the pauses that found `_pending` full
        self._over = [(0, 0.0)] * _GENERATIONS
        self._over_counted = [(0, 0.0)] * _GENERATIONS
        self._counting = threading.Lock()

    def collector_called(self, phase: str, info: dict[str, int]) -> None:
        """See `gc.callbacks`. Collections never nest nor overlap, and neither do these calls."""
        if phase == "start":
            self._started = time.perf_counter()
        elif self._started is not None:
            seconds, self._started = time.perf_counter() - self._started, None
            generation = info["generation"]
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
