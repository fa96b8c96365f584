"""Caches on the clock: finds them, reads them, and judges each after so many look-ups."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from otel_fastperf.caches.adapters import Reading
from otel_fastperf.caches.registry import Caches, CacheState
from otel_fastperf.detectors.cache_inefficient import CacheUse, detect_cache_inefficient
from otel_fastperf.internals.ticker import ticking
from otel_fastperf.settings import CacheSettings
from otel_fastperf.signals import Signals


@asynccontextmanager
async def monitor_caches(caches: Caches, settings: CacheSettings, signals: Signals) -> AsyncIterator[None]:
    """Look at once and then every `settings.interval` seconds, on the event loop: it takes a millisecond."""
    judge = _Judge(settings, signals)

    def look(_late: float = 0.0) -> None:
        if settings.discover:
            caches.discover()
        judge.look_at(caches.states())

    def failed(error: Exception) -> None:
        signals.guard.failed("cache_monitor", error)

    try:
        look()
    except Exception as error:  # noqa: BLE001 - the app's start-up goes on
        failed(error)
    with ticking(settings.interval, look, failed):
        yield


@dataclass(slots=True)
class _Stretch:
    """What a cache has said when the stretch of look-ups that is under way began, and before."""

    start: Reading
    lookups_so_far: int = 0
    growing: int = 0


@dataclass(slots=True)
class _Judge:
    settings: CacheSettings
    signals: Signals
    stretches: dict[str, _Stretch] = field(default_factory=dict)

    def look_at(self, states: list[CacheState]) -> None:
        """Report what is found in stretches that are over; forget caches that are gone."""
        self.stretches = {state.name: self.stretches.get(state.name) or _Stretch(state.reading) for state in states}
        for state in states:
            use = self._use(state, self.stretches[state.name])
            if use is not None:
                for finding in detect_cache_inefficient(use, self.settings):
                    self.signals.findings.report(finding)

    def _use(self, state: CacheState, stretch: _Stretch) -> CacheUse | None:
        """The stretch that ends here; None when it goes on."""
        now, start = state.reading, stretch.start
        hits, lookups = now.hits - start.hits, now.hits + now.misses - start.hits - start.misses
        if hits < 0 or lookups < hits:
            stretch.start = now  # it was cleared
            return None
        if lookups < self.settings.lookups:
            return None
        grown = None if now.size is None or start.size is None else now.size - start.size
        stretch.start = now
        stretch.lookups_so_far += lookups
        stretch.growing = stretch.growing + 1 if grown is not None and grown > 0 else 0
        return CacheUse(
            name=state.name,
            lookups=lookups,
            hits=hits,
            lookups_so_far=stretch.lookups_so_far,
            size=now.size,
            grown=grown,
            maxsize=now.maxsize,
            growing=stretch.growing,
            call_site=state.call_site,
        )
