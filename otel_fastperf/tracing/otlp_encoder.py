r"""Spans as OTLP protobuf bytes: the bytes that the official encoder writes, at a fraction of its cost.

The messages of opentelemetry/proto/trace/v1/trace.proto, common/v1/common.proto, resource/v1/resource.proto and
collector/trace/v1/trace_service.proto, with their field numbers:

    ExportTraceServiceRequest  resource_spans 1
    ResourceSpans              resource 1, scope_spans 2, schema_url 3
    ScopeSpans                 scope 1, spans 2, schema_url 3
    Resource                   attributes 1, dropped_attributes_count 2
    InstrumentationScope       name 1, version 2, attributes 3, dropped_attributes_count 4
    Span                       trace_id 1, span_id 2, trace_state 3, parent_span_id 4, name 5, kind 6,
                               start_time_unix_nano 7, end_time_unix_nano 8, attributes 9, dropped_attributes_count 10,
                               events 11, dropped_events_count 12, links 13, dropped_links_count 14, status 15, flags 16
    Span.Event                 time_unix_nano 1, name 2, attributes 3, dropped_attributes_count 4
    Span.Link                  trace_id 1, span_id 2, attributes 4, dropped_attributes_count 5, flags 6
    Status                     message 2, code 3
    KeyValue                   key 1, value 2
    AnyValue                   string 1, bool 2, int 3, double 4, array 5, kvlist 6, bytes 7
    ArrayValue, KeyValueList   values 1

A field is a tag (number << 3 | wire type) and a value: a varint (wire type 0), eight bytes (1), a length and that many
bytes (2) or four bytes (5). A field that is zero or empty is left out, except in AnyValue.

A bad value fails the batch in the official encoder. Here it costs no more than itself:
- Characters that UTF-8 cannot encode are escaped (`\udc80`), so that different texts stay different.
- An integer beyond 64 bits becomes a string of its digits.
- An attribute whose value has no OTLP type is left out and counted in `dropped_attributes_count`.
- A time that is not an integer of 64 bits is left out.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState
from opentelemetry.util.types import Attributes

from otel_fastperf.tracing.shared_attributes import SharedAttributes

#: `KeyValue` messages kept by (key, value), one dict per type because 1 == True == 1.0.
_kept_key_values: Final[dict[type, dict[tuple[str, object], bytes]]] = {str: {}, int: {}, bool: {}, float: {}}
#: A full dict is cleared. Key, value and message take some 300 bytes.
_KEPT_KEY_VALUES: Final = 4096
#: A longer one is likely to differ in every span: a statement, a stack trace, a query string.
_KEPT_LENGTH: Final = 250
#: Resources or scopes that are kept; a process has one resource and a few scopes.
_KEPT_ORIGINS: Final = 64

_DOUBLE: Final = struct.Struct("<d").pack
_FIXED64: Final = struct.Struct("<Q").pack

#: by `_value_`, since `value` is computed by a function
_KINDS: Final = tuple(bytes((0x30, kind.value + 1)) for kind in SpanKind)
_UNSET: Final = StatusCode.UNSET

#: what follows the attributes of a span without events, links and status: an empty status
_NOTHING_MORE: Final = b"\x7a\x00"
#: Span.flags and Span.Link.flags, fixed32: whether the parent is remote is known (bit 8), and it is (bit 9).
_LOCAL: Final = struct.pack("<I", 0x100)
_REMOTE: Final = struct.pack("<I", 0x300)

_Origin = TypeVar("_Origin")
_origins: Final[dict[int, tuple[object, tuple[bytes, bytes]]]] = {}


class EncodedSpan(NamedTuple):
    """A span as `encode_span` returns it, with what `export_request` groups it by."""

    resource: Resource
    scope: InstrumentationScope | None
    data: bytes


def encode_span(span: ReadableSpan) -> bytes:
    """A `Span` message as a field of `ScopeSpans`: tag, length, message.

    Raises:
        AttributeError, TypeError, OverflowError: Not a span as the SDK makes it: no context, a name that is not text.
    """
    context, parent = span.context, span.parent
    # only our span has shared attributes
    in_common: SharedAttributes | None = getattr(span, "shared_attributes", None)
    if in_common is not None and in_common.keys().isdisjoint(span.own_attributes):  # type: ignore[attr-defined]
        shared, own = _shared(in_common), span.own_attributes  # type: ignore[attr-defined]
    else:
        shared, own = b"", span.attributes
    attributes, left_out = _attributes(b"\x4a", own)
    is_plain = bool(shared) and not left_out and span.is_plain  # type: ignore[attr-defined]
    return _message(
        b"\x12",
        _ids(context, parent),
        _text(b"\x2a", span.name),
        _KINDS[span.kind._value_],
        _time(b"\x39", span.start_time),
        _time(b"\x41", span.end_time),
        shared,
        attributes,
        _NOTHING_MORE if is_plain else _after_attributes(span, left_out),
        b"\x85\x01",
        _flags(parent),
    )


def _after_attributes(span: ReadableSpan, left_out: int) -> bytes:
    """The fields of `Span` from its dropped attributes to its status."""
    return b"".join(
        (
            _count(b"\x50", span.dropped_attributes + left_out),
            *map(_event, span.events),
            _count(b"\x60", span.dropped_events),
            *map(_link, span.links),
            _count(b"\x70", span.dropped_links),
            _status(span.status),
        )
    )


class SpanTemplate:
    """Spans that differ in nothing but ids, parent and times: what they have in common is encoded once."""

    __slots__ = ("_attributes_to_flags", "_name_and_kind")

    def __init__(self, span: ReadableSpan) -> None:
        """Take name, kind, attributes and status of `span`, which has no events and no links."""
        attributes, left_out = _attributes(b"\x4a", span.attributes)
        dropped = _count(b"\x50", span.dropped_attributes + left_out)
        self._name_and_kind = _text(b"\x2a", span.name) + _KINDS[span.kind._value_]
        self._attributes_to_flags = b"".join((attributes, dropped, _status(span.status), b"\x85\x01"))

    def encode(self, context: SpanContext, parent: SpanContext | None, start: int, end: int) -> bytes:
        """The same as `encode_span` for a span with these ids and times, in nanoseconds."""
        return _message(
            b"\x12",
            _ids(context, parent),
            self._name_and_kind,
            _time(b"\x39", start),
            _time(b"\x41", end),
            self._attributes_to_flags,
            _flags(parent),
        )


def export_request(spans: Sequence[EncodedSpan]) -> bytes:
    """An `ExportTraceServiceRequest`. Resource and scope are written once per run of spans that have the same."""
    request = []
    for (resource, resource_url), of_resource in groupby(spans, lambda span: _kept(_resource, span.resource)):
        fields = [resource]
        for (scope, scope_url), of_scope in groupby(of_resource, lambda span: _kept(_scope, span.scope)):
            fields.append(_message(b"\x12", scope, *(span.data for span in of_scope), scope_url))
        request.append(_message(b"\x0a", *fields, resource_url))
    return b"".join(request)


def _kept(fields_of: Callable[[_Origin], tuple[bytes, bytes]], origin: _Origin) -> tuple[bytes, bytes]:
    """The fields of a resource or scope, by identity: to hash a resource, the SDK writes it as JSON."""
    known = _origins.get(id(origin))
    if known is None:
        if len(_origins) >= _KEPT_ORIGINS:
            _origins.clear()
        known = _origins[id(origin)] = origin, fields_of(origin)
    return known[1]


def _resource(resource: Resource) -> tuple[bytes, bytes]:
    """The fields of `ResourceSpans` before and after `scope_spans`."""
    attributes, left_out = _attributes(b"\x0a", resource.attributes)
    return _message(b"\x0a", attributes, _count(b"\x10", left_out)), _text(b"\x1a", resource.schema_url)


def _scope(scope: InstrumentationScope | None) -> tuple[bytes, bytes]:
    """The fields of `ScopeSpans` before and after `spans`."""
    if scope is None:
        return b"\x0a\x00", b""
    attributes, left_out = _attributes(b"\x1a", scope.attributes)
    name, version = _text(b"\x0a", scope.name), _text(b"\x12", scope.version)
    return _message(b"\x0a", name, version, attributes, _count(b"\x20", left_out)), _text(b"\x1a", scope.schema_url)


def _ids(context: SpanContext, parent: SpanContext | None) -> bytes:
    """The fields of `Span` from its trace id to its parent's span id."""
    trace_id, span_id = context.trace_id.to_bytes(16), context.span_id.to_bytes(8)
    state = _trace_state(context.trace_state) if context.trace_state else b""
    of_parent = b"\x22\x08" + parent.span_id.to_bytes(8) if parent else b""
    return b"".join((b"\x0a\x10", trace_id, b"\x12\x08", span_id, state, of_parent))


