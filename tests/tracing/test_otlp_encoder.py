"""The encoder writes the bytes that the official encoder writes, and encodes what fails that one."""

import math
import struct
from collections.abc import Mapping, Sequence
from enum import Enum, IntEnum, StrEnum
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from otel_fastperf.tracing import otlp_encoder
from otel_fastperf.tracing.otlp_encoder import EncodedSpan, SpanTemplate, encode_span, export_request
from tests.otlp import attributes_of

LOCAL: Final = SpanContext(0xA1, 0xB2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

texts: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text(
    "aé", min_size=100, max_size=3000
)
keys: Final = st.sampled_from(["a", "b", "http.route", "é" * 130]) | texts.filter(bool)
integers: Final = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)])
floats: Final = st.floats() | st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan])
scalars: Final = texts | integers | floats | st.booleans() | st.binary(max_size=20)
sequences: Final = st.one_of(*(st.lists(each, max_size=4) for each in (texts, integers, floats, st.booleans())))
#: What the installed SDK does not allow, it drops or converts before the encoders see it.
values: Final = scalars | st.recursive(
    sequences, lambda nested: st.lists(nested, max_size=3) | st.dictionaries(keys, scalars | nested, max_size=3)
)
attributes: Final = st.dictionaries(keys, values, max_size=6)
times: Final = st.integers(0, 2**64 - 1)
trace_states: Final = st.dictionaries(st.sampled_from(["a", "b@c"]), st.sampled_from(["1", "x:y"])).map(
    lambda entries: TraceState(list(entries.items()))
)
contexts: Final = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(TraceFlags.SAMPLED)),
    trace_states,
)
resources: Final = st.builds(Resource, attributes, st.none() | texts)
scopes: Final = st.builds(InstrumentationScope, texts, st.none() | texts, st.none() | texts, attributes)
limits: Final = st.sampled_from([SpanLimits(), SpanLimits(2, 2, 2, 2, 2, 2, 2), SpanLimits(max_attributes=0)])


class DrawnIds(IdGenerator):
    """The ids of a context."""

    def __init__(self, context: SpanContext) -> None:
        self._context = context

    def generate_span_id(self) -> int:
        return self._context.span_id

    def generate_trace_id(self) -> int:
        return self._context.trace_id


@st.composite
def spans(draw: st.DrawFn) -> ReadableSpan:
    """A span as the SDK makes it, within limits that drop some of what it gets."""
    provider = TracerProvider(
        resource=draw(resources),
        span_limits=draw(limits),
        id_generator=DrawnIds(draw(contexts)),
        shutdown_on_exit=False,
    )
    tracer = provider.get_tracer(
        draw(texts.filter(bool)), draw(st.none() | texts), draw(st.none() | texts), draw(attributes)
    )
    parent = draw(st.none() | contexts)
    span = tracer.start_span(
        draw(texts),
        context=None if parent is None else set_span_in_context(NonRecordingSpan(parent)),
        kind=draw(st.sampled_from(SpanKind)),
        attributes=draw(attributes),
        links=[Link(context, draw(attributes)) for context in draw(st.lists(contexts, max_size=3))],
        start_time=draw(times),
    )
    for _ in range(draw(st.integers(0, 3))):
        span.add_event(draw(texts), draw(attributes), draw(times))
    span.set_status(draw(st.sampled_from(StatusCode)), draw(st.none() | texts))
    span.end(draw(times))
    assert isinstance(span, ReadableSpan)
    return span


def ours(spans: Sequence[ReadableSpan]) -> bytes:
    return export_request([EncodedSpan(each.resource, each.instrumentation_scope, encode_span(each)) for each in spans])


def official(spans: Sequence[ReadableSpan]) -> bytes:
    request: bytes = encode_spans(spans).SerializeToString()
    return request


def message(span: ReadableSpan) -> SpanMessage:
    """The span as a receiver sees it."""
    return received(EncodedSpan(span.resource, span.instrumentation_scope, encode_span(span)))


def received(span: EncodedSpan) -> SpanMessage:
    """An encoded span as a receiver sees it."""
    request = ExportTraceServiceRequest.FromString(export_request([span]))
    message: SpanMessage = request.resource_spans[0].scope_spans[0].spans[0]
    return message


def span_with(attributes: Mapping[str, Any] | None = None, **more: Any) -> ReadableSpan:
    """A span whose attributes have not passed through the SDK's checks."""
    return ReadableSpan("name", LOCAL, resource=Resource({}), attributes=attributes, **more)


