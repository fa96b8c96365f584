"""Spans, from the tracer provider to the network. Only this folder imports the OpenTelemetry SDK.

    setup          chooses the provider and the span processor
    provider       our TracerProvider;  safe_sdk: its sampler and processors;  store: spans kept in this process
    watched_calls  tells of outgoing calls
    propagators    the headers that carry a trace between services
    sender         the span processor that exports;  worker: its threads;  delivery: one batch, until it is settled
    buffer         waiting spans, all accounted for;  packer: encodes them;  otlp_encoder, encoded_queue: as bytes
    transport      the interface for one export;  exporters, otlp_http, otlp_grpc: its implementations
    connection     HTTP with one deadline and bounded answers;  proxy, tls: what the environment says of them
    log_once       warnings about undelivered spans

The two interfaces to build on are `transport.Transport` and `provider.FastPerfTracerProvider`.
"""

from otel_fastperf.tracing.setup import Tracing, open_tracing
from otel_fastperf.tracing.store import SpanStore

__all__ = ["SpanStore", "Tracing", "open_tracing"]
