"""The request metrics that FastAPI's native telemetry and contrib's middleware measure beside ours.

They stay on: whoever had them before `setup_telemetry` has them afterwards. If they go to an OTLP receiver, ours of the
same name are not pushed as well, since a sum over both would count each request twice.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from opentelemetry import metrics
from starlette.applications import Starlette

from otel_fastperf.instrumentation.other_telemetry import contrib_middleware, native_config

#: FastAPI >= 0.142
_NATIVE: Final = frozenset({"http.server.request.duration", "http.server.active_requests"})
#: attribute of contrib's middleware, None if it does not measure it -> name, as far as ours has the same
_CONTRIB: Final = {
    "active_requests_counter": "http.server.active_requests",
    "duration_histogram_new": "http.server.request.duration",
    "server_request_body_size_histogram": "http.server.request.body.size",
    "server_response_body_size_histogram": "http.server.response.body.size",
}
#: names under which readers, exporters and their wrappers keep what they wrap
_WRAPPED: Final = ("_exporter", "wrapped_exporter")


def are_metrics_read() -> bool:
    """Whether anything reads the metrics of the global meter provider. True if that cannot be known."""
    readers = _readers(metrics.get_meter_provider())
    return readers is None or bool(readers)


def pushed_by_others(app: Starlette) -> frozenset[str]:
    """The names of ours that FastAPI or contrib also measure for this app, and that its meter provider pushes."""
    contrib = contrib_middleware(app.middleware_stack)
    if contrib is not None:
        names = frozenset(name for key, name in _CONTRIB.items() if getattr(contrib, key, None) is not None)
        return names if _pushes(None) else frozenset()
    native = native_config(app)
    return _NATIVE if native is not None and native["metrics"] and _pushes(native["meter_provider"]) else frozenset()


def _pushes(provider: metrics.MeterProvider | None) -> bool:
    """Whether a provider, or else the global one, pushes by OTLP."""
    readers = _readers(metrics.get_meter_provider() if provider is None else provider)
    return any("otlp" in type(each).__module__ for reader in readers or () for each in _nested(reader))


def _nested(reader: Any) -> Iterator[Any]:
    while reader is not None:
        yield reader
        reader = next((found for name in _WRAPPED if (found := getattr(reader, name, None)) is not None), None)


def _readers(provider: Any) -> Iterable[Any] | None:
    """A provider's readers; none if metrics are not configured, None if it is not the SDK's: they are private."""
    # Logfire's provider wraps that of the SDK
    provider = getattr(provider, "provider", provider)
    if isinstance(provider, metrics.NoOpMeterProvider) or type(provider).__name__ == "_ProxyMeterProvider":
        return ()
    # older SDKs keep them in their configuration
    holder, name = (provider, "_metric_readers") if hasattr(provider, "_metric_readers") else (None, "metric_readers")
    return getattr(holder or getattr(provider, "_sdk_config", None), name, None)
