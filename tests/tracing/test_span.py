"""Our span behaves as the SDK's: every test runs on both, side by side."""

import logging
import threading
from collections.abc import Callable, Iterator
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from otel_fastperf.internals.guard import Guard
from otel_fastperf.settings import Settings
from otel_fastperf.tracing.provider import FastPerfTracerProvider
from otel_fastperf.tracing.span import DeferredAttributes, LeanSpan


class Kept(SpanProcessor):
    """Keeps what it gets, as processors of others would."""

    def __init__(self) -> None:
        self.started: list[Span] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


Provider = Callable[[], TracerProvider]
PROVIDERS: tuple[Provider, ...] = (
    lambda: FastPerfTracerProvider(Settings(), Guard(lambda _part: None)),
    TracerProvider,
)


@pytest.fixture(params=PROVIDERS, ids=["ours", "sdk"])
def make(request: pytest.FixtureRequest) -> Provider:
    """Makes our provider, or the SDK's."""
    provider: Provider = request.param
    return provider


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def tracer(make: Provider, kept: Kept) -> Iterator[Tracer]:
    provider = make()
    provider.add_span_processor(kept)
    yield provider.get_tracer("user", "1.0")
    provider.shutdown()


REMOTE = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def test_a_span_has_all_that_it_was_given(tracer: Tracer, kept: Kept) -> None:
    context = trace.set_span_in_context(trace.NonRecordingSpan(REMOTE))
    span = tracer.start_span(
        "first", context, SpanKind.CLIENT, {"a": 1, "b": [1.5, 2.5]}, [Link(REMOTE, {"why": "test"})], start_time=10
    )
    span.set_attributes({"a": 2, "c": "text"})
    span.set_attribute("d", True)
    span.add_event("happened", {"x": "y"}, timestamp=11)
    span.add_link(REMOTE)
    span.update_name("last")
    span.set_status(Status(StatusCode.ERROR, "broken"))
    assert span.is_recording()
    span.end(end_time=12)
    (ended,) = kept.ended
    assert kept.started == [span]
    assert not span.is_recording()
    assert isinstance(span, SdkSpan)
    assert (ended.name, ended.kind, ended.start_time, ended.end_time) == ("last", SpanKind.CLIENT, 10, 12)
    assert dict(ended.attributes or {}) == {"a": 2, "b": (1.5, 2.5), "c": "text", "d": True}
    assert [(event.name, event.timestamp, dict(event.attributes or {})) for event in ended.events] == [
        ("happened", 11, {"x": "y"})
    ]
    assert [(link.context, dict(link.attributes or {})) for link in ended.links] == [
        (REMOTE, {"why": "test"}),
        (REMOTE, {}),
    ]
    assert (ended.status.status_code, ended.status.description) == (StatusCode.ERROR, "broken")
    assert ended.parent == REMOTE
    assert ended.context is not None
    assert ended.context.trace_id == REMOTE.trace_id
    assert ended.instrumentation_scope is not None
    assert (ended.instrumentation_scope.name, ended.instrumentation_scope.version) == ("user", "1.0")
    assert "service.name" in ended.resource.attributes
    assert '"name": "last"' in ended.to_json()


def test_an_ended_span_does_not_change(tracer: Tracer, kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    span = tracer.start_span("first")
    span.end(5)
    with caplog.at_level(logging.WARNING):
        span.set_attribute("late", 1)
        span.set_attributes({"late": 1})
        span.add_event("late")
        span.add_link(REMOTE)
        span.update_name("late")
        span.set_status(StatusCode.OK)
        span.record_exception(ValueError())
        span.end(6)
    (ended,) = kept.ended
    assert (ended.name, ended.end_time, dict(ended.attributes or {})) == ("first", 5, {})
    assert (len(ended.events), len(ended.links)) == (0, 0)
    assert ended.status.status_code is StatusCode.UNSET
    assert len(caplog.records) >= 8


def test_ok_is_final_and_unset_is_ignored(tracer: Tracer, kept: Kept) -> None:
    span = tracer.start_span("first")
    span.set_status(StatusCode.ERROR, "first")
    span.set_status(StatusCode.UNSET)
    span.set_status(StatusCode.OK)
    span.set_status(StatusCode.ERROR, "second")
    span.end()
    assert kept.ended[0].status.status_code is StatusCode.OK


def test_a_with_block_records_the_exception_and_ends_the_span(tracer: Tracer, kept: Kept) -> None:
    with pytest.raises(LookupError), tracer.start_as_current_span("current"):
        raise LookupError("missing")
    with pytest.raises(LookupError), tracer.start_span("direct"):
        raise LookupError("missing")
    with pytest.raises(LookupError), tracer.start_span("silent", record_exception=False, set_status_on_exception=False):
        raise LookupError("missing")
    current, direct, silent = kept.ended
    for span in (current, direct):
        (event,) = span.events
        assert event.name == "exception"
        assert (event.attributes or {})["exception.type"] == "LookupError"
        assert "in test_a_with_block" in str((event.attributes or {})["exception.stacktrace"])
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "LookupError: missing")
    assert len(silent.events) == 0
    assert silent.status.status_code is StatusCode.UNSET


