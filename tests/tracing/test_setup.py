"""Which provider receives the spans, who owns it, and that nothing of ours is left afterwards."""

import gc
import logging
import threading
import time
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_fastperf.internals.guard import Guard
from otel_fastperf.metrics import Metrics
from otel_fastperf.settings import Settings
from otel_fastperf.tracing import open_tracing
from tests.otlp import Receiver, hanging, rejected, seconds_of
from tests.serving import wait_until
from tests.threads import new_threads
from tests.tracing.conftest import Log, Open, Opened


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def users_own() -> Iterator[TracerProvider]:
    """A global provider set by the user or by the opentelemetry-instrument agent."""
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    yield provider
    trace._TRACER_PROVIDER = None
    provider.shutdown()


def kept(opened: Opened) -> list[str]:
    assert opened.tracing.store is not None
    return [span.name for span in opened.tracing.store.spans()]


# our own provider


def test_the_user_s_own_tracers_use_our_provider(open_it: Open) -> None:
    opened = open_it()
    with trace.get_tracer("user").start_as_current_span("outer"):
        opened.emit(1, "inner")
    assert kept(opened) == ["inner", "outer"]
    inner, outer = opened.tracing.store.spans()  # type: ignore[union-attr]
    assert inner.parent == outer.context


def test_afterwards_there_is_no_global_provider(open_it: Open, log: Log) -> None:
    before = trace.get_tracer_provider()
    for _ in range(3):
        opened = open_it()
        assert trace.get_tracer_provider() is opened.tracing.provider
        opened.close()
        assert trace.get_tracer_provider() is before
    own = TracerProvider()
    trace.set_tracer_provider(own)
    assert trace.get_tracer_provider() is own
    trace._TRACER_PROVIDER = None
    assert log() == []


def test_a_global_provider_that_replaced_ours_stays(open_it: Open) -> None:
    opened = open_it()
    theirs = TracerProvider()
    trace._TRACER_PROVIDER = theirs
    opened.close()
    assert trace.get_tracer_provider() is theirs
    trace._TRACER_PROVIDER = None


def test_two_concurrent_set_ups_have_one_provider_each(open_it: Open) -> None:
    first, second = open_it(), open_it()
    first.emit(1, "first")
    second.emit(1, "second")
    assert (kept(first), kept(second)) == (["first"], ["second"])


def test_a_span_goes_where_its_parent_goes_and_without_one_to_the_newest(open_it: Open) -> None:
    first = open_it()
    early = trace.get_tracer("early")
    second = open_it()
    for tracer in (early, trace.get_tracer("late")):
        for opened in (first, second):
            with trace.use_span(opened.tracing.tracer.start_span("request"), end_on_exit=True):
                tracer.start_span("child").end()
        tracer.start_span("root").end()
    assert kept(first) == ["child", "request"] * 2
    assert kept(second) == ["child", "request", "root"] * 2
    second.close()
    early.start_span("root").end()
    assert kept(first)[-1] == "root"
    assert trace.get_tracer_provider() is first.tracing.provider


def test_the_child_of_a_span_of_a_closed_provider_goes_to_the_newest(open_it: Open) -> None:
    first, tracer = open_it(), trace.get_tracer("user")
    with trace.use_span(tracer.start_span("parent")):
        first.close()
        second = open_it()
        tracer.start_span("child").end()
    assert kept(second) == ["child"]


def test_a_closed_provider_is_not_joined(open_it: Open) -> None:
    first = open_it()
    trace.get_tracer_provider().shutdown()  # type: ignore[attr-defined]
    second = open_it()
    second.emit(1)
    assert kept(second) == ["span"]
    assert second.tracing.provider is not first.tracing.provider


def test_module_level_tracers_keep_working_after_a_second_set_up(open_it: Open) -> None:
    tracer = trace.get_tracer("users.module")

    @tracer.start_as_current_span("decorated")
    def work() -> None:
        tracer.start_span("mine").end()

    for turn in range(3):
        opened = open_it()
        early = trace.get_tracer(f"turn {turn}")
        work()
        early.start_span("early").end()
        assert kept(opened) == ["mine", "decorated", "early"]
        opened.close()
        with tracer.start_as_current_span("nobody listens") as span:
            assert not span.is_recording()


def test_a_tracer_of_a_closed_provider_does_not_recurse(open_it: Open) -> None:
    opened = open_it()
    opened.close()
    trace._TRACER_PROVIDER = opened.tracing.provider
    assert not opened.tracing.tracer.start_span("late").is_recording()
    assert not opened.tracing.provider.get_tracer("late").start_span("late").is_recording()
    trace._TRACER_PROVIDER = None


