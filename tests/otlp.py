"""A real OTLP receiver on 127.0.0.1, over HTTP or gRPC; a test can make it misbehave.

Use:
    with Receiver() as receiver:                       # or Receiver("grpc")
        ... OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, here or in a subprocess ...
        receiver.answer = unavailable()                # from now on; accepted() again later
        receiver.stop(); receiver.start()              # stops, and starts again on the same port
        spans = receiver.wait_for(3)
"""

import gzip
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

import grpc  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import add_LogsServiceServicer_to_server
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import add_MetricsServiceServicer_to_server
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import add_TraceServiceServicer_to_server
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from tests.serving import free_port

Protocol = Literal["http/protobuf", "grpc"]


@dataclass(frozen=True)
class ReceivedEvent:
    """An event of a span."""

    name: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as received. Ids are lower-case hex; `parent_id` is "" for a root."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[ReceivedEvent]
    links: list[str]
    status: str
    status_message: str
    resource: dict[str, Any]
    scope: str
    scope_version: str
    schema_url: str


@dataclass(frozen=True)
class Behaviour:
    """How a request is answered, after `delay` seconds. `grpc` is the equivalent gRPC status."""

    status: int = 200
    grpc: str = "OK"
    retry_after: int | None = None
    delay: float = 0.0
    hangs: bool = False
    refuses: int = 0
    most_bytes: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


def accepted(*, delay: float = 0.0, refuses: int = 0) -> Behaviour:
    """Accept each request after `delay` seconds, except for `refuses` spans of it."""
    return Behaviour(delay=delay, refuses=refuses)


def unavailable(retry_after: int | None = None) -> Behaviour:
    """503, or UNAVAILABLE: the client may retry."""
    return Behaviour(503, "UNAVAILABLE", retry_after)


def throttled(retry_after: int | None = 1) -> Behaviour:
    """429 with Retry-After, or RESOURCE_EXHAUSTED with RetryInfo: the client may retry after the delay."""
    return Behaviour(429, "RESOURCE_EXHAUSTED", retry_after)


def rejected(status: int = 400) -> Behaviour:
    """A status that must not be retried."""
    codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "UNIMPLEMENTED"}
    return Behaviour(status, codes.get(status, "INVALID_ARGUMENT"))


def too_large() -> Behaviour:
    """413, or RESOURCE_EXHAUSTED without RetryInfo: the same request will be refused again, a smaller one not."""
    return Behaviour(413, "RESOURCE_EXHAUSTED")


def accepted_up_to(most_bytes: int) -> Behaviour:
    """Accept requests of so many bytes, after decompression; answer `too_large()` to others."""
    return Behaviour(most_bytes=most_bytes)


def redirected(location: str) -> Behaviour:
    """301 to `location` (HTTP only)."""
    return Behaviour(301, "INTERNAL", headers={"Location": location})


def hanging() -> Behaviour:
    """Accept the connection, read the request, and never answer."""
    return Behaviour(hangs=True)


