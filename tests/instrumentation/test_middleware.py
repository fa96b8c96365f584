"""The self time of middleware: its own work on the way in and out, without the time of inner layers."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import StreamingResponse

from otel_fastperf import Finding, Settings, Telemetry, setup_telemetry
from otel_fastperf.findings import Kind
from otel_fastperf.requests import record
from otel_fastperf.requests.route import route_template

Spent = dict[str, float]

#: shortest time that the endpoint takes, in seconds: a timer fires up to a millisecond early
ENDPOINT = 0.048


@contextmanager
def observed(app: FastAPI, **settings: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    with setup_telemetry(app, settings=Settings(**settings)) as telemetry, TestClient(app) as client:
        yield client, telemetry


def self_times(telemetry: Telemetry) -> Spent:
    """Seconds by middleware, over all requests so far."""
    name = "fastperf_middleware_self_time_seconds"
    return {
        sample.labels["middleware"]: sample.value
        for family in telemetry.metrics.registry.collect()
        if family.name == name
        for sample in family.samples
        if sample.name == f"{name}_sum"
    }


def request_without(telemetry: Telemetry, *others: float) -> float:
    """Seconds of the request, less what others took of it: the most that the rest can have."""
    (span,) = telemetry.spans()
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9 - sum(others)


class Timed:
    """Pure ASGI middleware that works before the app and in its own `send`."""

    def __init__(self, app: Any, before: float = 0.0, sending: float = 0.0) -> None:
        self.app = app
        self.before = before
        self.sending = sending

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        time.sleep(self.before)

        async def sending(message: Any) -> None:
            if message["type"].endswith("start"):
                time.sleep(self.sending)
            await send(message)

        await self.app(scope, receive, sending if self.sending else send)


class Outer(Timed):
    pass


class Inner(Timed):
    pass


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.05)
        return "done"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> Any:
            for _ in range(4):
                await asyncio.sleep(0.02)
                yield b"piece"

        return StreamingResponse(pieces())

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    return app


def test_self_time_excludes_inner_middleware_and_the_endpoint() -> None:
    app = shop()
    app.add_middleware(Inner, before=0.02)
    app.add_middleware(Outer, before=0.03)
    with observed(app) as (client, telemetry):
        client.get("/slow")
        spent = self_times(telemetry)
        assert 0.03 <= spent["Outer"] <= request_without(telemetry, 0.02, ENDPOINT)
        assert 0.02 <= spent["Inner"] <= request_without(telemetry, 0.03, ENDPOINT)


def test_work_in_a_wrapped_send_is_self_time() -> None:
    app = shop()
    app.add_middleware(Inner, sending=0.03)
    app.add_middleware(Outer)
    with observed(app) as (client, telemetry):
        client.get("/slow")
        spent = self_times(telemetry)
        assert 0.03 <= spent["Inner"] <= request_without(telemetry, ENDPOINT)
        assert spent["Outer"] <= request_without(telemetry, 0.03, ENDPOINT)


class Slow(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        time.sleep(0.02)
        response = await call_next(request)
        time.sleep(0.03)
        return response


def test_work_before_and_after_call_next_is_self_time() -> None:
    app = shop()
    app.add_middleware(Slow)
    app.add_middleware(Outer)
    with observed(app) as (client, telemetry):
        client.get("/slow")
        spent = self_times(telemetry)
        assert 0.05 <= spent["Slow"] <= request_without(telemetry, ENDPOINT)
        assert spent["Outer"] <= request_without(telemetry, 0.05, ENDPOINT)


@pytest.mark.parametrize("kind", [Slow, GZipMiddleware, Inner])
def test_the_chunks_of_a_stream_are_time_of_the_endpoint(kind: Any) -> None:
    app = shop()
    app.add_middleware(kind)
    with observed(app) as (client, telemetry):
        client.get("/stream")
        (span,) = telemetry.spans()
        assert span.attributes is not None
        handler = float(span.attributes["fastperf.time.handler_await"])  # type: ignore[arg-type]
        # while `Slow` works, the endpoint makes its next chunk
        assert handler >= 0.048
        assert self_times(telemetry)[kind.__name__] <= request_without(telemetry, handler)


@pytest.mark.parametrize("kind", [GZipMiddleware, Inner])
def test_the_wait_until_another_task_takes_the_response_is_nobodys_self_time(kind: Any) -> None:
    """Inside of `BaseHTTPMiddleware`, `send` waits for the outer task, which waits for its turn on a busy loop."""
    app = FastAPI()

    @app.get("/busy")
    async def busy() -> str:
        # runs when the request is suspended next
        asyncio.get_running_loop().call_soon(time.sleep, 0.06)
        return "done"

    app.add_middleware(kind)

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    with observed(app) as (client, telemetry):
        client.get("/busy")
        (span,) = telemetry.spans()
        assert span.attributes is not None
        assert float(span.attributes["fastperf.time.loop_wait"]) >= 0.055  # type: ignore[arg-type]
        assert max(self_times(telemetry).values()) < request_without(telemetry, 0.055)


def test_middleware_is_named_after_its_function_or_class_and_duplicates_are_numbered() -> None:
    app = shop()

    @app.middleware("http")
    async def add_header(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app.add_middleware(Inner)
    app.add_middleware(Inner)
    with observed(app) as (client, telemetry):
        client.get("/slow")
        assert self_times(telemetry).keys() == {"add_header", "Inner", "Inner#2"}
        value = telemetry.metrics.registry.get_sample_value
        assert value("fastperf_middlewares", {"kind": "base_http"}) == 1
        assert value("fastperf_middlewares", {"kind": "asgi"}) == 2


def test_an_app_without_middleware_has_no_self_times() -> None:
    app = shop()
    with observed(app) as (client, telemetry):
        client.get("/slow")
        assert self_times(telemetry) == {}


def test_websockets_work_through_observed_middleware() -> None:
    app = shop()
    app.add_middleware(Inner)
    app.add_middleware(Slow)
    with observed(app) as (client, _), client.websocket_connect("/ws") as websocket:
        assert websocket.receive_text() == "hello"


def test_shutdown_removes_everything() -> None:
    app = shop()
    app.add_middleware(Slow)
    app.add_middleware(Inner)
    with observed(app) as (client, _):
        client.get("/slow")
    names: list[str] = []
    node: Any = app.middleware_stack
    while node is not None and node is not app.router:
        names.append(type(node).__module__)
        assert not isinstance(node, BaseHTTPMiddleware) or node.dispatch_func == node.dispatch
        node = getattr(node, "app", None)
    assert not [name for name in names if name.startswith("otel_fastperf")]
    with TestClient(app) as client:
        assert client.get("/slow").status_code == 200


def test_middleware_times_can_be_disabled() -> None:
    app = shop()
    app.add_middleware(Slow)
    with observed(app, middleware={"enabled": False}) as (client, telemetry):
        client.get("/slow")
        assert self_times(telemetry) == {}
        assert telemetry.findings() == ()


def found(telemetry: Telemetry) -> tuple[Finding, ...]:
    return tuple(finding for finding in telemetry.findings() if finding.kind == Kind.SLOW_MIDDLEWARE)


def test_middleware_with_a_large_share_is_a_finding_with_its_line() -> None:
    app = shop()
    app.add_middleware(Slow)
    app.add_middleware(Inner)
    with observed(app) as (client, telemetry):
        for _ in range(3):
            assert found(telemetry) == ()
            client.get("/slow")
        (finding,) = found(telemetry)
    assert (finding.subject, finding.route) == ("Slow", "/slow")
    assert finding.call_site is not None
    assert finding.call_site.function == "Slow.dispatch"
    assert finding.evidence["base_http_middleware"] is True
    assert "pure ASGI" in finding.remedy


def test_middleware_that_only_passes_requests_on_is_no_finding() -> None:
    app = shop()

    @app.middleware("http")
    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    with observed(app) as (client, telemetry):
        for _ in range(5):
            client.get("/slow")
            client.get("/stream")
        assert found(telemetry) == ()


def test_the_route_is_computed_once_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Middleware, findings and metrics share the result."""
    computed: list[str | None] = []

    def counting(scope: Any, root_path: str) -> str | None:
        computed.append(route_template(scope, root_path))
        return computed[-1]

    monkeypatch.setattr(record, "route_template", counting)
    app = FastAPI()
    app.get("/items/{item_id}")(lambda item_id: item_id)
    for middleware in (Timed, Outer, Inner):
        app.add_middleware(middleware)
    with observed(app) as (client, telemetry):
        client.get("/items/1")
        assert telemetry.findings() == ()
        assert computed == ["/items/{item_id}"]
