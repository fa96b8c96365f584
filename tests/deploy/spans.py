"""Hand-made spans, sent over OTLP/HTTP like an app would, for tests of receivers."""

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import urandom
from typing import Final, TypeAlias
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

Value: TypeAlias = str | bool | int | float | list[str]

MILLISECOND: Final = 1_000_000

_KINDS: Final = {
    "SERVER": Span.SpanKind.SPAN_KIND_SERVER,
    "CLIENT": Span.SpanKind.SPAN_KIND_CLIENT,
    "INTERNAL": Span.SpanKind.SPAN_KIND_INTERNAL,
}


def new_trace_id() -> str:
    """A random trace id of 32 hex digits."""
    return urandom(16).hex()


@dataclass
class Sent:
    """A span to send. It ends now, and took `milliseconds`."""

    name: str
    trace_id: str = field(default_factory=new_trace_id)
    span_id: str = field(default_factory=lambda: urandom(8).hex())
    parent_id: str = ""
    kind: str = "SERVER"
    milliseconds: float = 5.0
    attributes: Mapping[str, Value] = field(default_factory=dict)
    #: {name: attributes}
    events: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    error: str | None = None

    def encoded(self) -> Span:
        """The span as protobuf."""
        end = time.time_ns()
        failed = self.error is not None
        return Span(
            name=self.name,
            trace_id=bytes.fromhex(self.trace_id),
            span_id=bytes.fromhex(self.span_id),
            parent_span_id=bytes.fromhex(self.parent_id),
            kind=_KINDS[self.kind],
            start_time_unix_nano=end - int(self.milliseconds * MILLISECOND),
            end_time_unix_nano=end,
            attributes=_attributes(self.attributes),
            events=[
                Span.Event(name=name, time_unix_nano=end, attributes=_attributes(attributes))
                for name, attributes in self.events.items()
            ],
            status=Status(
                code=Status.StatusCode.STATUS_CODE_ERROR if failed else Status.StatusCode.STATUS_CODE_UNSET,
                message=self.error or "",
            ),
        )


def export(
    endpoint: str,
    spans: Iterable[Sent],
    *,
    service: str = "shop",
    resource: Mapping[str, Value] | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> int:
    """Send spans in one request to the base address of an OTLP/HTTP receiver; return the HTTP status."""
    body = ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(attributes=_attributes({"service.name": service, **(resource or {})})),
                scope_spans=[ScopeSpans(spans=[span.encoded() for span in spans])],
            )
        ]
    ).SerializeToString()
    request = Request(
        f"{endpoint}/v1/traces", data=body, headers={"Content-Type": "application/x-protobuf", **(headers or {})}
    )
    try:
        with urlopen(request, timeout=10, context=context) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code


def _attributes(values: Mapping[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def _value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[_value(each) for each in value]))
        case _:
            return AnyValue(string_value=value)
