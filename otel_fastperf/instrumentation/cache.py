"""Caches: the app hands them over with `observe_cache`, or they are found; their numbers are on `/metrics`."""

from collections.abc import Iterator
from contextlib import contextmanager

from otel_fastperf.caches.registry import Caches
from otel_fastperf.signals import Signals


@contextmanager
def instrument_caches(caches: Caches, signals: Signals) -> Iterator[None]:
    """Count and publish until the block ends."""
    undo = signals.metrics.on_refresh(caches.publish)
    caches.install(signals)
    try:
        yield
    finally:
        undo()
        caches.remove()
