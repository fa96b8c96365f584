"""Every place where our code runs inside of the app's call, with a fault in it: each request still answers.

`SEAMS` is the list of these places. A place that is added belongs here. What is left out cannot fail: it notes a time
or a number (`RequestRecord.enter`, `waited`), or asks whether there is a record.
"""

import asyncio
import importlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import cachetools
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from opentelemetry import trace
from sqlalchemy import create_engine, text
from sqlalchemy.pool import QueuePool
from starlette.testclient import TestClient

from otel_fastperf import Settings, Telemetry, setup_telemetry
from tests.serving import answering

#: what is broken -> how the app gets there
SEAMS: Final = {
    # the middleware chain
    "instrumentation.layers:Layers.place": "the chain is built at the first request or at start-up",
    "instrumentation.layers:Layers._place_between": "the same, half-way",
    "instrumentation.layers:Layers._own_pages": "the same, at its end",
    "instrumentation.layers:Layers.make_outermost": "at start-up",
    "instrumentation.middleware:MiddlewareTimer.place": "the boundaries between middlewares",
    "instrumentation.middleware:_described": "the names of the middlewares",
    # a request, from the outside in
    "instrumentation.own_pages:OwnPages._page": "is it a page of ours?",
    "installation:Installation._on_new_loop": "the first request on a loop",
    "instrumentation.exchanges:Requests.excludes": "is it excluded?",
    "instrumentation.exchanges:Requests.start_span": "its span starts",
    "instrumentation.exchanges:Observed.enter": "its context is set",
    "instrumentation.exchanges:Exchange.enter": "its context is set, half-way",
    "requests.in_flight:InFlight.add": "the requests in flight",
    "requests.in_flight:InFlight.remove": "the same at its end",
    "instrumentation.exchanges:Exchange._before_send": "a message of the response",
    "instrumentation.exchanges:Exchange._note_received": "a message of the client",
    "instrumentation.exchanges:Exchange._last_byte_sent": "the last byte",
    "instrumentation.exchanges:Exchange._finish": "the end",
    "instrumentation.exchanges:Exchange._derive": "what the facts mean",
    "instrumentation.exchanges:Exchange._conclude": "budget and findings",
    "instrumentation.exchanges:Exchange._annotate": "attributes",
    "instrumentation.exchanges:Observed._forget": "what is let go of",
    "instrumentation.exchanges:Connection._finish": "the end of a websocket",
    "instrumentation.request_metrics:RequestMetrics.measure": "metrics of a request",
    "instrumentation.spent_time:summed": "a long request is summed up",
    "tracing.span:LeanSpan._compute": "a span ends",
    "tracing.span:LeanSpan.settle": "the SERVER span gets its attributes",
    "tracing.span:LeanSpan._append_event": "an event on a span",
    "tracing.span:LeanSpan._shown_text": "the status of a span",
    "internals.backlog:Backlog.put": "work for later",
    "signals:Delays.catch_up": "blocks that end with the request",
    "requests.record:route_template": "the route",
    "internals.redaction:describe_error": "an exception is described",
    # inside of the app
    "instrumentation.background:_start": "a background task",
    "instrumentation.background:_fail": "a background task that fails",
    "logs:trace_context": "a log record",
    "monitors.threads:_WaitListener._note": "a wait for a thread",
    # databases
    "instrumentation.statements:_StatementListeners._observes": "a statement starts",
    "instrumentation.statements:_StatementListeners._own_seconds": "a statement has ended",
    "instrumentation.observed_statement:EngineFacts.__init__": "the engine of a statement",
    "instrumentation.statement_evidence:StatementEvidence.note": "what a statement did",
    "instrumentation.statement_spans:StatementSpans.emit": "the span of a statement",
    "instrumentation.large_results:LargeResults.look": "the rows of a statement",
    "instrumentation.transactions:facts_of_engine": "a transaction ends",
    "instrumentation.transactions:_TransactionEnd._note": "a transaction has ended",
    "instrumentation.pool:_PoolListeners._new": "a connection is wanted",
    "instrumentation.pool:_PoolListeners._note": "a connection is there",
    "instrumentation.pool:_Checkout.__init__": "a connection is checked out",
    # calls of other services
    "instrumentation.outgoing_calls:OutgoingCalls.begins": "a call starts",
    "instrumentation.outgoing_calls:OutgoingCalls.note": "a call has ended",
    "instrumentation.outgoing_calls:OutgoingCalls._measure": "the metric of a call",
    "instrumentation.outgoing_calls:current_worker": "waits for the body of a response",
    "instrumentation.outgoing_calls:facts_of": "what a call is",
    "instrumentation.routed_spans:_RoutedTracer._routes": "whose span it is",
    "instrumentation.client_constructors:call_site": "a client is made",
    "caches.adapters:_Counts.note": "a look-up in a cache",
}


def broken(*_args: Any, **_kwargs: Any) -> Any:
    """Stand in for a place that fails."""
    message = "telemetry is broken"
    raise RuntimeError(message)


def break_it(place: str, patch: pytest.MonkeyPatch) -> None:
    """Put `broken` in the place, under all names by which modules of the package know a function."""
    module_name, _, path = place.partition(":")
    owner: Any = importlib.import_module(f"otel_fastperf.{module_name}")
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, name)
    patch.setattr(owner, name, broken)
    if not classes:
        for module in [each for key, each in sys.modules.items() if key.startswith("otel_fastperf.")]:
            if vars(module).get(name) is original:
                patch.setattr(module, name, broken)


