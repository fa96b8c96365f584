"""Publishes the statistics of caches, which the app passes to `observe_cache` or which are discovered."""

from collections.abc import Iterator
from contextlib import contextmanager

from otel_fastperf.caches.registry import Caches
from otel_fastperf.signals import Signals


@contextmanager
def instrument_caches(caches: Caches, signals: Signals) -> Iterator[None]:
    """Publish the statistics of `caches` on `/metrics` until the context manager exits."""
    stop_publishing = signals.metrics.on_refresh(caches.publish)
    caches.install(signals)
    try:
        yield
    finally:
        stop_publishing()
        caches.remove()
