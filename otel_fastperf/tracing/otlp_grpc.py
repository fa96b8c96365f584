"""OTLP over gRPC: the official exporter on a stub that observes each call.

The exporter has no argument for it; `_client` is the attribute that holds the stub in all versions from 1.38 to 1.45,
and tests/tracing/test_transport.py fails where it is not. Which codes call for a retry:
https://opentelemetry.io/docs/specs/otlp/#failures
"""

from collections.abc import Sequence
from typing import Any, Final

import grpc  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan

from otel_fastperf.settings import TracesSettings
from otel_fastperf.tracing.transport import Answer, AttemptEnded, Verdict

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
_OPTIONS: Final = (("grpc.max_reconnect_backoff_ms", 5000), ("grpc.dns_min_time_between_resolutions_ms", 5000))
_RETRY_INFO: Final = "google.rpc.retryinfo-bin"


class OtlpGrpc:
    """One exporter with a channel of its own."""

    def __init__(self, settings: TracesSettings) -> None:
        self._closed = False
        self._exporter = OTLPSpanExporter(
            endpoint=settings.url,
            headers={name.lower(): value for name, value in settings.headers.items()} or None,
            timeout=settings.timeout,
            compression=_COMPRESSION[settings.compression],
            channel_options=_OPTIONS,  # type: ignore[arg-type]  # declared as one pair of strings, passed on as pairs
        )
        self._stub = _Stub(self._exporter._client)  # noqa: SLF001 - see the module
        self._exporter._client = self._stub  # type: ignore[assignment]  # noqa: SLF001

    def send(self, spans: Sequence[ReadableSpan], timeout: float) -> Answer:
        """Encode and call once."""
        stub = self._stub
        stub.timeout = timeout
        reason = ""
        try:
            self._exporter.export(spans)
        except AttemptEnded:
            pass
        except Exception as error:  # noqa: BLE001 - the exporter lets an encoding error out
            reason = type(error).__name__
        answer = stub.take_answer() or Answer(Verdict.UNENCODABLE, reason)
        if self._closed and answer.verdict is not Verdict.ACCEPTED:
            return Answer(Verdict.INTERRUPTED)
        return answer

    def prepare_fork(self, *, idle: bool) -> None:
        """End the call under way. Not the channel: one that closes while the process forks leaves gRPC's locks taken.

        With no call under way gRPC's own fork handlers do their work; the child must use a channel of its own.
        """
        if not idle:
            self._stub.cancel()

    def close(self) -> None:
        """Close the channel; a call that is under way ends at once."""
        self._closed = True
        self._exporter.shutdown()


class _Stub:
    """Makes the call with our time limit, keeps the answer, and raises what is no success through the exporter."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.timeout = 0.0
        self._call: Any = None
        self._answer: Answer | None = None

    def take_answer(self) -> Answer | None:
        """What came of the last call; None if there was none."""
        answer, self._answer = self._answer, None
        return answer

    def cancel(self) -> None:
        """From another thread: end the call under way."""
        call = self._call
        if call is not None:
            call.cancel()

    def Export(self, request: Any, metadata: Any = (), timeout: float | None = None) -> Any:  # noqa: ARG002, N802
        try:
            self._call = self._stub.Export.future(request, metadata=metadata, timeout=self.timeout)
            response = self._call.result()
        except grpc.FutureCancelledError:
            self._answer = Answer(Verdict.INTERRUPTED)
            raise AttemptEnded from None
        except grpc.RpcError as error:
            self._answer = _failed(error)
            raise AttemptEnded from None
        except Exception as error:  # noqa: BLE001 - told in the answer
            # metadata that is none; its text would hold the header's value
            self._answer = Answer(Verdict.REJECTED, type(error).__name__)
            raise AttemptEnded from None
        partial = response.partial_success
        self._answer = Answer(Verdict.ACCEPTED, partial.error_message[:200], refused=partial.rejected_spans)
        return response


def _failed(error: Any) -> Answer:
    """`error` is a grpc.RpcError that is a grpc.Call too."""
    code = error.code()
    details = str(error.details() or "").rpartition("last error: ")[2]
    reason = f"gRPC {code.name} {details[:160]}".strip()
    retry_after = _retry_delay(error.trailing_metadata() or ())
    if code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None):
        return Answer(Verdict.RETRY, reason, retry_after)
    return Answer(Verdict.REJECTED, reason)


def _retry_delay(metadata: Any) -> float | None:
    for key, value in metadata:
        if key == _RETRY_INFO:
            delay = RetryInfo.FromString(value).retry_delay
            return float(delay.seconds + delay.nanos / 1e9)
    return None