class Failing(Exception):  # noqa: N818 - what the app raises
    """The app's own."""


def shop(partner: str) -> FastAPI:  # noqa: C901 - one endpoint for each way into our code
    app = FastAPI()
    engine = create_engine("sqlite://", poolclass=QueuePool, connect_args={"check_same_thread": False})
    cache: Any = cachetools.LRUCache(10)
    app.state.cache = cache
    tracer = trace.get_tracer("the app's own")

    async def dependency() -> AsyncIterator[int]:
        yield 1

    @app.middleware("http")
    async def passes(request: Any, call_next: Callable[..., Any]) -> Any:
        return await call_next(request)

    @app.get("/async")
    async def in_the_loop(number: int = Depends(dependency)) -> int:
        await asyncio.sleep(0)
        logging.getLogger("app").warning("a line")
        with tracer.start_as_current_span("own") as span:
            span.set_attribute("a", 1)
            span.add_event("b")
            try:
                raise Failing  # noqa: TRY301 - as an app does it
            except Failing as error:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR, str(error) or "none")
        return number

    @app.get("/thread")
    def in_a_thread() -> int:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS t (a)"))
            connection.execute(text("INSERT INTO t VALUES (:a)"), [{"a": 1}, {"a": 2}])
            rows = connection.execute(text("SELECT 1")).all()
        return len(rows)

    @app.get("/cache")
    async def cached() -> str:
        cache["a"] = cache.get("a", 0)
        return str(cache["a"])

    @app.get("/call")
    async def call() -> str:
        with tracer.start_as_current_span("own"):
            async with httpx.AsyncClient() as client:
                return (await client.get(f"{partner}/a?b=c")).text

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(300):
                await asyncio.sleep(0)
                yield b"%d" % number

        return StreamingResponse(parts())

    @app.post("/task")
    async def task(body: dict[str, int], tasks: BackgroundTasks) -> int:
        tasks.add_task(len, "a")
        return len(body)

    @app.get("/failing-task")
    async def failing_task(tasks: BackgroundTasks) -> str:
        tasks.add_task(fails)
        return "ok"

    @app.get("/fails")
    async def fails() -> None:
        raise Failing

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return app


PATHS: Final = (
    *("/async", "/thread", "/cache", "/call", "/stream", "/failing-task", "/fails"),
    *("/a/metrics", "/excluded"),
)


def answers(app: FastAPI) -> list[object]:
    """What clients see of all endpoints."""
    seen: list[object] = []
    with TestClient(app, raise_server_exceptions=False) as client:
        for path in (
            "/async",
            "/thread",
            "/cache",
            "/call",
            "/stream",
            "/failing-task",
            "/fails",
            "/a/metrics",
            "/excluded",
        ):
            for _ in range(2):
                answer = client.get(path)
                seen.append((path, answer.status_code, answer.text))
        seen.append(client.post("/task", json={"a": 1}).text)
        with client.websocket_connect("/socket") as socket:
            socket.send_text("hello")
            seen.append(socket.receive_text())
    return seen


@pytest.fixture(scope="module")
def partner() -> Iterator[str]:
    with answering(200, {}, b"upstream") as (url, _):
        yield url


@pytest.fixture(scope="module")
def expected(partner: str) -> list[object]:
    return answers(shop(partner))


@pytest.fixture
def watched(partner: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FastAPI, Telemetry, pytest.MonkeyPatch]]:
    app = shop(partner)
    settings = Settings(requests={"excluded_urls": "/excluded"}, loop={"enabled": False}, memory={"enabled": False})
    with setup_telemetry(app, settings=settings) as telemetry:
        telemetry.observe_cache(app.state.cache, "items")
        yield app, telemetry, monkeypatch
        monkeypatch.undo()


def active(telemetry: Telemetry) -> float:
    """Requests and connections that telemetry takes for active."""
    sockets: float = telemetry.metrics.websocket_active_connections._value.get()
    return telemetry.metrics.active_requests.total() + sockets


@pytest.mark.parametrize("place", SEAMS)
def test_a_fault_affects_no_answer(
    place: str, watched: tuple[FastAPI, Telemetry, pytest.MonkeyPatch], expected: list[object]
) -> None:
    app, telemetry, patch = watched
    break_it(place, patch)
    assert answers(app) == expected
    patch.undo()
    assert active(telemetry) == 0
    assert not telemetry._installation._materials.signals.in_flight.records  # type: ignore[union-attr]


def test_a_fault_is_counted(watched: tuple[FastAPI, Telemetry, pytest.MonkeyPatch]) -> None:
    app, telemetry, patch = watched
    break_it("instrumentation.layers:Layers.place", patch)
    answers(app)
    assert telemetry.metrics.registry.get_sample_value("fastperf_telemetry_errors_total", {"part": "middleware"}) == 1


def test_without_a_fault_too(watched: tuple[FastAPI, Telemetry, pytest.MonkeyPatch], expected: list[object]) -> None:
    app, telemetry, _ = watched
    assert answers(app) == expected
    assert active(telemetry) == 0