def _event(event: Event) -> bytes:
    attributes, left_out = _attributes(b"\x1a", event.attributes)
    return _message(
        b"\x5a",
        _time(b"\x09", event.timestamp),
        _text(b"\x12", event.name),
        attributes,
        _count(b"\x20", event.dropped_attributes + left_out),
    )


def _link(link: Link) -> bytes:
    """Without the trace state, as in the official encoder."""
    attributes, left_out = _attributes(b"\x22", link.attributes)
    return _message(
        b"\x6a",
        b"\x0a\x10",
        link.context.trace_id.to_bytes(16),
        b"\x12\x08",
        link.context.span_id.to_bytes(8),
        attributes,
        _count(b"\x28", link.dropped_attributes + left_out),
        b"\x35",
        _flags(link.context),
    )


def _status(status: Status | None) -> bytes:
    if status is None:
        return b""
    if status.status_code is _UNSET and not status.description:
        return _NOTHING_MORE
    return _message(b"\x7a", _text(b"\x12", status.description), _count(b"\x18", status.status_code.value))


def _flags(context: SpanContext | None) -> bytes:
    return _REMOTE if context and context.is_remote else _LOCAL


def _trace_state(trace_state: TraceState) -> bytes:
    return _text(b"\x1a", ",".join(f"{key}={value}" for key, value in trace_state.items()))


