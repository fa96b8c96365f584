"""Which destination the settings ask for. gRPC is imported here, and only when it is to be used."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.errors import SetupError
from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.otlp_encoder import EncodedSpan, encode_span
from otel_fastperf.tracing.transport import Answer, Destination, Verdict

#: signal -> module and class
_SDK_EXPORTERS: Final = {
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}


def destination(settings: TracesSettings) -> Destination:
    """Where the settings send spans. Imports what that takes, connects nothing.

    Raises:
        SetupError: The exporter's package is missing.
    """
    if settings.exporter == "console":
        return Destination(_as_json, Console, takes_otlp=False)
    try:
        if settings.protocol == "grpc":
            from otel_fastperf.tracing.otlp_grpc import OtlpGrpc

            return Destination(_as_otlp, lambda: OtlpGrpc(settings))
        from otel_fastperf.tracing.otlp_http import OtlpHttp
    except ImportError as error:
        raise _missing(settings.protocol, error) from error
    return Destination(_as_otlp, lambda: OtlpHttp(settings))


def sdk_exporter(signal: Literal["metrics", "logs"], protocol: str) -> Any:
    """The class of the SDK's OTLP exporter for a signal that is not hot.

    It reads headers, certificates, timeout and compression from OpenTelemetry's variables.

    Raises:
        SetupError: The exporter's package is missing.
    """
    module, name = _SDK_EXPORTERS[signal]
    transport = protocol.removesuffix("/protobuf")
    try:
        return getattr(import_module(f"opentelemetry.exporter.otlp.proto.{transport}.{module}"), name)
    except ImportError as error:
        raise _missing(protocol, error, signal) from error


def _missing(protocol: str, error: ImportError, signal: str = "spans") -> SetupError:
    package = "opentelemetry-exporter-otlp-proto-" + protocol.removesuffix("/protobuf")
    return SetupError(f"cannot export {signal} over OTLP {protocol}: {error}. Remedy: pip install {package}")


def _as_otlp(span: ReadableSpan) -> EncodedSpan:
    return EncodedSpan(span.resource, span.instrumentation_scope, encode_span(span))


def _as_json(span: ReadableSpan) -> EncodedSpan:
    return EncodedSpan(span.resource, span.instrumentation_scope, (span.to_json() + os.linesep).encode())


class Console:
    """Prints spans as JSON."""

    def send(self, spans: Sequence[EncodedSpan], timeout: float) -> Answer:  # noqa: ARG002 - printing has no time limit
        """Print them."""
        try:
            sys.stdout.write(b"".join(span.data for span in spans).decode())
            sys.stdout.flush()
        except Exception as error:  # noqa: BLE001 - a console that is gone, or cannot write these characters
            return Answer(Verdict.REJECTED, type(error).__name__)
        return Answer(Verdict.ACCEPTED)

    def prepare_fork(self, *, idle: bool) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to free."""
