"""OTLP over gRPC: a channel of our own, since the official stub takes only messages, and ours are bytes already.

Which codes call for a retry: https://opentelemetry.io/docs/specs/otlp/#failures
"""

import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.otlp_encoder import EncodedSpan, export_request
from otel_fastperf.tracing.tls import tls_files
from otel_fastperf.tracing.transport import Answer, Verdict, printable, user_agent

_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_COMPRESSION: Final = {
    "none": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}
#: milliseconds; gRPC's own back-off goes up to 120 s, and it asks DNS every 30 s at most
_OPTIONS: Final = (
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
)
#: seconds that gRPC's threads get to end a cancelled call
_SETTLE: Final = 0.1
_RETRY_INFO: Final = "google.rpc.retryinfo-bin"


class OtlpGrpc:
    """One channel."""

    def __init__(self, settings: TracesSettings) -> None:
        self._closed = False
        self._call: Any = None
        self._metadata = tuple((name.lower(), value) for name, value in settings.headers.items())
        self._channel = _channel(settings)
        self._export = self._channel.unary_unary(_METHOD, None, ExportTraceServiceResponse.FromString)

    def send(self, spans: Sequence[EncodedSpan], timeout: float) -> Answer:
        """Call once."""
        answer = self._attempt(export_request(spans), timeout)
        if self._closed and answer.verdict is not Verdict.ACCEPTED:
            return Answer(Verdict.INTERRUPTED)
        return answer

    def prepare_fork(self, *, idle: bool) -> None:
        """End the call under way. Not the channel: one that closes while the process forks leaves gRPC's locks taken.

        With no call under way gRPC's own fork handlers do their work; the child must use a channel of its own.
        """
        call = self._call
        if not idle and call is not None:
            call.cancel()
            # its core has threads of its own that tell the server; while one does, gRPC skips its fork handlers
            time.sleep(_SETTLE)

    def close(self) -> None:
        """Close the channel; a call that is under way ends at once."""
        self._closed = True
        self._channel.close()

    def _attempt(self, request: bytes, timeout: float) -> Answer:
        try:
            self._call = self._export.future(request, metadata=self._metadata, timeout=timeout)
            response = self._call.result()
        except grpc.FutureCancelledError:
            return Answer(Verdict.INTERRUPTED)
        except grpc.RpcError as error:
            return _failed(error)
        except Exception as error:  # noqa: BLE001 - metadata that is none; its text would hold the header's value
            return Answer(Verdict.REJECTED, type(error).__name__)
        partial = response.partial_success
        return Answer(Verdict.ACCEPTED, printable(partial.error_message), refused=partial.rejected_spans)


def _channel(settings: TracesSettings, environ: Mapping[str, str] = os.environ) -> Any:
    """A channel as the official exporter makes it."""
    url = urlsplit(settings.url)
    options = {
        "compression": _COMPRESSION[settings.compression],
        "options": (*_OPTIONS, ("grpc.primary_user_agent", user_agent())),
    }
    variables = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")
    insecure = next(filter(None, (environ.get(name, "") for name in variables)), "true")
    if url.scheme == "http" and insecure.lower() == "true":
        return grpc.insecure_channel(url.netloc, **options)
    return grpc.secure_channel(url.netloc, _credentials(environ), **options)


def _credentials(environ: Mapping[str, str]) -> Any:
    variables = ("TRACES_CREDENTIAL_PROVIDER", "CREDENTIAL_PROVIDER")
    names = (environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_GRPC_{name}", "") for name in variables)
    for point in entry_points(group="opentelemetry_otlp_credential_provider", name=next(filter(None, names), "")):
        return point.load()()
    authorities, key, certificate = (Path(path).read_bytes() if path else None for path in tls_files(environ))
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def _failed(error: Any) -> Answer:
    """`error` is a grpc.RpcError that is a grpc.Call too."""
    code = error.code()
    details = str(error.details() or "").rpartition("last error: ")[2]
    reason = f"gRPC {code.name} {printable(details)}".strip()
    retry_after = _retry_delay(error.trailing_metadata() or ())
    if code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None):
        return Answer(Verdict.RETRY, reason, retry_after)
    too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED or "message larger than max" in details
    return Answer(Verdict.TOO_LARGE if too_large else Verdict.REJECTED, reason)


def _retry_delay(metadata: Any) -> float | None:
    for key, value in metadata:
        if key == _RETRY_INFO:
            delay = RetryInfo.FromString(value).retry_delay
            return float(delay.seconds + delay.nanos / 1e9)
    return None
