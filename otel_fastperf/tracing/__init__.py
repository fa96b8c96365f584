"""Spans, from the provider to the wire. The only part of the package that knows the OpenTelemetry SDK.

    opening     which provider, which processor
    provider    our TracerProvider;  guarded: its sampler and processors;  store: spans kept in this process
    sender      the span processor that exports;  worker: its thread;  buffer: what waits, and the books
    transport   one attempt, one answer;  exporters, otlp_http, otlp_grpc: who makes it;  notices: what is logged

`transport.Transport` is the seam to the wire and `provider.FastPerfTracerProvider` the one to the span object.
"""

from otel_fastperf.tracing.setup import Tracing, open_tracing
from otel_fastperf.tracing.store import SpanStore

__all__ = ["SpanStore", "Tracing", "open_tracing"]