class Receiver:
    """The receiver. `endpoint` is the base URL, as OTEL_EXPORTER_OTLP_ENDPOINT expects it."""

    def __init__(self, protocol: Protocol = "http/protobuf", *, answer: Behaviour | None = None) -> None:
        self.protocol = protocol
        self.answer = answer or accepted()
        #: how the request of this number is answered, if not by `answer`
        self.turn: Callable[[int], Behaviour | None] = lambda _number: None
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        #: headers (or metadata) of each request, names in lower case
        self.headers: list[dict[str, str]] = []
        #: requests that were not valid OTLP
        self.corrupt: list[str] = []
        #: connections so far (HTTP only)
        self.connections = 0
        self._spans: list[ReceivedSpan] = []
        self._metrics: list[ExportMetricsServiceRequest] = []
        self._logs: list[ExportLogsServiceRequest] = []
        self._changed = threading.Condition()
        self._released = threading.Event()
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, in order of arrival."""
        with self._changed:
            return list(self._spans)

    @property
    def metrics(self) -> list[ExportMetricsServiceRequest]:
        """All pushes of metrics so far, in order of arrival."""
        with self._changed:
            return list(self._metrics)

    @property
    def logs(self) -> list[tuple[str, LogRecord]]:
        """All log records so far, in order of arrival, each with the name of its logger."""
        with self._changed:
            return [
                (scope.scope.name, record)
                for request in self._logs
                for resource in request.resource_logs
                for scope in resource.scope_logs
                for record in scope.log_records
            ]

    @property
    def names(self) -> list[str]:
        """Names of all spans so far, in order of arrival."""
        return [span.name for span in self.spans]

    @property
    def requests(self) -> int:
        """The number of requests so far, whatever the answer was."""
        return len(self.headers)

    def wait_for(self, number: int, timeout: float = 20.0) -> list[ReceivedSpan]:
        """Wait until `number` spans have arrived, and return all; fail after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._spans) >= number, timeout):
                message = f"{len(self._spans)} spans of {number} within {timeout} s; corrupt: {self.corrupt}"
                raise AssertionError(message)
            return list(self._spans)

    def wait_for_requests(self, number: int, timeout: float = 20.0) -> None:
        """Wait until `number` requests have arrived; fail after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.requests >= number, timeout):
                message = f"{self.requests} requests of {number} within {timeout} s"
                raise AssertionError(message)

    def start(self) -> None:
        """Listen, after a stop on the same port as before."""
        self._released.clear()
        self._stop = self._serve_grpc() if self.protocol == "grpc" else self._serve_http()

    def stop(self) -> None:
        """Refuse connections, and end those that are waiting for an answer."""
        self._released.set()
        if self._stop is not None:
            self._stop()
            self._stop = None

    def behaviour_for(self, size: int) -> Behaviour:
        """How a request of this size is answered."""
        answer = self.turn(self.requests + 1) or self.answer
        return answer if answer.most_bytes is None or size <= answer.most_bytes else too_large()

    def record_request(self, headers: dict[str, str]) -> None:
        """Record a request before it is answered."""
        with self._changed:
            self.headers.append(headers)
            self._changed.notify_all()

    def delay_answer(self, behaviour: Behaviour) -> None:
        """Wait for the delay, or until the receiver stops."""
        if behaviour.hangs or behaviour.delay:
            self._released.wait(None if behaviour.hangs else behaviour.delay)

    def keep(self, request: ExportTraceServiceRequest) -> None:
        """Keep the accepted spans."""
        spans = [span for group in request.resource_spans for span in _spans_of(group)]
        with self._changed:
            self._spans += spans
            self._changed.notify_all()

    def keep_metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Keep the accepted metrics."""
        with self._changed:
            self._metrics.append(request)
            self._changed.notify_all()

    def keep_logs(self, request: ExportLogsServiceRequest) -> None:
        """Keep the accepted log records."""
        with self._changed:
            self._logs.append(request)
            self._changed.notify_all()

    def _serve_http(self) -> Callable[[], None]:
        server = _HttpServer(("127.0.0.1", self.port), _HttpHandler)
        server.receiver = self
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.close_all()
            thread.join(10)

        return stop

    def _serve_grpc(self) -> Callable[[], None]:
        server = grpc.server(ThreadPoolExecutor(16), options=(("grpc.so_reuseport", 1),))
        add_TraceServiceServicer_to_server(_GrpcService(self), server)  # type: ignore[no-untyped-call]
        add_LogsServiceServicer_to_server(_GrpcLogsService(self), server)  # type: ignore[no-untyped-call]
        add_MetricsServiceServicer_to_server(_GrpcMetricsService(self), server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        return lambda: server.stop(None).wait(10)


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    receiver: Receiver

    def __init__(self, *arguments: Any) -> None:
        self.open: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        self.receiver.connections += 1
        super().process_request(request, client_address)

    def close_all(self) -> None:
        """Close the port and every connection, as if the process had died."""
        self.server_close()
        for connection in tuple(self.open):
            with closing(connection), suppress(OSError):
                connection.shutdown(2)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected."""


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        receiver = self.server.receiver
        body = self._unpacked(self.rfile.read(int(self.headers["content-length"])))
        behaviour = receiver.behaviour_for(len(body))
        receiver.record_request({name.lower(): value for name, value in self.headers.items()})
        receiver.delay_answer(behaviour)
        if behaviour.hangs:
            self.close_connection = True
            return
        status = behaviour.status
        if status == 200:
            status = self._take(body)
        self._answer(status, behaviour)

    def _unpacked(self, body: bytes) -> bytes:
        unpack: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
        return unpack.get(self.headers.get("content-encoding", ""), bytes)(body)

    def _take(self, body: bytes) -> int:
        receiver = self.server.receiver
        try:
            if self.path == "/v1/metrics":
                receiver.keep_metrics(ExportMetricsServiceRequest.FromString(body))
                return 200
            if self.path == "/v1/logs":
                receiver.keep_logs(ExportLogsServiceRequest.FromString(body))
                return 200
            if self.path != "/v1/traces":
                return 404
            receiver.keep(ExportTraceServiceRequest.FromString(body))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            receiver.corrupt.append(repr(error))
            return 400
        return 200

    def _answer(self, status: int, behaviour: Behaviour) -> None:
        body = _response(behaviour).SerializeToString() if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        if behaviour.retry_after is not None:
            self.send_header("Retry-After", str(behaviour.retry_after))
        for name, value in behaviour.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Nothing on stderr."""


class _GrpcLogsService:
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: ExportLogsServiceRequest, context: Any) -> ExportLogsServiceResponse:  # noqa: N802
        self._receiver.record_request(dict(context.invocation_metadata()))
        _abort_if_asked(self._receiver, request.ByteSize(), context)
        self._receiver.keep_logs(request)
        return ExportLogsServiceResponse()


