"""Hooks of the application see the SERVER span when it starts and before it ends."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, SpanKind

from otel_fastperf import Settings, SetupError, Telemetry, setup_telemetry


def shop() -> FastAPI:
    app = FastAPI()

    @app.get("/orders/{order_id}")
    async def order(order_id: int, request: Request) -> int:
        request.state.tenant = "acme"
        return order_id

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingResponse(parts(), headers={"x-kind": "stream"})

    @app.get("/fails")
    async def fails() -> None:
        raise ValueError("no")

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return app


@contextmanager
def hooked(app: FastAPI | None = None, settings: Any = None, **hooks: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    app = app or shop()
    with (
        setup_telemetry(app, settings=settings, **hooks) as telemetry,
        TestClient(app, raise_server_exceptions=False) as client,
    ):
        yield client, telemetry


def server_span(telemetry: Telemetry) -> ReadableSpan:
    (span,) = [span for span in telemetry.spans() if span.kind is SpanKind.SERVER]
    return span


def errors(telemetry: Telemetry, part: str) -> float:
    name = "fastperf_telemetry_errors_total"
    return telemetry.metrics.registry.get_sample_value(name, {"part": part}) or 0.0


def test_the_first_hook_sees_the_scope_as_it_arrives_and_the_span_is_current() -> None:
    def hook(span: Span, scope: MutableMapping[str, Any]) -> None:
        assert trace.get_current_span() is span
        assert "route" not in scope
        span.set_attribute("shop.path", scope["path"])

    with hooked(server_request_hook=hook) as (client, telemetry):
        assert client.get("/orders/7").text == "7"
        assert errors(telemetry, "server_request_hook") == 0
        span = server_span(telemetry)
        assert span.attributes["shop.path"] == "/orders/7"  # type: ignore[index]
        assert span.attributes["http.route"] == "/orders/{order_id}"  # type: ignore[index]


def test_the_second_hook_sees_the_finished_span_the_route_and_the_answer() -> None:
    seen: list[Any] = []

    def hook(span: Span, scope: MutableMapping[str, Any], message: MutableMapping[str, Any]) -> None:
        assert isinstance(span, ReadableSpan)
        assert span.is_recording()
        seen.append((span.name, scope["path_params"], message["status"], dict(message["headers"])[b"content-length"]))
        span.set_attribute("shop.tenant", scope["state"]["tenant"])

    with hooked(server_response_hook=hook) as (client, telemetry):
        client.get("/orders/7")
        assert seen == [("GET /orders/{order_id}", {"order_id": "7"}, 200, b"1")]
        span = server_span(telemetry)
        assert span.attributes["shop.tenant"] == "acme"  # type: ignore[index]
        assert span.attributes["http.response.status_code"] == 200  # type: ignore[index]


def test_each_hook_is_called_once_whatever_becomes_of_the_request() -> None:
    calls: list[Any] = []
    hooks: dict[str, Any] = {
        "server_request_hook": lambda _span, scope: calls.append(scope["path"]),
        "server_response_hook": lambda _span, _scope, message: calls.append(message.get("status")),
    }
    with hooked(**hooks) as (client, telemetry):
        for path in ("/stream", "/fails", "/nowhere"):
            client.get(path)
        assert calls == ["/stream", 200, "/fails", 500, "/nowhere", 404]
        assert {span.attributes["error.type"] for span in telemetry.spans() if not span.status.is_ok} == {"ValueError"}  # type: ignore[index]


def test_a_name_that_a_hook_gives_stays() -> None:
    def at_start(span: Span, _scope: Any) -> None:
        span.update_name("the start's")

    def at_end(span: Span, _scope: Any, _message: Any) -> None:
        span.update_name("the end's")

    with hooked(server_request_hook=at_start) as (client, telemetry):
        client.get("/orders/7")
        assert server_span(telemetry).name == "the start's"
    with hooked(server_request_hook=at_start, server_response_hook=at_end) as (client, telemetry):
        client.get("/orders/7")
        assert server_span(telemetry).name == "the end's"


def test_a_websocket_has_hooks_too() -> None:
    calls: list[Any] = []

    def at_start(span: Span, scope: Any) -> None:
        calls.append(scope["type"])
        span.update_name("mine")

    with hooked(
        server_request_hook=at_start,
        server_response_hook=lambda _span, _scope, message: calls.append(message["type"]),
    ) as (client, telemetry):
        with client.websocket_connect("/socket"):
            pass
        assert calls == ["websocket", "websocket.accept"]
        assert server_span(telemetry).name == "mine"


@pytest.mark.parametrize("hook", ["server_request_hook", "server_response_hook"])
def test_a_hook_that_raises_is_counted_and_the_request_is_as_before(hook: str) -> None:
    def broken(*_arguments: Any) -> None:
        raise RuntimeError("the hook's own")

    hooks: dict[str, Any] = {hook: broken}
    with hooked(**hooks) as (client, telemetry):
        assert client.get("/orders/7").text == "7"
        assert errors(telemetry, hook) == 1
        assert server_span(telemetry).name == "GET /orders/{order_id}"
        with client.websocket_connect("/socket"):
            pass
        assert errors(telemetry, hook) == 2


def test_an_excluded_request_has_no_hooks() -> None:
    calls: list[Any] = []
    with hooked(
        settings=Settings(requests={"excluded_urls": "/orders"}),
        server_request_hook=lambda *_arguments: calls.append("start"),
        server_response_hook=lambda *_arguments: calls.append("end"),
    ) as (client, _):
        client.get("/orders/7")
    assert calls == []


def test_the_span_of_another_instrumentation_is_seen_before_it_ends() -> None:
    app = shop()
    FastAPIInstrumentor.instrument_app(app, exclude_spans=["receive", "send"])

    def hook(span: Span, _scope: Any, message: Any) -> None:
        span.set_attribute("shop.status", message["status"])

    with hooked(app, server_response_hook=hook) as (client, telemetry):
        client.get("/orders/7")
        assert server_span(telemetry).attributes["shop.status"] == 200  # type: ignore[index]
    FastAPIInstrumentor.uninstrument_app(app)


async def awaited(*_arguments: Any) -> None:
    """A hook that nobody would await."""


@pytest.mark.parametrize(
    ("hooks", "call", "got"),
    [
        ({"server_request_hook": awaited}, "server_request_hook(span, scope)", "an async function"),
        ({"server_response_hook": "log"}, "server_response_hook(span, scope, message)", "'log'"),
    ],
)
def test_what_is_no_hook_is_refused(hooks: dict[str, Any], call: str, got: str) -> None:
    with pytest.raises(SetupError) as caught:
        setup_telemetry(FastAPI(), **hooks)
    name = next(iter(hooks))
    assert str(caught.value) == (
        f"{name}= takes a function, called as {call}, got {got}. Remedy: pass a `def` function."
    )


def test_hooks_in_the_code_replace_an_automatic_set_up() -> None:
    from otel_fastperf.telemetry import set_up_automatically

    app, calls = shop(), []
    set_up_automatically(app)
    with hooked(app, server_request_hook=lambda _span, scope: calls.append(scope["path"])) as (client, _):
        client.get("/orders/7")
    assert calls == ["/orders/7"]
