"""Another tracer provider beside ours: the spans of a request go to one place, or the log says what to do."""

import logging
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_fastperf import Settings, setup_telemetry
from tests.tracing.conftest import Log


@pytest.fixture(autouse=True)
def _global_provider_reset() -> Iterator[None]:
    """Remove the tests' own provider, for which the API has no way."""
    yield
    trace._TRACER_PROVIDER = None
    trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Log:
    """All warnings so far."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def theirs() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def provider_for(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def shop() -> FastAPI:
    app, tracer = FastAPI(), trace.get_tracer("shop")

    @app.get("/")
    async def root() -> None:
        tracer.start_span("work").end()

    return app


def names(exporter: InMemorySpanExporter) -> list[str]:
    return [span.name for span in exporter.get_finished_spans()]


def test_a_provider_that_is_set_before_the_start_gets_all_spans(theirs: InMemorySpanExporter, warnings: Log) -> None:
    app = shop()
    with setup_telemetry(app) as telemetry:
        before = trace.get_tracer("before")
        before.start_span("early").end()
        trace.set_tracer_provider(provider_for(theirs))
        with TestClient(app) as client:
            client.get("/")
            client.get("/metrics")
            before.start_span("late").end()
            assert "spans go to the TracerProvider that was there" in telemetry.describe()
        assert names(theirs) == ["work", "GET /", "late"]
    assert warnings() == []


def test_a_provider_that_is_set_after_the_first_request_is_told_of_once(
    theirs: InMemorySpanExporter, warnings: Log
) -> None:
    app = shop()
    with setup_telemetry(app), TestClient(app) as client:
        client.get("/")
        client.get("/metrics")
        assert warnings() == []
        trace.set_tracer_provider(provider_for(theirs))
        for _ in range(2):
            client.get("/metrics")
    (warning,) = warnings()
    assert (
        "opentelemetry.sdk.trace.TracerProvider became the global TracerProvider after the app had started" in warning
    )
    assert "Remedy: call setup_telemetry(app) after the code that sets it" in warning


def test_without_a_lifespan_it_is_told_of_at_the_first_request(theirs: InMemorySpanExporter, warnings: Log) -> None:
    app = shop()
    with setup_telemetry(app):
        trace.set_tracer_provider(provider_for(theirs))
        client = TestClient(app)
        client.get("/")
        client.get("/")
    (warning,) = warnings()
    assert "became the global TracerProvider" in warning


def test_after_the_next_start_the_spans_go_to_it(theirs: InMemorySpanExporter, warnings: Log) -> None:
    app = shop()
    with setup_telemetry(app):
        with TestClient(app):
            trace.set_tracer_provider(provider_for(theirs))
        with TestClient(app) as client:
            client.get("/")
    assert names(theirs) == ["work", "GET /"]
    assert warnings() == []


def test_traces_that_cannot_be_kept_at_the_provider_of_another_do_not_leave_the_app_unobserved(
    theirs: InMemorySpanExporter, warnings: Log
) -> None:
    app = shop()
    with setup_telemetry(app, settings=Settings(traces={"keep": ["error"]})) as telemetry:
        trace.set_tracer_provider(provider_for(theirs))
        with TestClient(app) as client:
            client.get("/")
            assert "http_server_request_duration_seconds_count" in client.get("/metrics").text
            assert "is kept for" not in telemetry.describe()
    assert names(theirs) == ["work", "GET /"]
    (warning,) = warnings()
    assert "traces.keep is off, because opentelemetry.sdk.trace.TracerProvider became the global" in warning
    assert "Remedy: remove the setting" in warning


def test_two_apps_give_way_each_at_its_own_start(theirs: InMemorySpanExporter, warnings: Log) -> None:
    apps = shop(), shop()
    for app in apps:
        setup_telemetry(app)
    trace.set_tracer_provider(provider_for(theirs))
    for app in apps:
        with TestClient(app) as client:
            client.get("/")
        app.state.otel_fastperf_telemetry.shutdown()
    assert names(theirs) == ["work", "GET /"] * 2
    assert warnings() == []


def test_contrib_with_a_provider_that_is_not_the_global_one_is_told_of(
    theirs: InMemorySpanExporter, warnings: Log
) -> None:
    app = shop()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider_for(theirs))
    with setup_telemetry(app), TestClient(app) as client:
        client.get("/")
        client.get("/")
    FastAPIInstrumentor.uninstrument_app(app)
    (warning,) = warnings()
    assert "the SERVER span of another instrumentation goes to a TracerProvider that is not the global one" in warning
    assert "Remedy: pass that provider to trace.set_tracer_provider before setup_telemetry(app)" in warning
