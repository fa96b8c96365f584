"""The caches of one `Telemetry`, handed over by the app or found: what they tell, and the metrics that it feeds."""

import functools
import threading
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Final, NamedTuple, TypeVar

from otel_fastperf.caches.adapters import Adapter, Failed, Reading, adapter_of
from otel_fastperf.findings import CallSite
from otel_fastperf.internals.app_globals import named_values, wrapped
from otel_fastperf.metrics import Metrics
from otel_fastperf.signals import Signals

#: cached functions that are found by themselves; an app with more names those it cares for
MOST_FOUND: Final = 200

_LRU_CACHE: Final = type(functools.lru_cache(int))
_WRAPPERS: Final = ("cachetools._cached", "async_lru")

_C = TypeVar("_C")


class CacheState(NamedTuple):
    """A cache and its numbers by now."""

    name: str
    reading: Reading
    call_site: CallSite | None


class Caches:
    """The caches that one `Telemetry` observes. Safe to call from any thread."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._signals: Signals | None = None
        self._lock = threading.Lock()

    def observe(self, cache: _C, name: str | None = None) -> _C:
        """Observe a cache from now on, before or after the telemetry has begun; returns it.

        Without a name, a function is called as it is in its module, and an object as the global that holds it. To
        observe a cache again gives it the new name.

        Raises:
            SetupError: It is no cache that is known; the message names the cure.
        """
        adapter = adapter_of(cache)
        with self._lock:
            known = self._watched.pop(id(adapter.target()), None)
            if known is not None:
                self._forget(known)
            self._watch(adapter, name or adapter.name)
        return cache

    def discover(self) -> None:
        """Observe the application's cached functions that are not observed yet, as they are called in its modules."""
        found = [
            function
            for _, value in named_values()
            for function in wrapped(value)
            if _counts_by_itself(function) and not self._is_watched(function)
        ]
        for function in found:
            with self._lock:
                if len(self._watched) < MOST_FOUND and not self._is_watched(function):
                    adapter = adapter_of(function)
                    self._watch(adapter, adapter.name)

    def publish(self) -> None:
        """Bring `/metrics` up to date."""
        self.states()

    def states(self) -> list[CacheState]:
        """Bring `/metrics` up to date, and tell the numbers. Nothing unless it is instrumented."""
        with self._lock:
            if self._signals is None:
                return []
            for key, watched in list(self._watched.items()):
                if watched.adapter.target() is None:
                    self._forget(self._watched.pop(key))
            return [
                CacheState(watched.name, reading, watched.adapter.call_site)
                for watched in self._watched.values()
                if (reading := watched.publish(self._signals)) is not None
            ]

    def install(self, signals: Signals) -> None:
        """Begin to count. Called by `instrument_caches`."""
        with self._lock:
            self._signals = signals
            for watched in self._watched.values():
                watched.install(signals)

    def remove(self) -> None:
        """Leave every cache as it was. Called by `instrument_caches`."""
        with self._lock:
            for watched in self._watched.values():
                watched.remove()
            self._signals = None

    def _is_watched(self, cache: object) -> bool:
        watched = self._watched.get(id(cache))
        return watched is not None and watched.adapter.target() is cache

    def _watch(self, adapter: Adapter, name: str) -> None:
        taken = {watched.name for watched in self._watched.values()}
        free = next(each for each in _numbered(name) if each not in taken)
        watched = self._watched[id(adapter.target())] = _Watched(adapter, free)
        if self._signals is not None:
            watched.install(self._signals)

    def _forget(self, watched: "_Watched") -> None:
        watched.remove()
        if self._signals is not None:
            self._signals.metrics.cache_size.remove(watched.name)
            self._signals.metrics.cache_max_size.remove(watched.name)


class _Watched:
    def __init__(self, adapter: Adapter, name: str) -> None:
        self.adapter = adapter
        self.name = name
        self._counted = Reading(0, 0, 0)

    def install(self, signals: Signals) -> None:
        failed = _failed(signals)
        try:
            self.adapter.install(failed)
        except Exception as error:  # noqa: BLE001 - a class that forbids it: this cache is not counted
            failed(error)

    def remove(self) -> None:
        self.adapter.remove()

    def publish(self, signals: Signals) -> Reading | None:
        """Feed the metrics by what has changed; returns what was read."""
        try:
            reading = self.adapter.read()
        except Exception as error:  # noqa: BLE001 - a cache that cannot tell: the others can
            _failed(signals)(error)
            return None
        if reading is not None:
            self._feed(signals.metrics, reading)
        return reading

    def _feed(self, metrics: Metrics, reading: Reading) -> None:
        before, self._counted = self._counted, reading
        if reading.hits < before.hits or reading.misses < before.misses:
            before = Reading(0, 0, before.evictions)  # it was cleared, and has counted from 0 again
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


def _counts_by_itself(function: Any) -> bool:
    """By its type, or by what its `__dict__` holds: not every object likes to be asked."""
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
