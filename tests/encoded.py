"""Spans as a transport gets them."""

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.exporters import destination
from otel_fastperf.tracing.otlp_encoder import EncodedSpan


def spans(*names: str) -> list[ReadableSpan]:
    """Finished spans of these names."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    made = [tracer.start_span(name) for name in names]
    for span in made:
        span.end()
    return [span for span in made if isinstance(span, ReadableSpan)]


def encoded(*names: str) -> list[EncodedSpan]:
    """The same, encoded for OTLP."""
    return [destination(TracesSettings(exporter="otlp")).encode(span) for span in spans(*names)]