@settings(max_examples=50)
@given(spans())
def test_a_span_has_the_bytes_of_the_official_encoder(span: ReadableSpan) -> None:
    expected = official([span])
    assert ours([span]) == expected
    assert ours([span]) == expected  # from the messages that are kept


@settings(max_examples=50)
@given(spans(), contexts, st.none() | contexts, times, times)
def test_a_span_from_a_template_has_the_fields_of_one_that_was_encoded_whole(
    span: ReadableSpan, context: SpanContext, parent: SpanContext | None, start: int, end: int
) -> None:
    bare = ReadableSpan(
        name=span.name,
        context=context,
        parent=parent,
        resource=span.resource,
        attributes=span.attributes,
        kind=span.kind,
        status=span.status,
        start_time=start,
        end_time=end,
    )
    data = SpanTemplate(bare).encode(context, parent, start, end)
    assert received(EncodedSpan(bare.resource, None, data)) == received(
        EncodedSpan(bare.resource, None, encode_span(bare))
    )


@settings(max_examples=50)
@given(st.lists(st.tuples(resources, st.none() | scopes, texts), max_size=4), st.data())
def test_a_request_is_the_official_one(origins: list[tuple[Resource, Any, str]], data: st.DataObject) -> None:
    """Runs of equal origins, in the order of the spans: the official encoder collects all of an origin."""
    batch = [
        ReadableSpan(name, LOCAL, resource=resource, instrumentation_scope=scope)
        for resource, scope, name in origins
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    assert regrouped(ours(batch)) == regrouped(official(batch))


def regrouped(request: bytes) -> list[tuple[bytes, str, bytes, str, list[str]]]:
    """The names of the spans by resource and scope, in any order."""
    groups: dict[tuple[bytes, str, bytes, str], list[str]] = {}
    for resource in ExportTraceServiceRequest.FromString(request).resource_spans:
        of_resource = resource.resource.SerializeToString(), resource.schema_url
        for scope in resource.scope_spans:
            origin = (*of_resource, scope.scope.SerializeToString(), scope.schema_url)
            groups.setdefault(origin, []).extend(span.name for span in scope.spans)
    return sorted((*origin, names) for origin, names in groups.items())


def test_resource_and_scope_are_written_once_per_run_of_equal_ones() -> None:
    def encoded(service: Any, scope: str | None) -> EncodedSpan:
        return EncodedSpan(Resource({"service": service}), scope and InstrumentationScope(scope), data)  # type: ignore[arg-type]

    data = encode_span(span_with())
    request = export_request(
        [encoded(1, "a"), encoded(1, "a"), encoded(1, None), encoded(True, None), encoded(1, None), encoded(1, None)]
    )
    parsed = ExportTraceServiceRequest.FromString(request)
    assert [
        (attributes_of(each.resource.attributes), [(scope.scope.name, len(scope.spans)) for scope in each.scope_spans])
        for each in parsed.resource_spans
    ] == [({"service": 1}, [("a", 2), ("", 1)]), ({"service": True}, [("", 1)]), ({"service": 1}, [("", 2)])]
    assert [type(attributes_of(each.resource.attributes)["service"]) for each in parsed.resource_spans] == [
        int,
        bool,
        int,
    ]


def test_no_spans_are_an_empty_request() -> None:
    assert ours([]) == official([]) == b""


def test_equal_values_of_different_types_keep_their_type() -> None:
    for value in (1, True, 1.0, -0.0, 0.0, 0, False, "1", b"1", 1):
        span = span_with({"key": value})
        assert ours([span]) == official([span])


class Colour(StrEnum):
    RED = "red"


class Shade(str, Enum):  # noqa: UP042 - unlike a StrEnum's, its str() is not its value
    DARK = "dark"


class Level(IntEnum):
    HIGH = 3


class Seconds(float):
    pass


@pytest.mark.parametrize(
    ("value", "plain"), [(Colour.RED, "red"), (Shade.DARK, "dark"), (Level.HIGH, 3), (Seconds(0.5), 0.5)]
)
def test_a_member_of_an_enum_is_encoded_as_its_plain_value(value: Any, plain: Any) -> None:
    span = span_with({"key": value, "nested": [value]})
    assert ours([span]) == official([span])
    assert attributes_of(message(span).attributes) == {"key": plain, "nested": [plain]}


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**40])
def test_an_integer_beyond_64_bits_becomes_its_digits(value: int) -> None:
    """The official encoder leaves the attribute out."""
    assert attributes_of(message(span_with({"key": value, "nested": [value]})).attributes) == {
        "key": str(value),
        "nested": [str(value)],
    }