def test_a_hundred_set_ups_leave_no_thread_no_provider_and_no_warning(
    open_it: Open, receiver: Receiver, log: Log
) -> None:
    open_it(receiver.endpoint).close()
    before = threading.enumerate()

    def fifty() -> int:
        for _ in range(50):
            opened = open_it(receiver.endpoint)
            opened.emit(1)
            opened.close()
        gc.collect()
        return len(gc.get_objects())

    half, end = fifty(), fifty()
    # the receiver has threads for connections that are closing
    wait_until(lambda: not new_threads(before), what="the threads end")
    receiver.wait_for(100)
    # each set-up leaves a few objects of the fixture and of at-fork hooks; a provider or the metrics would be 2,000
    assert end - half < 50 * 300
    assert not [line for line in log() if line.startswith("WARNING")]


def test_log_filters_are_removed(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint)
    opened.close()
    loggers = [logging.getLogger(name) for name in tuple(logging.Logger.manager.loggerDict)]
    assert not [each for logger in loggers for each in logger.filters if "otel_fastperf" in type(each).__module__]


# an existing provider


def test_a_global_provider_with_processors_is_joined_and_not_changed(open_it: Open, users_own: TracerProvider) -> None:
    exporter = InMemorySpanExporter()
    users_own.add_span_processor(SimpleSpanProcessor(exporter))
    opened = open_it("http://127.0.0.1:9")
    opened.emit(1)
    assert opened.tracing.provider is users_own
    assert opened.tracing.store is None
    assert opened.tracing.description == "spans go to the TracerProvider that was there (1 processor)"
    assert [span.name for span in exporter.get_finished_spans()] == ["span"]
    opened.close()
    assert trace.get_tracer_provider() is users_own
    with users_own.get_tracer("after").start_as_current_span("after"):
        pass
    assert len(exporter.get_finished_spans()) == 2


def test_a_global_provider_without_processors_gets_ours_until_the_end(
    open_it: Open, users_own: TracerProvider, receiver: Receiver
) -> None:
    opened = open_it(receiver.endpoint)
    opened.emit(1)
    assert opened.tracing.provider is users_own
    assert opened.tracing.description.startswith(
        "spans go to the TracerProvider that was there, and from it: OTLP http"
    )
    opened.close()
    assert receiver.names == ["span"]
    users_own.get_tracer("after").start_span("after").end()
    assert opened.outcomes == {"exported": 1}
    assert users_own._active_span_processor._span_processors == ()


def test_a_given_provider_takes_precedence_over_the_global_one(open_it: Open, users_own: TracerProvider) -> None:
    given = TracerProvider()
    opened = open_it(given=given)
    opened.emit(1)
    assert opened.tracing.provider is given
    assert kept(opened) == ["span"]


def test_a_no_op_provider_is_not_joined(open_it: Open) -> None:
    trace.set_tracer_provider(trace.NoOpTracerProvider())
    opened = open_it()
    opened.emit(1)
    assert kept(opened) == ["span"]
    opened.close()
    assert isinstance(trace.get_tracer_provider(), trace.NoOpTracerProvider)
    trace._TRACER_PROVIDER = None


def test_a_provider_that_is_not_from_the_sdk_is_joined(open_it: Open) -> None:
    class Foreign(trace.TracerProvider):
        def get_tracer(self, *arguments: object, **options: object) -> trace.Tracer:
            return trace.NoOpTracer()

    foreign = Foreign()
    opened = open_it(given=foreign)
    opened.emit(1)
    assert opened.tracing.provider is foreign
    assert opened.tracing.store is None
    assert opened.tracing.flush(1.0)
    assert opened.tracing.description == "spans go to the TracerProvider that was there"


