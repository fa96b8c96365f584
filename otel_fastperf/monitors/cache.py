"""Periodic reading of caches: discovers them, and evaluates each after every `lookups` look-ups."""

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
    """Read all caches at once and then every `settings.interval` seconds, on the event loop: it takes a millisecond."""
    judge = _Judge(settings, signals)

    def read(_late: float = 0.0) -> None:
        if settings.discover:
            caches.discover()
        judge.judge(caches.states())

    def failed(error: Exception) -> None:
        signals.guard.failed("cache_monitor", error)

    try:
        read()
    except Exception as error:  # noqa: BLE001 - the app's start-up must continue
        failed(error)
    with ticking(settings.interval, read, failed):
        yield


@dataclass(slots=True)
class _Period:
    """The reading of a cache at the start of the current period of look-ups, and totals of earlier periods.

    Attributes:
        growing: Number of consecutive periods, up to the latest, in which the cache has grown.
    """

    start: Reading
    lookups_so_far: int = 0
    growing: int = 0


@dataclass(slots=True)
class _Judge:
    settings: CacheSettings
    signals: Signals
    periods: dict[str, _Period] = field(default_factory=dict)

    def judge(self, states: list[CacheState]) -> None:
        """Report the findings of periods that have ended, and drop caches that are gone."""
        self.periods = {state.name: self.periods.get(state.name) or _Period(state.reading) for state in states}
        for state in states:
            use = self._use(state, self.periods[state.name])
            if use is not None:
                for finding in detect_cache_inefficient(use, self.settings):
                    self.signals.findings.report(finding)

    def _use(self, state: CacheState, period: _Period) -> CacheUse | None:
        """Return the use in the period that ends now; None if it has too few look-ups."""
        now, start = state.reading, period.start
        hits, lookups = now.hits - start.hits, now.hits + now.misses - start.hits - start.misses
        if hits < 0 or lookups < hits:
            period.start = now  # the cache was cleared
            return None
        if lookups < self.settings.lookups:
            return None
        grown = None if now.size is None or start.size is None else now.size - start.size
        period.start = now
        period.lookups_so_far += lookups
        period.growing = period.growing + 1 if grown is not None and grown > 0 else 0
        return CacheUse(
            name=state.name,
            lookups=lookups,
            hits=hits,
            lookups_so_far=period.lookups_so_far,
            size=now.size,
            grown=grown,
            maxsize=now.maxsize,
            growing=period.growing,
            call_site=state.call_site,
        )
