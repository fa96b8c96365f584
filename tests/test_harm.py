"""A fault inside telemetry is counted and does not change any answer."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import NullPool

from otel_fastperf import Settings, Telemetry, setup_telemetry
from otel_fastperf.instrumentation import exchanges
from otel_fastperf.tracing import safe_sdk
from tests.serving import serve, wait_until

Fault = Callable[[Telemetry, pytest.MonkeyPatch], None]


def raises(*_args: Any, **_kwargs: Any) -> Any:
    """Replace code by this to break it."""
    raise RuntimeError("telemetry is broken")


def service() -> FastAPI:
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=NullPool)
    tracer = trace.get_tracer("the app's own")

    @app.get("/items/{item_id}")
    def item(item_id: int) -> int:
        with tracer.start_as_current_span("own"), engine.connect() as connection:
            return int(connection.execute(text("SELECT :n"), {"n": item_id}).scalar_one())

    return app


def broken_on_start(_telemetry: Telemetry, _patch: pytest.MonkeyPatch) -> None:
    class Processor(SpanProcessor):
        on_start = raises

    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(Processor())


def broken_on_end(_telemetry: Telemetry, _patch: pytest.MonkeyPatch) -> None:
    class Processor(SpanProcessor):
        on_end = raises

    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(Processor())


def broken_propagator(_telemetry: Telemetry, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(propagate.get_global_textmap(), "extract", raises)


def broken_metric(telemetry: Telemetry, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(telemetry.metrics, "request_duration", SimpleNamespace(child=raises))


def broken_statement_metric(telemetry: Telemetry, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(telemetry.metrics, "db_operation_duration", SimpleNamespace(child=raises))


def broken_request_code(_telemetry: Telemetry, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(exchanges.Exchange, "_annotate", raises)


def broken_response_code(_telemetry: Telemetry, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(exchanges.Exchange, "_started", raises)


def broken_route(_telemetry: Telemetry, patch: pytest.MonkeyPatch) -> None:
    import otel_fastperf.requests.record as record_module

    patch.setattr(record_module, "route_template", raises)


def broken_span(_telemetry: Telemetry, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(exchanges.Requests, "start_span", raises)


FAULTS: dict[str, tuple[Fault, str]] = {
    "a span processor that raises at the start": (broken_on_start, "span_processor"),
    "a span processor that raises at the end": (broken_on_end, "span_processor"),
    "a propagator that raises": (broken_propagator, "propagator"),
    "a metric that raises": (broken_metric, "requests"),
    "a statement's metric that raises": (broken_statement_metric, "database"),
    "our own code at the end of a request": (broken_request_code, "requests"),
    "our own code at the start of a response": (broken_response_code, "requests"),
    "the route template": (broken_route, "requests"),
    "no span can be started": (broken_span, "requests"),
}


@contextmanager
def telemetry_on(app: FastAPI, **settings: Any) -> Iterator[Telemetry]:
    with setup_telemetry(app, settings=Settings(**settings)) as telemetry:
        yield telemetry


@pytest.mark.parametrize(("fault", "part"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_counted_and_affects_no_request(
    fault: Fault, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = service()
    with telemetry_on(app) as telemetry, serve(app) as server:
        fault(telemetry, monkeypatch)
        answers = [
            server.get(
                f"/items/{number}", headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            )
            for number in range(5)
        ]
        assert [(answer.status, answer.text) for answer in answers] == [(200, str(number)) for number in range(5)]
        wait_until(
            lambda: (
                (telemetry.metrics.registry.get_sample_value("fastperf_telemetry_errors_total", {"part": part}) or 0)
                >= 5
            ),
            what=f"{part} is counted",
        )
        monkeypatch.undo()
        assert f'fastperf_telemetry_errors_total{{part="{part}"}}' in server.get("/metrics").text
        active = telemetry.metrics.registry.get_sample_value(
            "http_server_active_requests", {"http_request_method": "GET", "url_scheme": "http"}
        )
        assert active in {0.0, None}
    assert len([record for record in caplog.records if f"{part} failed and was skipped" in record.getMessage()]) == 1


def test_a_failing_sampler_loses_the_trace_but_not_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace import sampling

    class Failing(sampling.Sampler):
        should_sample = raises
        get_description = raises

    monkeypatch.setitem(safe_sdk._SAMPLERS, "parentbased_always_on", (Failing(), safe_sdk._ask))
    app = service()
    with telemetry_on(app) as telemetry, serve(app) as server:
        assert server.get("/items/7").text == "7"
        assert telemetry.spans() == ()
        assert (
            telemetry.metrics.registry.get_sample_value("fastperf_telemetry_errors_total", {"part": "sampler"}) or 0
        ) > 0


def test_a_log_handler_that_fails_on_our_report_affects_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(logging.Handler):
        emit = raises

    app = service()
    handler = Broken()
    logging.getLogger("otel_fastperf").addHandler(handler)
    try:
        with telemetry_on(app) as telemetry, serve(app) as server:
            broken_request_code(telemetry, monkeypatch)
            assert server.get("/items/7").status == 200
    finally:
        logging.getLogger("otel_fastperf").removeHandler(handler)


def test_an_error_of_the_app_s_own_listener_is_not_hidden() -> None:
    """Telemetry swallows its own errors only."""
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=NullPool)
    event.listen(engine, "before_cursor_execute", raises)

    @app.get("/sql")
    def sql() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())

    with telemetry_on(app), serve(app, log_level="critical") as server:
        assert server.get("/sql").status == 500


HOSTILE = [
    b"User-Agent: \xff\\",
    b"Host: \xff\\",
    b"traceparent: \xff\\",
    b"tracestate: \xff\\",
    b"baggage: \xff\\",
    b"User-Agent: \xff\\x",
    b"Accept: \xff/\xff;q=\xff",
    b"X-Forwarded-Proto: \xff",
    b"Authorization: \xff\xfe",
    b"Content-Type: \xff",
    b"traceparent: 00-" + b"f" * 32 + b"-" + b"f" * 16 + b"-ff",
    b"baggage: " + b"k=%FF," * 3000,
]


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_answers_are_byte_equal_with_and_without_telemetry(http: str) -> None:
    def answers(app: FastAPI) -> list[bytes]:
        with serve(app, http=http, date_header=False, log_level="critical") as server:
            return [
                server.raw(
                    b"%s %s HTTP/1.1\r\nConnection: close\r\n" % (method, path)
                    + (b"" if header.startswith(b"Host") else b"Host: x\r\n")
                    + header
                    + b"\r\n\r\n"
                )
                for header in HOSTILE
                for method, path in (
                    (b"GET", b"/items/7"),
                    (b"BREW", b"/items/7"),
                    (b"GET", b"/%ff%00?\xff=%zz"),
                    (b"GET", b"//items/7;x"),
                )
            ]

    bare = answers(service())
    app = service()
    settings = {
        "requests": {"capture_request_headers": ".*", "capture_response_headers": ".*", "excluded_urls": "nothing"}
    }
    with telemetry_on(app, **settings):
        assert answers(app) == bare


def test_a_hundred_concurrent_requests_each_have_their_own_span() -> None:
    from concurrent.futures import ThreadPoolExecutor

    app = service()
    with telemetry_on(app) as telemetry, serve(app) as server, ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(20))
        assert [answer.text for answer in pool.map(lambda n: server.get(f"/items/{n}"), range(100))] == [
            str(n) for n in range(100)
        ]
        kinds = {"GET /items/{item_id}", "own", "SELECT"}  # a busy machine makes spans of blocks too

        def three_spans_a_request() -> list[Any]:
            spans = [span for span in telemetry.spans() if span.name in kinds]
            return spans if len(spans) == 300 else []

        spans = wait_until(three_spans_a_request, what="3 spans a request")
        servers = {span.context.trace_id: span for span in spans if span.name == "GET /items/{item_id}"}
        assert len(servers) == 100
        owns = {span.context.span_id: span for span in spans if span.name == "own"}
        for span in owns.values():
            assert span.parent.span_id == servers[span.context.trace_id].context.span_id
        assert all(span.parent.span_id in owns for span in spans if span.name == "SELECT")