class Slow(SpanProcessor):
    """A processor that is slow, like a BatchSpanProcessor with a dead collector."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.flushed = 0
        self.shut_down = 0

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        time.sleep(self.seconds)
        self.flushed += 1
        return True

    def shutdown(self) -> None:
        time.sleep(self.seconds)
        self.shut_down += 1


def test_processors_of_a_joined_provider_are_flushed_at_the_end_but_not_shut_down(
    open_it: Open, users_own: TracerProvider
) -> None:
    processor = Slow(0)
    users_own.add_span_processor(processor)
    opened = open_it()
    assert opened.tracing.flush(5.0)
    opened.close()
    assert (processor.flushed, processor.shut_down) == (2, 0)


def test_a_processor_that_the_user_added_to_our_provider_is_shut_down(open_it: Open) -> None:
    processor = Slow(0)
    opened = open_it()
    opened.tracing.provider.add_span_processor(processor)  # type: ignore[attr-defined]
    opened.close()
    assert (processor.flushed, processor.shut_down) == (1, 1)


def test_a_slow_processor_of_the_user_does_not_delay_the_exit(open_it: Open) -> None:
    opened = open_it(exit_timeout=0.3)
    opened.tracing.provider.add_span_processor(Slow(3))  # type: ignore[attr-defined]
    assert seconds_of(opened.close) < 2.5


# identity


def test_the_tracer_has_our_scope(open_it: Open, receiver: Receiver) -> None:
    open_it(receiver.endpoint).emit(1)
    (span,) = receiver.wait_for(1)
    assert (span.scope, span.schema_url) == ("otel_fastperf", "https://opentelemetry.io/schemas/1.44.0")


def test_the_resource_names_service_and_process(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint, settings={"resource_attributes": {"deployment.environment.name": "prod"}})
    opened.emit(1)
    resource = receiver.wait_for(1)[0].resource
    assert resource["service.name"] == "shop"
    assert resource["deployment.environment.name"] == "prod"
    assert resource["telemetry.sdk.name"] == "opentelemetry"
    assert len(resource["service.instance.id"]) == 36
    assert isinstance(resource["process.pid"], int)


def test_arguments_win_over_the_environment_in_the_resource(
    open_it: Open, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "from-environment")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7,team=a%20b")
    opened = open_it(receiver.endpoint, settings={"resource_attributes": {"team": "argument"}})
    opened.emit(1)
    resource = receiver.wait_for(1)[0].resource
    assert resource["service.name"] == "shop"
    assert resource["team"] == "argument"
    opened.close()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    with open_tracing(Settings(), Metrics(), Guard(print)) as tracing:
        tracing.tracer.start_span("second").end()
    resource = receiver.wait_for(2)[1].resource
    assert (resource["service.name"], resource["team"]) == ("from-environment", "a b")
    assert resource["service.instance.id"] == "pod-7"


def test_a_missing_service_name_is_logged_once(open_it: Open, receiver: Receiver, log: Log) -> None:
    opened = open_it(receiver.endpoint, settings={"service_name": None})
    opened.emit(1)
    assert receiver.wait_for(1)[0].resource["service.name"].startswith("unknown_service")
    assert opened.tracing.description.endswith("/v1/traces; without a service name, set OTEL_SERVICE_NAME")
    assert [line for line in log() if "OTEL_SERVICE_NAME" in line] == [
        "INFO otel_fastperf: spans are exported as unknown_service. Remedy: set OTEL_SERVICE_NAME"
    ]


def test_the_description_contains_protocol_and_address(open_it: Open) -> None:
    assert (
        open_it("http://collector:4318").tracing.description == "OTLP http/protobuf to http://collector:4318/v1/traces"
    )
    opened = open_it("http://collector:4317", protocol="grpc")
    assert opened.tracing.description == "OTLP grpc to http://collector:4317"
    assert open_it(exporter="console").tracing.description == "printed to the console"


def test_no_thread_is_started_before_the_first_span(open_it: Open, receiver: Receiver) -> None:
    before = threading.enumerate()
    opened = open_it(receiver.endpoint)
    assert new_threads(before) == []
    assert opened.tracing.flush(0.0)
    opened.close()
    assert receiver.requests == 0


def test_a_span_that_ends_after_close_is_counted(open_it: Open, receiver: Receiver) -> None:
    opened = open_it(receiver.endpoint)
    late = opened.tracing.tracer.start_span("late")
    opened.close()
    late.end()
    assert opened.outcomes == {"dropped_exit": 1}


def test_a_readable_span_can_be_passed_to_the_user_s_processor(open_it: Open) -> None:
    seen: list[ReadableSpan] = []

    class Seeing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            seen.append(span)

    opened = open_it()
    opened.tracing.provider.add_span_processor(Seeing())  # type: ignore[attr-defined]
    opened.emit(1)
    assert [span.name for span in seen] == ["span"]


@pytest.mark.parametrize("behaviour", [hanging(), rejected()])
def test_flush_respects_its_timeout(open_it: Open, receiver: Receiver, behaviour: object) -> None:
    receiver.answer = behaviour  # type: ignore[assignment]
    opened = open_it(receiver.endpoint, exit_timeout=0.2)
    opened.emit(10)
    assert seconds_of(lambda: opened.tracing.flush(0.3)) < 2.5