def test_children_belong_to_the_trace_of_the_current_span(tracer: Tracer, kept: Kept) -> None:
    with tracer.start_as_current_span("parent") as parent, tracer.start_as_current_span("child"):
        pass
    child = kept.ended[0]
    assert child.parent == parent.get_span_context()
    assert child.context is not None
    assert child.context.trace_id == parent.get_span_context().trace_id


@pytest.mark.parametrize("value", [None, object(), {1, 2}])
def test_a_value_of_a_wrong_type_costs_at_most_itself(tracer: Tracer, kept: Kept, value: Any) -> None:
    span = tracer.start_span("first", attributes={"good": 1, "wrong": value})
    span.set_attribute("wrong too", value)
    span.set_attribute("", "no name")
    span.end()
    assert (kept.ended[0].attributes or {})["good"] == 1
    assert "" not in (kept.ended[0].attributes or {})


def test_a_list_that_changes_later_does_not_change_the_attribute(tracer: Tracer, kept: Kept) -> None:
    values = ["a"]
    span = tracer.start_span("first", attributes={"values": values})
    values.append("b")
    span.end()
    assert (kept.ended[0].attributes or {})["values"] == ("a",)


def test_limits_of_the_environment_hold(make: Provider, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "1"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "1"),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "1"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3"),
    ):
        monkeypatch.setenv(name, value)
    provider = make()
    provider.add_span_processor(kept)
    span = provider.get_tracer("user").start_span("first", attributes={"a": "abcdef", "b": ["abcdef"], "c": 3})
    span.set_attribute("c", "ghijkl")
    span.add_event("one", {"x": "abcdef", "y": 1})
    span.add_event("two", {"x": "abcdef"})
    span.add_link(REMOTE, {"x": "abcdef", "y": 1})
    span.add_link(REMOTE, {"x": "ghijkl"})
    span.end()
    (ended,) = kept.ended
    assert dict(ended.attributes or {}) == {"b": ("abc",), "c": "ghi"}
    assert [event.name for event in ended.events] == ["two"]
    assert dict(ended.events[0].attributes or {}) == {"x": "abc"}
    assert [dict(link.attributes or {}) for link in ended.links] == [{"x": "ghi"}]
    assert (ended.dropped_attributes, ended.dropped_events, ended.dropped_links) == (1, 1, 1)


def test_a_limit_of_no_attributes_keeps_none(make: Provider, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0")
    provider = make()
    provider.add_span_processor(kept)
    provider.get_tracer("user").start_span("first", attributes={"a": 1}).end()
    assert dict(kept.ended[0].attributes or {}) == {}
    assert kept.ended[0].dropped_attributes == 1


def test_a_span_that_two_threads_end_is_delivered_once(tracer: Tracer, kept: Kept) -> None:
    for _ in range(50):
        span = tracer.start_span("first")
        barrier = threading.Barrier(2)

        def end(span: Span = span, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            span.end()

        threads = [threading.Thread(target=end) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(kept.ended) == 50


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


@pytest.fixture
def own(kept: Kept) -> Tracer:
    """A tracer of our provider."""
    provider = PROVIDERS[0]()
    provider.add_span_processor(kept)
    return provider.get_tracer("user")


def test_members_of_enums_become_plain_values(own: Tracer, kept: Kept) -> None:
    """OpenTelemetry < 1.45 drops them."""
    own.start_span("first", attributes={"colour": Colour.RED, "number": Number.ONE}).end()
    attributes = dict(kept.ended[0].attributes or {})
    assert attributes == {"colour": "red", "number": 1}
    assert [type(value) for value in attributes.values()] == [str, int]


def test_deferred_attributes_are_computed_when_they_are_read_or_at_the_end(own: Tracer, kept: Kept) -> None:
    calls: list[str] = []

    def compute(source: str) -> dict[str, Any]:
        calls.append(source)
        return {"a": "deferred", "b": "deferred"}

    span = own.start_span("first", attributes=DeferredAttributes(compute, "computed"))
    span.set_attribute("b", "set later")
    assert calls == []
    span.end()
    assert isinstance(span, LeanSpan)
    assert dict(span.attributes) == {"a": "deferred", "b": "set later"}
    assert dict(span.attributes) == {"a": "deferred", "b": "set later"}
    assert calls == ["computed"]


def test_other_providers_read_deferred_attributes_at_once() -> None:
    span: Any = TracerProvider().get_tracer("user").start_span("first", attributes=DeferredAttributes(dict, {"a": 1}))
    assert dict(span.attributes) == {"a": 1}
    assert SpanLimits().max_span_attributes == 128


def test_a_span_without_events_and_links_is_written_as_json(tracer: Tracer, kept: Kept) -> None:
    tracer.start_span("bare").end()
    assert '"name": "bare"' in kept.ended[0].to_json()