def _attributes(tag: bytes, attributes: Attributes) -> tuple[bytes, int]:
    """Repeated `KeyValue` fields, and how many attributes were left out."""
    if not attributes:
        return b"", 0
    try:
        attributes = attributes.copy()  # type: ignore[attr-defined] # the SDK's mapping takes a lock and a call per item
    except AttributeError:
        attributes = dict(attributes)
    fields = [b""]  # `join` writes the tag before each of the others
    left_out = 0
    for key, value in attributes.items():
        try:
            kind = type(value)
            kept = _kept_key_values.get(kind)
            if kept is None:
                fields.append(_key_value(key, value))
            elif kind is float:  # seldom repeats: what is kept is all but its eight bytes, at the end
                fields.append((kept.get((key, 0.0)) or _keep(kept, key, 0.0)) + _DOUBLE(value))
            else:
                fields.append(kept.get((key, value)) or _keep(kept, key, value))
        except Exception:  # noqa: BLE001 - a subclass or mapping of the user's can raise anything
            left_out += 1
    return tag.join(fields), left_out


def _shared(attributes: SharedAttributes) -> bytes:
    """The same for attributes that many spans share, none of which is left out."""
    if attributes.encoded is None:
        attributes.encoded, _ = _attributes(b"\x4a", attributes)
    return attributes.encoded


def _keep(kept: dict[tuple[str, object], bytes], key: str, value: object) -> bytes:
    field = _key_value(key, value)
    if type(value) is float:
        field = field[:-8]
    if len(field) <= _KEPT_LENGTH:
        if len(kept) >= _KEPT_KEY_VALUES:
            kept.clear()
        kept[key, value] = field
    return field


def _key_value(key: str, value: object) -> bytes:
    """A `KeyValue` message after its length."""
    name, content = _utf8(key), _any_value(value)
    data = b"\x0a" + _varint(len(name)) + name + b"\x12" + _varint(len(content)) + content
    return _varint(len(data)) + data


def _any_value(value: object) -> bytes:
    """An `AnyValue` message. Subclasses, such as members of a StrEnum, are their plain value."""
    if value is None:
        return b""
    if isinstance(value, str):
        return _sized(b"\x0a", _utf8(value))
    if isinstance(value, float):
        return b"\x21" + _DOUBLE(value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return _integer(int(value))
    return _compound(value)


def _integer(value: int) -> bytes:
    if -(1 << 63) <= value < 1 << 63:
        return b"\x18" + _varint(value & (1 << 64) - 1)
    return _sized(b"\x0a", str(value).encode())


def _compound(value: object) -> bytes:
    if isinstance(value, bytes):
        return _sized(b"\x3a", value)
    if isinstance(value, Sequence):
        return _message(b"\x2a", *(_sized(b"\x0a", _any_value(each)) for each in value))
    if isinstance(value, Mapping):
        return _message(b"\x32", *(b"\x0a" + _key_value(str(key), each) for key, each in value.items()))
    message = f"{type(value).__name__} has no OTLP type"
    raise TypeError(message)


def _message(tag: bytes, *fields: bytes) -> bytes:
    return _sized(tag, b"".join(fields))


def _text(tag: bytes, text: str | None) -> bytes:
    return _sized(tag, _utf8(text)) if text else b""


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + _varint(len(data)) + data


def _utf8(text: str) -> bytes:
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        return str.encode(text, errors="backslashreplace")


def _count(tag: bytes, count: int) -> bytes:
    return tag + _varint(count) if count else b""


def _time(tag: bytes, nanoseconds: int | None) -> bytes:
    try:
        return tag + _FIXED64(nanoseconds) if nanoseconds else b""
    except struct.error:
        return b""


def _varint(number: int) -> bytes:
    return _SMALL_VARINTS[number] if number < len(_SMALL_VARINTS) else _long_varint(number)


def _long_varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have the continuation bit."""
    data = bytearray()
    while number >= _CONTINUATION:
        data.append(number & 0x7F | _CONTINUATION)
        number >>= 7
    data.append(number)
    return bytes(data)


_CONTINUATION: Final = 0x80
#: Nearly all lengths and counts.
_SMALL_VARINTS: Final = tuple(map(_long_varint, range(2048)))
