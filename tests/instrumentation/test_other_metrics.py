"""The request metrics that FastAPI and contrib measure stay, and are not pushed a second time under our names."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_fastperf import Settings, setup_telemetry
from otel_fastperf.instrumentation.other_metrics import pushed_by_others
from otel_fastperf.instrumentation.other_telemetry import contrib_silenced, native_config
from tests.otlp import Receiver

DURATION = "http.server.request.duration"

needs_native = pytest.mark.skipif(native_config(FastAPI()) is None, reason="this FastAPI has no telemetry of its own")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def app_read_by(reader: MetricReader) -> tuple[FastAPI, MeterProvider]:
    provider = MeterProvider([reader])
    app = FastAPI(telemetry={"meter_provider": provider})
    app.get("/items/{item}")(lambda item: item)
    return app, provider


def routes_in(reader: InMemoryMetricReader) -> list[Any]:
    """The route of each series that FastAPI has measured."""
    data = reader.get_metrics_data()
    assert data is not None
    return [
        (point.attributes or {}).get("http.route")
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == DURATION
        for point in metric.data.data_points
    ]


def pushed(receiver: Receiver) -> list[str]:
    """The scope of each metric of durations that arrived."""
    return [
        scope.scope.name
        for push in receiver.metrics
        for resource in push.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == DURATION
    ]


@needs_native
@pytest.mark.parametrize("server_span", ["own", "native"])
def test_fastapi_goes_on_to_measure_and_leaves_our_pages_out(server_span: Any) -> None:
    reader = InMemoryMetricReader()
    app, provider = app_read_by(reader)
    with setup_telemetry(app, settings=Settings(server_span=server_span)), TestClient(app) as client:
        assert client.get("/items/1").status_code == client.get("/metrics").status_code == 200
        assert routes_in(reader) == ["/items/{item}"]
    provider.shutdown()


@needs_native
def test_the_application_s_own_page_is_measured_as_before() -> None:
    reader = InMemoryMetricReader()
    app, provider = app_read_by(reader)
    app.get("/metrics")(lambda: "its own")
    with setup_telemetry(app), TestClient(app) as client:
        assert client.get("/metrics").json() == "its own"
        assert routes_in(reader) == ["/metrics"]
    provider.shutdown()


@needs_native
def test_what_fastapi_pushes_is_not_pushed_again(receiver: Receiver) -> None:
    app, provider = app_read_by(PeriodicExportingMetricReader(OTLPMetricExporter(f"{receiver.endpoint}/v1/metrics")))
    settings = Settings(metrics={"exporter": "otlp", "endpoint": f"{receiver.endpoint}/v1/metrics"})
    with setup_telemetry(app, settings=settings), TestClient(app) as client:
        client.get("/items/1")
        assert "http_server_request_duration_seconds_count" in client.get("/metrics").text
    provider.shutdown()
    assert pushed(receiver) == ["fastapi"]


@needs_native
def test_what_has_labels_of_the_application_is_pushed_in_any_case(receiver: Receiver) -> None:
    app, provider = app_read_by(PeriodicExportingMetricReader(OTLPMetricExporter(f"{receiver.endpoint}/v1/metrics")))
    settings = Settings(metrics={"exporter": "otlp", "endpoint": f"{receiver.endpoint}/v1/metrics"})
    labels = {"tenant": lambda _scope: "one"}
    with setup_telemetry(app, settings=settings, request_labels=labels), TestClient(app) as client:
        client.get("/items/1")
    provider.shutdown()
    assert sorted(pushed(receiver)) == ["fastapi", "otel_fastperf"]


@needs_native
def test_what_fastapi_shows_elsewhere_is_pushed(receiver: Receiver) -> None:
    app, provider = app_read_by(InMemoryMetricReader())
    settings = Settings(metrics={"exporter": "otlp", "endpoint": f"{receiver.endpoint}/v1/metrics"})
    with setup_telemetry(app, settings=settings), TestClient(app) as client:
        client.get("/items/1")
    provider.shutdown()
    assert pushed(receiver) == ["otel_fastperf"]


def test_nobody_else_pushes_while_no_metrics_are_configured() -> None:
    assert pushed_by_others(FastAPI()) == frozenset()


@pytest.mark.parametrize("keep_metrics", [True, False])
def test_contrib_that_is_silenced_makes_no_spans_until_the_end(*, keep_metrics: bool) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider, meter_provider = TracerProvider(), MeterProvider([reader])
    tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    app = FastAPI()
    app.get("/broken")(fails)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=tracer_provider, meter_provider=meter_provider)
    app.middleware_stack = chain = app.build_middleware_stack()
    with contrib_silenced(chain, keep_metrics=keep_metrics):
        TestClient(app, raise_server_exceptions=False).get("/broken")
        assert spans.get_finished_spans() == ()
        assert (reader.get_metrics_data() is not None) == keep_metrics
    TestClient(app, raise_server_exceptions=False).get("/broken")
    names = [span.name for span in spans.get_finished_spans()]
    assert names == ["GET /broken http send", "GET /broken http send", "GET /broken"]
    assert [event.name for event in spans.get_finished_spans()[-1].events] == ["exception"]
    # it has changed Starlette's BackgroundTask for all apps
    FastAPIInstrumentor.uninstrument_app(app)
    meter_provider.shutdown()


def fails() -> None:
    raise RuntimeError
