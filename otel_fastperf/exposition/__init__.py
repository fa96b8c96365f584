"""`/metrics`: the page with all metrics, on the app's port or on a separate one."""

from otel_fastperf.exposition.endpoint import Exposition
from otel_fastperf.exposition.server import serve_on_port, serve_when_free

__all__ = ["Exposition", "serve_on_port", "serve_when_free"]
