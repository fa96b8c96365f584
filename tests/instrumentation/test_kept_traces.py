"""`traces.keep`: a request that the sampler drops is exported if it fails, shows a bottleneck or is slow."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sqlalchemy import StaticPool, create_engine, text

from otel_fastperf import Settings, SettingsError, SetupError, Telemetry, setup_telemetry
from tests.otlp import Receiver
from tests.partner import partner

engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
tracer = trace.get_tracer("shop")
router = APIRouter()
ALL = "error,finding,slow"


@pytest.fixture(scope="module", autouse=True)
def _connection_closed() -> Iterator[None]:
    yield
    engine.dispose()


def statement() -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))


@router.get("/fine")
async def fine() -> dict[str, str]:
    statement()
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@router.get("/fails")
async def fails() -> None:
    with tracer.start_as_current_span("own") as span:
        span.set_attribute("shop.step", "before")
        statement()
    raise ValueError("no")


@router.get("/unavailable")
async def unavailable() -> None:
    raise HTTPException(503)


@router.get("/missing")
async def missing() -> None:
    raise HTTPException(404)


@router.get("/repeats")
async def repeats() -> None:
    for _ in range(20):
        statement()


@router.get("/calls")
async def calls(url: str) -> None:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport()) as client:
        answer = await client.get(f"{url}/200/0/")
    assert answer.json()["traceparent"][-1] in "02"  # not sampled
    raise HTTPException(503)


@router.get("/waits")
async def waits() -> None:
    await asyncio.sleep(0.05)


@router.get("/many/{number}")
async def many(number: int) -> None:
    for _ in range(number):
        with tracer.start_as_current_span("own"):
            pass
    raise HTTPException(500)


@router.get("/long/{size}")
async def long(size: int) -> None:
    with tracer.start_as_current_span("own") as span:
        span.set_attribute("shop.text", "x" * size)
    raise HTTPException(500)


@router.get("/later/{status}")
async def later(status: int, tasks: BackgroundTasks) -> None:
    tasks.add_task(statement)
    if status >= 500:
        raise ValueError("no")


@router.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a"
        raise ValueError("no")

    return StreamingResponse(parts())


@router.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept()
    if await socket.receive_text() == "fail":
        raise ValueError("no")
    await socket.close()


def shop() -> FastAPI:
    app = FastAPI()
    app.include_router(router)
    return app


@contextmanager
def keeping(
    keep: str = ALL, app: FastAPI | None = None, settings: Any = None, **traces: Any
) -> Iterator[tuple[TestClient, Telemetry]]:
    """The app with a sampler that drops all requests."""
    app = app or shop()
    traces = {"sampler": "parentbased_traceidratio", "sampler_arg": 0, "keep": keep, **traces}
    database = {"sync_on_loop": 1.0, "n_plus_one_seconds": 0.0}
    with (
        setup_telemetry(app, settings=Settings(traces=traces, database=database, **(settings or {}))) as telemetry,
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        yield client, telemetry


def names(telemetry: Telemetry) -> list[str]:
    return sorted(span.name for span in telemetry.spans())


def server_span(telemetry: Telemetry) -> ReadableSpan:
    (span,) = [span for span in telemetry.spans() if span.kind is SpanKind.SERVER]
    return span


def kept(telemetry: Telemetry, reason: str) -> float:
    name = "fastperf_traces_kept_total"
    return telemetry.metrics.registry.get_sample_value(name, {"reason": reason}) or 0.0


def test_a_request_without_anything_notable_is_not_exported_but_measured() -> None:
    with keeping() as (client, telemetry):
        headers = client.get("/fine").json()
        assert int(headers["traceparent"].rpartition("-")[2], 16) & 1 == 0  # not sampled
        client.get("/missing")
        assert names(telemetry) == []
        count = "http_server_request_duration_seconds_count"
        labels = {
            "http_request_method": "GET",
            "http_route": "/fine",
            "http_response_status_code": "200",
            "error_type": "",
            "url_scheme": "http",
        }
        assert telemetry.metrics.registry.get_sample_value(count, labels) == 1


def test_a_request_that_fails_is_exported_with_the_spans_inside_of_it() -> None:
    with keeping() as (client, telemetry):
        client.get("/fails")
        assert names(telemetry) == ["GET /fails", "SELECT", "own"]
        server, spans = server_span(telemetry), {span.name: span for span in telemetry.spans()}
        assert server.attributes is not None
        assert server.attributes["http.route"] == "/fails"
        assert server.attributes["http.response.status_code"] == 500
        assert server.attributes["error.type"] == "ValueError"
        assert server.attributes["fastperf.kept_for"] == "error"
        assert server.attributes["fastperf.db.query_count"] == 1
        assert spans["own"].parent.span_id == server.context.span_id  # type: ignore[union-attr]
        assert spans["SELECT"].parent.span_id == spans["own"].context.span_id  # type: ignore[union-attr]
        assert spans["own"].attributes == {"shop.step": "before"}
        assert all(span.context.trace_flags.sampled for span in spans.values())
        assert {span.context.trace_id for span in spans.values()} == {server.context.trace_id}
        assert kept(telemetry, "error") == 1


def test_a_status_of_the_server_is_an_error_and_one_of_the_client_is_not() -> None:
    with keeping("error") as (client, telemetry):
        client.get("/unavailable")
        client.get("/missing")
        assert names(telemetry) == ["GET /unavailable"]


def test_a_response_that_breaks_off_is_an_error() -> None:
    with keeping("error") as (client, telemetry):
        client.get("/stream")
        assert names(telemetry) == ["GET /stream"]


def test_a_request_with_a_finding_is_exported_and_the_finding_names_its_trace() -> None:
    with keeping("finding") as (client, telemetry):
        client.get("/repeats")
        client.get("/fails")
        server = server_span(telemetry)
        assert server.name == "GET /repeats"
        assert names(telemetry).count("SELECT") == 20
        assert server.attributes["fastperf.kept_for"] == "finding"  # type: ignore[index]
        assert server.attributes["fastperf.findings"] == ("n_plus_one",)  # type: ignore[index]
        (finding,) = telemetry.findings()
        assert finding.trace_ids == (format(server.context.trace_id, "032x"),)


def test_a_request_that_is_slow_is_exported_with_a_threshold_of_its_own() -> None:
    with keeping("slow", keep_slow=0.05) as (client, telemetry):
        client.get("/waits")
        client.get("/fails")
        assert names(telemetry) == ["GET /waits"]
        assert kept(telemetry, "slow") == 1
    with keeping("slow", keep_slow=60) as (client, telemetry):
        client.get("/waits")
        assert names(telemetry) == []


def test_the_decision_of_a_caller_is_passed_on_and_its_trace_is_continued() -> None:
    with keeping("error") as (client, telemetry):
        client.get("/fails", headers={"traceparent": f"00-{1:032x}-{2:016x}-00"})
        server = server_span(telemetry)
        assert (server.context.trace_id, server.parent.span_id) == (1, 2)  # type: ignore[union-attr]


def test_an_outgoing_call_is_kept_and_measured_once() -> None:
    with partner() as url, keeping("error") as (client, telemetry):
        assert client.get("/calls", params={"url": url}).status_code == 503
        assert names(telemetry) == ["GET", "GET /calls"]
        (call,) = [span for span in telemetry.spans() if span.kind is SpanKind.CLIENT]
        assert call.parent.span_id == server_span(telemetry).context.span_id  # type: ignore[union-attr]
        (family,) = [
            family
            for family in telemetry.metrics.registry.collect()
            if family.name == "http_client_request_duration_seconds"
        ]
        assert sum(each.value for each in family.samples if each.name.endswith("_count")) == 1


def test_a_sampled_request_is_exported_as_before() -> None:
    with keeping(sampler_arg=1) as (client, telemetry):
        client.get("/fails")
        assert names(telemetry) == ["GET /fails", "SELECT", "own"]
        assert "fastperf.kept_for" not in (server_span(telemetry).attributes or {})
        assert kept(telemetry, "error") == 0


def test_what_waits_is_bounded_in_number_and_what_is_lost_is_counted() -> None:
    with keeping("error") as (client, telemetry):
        client.get("/many/250")
        assert names(telemetry).count("own") == 200
        assert server_span(telemetry).attributes["fastperf.kept_without"] == 50  # type: ignore[index]
        assert telemetry.metrics.registry.get_sample_value("fastperf_kept_spans_lost_total") == 50


def test_what_waits_is_bounded_in_bytes() -> None:
    with keeping("error") as (client, telemetry):
        client.get(f"/long/{2**18}")
        assert names(telemetry) == ["GET /long/{size}"]
        assert server_span(telemetry).attributes["fastperf.kept_without"] == 1  # type: ignore[index]
        client.get("/long/10")
        assert names(telemetry).count("own") == 1


def test_a_background_task_belongs_to_the_trace_if_that_is_kept() -> None:
    with keeping("slow", keep_slow=1e-9) as (client, telemetry):
        client.get("/later/200")
        assert names(telemetry) == ["BackgroundTask statement", "GET /later/{status}", "SELECT"]
    with keeping("error") as (client, telemetry):
        client.get("/later/200")
        assert names(telemetry) == []


def test_a_websocket_is_kept_if_it_fails() -> None:
    with keeping("error,slow", keep_slow=1e-9) as (client, telemetry):
        with client.websocket_connect("/socket") as socket:
            socket.send_text("done")
        assert names(telemetry) == []
        with pytest.raises(ValueError, match="no"), client.websocket_connect("/socket") as socket:  # noqa: PT012
            socket.send_text("fail")
            socket.receive_text()
        assert names(telemetry) == ["WS /socket"]


def test_a_task_that_outlives_a_request_that_is_not_kept_has_traces_of_its_own() -> None:
    app, release = shop(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def outlive() -> None:
        await release.wait()
        with tracer.start_as_current_span("afterwards"):
            pass

    @app.get("/starts")
    async def starts() -> None:
        tasks.append(asyncio.create_task(outlive()))

    @app.get("/ends")
    async def ends() -> None:
        release.set()
        await asyncio.gather(*tasks)

    with keeping("error", app, route_ratios={"/starts": 0, "/ends": 0}, sampler_arg=1) as (client, telemetry):
        client.get("/starts")
        telemetry.spans()  # works off what is pending, so that it is decided
        client.get("/ends")
        (span,) = telemetry.spans()
        assert (span.name, span.parent) == ("afterwards", None)


def test_kept_spans_are_sent_as_bytes_too() -> None:
    with Receiver() as receiver, keeping("error", base_endpoint=receiver.endpoint) as (client, telemetry):
        client.get("/fine")
        client.get("/fails")
        telemetry.flush()
        spans = {span.name: span for span in receiver.wait_for(3)}
        assert spans.keys() == {"GET /fails", "SELECT", "own"}
        assert spans["SELECT"].parent_id == spans["own"].span_id
        assert spans["own"].parent_id == spans["GET /fails"].span_id


def test_processors_of_others_see_nothing_of_them() -> None:
    with keeping("error") as (client, telemetry):
        exporter = InMemorySpanExporter()
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))  # type: ignore[attr-defined]
        client.get("/fails")
        assert len(names(telemetry)) == 3
        assert exporter.get_finished_spans() == ()


def test_concurrent_threads_lose_no_span() -> None:
    app = shop()

    def one(_number: int) -> None:
        with tracer.start_as_current_span("own"):
            time.sleep(0)

    @app.get("/threads")
    async def threads() -> None:
        await asyncio.gather(*(asyncio.to_thread(one, number) for number in range(40)))
        raise HTTPException(500)

    with keeping("error", app) as (client, telemetry):
        client.get("/threads")
        assert names(telemetry).count("own") == 40


def test_nothing_is_held_once_requests_have_ended() -> None:
    from otel_fastperf.internals import held_traces

    seen: list[Any] = []
    original = held_traces.HeldTraces.hold

    def hold(self: Any) -> Any:
        seen.append(self)
        return original(self)

    with pytest.MonkeyPatch.context() as patch, keeping() as (client, telemetry):
        patch.setattr(held_traces.HeldTraces, "hold", hold)
        for path in ("/fine", "/fails", "/repeats", "/many/250"):
            client.get(path)
        telemetry.spans()
        assert {each._weight for each in seen} == {0}


@pytest.mark.parametrize("value", ["errors", "error,late"])
def test_an_unknown_reason_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="should be 'error', 'finding' or 'slow'"):
        Settings(traces={"keep": value})


def test_it_is_refused_where_another_library_makes_the_spans() -> None:
    app = shop()
    FastAPIInstrumentor.instrument_app(app)
    with pytest.raises(SetupError, match=r"traces\.keep has no effect on SERVER spans"), keeping(app=app):
        pass
    FastAPIInstrumentor.uninstrument_app(app)


def test_it_is_refused_with_the_provider_of_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = TracerProvider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with pytest.raises(SetupError, match="whose spans cannot be held"), keeping():
        pass


def test_the_handle_says_what_is_kept() -> None:
    with keeping("error,slow") as (_, telemetry):
        assert "what the sampler drops is kept for: error, slow" in telemetry.describe()