def test_none_is_an_empty_value() -> None:
    """Older official encoders leave the attribute out."""
    span = span_with({"key": None, "nested": [None, 1]})
    assert attributes_of(message(span).attributes) == {"key": None, "nested": [None, 1]}


class Broken(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("key", object()),
        ("key", {1, 2}),
        ("key", 1j),
        ("key", ["a", object()]),
        ("key", Broken()),
        ("key", [10**5000]),  # more digits than Python writes
        (7, "text"),
    ],
)
def test_an_attribute_that_cannot_be_encoded_is_left_out_and_counted(key: Any, value: Any) -> None:
    bad = {"before": 1, key: value, "after": 2}
    span = span_with(bad, events=[Event("event", bad, 5)], links=[Link(LOCAL, bad)])
    parsed = message(span)
    for holder in (parsed, parsed.events[0], parsed.links[0]):
        assert attributes_of(holder.attributes) == {"before": 1, "after": 2}
        assert holder.dropped_attributes_count == 1


def test_characters_that_utf_8_cannot_encode_are_escaped() -> None:
    """A lone surrogate fails the whole batch in the official encoder."""
    bad, escaped = "é\udc80", "é\\udc80"
    span = ReadableSpan(
        bad,
        LOCAL,
        resource=Resource({bad: bad}, bad),
        attributes={bad: bad, "nested": [bad], "long": bad * 200},
        events=[Event(bad, {bad: bad}, 1)],
        status=Status(StatusCode.ERROR, bad),
        instrumentation_scope=InstrumentationScope(bad, bad, bad),
    )
    parsed = ExportTraceServiceRequest.FromString(ours([span])).resource_spans[0]
    assert attributes_of(parsed.resource.attributes) == {escaped: escaped}
    scope = parsed.scope_spans[0]
    assert {parsed.schema_url, scope.schema_url, scope.scope.name, scope.scope.version} == {escaped}
    assert (scope.spans[0].name, scope.spans[0].status.message, scope.spans[0].events[0].name) == (escaped,) * 3
    assert attributes_of(scope.spans[0].attributes) == {
        escaped: escaped,
        "nested": [escaped],
        "long": escaped * 200,
    }


@pytest.mark.parametrize("time", [None, 0, -1, 2**64, 1.5])
def test_a_time_that_is_no_integer_of_64_bits_is_left_out(time: Any) -> None:
    parsed = message(span_with(start_time=time, end_time=7, events=[Event("event", {}, time or 0)]))
    assert (parsed.start_time_unix_nano, parsed.end_time_unix_nano) == (0, 7)
    assert parsed.events[0].time_unix_nano == 0


def test_attributes_of_a_foreign_span_may_be_any_mapping() -> None:
    class Foreign(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return {"key": "value"}[key]

        def __iter__(self) -> Any:
            return iter(["key"])

        def __len__(self) -> int:
            return 1

    span = span_with(Foreign())
    assert ours([span]) == official([span])


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time with the right bytes: a full dict is cleared."""
    monkeypatch.setattr(otlp_encoder, "_KEPT_KEY_VALUES", 10)
    monkeypatch.setattr(otlp_encoder, "_KEPT_ORIGINS", 3)
    for kept in otlp_encoder._kept_key_values.values():
        kept.clear()
    for number in range(50):
        attributes: dict[str, Any] = {
            "text": str(number),
            "number": number,
            f"key {number}": 0.5,
            "long": "x" * 300 + str(number),
        }
        span = ReadableSpan("name", LOCAL, resource=Resource({"n": number}), attributes=attributes)
        assert ours([span]) == official([span])
        assert all(len(kept) <= 10 for kept in otlp_encoder._kept_key_values.values())
        assert len(otlp_encoder._origins) <= 3
    assert not any(len(key[1]) > 250 for key in otlp_encoder._kept_key_values[str])  # type: ignore[arg-type]


def test_nan_keeps_its_bits() -> None:
    (nan,) = struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\xff")
    span = span_with({"key": nan})
    assert ours([span]) == official([span])
