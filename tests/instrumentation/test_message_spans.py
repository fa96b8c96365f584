"""`requests.websocket_message_spans`: each message of a websocket connection has a span, up to so many a second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from starlette.websockets import WebSocketDisconnect

from otel_fastperf import Settings, SettingsError, Telemetry, setup_telemetry
from otel_fastperf.instrumentation import message_spans
from otel_fastperf.telemetry import telemetry_of
from tests.serving import wait_until

ACTIVE = "fastperf_websocket_active_connections"

tracer = trace.get_tracer("chat")


def chat() -> FastAPI:
    app = FastAPI()

    @app.websocket("/chat/{room}")
    async def echo(socket: WebSocket, room: str) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            if text == "fail":
                raise ValueError("no")
            with tracer.start_as_current_span("work"):
                await socket.send_text(text)

    @app.websocket("/session")
    async def session(socket: WebSocket) -> None:
        await socket.accept()
        with tracer.start_as_current_span("session"):
            for _ in range(2):
                await socket.receive_bytes()
        with tracer.start_as_current_span("after"):
            await socket.close()

    return app


@contextmanager
def serving(most: int = 100, **settings: Any) -> Iterator[tuple[TestClient, Telemetry]]:
    app = chat()
    settings = {"requests": {"websocket_message_spans": most}, **settings}
    with setup_telemetry(app, settings=Settings(**settings)) as telemetry, TestClient(app) as client:
        yield client, telemetry


def talk(client: TestClient, *texts: str) -> None:
    with client.websocket_connect("/chat/7") as socket:
        for text in texts:
            socket.send_text(text)
            assert socket.receive_text() == text
    # old TestClients do not wait for the end of a connection
    telemetry = telemetry_of(client.app)
    assert telemetry is not None
    wait_until(lambda: telemetry.metrics.registry.get_sample_value(ACTIVE) == 0, what="the connection ends")
    time.sleep(0.02)  # its span ends a moment after the gauge has fallen


def spans(telemetry: Telemetry, name: str) -> list[ReadableSpan]:
    return [span for span in telemetry.spans() if span.name == name]


def dropped(telemetry: Telemetry) -> float:
    name = "fastperf_websocket_message_spans_dropped_total"
    return telemetry.metrics.registry.get_sample_value(name) or 0.0


def is_below(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


def test_without_the_setting_a_connection_has_one_span() -> None:
    with serving(0) as (client, telemetry):
        talk(client, "a")
        assert {span.name for span in telemetry.spans()} == {"WS /chat/{room}", "work"}
        assert dropped(telemetry) == 0


def test_each_message_has_a_span_that_says_which_way_it_went_and_its_size() -> None:
    with serving() as (client, telemetry):
        talk(client, "a", "größer")
        first, second = spans(telemetry, "WS /chat/{room} process")
        assert first.kind is SpanKind.INTERNAL
        assert first.attributes == {
            "network.protocol.name": "websocket",
            "network.io.direction": "receive",
            "http.route": "/chat/{room}",
            "fastperf.websocket.message.type": "text",
            "fastperf.websocket.message.size": 1,
        }
        assert second.attributes is not None
        assert second.attributes["fastperf.websocket.message.size"] == 8
        sent = spans(telemetry, "WS /chat/{room} send")
        assert [span.attributes["network.io.direction"] for span in sent] == ["transmit"] * 2  # type: ignore[index]


def test_what_is_done_for_a_message_is_below_its_span() -> None:
    with serving() as (client, telemetry):
        talk(client, "a", "b")
        (server,) = spans(telemetry, "WS /chat/{room}")
        processed, work = spans(telemetry, "WS /chat/{room} process"), spans(telemetry, "work")
        sent = spans(telemetry, "WS /chat/{room} send")
        for number in range(2):
            assert is_below(processed[number], server)
            assert is_below(work[number], processed[number])
            assert is_below(sent[number], work[number])
            assert processed[number].end_time >= work[number].end_time  # type: ignore[operator]
        assert processed[0].end_time <= processed[1].start_time  # type: ignore[operator]


def test_a_span_around_several_messages_is_their_parent() -> None:
    with serving() as (client, telemetry), client.websocket_connect("/session") as socket:
        socket.send_bytes(b"abc")
        socket.send_bytes(b"")
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    (session,), (server,) = spans(telemetry, "session"), spans(telemetry, "WS /session")
    processed = spans(telemetry, "WS /session process")
    assert [is_below(span, session) for span in processed] == [True, True]
    assert [span.attributes["fastperf.websocket.message.size"] for span in processed] == [3, 0]  # type: ignore[index]
    assert processed[0].attributes["fastperf.websocket.message.type"] == "binary"  # type: ignore[index]
    (after,) = spans(telemetry, "after")
    assert is_below(after, server)


def test_a_message_whose_processing_fails_says_so() -> None:
    with serving() as (client, telemetry):
        with pytest.raises(ValueError, match="no"), client.websocket_connect("/chat/7") as socket:  # noqa: PT012
            socket.send_text("fail")
            socket.receive_text()
        (span,) = spans(telemetry, "WS /chat/{room} process")
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == "ValueError"  # type: ignore[index]


def test_beyond_so_many_a_second_there_is_no_span_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_spans, "_SECOND", 1e9)
    with serving(3) as (client, telemetry):
        talk(client, "a", "b", "c", "d")
        assert len(spans(telemetry, "WS /chat/{room} process")) == 2
        assert len(spans(telemetry, "WS /chat/{room} send")) == 1
        assert dropped(telemetry) == 5
        assert len(spans(telemetry, "work")) == 4
        talk(client, "a")  # another connection
        assert dropped(telemetry) == 5


def test_after_a_second_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_spans, "_SECOND", 0.0)
    with serving(1) as (client, telemetry):
        talk(client, "a", "b")
        assert len(spans(telemetry, "WS /chat/{room} process")) == 2
        assert dropped(telemetry) == 0


def test_a_connection_that_is_not_sampled_has_none_and_none_is_dropped() -> None:
    with serving(1, traces={"sampler": "always_off"}) as (client, telemetry):
        talk(client, "a", "b")
        assert telemetry.spans() == ()
        assert dropped(telemetry) == 0


def test_with_hooks_messages_have_spans_too() -> None:
    app = chat()
    settings = Settings(requests={"websocket_message_spans": 10})
    hook: Any = lambda span, _scope: span.set_attribute("chat", 1)  # noqa: E731
    with setup_telemetry(app, settings=settings, server_request_hook=hook) as telemetry, TestClient(app) as client:
        talk(client, "a")
        assert len(spans(telemetry, "WS /chat/{room} process")) == 1


def test_a_wrong_number_is_refused() -> None:
    with pytest.raises(SettingsError, match="Remedy: write for example 20"):
        Settings(requests={"websocket_message_spans": -1})
