"""Which transport the settings ask for. The official exporters are imported here, and only when they are to be used."""

import sys
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from otel_fastperf.errors import SetupError
from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.transport import Answer, Transport, Verdict


def transport_builder(settings: TracesSettings) -> Callable[[], Transport]:
    """What makes the transport that the settings ask for. Imports the exporter now, connects nothing.

    Raises:
        SetupError: The exporter's package is missing.
    """
    if settings.exporter == "console":
        return Console
    try:
        if settings.protocol == "grpc":
            from otel_fastperf.tracing.otlp_grpc import OtlpGrpc

            return lambda: OtlpGrpc(settings)
        from otel_fastperf.tracing.otlp_http import OtlpHttp
    except ImportError as error:
        package = "opentelemetry-exporter-otlp-proto-" + settings.protocol.removesuffix("/protobuf")
        message = f"otel_fastperf: cannot export over OTLP {settings.protocol}: {error}. Remedy: pip install {package}"
        raise SetupError(message) from error
    return lambda: OtlpHttp(settings)


class Console:
    """Prints spans as JSON."""

    def __init__(self) -> None:
        self._exporter = ConsoleSpanExporter(out=sys.stdout)

    def send(self, spans: Sequence[ReadableSpan], timeout: float) -> Answer:  # noqa: ARG002 - printing has no time limit
        """Print them."""
        try:
            self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - a span that is no JSON, or a console that is gone
            return Answer(Verdict.UNENCODABLE, type(error).__name__)
        return Answer(Verdict.ACCEPTED)

    def prepare_fork(self, *, idle: bool) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to free."""