class _GrpcMetricsService:
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: ExportMetricsServiceRequest, context: Any) -> ExportMetricsServiceResponse:  # noqa: N802
        self._receiver.record_request(dict(context.invocation_metadata()))
        _abort_if_asked(self._receiver, request.ByteSize(), context)
        self._receiver.keep_metrics(request)
        return ExportMetricsServiceResponse()


def _abort_if_asked(receiver: Receiver, size: int, context: Any) -> None:
    """End a call as the test asks: for what is no span, by its status only."""
    behaviour = receiver.behaviour_for(size)
    if behaviour.grpc != "OK":
        context.abort(grpc.StatusCode[behaviour.grpc], "as the test asks")


class _GrpcService:
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
        receiver = self._receiver
        behaviour = receiver.behaviour_for(request.ByteSize())
        receiver.record_request(dict(context.invocation_metadata()))
        receiver.delay_answer(behaviour)
        if behaviour.hangs:
            context.abort(grpc.StatusCode.CANCELLED, "stopped")
        if behaviour.grpc != "OK":
            if behaviour.retry_after is not None:
                info = RetryInfo()
                info.retry_delay.seconds = behaviour.retry_after
                context.set_trailing_metadata((("google.rpc.retryinfo-bin", info.SerializeToString()),))
            context.abort(grpc.StatusCode[behaviour.grpc], "as the test asks")
        receiver.keep(request)
        return _response(behaviour)


def _response(behaviour: Behaviour) -> ExportTraceServiceResponse:
    why = "no room" if behaviour.refuses else ""
    partial = ExportTracePartialSuccess(rejected_spans=behaviour.refuses, error_message=why)
    return ExportTraceServiceResponse(partial_success=partial)


def _spans_of(group: ResourceSpans) -> Iterable[ReceivedSpan]:
    resource = attributes_of(group.resource.attributes)
    for scope in group.scope_spans:
        for span in scope.spans:
            yield ReceivedSpan(
                name=span.name,
                kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                attributes=attributes_of(span.attributes),
                events=[ReceivedEvent(event.name, attributes_of(event.attributes)) for event in span.events],
                links=[link.span_id.hex() for link in span.links],
                status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                status_message=span.status.message,
                resource=resource,
                scope=scope.scope.name,
                scope_version=scope.scope.version,
                schema_url=scope.schema_url,
            )


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """The attributes of a message by key."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [_value(each) for each in value.array_value.values]
        case "kvlist_value":
            return attributes_of(value.kvlist_value.values)
        case kind:
            return getattr(value, kind)


def seconds_of(call: Callable[[], object]) -> float:
    """The duration of a call."""
    started = time.monotonic()
    call()
    return time.monotonic() - started
