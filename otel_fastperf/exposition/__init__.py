"""`/metrics`: the page of all numbers, on the app's own port or on one of its own."""

from otel_fastperf.exposition.endpoint import Exposition
from otel_fastperf.exposition.server import serve_on_port

__all__ = ["Exposition", "serve_on_port"]
