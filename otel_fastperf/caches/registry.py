"""The caches of one `Telemetry`, passed by the app or discovered, and their metrics."""

import functools
import threading
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Final, NamedTuple, TypeVar

from otel_fastperf.caches.adapters import Adapter, Failed, Reading, adapter_of
from otel_fastperf.findings import CallSite
from otel_fastperf.internals.app_globals import named_values, wrapped
from otel_fastperf.internals.frames import is_application
from otel_fastperf.metrics import Metrics
from otel_fastperf.signals import Signals

#: most cached functions that are discovered; an app with more passes the important ones to `observe_cache`
MOST_DISCOVERED: Final = 200

_LRU_CACHE: Final = type(functools.lru_cache(int))
_WRAPPERS: Final = ("cachetools._cached", "async_lru")

_C = TypeVar("_C")


class CacheState(NamedTuple):
    """A cache and its current reading."""

    name: str
    reading: Reading
    call_site: CallSite | None


class Caches:
    """The caches that one `Telemetry` observes. Thread-safe."""

    def __init__(self) -> None:
        self._observed: dict[int, _ObservedCache] = {}
        self._signals: Signals | None = None
        self._lock = threading.Lock()

    def observe(self, cache: _C, name: str | None = None) -> _C:
        """Observe a cache from now on and return it. Works before and after the telemetry has started.

        By default, a function is named by its module and qualified name, and an object by the global that holds it.
        Observing a cache again renames it.

        Raises:
            SetupError: The cache is of an unknown kind; the message names the remedy.
        """
        adapter = adapter_of(cache)
        with self._lock:
            known = self._observed.pop(id(adapter.target()), None)
            if known is not None:
                self._drop(known)
            self._add(adapter, name or adapter.name)
        return cache

    def discover(self) -> None:
        """Observe the application's cached functions that are not observed yet."""
        found = [
            function
            for _, value in named_values()
            for function in wrapped(value)
            if _has_counts(function) and not self._is_observed(function)
        ]
        for function in found:
            adapter = adapter_of(function)
            if adapter.call_site is not None and not is_application(adapter.call_site.file):
                continue  # imported from elsewhere, such as `urllib.parse.urlsplit`
            with self._lock:
                if len(self._observed) < MOST_DISCOVERED and not self._is_observed(function):
                    self._add(adapter, adapter.name)

    def publish(self) -> None:
        """Bring `/metrics` up to date."""
        self.states()

    def states(self) -> list[CacheState]:
        """Bring `/metrics` up to date and return the readings; none unless instrumented."""
        with self._lock:
            if self._signals is None:
                return []
            for key, observed in list(self._observed.items()):
                if observed.adapter.target() is None:
                    self._drop(self._observed.pop(key))
            return [
                CacheState(observed.name, reading, observed.adapter.call_site)
                for observed in self._observed.values()
                if (reading := observed.publish(self._signals)) is not None
            ]

    def install(self, signals: Signals) -> None:
        """Start counting. Called by `instrument_caches`."""
        with self._lock:
            self._signals = signals
            for observed in self._observed.values():
                observed.install(signals)

    def remove(self) -> None:
        """Restore every cache. Called by `instrument_caches`."""
        with self._lock:
            for observed in self._observed.values():
                observed.remove()
            self._signals = None

    def _is_observed(self, cache: object) -> bool:
        observed = self._observed.get(id(cache))
        return observed is not None and observed.adapter.target() is cache

    def _add(self, adapter: Adapter, name: str) -> None:
        taken = {observed.name for observed in self._observed.values()}
        free = next(each for each in _numbered(name) if each not in taken)
        observed = self._observed[id(adapter.target())] = _ObservedCache(adapter, free)
        if self._signals is not None:
            observed.install(self._signals)

    def _drop(self, observed: "_ObservedCache") -> None:
        observed.remove()
        if self._signals is not None:
            self._signals.metrics.cache_size.remove(observed.name)
            self._signals.metrics.cache_max_size.remove(observed.name)


class _ObservedCache:
    def __init__(self, adapter: Adapter, name: str) -> None:
        self.adapter = adapter
        self.name = name
        self._counted = Reading(0, 0, 0)

    def install(self, signals: Signals) -> None:
        failed = _failed(signals)
        try:
            self.adapter.install(failed)
        except Exception as error:  # noqa: BLE001 - its class forbids it, so this cache is not counted
            failed(error)

    def remove(self) -> None:
        self.adapter.remove()

    def publish(self, signals: Signals) -> Reading | None:
        """Update the metrics with the changes since the last reading; return the new one."""
        try:
            reading = self.adapter.read()
        except Exception as error:  # noqa: BLE001 - one unreadable cache must not affect the others
            _failed(signals)(error)
            return None
        if reading is not None:
            self._feed(signals.metrics, reading)
        return reading

    def _feed(self, metrics: Metrics, reading: Reading) -> None:
        before, self._counted = self._counted, reading
        if reading.hits < before.hits or reading.misses < before.misses:
            before = Reading(0, 0, before.evictions)  # the cache was cleared and counts from 0 again
        for family, now, then in (
            (metrics.cache_hits, reading.hits, before.hits),
            (metrics.cache_misses, reading.misses, before.misses),
            (metrics.cache_evictions, reading.evictions, before.evictions or 0),
        ):
            if now is not None:
                family.child(self.name).inc(now - then)
        if reading.size is not None:
            metrics.cache_size.child(self.name).set(reading.size)
        if reading.maxsize is not None:
            metrics.cache_max_size.child(self.name).set(reading.maxsize)


def _failed(signals: Signals) -> Failed:
    return lambda error: signals.guard.failed("cache", error)


def _has_counts(function: Any) -> bool:
    """Whether a function counts hits. Looks only at type and `__dict__`: attribute access may run code of the app."""
    if type(function) is _LRU_CACHE or type(function).__module__ in _WRAPPERS:
        return callable(getattr(function, "cache_info", None))
    return type(function) is FunctionType and callable(function.__dict__.get("cache_info"))


def _numbered(name: str) -> Iterator[str]:
    """`cache`, `cache 2`, `cache 3` ..."""
    yield name
    number = 2
    while True:
        yield f"{name} {number}"
        number += 1
